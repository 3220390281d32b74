"""What a network computes, in real numbers: the reference for networks that have no codes.

Batches: every value is [n, ...], with the axes of the file behind.  Codes count as the reals that
they stand for; `Arithmetic.CODES` also rounds each value to its own codes, as a device would.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kilograd.ir import Affine, Array
from kilograd.layers.network import (
    UNBOUNDED,
    Bounds,
    ChannelScale,
    Clamp,
    Concat,
    Constant,
    Convolution,
    Curve,
    Dense,
    Gather,
    Layer,
    Layout,
    LogSoftmax,
    Mean,
    Network,
    Operation,
    Pad,
    Pair,
    Pool,
    PoolKind,
    Product,
    Requantise,
    Reshape,
    Resize,
    Sides,
    Slice,
    Softmax,
    Sum,
    Tensor,
    Transpose,
    Value,
)
from kilograd.quant.curves import curve

_PATCHES = 1 << 24
"""Elements of patches at once: 64 MiB of float32."""


class Arithmetic(enum.Enum):
    """What becomes of a value that has a quantisation."""

    REALS = enum.auto()  # nothing
    CODES = enum.auto()  # it is rounded to the nearest code, and clamped to -128 ... 127


def evaluate(
    network: Network,
    inputs: Mapping[str, Array],
    wanted: Iterable[Value] | None = None,
    arithmetic: Arithmetic = Arithmetic.REALS,
) -> dict[Value, Array]:
    """Return values for a batch of inputs: those `wanted`, or the outputs of the network.

    `inputs`: reals by name, [n, ...] each, float32 or float64, which is what is computed in.
    """
    keep = set(network.outputs if wanted is None else wanted)
    steps = computed(network, inputs, arithmetic)
    return {value: y for value, y in steps if value in keep}


def computed(
    network: Network, inputs: Mapping[str, Array], arithmetic: Arithmetic = Arithmetic.REALS
) -> Iterator[tuple[Value, Array]]:
    """Yield every value as soon as it is computed; one is dropped when nothing reads it any more.

    For statistics of networks whose values do not fit into memory together.
    """
    last = {v: i for i, layer in enumerate(network.layers) for v in layer.inputs}
    values: dict[Value, Array] = {}
    for v in network.inputs:
        values[v] = rounded(inputs[v.name], v.quant, arithmetic)
        yield v, values[v]
    dtype = np.result_type(*inputs.values())
    for i, layer in enumerate(network.layers):
        with np.errstate(over="ignore", invalid="ignore"):  # who asks looks at what is not finite
            y = applied(layer, [values[v] for v in layer.inputs], network.layout, dtype)
        y = rounded(y, layer.output.quant, arithmetic)
        for v in layer.inputs:
            if last[v] == i:
                values.pop(v, None)
        values[layer.output] = y
        yield layer.output, y


def real(tensor: Tensor, dtype: np.dtype[np.floating] | type = np.float32) -> Array:
    """Return what a tensor stands for."""
    if tensor.quant is None:
        return tensor.values.astype(dtype, copy=False)
    return dequantised(tensor.values, tensor.quant).astype(dtype, copy=False)


def dequantised(codes: Array, quant: Affine) -> Array:
    """Return the reals of codes, float64."""
    scale = quant.unit * np.array(quant.scale)
    if quant.axis is not None:
        scale = scale.reshape([-1 if a == quant.axis else 1 for a in range(codes.ndim)])
    return (codes.astype(np.float64) - quant.zero_point) * scale


def codes(x: Array, quant: Affine) -> Array:
    """Return the nearest int8 codes of reals, with one scale, half to even."""
    y = np.rint(x / quant.scale[0]) + quant.zero_point
    return np.clip(y, -128, 127).astype(np.int8)


def rounded(x: Array, quant: Affine | None, arithmetic: Arithmetic) -> Array:
    """Return what is left of a value in an arithmetic, in its element type."""
    if quant is None or arithmetic is Arithmetic.REALS:
        return x
    return dequantised(codes(x, quant), quant).astype(x.dtype)


def applied(layer: Layer, xs: list[Array], layout: Layout, dtype: np.dtype[np.floating]) -> Array:
    """Return what a layer makes of batches; what depends on no input has a batch of one."""
    op, shape = layer.op, layer.output.shape
    match op:
        case Constant(tensor):
            return real(tensor, dtype).reshape(1, *shape)
        case Convolution() | Pool():
            maps = _channels_last(xs[0], layout)
            y = _convolution(op, maps) if isinstance(op, Convolution) else _pooled(op, maps)
            return _clamped(_as_in_file(y, layout, len(shape)), op.clamp)
        case Dense():
            y = xs[0] @ real(op.weight, dtype).T
            return _clamped(y if op.bias is None else y + real(op.bias, dtype), op.clamp)
        case ChannelScale(factor, offset):
            axis = 1 if layout is Layout.CHANNELS_FIRST else -1
            along = [1] * xs[0].ndim
            along[axis] = -1
            return xs[0] * factor.astype(dtype).reshape(along) + offset.astype(dtype).reshape(along)
        case Sum(clamp):
            return _clamped(np.add(*_aligned(xs, len(shape))), clamp)
        case Product(clamp):
            return _clamped(np.multiply(*_aligned(xs, len(shape))), clamp)
        case Resize(factors):
            rows, columns = (2, 3) if layout is Layout.CHANNELS_FIRST else (1, 2)
            return xs[0].repeat(factors[0], rows).repeat(factors[1], columns)
        case Mean(axes):
            return xs[0].mean(tuple(a + 1 for a in axes)).reshape(-1, *shape)
        case Clamp() | Curve() | Softmax() | LogSoftmax() | Requantise():
            return _of_elements(op, xs[0])
        case _:
            return moved(op, xs, shape)


def _of_elements(op: Clamp | Curve | Softmax | LogSoftmax | Requantise, x: Array) -> Array:
    match op:
        case Clamp(bounds):
            return _clamped(x, bounds)
        case Curve():
            return curve(op, x)
        case Softmax():
            e = np.exp(x - x.max(-1, keepdims=True))
            return e / e.sum(-1, keepdims=True)
        case LogSoftmax():
            x = x - x.max(-1, keepdims=True)
            return x - np.log(np.exp(x).sum(-1, keepdims=True))
        case Requantise():
            return x


def moved(op: Operation, xs: list[Array], shape: tuple[int, ...]) -> Array:
    """Return what an operation makes that moves elements."""
    x = xs[0]
    match op:
        case Concat(axis):
            n = max(len(y) for y in xs)  # constants have one row
            whole = [np.broadcast_to(y, (n, *y.shape[1:])) for y in xs]
            return np.concatenate(whole, axis + 1)
        case Slice(axis, begin, count, step):
            return x.take(range(begin, begin + count * step, step), axis + 1)
        case Gather(axis, index):
            return x.take(index, axis + 1)
        case Transpose(order):
            return x.transpose(0, *(a + 1 for a in order))
        case Reshape():
            return x.reshape(-1, *shape)
        case Pad(sides, value):
            return np.pad(x, [(0, 0), *sides], constant_values=value)
        case _:
            raise TypeError(f"{op} has no case here")


def _clamped(x: Array, bounds: Bounds) -> Array:
    return x if bounds == UNBOUNDED else np.clip(x, *bounds)


def _aligned(xs: list[Array], rank: int) -> list[Array]:
    """Give all the same rank: missing axes stand behind that of the batch."""
    return [x.reshape(len(x), *(1,) * (rank + 1 - x.ndim), *x.shape[1:]) for x in xs]


def _channels_last(x: Array, layout: Layout) -> Array:
    """View a map as [n, h, w, c]; one of a single axis as [n, 1, l, c]."""
    if x.ndim == 3:
        x = x[:, None] if layout is Layout.CHANNELS_LAST else x[:, :, None]
    return x if layout is Layout.CHANNELS_LAST else np.moveaxis(x, 1, -1)


def _as_in_file(y: Array, layout: Layout, rank: int) -> Array:
    """Undo `_channels_last`."""
    y = y if layout is Layout.CHANNELS_LAST else np.moveaxis(y, -1, 1)
    if rank == 3:
        return y
    return y[:, 0] if layout is Layout.CHANNELS_LAST else y[:, :, 0]


@dataclass(frozen=True)
class _Taps:
    """What each place of a kernel sees of a padded batch [n, h, w, c]: a view [n, oh, ow, c]."""

    x: Array
    kernel: Pair
    stride: Pair
    dilation: Pair

    @property
    def size(self) -> Pair:
        """Return height and width of the result."""
        down, across = (
            (length - d * (k - 1) - 1) // s + 1
            for length, k, s, d in zip(
                self.x.shape[1:3], self.kernel, self.stride, self.dilation, strict=True
            )
        )
        return down, across

    def __iter__(self) -> Iterator[Array]:
        (h, w), (sh, sw), (dh, dw) = self.size, self.stride, self.dilation
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                rows = slice(i * dh, i * dh + sh * (h - 1) + 1, sh)
                columns = slice(j * dw, j * dw + sw * (w - 1) + 1, sw)
                yield self.x[:, rows, columns]


def _padded(x: Array, pad: Sides, value: float = 0.0) -> Array:
    if not any(pad):
        return x
    return np.pad(x, ((0, 0), pad[:2], pad[2:], (0, 0)), constant_values=value)


def _convolution(op: Convolution, x: Array) -> Array:
    """[n, h, w, c] -> [n, oh, ow, out]."""
    w = real(op.weight, x.dtype)
    taps = _Taps(_padded(x, op.pad), (w.shape[1], w.shape[2]), op.stride, op.dilation)
    if op.groups == 1:
        y = _full(taps, w)
    elif w.shape[3] == 1:
        y = _depthwise(taps, w)
    else:
        y = _grouped(taps, w, op.groups)
    return y if op.bias is None else y + real(op.bias, x.dtype)


def _full(taps: _Taps, w: Array) -> Array:
    """Return filters over all channels: patches, a few images at once, times a matrix."""
    n, (h, wide) = len(taps.x), taps.size
    matrix = w.reshape(len(w), -1).T
    out = np.empty((n, h, wide, len(w)), taps.x.dtype)
    step = max(1, _PATCHES // (h * wide * len(matrix)))
    for i in range(0, n, step):
        part = _Taps(taps.x[i : i + step], taps.kernel, taps.stride, taps.dilation)
        patches = np.concatenate(list(part), axis=-1)
        out[i : i + step] = (patches.reshape(-1, len(matrix)) @ matrix).reshape(-1, *out.shape[1:])
    return out


def _depthwise(taps: _Taps, w: Array) -> Array:
    """Return filters of one channel each; output channel j reads j // (out / in)."""
    n, c = len(taps.x), taps.x.shape[3]
    out = np.zeros((n, *taps.size, c, len(w) // c), taps.x.dtype)
    kernels = w.reshape(c, len(w) // c, -1)
    for i, x in enumerate(taps):
        out += x[..., None] * kernels[:, :, i]
    return out.reshape(n, *taps.size, len(w))


def _grouped(taps: _Taps, w: Array, groups: int) -> Array:
    """Return filters over a group of channels each."""
    inputs, outputs = w.shape[3], len(w) // groups
    parts = []
    for g in range(groups):
        x = taps.x[..., g * inputs : (g + 1) * inputs]
        own = w[g * outputs : (g + 1) * outputs]
        parts.append(_full(_Taps(x, taps.kernel, taps.stride, taps.dilation), own))
    return np.concatenate(parts, axis=-1)


def _pooled(op: Pool, x: Array) -> Array:
    """[n, h, w, c] -> [n, oh, ow, c]."""

    def taps(x: Array, value: float) -> _Taps:
        return _Taps(_padded(x, op.pad, value), op.kernel, op.stride, (1, 1))

    match op.kind:
        case PoolKind.MAX:
            return functools.reduce(np.maximum, taps(x, -np.inf))
        case PoolKind.MEAN:
            total = functools.reduce(np.add, taps(x, 0.0))
            if op.count_pad or not any(op.pad):
                return total / x.dtype.type(op.kernel[0] * op.kernel[1])
            ones = np.ones((1, *x.shape[1:3], 1), x.dtype)
            return total / functools.reduce(np.add, taps(ones, 0.0))
