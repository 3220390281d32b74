"""Training on a workstation, in float, with PyTorch: before a network goes to a device.

The other modules here import torch, and nothing outside this room does; the command line imports
them when they are asked for.
"""

from __future__ import annotations

import importlib.util

from kilograd.errors import InputError


def require_torch() -> None:
    """Raise `InputError` where what this room needs is not installed."""
    for package in ("torch", "tensorboard"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"offline training needs {package}, which is not installed: "
                f"pip install 'kilograd[torch]'"
            )
