"""What passes over networks of layers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kilograd.ir import Array
from kilograd.layers.network import Constant, Layer, Network, Tensor, Value


def edited(
    network: Network,
    layers: Mapping[Layer, Sequence[Layer]],
    values: Mapping[Value, Value] | None = None,
) -> Network:
    """Return the network with layers in place of others, and values read in place of others.

    The same network where nothing is replaced.
    """
    values = values or {}
    if not layers and not values:
        return network

    def now(v: Value) -> Value:
        while v in values:
            v = values[v]
        return v

    kept: list[Layer] = []
    for old in network.layers:
        for x in layers.get(old, (old,)):
            inputs = tuple(now(v) for v in x.inputs)
            kept.append(x if inputs == x.inputs else replace(x, inputs=inputs))
    return replace(network, layers=tuple(kept), outputs=tuple(now(v) for v in network.outputs))


def constants(network: Network) -> dict[Value, Tensor]:
    """Map values to the constant numbers that they are."""
    return {x.output: x.op.tensor for x in network.layers if isinstance(x.op, Constant)}


def scalar(tensor: Tensor | None) -> float | None:
    """Return the number that all elements of a float constant are, if that is so."""
    if tensor is None or tensor.quant is not None or not tensor.values.size:
        return None
    first = tensor.values.flat[0]
    return float(first) if (tensor.values == first).all() else None


def by_channel(tensor: Tensor | None, shape: tuple[int, ...]) -> Array | None:
    """Return a number a channel, if a float constant is that for maps or vectors of this shape."""
    if tensor is None or tensor.quant is not None or not shape:
        return None
    values = tensor.values
    if values.ndim > len(shape) or any(n != 1 for n in values.shape[:-1]):
        return None
    if values.ndim and values.shape[-1] not in {1, shape[-1]}:
        return None
    return np.broadcast_to(values.reshape(values.shape[-1:]), shape[-1:])


def only_user(network: Network) -> dict[Value, Layer]:
    """Map values to the one layer that reads them, where there is one and they are no output."""
    return {
        v: users[0]
        for v, users in network.users().items()
        if len(users) == 1
        and len(users[0].inputs) == len(set(users[0].inputs))
        and v not in network.outputs
    }


def unused(name: str, taken: Iterable[str]) -> str:
    """Return a name like this one that is not taken."""
    names = set(taken)
    return next(
        n for i in range(len(names) + 2) if (n := f"{name}_{i}" if i else name) not in names
    )
