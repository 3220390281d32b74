"""Padding becomes a part of the convolution or pool behind it, but that of means: it counts."""

from __future__ import annotations

import math
from dataclasses import replace

from kilograd.layers.network import (
    Convolution,
    Layer,
    Network,
    Pad,
    Pool,
    PoolKind,
    Sides,
    Value,
)
from kilograd.layers.simplify.clamps import bounds_of
from kilograd.layers.simplify.edit import edited


def fold_pads(network: Network) -> Network:
    """Fold zeros around maps [h, w, c] into what reads them; for the largest also -infinity."""
    made = network.made()
    new: dict[Layer, tuple[Layer, ...]] = {}
    for x in network.layers:
        if not isinstance(x.op, Convolution | Pool):
            continue
        if isinstance(x.op, Pool) and x.op.kind is PoolKind.MEAN:
            if x.op.count_pad and any(x.op.pad):
                new[x] = _unfolded(x, x.op)
            continue
        before = made.get(x.inputs[0])
        if before is None or not isinstance(before.op, Pad):
            continue
        (inner,) = before.inputs
        if inner.quant != x.inputs[0].quant:
            continue
        op = _folded(x.op, before.op, _least(inner, made))
        if op is not None:
            new[x] = (Layer(x.name, op, (inner,), x.output),)
    return edited(network, new)


def _least(v: Value, made: dict[Value, Layer]) -> float:
    """Return a bound below which the value cannot be: of a clamp, or of its codes."""
    clamp = bounds_of(made[v])[0] if v in made else -math.inf
    codes = -math.inf if v.quant is None else (-128 - v.quant.zero_point) * v.quant.scale[0]
    return max(clamp, codes)


def _unfolded(x: Layer, op: Pool) -> tuple[Layer, Layer]:
    """Return a mean that counts its padding as a padding and a mean."""
    (v,) = x.inputs
    height, width, channels = v.shape
    top, bottom, left, right = op.pad
    shape = (height + top + bottom, width + left + right, channels)
    padded = Value(f"{x.output.name}.padded", shape, v.quant)
    sides = ((top, bottom), (left, right), (0, 0))
    return (
        Layer(f"{x.name}.pad", Pad(sides), (v,), padded),
        Layer(x.name, replace(op, pad=(0, 0, 0, 0), count_pad=False), (padded,), x.output),
    )


def _folded(op: Convolution | Pool, pad: Pad, least: float) -> Convolution | Pool | None:
    if len(pad.sides) != 3 or any(pad.sides[2]):
        return None
    (top, bottom), (left, right), _ = pad.sides
    sides: Sides = (
        op.pad[0] + top, op.pad[1] + bottom, op.pad[2] + left, op.pad[3] + right
    )  # fmt: skip
    if isinstance(op, Convolution):
        return replace(op, pad=sides) if pad.value == 0 else None
    # Padding may be larger than all that is in the window, unless nothing can be smaller.
    within = max(sides[:2]) < op.kernel[0] and max(sides[2:]) < op.kernel[1]
    return replace(op, pad=sides) if pad.value <= least and within else None
