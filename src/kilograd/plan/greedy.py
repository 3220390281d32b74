"""Greedy placement: each buffer at the lowest offset that is free for its whole life."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kilograd.plan.bounds import lower_bound
from kilograd.plan.buffer import Buffer, Plan

_Key = Callable[[Buffer], tuple[int, ...]]

_ORDERS: tuple[_Key, ...] = (
    lambda b: (-b.room, b.first),
    lambda b: (b.first - b.last, -b.room),
    lambda b: (-b.room * (b.last - b.first), b.first),
    lambda b: (b.first, -b.room),
    lambda b: (-b.last, -b.room),
)


_REPAIRS = 40


def greedy(buffers: Sequence[Buffer]) -> Plan:
    """Return the best plan over a few orders: by size, by life, by area, by start, by end.

    While the lower bound is not met, the buffer that sticks out most goes first in its order, and
    all are placed again.

    >>> greedy([Buffer("a", 8, 0, 2), Buffer("b", 4, 1, 3), Buffer("c", 8, 2, 3)]).peak
    12
    """
    best = Plan({}, 0)
    bound = lower_bound(buffers)
    for order in _ORDERS:
        queue = sorted(buffers, key=lambda b: (*order(b), b.name))
        for _ in range(_REPAIRS):
            plan = _place(queue)
            if not best.offsets or plan.peak < best.peak:
                best = plan
            if best.peak == bound:
                return best
            top = max(queue, key=lambda b: plan.offsets[b.name] + b.room)
            if top is queue[0]:
                break
            queue = [top, *(b for b in queue if b is not top)]
    return best


def _place(buffers: Sequence[Buffer]) -> Plan:
    placed: list[tuple[int, Buffer]] = []
    for b in buffers:
        offset = 0
        for start, other in sorted(((o, p) for o, p in placed if b.meets(p)), key=lambda at: at[0]):
            if offset + b.room <= start:
                break
            offset = max(offset, start + other.room)
        placed.append((offset, b))
    return Plan({b.name: o for o, b in placed}, max((o + b.room for o, b in placed), default=0))
