"""What tests share: the shared folder, compilers, running a graph as C, small networks."""

from __future__ import annotations

import enum
import functools
import importlib.util
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from extras import Extra, extended
from samples import CURVES, ways

from kilograd import ops
from kilograd.emit import Program, link
from kilograd.emit.build import LANGUAGE
from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    Builder,
    DType,
    Graph,
    Leaf,
    Node,
    Op,
    Param,
    Role,
    TensorType,
    Value,
)
from kilograd.ops import Window
from kilograd.ops._common import Clamping, array
from kilograd.quant import Rounding
from kilograd.quant.curves import curve
from kilograd.targets import HostProgram, build_host
from kilograd.targets.runner import Runner
from kilograd.targets.toolchain import Compiler

# ---- the shared folder ----


def _shared() -> Path | None:
    """The folder with the published models and the data sets, where this machine has it."""
    folder = Path(os.environ.get("KILOGRAD_SHARED") or Path(__file__).parents[2] / "shared")
    return folder if (folder / "models").is_dir() else None


SHARED = _shared()

needs_shared = pytest.mark.skipif(
    SHARED is None,
    reason="the published models are not here: set KILOGRAD_SHARED to a folder with models/, data/",
)


def model_path(name: str) -> Path:
    """Return the folder of a published model; skips the test where it is absent."""
    if SHARED is None:
        pytest.skip("the published models are not here: set KILOGRAD_SHARED")
    return SHARED / "models" / name


# ---- compilers ----

GCC = ("gcc",) if shutil.which("gcc") else None
CLANG = (sys.executable, "-m", "ziglang", "cc") if importlib.util.find_spec("ziglang") else None

needs_gcc = pytest.mark.skipif(GCC is None, reason="gcc is not here: apt-get install gcc")
needs_clang = pytest.mark.skipif(CLANG is None, reason="clang is not here: pip install ziglang")


def gcc(*flags: str) -> Compiler:
    """gcc with the flags that fix the language, and `flags`."""
    return Compiler(GCC or ("gcc",), (*LANGUAGE, *flags))


def clang(*flags: str) -> Compiler:
    """The clang of the ziglang package; zig's own checks off, the same code as everywhere."""
    return Compiler(CLANG or ("clang",), (*LANGUAGE, "-fno-sanitize=undefined", *flags))


def _instructions() -> set[str]:
    """The instruction sets of this processor, as Linux calls them; none elsewhere."""
    cpu = Path("/proc/cpuinfo")
    return set(cpu.read_text(encoding="utf-8").split()) if cpu.exists() else set()


needs_avx2 = pytest.mark.skipif("avx2" not in _instructions(), reason="this processor has no AVX2")

#: Kernels assert what they take for granted.
ASSERTING = "-DKG_CHECKED"

#: Every compiler and level that must give the same bits, and every variant of the runtime: the
#: portable one, AVX2, and with -march=native whatever else this processor has.
COMPILERS = [
    pytest.param(gcc(ASSERTING, "-O0"), id="gcc-O0", marks=needs_gcc),
    pytest.param(gcc(ASSERTING, "-O2"), id="gcc-O2", marks=needs_gcc),
    pytest.param(gcc(ASSERTING, "-O3", "-march=native"), id="gcc-O3", marks=needs_gcc),
    pytest.param(gcc(ASSERTING, "-O2", "-mavx2"), id="gcc-avx2", marks=[needs_gcc, needs_avx2]),
    pytest.param(clang(ASSERTING, "-O0"), id="clang-O0", marks=needs_clang),
    pytest.param(clang(ASSERTING, "-O2"), id="clang-O2", marks=needs_clang),
    pytest.param(clang(ASSERTING, "-O3"), id="clang-O3", marks=needs_clang),
    pytest.param(
        clang(ASSERTING, "-O2", "-mavx2"), id="clang-avx2", marks=[needs_clang, needs_avx2]
    ),
]


def quick_build(program: Program) -> HostProgram:
    """Build with whatever compiler is here, favouring a short build over a fast program."""
    return build_host(program, gcc("-O1", ASSERTING) if GCC else clang("-O1", ASSERTING))


# ---- running a graph as C ----


def real(value: Value, kind: TensorType) -> Array:
    """Return the float64 numbers that a value stands for."""
    if isinstance(value, Block):
        return value.real() * kind.block.scale
    if not isinstance(kind.quant, Affine):
        return value.astype(np.float64)
    scale = kind.quant.unit * np.array(kind.quant.scale, np.float64)
    if kind.quant.axis is not None:
        scale = scale.reshape([-1 if a == kind.quant.axis else 1 for a in range(value.ndim)])
    return (value.astype(np.float64) - kind.quant.zero_point) * scale


def same_bits(a: Value, b: Value) -> bool:
    """Say whether two values are equal to the bit; a zero's sign and exponent included."""
    if isinstance(a, Block) and isinstance(b, Block):
        return a.exponent == b.exponent and same_bits(a.mantissa, b.mantissa)
    if isinstance(a, Block) or isinstance(b, Block):
        return False
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def difference(got: Value, want: Value) -> str:
    """Describe how two values differ."""
    if isinstance(got, Block) and isinstance(want, Block):
        text = f"exponents {got.exponent} and {want.exponent}; "
        return text + difference(got.mantissa, want.mantissa)
    if isinstance(got, Block) or isinstance(want, Block):
        return f"{type(got).__name__} is not {type(want).__name__}"
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        return f"{got.dtype}{got.shape} is not {want.dtype}{want.shape}"
    at = np.argwhere(got != want)
    pairs = [(tuple(i), got[tuple(i)], want[tuple(i)]) for i in at[:4].tolist()]
    return f"{len(at)} of {got.size} elements differ: {pairs}"


def assert_same(got: Mapping[str, Value], want: Mapping[str, Value], about: str = "") -> None:
    """Assert that two results agree to the bit wherever both have a value."""
    shared = sorted(got.keys() & want.keys())
    assert shared, f"{about}: nothing to compare"
    for name in shared:
        assert same_bits(got[name], want[name]), (
            f"{about} {name}: {difference(got[name], want[name])}"
        )


def put(memory: Array, offset: int, value: Value) -> None:
    """Write a value into the bytes of an arena or a state as C holds it."""
    if isinstance(value, Block):
        put(memory, offset, np.array([value.exponent], np.int32))
        offset, value = offset + 4, value.mantissa
    raw = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
    memory[offset : offset + raw.size] = raw


def get(memory: Array, offset: int, kind: TensorType) -> Value:
    """Read what `put` wrote."""

    def numbers(at: int, size: int, dtype: DType) -> Array:
        return memory[at : at + size * dtype.nbytes].copy().view(dtype.numpy)

    if isinstance(kind.quant, BlockExponent):
        mantissa = numbers(offset + 4, kind.size, kind.dtype).reshape(kind.shape)
        return Block(mantissa, int(numbers(offset, 1, DType.I32)[0]))
    return numbers(offset, kind.size, kind.dtype).reshape(kind.shape)


def call(host: Runner, entry: str, feeds: Mapping[str, Value], noise: int = 0) -> dict[str, Value]:
    """Run an entry point as `interpret` would: inputs, outputs and parameters by name.

    Values with a shared exponent may go in and come out.  The arena starts as noise, because no
    kernel may count on zeros there.
    """
    e = host.program.entries[entry]
    arena = host._arena
    arena[:] = np.random.default_rng(noise).integers(0, 256, arena.size, np.uint8)
    offsets = {slot.name: slot.offset for slot in host.program.state}
    for n in e.graph.nodes:
        if n.name in offsets and n.name in feeds:
            put(host._state, offsets[n.name], feeds[n.name])
        elif n in e.storage.tensor and isinstance(n.op, Leaf):
            put(arena, e.offset(n), feeds[n.name])
    host.run(entry, *(array(feeds[n.name]) for n in e.rows))
    out = {
        n.name: get(arena, e.offset(n), n.type) for n in e.graph.outputs if n in e.storage.tensor
    }
    out.update({n.name: get(host._state, offsets[n.name], n.type) for n in e.graph.written()})
    return out


# ---- float64 definitions, written without looking at the ops ----


def conv64(x: Array, w: Array, window: Window, *, depthwise: bool = False) -> Array:
    """Convolve tap by tap in float64: [h, w, c] with [o, kh, kw, c] or [kh, kw, c]."""
    kh, kw = w.shape[:2] if depthwise else w.shape[1:3]
    (down, across), (top, bottom, left, right) = window.stride, window.pad
    h, width, c = x.shape
    padded = np.zeros((h + top + bottom, width + left + right, c))
    padded[top : top + h, left : left + width] = x
    oh = (padded.shape[0] - kh) // down + 1
    ow = (padded.shape[1] - kw) // across + 1
    out = np.zeros((oh, ow, c if depthwise else w.shape[0]))
    for ky in range(kh):
        for kx in range(kw):
            rows = padded[ky::down][:oh]
            seen = rows[:, kx::across][:, :ow]
            out += seen * w[ky, kx] if depthwise else seen @ w[:, ky, kx].T
    return out


def grouped64(x: Array, w: Array, window: Window, groups: int) -> Array:
    """Convolve in groups: as a convolution whose other weights are zero."""
    out, _, _, inputs = w.shape
    whole = np.zeros((*w.shape[:3], inputs * groups))
    for o in range(out):
        first = o * groups // out * inputs
        whole[o, :, :, first : first + inputs] = w[o]
    return conv64(x, whole, window)


Place = tuple[int, int, dict[int, tuple[int, int]]]
Formula = Callable[[Any, tuple[Array, ...], int], Array]

#: (op, inputs as reals, label) -> what an op of the forward pass means, before any clamp.
FORMULAS: dict[type[Op], Formula] = {
    ops.Conv: lambda op, xs, label: conv64(xs[0], xs[1], op.window) + xs[2],
    ops.Depthwise: lambda op, xs, label: conv64(xs[0], xs[1], op.window, depthwise=True) + xs[2],
    ops.GroupedConv: lambda op, xs, label: grouped64(xs[0], xs[1], op.window, op.groups) + xs[2],
    ops.Add: lambda op, xs, label: xs[0] + xs[1],
    ops.AvgPool: lambda op, xs, label: xs[0].mean(axis=(0, 1), keepdims=True),
    ops.WindowPool: lambda op, xs, label: np.mean(
        [xs[0][i :: op.size, j :: op.size] for i in range(op.size) for j in range(op.size)], axis=0
    ),
    ops.MaxPool: lambda op, xs, label: _first_largest(xs[0], op),
    ops.MeanPool: lambda op, xs, label: np.nanmean(_seen(xs[0], op), axis=0),
    ops.Mean: lambda op, xs, label: xs[0].mean(axis=op.axes, keepdims=True),
    ops.Upsample: lambda op, xs, label: np.kron(xs[0], np.ones((*op.size, 1))),
    ops.Take: lambda op, xs, label: np.moveaxis(
        np.array([np.moveaxis(xs[0], op.axis, 0)[i] for i in op.index]), 0, op.axis
    ),
    ops.Concat: lambda op, xs, label: np.concatenate(xs, axis=op.axis),
    ops.PadMap: lambda op, xs, label: _surrounded(xs[0], op.sides),
    ops.Reshape: lambda op, xs, label: xs[0].reshape(op.shape),
    ops.Rescale: lambda op, xs, label: xs[0],
    ops.Table: lambda op, xs, label: _curve(op, xs[0]),
    ops.Product: lambda op, xs, label: xs[0] * xs[1],
    ops.Overlay: lambda op, xs, label: _overlaid(xs[0], xs[1], op.axis, op.index),
    ops.Dequantise: lambda op, xs, label: xs[0].ravel(),
    ops.Dense: lambda op, xs, label: xs[1] @ xs[0] + xs[2],
    ops.Cosine: lambda op, xs, label: op.scale * _cosines(xs[0], xs[1]),
    ops.Enrol: lambda op, xs, label: xs[0] + np.outer(np.arange(len(xs[0])) == label, xs[1]),
    ops.CrossEntropy: lambda op, xs, label: np.array([np.log(np.exp(xs[0] - xs[0][label]).sum())]),
}


def places(shape: tuple[int, ...], size: tuple[int, int], window: Window) -> Iterator[Place]:
    """Yield each place of a kernel on a map: its row and column, and the pixels it sees by tap."""
    top, bottom, left, right = window.pad
    rows = range(-top, shape[0] + bottom - size[0] + 1, window.stride[0])
    columns = range(-left, shape[1] + right - size[1] + 1, window.stride[1])
    for (oy, y), (ox, x) in itertools.product(enumerate(rows), enumerate(columns)):
        seen = {
            i * size[1] + j: (y + i, x + j)
            for i, j in itertools.product(range(size[0]), range(size[1]))
            if 0 <= y + i < shape[0] and 0 <= x + j < shape[1]
        }
        yield oy, ox, seen


def _seen(x: Array, op: ops.MaxPool | ops.MeanPool) -> Array:
    """Return what each place of a kernel sees, tap by tap: [taps, oh, ow, c], NaN for padding."""
    (kh, kw), (top, bottom, left, right) = op.size, op.window.pad
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=np.nan)
    down, across = op.window.stride
    rows, columns = padded.shape[0] - kh + 1, padded.shape[1] - kw + 1
    return np.array(
        [padded[i:, j:][:rows:down, :columns:across] for i in range(kh) for j in range(kw)]
    )


def _first_largest(x: Array, op: ops.MaxPool) -> Array:
    """Return the largest, with a slope that is of the first where several are."""
    taps = _seen(x, op)
    return np.nanmax(taps - 1e-4 * np.arange(len(taps))[:, None, None, None], axis=0)


def _curve(op: ops.Table, x: Array) -> Array:
    """A table's curve, with its clamp: outside of it, no code stands for a result."""
    ends = (np.array([-128.5, 127.5]) - op.out.zero_point) * op.out.scale[0]
    return np.clip(curve(CURVES[op], x), *ends)


def _surrounded(x: Array, sides: tuple[tuple[int, int], ...]) -> Array:
    out = np.zeros([n + sum(s) for n, s in zip(x.shape, sides, strict=True)])
    out[tuple(slice(s[0], s[0] + n) for n, s in zip(x.shape, sides, strict=True))] = x
    return out


def _overlaid(whole: Array, part: Array, axis: int, index: tuple[int, ...]) -> Array:
    out = whole.copy()
    out[(slice(None),) * axis + (list(index),)] = part
    return out


def _cosines(x: Array, prototypes: Array) -> Array:
    lengths = np.linalg.norm(prototypes, axis=1) * np.linalg.norm(x)
    return np.divide(prototypes @ x, lengths, out=0 * lengths, where=lengths > 0)


def formula(op: Op, xs: tuple[Array, ...], label: int = 0) -> Array | None:
    """What an op of the forward pass means over the reals, before any clamp; None: unknown."""
    known = FORMULAS.get(type(op))
    return known(op, xs, label) if known else None


#: Ops that pass int8 codes on or average them: they clamp nothing.  A table's formula clamps.
UNCLAMPED = (
    ops.AvgPool,
    ops.MaxPool,
    ops.WindowPool,
    ops.Upsample,
    ops.Take,
    ops.Concat,
    ops.PadMap,
    ops.Reshape,
    ops.Table,
)


#: Ops that are not linear in each input.
CURVED = (ops.Cosine, ops.CrossEntropy, ops.MaxPool, ops.Table)


def passed(op: Op, y: Value, kind: TensorType) -> Array | float:
    """1 where the clamp, to int8 or to limits, let a value pass, else 0."""
    if isinstance(y, Block) or kind.dtype is not DType.I8:
        return 1.0
    low, high = getattr(op, "limits", (-128, 127))
    return ((y > low) & (y < high)).astype(np.float64)


def tangent(
    graph: Graph, env: Mapping[Node, Value], seeds: Mapping[Node, Array]
) -> dict[Node, Array]:
    """Push a change of some tensors forward through the network, in float64.

    Rounding counts as the identity and a clamp as its mask: the derivative that the
    straight-through gradient must agree with, found without any reverse mode.  `env` has the
    integers of every node.
    """
    out: dict[Node, Array] = dict(seeds)
    for n in graph.nodes:
        if n in out or not any(x in out for x in n.inputs):
            continue
        xs = tuple(real(env[x], x.type) for x in n.inputs)
        label = int(np.asarray(env[n.inputs[1]])[0]) if isinstance(n.op, ops.CrossEntropy) else 0
        total: Array | float = 0.0
        for i, x in enumerate(n.inputs):
            if x not in out:
                continue
            eps = 1e-6 if isinstance(n.op, CURVED) else 1.0
            ends = [
                formula(n.op, (*xs[:i], xs[i] + sign * eps * out[x], *xs[i + 1 :]), label)
                for sign in (1, -1)
            ]
            if ends[0] is not None and ends[1] is not None:
                total = total + (ends[0] - ends[1]) / (2 * eps)
        if isinstance(total, np.ndarray):
            mask = 1.0 if isinstance(n.op, UNCLAMPED) else passed(n.op, env[n], n.type)
            out[n] = total * mask
    return out


def environment(graph: Graph, feeds: Mapping[str, Value]) -> dict[Node, Value]:
    """Every value of a graph that overwrites nothing, as its references make them."""
    env: dict[Node, Value] = {}
    for n in graph.nodes:
        if isinstance(n.op, Leaf):
            env[n] = feeds[n.name] if n.name in feeds else graph.data[n.name]
        else:
            out = n.op.reference(n, *(env[x] for x in n.inputs))
            assert not isinstance(out, tuple)
            env[n] = out
    return env


# ---- small networks ----


class Pool(enum.Enum):
    """A pool of three by three pixels, two apart, with padding all around."""

    MAX = enum.auto()
    MEAN = enum.auto()


@dataclass(frozen=True)
class Unit:
    """An inverted bottleneck: pointwise, depthwise, pointwise; a residual where shapes allow."""

    middle: int
    out: int
    kernel: int = 3
    stride: int | tuple[int, int] = 1
    residual: bool = True
    groups: int = 0  # 0: depthwise, one filter a channel; else two filters a channel
    pool: Pool | None = None
    extra: Extra | None = None  # behind all
    imported: bool = False  # with limits, and rounded as TFLite does


@dataclass
class Network:
    """Writes a random int8 network whose activations fill their range without drowning in it.

    Scales are chosen as a quantiser would: from what one image gives.
    """

    rng: np.random.Generator
    size: int = 8
    b: Builder = field(default_factory=Builder)
    values: dict[Node, Value] = field(default_factory=dict)
    imported: bool = False  # how layers are that come next

    def __post_init__(self) -> None:
        kind = TensorType((self.size, self.size, 3), DType.I8, Affine((2 / 255,), 0))
        self.image = self.b.input("image", kind)
        self.values[self.image] = image(self.rng, self.size)

    def layer(
        self,
        name: str,
        x: Node,
        window: Window,
        shape: tuple[int, ...],
        relu: bool,
        groups: int = 0,
    ) -> Node:
        """Append a convolution with weights of `shape`; three axes: depthwise."""
        depthwise = len(shape) == 3
        axis, rng = (2 if depthwise else 0), self.rng
        channels, fan = shape[axis], int(np.prod(shape)) // shape[axis]
        w = np.clip(rng.normal(0, 45, shape).round(), -127, 127).astype(np.int8)
        scale = tuple(float(s) for s in rng.uniform(0.4, 1.6, channels) / (45 * np.sqrt(fan)))
        step = x.type.affine.scale[0]
        bias = rng.normal(0, 0.3, channels) / (step * np.array(scale))
        weight = self.b.param(f"{name}.weight", w, Affine(scale, axis=axis), role=Role.WEIGHT)
        bias_quant = Affine(tuple(scale), axis=0, unit=step)
        codes = bias.round().astype(np.int32)
        shift = self.b.param(f"{name}.bias", codes, bias_quant, role=Role.BIAS)
        reals = real(self.values[x], x.type), real(w, weight.type)
        exact = (
            grouped64(*reals, window, groups)
            if groups
            else conv64(*reals, window, depthwise=depthwise)
        )
        exact = exact + real(bias.round(), shift.type)
        top = float(np.quantile(exact if relu else np.abs(exact), 0.97)) or 1.0
        zero = -128 if relu else int(rng.integers(-12, 9))
        out = Affine((abs(top) / (255 if relu else 120),), zero)
        kind: Clamping = ops.Depthwise(window, out) if depthwise else ops.Conv(window, out)
        if groups:
            kind = ops.GroupedConv(window, out, groups)
        return self._run(self.b(self._own(kind), x, weight, shift, name=name))

    def _own(self, op: Clamping) -> Op:
        """Return an op as an imported network has it."""
        if not self.imported:
            return op
        low, high = self.rng.integers(-128, -100), self.rng.integers(95, 128)
        return replace(op, limits=(int(low), int(high)), rounding=Rounding.TFLITE)

    def unit(self, name: str, x: Node, u: Unit) -> Node:
        """Append an inverted bottleneck."""
        k, c = u.kernel, x.type.shape[2]
        window = replace(Window.same(k), stride=ways(u.stride))
        middle = u.middle * max(u.groups, 1)
        y = self.layer(f"{name}.pw1", x, Window(), (middle, 1, 1, c), relu=True)
        if u.groups:
            shape = (2 * middle, k, k, u.middle)
            y = self.layer(f"{name}.gc", y, window, shape, relu=True, groups=u.groups)
        else:
            y = self.layer(f"{name}.dw", y, window, (k, k, middle), relu=True)
        y = self.layer(f"{name}.pw2", y, Window(), (u.out, 1, 1, y.type.shape[2]), relu=False)
        if u.residual and y.type.shape == x.type.shape:
            scale = np.hypot(x.type.affine.scale[0], y.type.affine.scale[0])
            out = Affine((float(scale),), int(self.rng.integers(-9, 9)))
            y = self._run(self.b(self._own(ops.Add(out)), x, y, name=f"{name}.add"))
        return y if u.pool is None else self._pool(f"{name}.pool", y, u.pool)

    def _pool(self, name: str, x: Node, pool: Pool) -> Node:
        """Append a pool."""
        size, window = (3, 3), Window.same(3, 2)
        kind: Op = ops.MaxPool(size, window)
        if pool is Pool.MEAN:
            out = Affine((x.type.affine.scale[0] * 0.9,), int(self.rng.integers(-9, 9)))
            kind = ops.MeanPool(size, window, out)
        return self._run(self.b(kind, x, name=name))

    def graph(self, x: Node) -> Graph:
        """Pool, and finish."""
        return self.b.graph(self._run(self.b(ops.AvgPool(), x, name="pool")))

    def _run(self, n: Node) -> Node:
        out = n.op.reference(n, *(self._value(x) for x in n.inputs))
        assert not isinstance(out, tuple)
        self.values[n] = out
        return n

    def _value(self, n: Node) -> Value:
        return self.b.data[n.name] if isinstance(n.op, Param) else self.values[n]


@functools.cache
def network(seed: int, units: tuple[Unit, ...], size: int = 8, stem: int = 4) -> Graph:
    """Return a random network: a strided 3x3 stem, `units`, a pool."""
    net = Network(np.random.default_rng(seed), size)
    x = net.layer("stem", net.image, Window((2, 2), (0, 1, 0, 1)), (stem, 3, 3, 3), relu=True)
    for i, u in enumerate(units):
        net.imported = u.imported
        x = net.unit(f"b{i}", x, u)
        x = extended(net, f"b{i}.extra", x, u.extra) if u.extra else x
    return net.graph(x)


def image(rng: np.random.Generator, size: int) -> Array:
    """Not a photograph, but smooth like one."""
    coarse = rng.normal(0, 60, (2, 2, 3)).repeat(size // 2 + 1, 0).repeat(size // 2 + 1, 1)
    noisy = coarse[:size, :size] + rng.normal(0, 25, (size, size, 3))
    return np.clip(noisy.round(), -128, 127).astype(np.int8)


#: Two residuals, a stride, odd channel counts, every kernel size.
SMALL_UNITS = (Unit(6, 4), Unit(9, 5, kernel=5, stride=2), Unit(10, 5, kernel=7))


def small_network(seed: int = 0) -> Graph:
    """Return the network that most tests use."""
    return network(seed, SMALL_UNITS)


def step_feeds(
    rng: np.random.Generator, graph: Graph, ways: int, step: int, lr: float
) -> dict[str, Value]:
    """Return what one call of an entry point takes, whichever inputs it has."""
    size = next((n.type.shape[0] for n in graph.inputs() if n.name == "image"), 1)
    every: dict[str, Value] = {
        "image": image(rng, size),
        "label": rng.integers(0, ways, 1).astype(np.int32),
        "lr": np.array([lr], np.float32),
        "clock": np.array([7, step], np.int32),
        "share": np.array([1 / (1 + step % 3)], np.float32),
    }
    return {n.name: every[n.name] for n in graph.inputs()}


def linked(graphs: Mapping[str, Graph]) -> HostProgram:
    """Compile entry points and load them."""
    return quick_build(link(graphs))


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message of a refusal: exit code 2, one line, and nothing on standard output."""
        assert (self.code, self.out) == (2, "")
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert self.err.endswith(lines[0] + "\n")
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")

    @property
    def json(self) -> Any:
        """The object that was printed, and nothing else."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)


Run = Callable[..., Done]
"""Runs a command line, by words: the fixture `run`."""

COMMAND = (
    # A shell may have started the tests with Ctrl-C ignored, and children inherit that.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from kilograd.__main__ import main; main()"
)
"""The program of a command line in another process."""
