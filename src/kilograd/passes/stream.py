"""Which layers to compute row by row.

The front of a network has the largest maps and learns nothing.  Between two tensors that alone
connect what is before with what is after, all layers can become one `Stream`.  Which of them do
is chosen so that the whole program's peak is as low as it can be, with as few streamed layers as
that takes.

How far off: of all ways to divide the layers at these tensors the best is found, by the bytes alive
in the order given; only ends far behind the last large map are not tried.  Plans are a little
harder to place: of the 15 published ones all meet their bound with a whole image, and 9 with an
image by rows (docs/results/studies/memory.md).  Less memory would take tiles,
which compute borders twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kilograd.ir import Builder, Graph, Input, Leaf, Node, StreamedInput, dead_code, rewrite
from kilograd.memory import aligned
from kilograd.ops.stream import COUNTER_BYTES, INPUT, Stage, Stream, streamable
from kilograd.passes.liveness import store

_BEYOND = 5  # cuts behind the last large map at which a stream may end

Chain = tuple[str, ...]
"""The names of layers that become one stream, in order."""


@dataclass(frozen=True)
class _Stretch:
    """The layers between two cuts, and the bytes in use while they run, streamed or not."""

    layers: tuple[Node, ...]
    bytes: int
    streamed: bool

    @property
    def price(self) -> int:
        """Streamed layers: what is kept low among equal peaks."""
        return len(self.layers) if self.streamed else 0


class StreamError(ValueError):
    """An image that comes row by row has no layers that could read it so."""


def choose_streams(graph: Graph, learned: frozenset[str]) -> tuple[Chain, ...]:
    """Return what to stream so that the peak of `graph` falls as low as it can.

    `learned` names the parameters that change between calls; layers that read them stay as they
    are.  `graph` must be scheduled: its peak behind the front is taken from its order.
    A `StreamedInput` is read by the first stream; `StreamError` where there cannot be one.
    """
    front = _front(graph, learned)
    cuts = _cuts(graph, front)
    delivered = any(isinstance(n.op, StreamedInput) for n in graph.inputs())
    if len(cuts) < 2:
        if delivered:
            raise StreamError("no layers at the front could read the image row by row")
        return ()
    order = (cuts[0], *front)
    work = {n: n.op.kernel(n).scratch for n in front}
    memory = _Memory(graph)

    def between(i: int, j: int) -> tuple[Node, ...]:
        return order[order.index(cuts[i]) + 1 : order.index(cuts[j]) + 1]

    plain = [
        _Stretch(between(i, i + 1), memory.peak(begin, end), streamed=False)
        for i, (begin, end) in enumerate(pairwise(cuts))
    ]
    behind = memory.peak(cuts[-1], graph.nodes[-1])
    too_large = [i for i, s in enumerate(plain) if s.bytes > behind]
    if not too_large and not delivered:
        return ()
    count = min(len(cuts), max(too_large, default=0) + 2 + _BEYOND)
    last = order.index(cuts[count - 1])
    kept = _bytes_kept(_stream_node(order[0], order[1 : last + 1]), order[: last + 1])

    def streamed(i: int, j: int) -> _Stretch:
        layers = between(i, j)
        scratch = sum(kept[n] for n in layers[:-1]) + COUNTER_BYTES + max(work[n] for n in layers)
        begin = kept[order[0]] if delivered and i == 0 else memory.room(cuts[i])
        size = begin + memory.room(cuts[j]) + scratch
        return _Stretch(layers, size + memory.others((cuts[i], *layers)), streamed=True)

    segments = {(i, i + 1): [plain[i]] for i in range(count - 1) if i or not delivered}
    for i in range(count):
        for j in range(i + 1, count):
            segments.setdefault((i, j), []).append(streamed(i, j))
    lowest = _best(segments, count, limit=None)
    limit = max(behind, *(s.bytes for s in lowest))
    chosen = _best(segments, count, limit)
    return tuple(tuple(n.name for n in s.layers) for s in chosen if s.streamed)


def stream(graph: Graph, chains: Sequence[Chain]) -> Graph:
    """Turn each chain of layers that the graph holds into one node."""
    layers = {n.name: n for n in graph.nodes if not isinstance(n.op, Leaf)}
    last = {chain[-1]: chain for chain in chains if layers.keys() >= set(chain)}
    rebuilt: dict[str, Node] = {}

    def rule(b: Builder, n: Node) -> Node:
        if n.name in last:
            chain = [layers[name] for name in last[n.name]]
            node = _stream_node(chain[0].inputs[0], chain)
            inputs = [rebuilt[x.name] for x in node.inputs]
            out = b(node.op, *inputs, name=n.name, c_name=n.c_name)
        else:
            out = b.append(n)  # what a chain holds, nobody will read: dead code
        rebuilt[n.name] = out
        return out

    return dead_code(rewrite(graph, rule))


def _front(graph: Graph, learned: frozenset[str]) -> list[Node]:
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
    last = [
        len(order)
        if n in graph.outputs
        else max((at.get(u, len(order)) for u in users[n]), default=len(order))
        for n in order
    ]
    return [
        n
        for i, n in enumerate(order)
        if all(last[k] <= i for k in range(i)) or isinstance(n.op, Input)
    ]


class _Memory:
    """The bytes in use at every step of a graph as it stands: whole maps, sums in place."""

    def __init__(self, graph: Graph) -> None:
        self._step = {n: t for t, n in enumerate(graph.nodes)}
        self._storage = store(graph)
        buffers = self._storage.buffers
        self._room = {b.name: b.room for b in buffers}
        self._alive = [[b for b in buffers if b.first <= t < b.last] for t in self._step.values()]

    def room(self, n: Node) -> int:
        """Return the bytes of a tensor."""
        return self._room[self._storage.tensor[n]]

    def peak(self, begin: Node, end: Node) -> int:
        """Return the most bytes in use at a step behind `begin`, up to `end`."""
        steps = range(self._step[begin] + 1, self._step[end] + 1)
        return max((sum(b.room for b in self._alive[t]) for t in steps), default=0)

    def others(self, chain: Sequence[Node]) -> int:
        """Return what is in use while the last layer of a chain runs and belongs to none of it."""
        own = {
            names[n]
            for n in chain
            for names in (self._storage.tensor, self._storage.scratch)
            if n in names
        }
        return sum(b.room for b in self._alive[self._step[chain[-1]]] if b.name not in own)


def _bytes_kept(whole: Node, layers: Sequence[Node]) -> dict[Node, int]:
    """Return the bytes that the input, if it comes row by row, and each layer keep in a stream.

    How many rows must be kept depends only on who reads them, not on where the stream ends.
    """
    assert isinstance(whole.op, Stream)  # noqa: S101 says so to the type checker
    rows = (whole.op.input_rows(whole), *whole.op.capacities(whole))
    return {
        n: COUNTER_BYTES + aligned(r * n.type.shape[1] * n.type.shape[2])
        for n, r in zip(layers, rows, strict=True)
    }


def _stream_node(begin: Node, layers: Sequence[Node]) -> Node:
    stages, params = [], []
    for n in layers:
        maps = [x for x in n.inputs if x is begin or x in layers]
        params += [x for x in n.inputs if x not in maps]
        sources = tuple(INPUT if x is begin else layers.index(x) for x in maps)
        stages.append(Stage(n.op, sources))  # type: ignore[arg-type]
    return Node(Stream(tuple(stages)), (begin, *params), layers[-1].type, layers[-1].name)


def _best(
    segments: dict[tuple[int, int], list[_Stretch]], count: int, limit: int | None
) -> list[_Stretch]:
    """Return the chain of segments with the lowest peak or, within `limit`, the lowest price."""
    best: list[tuple[int, list[_Stretch]] | None] = [(0, [])] + [None] * (count - 1)
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
    return end[1] if end else []
