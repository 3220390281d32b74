"""What no output needs goes, and what does nothing."""

from __future__ import annotations

from dataclasses import replace

from kilograd.layers.network import (
    UNBOUNDED,
    Clamp,
    Concat,
    Gather,
    Layer,
    Network,
    Pad,
    Requantise,
    Reshape,
    Resize,
    Slice,
    Transpose,
    Value,
)
from kilograd.layers.simplify.edit import edited


def drop_dead(network: Network) -> Network:
    """Drop layers that no output depends on, and those that return what they read."""
    network = _without_identities(network)
    needed = set(network.outputs)
    kept: list[Layer] = []
    for x in reversed(network.layers):
        if x.output in needed:
            needed.update(x.inputs)
            kept.append(x)
    if len(kept) == len(network.layers):
        return network
    return replace(network, layers=tuple(reversed(kept)))


def _without_identities(network: Network) -> Network:
    """Let the users of a layer that does nothing read what it reads."""
    same: dict[Value, Value] = {
        x.output: x.inputs[0]
        for x in network.layers
        if len(x.inputs) == 1
        and x.inputs[0].quant == x.output.quant
        and x.inputs[0].shape == x.output.shape
        and _does_nothing(x)
    }
    return edited(network, {x: () for x in network.layers if x.output in same}, same)


def _does_nothing(x: Layer) -> bool:
    """Tell whether an operation leaves elements where and what they are, as its shapes agree."""
    match x.op:
        case Reshape() | Concat() | Requantise() | Resize(factors=(1, 1)):
            return True
        case Clamp(bounds):
            return bounds == UNBOUNDED
        case Transpose(order):
            return order == tuple(sorted(order))
        case Gather(axis, index):
            return index == tuple(range(x.output.shape[axis]))
        case Slice(step=step):
            return step > 0
        case Pad(sides):
            return not any(map(any, sides))
        case _:
            return False
