"""How the inputs of a file lie in the network: as the first layer that minds wants them."""

from __future__ import annotations

import itertools

import numpy as np

from kilograd.ir import Array
from kilograd.layers.network import (
    ChannelScale,
    Clamp,
    Constant,
    Convolution,
    Curve,
    Layer,
    Layout,
    Network,
    Pool,
    Product,
    Requantise,
    Reshape,
    Resize,
    Sum,
    Taken,
    Transpose,
    Value,
)
from kilograd.layers.simplify.places import NEW, Axes, Place, arranged, index, natural


def map_axes(layout: Layout, rank: int) -> Axes:
    """Return the axes of maps as layers want them; those of the file where there is no map."""
    match layout, rank:
        case Layout.CHANNELS_FIRST, 3:
            return (1, 2, 0)
        case Layout.CHANNELS_FIRST, 2:
            return (NEW, 1, 0)
        case Layout.CHANNELS_LAST, 2:
            return (NEW, 0, 1)
    return tuple(range(rank))


def given(network: Network, v: Value) -> tuple[Place, Taken]:
    """Return where an input lies so that nothing has to move it, and how it is had."""
    last, where = _followed(network, v)
    axes = natural(last.shape)
    if any(_wants_map(x) for x in network.users()[last]) or len(last.shape) == 3:
        axes = map_axes(network.layout, len(last.shape))
    shape, wanted = arranged(last.shape, axes), where[index(last.shape, axes)]
    if last == v:
        value = Value(v.name, shape, v.quant)
        return Place(value, v.shape, axes), Taken(v.shape, tuple(a for a in axes if a != NEW))
    for order in itertools.permutations(natural(v.shape)):
        if (index(v.shape, order) == wanted).all():
            value = Value(v.name, shape, v.quant)
            return Place(value, v.shape, wanted), Taken(v.shape, order)
    return Place(v, v.shape, natural(v.shape)), as_given(v)


def as_given(v: Value) -> Taken:
    """Return how an input is had that is the one of the file."""
    return Taken(v.shape, natural(v.shape))


def _followed(network: Network, v: Value) -> tuple[Value, Array]:
    """Follow an input through what moves it, or takes elements by themselves.

    Return the last value of its shape, and the index in the input of each element.
    """
    users = network.users()
    where = np.arange(int(np.prod(v.shape)))
    while len(users[v]) == 1:
        (x,) = users[v]
        match x.op:
            case Transpose(order):
                where = where[index(v.shape, order)]
            case Reshape() | Clamp() | Curve() | Requantise():
                pass
            case Sum() | Product() if _with_constant(network, x, v):
                pass
            case _:
                break
        v = x.output
    return v, where


def _with_constant(network: Network, x: Layer, v: Value) -> bool:
    made = network.made()
    others = [made.get(i) for i in x.inputs if i != v]
    return x.output.shape == v.shape and all(
        o is not None and isinstance(o.op, Constant) for o in others
    )


def _wants_map(x: Layer) -> bool:
    return (
        isinstance(x.op, Convolution | Pool | Resize | ChannelScale) and len(x.inputs[0].shape) > 1
    )
