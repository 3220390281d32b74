"""A clamp becomes a part of the layer before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kilograd.layers.network import (
    UNBOUNDED,
    Bounds,
    Clamp,
    Convolution,
    Dense,
    Layer,
    Network,
    Pool,
    Product,
    Sum,
    Value,
)
from kilograd.layers.simplify.edit import edited, only_user

_CLAMPING = (Convolution, Dense, Sum, Product, Pool)


def merge_clamps(network: Network) -> Network:
    """Merge clamps into what they follow, where nothing else reads it and codes mean the same."""
    user = only_user(network)
    new: dict[Layer, tuple[Layer, ...]] = {}
    same: dict[Value, Value] = {}
    for x in network.layers:
        after = user.get(x.output)
        if x in new or after is None or after in new:
            continue
        if not isinstance(after.op, Clamp) or x.output.quant != after.output.quant:
            continue
        op = x.op
        if isinstance(op, _CLAMPING):
            merged = replace(op, clamp=both(op.clamp, after.op.bounds))
            new[x], new[after] = (Layer(x.name, merged, x.inputs, after.output),), ()
        elif isinstance(op, Clamp):
            bounds = both(op.bounds, after.op.bounds)
            new[x], new[after] = (Layer(x.name, Clamp(bounds), x.inputs, after.output),), ()
    return edited(network, new, same)


def both(first: Bounds, second: Bounds) -> Bounds:
    """Return the bounds of one clamp after another.

    >>> both((0, float("inf")), (-1, 6)), both((0, 1), (2, 3))
    ((0.0, 6.0), (2.0, 2.0))
    """
    low, high = np.clip(first, *second)
    return float(low), float(high)


def bounds_of(x: Layer) -> Bounds:
    """Return what the output of a layer cannot leave, as far as the layer says."""
    match x.op:
        case Convolution() | Dense() | Sum() | Product() | Pool():
            return x.op.clamp
        case Clamp(bounds):
            return bounds
        case _:
            return UNBOUNDED
