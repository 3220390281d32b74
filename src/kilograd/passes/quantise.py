"""Post-training quantisation: float weights and ranges of activations make an int8 network.

The network's own graph says what is computed and which layers end in a ReLU; its old scales and
codes do not matter.  Scales of weights are symmetric, one an output channel; scales of activations
asymmetric, one a tensor: what `docs/arithmetic.md` defines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kilograd.ir import Affine, Array, Builder, Graph, Input, Node, Param, Role
from kilograd.ops import Add, AvgPool, Conv, Depthwise

RELU6_LIMIT = 6.0
_ROOM = 1 + 1e-6  # 255 * (6 / 255) is not 6 to the last bit

# A channel that training drove to zero would get a scale of nearly nothing: biases beyond int32,
# and updates that divide by it explode.  3 % of the layer's median counts as degenerate.
_SMALLEST_SCALE = 0.05

Range = tuple[float, float]
"""The least and the largest real value of an activation."""


def clamp(out: Affine) -> Range:
    """Return the bounds of the activation function that a layer's quantisation stands for.

    A zero point of -128 leaves no code below zero: a ReLU, and ReLU6 where 6 is the largest code
    at most.

    >>> clamp(Affine((6 / 255,), -128)), clamp(Affine((0.1,), 3))
    ((0.0, 6.0), (-inf, inf))
    """
    if out.zero_point > -128:
        return -math.inf, math.inf
    return 0.0, RELU6_LIMIT if 255 * out.scale[0] <= RELU6_LIMIT * _ROOM else math.inf


def dequantised(graph: Graph) -> dict[str, Array]:
    """Return what the parameters of a network stand for, float32, in the layout of the graph."""
    return {n.name: _real(graph.data[n.name], n.type.affine) for n in graph.params()}


def quantised(graph: Graph, weights: Mapping[str, Array], ranges: Mapping[str, Range]) -> Graph:
    """Return `graph` with other weights, and scales that suit them and the ranges.

    `weights`: real values by parameter, in the layout of the graph.
    `ranges`: of the activation of each layer and each sum, by node.

    Raises a TypeError for an op that is no part of a plain network.
    """
    b = Builder()
    new: dict[Node, Node] = {}
    for n in graph.nodes:
        match n.op:
            case Param():
                continue  # made beside the layer that reads it
            case Input():
                new[n] = b.append(n)
            case Conv() | Depthwise():
                x = new[n.inputs[0]]
                w, c = _parameters(b, x, n, weights)
                op = replace(n.op, out=_activation(n.op.out, ranges[n.name]))
                new[n] = b(op, x, w, c, name=n.name)
            case Add():
                op_add = replace(n.op, out=_activation(n.op.out, ranges[n.name]))
                new[n] = b(op_add, *(new[x] for x in n.inputs), name=n.name)
            case AvgPool():
                new[n] = b(n.op, *(new[x] for x in n.inputs), name=n.name)
            case _:
                raise TypeError(f"{n} cannot be quantised: only plain networks can")
    return b.graph(*(new[o] for o in graph.outputs))


def _real(codes: Array, quant: Affine) -> Array:
    scale = quant.unit * np.array(quant.scale)
    if quant.axis is not None:
        scale = scale.reshape([-1 if a == quant.axis else 1 for a in range(codes.ndim)])
    return ((codes.astype(np.float64) - quant.zero_point) * scale).astype(np.float32)


def _activation(old: Affine, observed: Range) -> Affine:
    """Return a quantisation with the same activation function, for what was observed."""
    low, high = min(observed[0], 0.0), max(observed[1], 0.0)
    if low == high:  # a dead map: any scale will do
        return old
    if old.zero_point == -128:
        return Affine((min(high, clamp(old)[1]) / 255,), -128)
    scale = (high - low) / 255
    # -128 is kept for layers with a ReLU.
    return Affine((scale,), int(np.clip(round(-128 - low / scale), -127, 127)))


def _parameters(b: Builder, x: Node, n: Node, weights: Mapping[str, Array]) -> tuple[Node, Node]:
    """Append weight and bias of a layer that reads `x`."""
    _, old, old_bias = n.inputs
    axis = old.type.affine.axis or 0
    w = weights[old.name].astype(np.float64)
    largest = np.abs(w).max(axis=tuple(a for a in range(w.ndim) if a != axis)) / 127
    # float32 is what a file holds.
    floor = _SMALLEST_SCALE * float(np.median(largest)) or 1 / 127
    scale = tuple(float(s) for s in np.maximum(largest, floor).astype(np.float32))
    per_channel = np.array(scale).reshape([-1 if a == axis else 1 for a in range(w.ndim)])
    codes = np.clip(np.rint(w / per_channel), -127, 127).astype(np.int8)
    step = x.type.affine.scale[0]
    bias = np.rint(weights[old_bias.name].astype(np.float64) / (step * np.array(scale)))
    limit = (1 << 31) - 1  # a bias this large does not pass the proof of no overflow
    shift = np.clip(bias, -limit, limit).astype(np.int32)
    return (
        b.param(old.name, codes, Affine(scale, axis=axis), role=Role.WEIGHT),
        b.param(old_bias.name, shift, Affine(scale, axis=0, unit=step), role=Role.BIAS),
    )
