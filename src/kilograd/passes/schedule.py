"""The order of execution."""

from __future__ import annotations

from dataclasses import replace

from kilograd.ir import Graph, Leaf, Node
from kilograd.passes.liveness import peak, store


def schedule(graph: Graph) -> Graph:
    """Reorder nodes so that few bytes are in use at once; keep the old order if that was better.

    Greedy: of the nodes whose inputs are ready, run the one that leaves least behind; on a tie
    keep the order given.  An update waits for every other reader of what it overwrites.
    """
    reordered = replace(graph, nodes=_greedy(graph))
    return min(reordered, graph, key=lambda g: peak(store(g).buffers))


def _greedy(graph: Graph) -> tuple[Node, ...]:
    real = [n for n in graph.nodes if not n.op.view]
    reads = {n: set(n.reads()) for n in real}
    readers: dict[Node, set[Node]] = {n: set() for n in real}
    for n in real:
        for x in reads[n]:
            readers[x].add(n)
    waits = {n: set(reads[n]) for n in real}
    for n in real:
        for i in n.op.writes:
            target = n.inputs[i]
            before = {r for r in readers[target] if target not in _targets(r)}
            waits[n] |= before | {r for r in _writers_before(real, n, target)}
    left = {n: len(readers[n]) + (n in graph.outputs) for n in real}

    def owned(n: Node) -> int:
        return 0 if isinstance(n.op, Leaf) or n.op.writes else n.type.nbytes

    def growth(n: Node) -> int:
        return owned(n) - sum(owned(x) for x in reads[n] if left[x] == 1)

    followers: dict[Node, list[Node]] = {n: [] for n in real}
    for n in real:
        for x in waits[n]:
            followers[x].append(n)
    pending = {n: len(waits[n]) for n in real}
    at = {n: i for i, n in enumerate(real)}
    done: list[Node] = []
    ready = [n for n in real if not pending[n]]
    while ready:
        best = min(ready, key=lambda n: (not isinstance(n.op, Leaf), growth(n), at[n]))
        ready.remove(best)
        done.append(best)
        for x in reads[best]:
            left[x] -= 1
        for n in followers[best]:
            pending[n] -= 1
            if not pending[n]:
                ready.append(n)
    return _with_views(graph, done)


def _targets(n: Node) -> set[Node]:
    return {n.inputs[i] for i in n.op.writes}


def _writers_before(nodes: list[Node], n: Node, target: Node) -> list[Node]:
    """Return the earlier nodes that overwrite the same parameter (a sum, then its clearing)."""
    return [m for m in nodes[: nodes.index(n)] if target in _targets(m)]


def _with_views(graph: Graph, done: list[Node]) -> tuple[Node, ...]:
    """Put each view right after its last input."""
    views = [n for n in graph.nodes if n.op.view]
    out: list[Node] = []
    seen: set[Node] = set()
    for n in done:
        out.append(n)
        seen.add(n)
        for v in [v for v in views if v not in seen and all(x in seen for x in v.inputs)]:
            out.append(v)
            seen.add(v)
    return tuple(out)
