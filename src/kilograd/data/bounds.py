"""Numbers that a caller gives, and how far they may go."""

from __future__ import annotations

from kilograd import limits
from kilograd.errors import InputError


def at_least(minimum: int, name: str, value: int) -> None:
    """Raise `InputError` for a smaller value."""
    if value < minimum:
        raise InputError(f"{name}: {value} is too small; give {minimum} or more")


def at_most(maximum: int, name: str, value: int) -> None:
    """Raise `InputError` for a larger value."""
    if value > maximum:
        raise InputError(f"{name}: {value} is too large; give {maximum} or less")


def check_seed(seed: int) -> None:
    """Raise `InputError` for a seed outside 0..2^31-1."""
    at_least(0, "seed", seed)
    at_most(limits.SEED, "seed", seed)
