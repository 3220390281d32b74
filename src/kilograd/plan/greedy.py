"""Greedy placement: each buffer at the lowest offset that is free for its whole life."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kilograd.plan.bounds import lower_bound
from kilograd.plan.buffer import Buffer, Plan

_Key = Callable[[Buffer], tuple[int, ...]]
_Meeting = Mapping[str, Sequence[tuple[str, int]]]  # name and room of those in use meanwhile

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

    While the lower bound is not met, the buffer that sticks out most moves forward in its order,
    first to the front and in a second round less far, and all are placed again.

    >>> greedy([Buffer("a", 8, 0, 2), Buffer("b", 4, 1, 3), Buffer("c", 8, 2, 3)]).peak
    12
    """
    bound = lower_bound(buffers)
    meeting = {
        b.name: [(o.name, o.room) for o in buffers if o is not b and o.meets(b)] for b in buffers
    }
    plans = (_repaired(meeting, buffers, f, to, bound) for to in _FORWARD for f in _ORDERS)
    best = next(plans)
    while best.peak > bound and (other := next(plans, None)):
        best = min(best, other, key=lambda plan: plan.peak)
    return best


def _repaired(
    meeting: _Meeting, buffers: Sequence[Buffer], order: _Key, to: float, bound: int
) -> Plan:
    """Return the best plan of one order and its repairs."""
    queue = sorted(buffers, key=lambda b: (*order(b), b.name))
    best = plan = _place(meeting, queue, bound)
    for _ in range(_REPAIRS):
        if best.peak == bound:
            break
        ends = [plan.offsets[b.name] + b.room for b in queue]
        top = ends.index(max(ends))
        if top == 0:
            break
        queue.insert(int(top * to), queue.pop(top))
        plan = _place(meeting, queue, bound)
        best = min(best, plan, key=lambda plan: plan.peak)
    return best


def _place(meeting: _Meeting, queue: Sequence[Buffer], bound: int) -> Plan:
    offsets: dict[str, int] = {}
    peak = 0
    for b in queue:
        room, offset = b.room, 0
        taken = [(offsets[name], size) for name, size in meeting[b.name] if name in offsets]
        for start, length in sorted(taken):
            if offset + room <= start:
                break
            offset = max(offset, start + length)
        offsets[b.name] = offset
        peak = max(peak, offset + room)
    return Plan(offsets, peak, bound)
