"""Functions of one number: what a `Curve` computes, and its derivative."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from kilograd.ir import Array

_GELU_CUBE = 0.044715  # of the approximation by tanh, Hendrycks and Gimpel, 2016
_GELU_INNER = math.sqrt(2 / math.pi)
_LARGEST_POWER = 126 * math.log(2)


class CurveKind(enum.StrEnum):
    """A function of one number.  `parameter`: the slope below zero of LEAKY, the alpha of ELU."""

    SIGMOID = "sigmoid"
    TANH = "tanh"
    SILU = "silu"
    HARD_SIGMOID = "hard_sigmoid"  # relu6(x + 3) / 6
    HARD_SWISH = "hard_swish"  # x * relu6(x + 3) / 6
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    LEAKY = "leaky_relu"
    ELU = "elu"
    SOFTPLUS = "softplus"
    MISH = "mish"
    ABS = "abs"
    EXP = "exp"
    SQRT = "sqrt"
    NEG = "neg"


@dataclass(frozen=True)
class Curve:
    """A function of each element by itself: a table of 256 entries, once there are codes."""

    kind: CurveKind
    parameter: float = 0.0


def curve(op: Curve, x: Array) -> Array:
    """Return the function of each element, in the element type of `x`.

    >>> curve(Curve(CurveKind.HARD_SIGMOID), np.array([-4.0, 0, 1.5])).tolist()
    [0.0, 0.5, 0.75]
    """
    return _VALUES[op.kind](x, op.parameter).astype(x.dtype, copy=False)


def slope(op: Curve, x: Array) -> Array:
    """Return the derivative at each element; at a kink, that of the side where x is larger.

    >>> slope(Curve(CurveKind.HARD_SIGMOID), np.array([-3.0, 0, 3])).round(3).tolist()
    [0.167, 0.167, 0.0]
    """
    return _SLOPES[op.kind](x, op.parameter).astype(x.dtype, copy=False)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _exp(x: Array) -> Array:
    """Return e^x, finite: 2^126 for all beyond."""
    return np.exp(np.minimum(x, _LARGEST_POWER))


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, x.dtype.type(0))


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(x + 3, 0, 6) / 6


def _normal(x: Array) -> Array:
    """Return the standard normal distribution function, float64."""
    erf = np.frompyfunc(math.erf, 1, 1)
    return 0.5 * (1 + np.asarray(erf(x / math.sqrt(2)), np.float64))


def _tanh_of_gelu(x: Array) -> Array:
    return np.tanh(_GELU_INNER * (x + _GELU_CUBE * x**3))


def _gelu_tanh_slope(x: Array, _: float) -> Array:
    t = _tanh_of_gelu(x)
    return (1 + t) / 2 + x * (1 - t**2) * _GELU_INNER * (1 + 3 * _GELU_CUBE * x**2) / 2


def _mish_slope(x: Array, _: float) -> Array:
    t = np.tanh(_softplus(x))
    return t + x * (1 - t**2) * _sigmoid(x)


_Function = Callable[[Array, float], Array]

_VALUES: Mapping[CurveKind, _Function] = {
    CurveKind.SIGMOID: lambda x, _: _sigmoid(x),
    CurveKind.TANH: lambda x, _: np.tanh(x),
    CurveKind.SILU: lambda x, _: x * _sigmoid(x),
    CurveKind.HARD_SIGMOID: lambda x, _: _hard_sigmoid(x),
    CurveKind.HARD_SWISH: lambda x, _: x * _hard_sigmoid(x),
    CurveKind.GELU: lambda x, _: x * _normal(x),
    CurveKind.GELU_TANH: lambda x, _: x * (1 + _tanh_of_gelu(x)) / 2,
    CurveKind.LEAKY: lambda x, a: np.where(x < 0, a * x, x),
    CurveKind.ELU: lambda x, a: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    CurveKind.SOFTPLUS: lambda x, _: _softplus(x),
    CurveKind.MISH: lambda x, _: x * np.tanh(_softplus(x)),
    CurveKind.ABS: lambda x, _: np.abs(x),
    CurveKind.EXP: lambda x, _: _exp(x),
    CurveKind.SQRT: lambda x, _: np.sqrt(np.maximum(x, 0)),
    CurveKind.NEG: lambda x, _: -x,
}

_SLOPES: Mapping[CurveKind, _Function] = {
    CurveKind.SIGMOID: lambda x, _: _sigmoid(x) * _sigmoid(-x),
    CurveKind.TANH: lambda x, _: 1 - np.tanh(x) ** 2,
    CurveKind.SILU: lambda x, _: _sigmoid(x) * (1 + x * _sigmoid(-x)),
    CurveKind.HARD_SIGMOID: lambda x, _: np.where((x >= -3) & (x < 3), 1 / 6, 0.0),
    CurveKind.HARD_SWISH: lambda x, _: np.where(x < 3, np.where(x < -3, 0.0, (2 * x + 3) / 6), 1.0),
    CurveKind.GELU: lambda x, _: _normal(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
    CurveKind.GELU_TANH: _gelu_tanh_slope,
    CurveKind.LEAKY: lambda x, a: np.where(x < 0, a, 1.0),
    CurveKind.ELU: lambda x, a: np.where(x < 0, a * np.exp(np.minimum(x, 0)), 1.0),
    CurveKind.SOFTPLUS: lambda x, _: _sigmoid(x),
    CurveKind.MISH: _mish_slope,
    CurveKind.ABS: lambda x, _: np.where(x < 0, -1.0, 1.0),
    CurveKind.EXP: lambda x, _: _exp(x),
    # Zero has a steep one, where the true one is infinite.
    CurveKind.SQRT: lambda x, _: np.where(x < 0, 0.0, 0.5 / np.sqrt(np.maximum(x, 1e-6))),
    CurveKind.NEG: lambda x, _: np.full_like(x, -1),
}
