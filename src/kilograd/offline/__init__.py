"""Training on a workstation, in float, with PyTorch: before a network goes to a device.

The other modules here import torch, and nothing outside this room does; the command line imports
them when they are asked for.
"""

from __future__ import annotations

from kilograd.extras import Extra


def require_torch() -> None:
    """Raise `InputError` where what this room needs is not installed."""
    Extra.TORCH.need("offline training")
