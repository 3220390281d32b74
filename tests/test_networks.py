"""Whole published networks: right answers, and C equal to its definition, bit for bit."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from helpers import SHARED, model_path, needs_shared
from PIL import Image

from kilograd.data import prepare
from kilograd.emit import Program, link, source
from kilograd.emit.build import LANGUAGE
from kilograd.frontend import Model, load_model_folder
from kilograd.ir import Array, Block, Graph, Value, interpret
from kilograd.ops import Adam, RowRms, Sgd, Update
from kilograd.passes import Head, LinearHead, Part, PrototypeHead, Training, entries
from kilograd.targets import HostProgram, build_host
from kilograd.targets.toolchain import Compiler, find_compiler

pytestmark = needs_shared

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
SETS = (
    "flowers89",
    "gtsrb",
    "omniglot",
    "dtd10",
    "cifar100",
    "caltech101",
    "pacs",
    "bccd_cells",
    "neu_surface",
    "fashion_mnist",
)
PHOTOS = {"chelsea": 285, "coffee": 967, "camera": 872, "motorcycle": 665}
"""Photographs inside scikit-image, and the ImageNet class that each of them shows."""

PLANS: dict[str, tuple[int, dict[int, float]]] = {
    # Biases of the last k convolutions, and the share of input channels that learn: the published
    # 49 KB plans of SparseUpdate.
    "mcunet-5fps": (20, {24: 0.25, 27: 0.5, 30: 0.5}),
    "mbv2-w0.35": (16, {36: 1, 39: 1, 41: 0.25, 42: 0.125, 45: 0.125, 48: 0.125, 49: 0.125}),
    "proxyless-w0.3": (21, {39: 0.25, 42: 1, 45: 1, 51: 0.125, 54: 0.25, 57: 0.25}),
}
WAYS = 5
STEPS = 20


@functools.cache
def model_of(name: str) -> Model:
    return load_model_folder(model_path(name))


@functools.cache
def images(sets: int, each: int) -> tuple[oracle.Photo, ...]:
    """Return real photographs of many kinds."""
    assert SHARED is not None
    folder = SHARED / "data"
    return tuple(
        photo
        for name in SETS[:sets]
        for photo, _ in oracle.photographs(folder / f"{name}.parquet", each)
    )


def array(value: Value) -> Array:
    assert not isinstance(value, Block)
    return value


# -- inference -------------------------------------------------------------------------------------


@functools.cache
def inference(name: str) -> HostProgram:
    """Compile the network as it was published, returning its features and its own logits."""
    return build_host(link({"infer": model_of(name).graph}))


@pytest.mark.parametrize("name", NETWORKS)
def test_c_equals_the_reference_on_real_images(name: str) -> None:
    graph = model_of(name).graph
    photos = images(len(SETS), 5)
    assert len(photos) >= 50
    answers = set()
    for photo in photos:
        want = interpret(graph, {"image": photo})
        got = inference(name).call("infer", image=photo)
        assert set(got) == set(want) == {"avgpool", "classifier"}
        for key, value in want.items():
            np.testing.assert_array_equal(got[key], array(value))
        answers.add(int(got["classifier"].argmax()))
    assert len(answers) > 10


@pytest.mark.parametrize("name", NETWORKS)
def test_c_equals_a_double_precision_model(name: str) -> None:
    """The formulas of the file format in float64, written without Kilograd."""
    network = oracle.Network(model_path(name))
    for photo in images(len(SETS), 1):
        codes = network.run(photo)
        got = inference(name).call("infer", image=photo)
        for key, activation in (("avgpool", "features"), ("classifier", "logits")):
            want = codes[network.description["outputs"][activation]]
            np.testing.assert_array_equal(got[key].ravel(), want.ravel())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_activation_equals_the_double_precision_model(name: str) -> None:
    network, graph = oracle.Network(model_path(name)), model_of(name).graph
    photo = images(1, 1)[0]
    codes = network.run(photo)
    named = {op["name"]: codes[op["output"]] for op in network.ops}
    inner = tuple(n for n in graph.nodes if n.name in named)
    assert len(inner) == len(network.ops)
    found = interpret(replace(graph, outputs=inner), {"image": photo})
    for key, want in named.items():
        np.testing.assert_array_equal(array(found[key]), want.transpose(1, 2, 0), err_msg=key)


def picture_of(what: str) -> Image.Image:
    data = pytest.importorskip("skimage.data")
    load: Any = data.stereo_motorcycle if what == "motorcycle" else getattr(data, what)
    try:
        found = load()
    except (ModuleNotFoundError, OSError) as e:
        pytest.skip(f"this scikit-image would have to download {what} ({e})")
    return Image.fromarray(found[0] if what == "motorcycle" else found)


@pytest.mark.parametrize("what", PHOTOS)
@pytest.mark.parametrize("name", NETWORKS)
def test_recognises_what_a_photograph_shows(name: str, what: str) -> None:
    image = prepare(picture_of(what), model_of(name).preprocess)
    logits = inference(name).call("infer", image=image)["classifier"]
    assert int(logits.argmax()) == PHOTOS[what]


# -- training --------------------------------------------------------------------------------------


def published(name: str) -> dict[str, Part]:
    """Return the parts that learn: biases, and the input channels of the largest weights."""
    graph, layers = model_of(name).graph, model_of(name).layers
    biases, weights = PLANS[name]
    parts = {f"{layer}.bias": Part() for layer in layers[-biases:]}
    for index, share in weights.items():
        value = graph.data[f"{layers[index]}.weight"].astype(np.int64)
        depthwise = value.ndim == 3
        norms = (value**2).sum(axis=(0, 1) if depthwise else (0, 1, 2))
        chosen = np.argsort(-norms, kind="stable")[: int(share * norms.size)]
        axis = value.ndim - 1
        parts[f"{layers[index]}.weight"] = Part(axis, tuple(sorted(chosen.tolist())))
    return parts


def whole(name: str, last: int) -> dict[str, Part]:
    """Return all weights and biases of the last layers."""
    layers = model_of(name).layers[-last:]
    return {f"{layer}.{what}": Part() for layer in layers for what in ("weight", "bias")}


@dataclass(frozen=True)
class Run:
    """What to train, and how."""

    name: str
    network: str
    head: Head
    optimizer: Update
    accumulate: bool = False
    last: int = 0  # layers that learn whole, in place of the published plan
    rate: float = 0.01
    steps: int = STEPS
    seed: int = 11

    def __hash__(self) -> int:
        return hash(self.name)

    def learn(self) -> dict[str, Part]:
        return whole(self.network, self.last) if self.last else published(self.network)

    def entries(self) -> dict[str, Graph]:
        learn = self.learn()
        training = Training(self.head, self.optimizer, learn, accumulate=self.accumulate)
        return entries(model_of(self.network).graph, training)

    def calls(self, seed: int | None = None) -> list[tuple[str, dict[str, Array]]]:
        """Return every call of a training run: entry point and inputs."""
        photos = images(WAYS, 4)  # four of each set: a class is a set
        at = [(photos[i], np.array([i // 4], np.int32)) for i in range(len(photos))]
        order = [(7 * i) % len(at) for i in range(self.steps)]
        out: list[tuple[str, dict[str, Array]]] = []

        def enrol() -> None:
            if isinstance(self.head, PrototypeHead):  # the last class stays without a prototype
                out.append(("forget", {}))
                out.extend(("enrol", {"image": at[i][0], "label": at[i][1]}) for i in (0, 4, 8, 12))

        rate = np.array([self.rate], np.float32)
        enrol()
        for step, i in enumerate(order):
            clock = np.array([self.seed if seed is None else seed, step], np.int32)
            sample: dict[str, Array] = {"image": at[i][0], "label": at[i][1]}
            if self.accumulate:
                out.append(("step", {**sample, "share": np.array([0.25], np.float32)}))
                if step % 4 == 3 or step == self.steps - 1:
                    out.append(("apply", {"lr": rate, "clock": clock}))
            else:
                out.append(("step", {**sample, "lr": rate, "clock": clock}))
            if step == self.steps // 2:
                enrol()
        out.append(("infer", {"image": at[1][0]}))
        return out


RUNS = {
    run.name: run
    for run in (
        Run("proto sgd", "mcunet-5fps", PrototypeHead(WAYS), Sgd(0), rate=0.05),
        Run("linear adam sum", "mcunet-5fps", LinearHead(WAYS), Adam(0), accumulate=True),
        Run("linear sgd sum", "mcunet-5fps", LinearHead(WAYS), Sgd(0), accumulate=True, rate=0.05),
        Run("proto rowrms sum", "mcunet-5fps", PrototypeHead(WAYS), RowRms(0), accumulate=True),
        Run("linear rowrms", "mcunet-5fps", LinearHead(WAYS), RowRms(0)),
        Run("proto adam", "mcunet-5fps", PrototypeHead(WAYS), Adam(0)),
        Run("mbv2 proto rowrms", "mbv2-w0.35", PrototypeHead(WAYS), RowRms(0)),
        Run("proxyless linear sgd", "proxyless-w0.3", LinearHead(WAYS), Sgd(0), rate=0.05),
        Run("full mcunet", "mcunet-5fps", LinearHead(WAYS), Sgd(0), last=42, steps=4),
        Run("full mbv2 sum", "mbv2-w0.35", PrototypeHead(WAYS), Adam(0), True, last=51, steps=4),
        Run("full proxyless", "proxyless-w0.3", PrototypeHead(WAYS), RowRms(0), last=60, steps=4),
        Run("last 20 mbv2", "mbv2-w0.35", LinearHead(WAYS), RowRms(0), last=20, steps=4),
        Run("last 11 mcunet", "mcunet-5fps", PrototypeHead(WAYS), Sgd(0), last=11, steps=4),
    )
}


@dataclass
class Trajectory:
    """What each call returned, and the state after it."""

    outputs: list[dict[str, Array]] = field(default_factory=list)
    states: list[dict[str, Array]] = field(default_factory=list)


@functools.cache
def linked(run: Run) -> Program:
    return link(run.entries())


@functools.cache
def reference(run: Run) -> Trajectory:
    """Run the integer definition."""
    graphs = run.entries()
    state = {slot.name: slot.value for slot in linked(run).state}
    out = Trajectory()
    for entry, inputs in run.calls():
        done = {k: array(v) for k, v in interpret(graphs[entry], {**inputs, **state}).items()}
        state = {k: done.get(k, v) for k, v in state.items()}
        outputs = [n.name for n in graphs[entry].outputs if not n.op.writes]
        out.outputs.append({k: done[k] for k in outputs})
        out.states.append(state)
    return out


def compiled(run: Run, compiler: Compiler | None = None, seed: int | None = None) -> Trajectory:
    host = build_host(linked(run), compiler)
    out = Trajectory()
    for entry, inputs in run.calls(seed):
        out.outputs.append(host.call(entry, **inputs))
        out.states.append({k: v.copy() for k, v in host.state.items()})
    return out


def assert_same(got: Mapping[str, Array], want: Mapping[str, Array], where: str) -> None:
    assert set(got) == set(want)
    for key, value in want.items():
        same = np.array_equal(got[key].view(np.uint8), np.ascontiguousarray(value).view(np.uint8))
        assert same, f"{key} differs {where}"


def gcc(*flags: str) -> Compiler:
    """The default compiler without -march=native: the portable kernels, unless `flags` say more."""
    return replace(find_compiler(), flags=(*LANGUAGE, *flags))


def avx2() -> Compiler:
    """The kernels of processors that have AVX2 and nothing newer."""
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or " avx2 " not in cpu.read_text(encoding="utf-8"):
        pytest.skip("this processor has no AVX2, or does not say so in /proc/cpuinfo")
    return gcc("-O3", "-mavx2")


def clang(level: str) -> Compiler:
    """The clang inside ziglang, less its checks, whose messages need a runtime to link with."""
    pytest.importorskip("ziglang")
    command = (sys.executable, "-m", "ziglang", "cc")
    return Compiler(command, (*LANGUAGE, level, "-fno-sanitize=undefined"))


COMPILERS: dict[str, Callable[[], Compiler]] = {
    "default": find_compiler,
    "cc -O0": lambda: gcc("-O0"),
    "cc -O2": lambda: gcc("-O2"),
    "cc -O3": lambda: gcc("-O3"),
    "cc -mavx2": avx2,
    "clang -O0": lambda: clang("-O0"),
    "clang -O2": lambda: clang("-O2"),
    "clang -O3": lambda: clang("-O3"),
}
CASES = [
    *(("default", name) for name in RUNS),
    *((c, name) for c in list(COMPILERS)[1:] for name in ("proto sgd", "linear adam sum")),
]


@pytest.mark.parametrize(("compiler", "name"), CASES, ids=lambda x: str(x).replace(" ", "-"))
def test_training_in_c_equals_the_reference(compiler: str, name: str) -> None:
    """Every loss, every logit, and every bit of the state after each of 20 steps."""
    run = RUNS[name]
    want = reference(run)
    got = compiled(run, COMPILERS[compiler]())
    for i, (entry, _) in enumerate(run.calls()):
        assert_same(got.outputs[i], want.outputs[i], f"after call {i} ({entry})")
        assert_same(got.states[i], want.states[i], f"after call {i} ({entry})")


@pytest.mark.parametrize("name", RUNS)
def test_training_moves_everything_that_learns(name: str) -> None:
    """Or equality above would say little: the head, and nearly all tensors, end up elsewhere."""
    run, found = RUNS[name], reference(RUNS[name])
    first = {slot.name: slot.value for slot in linked(run).state}
    last = found.states[-1]
    still = [k for k, v in last.items() if not k.endswith(".sum") and np.array_equal(v, first[k])]
    assert len(still) <= len(last) // 10, still
    losses = [o["loss"][0] for o in found.outputs if "loss" in o]
    assert len(losses) == run.steps
    assert all(map(math.isfinite, losses))


def test_one_seed_gives_the_same_bits_and_another_seed_others() -> None:
    run = RUNS["proto sgd"]
    first, again, other = (compiled(run, seed=seed).states[-1] for seed in (3, 3, 4))
    assert_same(again, first, "between two runs of one seed")
    learned = [k for k in first if k.endswith((".learned", ".bias"))]
    moved = [k for k in learned if not np.array_equal(first[k], other[k])]
    assert len(moved) > len(learned) / 2


@pytest.mark.parametrize("name", NETWORKS)
def test_program_is_sound_wherever_learning_starts(name: str) -> None:
    """Streaming changes with what learns: it costs no work, saves memory, and keeps the bits."""
    model, photo = model_of(name), images(1, 1)[0]
    want = array(interpret(model.graph, {"image": photo})["avgpool"]).ravel()
    quant = model.graph.outputs[0].type.affine
    for last in range(2, len(model.layers) + 1, 9):
        training = Training(PrototypeHead(WAYS), Sgd(0), whole(name, last))
        plain = entries(model.graph, replace(training, stream=False))
        streamed = entries(model.graph, training)
        assert streamed["step"].macs() == plain["step"].macs()
        assert link(streamed).arena_bytes <= link(plain).arena_bytes
        feeds: dict[str, Array] = {"image": photo, "label": np.array([2], np.int32)}
        found = array(interpret(streamed["enrol"], feeds)["head.prototypes"])
        codes = np.rint(found[2] / np.float32(quant.scale[0])) + quant.zero_point
        np.testing.assert_array_equal(codes, want)


# -- memory ----------------------------------------------------------------------------------------


def test_memory_of_the_49_kb_plan() -> None:
    """Whole maps: the plan meets its lower bound.  Streamed: it is half of that, and within one
    word of its bound."""
    run = RUNS["proto sgd"]
    training = Training(run.head, run.optimizer, run.learn(), stream=False)
    plain = link(entries(model_of(run.network).graph, training))
    peaks = {name: e.plan.peak for name, e in plain.entries.items()}
    assert peaks == {name: e.plan.bound for name, e in plain.entries.items()}
    assert plain.sram_proved_optimal
    assert plain.sram_bytes == plain.sram_lower_bound_bytes

    streamed = linked(run)
    assert streamed.sram_bytes < 0.6 * plain.sram_bytes
    assert streamed.sram_bytes - streamed.sram_lower_bound_bytes <= 4
    # What the released engine of the paper takes for this plan (arena, weights and static data).
    assert plain.sram_bytes < 252_448


@pytest.mark.parametrize("name", RUNS)
def test_memory_is_the_sum_of_its_parts(name: str) -> None:
    """Counted from the plan and the optimiser alone, not from what the linker says."""
    run, program = RUNS[name], linked(RUNS[name])
    graph, parts = model_of(run.network).graph, run.entries()
    assert program.sram_bytes == program.arena_bytes + program.state_bytes
    assert program.arena_bytes == max(e.plan.peak for e in program.entries.values())
    assert program.sram_lower_bound_bytes <= program.sram_bytes

    features = graph.outputs[0].type.size
    shapes: list[tuple[int, int, int]] = []  # rows, elements, bytes of an element
    for tensor, part in run.learn().items():
        kind = graph[tensor].type
        shape = list(kind.shape)
        if part.index is not None:
            shape[part.axis] = len(part.index)
        rows = shape[kind.affine.axis or 0]
        shapes.append((rows, math.prod(shape), kind.dtype.nbytes))
    prototypes = 0
    if isinstance(run.head, LinearHead):
        shapes += [(WAYS, WAYS * features, 4), (WAYS, WAYS, 4)]
    else:
        prototypes = 4 * WAYS * features
    total = prototypes + 4  # the stamp of the program
    for rows, elements, size in shapes:
        total += -(-elements * size // 4) * 4
        total += 4 * elements if run.accumulate else 0
        total += {Sgd: 0, RowRms: 4 * rows, Adam: 8 * elements}[type(run.optimizer)]
    assert program.state_bytes == total
    assert set(program.entries) == set(parts)


@pytest.mark.parametrize("name", ["proto sgd", "linear adam sum", "full mbv2 sum"])
def test_flash_is_the_sum_of_the_tables_in_the_source(name: str) -> None:
    program = linked(RUNS[name])
    sizes = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "int32_t": 4, "float": 4}
    tables = re.findall(r"^static const (\w+) \w+\[(\d+)\] =", source(program), re.MULTILINE)
    assert program.flash_bytes == sum(sizes[kind] * int(count) for kind, count in tables)
