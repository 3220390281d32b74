"""What no plan can beat."""

from __future__ import annotations

from collections.abc import Sequence

from kilograd.memory.buffer import Buffer, Bytes


def lower_bound(buffers: Sequence[Buffer]) -> Bytes:
    """Return the most bytes in use at one step: the peak of an order, whatever the plan.

    >>> lower_bound([Buffer("a", 8, 0, 2), Buffer("b", 4, 1, 3), Buffer("c", 8, 2, 3)])
    12
    """
    steps = {b.first for b in buffers}
    return max((sum(b.room for b in buffers if b.first <= t < b.last) for t in steps), default=0)
