"""What benchmarks with a row an episode share: data, networks, and rows in a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import astuple, fields
from functools import cache
from pathlib import Path
from typing import TypeVar, get_type_hints

from kilograd.data import Dataset, Episode, load_dataset
from kilograd.frontend import Model, load_model

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))
Row = TypeVar("Row")


@cache
def dataset(name: str) -> Dataset:
    return load_dataset(SHARED / "data" / f"{name}.parquet")


@cache
def model(name: str) -> Model:
    return load_model(str(SHARED / "models" / name))


def episodes_of(path: Path, count: int, names: str | None = None) -> list[Episode]:
    """Read the first stored episodes of each data set: all first ones, then all second ones."""
    found = map(Episode.from_json, path.read_text(encoding="utf-8").splitlines())
    wanted = None if names is None else names.split(",")
    some = [e for e in found if e.seed < count and (wanted is None or e.dataset in wanted)]
    return sorted(some, key=lambda e: e.seed)


def read(path: Path, kind: type[Row]) -> list[Row]:
    """Read rows; a column that is not there has the default of its field."""
    if not path.exists():
        return []
    types = get_type_hints(kind)
    with path.open(newline="", encoding="utf-8") as f:
        return [kind(**{k: types[k](v) for k, v in r.items()}) for r in csv.DictReader(f)]


def append(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Add rows; a new file gets a head."""
    new = not path.exists() or not path.stat().st_size
    with path.open("a", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        if new:
            writer.writerow([x.name for x in fields(kind)])
        writer.writerows(map(astuple, rows))
