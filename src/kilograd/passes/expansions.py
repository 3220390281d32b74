"""Two ways to learn less than the weights of a block's expansion, its first 1x1 convolution.

A low-rank update beside frozen weights (LoRA, Hu et al. 2021): A, random, makes a few maps of x,
and B, zero at first, makes of these what is added before the clamp.  That is one convolution of
both, of whose input channels the last learn:

    y = clamp(W x + B A x + c) = clamp([W B] [x; A x] + c)

So the sum is exact, and a code of B is worth what a code of W in the same row is.

Groups: each makes some of the output channels of some of the input.  Their weights are those on
the diagonal of the dense ones; the others are given up, and the network is worse until it learns.

Lin et al. (2022) tried both and dropped them (supplement, G).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kilograd.ir import Array, Builder, Graph, Node, Role, dead_code, rewrite
from kilograd.ops import Concat, Take, Window
from kilograd.passes.lite_residual import Block, layer_of


def low_rank(graph: Graph, blocks: Sequence[Block], rank: int) -> Graph:
    """Return the network with an update of that rank beside the expansion of each block.

    A is the layer EXPANSION.lora; B are the last `rank` input channels of EXPANSION.  What A holds
    first depends on nothing but its name and shape; a larger rank adds rows to it.
    """
    return _replaced(graph, blocks, lambda b, n: _with_update(b, n, rank))


def grouped(graph: Graph, blocks: Sequence[Block], groups: int) -> Graph:
    """Return the network with the expansion of each block in groups, which divide its channels.

    They are the layers EXPANSION.grouped.0, EXPANSION.grouped.1 and so on.
    """
    return dead_code(_replaced(graph, blocks, lambda b, n: _in_groups(b, n, groups)))


def merged(grown: Graph, layer: str, learned: Mapping[str, Array]) -> Array:
    """Return W + B A, float64 [out, 1, 1, in], in codes of W; they are no integers.

    `learned`: codes by the names of parameters, whole, in the layout of the graph.
    """
    both, a = (learned[f"{name}.weight"].astype(np.float64) for name in (layer, f"{layer}.lora"))
    rank = len(a)
    real = a[:, 0, 0] * np.array(grown[f"{layer}.lora.weight"].type.affine.scale)[:, None]
    return both[..., :-rank] + (both[:, 0, 0, -rank:] @ real)[:, None, None]


def _replaced(
    graph: Graph, blocks: Sequence[Block], make: Callable[[Builder, Node], Node]
) -> Graph:
    """Return the network in which `make` has appended something else for each expansion."""
    layers = [block.expansion for block in blocks]
    names = {n.name for n in layers if n}
    weights = {n.inputs[1].name for n in layers if n}

    def rule(b: Builder, n: Node) -> Node | None:
        if n.name in weights:
            return n  # not appended: what stands for it is, beside the layer
        return make(b, n) if n.name in names else None

    return rewrite(graph, rule)


def _with_update(b: Builder, n: Node, rank: int) -> Node:
    x, w, c = n.inputs
    name, channels = f"{n.name}.lora", x.type.shape[2]
    deviation = 1 / math.sqrt(channels)  # the mean square of x comes again
    rng = np.random.default_rng(list(name.encode()))
    start = rng.normal(0, deviation, (rank, 1, 1, channels))
    few = layer_of(b, name, x, (Window(), x.type.affine), start, deviation)
    zeros = np.zeros((*w.type.shape[:3], rank), np.int8)
    both = np.concatenate([b.data[w.name], zeros], axis=3)
    wide = b.param(w.name, both, w.type.affine, role=Role.WEIGHT)
    return b(n.op, b(Concat(), x, few, name=f"{name}.join"), wide, c, name=n.name)


def _in_groups(b: Builder, n: Node, groups: int) -> Node:
    channels = (np.arange(t.type.shape[2]) for t in (n.inputs[0], n))
    inputs, outputs = (np.split(c, groups) for c in channels)
    *others, last = (
        _group(b, n, f"{n.name}.grouped.{i}", *pair)
        for i, pair in enumerate(zip(inputs, outputs, strict=True))
    )
    first = functools.reduce(lambda a, c: b(Concat(), a, c), others)
    return b(Concat(), first, last, name=n.name)


def _group(b: Builder, n: Node, name: str, inputs: Array, outputs: Array) -> Node:
    """Append the convolution of some channels to some others."""
    x, w, c = n.inputs
    own, rows = tuple(inputs.tolist()), tuple(outputs.tolist())
    weight = np.ascontiguousarray(b.data[w.name][outputs][..., inputs])
    params = (
        b.param(f"{name}.weight", weight, w.type.affine.take(rows), role=Role.WEIGHT),
        b.param(f"{name}.bias", b.data[c.name][outputs], c.type.affine.take(rows), role=Role.BIAS),
    )
    part = b(Take(2, own), x, name=f"{name}.part")
    return b(n.op, part, *params, name=name)
