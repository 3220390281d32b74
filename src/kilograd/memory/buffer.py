"""The problem and its solution, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ALIGN = 4
"""Every offset is a multiple of this many bytes: the widest element on the device."""


STAMP_BYTES = 4
"""At the end of every state: a number that no other program has."""


def aligned(size: int) -> int:
    """Return the bytes up to the next aligned offset.

    >>> aligned(5), aligned(8)
    (8, 8)
    """
    return -(-size // ALIGN) * ALIGN


@dataclass(frozen=True)
class Buffer:
    """`size` bytes, in use at every step of the half-open range [first, last)."""

    name: str
    size: int
    first: int
    last: int

    @property
    def room(self) -> int:
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

    offsets: Mapping[str, int]
    peak: int
    bound: int = 0


Planner = Callable[[Sequence[Buffer]], Plan]
