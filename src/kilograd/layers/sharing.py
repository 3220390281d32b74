"""Which values share a scale: those between which a layer only moves codes."""

from __future__ import annotations

from collections.abc import Mapping

from kilograd.layers.calibrate import Range
from kilograd.layers.network import (
    Concat,
    Gather,
    Layer,
    Network,
    Pad,
    Pool,
    PoolKind,
    Reshape,
    Resize,
    Slice,
    Transpose,
    Value,
)

_KEEP_SCALE = (Gather, Pad, Reshape, Resize, Slice, Transpose)

_FAR = 4.0
"""What is joined with a range so many times its own loses two bits: it is rescaled instead."""

Same = Mapping[Value, Value]
"""Values that take the quantisation of others."""


def moves_codes(x: Layer) -> bool:
    """Tell whether a layer gives what it reads, in other places."""
    largest = isinstance(x.op, Pool) and x.op.kind is PoolKind.MAX
    return largest or isinstance(x.op, (*_KEEP_SCALE, Concat))


def sharing(network: Network, spans: Mapping[Value, Range], same: Same) -> dict[Value, Value]:
    """Map each value to one that stands for all that share its scale; `spans`: their ranges.

    A concatenation shares a scale with what it joins, but for what has a far smaller range: in
    networks that pass half of their channels on from block to block, all would have one scale.
    """
    groups = _Groups(dict(spans))
    for v, other in same.items():
        groups.join(other, v)
    for x in network.layers:
        if moves_codes(x) and not isinstance(x.op, Concat):
            groups.join(x.inputs[0], x.output)
    for x in network.layers:
        if isinstance(x.op, Concat):
            for v in x.inputs:
                if groups.near(v, x.output):
                    groups.join(v, x.output)
    return {v: groups.top(v) for v in network.values()}


class _Groups:
    """Values in groups, each with the range of all its values."""

    def __init__(self, spans: dict[Value, Range]) -> None:
        self._spans = spans
        self._above: dict[Value, Value] = {}

    def top(self, v: Value) -> Value:
        """Return the value that stands for the group."""
        while v in self._above:
            v = self._above[v]
        return v

    def join(self, a: Value, b: Value) -> None:
        """Make two groups one."""
        a, b = self.top(a), self.top(b)
        if a != b:
            self._spans[a] = self._both(a, b)
            self._above[b] = a

    def near(self, a: Value, b: Value) -> bool:
        """Tell whether the range of both groups is not far wider than that of either."""
        a, b = self.top(a), self.top(b)
        own = min(high - low for low, high in (self._spans[a], self._spans[b]))
        low, high = self._both(a, b)
        return high - low <= _FAR * own or own == 0

    def _both(self, a: Value, b: Value) -> Range:
        (least, most), (low, high) = self._spans[a], self._spans[b]
        return min(least, low), max(most, high)
