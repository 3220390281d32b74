"""Maps that are computed again instead of kept.

The backward pass reads what the forward pass computed.  Where a single tensor connects what is
before with what is after, the layers up to the next such tensor can run again from it when the
backward pass comes to them: their maps need not wait.  The same integers, for at most the work of
one more forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from kilograd.ir import Graph, Input, Leaf, Node, apart
from kilograd.memory import lower_bound
from kilograd.passes.liveness import store

Segment = tuple[Node, ...]
"""Layers that may run again: from a tensor that is kept up to the next one."""


def recompute(graph: Graph) -> Graph:
    """Return `graph`, in its order, with the lowest peak that running layers again can give.

    Of the layers that may run again those do that the peak needs.

    How far off: where all layers of the published networks learn, the arena is 1.2 to 1.3 times
    what their largest layer alone needs, for 17 to 21 % more work (docs/results/studies/memory.md).
    Better would be to choose what is kept and the order together, by a linear program (Checkmate).
    """
    forward = _forward(graph)
    chosen = _segments(graph, forward)
    lowest = _bytes(_again(graph, forward, chosen))
    if lowest >= _bytes(graph):
        return graph
    for segment in sorted(chosen, key=lambda s: -sum(n.op.macs(n) for n in s)):
        fewer = [s for s in chosen if s is not segment]
        if _bytes(_again(graph, forward, fewer)) <= lowest:
            chosen = fewer
    return _again(graph, forward, chosen)


def _bytes(graph: Graph) -> int:
    return lower_bound(store(graph).buffers)


def _forward(graph: Graph) -> set[Node]:
    """Return what the loss is computed from, and the loss."""
    forward = {graph.outputs[0]}
    for n in reversed(graph.nodes):
        if n in forward:
            forward.update(n.inputs)
    return forward


def _segments(graph: Graph, forward: set[Node]) -> list[Segment]:
    """Return the layers between the tensors that are kept.

    Those alone are read across their place by later layers, and they are where the maps are
    narrowest: the next one is larger.
    """
    order = [n for n in graph.nodes if n in forward and _is_map(n)]
    at = {n: i for i, n in enumerate(order)}
    last = [0] * len(order)
    for n in order:
        for x in n.inputs:
            if x in at:
                last[at[x]] = at[n]
    sizes = [n.type.nbytes for n in order]
    narrow = [i for i in range(len(order) - 1) if not i or sizes[i] < sizes[i + 1]]
    kept = [i for i in narrow if all(last[k] <= i for k in range(i))]
    return [tuple(order[i + 1 : j]) for i, j in pairwise([*kept, len(order) - 1]) if j > i + 1]


def _is_map(n: Node) -> bool:
    """Say whether a node is an image or a map that a layer makes of one."""
    return len(n.type.shape) == 3 and (isinstance(n.op, Input) or not isinstance(n.op, Leaf))


def _again(graph: Graph, forward: set[Node], segments: Sequence[Segment]) -> Graph:
    """Run each segment again when a gradient first meets something that was made of its maps."""
    inside = {n for s in segments for n in s}
    waiting: set[Node] = set()  # made of those maps alone: clip masks, parts of maps
    for n in graph.nodes:
        made = set(n.inputs) & (inside | waiting)
        if n not in forward and made and all(x in forward | waiting for x in n.inputs):
            waiting.add(n)
    users = graph.users()
    names = {n.name for n in graph.nodes}
    nodes: list[Node] = []
    first: dict[Node, Node] = {}
    later: dict[Node, Node] = {}

    def for_backward(n: Node) -> Node:
        """Return what a gradient reads in place of `n`, run again if need be."""
        if n not in inside | waiting:
            return first[n]
        if n not in later:
            name = apart(f"{n.name}.again", names) if n in inside else n.name
            later[n] = replace(n, inputs=tuple(map(for_backward, n.inputs)), name=name)
            nodes.append(later[n])
            for reader in users[n]:
                if reader in waiting:  # a mask is smaller than its map
                    for_backward(reader)
        return later[n]

    for n in graph.nodes:
        if n in waiting:
            continue
        inputs = n.inputs if n in forward else tuple(map(for_backward, n.inputs))
        first[n] = replace(n, inputs=tuple(first.get(x, x) for x in inputs))
        nodes.append(first[n])
    return replace(graph, nodes=tuple(nodes), outputs=tuple(first[o] for o in graph.outputs))
