"""What `kilograd evaluate --suite` runs: comparisons to show for a method, and those of two papers.

Rate, optimiser and passes of `quick` and `full` are those of docs/results/studies/strategies.md.
The rate was chosen for MCUNet, on sign_digits, cifar100 and pacs: none of them is among the sets
here.  The other networks of the full suite take it over.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, field
from pathlib import Path

from kilograd.data import EpisodeKind
from kilograd.errors import InputError, option
from kilograd.settings import HeadKind, OptimizerKind, Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A data set: what it is called, as what it may lie in a folder, and where it can be had.

    `source` is empty where a suite cannot do without.
    """

    name: str
    also: tuple[str, ...] = ()
    source: str = ""

    def place(self, folder: Path) -> Path | None:
        """Return where it lies: NAME.parquet, or a folder NAME, of the names in their order."""
        places = (folder / f"{n}{end}" for n in (self.name, *self.also) for end in (".parquet", ""))
        return next((p for p in places if p.exists()), None)


@dataclass(frozen=True)
class Suite:
    """What is compared where no option says otherwise.

    `models`: names of networks; `None`: the usual one.
    """

    sets: tuple[Wanted, ...] = ()
    models: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ("none", "last")
    episodes: int = 10
    settings: Settings = field(default_factory=Settings)


_SETTINGS = Settings.of(optimizer=OptimizerKind.ROWRMS, lr=0.001, compute="15%")
_SETS = tuple(map(Wanted, ("gtsrb", "flowers89", "omniglot", "dtd10", "fashion_mnist", "trashnet")))
_METHODS = ("tinytrain", "none", "tinytrain-random:0", "random-layers:0", "pointwise-knapsack")
_NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")

#: Six kinds of pictures and one network: minutes.
QUICK = Suite(_SETS, _NETWORKS[:1], _METHODS, 10, _SETTINGS)

#: More of everything: a night.
FULL = Suite(
    (*_SETS, *map(Wanted, ("caltech101", "neu_surface", "bccd_cells"))),
    _NETWORKS,
    (*_METHODS, "knapsack", "int8-knapsack", "tinytrain-l2", "static-l2"),
    30,
    _SETTINGS,
)


def _of_meta_dataset(name: str, *also: str, of: str) -> Wanted:
    return Wanted(name, also, f"{of}; github.com/google-research/meta-dataset says how to get it")


#: TinyTrain, Table 1: nine sets of Meta-Dataset under the names that it gives them.  Rates are not
#: tuned: one for all methods.
TINYTRAIN_TABLE_1 = Suite(
    (
        _of_meta_dataset("traffic_sign", "gtsrb", of="German Traffic Sign Recognition Benchmark"),
        _of_meta_dataset("omniglot", of="Omniglot"),
        _of_meta_dataset("aircraft", "fgvc_aircraft", of="FGVC-Aircraft"),
        _of_meta_dataset(
            "vgg_flower", "flowers", "flowers102", "flowers89", of="VGG's 102 Category Flowers"
        ),
        _of_meta_dataset("cu_birds", "cub", "cub200", of="Caltech-UCSD Birds-200-2011"),
        _of_meta_dataset("dtd", "dtd10", of="Describable Textures Dataset"),
        _of_meta_dataset("quickdraw", of="Quick, Draw!"),
        _of_meta_dataset("fungi", of="FGVCx Fungi"),
        _of_meta_dataset("mscoco", "coco", of="crops of objects in MSCOCO"),
    ),
    _NETWORKS,
    ("none", "full", "last", "tinytl", "sparse-100kb", "tinytrain"),
    200,
    Settings.of(
        episode=EpisodeKind.META_DATASET,
        optimizer=OptimizerKind.ADAM,
        lr=0.001,
        iterations=40,
        accumulate=1000,
        prototype_gradients=True,
    ),
)

#: The 256 KB paper, Tables S1 to S3: whole data sets, 50 passes, one image at a time.  Rates are
#: those that `kilograd adapt` would take for MCUNet.
TRANSFER = Suite(
    (
        Wanted("cars", ("stanford_cars", "cars196"), "Stanford Cars"),
        Wanted("cub", ("cu_birds", "cub200"), "Caltech-UCSD Birds-200-2011"),
        Wanted("flowers", ("vgg_flower", "flowers102", "flowers89"), "VGG's 102 Category Flowers"),
        Wanted("food", ("food101",), "Food-101 of ETH Zürich"),
        Wanted("pets", ("oxford_pets",), "Oxford-IIIT Pet Dataset"),
        Wanted("vww", ("visual_wake_words",), "Visual Wake Words, made from MSCOCO"),
        Wanted("cifar10", (), "CIFAR-10 of the University of Toronto"),
        Wanted("cifar100", (), "CIFAR-100 of the University of Toronto"),
    ),
    _NETWORKS,
    (
        *("head@0.003", "bias:12@0.05", "last@0.004", "last:12@0.001", "full@0.001"),
        *("sparse-49kb@0.015", "sparse-100kb@0.005", "tinytrain@0.006"),
    ),
    3,
    Settings.of(
        episode=EpisodeKind.ALL,
        head=HeadKind.LINEAR,
        optimizer=OptimizerKind.SGD,
        iterations=50,
        warmup=5,
    ),
)


class SuiteName(enum.StrEnum):
    """The suites by name."""

    QUICK = "quick"
    FULL = "full"
    TINYTRAIN_TABLE_1 = "tinytrain-table1"
    TRANSFER = "transfer"

    @property
    def suite(self) -> Suite:
        """What it stands for."""
        match self:
            case SuiteName.QUICK:
                return QUICK
            case SuiteName.FULL:
                return FULL
            case SuiteName.TINYTRAIN_TABLE_1:
                return TINYTRAIN_TABLE_1
            case SuiteName.TRANSFER:
                return TRANSFER


def find_sets(folder: Path, name: SuiteName) -> tuple[Path, ...]:
    """Return the data sets of a suite in a folder: NAME.parquet, or a folder NAME.

    The suites of papers do without those that are not there: a warning names each, and where it can
    be had.  Raises `InputError` where none is there, or one that the suite cannot do without.
    """
    wanted = name.suite.sets
    found = [place for w in wanted if (place := w.place(folder)) is not None]
    missing = [w for w in wanted if w.place(folder) is None]
    if len(missing) == len(wanted) or any(not w.source for w in missing):
        lacks = ", ".join(w.name for w in missing)
        raise InputError(
            f"{option('suite')} {name}: {folder} lacks {lacks}, each as NAME.parquet "
            f"or a folder NAME; add {'some' if missing[0].source else 'them'}, or name sets of "
            f"your own with {option('data')} A.parquet,B.parquet"
        )
    for w in missing:
        names = " or ".join((w.name, *w.also))
        _log.warning("--suite %s goes without %s: %s", name, names, w.source)
    return tuple(found)
