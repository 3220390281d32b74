"""What the study of whole data sets learns, in which order, and how: see whole_sets.py."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product

import numpy as np
from shared import load_images
from two_classes import Source, two_classes

from kilograd.data import Dataset
from kilograd.frontend import Model
from kilograd.learn.adapt import Task, compile_for, load_task
from kilograd.learn.automatic import suited_rate
from kilograd.learn.recipe import Compiled
from kilograd.learn.training import Tests, enrol, fit, predict
from kilograd.learn.views import Cached, Fresh, views_of
from kilograd.passes import EntryPoint
from kilograd.settings import Settings, split_method
from kilograd.targets import HostProgram, build_host

SETS = (
    *("dtd10", "person", "trashnet", "cifar10", "fashion_mnist"),
    *("flowers89", "gtsrb", "cifar100", "caltech101"),
)
"""From few images to many; `person` is made of two of the files."""
USUAL = Settings.of(
    episode="all", head="linear", optimizer="rowrms", cache=2, iterations=15, warmup=1
)


@dataclass(frozen=True)
class Arm:
    """A method as `kilograd evaluate` takes it, and what its usual rate is multiplied by."""

    method: str
    times: float = 1.0


@dataclass(frozen=True)
class Block:
    """Arms that are run on some sets, set by set: each block makes a table whole."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    sets: tuple[str, ...] = SETS


class Study(StrEnum):
    """What is asked: which methods learn best, or one of the paper's tables."""

    MAIN = "main"
    RATES = "rates"
    S2 = "s2"
    S3 = "s3"
    S4 = "s4"


_SLOWER = 0.3


def arms(*methods: str) -> tuple[Arm, ...]:
    """Return methods at their usual rates, which suit some thousand images shown, or slower.

    Of 0.3, 1 and 3 times the rate of `adapt` these were best on pacs: see Study.RATES.
    """
    late = "head", "last"
    return tuple(Arm(m, 1.0 if m.partition(":")[0] in late else _SLOWER) for m in methods)


#: The published plans of each network, from small to large.
PLANS = {
    "mcunet-5fps": ("49kb", "74kb", "99kb", "124kb", "148kb"),
    "mbv2-w0.35": ("49kb", "73kb", "99kb", "123kb", "138kb"),
    "proxyless-w0.3": ("49kb", "74kb", "98kb", "120kb", "148kb"),
}


_FIRST = ("head", "last", "bias:12")


def main_blocks(network: str) -> tuple[Block, ...]:
    """Return the main comparison in an order in which it may end at any time."""
    small, second, middle, fourth, large = (f"sparse-{x}" for x in PLANS[network])
    first = arms(*_FIRST, middle)
    then = arms("bias:24", small, "tinytrain", "last:6", large, "last:12")
    rest = arms("bias:6", second, fourth, "last:3", "knapsack")
    return (
        Block(first, (0,)),
        Block(then, (0,)),
        Block(first, (1, 2)),
        Block(then, (1, 2)),
        Block(rest, (0, 1, 2)),
        Block(arms("full"), (0,), ("dtd10", "person", "trashnet")),
    )


_SGD = "optimizer=sgd"
_MOMENTUM = "optimizer=momentum,state_bits=16"
_BATCHES = (1, 32, 128)
_TABLE_S3 = ("dtd10", "trashnet", "cifar10", "flowers89", "gtsrb")


def batches(method: str, optimizer: str) -> tuple[Arm, ...]:
    """Return arms by how many images an update has; the rate grows with the square root.

    Sums and momentum are kept in 16 bits, with an exponent for each row.
    """
    (usual,) = arms(method)
    bits = "" if "state_bits" in optimizer else ",state_bits=16"
    return tuple(
        Arm(
            f"{method}@{optimizer}" + (f",accumulate={n}{bits}" if n > 1 else ""),
            float(f"{usual.times * n**0.5:.2g}"),
        )
        for n in _BATCHES
    )


def blocks_of(study: Study, network: str) -> tuple[Block, ...]:
    """Return what a study runs, in order."""
    plan = f"sparse-{PLANS[network][2]}"
    last = "last:6"  # the last two blocks of MCUNet, as in tables S2 and S3 of the paper
    match study:
        case Study.MAIN:
            return main_blocks(network)
        case Study.RATES:
            tried = tuple(Arm(m, t) for t in (1.0, 0.3, 3.0, 0.1) for m in (*_FIRST, plan))
            return (Block(tried, (0,), ("pacs",)),)
        case Study.S2:
            heads = arms(f"{last}@{_SGD}", f"{last}@{_SGD},head=int8")
            return tuple(Block(heads, (seed,)) for seed in range(3))
        case Study.S3:
            every = *batches(last, _SGD), *batches(last, _MOMENTUM)
            return tuple(Block(every, (seed,), _TABLE_S3) for seed in range(3))
        case Study.S4:
            sums = batches(f"sparse-{PLANS[network][0]}", _SGD)
            return (Block(sums, (0, 1, 2), ("person",)),)


@dataclass(frozen=True)
class Row:
    """A set learned whole by a method; accuracies in 0 ... 1, sizes in bytes.

    `seed` decides views, order and rounding: the images of a set are the same for all.
    `times`: what the rate that `adapt` would choose was multiplied by, to give `lr`.
    `loss`: the mean of the last pass.  `by_pass`: accuracies, where they were asked for.
    """

    model: str
    data: str
    method: str
    seed: int
    times: float
    lr: float
    passes: int
    ways: int
    learned_from: int
    tested_on: int
    accuracy: float
    loss: float
    sram_bytes: int
    learned_parameters: int
    backward_macs: int
    cpu_seconds: float
    by_pass: str = ""

    @property
    def key(self) -> tuple[str, str, str, float, int]:
        """What tells it from others."""
        return self.model, self.data, self.method, self.times, self.seed


# ---- learning ----


def person() -> Dataset:
    """Return people and other things in equal numbers, from the same sources."""
    pacs, things = load_images("pacs"), load_images("caltech101")
    domains = dict.fromkeys(name.partition("/")[0] for name in pacs.classes)
    sources = [
        Source(
            pacs,
            frozenset({f"{domain}/person"}),
            frozenset(x for x in pacs.classes if x.startswith(domain) and not x.endswith("person")),
        )
        for domain in domains
    ]
    faces = frozenset({"Faces"})
    sources.append(Source(things, faces, frozenset(things.classes) - faces))
    return two_classes("person", "no person", sources)


def load(name: str) -> Dataset:
    """Load a set by its name."""
    return person() if name == "person" else load_images(name)


class Learner:
    """Learns a set, and keeps what its methods have in common: images, and latents by cut."""

    def __init__(self, network: Model, dataset: Dataset, seed: int) -> None:
        self._network, self._seed = network, seed
        drawn = USUAL.draw(dataset, seed)
        self.task: Task = load_task(dataset, drawn, network.preprocess)
        self._kept: dict[object, Fresh | Cached] = {}

    def row(self, arm: Arm, *, each_pass: bool) -> Row:
        """Learn by a method."""
        start = time.process_time()
        task, settings = self.task, USUAL.varied(arm.method).numbered(self._seed)
        compiled = compile_for(self._network, task, settings)
        lr = settings.schedule.lr
        if "lr" not in split_method(arm.method)[1]:
            lr = float(f"{arm.times * suited_rate(compiled):.2g}")
        schedule = replace(settings.schedule, lr=lr)
        host = build_host(compiled.program)
        tests = Tests(task.query) if each_pass else None
        views = self._views(compiled, host)
        losses = fit(host, compiled, task.support, schedule, views=views, tests=tests)
        enrol(host, task.support)
        right = predict(host, task.query.images) == task.query.labels
        count = len(task.support.labels)
        return Row(
            self._network.name,
            task.episode.dataset,
            arm.method,
            self._seed,
            arm.times,
            lr,
            schedule.iterations,
            len(task.classes),
            count,
            len(right),
            round(float(right.mean()), 6),
            round(float(np.mean(losses[-count:])), 4) if losses else 0.0,
            compiled.program.sram_bytes,
            compiled.learned_parameters,
            compiled.backward_macs,
            round(time.process_time() - start, 2),
            " ".join(f"{x:.4f}" for x in tests.found) if tests else "",
        )

    def _views(self, compiled: Compiled, host: HostProgram) -> Fresh | Cached | None:
        entries = compiled.program.entries
        if EntryPoint.PREFIX not in entries or compiled.selection.graph is not None:
            return None
        names = tuple(n.name for n in entries[EntryPoint.PREFIX].graph.outputs)
        key = names, EntryPoint.ENROL in entries
        if key not in self._kept:
            self._kept = {}  # one at a time: a large set has much to keep
            images, how = self.task.support.images, USUAL.schedule
            self._kept[key] = views_of(host, compiled, images, how.augment, self._seed)
        return self._kept[key]


def todo(
    blocks: Sequence[Block], sets: Sequence[str], seeds: int, methods: Sequence[str] | None
) -> Iterator[tuple[str, int, tuple[Arm, ...]]]:
    """Yield what is to be done, in order: set, seed and arms."""
    for block in blocks:
        wanted = tuple(a for a in block.arms if methods is None or a.method in methods)
        for seed, name in product(block.seeds, block.sets):
            if seed < seeds and name in sets and wanted:
                yield name, seed, wanted
