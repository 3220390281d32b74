"""What tests share: the shared folder, compilers, running graphs as C."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _shared() -> Path | None:
    """The folder with the published models and the data sets, where this machine has it."""
    folder = Path(os.environ.get("KILOGRAD_SHARED") or Path(__file__).parents[2] / "shared")
    return folder if (folder / "models").is_dir() else None


SHARED = _shared()

needs_shared = pytest.mark.skipif(
    SHARED is None,
    reason="the published models are not here: set KILOGRAD_SHARED to a folder with models/ and data/",
)


def model_path(name: str) -> Path:
    """Return the folder of a published model; skips the test where it is absent."""
    if SHARED is None:
        pytest.skip("the published models are not here: set KILOGRAD_SHARED")
    return SHARED / "models" / name
