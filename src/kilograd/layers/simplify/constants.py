"""Layers that read nothing but constants become constants."""

from __future__ import annotations

from kilograd.layers.evaluate import evaluate, moved
from kilograd.layers.network import (
    Concat,
    Constant,
    Gather,
    Layer,
    Network,
    Reshape,
    Slice,
    Tensor,
    Transpose,
    Value,
)
from kilograd.layers.simplify.edit import edited

_MOVES = (Concat, Gather, Reshape, Slice, Transpose)


def fold_constants(network: Network) -> Network:
    """Compute what depends on no input.  Codes are moved, and nothing else is done to them."""
    known: dict[Value, Tensor] = {}
    new: dict[Layer, tuple[Layer, ...]] = {}
    for x in network.layers:
        if isinstance(x.op, Constant):
            known[x.output] = x.op.tensor
        elif x.inputs and all(v in known for v in x.inputs):
            tensor = _folded(network, x, [known[v] for v in x.inputs])
            if tensor is not None:
                known[x.output] = tensor
                new[x] = (Layer(x.name, Constant(tensor), (), x.output),)
    return edited(network, new)


def _folded(network: Network, x: Layer, inputs: list[Tensor]) -> Tensor | None:
    quants = {t.quant for t in inputs} | {x.output.quant}
    if quants == {None}:
        one = Network(x.name, network.layout, x.inputs, (x.output,), (x,), network.source)
        values = {v.name: t.values[None] for v, t in zip(x.inputs, inputs, strict=True)}
        return Tensor(evaluate(one, values)[x.output][0])
    if len(quants) == 1 and isinstance(x.op, _MOVES):
        codes = moved(x.op, [t.values[None] for t in inputs], x.output.shape)
        return Tensor(codes[0], x.output.quant)
    return None
