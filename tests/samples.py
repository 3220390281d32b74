"""Samples of every op: describe an op here once, and every check of `test_ops.py` runs on it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    Builder,
    DType,
    Graph,
    Node,
    Op,
    Param,
    RowCodes,
    TensorType,
    Value,
    interpret,
)
from kilograd.ops import (
    Accumulate,
    Adam,
    Add,
    ArgMax,
    AvgPool,
    BlockAdd,
    Broadcast,
    Clear,
    ClipGrad,
    ClipMask,
    Concat,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    Copy,
    Cosine,
    CosineInputGrad,
    CosinePrototypeGrad,
    CrossEntropy,
    CrossEntropyGrad,
    Dense,
    DenseInputGrad,
    DenseWeightGrad,
    Depthwise,
    DepthwiseInputGrad,
    DepthwiseWeightGrad,
    Dequantise,
    Enrol,
    FisherSum,
    GroupedConv,
    GroupedInputGrad,
    GroupedWeightGrad,
    Lookup,
    MaxPool,
    MaxPoolGrad,
    Mean,
    MeanPool,
    MeanPoolGrad,
    Momentum,
    Overlay,
    PadMap,
    Product,
    ProductGrad,
    ProductSumGrad,
    Rescale,
    Reshape,
    RowRms,
    RowUpdate,
    ScaleChannels,
    Sgd,
    Stage,
    Stream,
    SumPixels,
    Table,
    TableGrad,
    Take,
    TakeGrad,
    ToBlock,
    Update,
    Upsample,
    UpsampleGrad,
    Window,
    WindowPool,
)
from kilograd.quant import ZERO_EXPONENT, Curve, CurveKind, Rounding

X_SCALE = 0.04
#: An output scale so fine that one unit of an accumulator is more than one code, for some channels.
STEEP = Affine((X_SCALE * 0.017,), 3)
LABEL = TensorType((1,), DType.I32)
RATE = TensorType((1,), DType.F32)
CLOCK = TensorType((2,), DType.I32)


@dataclass(frozen=True, eq=False)
class Sample:
    """An op and the types of its inputs; `overlay` has input 1 seen through it."""

    op: Op
    types: tuple[TensorType, ...]
    name: str
    overlay: Overlay | None = None

    def graph(self, keep: tuple[int, ...] = ()) -> Graph:
        """Return a graph of this one op; inputs in `keep` must survive it."""
        b = Builder()
        xs = [self._leaf(b, i, t) for i, t in enumerate(self.types)]
        args = list(xs)
        if self.overlay is not None:
            learned = b.input(f"{self.name}_learned", self.learned_type)
            args[1] = b(self.overlay, xs[1], learned)
        return b.graph(b(self.op, *args, name=f"{self.name}_y"), *(xs[i] for i in keep))

    @property
    def learned_type(self) -> TensorType:
        """The type of the parameter that the overlay shows."""
        assert self.overlay is not None
        return Take(self.overlay.axis, self.overlay.index).infer(self.types[1])

    def _leaf(self, b: Builder, i: int, t: TensorType) -> Node:
        name = f"{self.name}_x{i}"
        quant = t.quant if isinstance(t.quant, Affine | RowCodes) else None
        if i in self.op.writes:
            return b.param(name, np.zeros(t.shape, t.dtype.numpy), quant)
        if isinstance(self.op, Stream) and i:  # its weights are constants
            rng = np.random.default_rng([i, t.size])
            return b.param(name, codes_of(draw(t, "random", rng, i)), quant)
        return b.input(name, t)

    def node(self) -> Node:
        """Return the op applied to its inputs."""
        return self.graph().outputs[0]


def activation(*shape: int, zero: int = -3, scale: float = X_SCALE) -> TensorType:
    return TensorType(shape, DType.I8, Affine((scale,), zero))


def _scales(n: int) -> tuple[float, ...]:
    return tuple(0.01 * (1 + 0.37 * (i % 5)) for i in range(n))


def weight(*shape: int, axis: int = 0) -> TensorType:
    return TensorType(shape, DType.I8, Affine(_scales(shape[axis]), axis=axis))


def bias(n: int) -> TensorType:
    return TensorType((n,), DType.I32, Affine(tuple(_scales(n)), axis=0, unit=X_SCALE))


def floats(*shape: int) -> TensorType:
    return TensorType(shape, DType.F32)


def sums(*shape: int, axis: int = 0) -> TensorType:
    """An accumulated gradient: float32, cut into rows along `axis`."""
    return TensorType(shape, DType.F32, Affine((1.0,), axis=axis))


def gradient(*shape: int, bits: int = 15) -> TensorType:
    return TensorType(shape, DType.I16, BlockExponent(bits))


def total(*shape: int, scale: float = 1.0) -> TensorType:
    return TensorType(shape, DType.I32, BlockExponent(31, scale))


#: height, width, channels in and out, kernel, stride, padding: top, bottom, left, right
Stride = int | tuple[int, int]
Geometry = tuple[int, int, int, int, tuple[int, int], Stride, tuple[int, int, int, int]]
CONVOLUTIONS: tuple[Geometry, ...] = (
    (4, 5, 6, 7, (1, 1), 1, (0, 0, 0, 0)),
    (3, 3, 16, 8, (1, 1), 1, (0, 0, 0, 0)),
    (2, 3, 33, 18, (1, 1), 1, (0, 0, 0, 0)),
    (5, 4, 4, 3, (1, 1), 2, (0, 0, 0, 0)),
    (1, 1, 20, 5, (1, 1), 1, (0, 0, 0, 0)),
    (5, 4, 3, 5, (3, 3), 1, (1, 1, 1, 1)),
    (6, 7, 3, 9, (3, 3), 2, (0, 1, 0, 1)),
    (8, 8, 5, 4, (5, 5), 2, (2, 2, 2, 2)),
    (4, 4, 2, 3, (7, 7), 1, (3, 3, 3, 3)),
    (6, 5, 3, 2, (3, 1), 1, (1, 1, 0, 0)),
    (7, 8, 2, 5, (2, 3), 3, (0, 0, 0, 0)),
    (3, 4, 2, 1, (3, 3), 1, (2, 0, 0, 1)),
    # padding beyond the kernel, on every side
    (4, 3, 3, 5, (2, 1), 1, (1, 3, 2, 4)),
    (5, 4, 9, 8, (3, 3), 2, (4, 0, 0, 5)),
    (3, 3, 8, 4, (1, 1), 1, (1, 2, 2, 1)),
    (3, 3, 8, 4, (1, 1), 1, (0, 1, 0, 2)),
    # other strides down than across
    (5, 6, 8, 12, (1, 1), (2, 1), (0, 0, 0, 0)),
    (5, 6, 8, 10, (1, 1), (1, 3), (0, 0, 0, 0)),
    (7, 9, 5, 6, (3, 3), (1, 2), (1, 1, 1, 1)),
    (9, 7, 4, 8, (3, 5), (3, 1), (0, 2, 1, 0)),
    (6, 8, 3, 4, (1, 4), (1, 2), (0, 0, 3, 1)),
)
DEPTHWISE: tuple[Geometry, ...] = (
    (5, 4, 5, 5, (3, 3), 1, (1, 1, 1, 1)),
    (6, 7, 16, 16, (3, 3), 2, (0, 1, 0, 1)),
    (7, 7, 19, 19, (5, 5), 1, (2, 2, 2, 2)),
    (8, 6, 3, 3, (5, 5), 2, (2, 2, 2, 2)),
    (4, 4, 33, 33, (7, 7), 1, (3, 3, 3, 3)),
    (7, 6, 2, 2, (7, 7), 2, (3, 3, 3, 3)),
    (3, 5, 1, 1, (1, 1), 1, (0, 0, 0, 0)),
    (6, 5, 4, 4, (3, 1), 1, (0, 2, 0, 0)),
    (4, 6, 3, 3, (3, 3), 2, (1, 0, 0, 1)),
    (2, 2, 8, 8, (3, 3), 1, (1, 1, 1, 1)),
    (9, 7, 12, 12, (7, 7), 1, (3, 3, 3, 3)),
    (5, 21, 20, 20, (5, 5), 1, (4, 0, 1, 3)),
    (6, 19, 10, 10, (3, 3), 1, (0, 2, 2, 0)),
    (13, 5, 9, 9, (3, 5), 1, (1, 1, 2, 2)),
    # padding beyond the kernel, on every side
    (5, 3, 16, 16, (2, 1), 1, (1, 2, 2, 2)),
    (4, 5, 8, 8, (3, 3), 1, (4, 4, 4, 9)),
    (5, 4, 12, 12, (5, 5), 2, (6, 0, 7, 9)),
    (3, 3, 20, 20, (1, 1), 1, (1, 2, 2, 3)),
    # other strides down than across
    (9, 7, 12, 12, (3, 3), (2, 1), (1, 1, 1, 1)),
    (6, 21, 8, 8, (5, 5), (1, 3), (2, 2, 0, 4)),
    (8, 9, 17, 17, (3, 3), (1, 2), (1, 1, 0, 1)),
    (11, 6, 3, 3, (4, 2), (3, 2), (0, 1, 1, 0)),
)


@dataclass(frozen=True)
class Filter:
    """A convolution of a stream; `channels` 0: depthwise.  `source`: a stage, or -1: the input."""

    source: int
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: Stride = 1
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Sum:
    """A residual sum of a stream."""

    a: int
    c: int


@dataclass(frozen=True)
class Pooled:
    """A pool of a stream: the largest, or the mean where it `averages`."""

    source: int
    averages: bool
    kernel: tuple[int, int] = (2, 2)
    stride: int = 2
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


Layers = tuple[Filter | Sum | Pooled, ...]
SAME3, SAME5, SAME7 = (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)
#: Height, width and channels of the input, and the layers.
STREAMS: dict[str, tuple[tuple[int, int, int], Layers]] = {
    "a stem and a bottleneck": (
        (11, 9, 3),
        (
            Filter(-1, 6, (3, 3), 2, (0, 1, 0, 1)),
            Filter(0, 0, (3, 3), 1, SAME3),
            Filter(1, 6),
            Sum(0, 2),
        ),
    ),
    "other strides down than across": (
        (17, 8, 4),
        (
            Filter(-1, 8, (3, 3), (1, 2), SAME3),
            Filter(0, 0, (5, 3), (2, 1), (2, 2, 1, 1)),
            Filter(1, 6, (1, 1), (3, 1)),
        ),
    ),
    "a skip of the input": (
        (7, 6, 5),
        (Filter(-1, 18), Filter(0, 0, (5, 5), 1, SAME5), Filter(1, 5), Sum(-1, 2)),
    ),
    "a skip inside, then a stride": (
        (13, 7, 4),
        (
            Filter(-1, 8),
            Filter(0, 0, (7, 7), 1, SAME7),
            Filter(1, 8),
            Sum(2, 0),
            Filter(3, 17, (1, 1)),
            Filter(4, 0, (5, 5), 2, SAME5),
            Filter(5, 7),
        ),
    ),
    "skips over skips": (
        (6, 5, 4),
        (
            Filter(-1, 4, (3, 3), 1, SAME3),
            Sum(0, -1),
            Filter(1, 4, (5, 5), 1, SAME5),
            Sum(2, 0),
            Sum(3, 1),
            Sum(-1, 4),
        ),
    ),
    "kernels of every size, no height divides": (
        (23, 8, 2),
        (
            Filter(-1, 3, (3, 3), 2, (1, 0, 0, 1)),
            Filter(0, 0, (5, 3), 2, (2, 1, 1, 1)),
            Filter(1, 5, (3, 5), 1, (2, 0, 0, 3)),
            Filter(2, 0, (2, 1), 3, (0, 0, 0, 0)),
        ),
    ),
    "rows that nobody reads": (
        (9, 4, 3),
        (Filter(-1, 4, (3, 3), 1, SAME3), Filter(0, 5, (1, 1), 4), Filter(1, 0, (2, 1), 1)),
    ),
    "one row": (
        (1, 6, 3),
        (Filter(-1, 4), Filter(0, 0, (3, 3), 1, SAME3), Filter(1, 3), Sum(-1, 2)),
    ),
    "one row left, then padding above and below": (
        (5, 5, 3),
        (Filter(-1, 4, (5, 5)), Filter(0, 6, (7, 7), 1, SAME7), Filter(1, 0, (1, 1), 1)),
    ),
    "branches that wait for each other": (
        (8, 4, 3),
        (Filter(-1, 4), Filter(0, 4, (5, 5), 1, SAME5), Filter(0, 4), Sum(1, 2)),
    ),
    "pools": (
        (13, 10, 3),
        (
            Filter(-1, 6, (3, 3)),
            Pooled(0, averages=False),
            Filter(1, 5, (3, 3), 1, SAME3),
            Pooled(2, averages=True, kernel=(3, 3), stride=1, pad=SAME3),
            Sum(3, 2),
            Pooled(4, averages=False, kernel=(3, 2), stride=3, pad=(2, 0, 0, 1)),
        ),
    ),
    "a single stage": ((6, 5, 3), (Filter(-1, 9, (3, 3), 1, SAME3),)),
    "a sum of a map with itself": ((4, 3, 2), (Filter(-1, 3, (2, 2)), Sum(0, 0))),
    "wide": (
        (8, 6, 16),
        (Filter(-1, 40), Filter(0, 0, (3, 3), 2, (0, 1, 0, 1)), Filter(1, 24)),
    ),
}


def ways(stride: Stride) -> tuple[int, int]:
    """Return a stride down and across."""
    return (stride, stride) if isinstance(stride, int) else stride


def stream_of(shape: tuple[int, int, int], layers: Layers) -> tuple[Stream, tuple[TensorType, ...]]:
    """Return the op of some layers, and the types of its inputs."""
    first = activation(*shape)
    maps, stages = [first], []
    params: list[TensorType] = []
    for i, layer in enumerate(layers):
        zero = (-128, 5, -7)[i % 3]
        if isinstance(layer, Sum):
            both = maps[layer.a + 1], maps[layer.c + 1]
            scale = 0.6 * sum(x.affine.scale[0] for x in both)
            stages.append(Stage(Add(Affine((scale,), zero)), (layer.a, layer.c)))
            maps.append(stages[-1].op.infer(*both))
            continue
        x = maps[layer.source + 1]
        if isinstance(layer, Pooled):
            window = Window(ways(layer.stride), layer.pad)
            mean = MeanPool(layer.kernel, window, Affine((x.affine.scale[0] * 0.7,), zero))
            stages.append(
                Stage(mean if layer.averages else MaxPool(layer.kernel, window), (layer.source,))
            )
            maps.append(stages[-1].op.infer(x))
            continue
        inputs = x.shape[2] if layer.channels else 1
        w = (
            weight(layer.channels, *layer.kernel, inputs)
            if layer.channels
            else weight(*layer.kernel, x.shape[2], axis=2)
        )
        scale = x.affine.scale[0] * 0.018 * 90 * np.sqrt(np.prod(layer.kernel) * inputs)
        out, window = Affine((float(scale),), zero), Window(ways(layer.stride), layer.pad)
        op = Conv(window, out) if layer.channels else Depthwise(window, out)
        own = (w, bias(w.shape[w.affine.axis or 0]))
        stages.append(Stage(op, (layer.source,)))
        maps.append(op.infer(x, *own))
        params += own
    return Stream(tuple(stages)), (first, *params)


RULES: tuple[Update, ...] = (
    Sgd(3),
    RowRms(4),
    Adam(5),
    Accumulate(6),
    RowRms(7, 0.5, 1e-3),
    Sgd(8, qas=False),
    Momentum(9),
    Momentum(10, 0.5, qas=False),
    Momentum(11, state_bits=16),
    Momentum(12, state_bits=8),
    Adam(13, state_bits=16),
    Adam(14, state_bits=8),
    Accumulate(15, state_bits=16),
    Accumulate(16, state_bits=8),
)


def sample(op: Op, *types: TensorType, overlay: Overlay | None = None) -> Sample:
    return Sample(op, types, "", overlay)


def tail(rule: Update, param: TensorType) -> tuple[TensorType, ...]:
    """Return the types of what an update takes after its gradient."""
    if isinstance(rule, Accumulate):
        return (RATE, CLOCK)[: rule.controls]
    return (*rule.state_types(param), RATE, CLOCK)


def _limited(layer: Conv | Depthwise | GroupedConv) -> Iterator[Op]:
    """Yield a layer with limits, with TFLite's rounding, and with both and a scale above 1."""
    yield replace(layer, limits=(-128, 63))
    yield replace(layer, rounding=Rounding.TFLITE)
    yield replace(layer, limits=(-90, 101), rounding=Rounding.TFLITE)
    yield replace(layer, out=STEEP, limits=(-100, 127), rounding=Rounding.TFLITE)


def limited_stream(op: Stream) -> Stream:
    """Return a stream of which every third stage rounds as TFLite, and another has limits."""
    changes: tuple[dict[str, object], ...] = (
        {"rounding": Rounding.TFLITE},
        {"limits": (-110, 95)},
        {},
    )
    stages = [
        replace(stage, op=replace(stage.op, **changes[i % 3]))  # type: ignore[arg-type]
        if isinstance(stage.op, Conv | Depthwise | Add)
        else stage
        for i, stage in enumerate(op.stages)
    ]
    return Stream(tuple(stages))


def _convolutions() -> Iterator[Sample]:
    for i, (h, w, c, o, (kh, kw), stride, pad) in enumerate(CONVOLUTIONS):
        window = Window(ways(stride), pad)
        x, filters = activation(h, w, c, zero=(-128, -3, 127)[i % 3]), weight(o, kh, kw, c)
        oh, ow = window.output(h, w, kh, kw)
        out = Affine((X_SCALE * 0.018 * 90 * np.sqrt(kh * kw * c),), (-128, 5)[i % 2])
        forward = Conv(window, out)
        back, dw = (
            ConvInputGrad(window, x.shape, bits=15 - i % 2),
            ConvWeightGrad(window, filters.shape),
        )
        dy = gradient(oh, ow, o, bits=15 - i % 3)
        yield sample(forward, x, filters, bias(o))
        yield sample(Conv(window, STEEP), x, filters, bias(o))
        for limited in _limited(forward):
            yield sample(limited, x, filters, bias(o))
        yield sample(back, dy, filters)
        yield sample(dw, x, dy)
        overlays = [
            Overlay(0, tuple(range(0, o, 2))),
            Overlay(3, tuple(range(c // 2, c))),
            Overlay(0, (o - 1,)),
            Overlay(3, tuple(range(0, c, 3))),
            Overlay(3, (c - 1,)),
        ]
        for overlay in overlays[i % 2 :: 2]:
            yield sample(forward, x, filters, bias(o), overlay=overlay)
            twice = replace(forward, rounding=Rounding.TFLITE)
            yield sample(twice, x, filters, bias(o), overlay=overlay)
            yield sample(back, dy, filters, overlay=overlay)
        for rule in RULES[i % 2 :: 2] if i else RULES:
            param = rule.sum_type(filters) if isinstance(rule, Accumulate) else filters
            yield sample(RowUpdate(dw, rule), param, x, dy, *tail(rule, param))


def _depthwise() -> Iterator[Sample]:
    for i, (h, w, c, _, (kh, kw), stride, pad) in enumerate(DEPTHWISE):
        window = Window(ways(stride), pad)
        x, filters = activation(h, w, c, zero=(-128, 4, 127)[i % 3]), weight(kh, kw, c, axis=2)
        oh, ow = window.output(h, w, kh, kw)
        out = Affine((X_SCALE * 0.018 * 90 * np.sqrt(kh * kw),), (-128, 5)[i % 2])
        forward = Depthwise(window, out)
        back = DepthwiseInputGrad(window, x.shape, bits=15 - i % 2)
        dw = DepthwiseWeightGrad(window, filters.shape)
        dy = gradient(oh, ow, c, bits=15 - i % 3)
        yield sample(forward, x, filters, bias(c))
        yield sample(Depthwise(window, STEEP), x, filters, bias(c))
        for limited in _limited(forward):
            yield sample(limited, x, filters, bias(c))
        yield sample(back, dy, filters)
        yield sample(dw, x, dy)
        overlay = Overlay(2, tuple(range(i % 2, c, 2)) or (0,))
        yield sample(forward, x, filters, bias(c), overlay=overlay)
        twice = replace(forward, rounding=Rounding.TFLITE)
        yield sample(twice, x, filters, bias(c), overlay=overlay)
        yield sample(back, dy, filters, overlay=overlay)
        for rule in RULES[i % 2 :: 2] if i else RULES:
            param = rule.sum_type(filters) if isinstance(rule, Accumulate) else filters
            yield sample(RowUpdate(dw, rule), param, x, dy, *tail(rule, param))


#: height, width, channels in and out, groups, kernel, stride, padding
GROUPED: tuple[
    tuple[int, int, int, int, int, tuple[int, int], int, tuple[int, int, int, int]], ...
] = (
    (5, 4, 6, 8, 2, (3, 3), 1, (1, 1, 1, 1)),
    (4, 6, 3, 24, 3, (3, 3), 2, (0, 1, 0, 1)),  # eight filters for each channel
    (3, 3, 8, 4, 4, (1, 1), 1, (0, 0, 0, 0)),
    (6, 5, 12, 15, 3, (2, 3), 2, (1, 0, 2, 1)),
    (3, 4, 32, 32, 2, (3, 3), 1, (1, 1, 1, 1)),
    (4, 4, 5, 5, 1, (5, 5), 1, (2, 2, 2, 2)),
    (2, 3, 4, 8, 2, (1, 2), 1, (2, 1, 1, 0)),  # padding beyond the kernel
)


def _grouped() -> Iterator[Sample]:
    for i, (h, w, c, o, groups, (kh, kw), stride, pad) in enumerate(GROUPED):
        window, n = Window((stride, stride), pad), c // groups
        x, filters = activation(h, w, c, zero=(-128, -3, 127)[i % 3]), weight(o, kh, kw, n)
        dy = gradient(*window.output(h, w, kh, kw), o, bits=15 - i % 3)
        out = Affine((X_SCALE * 0.018 * 90 * np.sqrt(kh * kw * n),), (-128, 5)[i % 2])
        forward = GroupedConv(window, out, groups)
        back = GroupedInputGrad(window, x.shape, groups, bits=15 - i % 2)
        dw = GroupedWeightGrad(
            window, filters.shape, tuple(k // (o // groups) * n for k in range(o))
        )
        yield sample(forward, x, filters, bias(o))
        yield sample(GroupedConv(window, STEEP, groups), x, filters, bias(o))
        for limited in _limited(forward):
            yield sample(limited, x, filters, bias(o))
        yield sample(back, dy, filters)
        yield sample(dw, x, dy)
        yield sample(replace(dw, reads=dw.reads[::-1]), x, dy)
        for overlay in (Overlay(0, tuple(range(0, o, 2))), Overlay(0, (o - 1,))):
            yield sample(forward, x, filters, bias(o), overlay=overlay)
            yield sample(back, dy, filters, overlay=overlay)
        for rule in RULES[i % 2 :: 2] if i else RULES:
            param = rule.sum_type(filters) if isinstance(rule, Accumulate) else filters
            yield sample(RowUpdate(dw, rule), param, x, dy, *tail(rule, param))


def _heads() -> Iterator[Sample]:
    dense_dw = DenseWeightGrad()
    for count, n in ((3, 7), (10, 33)):
        vector, w2 = floats(n), floats(count, n)
        yield sample(Dense(), vector, w2, floats(count))
        yield sample(DenseInputGrad(), floats(count), w2)
        yield sample(dense_dw, vector, floats(count))
        yield sample(Cosine(10.0), vector, w2)
        yield sample(Cosine(10.0, exact=True), vector, w2)
        yield sample(CosineInputGrad(7.0), floats(count), vector, w2)
        yield sample(CosinePrototypeGrad(7.0), floats(count), vector, w2)
        yield sample(CrossEntropy(), floats(count), LABEL)
        yield sample(CrossEntropyGrad(), floats(count), LABEL, RATE)
        yield sample(Enrol(), w2, vector, LABEL)
        yield sample(Lookup(), w2, LABEL, vector)
        for rule in RULES:
            param = rule.sum_type(w2) if isinstance(rule, Accumulate) else w2
            yield sample(
                RowUpdate(dense_dw, rule), param, vector, floats(count), *tail(rule, param)
            )


def _updates() -> Iterator[Sample]:
    for rule in RULES:
        if isinstance(rule, Accumulate):
            grads = floats(5), total(6), total(3, 3, 4, scale=X_SCALE)
            learned = floats(5), bias(6), weight(3, 3, 4, axis=2)
            for param, grad in zip(map(rule.sum_type, learned), grads, strict=True):
                yield sample(rule, param, grad, *tail(rule, param))
            continue
        steps: list[tuple[TensorType, TensorType]] = [(floats(5), floats(5))]
        steps += [
            (bias(6), total(6)),
            (bias(6), sums(6)),
            (weight(4, 2, 1, 3), total(4, 2, 1, 3, scale=X_SCALE)),
            (weight(4, 2, 1, 3), sums(4, 2, 1, 3)),
            (weight(3, 3, 5, axis=2), total(3, 3, 5, scale=X_SCALE)),
            (weight(3, 3, 5, axis=2), sums(3, 3, 5, axis=2)),
            *(
                (p, Accumulate(0, state_bits=bits).sum_type(p))
                for p, bits in (
                    (bias(6), 16),
                    (floats(5), 8),
                    (weight(4, 2, 1, 3), 8),
                    (weight(3, 3, 5, axis=2), 16),
                    (floats(2, 3), 16),
                )
            ),
        ]
        for param, grad in steps:
            yield sample(rule, param, grad, *tail(rule, param))
    yield sample(Clear(), sums(3, 5))
    yield sample(Clear(), floats(7), floats(2))


def _maps() -> Iterator[Sample]:
    shape = (3, 5, 7)
    for za, zc in ((-128, 6), (0, -5)):
        a, c = activation(*shape, zero=za), activation(*shape, zero=zc, scale=0.011)
        yield sample(Add(Affine((0.045,), 9)), a, c)
        yield sample(Add(Affine((0.009,), -128)), c, a)  # a ratio of scales above 2
        yield sample(Add(Affine((0.011 * 2.0**-26,), 5)), a, c)  # so large that 32 bits overflow
        yield sample(Add(Affine((0.045,), 9), limits=(-30, 127)), a, c)
        for twice in (Affine((0.045,), 9), Affine((0.009,), -128), Affine((3.0,), 0)):
            yield sample(Add(twice, rounding=Rounding.TFLITE), a, c)
            yield sample(Add(twice, limits=(-128, 3), rounding=Rounding.TFLITE), c, a)
    for size, layers in STREAMS.values():
        op, kinds = stream_of(size, layers)
        yield sample(op, *kinds)
        yield sample(limited_stream(op), *kinds)


#: height, width, channels, kernel, stride, padding
POOLS: tuple[tuple[int, int, int, tuple[int, int], Stride, tuple[int, int, int, int]], ...] = (
    (4, 6, 5, (2, 2), 2, (0, 0, 0, 0)),
    (7, 5, 3, (3, 3), 2, (1, 1, 1, 1)),
    (5, 6, 9, (3, 2), 1, (0, 2, 1, 0)),
    (6, 7, 4, (2, 3), 3, (1, 0, 0, 1)),  # rows and columns that nothing sees
    (3, 4, 6, (3, 4), 1, (2, 2, 3, 3)),
    (4, 4, 1, (1, 1), 1, (0, 0, 0, 0)),
    # other strides down than across
    (9, 8, 5, (3, 2), (1, 2), (1, 1, 0, 1)),
    (8, 7, 4, (2, 3), (3, 1), (0, 1, 1, 1)),
    (19, 15, 2, (19, 14), 1, (0, 0, 0, 0)),  # more than 256 positions
)


def _pools() -> Iterator[Sample]:
    for i, (h, w, c, size, stride, pad) in enumerate(POOLS):
        window = Window(ways(stride), pad)
        x = activation(h, w, c, zero=(-128, 9, 127)[i % 3])
        dy = gradient(*window.output(h, w, *size), c, bits=14 - i % 3)
        pool = MaxPool(size, window)
        yield sample(pool, x)
        yield sample(ArgMax(pool), x)
        at = ArgMax(pool).infer(x)
        yield sample(MaxPoolGrad(pool, x.shape, bits=15 - i % 2), dy, at)
        yield sample(MeanPool(size, window, x.affine, rounding=Rounding.TFLITE), x)
        out = Affine((X_SCALE * (0.4, 1.0, 1.7)[i % 3],), (5, -128, 9)[i % 3])
        yield sample(MeanPool(size, window, out), x)
        yield sample(MeanPool(size, window, out, limits=(-60, 70)), x)
        yield sample(MeanPoolGrad(size, window, x.shape, bits=15 - i % 2), dy)
    for rounding in Rounding:
        half = Affine((2 * X_SCALE,), 4)  # half the results are just between two codes
        yield sample(Mean(half, rounding), activation(4, 4, 9, zero=1))
        for i, axes in enumerate(((0, 1), (0,), (1,), (0, 1))):
            for scale in (0.3, 1.0, 2.4):  # of the output
                out = Affine((X_SCALE * scale,), (-128, 7)[i % 2])
                yield sample(
                    Mean(out, rounding, axes), activation(4 + i, 6, 5, zero=(3, -128)[i % 2])
                )


#: The curve of each table that tests make.
CURVES: dict[Table, Curve] = {}


def table(kind: CurveKind, x: TensorType, out: Affine, parameter: float = 0.0) -> Table:
    """Return the table of a curve of `x`; what it means is kept."""
    of = Curve(kind, parameter)
    op = Table.of(of, x.affine, out)
    CURVES[op] = of
    return op


#: Smooth ones, so that finite differences know their slopes.
SMOOTH = tuple(
    table(kind, activation(1), out)
    for kind, out in (
        (CurveKind.SIGMOID, Affine((1 / 256,), -128)),
        (CurveKind.TANH, Affine((1 / 128,), 0)),
        (CurveKind.SILU, Affine((0.01,), -100)),  # large ones are clamped
        (CurveKind.NEG, Affine((X_SCALE,), 2)),
    )
)


def _products() -> Iterator[Sample]:
    shape = (3, 5, 7)
    x = activation(*shape)
    for factor in ((1, 1, 7), (3, 5, 1), shape, (1, 1, 1)):
        other = activation(*factor, zero=-128, scale=1 / 256)
        yield sample(Product(Affine((0.02,), 4)), x, other)
        yield sample(Product(Affine((0.05,), -9), rounding=Rounding.TFLITE), x, other)
        yield sample(Product(Affine((2e-7,), 3)), x, other)  # beyond 32 bits
        yield sample(Product(Affine((0.01,), 4), limits=(-20, 50)), x, other)
        yield sample(ProductGrad(), gradient(*shape), other)
        yield sample(ProductGrad(bits=9), gradient(*shape, bits=12), other)
        if factor != shape:
            yield sample(ProductSumGrad(factor), gradient(*shape), x)
            yield sample(ProductSumGrad(factor, bits=12), gradient(*shape), x)
    yield sample(Product(Affine((90.0,), 5), rounding=Rounding.TFLITE), x, activation(1, 1, 7))
    yield sample(Product(Affine((0.05,), 5)), activation(1, 1, 9), activation(1, 1, 9, zero=9))
    yield sample(ProductSumGrad((1, 1, 1)), gradient(1, 1, 9), activation(1, 1, 9))
    yield sample(ProductSumGrad((1, 1, 1)), gradient(4, 2, 1), activation(4, 2, 1))


def _tables() -> Iterator[Sample]:
    for op in SMOOTH:
        yield sample(op, activation(3, 5, 7))
        yield sample(TableGrad(op.slopes), gradient(3, 5, 7), activation(3, 5, 7))
    yield sample(TableGrad((0.0,) * 256), gradient(4, 3), activation(4, 3))
    yield sample(TableGrad((3e4, -3.0) * 128, bits=11), gradient(9), activation(9))
    for out, rounding in ((Affine((0.05,), 7), Rounding.NEAREST), (STEEP, Rounding.TFLITE)):
        yield sample(Rescale(out, rounding=rounding), activation(3, 5, 7))
    yield sample(Rescale(Affine((1e-9,), -3)), activation(5))
    yield sample(Rescale(Affine((0.05,), 7), limits=(7, 80)), activation(3, 5, 7))


def _gradients_and_parts() -> Iterator[Sample]:
    shape = (3, 5, 7)
    yield sample(FisherSum(), floats(7), activation(*shape), gradient(*shape))
    yield sample(FisherSum(), floats(7), activation(*shape, zero=-128), gradient(*shape, bits=13))
    yield sample(ClipMask(), activation(*shape))
    yield sample(ClipMask((-128, 60)), activation(*shape))
    yield sample(ClipMask((-77, 127)), activation(2, 2, 4))
    yield sample(ClipMask(), activation(2, 2, 4))
    mask = TensorType((14,), DType.U8)
    yield sample(ClipGrad(), gradient(*shape), mask)
    yield sample(ClipGrad(), gradient(4, 4, 7, bits=9), mask)
    yield sample(ScaleChannels(_scales(7)), gradient(*shape))
    yield sample(ScaleChannels((1 / 3,), bits=14), gradient(2, 3, 1))
    yield sample(ScaleChannels((1e-6, 1.0, 3e4), bits=12), gradient(2, 2, 3))
    for bits in (15, 13):
        yield sample(BlockAdd(bits=bits), gradient(*shape), gradient(*shape, bits=14))
    for side, channels in ((1, 3), (3, 5), (4, 18)):
        yield sample(AvgPool(), activation(side, side, channels))
        yield sample(AvgPool(Rounding.TFLITE), activation(side, side, channels))
        yield sample(Broadcast((side, side, channels)), gradient(1, 1, channels))
        yield sample(SumPixels(), gradient(side, side, channels, bits=15 - side))
    yield sample(AvgPool(), activation(3, 2, 4, zero=-128))
    yield sample(Dequantise(), activation(1, 1, 9))
    yield sample(Dequantise(), activation(1, 1, 4, zero=-128))
    yield sample(ToBlock((1, 1, 9)), floats(9))
    yield sample(ToBlock((1, 1, 4), bits=11), floats(4))
    yield sample(Take(2, (0, 2, 6)), activation(*shape))
    yield sample(Take(2, (6,)), gradient(*shape))
    yield sample(Take(0, (1, 2)), gradient(*shape))
    yield sample(Take(1, (0, 4)), floats(3, 5, 2))
    for op in (Take(2, (0, 2, 6)), Take(2, (3,)), Take(0, (1, 2)), Take(1, (0, 4))):
        part = op.infer(gradient(*shape, bits=14))
        yield sample(TakeGrad(op.axis, op.index, shape[op.axis]), part)
    yield sample(TakeGrad(1, (0, 2), 5), floats(3, 2, 2))
    yield sample(Take(2, (6, 0, 3, 1, 2, 5, 4)), activation(*shape))
    yield sample(Take(1, (4, 0, 4, 2, 2, 2)), activation(*shape))
    yield sample(TakeGrad(0, (2, 0), 3), gradient(2, 5, 7))
    yield sample(Concat(), activation(3, 2, 4), activation(3, 2, 5))
    yield sample(Concat(), activation(1, 5, 1, zero=-128), activation(1, 5, 1, zero=-128))
    yield sample(Concat(2), *(activation(2, 3, c) for c in (2, 1, 6, 3)))
    yield sample(Concat(0), activation(3, 2, 4), activation(1, 2, 4), activation(2, 2, 4))
    yield sample(Concat(1), activation(2, 3, 4), activation(2, 5, 4))
    yield sample(Concat(0), activation(5))
    yield sample(PadMap(((0, 0), (0, 0), (0, 5))), activation(*shape))
    yield sample(PadMap(((2, 1), (0, 3), (1, 0))), activation(2, 3, 2, zero=-128))
    yield sample(PadMap(((0, 0),) * 3), activation(2, 1, 2))
    for h, w, c, size in ((4, 6, 5, 2), (2, 2, 1, 2), (6, 3, 18, 3), (3, 2, 3, 1)):
        yield sample(WindowPool(size), activation(h, w, c, zero=(-128, 9)[size % 2]))
        for box in ((size, size), (1, size), (size, 1)):
            yield sample(UpsampleGrad(box, bits=15 - size % 2), gradient(h, w, c))
        yield sample(Upsample((size, size)), activation(w, h, c))
        yield sample(Upsample((size, 3 - size % 2)), gradient(w, h, c, bits=13))
    yield sample(Copy(), weight(4, 3, 3, 2), gradient(*shape))


def _views_and_weights() -> Iterator[Sample]:
    yield sample(Reshape((1, 1, 105)), activation(3, 5, 7))
    yield sample(Reshape((5, 21)), gradient(3, 5, 7))
    yield sample(Take(0, (1, 3)), weight(4, 3, 3, 2))
    yield sample(Take(3, (0, 3)), total(2, 3, 3, 4))
    yield sample(Overlay(0, (0, 3)), weight(4, 3, 3, 2), weight(2, 3, 3, 2))
    yield sample(Overlay(3, (1,)), weight(4, 3, 3, 2), weight(4, 3, 3, 1))
    yield sample(Overlay(2, (0, 4)), weight(3, 3, 5, axis=2), weight(3, 3, 2, axis=2))


def _named(number: int, s: Sample) -> Sample:
    """Name a sample after its op, and give the learned part of an overlay the scales it needs."""
    name, types = type(s.op).__name__, s.types
    if isinstance(s.op, RowUpdate):
        name += type(s.op.grad).__name__.removesuffix("WeightGrad") + type(s.op.update).__name__
    if isinstance(s.op, Overlay):
        types = (types[0], Take(s.op.axis, s.op.index).infer(types[0]))
    return Sample(s.op, types, f"{name}{number}" + ("Overlay" if s.overlay else ""), s.overlay)


_FAMILIES = (
    _convolutions,
    _depthwise,
    _grouped,
    _heads,
    _updates,
    _maps,
    _pools,
    _gradients_and_parts,
    _views_and_weights,
    _tables,
    _products,
)
SAMPLES = tuple(_named(i, s) for i, s in enumerate((s for f in _FAMILIES for s in f()), 1))

#: What the data is like.  `far`: exponents far apart, gradients that are nearly all zero.
#: `again`: states made by earlier cases, gradients that rise.
KINDS = ("random", "zeros", "high", "low", "extremes", "far", "tiny", "again", "signs")


def draw(t: TensorType, kind: str, rng: np.random.Generator, at: int) -> Value:
    """Return a value of type `t`; `at` is its place among the inputs."""
    if isinstance(t.quant, BlockExponent):
        return _block(t, t.quant, kind, rng, at)
    shape = t.shape
    if t.dtype is DType.I16:  # positions
        return rng.integers(0, {"zeros": 1, "far": 9}.get(kind, 300), shape, np.int16)
    if t.dtype is DType.U8:
        least, end = {"zeros": (0, 1), "high": (255, 256), "low": (0, 5), "far": (3, 9)}.get(
            kind, (0, 256)
        )
        return rng.integers(least, end, shape, np.uint8)
    if t.dtype is DType.I8:
        zero, least = t.affine.zero_point, -128
        fixed = {"zeros": zero, "high": 127, "low": least}.get(kind)
        if fixed is not None:
            return np.full(shape, fixed, np.int8)
        if kind == "extremes":
            return rng.choice(np.array([least, 127], np.int8), shape)
        return rng.integers(least, 128, shape).astype(np.int8)
    if t.dtype is DType.I32:
        if t.quant is None:  # a label; every sample has at least three classes
            return rng.integers(0, 3, shape).astype(np.int32)
        far = 1 << 30
        fixed = {"zeros": 0, "high": far, "low": -far}.get(kind)
        if fixed is not None:
            return np.full(shape, fixed, np.int32)
        wide = [-far, -70_000, 70_000, far] if kind == "extremes" else [-5000, -1, 0, 99, 20_000]
        return rng.choice(np.array(wide, np.int32), shape)
    return _float(shape, kind, rng, at)


def codes_of(value: Value) -> Array:
    """Narrow a value to an array."""
    assert isinstance(value, np.ndarray)
    return value


def _float(shape: tuple[int, ...], kind: str, rng: np.random.Generator, at: int = 0) -> Array:
    match kind:
        case "signs":  # of zeros: each product of two such inputs is -0
            return np.where(np.indices(shape).sum(axis=0) % 2 == at % 2, 0, -1).astype(np.float32)
        case "zeros":
            return np.zeros(shape, np.float32)
        case "high" | "low":
            return np.full(shape, 1e3 if kind == "high" else -1e3, np.float32)
        case "extremes":
            return rng.choice(np.array([0, 1e-30, -1e-30, 1e6, -1e6, 1], np.float32), shape)
        case "far":
            return (rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 3, shape)).astype(
                np.float32
            )
        case "tiny":
            return (rng.standard_normal(shape) * 1e-31).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def _block(t: TensorType, q: BlockExponent, kind: str, rng: np.random.Generator, at: int) -> Block:
    top, dtype = 1 << q.bits, t.dtype.numpy
    exponent = int(rng.integers(-24, -8))
    match kind:
        case "zeros":
            # a clip may leave zeros with an ordinary exponent behind
            return Block(np.zeros(t.shape, dtype), ZERO_EXPONENT if at == 0 else exponent)
        case "high" | "low":
            return Block(np.full(t.shape, top - 1 if kind == "high" else 1 - top, dtype), exponent)
        case "extremes":
            ends = np.array([1 - top, top - 1, 0, 1, -1], np.int64)
            return Block(rng.choice(ends, t.shape).astype(dtype), exponent)
        case "far":
            sparse = rng.integers(-2, 3, t.shape) * (rng.random(t.shape) < 0.3)
            return Block(sparse.astype(dtype), (-9, -33, -20)[at % 3])
        case "tiny":
            return Block(rng.integers(1 - top, top, t.shape).astype(dtype), -150 if at % 2 else -60)
        case "again":
            # rising to the end, so that exponents are found too small again and again
            limit = 2.0 ** np.linspace(0, q.bits, t.size).reshape(t.shape)
            rising = rng.choice([-1, 1], t.shape) * rng.uniform(limit / 2, limit)
            return Block(np.trunc(rising).astype(dtype), exponent)
    return Block(rng.integers(1 - top, top, t.shape).astype(dtype), exponent)


@dataclass(frozen=True, eq=False)
class Case:
    """What goes into a sample and what its reference makes of it."""

    feeds: dict[str, Value]
    want: dict[str, Value]


@functools.cache
def cases(s: Sample) -> tuple[Case, ...]:
    """Return a case for each kind of data.  What an op overwrites goes into the next case, so
    that optimisers run on states they made themselves.
    """
    graph, out = s.graph(), []
    kept: dict[str, Value] = {}
    for step, kind in enumerate(KINDS):
        rng = np.random.default_rng([step, len(s.name), s.types[0].size])
        feeds: dict[str, Value] = {}
        for i, n in enumerate(
            [*graph.inputs(), *(p for p in graph.params() if p in graph.written())]
        ):
            if n.type == CLOCK:
                seed, time = rng.integers(-(1 << 31), 1 << 31), 99_999 if step == 7 else step
                feeds[n.name] = np.array([seed, time], np.int32)
            elif isinstance(n.op, Param) and not n.name.endswith("_x0"):
                feeds[n.name] = np.zeros(
                    n.type.shape, n.type.dtype.numpy
                )  # the state of an optimiser
            else:
                feeds[n.name] = draw(n.type, kind, rng, i)
        feeds.update(kept)
        want = interpret(graph, feeds)
        kept = {n.name: want[n.name] for n in graph.written()} if step % 4 else {}
        out.append(Case(feeds, want))
    return tuple(out)


# ---- what a damaged state, or a caller who means harm, may hold ----


def _from_outside(s: Sample) -> frozenset[int]:
    """Return the inputs of an op that the program itself does not compute."""
    match s.op:
        case Dense() | Conv() | Depthwise() | GroupedConv():
            return frozenset({1, 2})
        case DenseInputGrad() | Cosine():
            return frozenset({1})
        case CosineInputGrad() | CosinePrototypeGrad():
            return frozenset({2})
        case Lookup():
            return frozenset({0})
        case RowUpdate(grad=DenseWeightGrad()):  # features and logits are finite
            return frozenset(range(len(s.types))) - {1, 2}
        case Update() | RowUpdate() | FisherSum():
            return frozenset(range(len(s.types)))
    return frozenset(s.op.writes)


_NUMBERS = np.array(
    [np.nan, -np.nan, np.inf, -np.inf, 1e38, -1e38, 3.4028235e38, 1e-40, -0.0, 1, -1], np.float32
)
_CLOCKS = (-1, (1 << 31) - 1, -(1 << 31))


def _hostile(t: TensorType, turn: int, rng: np.random.Generator, at: int) -> Value:
    """Return numbers that are none, random bytes, or erased flash."""
    if isinstance(t.quant, BlockExponent):
        value = draw(t, "random", rng, at)
        assert isinstance(value, Block)
        return replace(value, exponent=(300, 127, -1000)[turn])
    if t == CLOCK:
        return np.array([rng.integers(-(1 << 31), 1 << 31), _CLOCKS[turn]], np.int32)
    if t == LABEL:
        return draw(t, "random", rng, at)
    if turn == 0 and t.dtype is DType.F32:
        return rng.choice(_NUMBERS, t.shape)
    erased = np.full(t.nbytes, 255, np.uint8)
    data = rng.integers(0, 256, t.nbytes, np.uint8) if turn < 2 else erased
    return data.view(t.dtype.numpy).reshape(t.shape)


@functools.cache
def hostile_cases(s: Sample) -> tuple[Case, ...]:
    """Return cases in which what comes from outside is none of what an op would leave there."""
    graph, outside, out = s.graph(), _from_outside(s), []
    if isinstance(s.op, Stream | Copy | Clear) or s.overlay or not outside:
        return ()
    for turn in range(3):
        rng = np.random.default_rng([turn, len(s.name), s.types[0].size])
        feeds: dict[str, Value] = {}
        for i, t in enumerate(s.types):
            name = f"{s.name}_x{i}"
            feeds[name] = _hostile(t, turn, rng, i) if i in outside else draw(t, "random", rng, i)
        out.append(Case(feeds, interpret(graph, feeds)))
    return tuple(out)
