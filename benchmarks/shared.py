"""Networks, their programs, and data sets by name: from $KILOGRAD_SHARED, by default ../shared."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from kilograd.data import Dataset, load_dataset
from kilograd.frontend import Model, load_model
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.select import Budget
from kilograd.settings import HeadKind, Recipe

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))


@functools.cache
def load_network(name: str) -> Model:
    """Load a network: one of the folder `models`, or else one that Kilograd finds."""
    folder = SHARED / "models" / name
    return load_model(str(folder) if folder.is_dir() else name)


def compiled(
    name: str,
    method: str,
    head: HeadKind = HeadKind.PROTO,
    *,
    rows: bool = False,
    recompute: bool = False,
) -> Compiled:
    """Compile what a method makes of a network, for ten classes."""
    recipe = Recipe(method, 10, head, rows=rows, recompute=recompute)
    return compile_recipe(load_network(name), recipe, Budget())


@functools.cache
def load_images(name: str) -> Dataset:
    """Load a data set of the folder `data`."""
    return load_dataset(SHARED / "data" / f"{name}.parquet")
