"""Filters of nothing but zeros get a scale like those of their layer: of networks in codes.

Training drives whole channels to zero, and converters give them scales of nearly nothing: below
what a multiplier and a shift can say, and fatal to an update, which divides by them.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from kilograd.ir import Affine
from kilograd.layers.network import Convolution, Dense, Layer, Network
from kilograd.layers.simplify.edit import edited
from kilograd.quant import Rounding

_TINY = 2.0**-31
"""A smaller ratio of scales is no multiplier with a shift of at most 31."""


def rescale_zero_channels(network: Network) -> Network:
    """Give zero filters of tiny scales the median scale, and a bias that gives the same codes."""
    new: dict[Layer, tuple[Layer, ...]] = {}
    for x in network.layers:
        if isinstance(x.op, Convolution | Dense) and x.op.bias is not None:
            op = _rescaled(x, x.op, network.rounding)
            if op is not None:
                new[x] = (replace(x, op=op),)
    return edited(network, new)


def _rescaled(x: Layer, op: Convolution | Dense, rounding: Rounding) -> Convolution | Dense | None:
    before, w, after = x.inputs[0].quant, op.weight.quant, x.output.quant
    if before is None or w is None or after is None or op.bias is None or len(w.scale) == 1:
        return None
    step = before.scale[0] / after.scale[0]
    zero = ~op.weight.values.reshape(len(op.weight.values), -1).any(axis=1)
    dead = np.flatnonzero(zero & (step * np.array(w.scale) < _TINY))
    if not len(dead):
        return None
    alive = np.delete(np.array(w.scale), dead)
    # A ratio of one at most: then every code has a bias that gives it.
    sane = min(float(np.median(alive)) if len(alive) else 1 / step, 1 / step)
    scale, bias = np.array(w.scale), op.bias.values.copy()
    for c in dead:
        code = _code(int(bias[c]), step * w.scale[c], rounding)
        bias[c] = round(code / (step * sane))
        scale[c] = sane
    scales = tuple(map(float, scale))
    own = op.bias.quant or Affine(w.scale, axis=0, unit=before.scale[0])
    return replace(
        op,
        weight=replace(op.weight, quant=replace(w, scale=scales)),
        bias=replace(op.bias, values=bias, quant=replace(own, scale=scales)),
    )


def _code(bias: int, ratio: float, rounding: Rounding) -> int:
    """Return the code that a bias alone gives, less the zero point."""
    if rounding is Rounding.TFLITE and ratio < _TINY / 2:
        return 0  # its multiplier is zero then
    scaled = Fraction(bias) * Fraction(ratio)
    return int(abs(scaled) + Fraction(1, 2)) * (1 if scaled > 0 else -1)
