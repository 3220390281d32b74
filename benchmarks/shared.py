"""Networks, their programs, and data sets by name: from $KILOGRAD_SHARED, by default ../shared."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from kilograd.data import Dataset, Episode, load_dataset, read_episodes
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
    head: HeadKind | None = None,
    *,
    rows: bool = False,
    recompute: bool = False,
) -> Compiled:
    """Compile what a method makes of a network, for ten classes; by prototypes if not said."""
    recipe = Recipe(method, 10, head, rows=rows, recompute=recompute)
    return compile_recipe(load_network(name), recipe, Budget())


@functools.cache
def load_images(name: str) -> Dataset:
    """Load a data set of the folder `data`."""
    return load_dataset(SHARED / "data" / f"{name}.parquet")


def first_episodes(path: Path, count: int, names: str | None = None) -> list[Episode]:
    """Read the first stored episodes of each data set: all first ones, then all second ones."""
    wanted = None if names is None else names.split(",")
    found = read_episodes(path, str(path))
    some = [e for e in found if e.seed < count and (wanted is None or e.dataset in wanted)]
    return sorted(some, key=lambda e: e.seed)
