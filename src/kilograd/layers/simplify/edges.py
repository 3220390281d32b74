"""What stands at the edges of a network: softmax, and codes made of reals and back."""

from __future__ import annotations

from dataclasses import replace

from kilograd.layers.network import (
    Curve,
    CurveKind,
    Layer,
    LogSoftmax,
    Network,
    Requantise,
    Reshape,
    Softmax,
    Value,
)
from kilograd.layers.simplify.edit import edited, only_user


def drop_edges(network: Network) -> Network:
    """Give logits for probabilities, and codes as the first and the last layer have them.

    An input that a file takes as reals, or in another scale, becomes the codes that its first
    layer makes of it: its value says how.
    """
    return _outputs(_inputs(network))


def _inputs(network: Network) -> Network:
    user = only_user(network)
    same: dict[Value, Value] = {}
    dropped: dict[Layer, tuple[Layer, ...]] = {}
    inputs = []
    for v in network.inputs:
        first = user.get(v)
        if first is not None and isinstance(first.op, Requantise) and first.output.quant:
            codes = Value(v.name, v.shape, first.output.quant)
            dropped[first], same[first.output] = (), codes
            inputs.append(codes)
        else:
            inputs.append(v)
    return edited(replace(network, inputs=tuple(inputs)), dropped, same) if same else network


def _outputs(network: Network) -> Network:
    made, users = network.made(), network.users()
    same: dict[Value, Value] = {}
    dropped: dict[Layer, tuple[Layer, ...]] = {}
    for v in network.outputs:
        last = made.get(v)
        if last is None or users[v]:
            continue
        if isinstance(last.op, Reshape) and v.quant is None and len(users[last.inputs[0]]) == 1:
            last = made.get(last.inputs[0], last)  # of probabilities: of logits just as well
        if _is_edge(last) and last.output not in set(network.outputs) - {v}:
            dropped[last], same[last.output] = (), last.inputs[0]
    return edited(network, dropped, same)


def _is_edge(x: Layer) -> bool:
    match x.op:
        case Softmax() | LogSoftmax() | Curve(kind=CurveKind.SIGMOID):
            return True
        case Requantise():  # of an input alone it would leave no network
            return x.inputs[0].quant is not None
        case _:
            return False
