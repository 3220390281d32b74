"""Time of a forward and a training step on this machine: docs/results/studies/speed.md.

    pip install torch==2.13.0 onnx onnxscript onnxruntime   # next to kilograd
    python benchmarks/host_speed.py [--turns N] [--models NAME,NAME]

The same network, image and linear head everywhere: int8 in Kilograd, float32 in PyTorch eager and
ONNX Runtime, and int8 (QDQ, the same codes and scales) in ONNX Runtime.  One thread, batch 1.
Programs take turns: A B C A B C ...; in its turn a program runs twice, and the second run counts.
With `onnxruntime-training` 1.19.2 in place of `onnxruntime`, it takes part in the steps.
Needs the model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from rows import head, line
from script import script
from shared import compiled, load_network
from torch import Tensor
from torch.nn import functional

from kilograd.frontend import Model
from kilograd.frontend.model_folder import folder_layout
from kilograd.ir import Array, Graph, Input, Node, Param, dead_code
from kilograd.layers.raised import clamp
from kilograd.learn.recipe import Compiled
from kilograd.offline.network import FloatNetwork
from kilograd.ops import Add, AvgPool, Conv, Depthwise
from kilograd.settings import HeadKind
from kilograd.targets import Driver, build_host
from kilograd.targets.host import find_compiler

WAYS, LR, IMAGES = 10, 1e-4, 10
METHODS = ("last", "sparse-49kb", "full")
OURS = "Kilograd int8"
#: Neither layout is the faster one everywhere, so both take part.
EAGER = {
    "PyTorch float32": torch.contiguous_format,
    "PyTorch float32, channels last": torch.channels_last,
}

Run = Callable[[], object]


@dataclass(frozen=True)
class Head:
    """A linear classifier of ours: weight float32 [ways, c] and bias."""

    weight: Array
    bias: Array

    @staticmethod
    def of(graph: Graph) -> Head:
        """Draw one for the features of a network."""
        rng = np.random.default_rng(1)
        width = graph.outputs[0].type.size
        weight = rng.normal(0, 0.05, (WAYS, width)).astype(np.float32)
        return Head(weight, rng.normal(0, 0.05, WAYS).astype(np.float32))  # zero would be dropped


@dataclass(frozen=True)
class Feed:
    """Images and labels, over and over, as each program wants them."""

    codes: Array
    turn: Iterator[int] = field(default_factory=count)

    @staticmethod
    def noise(shape: tuple[int, ...]) -> Feed:
        rng = np.random.default_rng(0)
        return Feed(rng.integers(-128, 128, (IMAGES, *shape)).astype(np.int8))

    @property
    def real(self) -> Array:
        """Channels first, float32."""
        scaled = self.codes.astype(np.float32) * np.float32(2 / 255)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def next(self) -> int:
        return next(self.turn) % IMAGES


# --- Kilograd ---------------------------------------------------------------------------------


def ours(compiled: Compiled, linear: Head, feed: Feed) -> tuple[Run, Run]:
    """Return a forward and a step."""
    host = build_host(compiled.program)
    host.state["head.weight"][...], host.state["head.bias"][...] = linear.weight, linear.bias
    driver = Driver(host)

    def forward() -> object:
        return driver.infer(feed.codes[feed.next()])

    def step() -> object:
        i = feed.next()
        sample = driver.show(feed.codes[i]), np.array([i], np.int32)
        return list(driver.update([sample], share=1, rate=LR, clock=(0, i)))

    return forward, step


# --- PyTorch ----------------------------------------------------------------------------------


class Network(FloatNetwork):
    """The float network up to its features, and a linear head; images are float32 [n, c, h, w]."""

    def __init__(self, graph: Graph, linear: Head) -> None:
        super().__init__(graph)
        self.head = torch.nn.Linear(linear.weight.shape[1], WAYS)
        self.head.weight.data = torch.from_numpy(linear.weight.copy())
        self.head.bias.data = torch.from_numpy(linear.bias.copy())

    def forward(self, image: Tensor) -> Tensor:
        values: dict[Node, Tensor] = {}
        for n in self.graph.nodes:
            xs = [values[x] for x in n.inputs if x in values]
            match n.op:
                case Param():
                    continue
                case Input():
                    values[n] = image
                case Add():
                    values[n] = xs[0] + xs[1]
                case AvgPool():
                    values[n] = xs[0].mean((2, 3))
                case _:
                    y = self.layer(n.name)(*xs)
                    relu6 = clamp(n.op)[0] == 0
                    values[n] = functional.relu6(y, inplace=True) if relu6 else y
        return self.head(values[self.graph.outputs[0]])

    def parameter(self, name: str) -> torch.nn.Parameter:
        """Return a parameter by Kilograd's name."""
        layer, _, part = name.rpartition(".")
        return getattr(self.layer(layer), part)


def torch_forward(graph: Graph, linear: Head, feed: Feed, layout: torch.memory_format) -> Run:
    network = Network(graph, linear).eval().to(memory_format=layout)
    images = torch.from_numpy(feed.real).to(memory_format=layout)

    def forward() -> object:
        with torch.inference_mode():
            i = feed.next()
            return network(images[i : i + 1]).numpy()

    return forward


def torch_step(compiled: Compiled, linear: Head, feed: Feed, layout: torch.memory_format) -> Run:
    """Return a step on what `compiled` learns; a channel that is frozen has its gradient zeroed."""
    network = Network(features_of(compiled.model), linear).to(memory_format=layout)
    network.requires_grad_(requires_grad=False)
    learned, masks = [*network.head.parameters()], []
    for name, part in compiled.training.learn.items():
        p = network.parameter(name)
        learned.append(p)
        if part.index is not None:
            node = compiled.model.graph[name]
            mask = np.zeros(node.type.shape, np.float32)
            mask[(slice(None),) * part.axis + (list(part.index),)] = 1
            masks.append((p, torch.from_numpy(folder_layout(node, mask)).reshape(p.shape)))
    for p in learned:
        p.requires_grad_(requires_grad=True)
    frozen = sum(int((1 - m).sum()) for _, m in masks)
    assert sum(p.numel() for p in learned) - frozen == compiled.learned_parameters
    optimizer = torch.optim.SGD(learned, lr=LR, fused=True)
    images = torch.from_numpy(feed.real).to(memory_format=layout)
    labels = torch.arange(IMAGES) % WAYS

    def step() -> object:
        i = feed.next()
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(images[i : i + 1]), labels[i : i + 1])
        loss.backward()
        for p, mask in masks:
            p.grad.mul_(mask)
        optimizer.step()
        return loss.item()

    return step


# --- ONNX Runtime -----------------------------------------------------------------------------


def options() -> ort.SessionOptions:
    o = ort.SessionOptions()
    o.intra_op_num_threads = o.inter_op_num_threads = 1
    return o


def exported(graph: Graph, linear: Head) -> onnx.ModelProto:
    """Return PyTorch's export of the float network."""
    h, w, c = graph.inputs()[0].type.shape
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = str(Path(name, "network.onnx"))
        torch.onnx.export(
            Network(graph, linear).eval(),
            (torch.zeros(1, c, h, w),),
            file,
            input_names=["image"],
            output_names=["logits"],
            opset_version=18,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return onnx.load(file)


class Qdq:
    """The int8 network with the published codes and scales, as quantise and dequantise nodes."""

    def __init__(self, graph: Graph, linear: Head) -> None:
        self._graph, self._head = graph, linear
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        real: dict[Node, str] = {}
        for n in self._graph.nodes:
            xs = [real[x] for x in n.inputs if x in real]
            match n.op:
                case Param():
                    continue
                case Input():
                    codes = "image"
                case Conv() | Depthwise():
                    codes = self._coded("QuantizeLinear", self._layer(n, *xs), n)
                case Add():
                    codes = self._coded("QuantizeLinear", self._node("Add", xs), n)
                case AvgPool():
                    codes = self._coded("QuantizeLinear", self._node("GlobalAveragePool", xs), n)
            real[n] = self._coded("DequantizeLinear", codes, n)
        flat = self._node("Flatten", [real[self._graph.outputs[0]]])
        linear = [self._constant("head.weight", self._head.weight)]
        linear += [self._constant("head.bias", self._head.bias)]
        self.nodes.append(helper.make_node("Gemm", [flat, *linear], ["logits"], transB=1))
        h, w, c = self._graph.inputs()[0].type.shape
        image = helper.make_tensor_value_info("image", TensorProto.INT8, (1, c, h, w))
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, WAYS))
        body = helper.make_graph(self.nodes, "int8", [image], [logits], self.tensors)
        return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def _layer(self, n: Node, x: str) -> str:
        source, w, b = n.inputs
        filters = np.ascontiguousarray(folder_layout(w, self._graph.data[w.name]))
        scale = np.broadcast_to(np.array(w.type.affine.scale), (len(filters),))
        weight = self._constants(w.name, filters, scale)
        bias = self._constants(
            b.name, self._graph.data[b.name], scale * source.type.affine.scale[0]
        )
        top, bottom, left, right = n.op.window.pad
        return self._node(
            "Conv",
            [x, weight, bias],
            kernel_shape=filters.shape[2:],
            strides=list(n.op.window.stride),
            pads=[top, left, bottom, right],
            group=len(filters) if isinstance(n.op, Depthwise) else 1,
        )

    def _node(self, kind: str, inputs: list[str], **attributes: object) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def _constant(self, name: str, value: Array) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _constants(self, name: str, codes: Array, scale: Array) -> str:
        """Return parameters in real units: codes, with a scale for each output channel."""
        zero = self._constant(f"{name}.zero", np.zeros(len(scale), codes.dtype))
        of = self._constant(f"{name}.scale", scale.astype(np.float32))
        return self._node("DequantizeLinear", [self._constant(name, codes), of, zero], axis=0)

    def _coded(self, kind: str, x: str, n: Node) -> str:
        """Quantise or dequantise as the map of a node is."""
        quant, name = n.type.affine, f"c{len(self.tensors)}"
        scale = self._constant(f"{name}.scale", np.array(quant.scale[0], np.float32))
        zero = self._constant(f"{name}.zero", np.array(quant.zero_point, np.int8))
        return self._node(kind, [x, scale, zero])


def ort_forward(model: onnx.ModelProto, images: Array, feed: Feed) -> Run:
    session = ort.InferenceSession(
        model.SerializeToString(), options(), providers=["CPUExecutionProvider"]
    )

    def forward() -> object:
        i = feed.next()
        return session.run(None, {"image": images[i : i + 1]})[0]

    return forward


def ort_step(compiled: Compiled, linear: Head, feed: Feed) -> Run:
    """Return a step of ONNX Runtime training; channels cannot be frozen, so layers learn whole."""
    from onnxruntime.training import api, artifacts

    graph = features_of(compiled.model)
    model, network = exported(graph, linear), Network(graph, linear)
    learn = {id(network.parameter(name)) for name in compiled.training.learn}
    learn |= set(map(id, network.head.parameters()))
    names = {name: id(p) in learn for name, p in network.named_parameters()}
    assert set(names) <= {t.name for t in model.graph.initializer}
    with tempfile.TemporaryDirectory() as place:
        artifacts.generate_artifacts(
            model,
            requires_grad=[name for name, learns in names.items() if learns],
            frozen_params=[name for name, learns in names.items() if not learns],
            loss=artifacts.LossType.CrossEntropyLoss,
            optimizer=artifacts.OptimType.SGD,
            artifact_directory=place,
        )
        files = {p.name: str(p) for p in Path(place).iterdir()}
        state = api.CheckpointState.load_checkpoint(files["checkpoint"])
        module = api.Module(files["training_model.onnx"], state, session_options=options())
        optimizer = api.Optimizer(files["optimizer_model.onnx"], module)
    optimizer.set_learning_rate(LR)
    module.train()
    images = feed.real

    def step() -> object:
        i = feed.next()
        loss = module(images[i : i + 1], np.array([i], np.int64))
        optimizer.step()
        module.lazy_reset_grad()
        return loss

    return step


# --- Measuring --------------------------------------------------------------------------------


def measure(programs: Mapping[str, Run], turns: int) -> dict[str, Array]:
    """Return, for each program, milliseconds [turns, 2]: on the clock, and of this process."""
    for run in programs.values():
        for _ in range(5):
            run()
    times = {name: np.zeros((turns, 2)) for name in programs}
    gc.disable()
    for t in range(turns):
        for name, run in programs.items():
            run()  # the others have taken the caches
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            run()
            cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
            times[name][t] = wall / 1e6, cpu / 1e6
    gc.enable()
    return times


def rows(model: str, what: str, times: Mapping[str, Array]) -> Iterator[str]:
    for name, ms in times.items():
        low, mid, high = (f(ms[:, 0]) for f in (np.min, np.median, np.max))
        ratio = np.median(ms / times[OURS], axis=0)
        wall, cpu = f"{low:.2f} / {mid:.2f} / {high:.2f}", np.median(ms[:, 1])
        yield line(model, what, name, wall, *(f"{x:.2f}" for x in (cpu, *ratio)))


def check(programs: Mapping[str, Run]) -> str:
    """Compare logits: the float ones must be close, the int8 ones almost the same."""
    feeds = [[np.asarray(run()).ravel() for _ in range(IMAGES)] for run in programs.values()]
    int8, eager, _, runtime, qdq = (np.array(f) for f in feeds)
    assert np.allclose(eager, runtime, rtol=1e-3, atol=1e-3 * np.abs(eager).max())
    like = [float(np.corrcoef(int8.ravel(), other.ravel())[0, 1]) for other in (eager, qdq)]
    assert like[1] > 0.99, like
    return f"our logits correlate {like[0]:.4f} with PyTorch, {like[1]:.4f} with ONNX Runtime int8"


def benchmark(name: str, turns: int, *, training: bool) -> Iterator[str]:
    made = {method: compiled(name, method, HeadKind.LINEAR) for method in METHODS}
    graph = features_of(load_network(name))
    linear, feed = Head.of(graph), partial(Feed.noise, graph.inputs()[0].type.shape)
    images = feed()
    codes = np.ascontiguousarray(images.codes.transpose(0, 3, 1, 2))
    programs = {
        OURS: ours(made["sparse-49kb"], linear, feed())[0],
        **{k: torch_forward(graph, linear, feed(), v) for k, v in EAGER.items()},
        "ONNX Runtime float32": ort_forward(exported(graph, linear), images.real, feed()),
        "ONNX Runtime int8": ort_forward(Qdq(graph, linear).model(), codes, feed()),
    }
    yield f"<!-- {name}: {check(programs)} -->"
    yield from rows(name, "forward", measure(programs, turns))
    for method, program in made.items():
        programs = {
            OURS: ours(program, linear, feed())[1],
            **{k: torch_step(program, linear, feed(), v) for k, v in EAGER.items()},
        }
        if training:
            programs["ONNX Runtime training"] = ort_step(program, linear, feed())
        yield from rows(name, f"step, {method}", measure(programs, turns))


def features_of(model: Model) -> Graph:
    """Return a network up to its features."""
    return dead_code(replace(model.graph, outputs=model.graph.outputs[:1]))


def machine() -> Iterator[str]:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    yield f"{model or platform.processor()}, {os.cpu_count()} cores"
    yield f"Python {platform.python_version()}"
    for package in ("torch", "onnxruntime", "onnxruntime-training", "numpy"):
        if importlib.util.find_spec(package.partition("-")[0]):
            try:
                yield f"{package} {importlib.metadata.version(package)}"
            except importlib.metadata.PackageNotFoundError:
                continue
    yield find_compiler().fingerprint.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--models", default="mcunet-5fps,mbv2-w0.35")
    chosen = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # that there is no torchvision
    ort.set_default_logger_severity(3)
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    training = importlib.util.find_spec("onnxruntime.training") is not None
    print("\n".join(machine()))
    print(f"load before {os.getloadavg()}")
    names = "program", "ms: min / median / max", "CPU ms", "ratio", "CPU ratio"
    print(head("network", "what", *names, texts=7))
    for name in chosen.models.split(","):
        for text in benchmark(name, chosen.turns, training=training):
            print(text, flush=True)
    print(f"load after {os.getloadavg()}")


if __name__ == "__main__":
    script(main)
