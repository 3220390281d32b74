"""What each of 256 codes becomes: a curve, between two quantisations."""

from __future__ import annotations

import numpy as np

from kilograd.ir import Affine, Array
from kilograd.quant.curves import Curve, curve, slope
from kilograd.quant.rounding import Rounding
from kilograd.quant.tflite_curves import TFLITE_CURVES

_CODES = np.arange(-128, 128, dtype=np.int64)


def curve_codes(op: Curve, x: Affine, y: Affine, rounding: Rounding = Rounding.NEAREST) -> Array:
    """Return what the codes -128 ... 127 of x become, int8 codes of y.

    `NEAREST` rounds the function of the real, half to even; `TFLITE` gives what TensorFlow Lite
    Micro computes, and a ValueError where it has no int8 kernel of this function.

    >>> from kilograd.quant.curves import CurveKind
    >>> curve_codes(Curve(CurveKind.ABS), Affine((0.5,)), Affine((1.0,), -128))[[125, 128, 131]]
    array([-126, -128, -126], dtype=int8)
    """
    if rounding is Rounding.NEAREST:
        found = _exact(op, x, y)
    elif kernel := TFLITE_CURVES.get(op.kind):
        found = kernel(_CODES - x.zero_point, x, y, op.parameter)
    else:
        raise ValueError(f"TensorFlow Lite Micro has no int8 kernel of {op.kind}")
    return np.clip(found, -128, 127).astype(np.int8)


def curve_slopes(op: Curve, x: Affine, y: Affine) -> Array:
    """Return the derivative at each of the codes -128 ... 127, over the reals, float64.

    Zero where the function is clamped to the codes of y.
    """
    exact = _exact(op, x, y)
    return np.where((exact < -128) | (exact > 127), 0, slope(op, _reals(x)))


def _reals(x: Affine) -> Array:
    return (_CODES - x.zero_point) * x.scale[0]


def _exact(op: Curve, x: Affine, y: Affine) -> Array:
    """Return the codes of y before any clamp."""
    return np.rint(curve(op, _reals(x)) / y.scale[0]) + y.zero_point
