"""How a sum becomes a code: our rounding, and that of TensorFlow Lite."""

from __future__ import annotations

import enum
import math

import numpy as np

from kilograd.ir import Array
from kilograd.quant.fixed import requantise

_HIGH = 31  # bits that a first multiplication takes off


class Rounding(enum.StrEnum):
    """Which integers a layer computes where the exact result is none."""

    NEAREST = "nearest"
    """Once, to the nearest; ties as docs/arithmetic.md says for each op."""
    TFLITE = "tflite"
    """As the reference kernel of TensorFlow Lite Micro does for this op."""


def tflite_multiplier(real: float) -> tuple[int, int]:
    """Write `real` as multiplier * 2**-shift, as TensorFlow Lite's QuantizeMultiplier does.

    The multiplier is in [2**30, 2**31), or 0 for what is below 2**-32.

    >>> tflite_multiplier(0.75), tflite_multiplier(2.0**-33)
    ((1610612736, 31), (0, 31))
    """
    mantissa, exponent = math.frexp(real)
    multiplier = math.floor(math.ldexp(mantissa, _HIGH) + 0.5)  # exact: a double has 53 bits
    if multiplier == 1 << _HIGH:
        multiplier, exponent = multiplier // 2, exponent + 1
    return (0, _HIGH) if exponent < -_HIGH else (multiplier, _HIGH - exponent)


def requantise_tflite(acc: Array, multiplier: Array | int, shift: Array | int) -> Array:
    """acc * multiplier / 2**shift, rounded twice where more than 31 bits are taken off.

    First 31 bits, half up; then what is left of the shift, half away from zero.  Where TensorFlow
    Lite shifts left before it multiplies, this takes off fewer bits: the same where int32 holds
    what is shifted, and the exact result where it does not.

    >>> requantise_tflite(np.array([3, -3, 5]), 1 << 30, 32).tolist(), -3 / 4
    ([1, -1, 2], -0.75)
    """
    shift64 = np.asarray(shift, np.int64)
    high = requantise(acc, multiplier, np.minimum(shift64, _HIGH))
    return rounded_down(high, np.maximum(shift64 - _HIGH, 0))


def rounded_down(x: Array, shift: Array | int) -> Array:
    """x / 2**shift, rounded to nearest, half away from zero: RoundingDivideByPOT.

    >>> rounded_down(np.array([3, 2, -2, -3]), 2).tolist()
    [1, 1, -1, -1]
    """
    half = (np.int64(1) << np.asarray(shift, np.int64)) >> 1
    return np.asarray((x + half - ((x < 0) & (half > 0))) >> shift)
