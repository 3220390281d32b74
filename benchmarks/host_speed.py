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
import json
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from torch.nn import functional

from kilograd.frontend import load_model
from kilograd.frontend.model_folder import folder_layout
from kilograd.ir import Array
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.select import Budget
from kilograd.settings import HeadKind, Recipe
from kilograd.targets import Driver, HostProgram, build_host
from kilograd.targets.host import find_compiler

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))
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
class Folder:
    """A network as it is on disk: operators, float and int8 tensors; and a head of ours."""

    path: Path
    graph: Mapping[str, Any]
    float: Mapping[str, Array]
    int8: Mapping[str, Array]
    head: Array
    bias: Array

    @staticmethod
    def read(path: Path) -> Folder:
        graph = json.loads((path / "graph.json").read_text(encoding="utf-8"))
        files = graph["files"]
        (width,) = graph["activations"][graph["outputs"]["features"]]["shape"]
        rng = np.random.default_rng(1)
        head = rng.normal(0, 0.05, (WAYS, width)).astype(np.float32)
        bias = rng.normal(0, 0.05, WAYS).astype(np.float32)  # exporters drop a bias of zero
        real, codes = (load_file(path / files[k]) for k in ("float32", "int8_sanitised"))
        return Folder(path, graph, real, codes, head, bias)

    @property
    def ops(self) -> list[Mapping[str, Any]]:
        """Every operator up to the features."""
        return [o for o in self.graph["ops"] if o["type"] != "linear"]


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


def ours(compiled: Compiled, folder: Folder, feed: Feed) -> tuple[HostProgram, Run, Run]:
    """Return the program, a forward and a step."""
    host = build_host(compiled.program)
    host.state["head.weight"][...] = folder.head
    host.state["head.bias"][...] = folder.bias
    driver = Driver(host)

    def forward() -> object:
        return driver.infer(feed.codes[feed.next()])

    def step() -> object:
        i = feed.next()
        sample = driver.show(feed.codes[i]), np.array([i], np.int32)
        return list(driver.update([sample], share=1, rate=LR, clock=(0, i)))

    return host, forward, step


# --- PyTorch ----------------------------------------------------------------------------------


class Network(torch.nn.Module):
    """The float network that graph.json describes, and a linear head."""

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self.ops = folder.ops
        self.first = folder.graph["input"]["tensor"]
        self.features = folder.graph["outputs"]["features"]
        self.layers = torch.nn.ModuleDict()
        for op in self.ops:
            if op["type"] not in {"conv", "depthwise_conv"}:
                continue
            top, bottom, left, right = op["padding"]
            assert top == bottom == left == right
            conv = torch.nn.Conv2d(
                op["in_channels"],
                op["out_channels"],
                tuple(op["kernel"]),
                tuple(op["stride"]),
                top,
                groups=op["groups"],
            )
            for part in ("weight", "bias"):
                getattr(conv, part).data = torch.from_numpy(folder.float[f"{op['name']}.{part}"])
            self.layers[module_name(op["name"])] = conv
        self.head = torch.nn.Linear(folder.head.shape[1], WAYS)
        self.head.weight.data = torch.from_numpy(folder.head.copy())
        self.head.bias.data = torch.from_numpy(folder.bias.copy())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        values = {self.first: image}
        for op in self.ops:
            x, *others = (values[name] for name in op["inputs"])
            match op["type"]:
                case "add":
                    x = x + others[0]
                case "avgpool":
                    x = x.mean((2, 3))
                case _:
                    x = self.layers[module_name(op["name"])](x)
                    if op["activation"] == "relu6":
                        x = functional.relu6(x, inplace=True)
            values[op["output"]] = x
        return self.head(values[self.features])

    def parameter(self, name: str) -> torch.nn.Parameter:
        """Return a parameter by Kilograd's name."""
        layer, _, part = name.rpartition(".")
        return getattr(self.layers[module_name(layer)], part)


def module_name(layer: str) -> str:
    return layer.replace(".", "_")


def torch_forward(folder: Folder, feed: Feed, layout: torch.memory_format) -> Run:
    network = Network(folder).eval().to(memory_format=layout)
    images = torch.from_numpy(feed.real).to(memory_format=layout)

    def forward() -> object:
        with torch.inference_mode():
            i = feed.next()
            return network(images[i : i + 1]).numpy()

    return forward


def torch_step(folder: Folder, compiled: Compiled, feed: Feed, layout: torch.memory_format) -> Run:
    """Return a step on what `compiled` learns; a channel that is frozen has its gradient zeroed."""
    network = Network(folder).to(memory_format=layout)
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


def exported(folder: Folder) -> onnx.ModelProto:
    """Return PyTorch's export of the float network."""
    shape = (1, *folder.graph["input"]["shape"])
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = str(Path(name, "network.onnx"))
        torch.onnx.export(
            Network(folder).eval(),
            (torch.zeros(shape),),
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

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        graph = self.folder.graph
        x = graph["input"]
        real = {x["tensor"]: self._dequantised("image", x)}
        for op in self.folder.ops:
            y = self._op(op, [real[name] for name in op["inputs"]])
            real[op["output"]] = self._dequantised(self._quantised(y, op["out"]), op["out"])
        flat = self._node("Flatten", [real[graph["outputs"]["features"]]])
        head = [self._constant("head.weight", self.folder.head)]
        head += [self._constant("head.bias", self.folder.bias)]
        self.nodes.append(helper.make_node("Gemm", [flat, *head], ["logits"], transB=1))
        image = helper.make_tensor_value_info("image", TensorProto.INT8, (1, *x["shape"]))
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, WAYS))
        body = helper.make_graph(self.nodes, "int8", [image], [logits], self.tensors)
        return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def _op(self, op: Mapping[str, Any], inputs: list[str]) -> str:
        match op["type"]:
            case "add":
                return self._node("Add", inputs)
            case "avgpool":
                return self._node("GlobalAveragePool", inputs)
        name, tensors = op["name"], self.folder.int8
        scale = tensors[f"{name}.weight_scale"]
        weight = self._constants(f"{name}.weight", tensors[f"{name}.weight"], scale)
        step = (scale.astype(np.float64) * op["input"]["scale"]).astype(np.float32)
        bias = self._constants(f"{name}.bias", tensors[f"{name}.bias"], step)
        return self._node(
            "Conv",
            [*inputs, weight, bias],
            kernel_shape=op["kernel"],
            strides=op["stride"],
            pads=[op["padding"][i] for i in (0, 2, 1, 3)],
            group=op["groups"],
        )

    def _node(self, kind: str, inputs: list[str], **attributes: object) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def _constant(self, name: str, value: Array) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _constants(self, name: str, codes: Array, scale: Array) -> str:
        zero = self._constant(f"{name}.zero", np.zeros(len(scale), codes.dtype))
        codes_, scale_ = self._constant(name, codes), self._constant(f"{name}.scale", scale)
        return self._node("DequantizeLinear", [codes_, scale_, zero], axis=0)

    def _affine(self, affine: Mapping[str, Any]) -> list[str]:
        n = len(self.tensors)
        return [
            self._constant(f"c{n}.scale", np.array(affine["scale"], np.float32)),
            self._constant(f"c{n}.zero", np.array(affine["zero_point"], np.int8)),
        ]

    def _quantised(self, x: str, affine: Mapping[str, Any]) -> str:
        return self._node("QuantizeLinear", [x, *self._affine(affine)])

    def _dequantised(self, x: str, affine: Mapping[str, Any]) -> str:
        return self._node("DequantizeLinear", [x, *self._affine(affine)])


def ort_forward(model: onnx.ModelProto, images: Array, feed: Feed) -> Run:
    session = ort.InferenceSession(
        model.SerializeToString(), options(), providers=["CPUExecutionProvider"]
    )

    def forward() -> object:
        i = feed.next()
        return session.run(None, {"image": images[i : i + 1]})[0]

    return forward


def ort_step(folder: Folder, compiled: Compiled, feed: Feed) -> Run:
    """Return a step of ONNX Runtime training; channels cannot be frozen, so layers learn whole."""
    from onnxruntime.training import api, artifacts

    model = exported(folder)
    names = [name for name, _ in Network(folder).named_parameters()]
    learned = {"head.weight", "head.bias"}
    for name in compiled.training.learn:
        layer, _, part = name.rpartition(".")
        learned.add(f"layers.{module_name(layer)}.{part}")
    assert learned <= set(names) <= {t.name for t in model.graph.initializer}
    with tempfile.TemporaryDirectory() as place:
        artifacts.generate_artifacts(
            model,
            requires_grad=sorted(learned),
            frozen_params=[n for n in names if n not in learned],
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
        yield (
            f"| {model} | {what} | {name} | {low:.2f} / {mid:.2f} / {high:.2f} "
            f"| {np.median(ms[:, 1]):.2f} | {ratio[0]:.2f} | {ratio[1]:.2f} |"
        )


def check(programs: Mapping[str, Run], folder: Folder, codes: Array) -> str:
    """Compare logits: the float ones must be close, the int8 ones almost the same."""
    feeds = [[np.asarray(run()).ravel() for _ in range(IMAGES)] for run in programs.values()]
    int8, eager, _, runtime, qdq = (np.array(f) for f in feeds)
    assert np.allclose(eager, runtime, rtol=1e-3, atol=1e-3 * np.abs(eager).max())
    like = [float(np.corrcoef(int8.ravel(), other.ravel())[0, 1]) for other in (eager, qdq)]
    assert like[1] > 0.99, like
    return f"our logits correlate {like[0]:.4f} with PyTorch, {like[1]:.4f} with ONNX Runtime int8"


def benchmark(name: str, turns: int, *, training: bool) -> Iterator[str]:
    folder = Folder.read(SHARED / "models" / name)
    network = load_model(str(folder.path))
    made = {m: compile_recipe(network, Recipe(m, WAYS, HeadKind.LINEAR), Budget()) for m in METHODS}
    side = network.preprocess.size
    shape = (side, side, network.preprocess.channels)

    def feed() -> Feed:
        return Feed.noise(shape)

    infer = ours(made["sparse-49kb"], folder, feed())[1]
    images = feed()
    programs = {
        OURS: infer,
        **{k: torch_forward(folder, feed(), v) for k, v in EAGER.items()},
        "ONNX Runtime float32": ort_forward(exported(folder), images.real, feed()),
        "ONNX Runtime int8": ort_forward(
            Qdq(folder).model(), np.ascontiguousarray(images.codes.transpose(0, 3, 1, 2)), feed()
        ),
    }
    yield f"<!-- {name}: {check(programs, folder, images.codes)} -->"
    yield from rows(name, "forward", measure(programs, turns))
    for method, compiled in made.items():
        programs = {
            OURS: ours(compiled, folder, feed())[2],
            **{k: torch_step(folder, compiled, feed(), v) for k, v in EAGER.items()},
        }
        if training:
            programs["ONNX Runtime training"] = ort_step(folder, compiled, feed())
        yield from rows(name, f"step, {method}", measure(programs, turns))


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
    print("| network | what | program | ms: min / median / max | CPU ms | ratio | CPU ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in chosen.models.split(","):
        for line in benchmark(name, chosen.turns, training=training):
            print(line, flush=True)
    print(f"load after {os.getloadavg()}")


if __name__ == "__main__":
    main()
