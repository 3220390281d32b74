"""How commands write numbers."""

from __future__ import annotations


def in_short(n: int) -> str:
    """Write a number with k or M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return str(n)


def kib(n: int) -> str:
    """Write bytes, in KiB too."""
    return f"{n:,} B ({n / 1024:.1f} KiB)"
