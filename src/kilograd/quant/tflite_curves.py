"""Functions of one code as the int8 kernels of TensorFlow Lite Micro compute them.

Those work in fixed point, and some of their constants in float32: the table of such a function
differs by a code, here and there, from that of the exact one.  Names as in its sources have the
same meaning: q0 is a fraction of 31 bits, q4 has 4 bits in front of the point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from kilograd.ir import Affine, Array
from kilograd.quant.curves import CurveKind
from kilograd.quant.fixed import requantise
from kilograd.quant.rounding import requantise_tflite, rounded_down, tflite_multiplier

_F = np.float32
_ONE = (1 << 31) - 1  # in q0
_INPUT_BITS = 4  # in front of the point

Kernel = Callable[[Array, Affine, Affine, float], Array]
"""Codes x (int64), less their zero point; quantisations of input and output; parameter -> codes."""


def _mul(a: Array | int, b: Array | int) -> Array:
    """A product of fractions, rounded half up: SaturatingRoundingDoublingHighMul."""
    return requantise(np.asarray(a), b, 31)


def _shifted(x: Array, bits: int) -> Array:
    """x * 2^bits, limited to int32: SaturatingRoundingMultiplyByPOT."""
    return np.clip(x << bits, -(1 << 31), _ONE)


def _constant(real: float, integer_bits: int = 0) -> int:
    return min(round(math.ldexp(real, 31 - integer_bits)), _ONE)


def _exp(a: Array, integer_bits: int) -> Array:
    """e^a in q0 for a <= 0: a Taylor series for what is above the last quarter, times constants."""
    quarter = 1 << (29 - integer_bits)
    rest = (a & (quarter - 1)) - quarter  # in -1/4 .. 0
    x = _shifted(rest, integer_bits) + _constant(1 / 8)
    x2 = _mul(x, x)
    x3, x4 = _mul(x2, x), _mul(x2, x2)
    terms = rounded_down(_mul(rounded_down(x4, 2) + x3, _constant(1 / 3)) + x2, 1)
    start = _constant(math.exp(-1 / 8))
    result = start + _mul(start, x + terms)
    remainder = rest - a
    for exponent in range(-2, integer_bits):
        bit = 1 << (31 - integer_bits + exponent)
        factor = _constant(math.exp(-(2.0**exponent)))
        result = np.where(remainder & bit, _mul(result, factor), result)
    return np.where(a == 0, _ONE, result)


def _inverse(a: Array) -> Array:
    """2 / (1 + a) in q2 for a in 0 .. 1, by three steps of Newton."""
    half = (a + _ONE + 1) >> 1  # both are positive
    x = _constant(48 / 17, 2) + _mul(half, _constant(-32 / 17, 2))
    for _ in range(3):
        x = x + _shifted(_mul(x, (1 << 29) - _mul(half, x)), 2)
    return x


def _in_q4(x: Array, scale: float) -> tuple[Array, Array]:
    """Return codes as fixed-point numbers, and how far out they are: -1, 1, or 0 for inside."""
    multiplier, shift = tflite_multiplier(math.ldexp(scale, 31 - _INPUT_BITS))
    left = 31 - shift
    most = math.floor(math.ldexp((1 << _INPUT_BITS) - 1, 31 - _INPUT_BITS - left))
    outside = (x >= most).astype(int) - (x <= -most)
    inside = np.where(outside == 0, x, 0)
    return requantise_tflite(inside, multiplier, max(shift, 1)), outside


def _logistic(x: Array, qx: Affine, qy: Affine, parameter: float) -> Array:
    q4, outside = _in_q4(x, qx.scale[0])
    positive = _shifted(_inverse(_exp(-np.abs(q4), _INPUT_BITS)), 1)
    q0 = np.where(q4 > 0, positive, _ONE - positive)
    q0 = np.where(q4 == 0, 1 << 30, q0)
    y = rounded_down(q0, 31 - 8) - 128
    return np.where(outside == 0, y, np.where(outside > 0, 127, -128))


def _tanh(x: Array, qx: Affine, qy: Affine, parameter: float) -> Array:
    q4, outside = _in_q4(x, qx.scale[0])
    magnitude = _shifted(_inverse(_exp(-np.abs(q4), _INPUT_BITS + 1)) - (1 << 29), 2)
    q0 = np.where(q4 == 0, 0, np.sign(q4) * magnitude)
    y = rounded_down(q0, 31 - 7)
    return np.where(outside == 0, y, np.where(outside > 0, 127, -128))


def _sixteen_bits(real: np.float32) -> tuple[int, int]:
    """Return a multiplier of 16 bits, and its exponent."""
    multiplier, shift = tflite_multiplier(float(real))
    return min((multiplier + (1 << 15)) >> 16, (1 << 15) - 1), 31 - shift


def _int16(x: Array) -> Array:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _hard_swish(x: Array, qx: Affine, qy: Affine, parameter: float) -> Array:
    fine = _F(1 / 128) * _F(qx.scale[0])
    out, out_exponent = _sixteen_bits(fine / _F(qy.scale[0]))
    gate, gate_exponent = _sixteen_bits(fine / (_F(3) / _F(32768)))
    high = x << 7
    preshift = requantise(high, out, 15)
    reluish = high
    if gate_exponent > 0:
        reluish = _int16(reluish << (gate_exponent - 1))
    reluish = requantise(reluish, gate, 15)
    if gate_exponent > 0:
        reluish = _int16(reluish << 1)
    if gate_exponent < 0:
        reluish = rounded_down(reluish, -gate_exponent)
    reluish = (reluish + (1 << 15)) >> 1
    product = reluish * preshift
    halved = np.sign(product) * (np.abs(product) >> 15)  # rounded towards zero
    return rounded_down(halved, max(-out_exponent, 0)) + qy.zero_point


def _leaky_relu(x: Array, qx: Affine, qy: Affine, parameter: float) -> Array:
    scale, out = _F(qx.scale[0]), _F(qy.scale[0])
    above = requantise_tflite(x, *_multiplier(scale / out))
    below = requantise_tflite(x, *_multiplier(scale * _F(parameter) / out))
    return np.where(x >= 0, above, below) + qy.zero_point


def _abs(x: Array, qx: Affine, qy: Affine, parameter: float) -> Array:
    ratio = _F(qx.scale[0]) / _F(qy.scale[0])
    return requantise_tflite(np.abs(x), *_multiplier(ratio)) + qy.zero_point


def _multiplier(ratio: np.float32) -> tuple[int, int]:
    return tflite_multiplier(float(ratio))


def _elu(x: Array, qx: Affine, qy: Affine, parameter: float) -> Array:
    real = _F(qx.scale[0]) * x.astype(_F)
    value = np.where(real < 0, np.exp(np.minimum(real, _F(0))) - _F(1), real)
    scaled = value * (_F(1) / _F(qy.scale[0]))
    rounded = np.sign(scaled) * np.floor(np.abs(scaled) + _F(0.5))
    return rounded.astype(np.int64) + qy.zero_point


TFLITE_CURVES: Mapping[CurveKind, Kernel] = {
    CurveKind.SIGMOID: _logistic,
    CurveKind.TANH: _tanh,
    CurveKind.HARD_SWISH: _hard_swish,
    CurveKind.LEAKY: _leaky_relu,
    CurveKind.ELU: _elu,
    CurveKind.ABS: _abs,
}
