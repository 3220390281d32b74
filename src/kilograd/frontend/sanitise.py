"""Channels that a network has lost: constants whose scales are out of proportion.

Training drives some channels to zero.  Quantised, they have weight scales far below those of their
layer, and biases up to the limits of int32: sums can overflow, and a rule that divides by a scale
breaks.  What such a channel makes does not depend on the image.  Where that is proved, the channel
is written anew, with the scale that is the median of its layer; what it makes stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kilograd.ir import Array

_SMALL = 0.03
"""Scales below this share of the layer's median are out of proportion."""


def sanitised(description: Mapping[str, Any], tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors of a model folder, lost channels written anew; the others as they are."""
    made_by = {description["input"]["tensor"]: description["input"]}
    found = dict(tensors)
    for op in description["ops"]:
        if "weight" in op:
            found |= _layer(op, made_by[op["inputs"][0]], tensors)
        made_by[op["output"]] = op["out"]
    return found


def _layer(
    op: Mapping[str, Any], x: Mapping[str, Any], tensors: Mapping[str, Array]
) -> dict[str, Array]:
    names = (op["weight"]["tensor"], op["bias"]["tensor"], op["weight"]["scale_tensor"])
    weight, bias, scale = (tensors[name].copy() for name in names)
    median = np.median(scale)
    for c in np.flatnonzero(scale < _SMALL * float(median)):
        share = float(scale[c]) / float(median)
        new = np.rint(weight[c] * share).astype(np.int8), np.int32(np.rint(int(bias[c]) * share))
        before = _range(op, x, weight[c], int(bias[c]), float(scale[c]))
        after = _range(op, x, new[0], int(new[1]), float(median))
        if before[0] == before[1] and before == after:
            weight[c], bias[c], scale[c] = *new, median
    return dict(zip(names, (weight, bias, scale), strict=True))


def _range(
    op: Mapping[str, Any], x: Mapping[str, Any], weight: Array, bias: int, scale: float
) -> tuple[int, int]:
    """Return the least and the most that an output channel makes, whatever it reads."""
    lowest, highest = (
        q - x["zero_point"] for q in (-128, 127)
    )  # padding reads 0, which is between
    w = weight.astype(np.int64)
    factor = x["scale"] * scale / op["out"]["scale"]
    ends = ((np.minimum(w * lowest, w * highest)), np.maximum(w * lowest, w * highest))
    codes = [round((bias + int(end.sum())) * factor) + op["out"]["zero_point"] for end in ends]
    least, most = (min(max(code, -128), 127) for code in codes)
    return least, most
