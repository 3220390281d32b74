"""From a graph to float layers, and their codes back into the graph: to quantise it anew.

Of plain graphs: convolutions, depthwise ones, sums and means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kilograd.ir import Affine, Array, Builder, Graph, Input, Node, Op, Param, Role
from kilograd.layers.calibrate import Range
from kilograd.layers.evaluate import dequantised
from kilograd.layers.lower import limits_of
from kilograd.layers.network import (
    UNBOUNDED,
    Bounds,
    Convolution,
    Dense,
    Layer,
    Layout,
    Mean,
    Network,
    Operation,
    Source,
    Sum,
    Tensor,
    Value,
)
from kilograd.layers.quantise import coded
from kilograd.ops import Add, AvgPool, Conv, Depthwise

_RELU6 = 6.0
_ROOM = 1 + 1e-6  # 255 * (6 / 255) is not 6 to the last bit


def clamp(op: Op) -> Bounds:
    """Return the bounds of the activation function that the codes of a layer or a sum stand for.

    A zero point of -128 leaves no code below zero: a ReLU, and ReLU6 where 6 is the largest code
    at most.  Narrower limits say it themselves.

    >>> clamp(Add(Affine((6 / 255,), -128))), clamp(Add(Affine((0.1,), 3)))
    ((0.0, 6.0), (-inf, inf))
    """
    if not isinstance(op, Conv | Depthwise | Add):
        raise TypeError(f"{op} has no activation function")
    out, (least, most) = op.out, op.limits
    scale, zero = out.scale[0], out.zero_point
    low, high = UNBOUNDED
    if zero == -128:
        low, high = 0.0, _RELU6 if 255 * scale <= _RELU6 * _ROOM else math.inf
    return (
        low if least == -128 else (least - zero) * scale,
        high if most == 127 else (most - zero) * scale,
    )


def real_parameters(graph: Graph) -> dict[str, Array]:
    """Return what the parameters of a network stand for, float32, in the layout of the graph."""
    return {
        n.name: dequantised(graph.data[n.name], n.type.affine).astype(np.float32)
        for n in graph.params()
    }


def raised(graph: Graph, weights: Mapping[str, Array]) -> Network:
    """Return a graph as float layers; its input keeps its codes.

    `weights`: real values by parameter, in the layout of the graph.

    Raises a TypeError for an op that is no part of a plain network.
    """
    values: dict[Node, Value] = {}
    layers: list[Layer] = []
    for n in graph.nodes:
        if isinstance(n.op, Param):
            continue  # in the layer that reads it
        if isinstance(n.op, Input):
            values[n] = Value(n.name, n.type.shape, n.type.affine)
            continue
        values[n] = Value(n.name, n.type.shape)
        inputs = tuple(values[x] for x in n.inputs if x in values)
        layers.append(Layer(n.name, _operation(n, weights), inputs, values[n]))
    return Network(
        "the network",
        Layout.CHANNELS_LAST,
        tuple(values[n] for n in graph.inputs()),
        tuple(values[n] for n in graph.outputs),
        tuple(layers),
        Source("graph"),
    )


def _operation(n: Node, weights: Mapping[str, Array]) -> Operation:
    match n.op:
        case Conv(window=window) | Depthwise(window=window) as op:
            w, b = (weights[x.name] for x in n.inputs[1:])
            depthwise = isinstance(op, Depthwise)
            filters = w.transpose(2, 0, 1)[..., None] if depthwise else w
            groups = len(filters) if depthwise else 1
            weight, bias = Tensor(filters), Tensor(b)
            return Convolution(
                weight, bias, window.stride, window.pad, groups=groups, clamp=clamp(op)
            )
        case Add() as op:
            return Sum(clamp(op))
        case AvgPool():
            return Mean((0, 1))
    raise TypeError(f"{n} cannot be quantised: only plain networks can")


def quantised(graph: Graph, weights: Mapping[str, Array], ranges: Mapping[str, Range]) -> Graph:
    """Return `graph` with other weights, and scales that suit them and the ranges.

    `weights`: real values by parameter, in the layout of the graph.
    `ranges`: of the activation of each layer and each sum, by node.

    Raises a TypeError for an op that is no part of a plain network.
    """
    network = raised(graph, weights)
    nodes = {n.name: n for n in graph.nodes}
    observed = {v: ranges.get(v.name, (0.0, 0.0)) for v in network.values()}
    # A mean keeps the scale of what it averages.
    same = {x.output: x.inputs[0] for x in network.layers if isinstance(x.op, Mean)}
    made = coded(network, observed, same)
    b = Builder()
    new: dict[str, Node] = {v.name: b.append(nodes[v.name]) for v in made.inputs}
    for x in made.layers:
        n, quant = nodes[x.name], x.output.quant
        assert quant is not None  # noqa: S101
        inputs = [new[v.name] for v in x.inputs]
        if isinstance(n.op, Conv | Depthwise):
            inputs += _parameters(b, n, x.op)
        op = n.op
        if isinstance(op, Conv | Depthwise | Add):
            op = replace(op, out=quant, limits=limits_of(clamp(op), quant))
        new[x.name] = b(op, *inputs, name=n.name)
    return b.graph(*(new[o.name] for o in graph.outputs))


def _parameters(b: Builder, n: Node, op: Operation) -> tuple[Node, Node]:
    """Append weight and bias of a layer, called as in the graph that it is from."""
    assert isinstance(op, Convolution | Dense)  # noqa: S101
    assert op.bias is not None  # noqa: S101
    assert op.weight.quant is not None  # noqa: S101
    codes, quant = op.weight.values, op.weight.quant
    if isinstance(n.op, Depthwise):
        codes, quant = codes[..., 0].transpose(1, 2, 0), Affine(quant.scale, axis=2)
    return (
        b.param(n.inputs[1].name, np.ascontiguousarray(codes), quant, role=Role.WEIGHT),
        b.param(n.inputs[2].name, op.bias.values, op.bias.quant, role=Role.BIAS),
    )
