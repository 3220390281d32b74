"""Greedy placement: each buffer at the lowest offset that is free for its whole life.

How far off: every plan carries its own proof, `bound`.  Of 18 training steps of the three published
networks 17 met it, and one was 216 bytes of 921,604 above (docs/results/studies/planning.md).
There is no guarantee for others; `exact` is better, and proves it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from kilograd.memory.bounds import lower_bound
from kilograd.memory.buffer import ALIGN, Buffer, Bytes, Plan

_Key = Callable[[Buffer], tuple[int, ...]]
_Meeting = Mapping[str, Sequence[tuple[str, Bytes]]]  # name and room of those in use meanwhile

_ORDERS: tuple[_Key, ...] = (
    lambda b: (-b.room, b.first),
    lambda b: (b.first - b.last, -b.room),
    lambda b: (-b.room * (b.last - b.first), b.first),
    lambda b: (b.first, -b.room),
    lambda b: (-b.last, -b.room),
)

_REPAIRS = 40
_FORWARD = (0.0, 0.25)  # where a buffer that sticks out moves to: a fraction of its place in line


def greedy(buffers: Sequence[Buffer]) -> Plan:
    """Return the best plan over a few orders: by size, by life, by area, by start, by end.

    While the lower bound is not met, the first buffer that would not fit below the best peak so far
    moves forward in its order, first to the front and in a second round less far, and all are
    placed again.

    >>> greedy([Buffer("a", 8, 0, 2), Buffer("b", 4, 1, 3), Buffer("c", 8, 2, 3)]).peak
    12
    """
    bound = lower_bound(buffers)
    meeting = {
        b.name: [(o.name, o.room) for o in buffers if o is not b and o.meets(b)] for b in buffers
    }
    best = Plan({}, sum(b.room for b in buffers) + ALIGN, bound)  # worse than any
    for to, order in itertools.product(_FORWARD, _ORDERS):
        queue = sorted(buffers, key=lambda b: (*order(b), b.name))
        for _ in range(_REPAIRS):
            offsets = _place(meeting, queue, best.peak - ALIGN)
            placed = len(offsets)
            if placed < len(queue):
                queue.insert(int(placed * to), queue.pop(placed))
                continue
            best = Plan(offsets, max((offsets[b.name] + b.room for b in buffers), default=0), bound)
            if best.peak == bound:
                return best
    return best


def _place(meeting: _Meeting, queue: Sequence[Buffer], limit: Bytes) -> dict[str, Bytes]:
    """Return the offsets of the buffers before the first one that ends behind `limit`."""
    offsets: dict[str, Bytes] = {}
    for b in queue:
        room, offset = b.room, 0
        taken = [(offsets[name], size) for name, size in meeting[b.name] if name in offsets]
        for start, length in sorted(taken):
            if offset + room <= start:
                break
            offset = max(offset, start + length)
        if offset + room > limit:
            break
        offsets[b.name] = offset
    return offsets
