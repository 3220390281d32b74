"""Convolutions and fully connected layers."""

from __future__ import annotations

import math

import numpy as np

from kilograd.frontend.tflite.builtin import ACTIVATIONS, Element
from kilograd.frontend.tflite.reader import Reader, data_of
from kilograd.frontend.tflite.schema import FileOperator, FileTensor
from kilograd.ir import Affine, Array
from kilograd.layers.network import Bounds, Convolution, Dense, Pair, Sides, Tensor, Value
from kilograd.layers.unsupported import UnsupportedError
from kilograd.limits import SIDE


def clamp(op: FileOperator, number: int) -> Bounds:
    """Return what the activation of a layer clamps to."""
    kind = op.option(number, "b")
    found = ACTIVATIONS[kind] if 0 <= kind < len(ACTIVATIONS) else None
    if found is None:
        raise UnsupportedError(
            "has an activation of its own that is no ReLU: convert it with one behind"
        )
    return found


def geometry(
    op: FileOperator, x: FileTensor, y: FileTensor, kernel: Pair, stride: Pair
) -> tuple[Pair, Sides]:
    """Return the shape of the map that windows make, and the padding that the file names.

    Padding of an odd number of rows has one more at the end.
    """
    if len(x.shape) != 4 or len(y.shape) != 4 or x.shape[0] != 1:
        raise UnsupportedError(f"reads {x}: maps have a batch of 1, height, width and channels")
    if not all(1 <= k <= SIDE for k in (*kernel, *stride)):
        raise UnsupportedError(f"has a window of {kernel} at strides {stride}")
    padding = op.option(0, "b")
    if padding not in {0, 1}:
        raise UnsupportedError(f"has padding of kind {padding}")
    out, sides = [], []
    for length, k, s in zip(x.shape[1:3], kernel, stride, strict=True):
        count = -(-length // s) if padding == 0 else (length - k) // s + 1
        total = max((count - 1) * s + k - length, 0) if padding == 0 else 0
        out.append(count)
        sides += [total // 2, total - total // 2]
    if min(out) < 1:
        raise UnsupportedError(f"has a window of {kernel}, larger than its input {x}")
    return (out[0], out[1]), (sides[0], sides[1], sides[2], sides[3])


def convolution(r: Reader, op: FileOperator) -> None:
    """CONV_2D: filters [out, h, w, in / groups]."""
    x, y = data_of(op)
    values = _filters(r, op)
    _, height, width, depth = values.shape
    stride = (op.option(2), op.option(1))
    dilation = (op.option(5, default=1), op.option(4, default=1))
    out, pad = geometry(op, x, y, (height, width), stride)
    _require_undilated(dilation)
    groups, left = divmod(x.shape[3], depth)
    if left or groups < 1 or values.shape[0] % groups:
        raise UnsupportedError(f"has filters {list(values.shape)} over {x}")
    given = r.value(x)
    weight, bias = _numbers(r, op, values, given)
    made = Convolution(weight, bias, stride, pad, (1, 1), groups, clamp(op, 3))
    r.make(made, (given,), y, (*out, values.shape[0]))


def depthwise(r: Reader, op: FileOperator) -> None:
    """DEPTHWISE_CONV_2D: filters [1, h, w, out]; each channel of the input makes some outputs."""
    x, y = data_of(op)
    values = _filters(r, op)
    one, height, width, channels = values.shape
    stride = (op.option(2), op.option(1))
    dilation = (op.option(6, default=1), op.option(5, default=1))
    out, pad = geometry(op, x, y, (height, width), stride)
    _require_undilated(dilation)
    if one != 1 or channels % x.shape[3]:
        raise UnsupportedError(f"has filters {list(values.shape)} over {x}")
    given = r.value(x)
    filters = np.moveaxis(values, 3, 0).reshape(channels, height, width, 1)
    weight, bias = _numbers(r, op, filters, given)
    made = Convolution(weight, bias, stride, pad, (1, 1), x.shape[3], clamp(op, 4))
    r.make(made, (given,), y, (*out, channels))


def dense(r: Reader, op: FileOperator) -> None:
    """FULLY_CONNECTED: weight [out, in] over all that is in, or over its last axis."""
    x, y = data_of(op)
    if op.option(1, "b"):
        raise UnsupportedError("has shuffled weights: convert it without")
    values = r.constant(op.inputs[1] if len(op.inputs) > 1 else None, "weights")
    if values.ndim != 2:
        raise UnsupportedError(f"has weights {list(values.shape)}; they have two axes")
    count, size = values.shape
    rows, left = divmod(x.size, size) if size else (0, 1)
    if left or not rows:
        raise UnsupportedError(f"has weights {list(values.shape)} over {x}")
    given = r.value(x, (size,) if rows == 1 else (rows, size))
    weight, bias = _numbers(r, op, values, given)
    made = Dense(weight, bias, clamp(op, 0))
    shape = (count,) if rows == 1 else (rows, count)
    if y.size != math.prod(shape):
        raise UnsupportedError(f"makes {list(shape)}, and the file says {y}")
    r.stand(y, r.layer(made, (given,), y.name, shape, r.quant(y)))


def _filters(r: Reader, op: FileOperator) -> Array:
    values = r.constant(op.inputs[1] if len(op.inputs) > 1 else None, "filters")
    if values.ndim != 4 or not values.size:
        raise UnsupportedError(f"has filters {list(values.shape)}; they have four axes")
    return values


def _require_undilated(dilation: Pair) -> None:
    if dilation != (1, 1):
        raise UnsupportedError(f"is dilated by {dilation}: use a layer without dilation")


def _numbers(r: Reader, op: FileOperator, values: Array, x: Value) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias, the outputs of which are the first axis of `values`."""
    tensor, *biases = op.inputs[1:]
    if tensor is None:
        raise UnsupportedError("lacks weights")
    if (r.quant(op.outputs[0]) is None) != (x.quant is None):
        raise UnsupportedError(
            "reads codes and makes reals, or the other way: convert all layers to int8"
        )
    r.spend(values.size)
    if values.dtype.kind == "f":
        if x.quant is not None:
            raise UnsupportedError("has float weights over int8 inputs")
        weight, unit = Tensor(values.astype(np.float32, copy=False), origin=r.origin(tensor)), None
    elif x.quant is None:  # of the dynamic range: int8 for a smaller file, reals in the layer
        scale = np.asarray(_scales(tensor, len(values)).scale, np.float32)
        real = values.astype(np.float32) * scale.reshape(-1, *[1] * (values.ndim - 1))
        weight, unit = Tensor(real), None
    else:
        quant = _scales(tensor, len(values))
        weight = Tensor(np.ascontiguousarray(values), quant, r.origin(tensor))
        unit = Affine(quant.scale, 0, quant.axis, x.quant.scale[0])
    bias = _bias(r, biases[0], len(values), unit) if biases and biases[0] is not None else None
    return weight, bias


def _scales(tensor: FileTensor, count: int) -> Affine:
    """Return the scales of int8 weights: one, or one for each output."""
    if tensor.element is not Element.INT8:
        raise UnsupportedError(
            f"has weights in {tensor.element.name}: convert it with int8 weights"
        )
    if any(tensor.zeros):
        raise UnsupportedError(
            "has weights with a zero point: convert it again, to int8 per channel"
        )
    if len(tensor.scales) not in {1, count}:
        raise UnsupportedError(f"has {len(tensor.scales)} scales for {count} outputs")
    return Affine(tensor.scales, axis=0 if len(tensor.scales) > 1 else None)


def _bias(r: Reader, tensor: FileTensor, count: int, quant: Affine | None) -> Tensor:
    """Return biases: reals, or codes in the scales of their layer's input and weights."""
    values = r.constant(tensor, "biases")
    if values.size != count or values.dtype.kind != ("f" if quant is None else "i"):
        raise UnsupportedError(f"has biases {tensor} in {tensor.element.name}")
    if quant is None:
        return Tensor(values.reshape(count).astype(np.float32), None, r.origin(tensor))
    if values.dtype.itemsize != 4:
        raise UnsupportedError(
            f"has biases in {tensor.element.name}: convert it with int8 activations"
        )
    return Tensor(values.reshape(count), quant, r.origin(tensor))
