r"""Whole data sets, as the 256 KB paper trains: the tables of docs/results/studies/whole-sets.md.

    python benchmarks/whole_sets.py run docs/results/data/whole-sets.csv
    python benchmarks/whole_sets.py run docs/results/data/whole-sets.csv --study s2
    python benchmarks/whole_sets.py table docs/results/data/whole-sets.csv
    python benchmarks/whole_sets.py s1 docs/results/data/whole-sets.csv        # and s2, s3, s4
    python benchmarks/whole_sets.py draw docs/results/data/whole-sets.csv OUT.svg --analytic

All images with the splits of a set, a linear head, 15 passes of which one is warm-up, two kept
views of each image, one update an image.  Where a method names no rate, it has the one that
`kilograd adapt` would choose for it.

A row is in the file before the next one is begun.  Stopped or killed, the same command goes on;
more methods, sets, seeds and networks may join the file.  What comes first is a table of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rows import append, grouped, head, line, lines_of, paired, shown
from shared import load_images, load_network
from two_classes import Source, two_classes

from kilograd.data import Dataset
from kilograd.frontend import Model
from kilograd.intervals import interval
from kilograd.learn.adapt import Task, compile_for, load_task
from kilograd.learn.automatic import suited_rate
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import Tests, enrol, fit, predict
from kilograd.learn.views import Cached, Fresh, views_of
from kilograd.passes import EntryPoint
from kilograd.report.chart import Curve, Point, chart_alone
from kilograd.report.cost import count
from kilograd.select import Budget
from kilograd.select.cost import Convention
from kilograd.settings import Recipe, Settings, split_method
from kilograd.targets import HostProgram, build_host

SETS = (
    *("dtd10", "person", "trashnet", "cifar10", "fashion_mnist"),
    *("flowers89", "gtsrb", "cifar100", "caltech101"),
)
"""From few images to many; `person` is made of two of the files."""
USUAL = Settings.of(
    episode="all", head="linear", optimizer="rowrms", cache=2, iterations=15, warmup=1
)
app = typer.Typer(add_completion=False)


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


def arms(*methods: str) -> tuple[Arm, ...]:
    """Return methods at their usual rates."""
    return tuple(map(Arm, methods))


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
_MOMENTUM = "optimizer=momentum"
_BATCHES = (1, 32, 128)
_TABLE_S3 = ("dtd10", "trashnet", "cifar10", "flowers89", "gtsrb")


def batches(method: str, optimizer: str) -> tuple[Arm, ...]:
    """Return arms by how many images an update has; the rate grows with the square root."""
    return tuple(
        Arm(f"{method}@{optimizer}" + (f",accumulate={n}" if n > 1 else ""), n**0.5)
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
            tried = tuple(Arm(m, t) for t in (1.0, 0.3, 0.1) for m in (*_FIRST, plan))
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


@app.command()
def run(
    out: Path,
    network: str = "mcunet-5fps",
    study: Study = Study.MAIN,
    sets: str = ",".join((*SETS, "pacs")),
    methods: Annotated[str | None, typer.Option(help="Only these, with spaces between.")] = None,
    seeds: int = 3,
    each_pass: Annotated[bool, typer.Option("--each-pass")] = False,  # noqa: FBT002
) -> None:
    """Learn what the file does not hold yet."""
    done = {r.key for r in lines_of(out, Row)}
    model, blocks = load_network(network), blocks_of(study, network)
    names = None if methods is None else methods.split()
    for name, seed, wanted in todo(blocks, sets.split(","), seeds, names):
        left = [a for a in wanted if (model.name, name, a.method, a.times, seed) not in done]
        if not left:
            continue
        learner = Learner(model, load(name), seed)
        for arm in left:
            row = learner.row(arm, each_pass=each_pass)
            append(out, [row])
            done.add(row.key)
            print(
                f"{name} {seed} {arm.method}: {row.accuracy:.1%} in {row.cpu_seconds} s", flush=True
            )


# ---- tables ----


def by_set(rows: Sequence[Row]) -> dict[str, float]:
    """Return the mean of the seeds for each set."""
    return {
        name: 100 * float(np.mean([r.accuracy for r in own]))
        for name, own in grouped(rows, lambda r: r.data).items()
    }


def less(rows: Sequence[Row], base: Sequence[Row]) -> list[float]:
    """Return, for each set that both have, the mean difference of the seeds that both have."""
    found = {(r.data, r.seed): 100 * r.accuracy for r in rows}
    first = {(r.data, r.seed): 100 * r.accuracy for r in base}
    both = [(key[0], found[key] - first[key]) for key in found if key in first]
    return [float(np.mean([x for _, x in own])) for own in grouped(both, lambda x: x[0]).values()]


def difference(rows: Sequence[Row], base: Sequence[Row]) -> str:
    """Write the mean difference over sets, with its interval, and of how many sets it is."""
    found = less(rows, base)
    return f"{shown(interval(found), '+')} ({len(found)})" if found else ""


def main_rows(path: Path, network: str) -> dict[str, list[Row]]:
    """Return the rows of the main comparison by method, in the order in which they are run."""
    order = [a.method for b in main_blocks(network) for a in b.arms]
    rows = [r for r in lines_of(path, Row) if r.model == network]
    by_method = grouped(rows, lambda r: r.method)
    return {m: by_method[m] for m in dict.fromkeys(order) if m in by_method}


@app.command()
def table(path: Path, network: str = "mcunet-5fps") -> None:
    """Print accuracy by method and set, and differences over the sets."""
    found = main_rows(path, network)
    names = [n for n in SETS if any(r.data == n for own in found.values() for r in own)]
    plan = f"sparse-{PLANS[network][2]}"
    versus = "less `head` (sets)", f"less `{plan}` (sets)"
    print(head(network, "RAM, B", "seeds", *names, *versus, texts=1))
    for method, own in found.items():
        each = by_set(own)
        print(
            line(
                f"`{method}`",
                f"{max(r.sram_bytes for r in own):,}",
                max(
                    len({r.seed for r in some}) for some in grouped(own, lambda r: r.data).values()
                ),
                *(f"{each[n]:.1f}" if n in each else "" for n in names),
                "" if method == "head" else difference(own, found.get("head", [])),
                "" if method == plan else difference(own, found.get(plan, [])),
            )
        )


@app.command()
def s1(path: Path, network: str = "mcunet-5fps") -> None:
    """Print how far seeds are apart: the deviation of each set, and the mean of them."""
    found = main_rows(path, network)
    print(head(f"{network}, deviation of seeds, points", *SETS, "mean", texts=1))
    for method, own in found.items():
        by = grouped(own, lambda r: r.data)
        spread = {
            n: 100 * float(np.std([r.accuracy for r in by[n]], ddof=1))
            for n in SETS
            if len(by.get(n, [])) > 1
        }
        if spread:
            cells = (f"{spread[n]:.2f} ({len(by[n])})" if n in spread else "" for n in SETS)
            print(line(f"`{method}`", *cells, f"{np.mean(list(spread.values())):.2f}"))


def study_table(path: Path, network: str, study: Study) -> None:
    """Print the arms of a study, compared with the first."""
    blocks = blocks_of(study, network)
    names = blocks[0].sets
    rows = [r for r in lines_of(path, Row) if r.model == network]
    by_method = grouped(rows, lambda r: r.method)
    first, *_ = (a.method for a in blocks[0].arms)
    versus = f"less `{first}` (sets)"
    print(head(f"{network}, {study.upper()}", "RAM, B", "rate", "seeds", *names, versus, texts=1))
    for arm in blocks[0].arms:
        if own := by_method.get(arm.method, []):
            each = by_set(own)
            rates = sorted({r.lr for r in own})
            base = by_method.get(first, [])
            print(
                line(
                    f"`{arm.method}`",
                    f"{max(r.sram_bytes for r in own):,}",
                    " to ".join(f"{x:g}" for x in dict.fromkeys((rates[0], rates[-1]))),
                    len({r.seed for r in own}),
                    *(f"{each[n]:.1f}" if n in each else "" for n in names),
                    "" if arm.method == first else difference(own, base),
                )
            )
    if study is Study.S4:
        pairs = [
            (m, paired(seeds_of(by_method[m]), seeds_of(by_method[first])))
            for m in (a.method for a in blocks[0].arms[1:])
            if m in by_method
        ]
        for method, some in pairs:
            print(f"\n`{method}` less `{first}`, over seeds: {shown(interval(some), '+')}")


def seeds_of(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    """Return accuracy in per cent by set and seed."""
    return {(r.data, r.seed): 100 * r.accuracy for r in rows}


@app.command()
def s2(path: Path, network: str = "mcunet-5fps") -> None:
    """Print the head in float32 beside int8."""
    study_table(path, network, Study.S2)


@app.command()
def s3(path: Path, network: str = "mcunet-5fps") -> None:
    """Print batches with and without momentum."""
    study_table(path, network, Study.S3)


@app.command()
def s4(path: Path, network: str = "mcunet-5fps") -> None:
    """Print what accumulated gradients bring with two classes."""
    study_table(path, network, Study.S4)


# ---- accuracy against memory ----

FAMILIES = {
    "last K layers": ("head", "last", "last:3", "last:6", "last:12"),
    "biases of the last K": ("bias:6", "bias:12", "bias:24"),
    "published sparse plans": tuple(f"sparse-{x}" for plans in PLANS.values() for x in plans),
    "tinytrain, 15 % of the work": ("tinytrain",),
    "full": ("full",),
}
CLASSES = 10


def inference_bytes(network: Model) -> int:
    """Return the RAM of inference alone: the arena of a program that learns nothing."""
    program = compile_recipe(network, Recipe("none", CLASSES), Budget()).program
    return program.entries[EntryPoint.INFER].plan.peak


def extra_bytes(network: Model, method: str, rows: Sequence[Row], convention: Convention) -> int:
    """Return what training needs beyond inference, in bytes, with ten classes."""
    if convention is Convention.TTE:
        return count(network, Recipe(method, CLASSES), convention).memory.total
    ten = [r.sram_bytes for r in rows if r.ways == CLASSES]
    most = max(ten) if ten else compile_for_ten(network, method).program.sram_bytes
    return most - inference_bytes(network)


def compile_for_ten(network: Model, method: str) -> Compiled:
    """Compile a method that looks at no images as the rows had it, for ten classes."""
    recipe = replace(USUAL.recipe, method=method, ways=CLASSES)
    return compile_recipe(network, recipe, Budget())


def common(found: Mapping[str, Sequence[Row]]) -> set[tuple[str, int]]:
    """Return the sets and seeds that every method has, but for `full`, which few have."""
    keys = [{(r.data, r.seed) for r in own} for m, own in found.items() if m != "full"]
    return set.intersection(*keys) if keys else set()


def curves(
    network: Model, found: Mapping[str, Sequence[Row]], convention: Convention
) -> Iterator[Curve]:
    """Yield a curve for each family: accuracy against what training needs beyond inference."""
    shared = common(found)
    same = {m: [r for r in own if (r.data, r.seed) in shared] for m, own in found.items()}
    base = same.get("head", [])
    for family, methods in FAMILIES.items():
        points = []
        for method in methods:
            own = same.get(method, [])
            if not own or (convention is Convention.TTE and method == "tinytrain"):
                continue
            size = extra_bytes(network, method, own, convention)
            mean = float(np.mean(list(by_set(own).values())))
            gain = interval(less(own, base))
            says = f"{method}, {size:,} B: {mean:.1f} %"
            points.append(Point(size / 1024, mean, gain.half, says, method))
        if points:
            yield Curve(family, tuple(sorted(points, key=lambda p: p.x)))


@app.command()
def draw(
    path: Path,
    out: Path,
    network: str = "mcunet-5fps",
    analytic: Annotated[bool, typer.Option("--analytic")] = False,  # noqa: FBT002
) -> None:
    """Draw accuracy against extra memory, and print what it is drawn from."""
    convention = Convention.TTE if analytic else Convention.KILOGRAD
    model, found = load_network(network), main_rows(path, network)
    drawn = tuple(curves(model, found, convention))
    how = "by the paper's formula" if analytic else "of the compiled program, ten classes"
    across = f"RAM of training beyond inference, KiB, {how}"
    out.write_text(chart_alone(drawn, across, "accuracy, %, mean of sets"), encoding="utf-8")
    some = sorted({name for name, _ in common(found)})
    print(head(f"{len(some)} sets: {', '.join(some)}", "extra, KiB", "accuracy, %", texts=1))
    for point in (p for curve in drawn for p in curve.points):
        print(line(f"`{point.name}`", f"{point.x:.1f}", f"{point.y:.1f}"))


if __name__ == "__main__":
    app()
