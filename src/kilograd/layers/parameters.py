"""Weights and biases as codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kilograd.ir import Affine, Array
from kilograd.layers.calibrate import LEAST_SCALE
from kilograd.layers.network import Tensor

# A channel that training drove to zero would get a scale of nearly nothing: biases beyond int32,
# and updates that divide by it explode.  5 % of the layer's median counts as degenerate.
_SMALLEST_SCALE = 0.05
_NOTHING = 2.0**-16  # of the largest scale of a layer
_LIMIT = (1 << 31) - 1  # a bias this large does not pass the proof of no overflow


def parameters(weight: Tensor, bias: Tensor | None, x: Affine) -> tuple[Tensor, Tensor]:
    """Return weights and bias as codes, for a layer that reads what `x` says; axis 0 is output."""
    w = weight.values.astype(np.float64)
    largest = np.abs(w).max(axis=tuple(range(1, w.ndim))) / 127
    # float32 is what a file holds.
    scale = tuple(float(s) for s in np.maximum(largest, _floor(largest)).astype(np.float32))
    along = np.array(scale).reshape(-1, *(1,) * (w.ndim - 1))
    numbers = np.clip(np.rint(w / along), -127, 127).astype(np.int8)
    real = np.zeros(len(w)) if bias is None else bias.values.astype(np.float64)
    origin = "" if bias is None else bias.origin
    return (
        replace(weight, values=numbers, quant=Affine(scale, axis=0)),
        bias_codes(real, scale, x, origin),
    )


def _floor(scales: Array) -> float:
    """Return the least scale that a channel may have."""
    top = float(scales.max())
    if not top:
        return 1 / 127
    usual = float(np.median(scales))
    if usual < _NOTHING * top:  # most channels are dead
        usual = float(np.median(scales[scales >= _NOTHING * top]))
    return max(_SMALLEST_SCALE * usual, LEAST_SCALE)


def bias_codes(real: Array, scale: tuple[float, ...], x: Affine, origin: str) -> Tensor:
    """Return a bias in units of the products of its layer, int32."""
    step = x.scale[0]
    numbers = np.rint(real / (step * np.array(scale)))
    quant = Affine(scale, axis=0, unit=step)
    return Tensor(np.clip(numbers, -_LIMIT, _LIMIT).astype(np.int32), quant, origin)
