"""Numbers that a caller gives, and how far they may go."""

from __future__ import annotations

from kilograd.errors import InputError


def at_least(minimum: int, name: str, value: int) -> None:
    """Raise `InputError` for a smaller value."""
    if value < minimum:
        raise InputError(f"{name}: {value} is too small; give {minimum} or more")


def at_most(maximum: int, name: str, value: int) -> None:
    """Raise `InputError` for a larger value."""
    if value > maximum:
        raise InputError(f"{name}: {value} is too large; give {maximum} or less")
