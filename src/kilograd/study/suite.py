"""What `kilograd evaluate --suite` runs: the comparison to show for a method, in short and whole.

Rate, optimiser and passes are those of docs/results/studies/strategies.md.  The rate was chosen for
MCUNet, on sign_digits, cifar100 and pacs: none of them is among the sets here.  The other networks
of the full suite take it over.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from kilograd.errors import InputError, option
from kilograd.settings import OptimizerKind, Settings


@dataclass(frozen=True)
class Suite:
    """What is compared where no option says otherwise.

    `sets`: names of data sets.  `models`: names of networks; `None`: the usual one.
    """

    sets: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ("none", "last")
    episodes: int = 10
    settings: Settings = field(default_factory=Settings)


_SETTINGS = Settings.of(optimizer=OptimizerKind.ROWRMS, lr=0.001, compute="15%")
_SETS = ("gtsrb", "flowers89", "omniglot", "dtd10", "fashion_mnist", "trashnet")
_METHODS = ("tinytrain", "none", "tinytrain-random:0", "random-layers:0", "pointwise-knapsack")

#: Six kinds of pictures and one network: minutes.
QUICK = Suite(_SETS, ("mcunet-5fps",), _METHODS, 10, _SETTINGS)

#: More of everything: a night.
FULL = Suite(
    (*_SETS, "caltech101", "neu_surface", "bccd_cells"),
    ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"),
    (*_METHODS, "knapsack", "int8-knapsack", "tinytrain-l2", "static-l2"),
    30,
    _SETTINGS,
)


class SuiteName(enum.StrEnum):
    """The suites by name."""

    QUICK = "quick"
    FULL = "full"

    @property
    def suite(self) -> Suite:
        """What it stands for."""
        return QUICK if self is SuiteName.QUICK else FULL


def find_sets(folder: Path, name: SuiteName) -> tuple[Path, ...]:
    """Return the data sets of a suite in a folder: NAME.parquet, or a folder NAME.

    Raises `InputError` that names those which are not there.
    """
    found = {}
    for data in name.suite.sets:
        places = (folder / f"{data}.parquet", folder / data)
        found[data] = next((p for p in places if p.exists()), None)
    if missing := [data for data, place in found.items() if place is None]:
        raise InputError(
            f"{option('suite')} {name}: {folder} lacks {', '.join(missing)}, each as NAME.parquet "
            f"or a folder NAME; add them, or name sets of your own with {option('data')} "
            "A.parquet,B.parquet"
        )
    return tuple(place for place in found.values() if place is not None)
