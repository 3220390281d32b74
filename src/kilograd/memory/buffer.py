"""The problem and its solution, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Bytes = int
"""A size, or an offset from the start of the memory."""

Step = int
"""A place in the order of execution, from 0."""

ALIGN: Bytes = 4
"""Every offset is a multiple of this many bytes: the widest element on the device."""

STAMP_BYTES: Bytes = 4
"""At the end of every state: a number that no other program has."""


def aligned(size: Bytes) -> Bytes:
    """Return the bytes up to the next aligned offset.

    >>> aligned(5), aligned(8)
    (8, 8)
    """
    return -(-size // ALIGN) * ALIGN


@dataclass(frozen=True)
class Buffer:
    """Bytes that are in use for some steps, one after the other."""

    name: str
    size: Bytes
    first: Step
    last: Step  # half-open: in use at first, ..., last - 1

    @property
    def room(self) -> Bytes:
        """Bytes up to the next aligned offset."""
        return aligned(self.size)

    def meets(self, other: Buffer) -> bool:
        """Say whether both are in use at the same step."""
        return self.first < other.last and other.first < self.last


@dataclass(frozen=True)
class Plan:
    """An offset for every buffer, and the bytes that all of them need.

    `bound` is proved: no plan of the same buffers needs less.  Where it equals the peak, the plan
    is optimal.
    """

    offsets: Mapping[str, Bytes]
    peak: Bytes
    bound: Bytes = 0


Planner = Callable[[Sequence[Buffer]], Plan]
"""Places buffers.  It always has an answer: a peak that is too high is for others to refuse."""
