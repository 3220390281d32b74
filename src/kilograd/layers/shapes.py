"""Which shapes layers make: what a file says of its tensors is checked with it, not believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kilograd.layers.network import (
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
    Operation,
    Pad,
    Pool,
    Product,
    Requantise,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Sum,
    Transpose,
)

Shape = tuple[int, ...]


def fits(layer: Layer, layout: Layout) -> bool:
    """Tell whether a layer can read its inputs, and makes the shape that its output has."""
    try:
        return _made(layer.op, [v.shape for v in layer.inputs], layer.output.shape, layout)
    except (IndexError, ValueError):
        return False


def _made(op: Operation, xs: Sequence[Shape], y: Shape, layout: Layout) -> bool:
    match op:
        case Constant(tensor):
            return not xs and tensor.values.shape == y
        case Convolution() | Pool() | Resize() | ChannelScale():
            (x,) = xs
            return _on_map(op, _channels_last(x, layout), _channels_last(y, layout))
        case Dense():
            (x,) = xs
            return x[-1] == op.weight.values.shape[1] and y == (*x[:-1], len(op.weight.values))
        case Sum() | Product():
            a, b = xs
            return np.broadcast_shapes(a, b) == y
        case Clamp() | Curve() | Softmax() | LogSoftmax() | Requantise():
            return [y] == xs
        case Reshape():
            (x,) = xs
            return math.prod(x) == math.prod(y)
        case Concat(axis):
            whole = sum(x[axis] for x in xs)
            return all(_with(x, axis, whole) == y for x in xs)
        case _:
            (x,) = xs
            return _of_axes(op, x, y)


def _of_axes(op: Operation, x: Shape, y: Shape) -> bool:
    match op:
        case Mean(axes):
            kept = tuple(1 if i in axes else n for i, n in enumerate(x))
            gone = tuple(n for i, n in enumerate(x) if i not in axes)
            return max(axes) < len(x) and y in {kept, gone}
        case Slice(axis, begin, count, step):
            inside = begin >= 0 and count > 0 and step > 0 and begin + (count - 1) * step < x[axis]
            return inside and _with(x, axis, count) == y
        case Gather(axis, index):
            inside = min(index) >= 0 and max(index) < x[axis]
            return inside and _with(x, axis, len(index)) == y
        case Transpose(order):
            return sorted(order) == list(range(len(x))) and tuple(x[a] for a in order) == y
        case Pad(sides):
            padded = tuple(a + n + b for n, (a, b) in zip(x, sides, strict=True))
            return min(min(s) for s in sides) >= 0 and padded == y
    return False


def _on_map(
    op: Convolution | Pool | Resize | ChannelScale,
    x: tuple[int, int, int],
    y: tuple[int, int, int],
) -> bool:
    """Tell it for maps [h, w, c]."""
    h, w, c = x
    match op:
        case Resize(factors):
            return y == (h * factors[0], w * factors[1], c)
        case ChannelScale(factor, offset):
            return x == y and factor.shape == offset.shape == (c,)
        case Pool():
            kernel, dilation, out = op.kernel, (1, 1), c
        case Convolution():
            out, *kernel_, inputs = op.weight.values.shape
            kernel, dilation = (kernel_[0], kernel_[1]), op.dilation
            if inputs * op.groups != c or out % op.groups:
                return False
    top, bottom, left, right = op.pad
    if min(*kernel, *op.stride, *dilation) < 1 or min(op.pad) < 0:
        return False
    room = h + top + bottom, w + left + right
    sides = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(room, kernel, op.stride, dilation, strict=True)
    ]
    return min(sides) > 0 and y == (*sides, out)


def _channels_last(x: Shape, layout: Layout) -> tuple[int, int, int]:
    """Return a map's shape as [h, w, c]; one of a single axis has height 1, a vector both."""
    x = (*x[1:], x[0]) if layout is Layout.CHANNELS_FIRST else x
    h, w, c = (*(1,) * (3 - len(x)), *x)
    return h, w, c


def _with(x: Shape, axis: int, length: int) -> Shape:
    return (*x[:axis], length, *x[axis + 1 :])
