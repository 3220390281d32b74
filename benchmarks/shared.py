"""Networks and data sets by name: those in $KILOGRAD_SHARED, by default ../shared."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from kilograd.data import Dataset, load_dataset
from kilograd.frontend import Model, load_model

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))


@functools.cache
def load_network(name: str) -> Model:
    """Load a network: one of the folder `models`, or else one that Kilograd finds."""
    folder = SHARED / "models" / name
    return load_model(str(folder) if folder.is_dir() else name)


@functools.cache
def load_images(name: str) -> Dataset:
    """Load a data set of the folder `data`."""
    return load_dataset(SHARED / "data" / f"{name}.parquet")
