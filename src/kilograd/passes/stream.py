"""Which layers to compute row by row.

The front of a network has the largest maps and learns nothing.  Between two tensors that alone
connect what is before with what is after, all layers can become one `Stream`.  Which of them do
is chosen so that the whole program's peak is as low as it can be, with as few streamed layers as
that takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kilograd.ir import Builder, Graph, Input, Node, dead_code, rewrite
from kilograd.ops.stream import INPUT, Stage, Stream, streamable
from kilograd.passes.liveness import store


@dataclass(frozen=True)
class _Segment:
    """The layers between two cuts, and the bytes in use while they run, streamed or not."""

    layers: tuple[Node, ...]
    bytes: int
    streamed: bool

    @property
    def price(self) -> int:
        """Streamed layers: what is kept low among equal peaks."""
        return len(self.layers) if self.streamed else 0


def stream(graph: Graph, learned: frozenset[Node], target: int = 0) -> Graph:
    """Stream layers until the peak is `target` bytes or cannot fall further.

    `learned` are the parameters that change between calls; layers that read them stay as they
    are.  `graph` must be scheduled: its peak behind the front is taken from its order.
    """
    front = _front(graph, learned)
    cuts = _cuts(graph, front)
    if len(cuts) < 2:
        return graph
    behind = _peak_behind(graph, front[: front.index(cuts[-1])] if cuts[-1] in front else [])
    segments = {
        (i, j): options
        for i in range(len(cuts))
        for j in range(i + 1, len(cuts))
        if (options := _options(graph, cuts[i], cuts[j], front))
    }
    lowest = _best(segments, len(cuts), limit=None)
    limit = max(behind, target, max(s.bytes for s in lowest))
    chosen = _best(segments, len(cuts), limit)
    return _replaced(graph, [s for s in chosen if s.streamed])


def _front(graph: Graph, learned: frozenset[Node]) -> list[Node]:
    """Return the layers, from the image on, that can be stages."""
    reached: set[Node] = {n for n in graph.inputs() if len(n.type.shape) == 3}
    front = []
    for n in graph.nodes:
        if streamable(n, learned) and n.inputs[0] in reached:
            front.append(n)
            reached.add(n)
    return front


def _cuts(graph: Graph, front: Sequence[Node]) -> list[Node]:
    """Return the tensors that alone are read across their place in the front."""
    users = graph.users()
    image = [n for n in graph.inputs() if any(u in front for u in users[n])]
    if len(image) != 1:
        return []
    order = [*image, *front]
    at = {n: i for i, n in enumerate(order)}
    last = [max((at.get(u, len(order)) for u in users[n]), default=len(order)) for n in order]
    return [
        n for i, n in enumerate(order) if all(last[k] <= i for k in range(i)) or isinstance(n.op, Input)
    ]


def _options(graph: Graph, begin: Node, end: Node, front: Sequence[Node]) -> list[_Segment]:
    layers = _between(begin, end, front)
    if not layers:
        return []
    plain = _Segment(layers, _bytes_unstreamed(begin, layers), streamed=False)
    node = _stream_node(begin, layers)
    both = begin.type.nbytes + end.type.nbytes + node.op.kernel(node).scratch
    return [plain, _Segment(layers, both, streamed=True)] if len(layers) > 1 else [plain]


def _between(begin: Node, end: Node, front: Sequence[Node]) -> tuple[Node, ...]:
    start = front.index(begin) + 1 if begin in front else 0
    return tuple(front[start : front.index(end) + 1]) if end in front else ()


def _bytes_unstreamed(begin: Node, layers: Sequence[Node]) -> int:
    """Return the most bytes in use while the layers run one after the other."""
    order = [begin, *layers]
    last = {n: i for i, m in enumerate(order) for n in (*m.inputs, m) if n in order}
    return max(
        sum(n.type.nbytes for n in order[: i + 1] if last[n] >= i)
        + (m.op.kernel(m).scratch if m is not begin else 0)
        for i, m in enumerate(order)
    )


def _stream_node(begin: Node, layers: Sequence[Node]) -> Node:
    stages, params = [], []
    for n in layers:
        maps = [x for x in n.inputs if x is begin or x in layers]
        params += [x for x in n.inputs if x not in maps]
        sources = tuple(INPUT if x is begin else layers.index(x) for x in maps)
        stages.append(Stage(n.op, sources))  # type: ignore[arg-type]
    return Node(Stream(tuple(stages)), (begin, *params), layers[-1].type, layers[-1].name)


def _peak_behind(graph: Graph, front: Sequence[Node]) -> int:
    """Return the most bytes in use at a step after the front."""
    buffers = store(graph).buffers
    start = max((graph.nodes.index(n) for n in front), default=0) + 1
    return max(
        (sum(b.room for b in buffers if b.first <= t < b.last) for t in range(start, len(graph.nodes))),
        default=0,
    )


def _best(
    segments: dict[tuple[int, int], list[_Segment]], count: int, limit: int | None
) -> list[_Segment]:
    """Return the chain of segments with the lowest peak or, within `limit`, the lowest price."""
    best: list[tuple[int, list[_Segment]] | None] = [(0, [])] + [None] * (count - 1)
    for j in range(1, count):
        for i in range(j):
            before = best[i]
            if before is None:
                continue
            for s in segments.get((i, j), []):
                if limit is not None and s.bytes > limit:
                    continue
                cost = max(before[0], s.bytes) if limit is None else before[0] + s.price
                known = best[j]
                if known is None or cost < known[0]:
                    best[j] = (cost, [*before[1], s])
    end = best[-1]
    assert end is not None, "every layer is a segment of its own"
    return end[1]


def _replaced(graph: Graph, segments: Sequence[_Segment]) -> Graph:
    ends = {s.layers[-1].name: s for s in segments}
    inner = {n.name for s in segments for n in s.layers[:-1]}
    rebuilt: dict[str, Node] = {}

    def rule(b: Builder, n: Node) -> Node | None:
        out = None
        if n.name in ends:
            s = ends[n.name]
            begin = next(x for x in s.layers[0].inputs if x not in s.layers)
            old = _stream_node(begin, s.layers)
            out = b(old.op, *(rebuilt[x.name] for x in old.inputs), name=n.name)
        elif n.name in inner:
            out = b.append(n)
        rebuilt[n.name] = out or n
        return out

    return dead_code(rewrite(graph, rule))


