"""Train neural networks in kilobytes, in integers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kilograd.errors import InputError

if TYPE_CHECKING:
    from kilograd.api import Comparison, adapt, evaluate, export, plan
    from kilograd.learn.adapt import Outcome
    from kilograd.learn.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "InputError",
    "Outcome",
    "Settings",
    "adapt",
    "evaluate",
    "export",
    "plan",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever is asked for
    """Import what the functions need when one is asked for: half a second, and signals first."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("kilograd.api"), name)
