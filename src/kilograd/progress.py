"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with what is done, of how much, and something to say of it, as the loss."""


def silent(done: int, of: int, said: str = "") -> None:
    """Say nothing."""
