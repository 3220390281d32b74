"""Files of TFLite with every operator that is read, as branches of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tflm
from tflm import Operator, Tensor, constant

from kilograd.ir import Array

SHAPE = (1, 6, 8, 4)


@dataclass
class File:
    """A file in the making: float32, or int8 with activations of various scales."""

    int8: bool
    seed: int = 1
    operators: list[Operator] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.s = tflm.schema()
        self.x = self.tensor(SHAPE, 0.02, -3)

    def tensor(self, shape: Sequence[int], scale: float = 0.05, zero: int = 4) -> Tensor:
        if self.int8:
            return Tensor(tuple(shape), (float(np.float32(scale)),), zero)
        return Tensor(tuple(shape), dtype="float32")

    def like(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return Tensor(tuple(shape), x.scale, x.zero, None, x.dtype)

    def numbers(self, shape: Sequence[int], scale: float = 0.01, zero: int = 0) -> Tensor:
        """Return a constant: of an activation's kind."""
        if self.int8:
            codes = self.rng.integers(-127, 128, shape).astype(np.int8)
            return constant(codes, float(np.float32(scale)), zero=zero)
        return constant(self.rng.normal(0, 1, shape).astype(np.float32))

    def weights(self, shape: Sequence[int], axis: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return filters and biases, one scale for each slice along `axis`."""
        count = shape[axis]
        if not self.int8:
            return self.numbers(shape), self.numbers((count,))
        scales = [float(np.float32(v)) for v in self.rng.uniform(0.001, 0.01, count)]
        codes = self.rng.integers(-127, 128, shape).astype(np.int8)
        biases = self.rng.integers(-2000, 2000, count).astype(np.int32)
        bias_scales = [float(np.float32(v * x.scale[0])) for v in scales]
        return constant(codes, *scales, axis=axis), constant(biases, *bias_scales)

    def options(self, kind: str, **fields: Any) -> Any:
        made = getattr(self.s, f"{kind}OptionsT")()
        for name, value in fields.items():
            assert hasattr(made, name), name
            setattr(made, name, value)
        return made

    def add(
        self, name: str, inputs: Sequence[Tensor | None], y: Tensor, options: Any = None
    ) -> Tensor:
        self.operators.append(Operator(name, inputs, [y], options))
        return y

    def out(self, y: Tensor) -> None:
        self.outputs.append(y)

    def build(self) -> bytes:
        return tflm.build(self.operators, [self.x], self.outputs)


def integers(*values: int) -> Tensor:
    return constant(np.array(values, np.int32))


def scalar(value: int) -> Tensor:
    return constant(np.array(value, np.int32))


Branch = Callable[[File], Iterator[Tensor]]


def convolutions(f: File) -> Iterator[Tensor]:
    """Paddings, strides that differ, groups, a window of one axis, activations."""
    for padding, stride, kernel, out, act in (
        (0, (1, 1), (3, 3), (6, 8), 0),
        (0, (2, 2), (3, 3), (3, 4), 1),
        (0, (2, 1), (2, 5), (3, 8), 3),
        (1, (1, 2), (3, 2), (4, 4), 2),
        (1, (1, 1), (6, 8), (1, 1), 0),
        (0, (1, 1), (1, 1), (6, 8), 3),
    ):
        w, b = f.weights((5, *kernel, 4), 0, f.x)
        made = f.options(
            "Conv2D", padding=padding, strideH=stride[0], strideW=stride[1],
            fusedActivationFunction=act, dilationHFactor=1, dilationWFactor=1,
        )  # fmt: skip
        yield f.add("CONV_2D", [f.x, w, b], f.tensor((1, *out, 5), 0.07, -9), made)


def depthwise(f: File) -> Iterator[Tensor]:
    """One output for each channel, and three."""
    for times, stride, act in ((1, 1, 0), (3, 2, 3)):
        w, b = f.weights((1, 3, 3, 4 * times), 3, f.x)
        made = f.options(
            "DepthwiseConv2D", padding=0, strideH=stride, strideW=stride, depthMultiplier=times,
            fusedActivationFunction=act, dilationHFactor=1, dilationWFactor=1,
        )  # fmt: skip
        y = f.tensor((1, 6 // stride, 8 // stride, 4 * times), 0.03, 11)
        yield f.add("DEPTHWISE_CONV_2D", [f.x, w, b], y, made)


def dense(f: File) -> Iterator[Tensor]:
    """Over the whole map; with one scale; without biases; over each pixel."""
    w, b = f.weights((7, 192), 0, f.x)
    made = f.options("FullyConnected", fusedActivationFunction=1)
    yield f.add("FULLY_CONNECTED", [f.x, w, b], f.tensor((1, 7), 0.2, -20), made)
    w = f.numbers((3, 192), 0.004)
    yield f.add(
        "FULLY_CONNECTED", [f.x, w, None], f.tensor((1, 3), 0.2, 9), f.options("FullyConnected")
    )


def pools(f: File) -> Iterator[Tensor]:
    for name in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        for padding, size, stride, out in (
            (0, (3, 3), (2, 2), (3, 4)),
            (1, (2, 3), (2, 1), (3, 6)),
            (1, (6, 8), (1, 1), (1, 1)),
        ):
            made = f.options(
                "Pool2D", padding=padding, filterHeight=size[0], filterWidth=size[1],
                strideH=stride[0], strideW=stride[1], fusedActivationFunction=0,
            )  # fmt: skip
            yield f.add(name, [f.x], f.like(f.x, (1, *out, 4)), made)


def means(f: File) -> Iterator[Tensor]:
    """Of all pixels, with another scale; of one axis; of turned axes."""
    made = f.options("Reducer", keepDims=False)
    yield f.add("MEAN", [f.x, integers(1, 2)], f.tensor((1, 4), 0.011, -7), made)
    keep = f.options("Reducer", keepDims=True)
    yield f.add("MEAN", [f.x, integers(1, 2)], f.tensor((1, 1, 1, 4), 0.02, -3), keep)
    yield f.add("MEAN", [f.x, integers(2)], f.tensor((1, 6, 4), 0.02, -3), made)
    turned = f.add("TRANSPOSE", [f.x, integers(0, 3, 1, 2)], f.like(f.x, (1, 4, 6, 8)))
    first = f.add("MEAN", [turned, scalar(3)], f.tensor((1, 4, 6), 0.02, -3), made)
    yield f.add("MEAN", [first, scalar(-1)], f.tensor((1, 4), 0.02, -3), made)


def sums(f: File) -> Iterator[Tensor]:
    """Of two maps and of a map and constants."""
    half = f.add("LOGISTIC", [f.x], f.tensor(SHAPE, 1 / 256, -128))
    for name in ("Add", "Mul"):
        made = f.options(name, fusedActivationFunction=3)
        yield f.add(name.upper(), [f.x, half], f.tensor(SHAPE, 0.03, 5), made)
        plain = f.options(name, fusedActivationFunction=0)
        yield f.add(name.upper(), [f.x, f.numbers((4,), zero=6)], f.tensor(SHAPE, 0.03, 5), plain)
        yield f.add(name.upper(), [f.x, f.numbers((1,))], f.tensor(SHAPE, 0.03, 5), plain)
    per_channel = f.add(
        "MEAN", [half, integers(1, 2)], f.tensor((1, 1, 1, 4), 1 / 256, -128),
        f.options("Reducer", keepDims=True),
    )  # fmt: skip
    yield f.add("MUL", [f.x, per_channel], f.tensor(SHAPE, 0.01, -8), f.options("Mul"))
    made = f.options("Sub", fusedActivationFunction=1)
    yield f.add("SUB", [f.x, f.numbers((4,), zero=6)], f.tensor(SHAPE, 0.03, -5), made)


def activations(f: File) -> Iterator[Tensor]:
    yield f.add("LOGISTIC", [f.x], f.tensor(SHAPE, 1 / 256, -128))
    yield f.add("TANH", [f.x], f.tensor(SHAPE, 1 / 128, 0))
    yield f.add("HARD_SWISH", [f.x], f.tensor(SHAPE, 0.02, -20), f.options("HardSwish"))
    yield f.add("LEAKY_RELU", [f.x], f.tensor(SHAPE, 0.02, -40), f.options("LeakyRelu", alpha=0.1))
    yield f.add("RELU", [f.x], f.tensor(SHAPE, 0.02, -3))
    yield f.add(
        "LOGISTIC",
        [f.add("RELU", [f.x], f.tensor(SHAPE, 0.01, -90))],
        f.tensor(SHAPE, 1 / 256, -128),
    )
    yield f.add("RELU6", [f.x], f.tensor(SHAPE, 0.02, -3))
    one = (
        constant(np.array(20, np.int8), 0.02, zero=-3)
        if f.int8
        else constant(np.full(1, 0.5, np.float32))
    )
    yield f.add("MAXIMUM", [f.x, one], f.like(f.x, SHAPE), f.options("MaximumMinimum"))
    yield f.add("MINIMUM", [f.x, one], f.like(f.x, SHAPE), f.options("MaximumMinimum"))


def moved(f: File) -> Iterator[Tensor]:
    """What moves elements, alone and in a row."""
    x = f.x
    yield f.add("RESHAPE", [x, integers(1, 8, 24)], f.like(x, (1, 8, 24)), f.options("Reshape"))
    tall = f.add("EXPAND_DIMS", [x, scalar(1)], f.like(x, (1, 1, 6, 8, 4)))
    yield f.add("SQUEEZE", [tall], f.like(x, SHAPE), f.options("Squeeze", squeezeDims=[1]))
    mask = f.options("StridedSlice", beginMask=9, endMask=9)
    ends = [integers(0, 1, 2, 0), integers(0, 5, 8, 0), integers(1, 2, 3, 1)]
    yield f.add("STRIDED_SLICE", [x, *ends], f.like(x, (1, 2, 2, 4)), mask)
    yield f.add("SLICE", [x, integers(0, 0, 0, 1), integers(1, -1, 8, 2)], f.like(x, (1, 6, 8, 2)))
    made = f.options("Gather", axis=3)
    yield f.add("GATHER", [x, integers(3, 0, 0)], f.like(x, (1, 6, 8, 3)), made)
    parts = [f.like(x, (1, 6, 8, 2)) for _ in range(2)]
    f.operators.append(Operator("SPLIT", [scalar(3), x], parts, f.options("Split", numSplits=2)))
    yield from parts
    join = f.options("Concatenation", axis=2)
    yield f.add("CONCATENATION", [parts[0], parts[1]], f.like(x, (1, 6, 16, 2)), join)
    pads = constant(np.reshape(np.array([0, 0, 1, 2, 0, 3, 2, 1], np.int32), (4, 2)))
    yield f.add("PAD", [x, pads], f.like(x, (1, 9, 11, 7)))
    nearest = f.options("ResizeNearestNeighbor")
    yield f.add(
        "RESIZE_NEAREST_NEIGHBOR", [x, integers(12, 24)], f.like(x, (1, 12, 24, 4)), nearest
    )


def spelled(f: File) -> Iterator[Tensor]:
    """Hard-swish in sums and products with single numbers."""
    for shape in ((), (1,), (1, 1, 1, 1)):
        three, sixth = (
            constant(np.full(shape, 127, np.int8), float(np.float32(real / 127)))
            if f.int8
            else constant(np.full(shape, real, np.float32))
            for real in (3, 1 / 6)
        )
        clamped = f.options("Add", fusedActivationFunction=3)
        y = f.add("ADD", [f.x, three], f.tensor(SHAPE, 6 / 255, -128), clamped)
        gate = f.add("MUL", [y, sixth], f.tensor(SHAPE, 1 / 255, -128), f.options("Mul"))
        yield f.add("MUL", [gate, f.x], f.tensor(SHAPE, 0.015, -90), f.options("Mul"))


def turned(f: File) -> Iterator[Tensor]:
    """What is read, and no op of ours computes."""
    yield f.add("EXPAND_DIMS", [f.x, scalar(1)], f.like(f.x, (1, 1, 6, 8, 4)))
    yield f.add("TRANSPOSE", [f.x, integers(0, 3, 1, 2)], f.like(f.x, (1, 4, 6, 8)))


def lines(f: File) -> Iterator[Tensor]:
    """A convolution over one axis, and a layer over each of its steps."""
    x = f.x
    line = f.add("RESHAPE", [x, integers(1, 48, 4)], f.like(x, (1, 48, 4)), f.options("Reshape"))
    high = f.add("EXPAND_DIMS", [line, scalar(1)], f.like(x, (1, 1, 48, 4)))
    w, b = f.weights((6, 1, 5, 4), 0, x)
    made = f.options(
        "Conv2D", padding=0, strideH=1, strideW=2, fusedActivationFunction=1,
        dilationHFactor=1, dilationWFactor=1,
    )  # fmt: skip
    y = f.add("CONV_2D", [high, w, b], f.tensor((1, 1, 24, 6), 0.06, -30), made)
    flat = f.add("RESHAPE", [y, integers(1, 24, 6)], f.like(y, (1, 24, 6)), f.options("Reshape"))
    yield flat
    w, b = f.weights((5, 6), 0, flat)
    full = f.options("FullyConnected", keepNumDims=True)
    yield f.add("FULLY_CONNECTED", [flat, w, b], f.tensor((1, 24, 5), 0.09, 20), full)
    yield f.add("MEAN", [flat, integers(1)], f.tensor((1, 6), 0.05, 3), f.options("Reducer"))


def rescaled(f: File) -> Iterator[Tensor]:
    """Codes in another quantisation, and steps on the way there."""
    if f.int8:
        yield f.add("QUANTIZE", [f.x], f.tensor(SHAPE, 0.013, 40))
        yield f.add("QUANTIZE", [f.x], f.tensor(SHAPE, 0.15, -128))
    one = f.add(
        "SOFTMAX",
        [
            f.add(
                "MEAN",
                [f.x, integers(3)],
                f.tensor((1, 6, 8, 1), 0.02, 0),
                f.options("Reducer", keepDims=True),
            )
        ],
        f.tensor((1, 6, 8, 1), 1 / 256, -128),
        f.options("Softmax", beta=1.0),
    )
    yield f.add("MUL", [f.x, one], f.tensor(SHAPE, 0.03, 1), f.options("Mul"))


def shuffled(f: File) -> Iterator[Tensor]:
    """A channel shuffle as converters write it, with the batch axis in its midst."""
    x = f.x
    a = f.add("TRANSPOSE", [x, integers(0, 3, 1, 2)], f.like(x, (1, 4, 6, 8)))
    b = f.add("RESHAPE", [a, integers(2, 2, 48)], f.like(x, (2, 2, 48)), f.options("Reshape"))
    c = f.add("TRANSPOSE", [b, integers(1, 0, 2)], f.like(x, (2, 2, 48)))
    d = f.add(
        "RESHAPE", [c, integers(2, 1, 2, 6, 8)], f.like(x, (2, 1, 2, 6, 8)), f.options("Reshape")
    )
    for i in range(2):
        e = f.add("GATHER", [d, scalar(i)], f.like(x, (1, 2, 6, 8)), f.options("Gather", axis=0))
        yield f.add("TRANSPOSE", [e, integers(0, 2, 3, 1)], f.like(x, (1, 6, 8, 2)))


BRANCHES: tuple[Branch, ...] = (
    convolutions,
    depthwise,
    dense,
    pools,
    means,
    sums,
    activations,
    moved,
    shuffled,
    lines,
    rescaled,
    spelled,
)


def everything(int8: bool) -> File:
    """Return a file with an output for each case; a layer that does nothing ends each of them.

    So that none of them is the end of the network, where some are left out.
    """
    f = File(int8)
    for branch in (*BRANCHES, turned):
        for y in branch(f):
            twice = f.add("ADD", [y, y], f.tensor(y.shape, 0.1, 1), f.options("Add"))
            f.out(twice)
    return f


def feed(f: File) -> tuple[Array, Array]:
    """Return an input as the file takes it, and the reals that it stands for."""
    if not f.int8:
        x = f.rng.normal(0, 1, SHAPE).astype(np.float32)
        return x, x
    codes = f.rng.integers(-128, 128, SHAPE).astype(np.int8)
    return codes, (codes - np.float32(f.x.zero)) * np.float32(f.x.scale[0])


def _handle(f: File, name: str) -> Tensor:
    """Return a variable."""
    handle = Tensor((), dtype="resource", name=name)
    return f.add("VAR_HANDLE", [], handle, f.options("VarHandle", sharedName=name.encode()))


def _joined(f: File, name: str, x: Tensor, kept: int) -> Tensor:
    """Put what comes in behind the last steps of what came before."""
    shape = (1, kept + x.shape[1], *x.shape[2:])
    handle = _handle(f, name)
    past = f.add("READ_VARIABLE", [handle], f.like(x, (1, kept, *x.shape[2:])))
    join = f.options("Concatenation", axis=1)
    both = f.add("CONCATENATION", [past, x], f.like(x, shape), join)
    ends = [integers(0, x.shape[1], 0, 0), integers(0, 0, 0, 0), integers(1, 1, 1, 1)]
    masks = f.options("StridedSlice", beginMask=13, endMask=15)
    end = f.add("STRIDED_SLICE", [both, *ends], f.like(x, past.shape), masks)
    f.operators.append(Operator("ASSIGN_VARIABLE", [handle, end], []))
    return both


def streaming(state: tuple[int, int] = (3, 2)) -> bytes:
    """Return a network that keeps frames: two come in a call, and nine decide."""
    f = File(int8=True)
    f.x = f.tensor((1, 2, 1, 3), 0.02, -3)
    made = f.options("CallOnce", initSubgraphIndex=1)
    f.operators.append(Operator("CALL_ONCE", [], [], made))
    both = _joined(f, "first", f.x, state[0])
    conv = f.options("Conv2D", padding=1, strideH=2, strideW=1, fusedActivationFunction=1,
                     dilationHFactor=1, dilationWFactor=1)  # fmt: skip
    w, b = f.weights((4, 5, 1, 3), 0, f.x)
    y = f.add("CONV_2D", [both, w, b], f.tensor((1, 1, 1, 4), 0.07, -9), conv)
    both = _joined(f, "second", y, state[1])
    flat = f.add("RESHAPE", [both, integers(1, 12)], f.like(both, (1, 12)), f.options("Reshape"))
    w, b = f.weights((2, 12), 0, both)
    w = constant(w.values, 0.01)  # type: ignore[arg-type] # fully connected: one scale
    f.out(
        f.add(
            "FULLY_CONNECTED", [flat, w, b], f.tensor((1, 2), 0.1, 2), f.options("FullyConnected")
        )
    )
    once = File(int8=True)
    for name, shape, zero in (
        ("first", (1, state[0], 1, 3), -3),
        ("second", (1, state[1], 1, 4), -9),
    ):
        start = constant(
            np.full(shape, zero, np.int8), 0.02 if name == "first" else 0.07, zero=zero
        )
        once.operators.append(Operator("ASSIGN_VARIABLE", [_handle(once, name), start], []))
    return tflm.joined(f.build(), tflm.build(once.operators, [], []))
