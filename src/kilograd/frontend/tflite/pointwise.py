"""Sums, products, activations, and what changes the codes of numbers."""

from __future__ import annotations

import math

import numpy as np

from kilograd.frontend.tflite.builtin import Element
from kilograd.frontend.tflite.moving import real
from kilograd.frontend.tflite.reader import Reader, data_of, own
from kilograd.frontend.tflite.schema import FileOperator, FileTensor
from kilograd.frontend.tflite.weighted import clamp
from kilograd.ir import Affine
from kilograd.layers.network import (
    UNBOUNDED,
    Bounds,
    Clamp,
    Constant,
    Curve,
    CurveKind,
    Operation,
    Product,
    Requantise,
    Sum,
    Tensor,
    Value,
)
from kilograd.layers.unsupported import UnsupportedError

_CLAMPS: dict[str, Bounds] = {
    "RELU": (0.0, math.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU_0_TO_1": (0.0, 1.0),
}
_CURVES = {
    "LOGISTIC": CurveKind.SIGMOID,
    "TANH": CurveKind.TANH,
    "HARD_SWISH": CurveKind.HARD_SWISH,
    "ELU": CurveKind.ELU,
    "EXP": CurveKind.EXP,
    "SQRT": CurveKind.SQRT,
    "ABS": CurveKind.ABS,
    "NEG": CurveKind.NEG,
}
_EXACT = {"LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "ELU"}
"""Curves that are read in int8 as well."""


def add(r: Reader, op: FileOperator) -> None:
    """ADD."""
    _binary(r, op, Sum(clamp(op, 0)))


def multiply(r: Reader, op: FileOperator) -> None:
    """MUL."""
    _binary(r, op, Product(clamp(op, 0)))


def subtract(r: Reader, op: FileOperator) -> None:
    """SUB: the sum with what is the opposite of a constant, or of a layer's output."""
    x, y = data_of(op)
    b = op.inputs[1] if len(op.inputs) > 1 else None
    made = Sum(clamp(op, 0))
    if b is None:
        raise UnsupportedError("lacks an input")
    if r.is_constant(b):
        opposite = _opposite(r, b)
    else:
        given = r.value(b)
        if given.quant is not None:
            raise UnsupportedError("subtracts int8 maps: add one that is negated before")
        opposite = r.layer(Curve(CurveKind.NEG), (given,), b.name, given.shape, None)
    _make(r, made, (r.value(x), opposite), y)


def divide(r: Reader, op: FileOperator) -> None:
    """DIV by constants: the product with their inverse."""
    x, y = data_of(op)
    b = op.inputs[1] if len(op.inputs) > 1 else None
    if b is None or not r.is_constant(b) or b.element is not Element.FLOAT32:
        raise UnsupportedError("divides by no float constant: multiply by its inverse")
    values = r.constant(b, "numbers")
    if not values.all():
        raise UnsupportedError("divides by 0")
    inverse = Tensor((np.float32(1) / values).astype(np.float32).reshape(own(b.shape)))
    factor = r.layer(Constant(inverse), (), b.name, own(b.shape), None)
    _make(r, Product(clamp(op, 0)), (r.value(x), factor), y)


def bound(r: Reader, op: FileOperator) -> None:
    """MAXIMUM, MINIMUM with one constant number."""
    _, y = data_of(op)
    constant = [t for t in op.inputs if r.is_constant(t)]
    others = [t for t in op.inputs if t is not None and not r.is_constant(t)]
    if len(constant) != 1 or len(others) != 1:
        raise UnsupportedError(
            "compares two tensors: only one with one constant number can be imported"
        )
    value, given = real(r, constant[0]), r.value(others[0])
    if given.quant != r.quant(y):
        raise UnsupportedError("compares codes of another quantisation than it makes")
    bounds: Bounds = (value, UNBOUNDED[1]) if op.kind == "MAXIMUM" else (UNBOUNDED[0], value)
    _make(r, Clamp(bounds), (given,), y)


def activation(r: Reader, op: FileOperator) -> None:
    """RELU and its kin."""
    x, y = data_of(op)
    _make(r, Clamp(_CLAMPS[op.kind]), (r.value(x),), y)


def curve(r: Reader, op: FileOperator) -> None:
    """Functions of each element."""
    x, y = data_of(op)
    given = r.value(x)
    if given.quant is not None and op.kind not in _EXACT:
        raise UnsupportedError("computes a function in int8 that is read in float only")
    if op.kind == "LEAKY_RELU":
        made = Curve(CurveKind.LEAKY, op.real(0))
    elif op.kind == "GELU":
        made = Curve(CurveKind.GELU_TANH if op.flag(0) else CurveKind.GELU)
    else:
        made = Curve(_CURVES[op.kind], 1.0 if op.kind == "ELU" else 0.0)
    _make(r, made, (given,), y)


def leaky_per_channel(r: Reader, op: FileOperator) -> None:
    """PRELU, where all its slopes are one."""
    x, y = data_of(op)
    slopes = r.constant(op.inputs[1] if len(op.inputs) > 1 else None, "slopes")
    given = r.value(x)
    if given.quant is not None or slopes.dtype.kind != "f" or np.ptp(slopes):
        raise UnsupportedError("has a slope for each channel: use LEAKY_RELU with one slope")
    _make(r, Curve(CurveKind.LEAKY, float(slopes.reshape(-1)[0])), (given,), y)


def softmax(r: Reader, op: FileOperator) -> None:
    """SOFTMAX inside a network, which is a constant where it is over one element."""
    x, y = data_of(op)
    if not x.shape or x.shape[-1] != 1 or x.shape != y.shape:
        raise UnsupportedError(
            "is no last layer: only a softmax at the end is left out; take it away"
        )
    quant = r.quant(y)
    r.spend(y.size)
    if quant is None:
        r.compute(y, np.ones(y.shape, np.float32))
        return
    code = np.clip(round(1 / quant.scale[0]) + quant.zero_point, -128, 127)
    r.compute(y, np.full(y.shape, code, np.int8))


def quantise(r: Reader, op: FileOperator) -> None:
    """QUANTIZE at the input, or from one quantisation into another."""
    x, y = data_of(op)
    if r.is_constant(x):
        _quantise_constant(r, x, y)
        return
    quant = r.quant(y)
    if x in r.graph.inputs and x.element is Element.FLOAT32:
        r.stand(y, r.given(x, y, quant))
        return
    if x in r.graph.inputs and x.element is Element.UINT8 and len(x.scales) == 1:
        given = r.given(x, x, Affine(x.scales, x.zeros[0] - 128))
        if given.quant == quant:
            r.stand(y, given)
        else:
            _make(r, Requantise(), (given,), y)
        return
    if r.quant(x) is None or quant is None:
        raise UnsupportedError(
            "turns reals of a layer into codes: convert all layers to int8, or none"
        )
    if r.quant(x) == quant:
        r.move(x, y, None)
    else:
        _make(r, Requantise(), (r.value(x),), y)


def _quantise_constant(r: Reader, x: FileTensor, y: FileTensor) -> None:
    """Quantise codes of a file, as TFLite does."""
    values = r.constant(x, "numbers")
    r.spend(y.size)
    before, after = r.quant(x), r.quant(y)
    if after is None or before is None:
        raise UnsupportedError("turns constants into codes: convert it again")
    real = (values.astype(np.float64) - before.zero_point) * before.scale[0] / after.scale[0]
    codes = np.sign(real) * np.floor(np.abs(real) + 0.5) + after.zero_point
    r.compute(y, np.clip(codes, -128, 127).astype(np.int8))


def dequantise(r: Reader, op: FileOperator) -> None:
    """DEQUANTIZE of weights: float16, or int8 of the dynamic range."""
    x, y = data_of(op)
    if not r.is_constant(x):
        raise UnsupportedError(
            "turns codes of a layer into reals: convert all layers to int8, or none"
        )
    values = r.constant(x, "numbers")
    r.spend(y.size)
    if values.size != y.size:
        raise UnsupportedError(f"makes another number of elements than {y}")
    if x.element is Element.INT8 and x.scales:
        if len(x.scales) not in {1, *x.shape[x.axis : x.axis + 1]} or x.axis < 0:
            raise UnsupportedError(f"has {len(x.scales)} scales along axis {x.axis} of {x}")
        shape = [1] * len(x.shape)
        if len(x.scales) > 1:
            shape[x.axis] = -1
        scale, zero = (np.reshape(v, shape) for v in (x.scales, x.zeros))
        values = (values.astype(np.float64) - zero) * scale
    elif values.dtype.kind != "f":
        raise UnsupportedError(f"turns numbers in {x.element.name} into reals")
    r.compute(y, values.astype(np.float32))


def _binary(r: Reader, op: FileOperator, made: Operation) -> None:
    x, y = data_of(op)
    if len(op.inputs) != 2:
        raise UnsupportedError("lacks an input")
    _make(r, made, (r.value(x), r.value(op.inputs[1])), y)


def _opposite(r: Reader, tensor: FileTensor) -> Value:
    """Return a constant with its sign turned: codes and zero point as well."""
    values, quant = r.constant(tensor, "numbers"), r.quant(tensor)
    if quant is not None:
        if values.min() == -128 or quant.zero_point == -128:
            raise UnsupportedError("subtracts codes of -128: add what is negated before")
        quant = Affine(quant.scale, -quant.zero_point)
    held = Tensor((-values).reshape(own(tensor.shape)), quant, "")
    return r.layer(Constant(held), (), tensor.name, own(tensor.shape), quant)


def _make(r: Reader, made: Operation, inputs: tuple[Value, ...], y: FileTensor) -> None:
    """Let an operation on each element make a tensor; shapes are broadcast as numpy does."""
    if any((v.quant is None) != (r.quant(y) is None) for v in inputs):
        raise UnsupportedError(
            "computes with codes and reals at once: convert all layers to int8, or none"
        )
    try:
        shape = np.broadcast_shapes(*(v.shape for v in inputs))
    except ValueError as e:
        raise UnsupportedError(
            f"has inputs of unlike shapes {[list(v.shape) for v in inputs]}"
        ) from e
    r.make(made, inputs, y, shape)
