"""Operators on elements: activations, sums, products.  Names of arguments are PyTorch's."""

from __future__ import annotations

import math

import numpy as np

from kilograd.frontend.torch_export.building import At, Held, Translation, finite, scalar
from kilograd.frontend.torch_export.program import Argument, Ref, Stored
from kilograd.layers.network import (
    UNBOUNDED,
    Clamp,
    Curve,
    CurveKind,
    LogSoftmax,
    Product,
    Softmax,
    Sum,
    Value,
)
from kilograd.layers.unsupported import UnsupportedError


def curve(kind: CurveKind) -> Translation:
    """Return the translation of a function without parameters."""
    return lambda at: at.make(Curve(kind), at.input())


def clamp_to(low: float, high: float) -> Translation:
    """Return the translation of relu and relu6."""
    return lambda at: at.make(Clamp((low, high)), at.input())


def hardtanh(at: At) -> Held:
    """hardtanh, which is what nn.ReLU6 calls too."""
    return _clamped(at, at.call.number("min_val", -1.0), at.call.number("max_val", 1.0))


def clamp(at: At) -> Held:
    """clamp, clamp_min and clamp_max between numbers."""
    low, high = (
        default if at.call.get(name) is None else at.call.number(name)
        for name, default in zip(("min", "max"), UNBOUNDED, strict=True)
    )
    return _clamped(at, low, high)


def _clamped(at: At, low: float, high: float) -> Held:
    if low > high:
        raise UnsupportedError(f"it clamps to {low} ... {high}")
    return at.make(Clamp((low, high)), at.input())


def gelu(at: At) -> Held:
    """The exact one, or that of tanh."""
    match at.call.text("approximate", "none"):
        case "none":
            kind = CurveKind.GELU
        case "tanh":
            kind = CurveKind.GELU_TANH
        case other:
            raise UnsupportedError(f"its approximation {other!r} is unknown")
    return at.make(Curve(kind), at.input())


def leaky(at: At) -> Held:
    """leaky_relu with its slope."""
    slope = at.call.number("negative_slope", 0.01)
    return at.make(Curve(CurveKind.LEAKY, slope), at.input())


def prelu(at: At) -> Held:
    """prelu with one slope for all channels."""
    slope = at.stored("weight")
    if slope.array.size != 1:
        raise UnsupportedError(
            "it has a slope for each channel; use nn.PReLU() with one, or LeakyReLU"
        )
    parameter = float(finite(slope.array, slope.origin).item())
    return at.make(Curve(CurveKind.LEAKY, parameter), at.input())


def elu(at: At) -> Held:
    """elu without scales."""
    if at.call.number("scale", 1) != 1 or at.call.number("input_scale", 1) != 1:
        raise UnsupportedError("it has scales; use nn.ELU")
    return at.make(Curve(CurveKind.ELU, at.call.number("alpha", 1.0)), at.input())


def softplus(at: At) -> Held:
    """softplus with beta 1; its threshold changes no float32 result."""
    if at.call.number("beta", 1) != 1 or at.call.number("threshold", 20) < 15:
        raise UnsupportedError("its beta or threshold are not those of nn.Softplus()")
    return at.make(Curve(CurveKind.SOFTPLUS), at.input())


def softmax(at: At) -> Held:
    """softmax and log_softmax of the last axis."""
    x = at.input()
    if at.axis(at.call.integer("dim"), len(x.shape)) != len(x.shape) - 1:
        raise UnsupportedError("it is along another axis than the last; move that axis to the end")
    return at.make(LogSoftmax() if at.call.operator == "log_softmax" else Softmax(), x)


def square(at: At) -> Held:
    """x * x."""
    x = at.input()
    return at.make(Product(), x, x)


def power(at: At) -> Held:
    """x ** 2, x ** 0.5 and x ** 1."""
    match at.call.number("exponent"):
        case 2:
            return square(at)
        case 0.5:
            return at.make(Curve(CurveKind.SQRT), at.input())
        case 1:
            return at.input()
        case other:
            raise UnsupportedError(f"the exponent is {other}; 2 and 0.5 are read")


def add(at: At) -> Held:
    """self + alpha * other."""
    return _sum(at, at.call.number("alpha", 1))


def subtract(at: At) -> Held:
    """self - alpha * other."""
    return _sum(at, -at.call.number("alpha", 1))


def subtract_from(at: At) -> Held:
    """other - alpha * self."""
    if at.call.number("alpha", 1) != 1:
        raise UnsupportedError("its alpha is not 1; multiply before")
    a, b = _operand(at, at.call.get("other")), at.input()
    negative = at.step(Curve(CurveKind.NEG), b.shape, b)
    return at.make(Sum(), negative, _operand_value(at, a, b))


def _sum(at: At, factor: float) -> Held:
    a, b = (_operand(at, at.call.get(name)) for name in ("self", "other"))
    if isinstance(b, Stored):
        b = b if factor == 1 else Stored("", b.array * np.float32(factor))
    elif factor == -1:
        b = at.step(Curve(CurveKind.NEG), b.shape, b)
    elif factor != 1:
        raise UnsupportedError(f"its alpha is {factor}; multiply before")
    return at.make(Sum(), *_pair(at, a, b))


def multiply(at: At) -> Held:
    """self * other."""
    a, b = (_operand(at, at.call.get(name)) for name in ("self", "other"))
    return at.make(Product(), *_pair(at, a, b))


def divide(at: At) -> Held:
    """Self / other, which is not computed."""
    if at.given("rounding_mode"):
        raise UnsupportedError("it divides integers; leave it out of the module")
    a, b = (_operand(at, at.call.get(name)) for name in ("self", "other"))
    if not isinstance(b, Stored):
        raise UnsupportedError("it divides by what is computed; multiply instead")
    if not np.all(b.array):
        raise UnsupportedError("it divides by zero")
    inverse = (1 / b.array.astype(np.float64)).astype(np.float32)
    return at.make(Product(), *_pair(at, a, Stored("", inverse)))


def _operand(at: At, argument: Argument) -> Held:
    """Return a number, a stored tensor, or a value, which may have fewer elements than its name."""
    return at.held(argument) if isinstance(argument, Ref) else _number(argument)


def _number(argument: Argument) -> Stored:
    found = scalar(argument)
    if found is None or not math.isfinite(found.array.item()):
        raise UnsupportedError("an operand is neither a tensor nor a finite number")
    return found


def _pair(at: At, a: Held, b: Held) -> tuple[Value, Value]:
    """Return both as values of one rank."""
    if isinstance(a, Value) and isinstance(b, Value):
        if len(a.shape) != len(b.shape):
            raise UnsupportedError("its operands differ in rank; give both the same axes")
        return a, b
    if isinstance(a, Value):
        return a, _operand_value(at, b, a)
    if isinstance(b, Value):
        return _operand_value(at, a, b), b
    raise UnsupportedError("both operands are constants; compute it before the export")


def _operand_value(at: At, held: Held, other: Value) -> Value:
    """Return a constant with the axes of an image, of which it may have fewer."""
    if isinstance(held, Value):
        return held
    if held.quant is not None:
        raise UnsupportedError(
            f"{held.origin!r} has codes; only those of weights and biases are read"
        )
    rank, array = len(other.shape), held.array
    if array.ndim == rank + 1:
        if len(array) != 1:
            raise UnsupportedError(f"{held.origin!r} differs from image to image")
        array = array[0]
    if array.ndim > rank:
        raise UnsupportedError(f"{held.origin!r} has more axes than what it is used with")
    return at.constant(array.reshape((1,) * (rank - array.ndim) + array.shape), held.origin)
