"""From float to the device, step by step: what does each step cost?

The tables of docs/results/studies/ladder.md.

    python benchmarks/ladder.py check docs/results/data/strategies.episodes.jsonl
    python benchmarks/ladder.py run docs/results/data/strategies.episodes.jsonl \
        docs/results/data/ladder.csv --episodes 8
    python benchmarks/ladder.py table docs/results/data/ladder.csv

Every rung learns the same selection on the same stored episodes of `strategies.py`, with the same
views in the same order, the same rates and the same rule (`rowrms`), one image at a time; only what
the rung's name says differs from the rung before.  A run goes on where it was interrupted.
Needs PyTorch (kilograd[torch]) and the data and model folders: KILOGRAD_SHARED.
"""

from __future__ import annotations

import enum
import functools
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import typer
from ladder_network import Arithmetic, Network
from numpy.typing import NDArray
from rows import append, head, line, lines_of, shown
from shared import load_images, load_network
from torch import Tensor
from torch.nn import functional

from kilograd.data import Episode, augmented, read_episodes
from kilograd.emit import link
from kilograd.frontend import Model
from kilograd.intervals import interval
from kilograd.ir import Array, DType, Graph, Node, dead_code
from kilograd.learn.adapt import load_task
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import enrol, fit, predict
from kilograd.ops import Update
from kilograd.ops.update import BIAS_LIMIT, row_axis
from kilograd.passes import EntryPoint, Part
from kilograd.quant import fractions, stochastic_round
from kilograd.select import Budget, Demand, Selection, write_plan
from kilograd.select.selection import biases, weights
from kilograd.settings import HeadKind, Limits, OptimizerKind, Recipe, Schedule
from kilograd.targets import Driver, HostProgram, build_host

PLAN = Path(__file__).parents[1] / "examples" / "plans" / "static-pointwise-knapsack-15.json"
METHODS = {"none": "none", "last": "last", "static": str(PLAN), "tinytrain": "tinytrain"}
NETWORK, LIMITS = "mcunet-5fps", Limits(compute="15%")
PASSES, RATE, VIEWS = 10, 0.001, 4
OTHER_SEED = 1000
SCALE = 10.0  # of the cosine, as the device has it

app = typer.Typer(add_completion=False)


class Rung(enum.StrEnum):
    """How a network learns; each differs in one thing from the one before.

    The last is no step down: it shows how far chance alone moves a training.
    """

    FLOAT = "float32"
    ROUNDED = "fake-quantised forward"
    INTEGER = "int8 forward"
    BACKWARD = "integer backward"
    DEVICE = "int8 updates"
    FRESH = "fresh views"
    AGAIN = "other random numbers"


RUNGS = tuple(Rung)
ARITHMETIC = {
    Rung.FLOAT: Arithmetic.FLOAT,
    Rung.ROUNDED: Arithmetic.ROUNDED,
    Rung.INTEGER: Arithmetic.INTEGER,
}


@dataclass(frozen=True)
class Row:
    """One episode learned on one rung; `seconds` of one core, for learning alone."""

    data: str
    episode: int
    method: str
    rung: str
    accuracy: float
    seconds: float


class Kept(enum.Enum):
    """What is kept of a weight between two steps."""

    FLOAT = "a float"
    BOUNDED = "a float, within the codes; the forward pass sees the nearest code"
    CODES = "the code, rounded stochastically as on the device"


class Master:
    """What learns: a parameter in real units, and the state of its optimiser.

    `update` is the node that would update it on the device.
    """

    def __init__(self, update: Node, codes: Array, kept: Kept, seed: int = 0) -> None:
        self.name, self.kind = update.inputs[0].name, update.inputs[0].type
        assert isinstance(update.op, Update)
        self.rule, self._kept, self._seed, self._steps = update.op, kept, seed, 0
        shapes = self.rule.state_shapes(self.kind)
        self._states = [np.zeros(shape, np.float32) for shape in shapes]
        self._codes, self._unit = codes, np.float32(1)
        if self.kind.quant is not None:
            table, exponent = fractions(self.kind.affine.scale)
            per_real = np.float32(2.0 ** (31 - exponent) / self.kind.affine.unit)
            self._per_real = self._by_row(per_real / table.astype(np.float32))
            scale = np.array(self.kind.affine.scale) * self.kind.affine.unit
            self._unit = self._by_row(scale.astype(np.float32))
        self.real = (codes * self._unit).astype(np.float32)

    def learn(self, gradient: Array, rate: float) -> None:
        """Take a step against a gradient in real units."""
        rows = np.moveaxis(gradient, row_axis(self.kind), 0)
        flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
        direction, *self._states = self.rule.step(flat, self._states, self._steps + 1)
        by_rows = (direction * np.float32(rate)).reshape(rows.shape)
        self._step(-np.moveaxis(by_rows, 0, row_axis(self.kind)))
        self._steps += 1

    def _step(self, step: Array) -> None:
        if self.kind.quant is None or self._kept is not Kept.CODES:
            self.real = self.real + step
            if self._kept is Kept.BOUNDED and self.kind.dtype is DType.I8:
                self.real = np.clip(self.real, -127 * self._unit, 127 * self._unit)
            return
        limit = 127 if self.kind.dtype is DType.I8 else BIAS_LIMIT
        by = stochastic_round(step * self._per_real, self._seed, self._steps, self.rule.salt)
        self._codes = np.clip(self._codes + by, -limit, limit).astype(self.kind.dtype.numpy)
        self.real = (self._codes * self._unit).astype(np.float32)

    def codes(self) -> Array:
        """Return the codes that the device would hold, or the floats themselves."""
        if self.kind.quant is None:
            return self.real
        if self._kept is Kept.CODES:
            return self._codes
        return np.rint(self.real / self._unit).astype(self.kind.dtype.numpy)

    def _by_row(self, x: Array) -> Array:
        axis = row_axis(self.kind)
        return x.reshape([-1 if a == axis else 1 for a in range(len(self.kind.shape))])


class Student(Protocol):
    """Something that has gradients, takes weights and knows prototypes."""

    def enrol(self) -> None:
        """Make the prototypes anew."""

    def gradients(self, i: int, turn: int) -> Mapping[str, Array]:
        """Return the gradient of the loss of a view of image i, in real units, by parameter."""

    def put(self, master: Master) -> None:
        """Take the value of a parameter."""


class InTorch:
    """A `Student` in PyTorch, fed with what the frozen layers leave of each view."""

    def __init__(
        self,
        network: Network,
        plain: Mapping[str, Tensor],
        views: Sequence[Mapping[str, Tensor]],
        labels: Array,
    ) -> None:
        self.network, self._plain, self._views = network, plain, views
        self._labels = torch.from_numpy(labels).long()
        self._prototypes = torch.zeros(0)

    def enrol(self) -> None:
        with torch.no_grad():
            onehot = functional.one_hot(self._labels).float()
            self._prototypes = functional.normalize(onehot.T @ self.network.features(self._plain))

    def logits(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return scaled cosines."""
        return SCALE * functional.normalize(self.network.features(given)) @ self._prototypes.T

    def gradients(self, i: int, turn: int) -> Mapping[str, Array]:
        view = self._views[turn % len(self._views)]
        logits = self.logits({name: x[i : i + 1] for name, x in view.items()})
        functional.cross_entropy(logits, self._labels[i : i + 1]).backward()
        return self.network.gradients()

    def put(self, master: Master) -> None:
        self.network.put(master.name, master.real)

    def predict(self, query: Mapping[str, Tensor]) -> NDArray[np.int64]:
        """Return the most likely class of each image."""
        with torch.no_grad():
            return self.logits(query).argmax(1).numpy()


class OnDevice:
    """A `Student` that is the device's program: it adds gradients up, and is never told to step."""

    def __init__(
        self,
        host: HostProgram,
        plain: Sequence[Mapping[str, Array]],
        views: Sequence[Sequence[Mapping[str, Array]]],
        labels: Array,
    ) -> None:
        self._host, self._driver = host, Driver(host)
        self._plain, self._views, self._labels = plain, views, labels

    def enrol(self) -> None:
        self._driver.enrol(zip(self._plain, self._labels, strict=True))

    def gradients(self, i: int, turn: int) -> Mapping[str, Array]:
        latent = self._views[turn % len(self._views)][i]
        self._driver.accumulate(latent, self._labels[i])
        found = {}
        for name, value in self._host.state.items():
            if name.endswith(".sum"):
                found[name.removesuffix(".sum")] = value.copy()
                value[...] = 0
        return found

    def put(self, master: Master) -> None:
        self._host.state[master.name][...] = master.codes()


def taught(
    student: Student,
    learns: Sequence[Master],
    count: int,
    schedule: Schedule,
    rng: np.random.Generator,
) -> None:
    """Teach `count` images, one at a time, in the order of `kilograd adapt`."""
    seen, total = 0, schedule.iterations * count
    for turn in range(schedule.iterations):
        student.enrol()
        for i in rng.permutation(count):
            found = student.gradients(i, turn)
            for master in learns:
                master.learn(found[master.name], schedule.rate(seen / total))
                student.put(master)
            seen += 1
    student.enrol()


@functools.lru_cache(maxsize=8)
def design(learn: tuple[tuple[str, Part], ...], ways: int, accumulate: int) -> Compiled:
    """Compile what the device runs; the lower layers are an entry point of their own."""
    network = load_network(NETWORK)
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        named = {str(p): p for p in (*weights(network.layers), *biases(network.layers))}
        write_plan(plan, network.name, Selection({named[name]: part for name, part in learn}))
        recipe = Recipe(
            str(plan), ways, HeadKind.PROTO, OptimizerKind.ROWRMS, accumulate, cache=VIEWS
        )
        return compile_recipe(network, recipe, Budget())


@functools.lru_cache(maxsize=8)
def program(
    learn: tuple[tuple[str, Part], ...], ways: int, accumulate: int
) -> tuple[Compiled, HostProgram]:
    """Return the same, and built for this machine."""
    made = design(learn, ways, accumulate)
    return made, build_host(made.program, keep=False)


def updates(made: Compiled) -> list[Node]:
    """Return the nodes that update what learns, one a parameter."""
    return [
        n for n in made.program.entries[EntryPoint.APPLY].graph.nodes if isinstance(n.op, Update)
    ]


def features_of(network: Model) -> Graph:
    """Return a network up to its features."""
    return dead_code(replace(network.graph, outputs=network.graph.outputs[:1]))


class Lesson:
    """An episode: its images, their views, and what the frozen layers leave of them."""

    def __init__(self, e: Episode) -> None:
        self.episode, self.network = e, load_network(NETWORK)
        self.graph = features_of(self.network)
        task = load_task(load_images(e.dataset), e, self.network.preprocess)
        self.support, self.query = task.support, task.query
        self.schedule = Schedule(PASSES, RATE, seed=e.seed)
        rng = np.random.default_rng(self.schedule.seed)
        self.views = [self._seen(rng) for _ in range(VIEWS)]
        self._rng = rng
        self._fronts: dict[Arithmetic, list[Mapping[str, Tensor]]] = {}

    def _seen(self, rng: np.random.Generator) -> Array:
        return np.stack([augmented(x, rng, self.schedule.augment) for x in self.support.images])

    def rng(self) -> np.random.Generator:
        """Return what shuffles, as it is once the views have been drawn."""
        copy = np.random.default_rng()
        copy.bit_generator.state = self._rng.bit_generator.state
        return copy

    def selection(self, method: str) -> Mapping[str, Part]:
        """Let a method choose within the budget, by the int8 network."""
        recipe = Recipe(METHODS[method], self.ways, optimizer=OptimizerKind.ROWRMS, rows=True)
        inspect = inspector(self.network, self.support, self.schedule, _inspections)
        budget = LIMITS.budget(self.network) if method == "tinytrain" else Budget()
        return compile_recipe(self.network, recipe, budget, inspect, _prices).selection.by_name

    @property
    def ways(self) -> int:
        """The number of classes."""
        return len(self.episode.classes)

    def latents(self, kind: Arithmetic, names: Sequence[str]) -> list[Mapping[str, Tensor]]:
        """Return maps of the support, of its views one after the other, and of the query."""
        stacks = [self.support.images, *self.views, self.query.images]
        network = Network(self.graph, {}, kind)
        network.check()
        return [network.front(images, names) for images in stacks]

    def accuracy(self, predictions: NDArray[np.int64]) -> float:
        """Return the share of the query that was recognised."""
        return float((predictions == self.query.labels).mean())


_inspections: dict[Hashable, HostProgram] = {}
_prices: dict[Hashable, Demand] = {}


def on_torch(
    lesson: Lesson, learn: Mapping[str, Part], kind: Arithmetic, fronts: list[Mapping[str, Tensor]]
) -> InTorch:
    """Return an untaught network in PyTorch."""
    plain, *views, _ = fronts
    return InTorch(Network(lesson.graph, learn, kind), plain, views, lesson.support.labels)


def on_device(lesson: Lesson, learn: tuple[tuple[str, Part], ...]) -> OnDevice:
    """Return the untaught program that only adds gradients up."""
    _, host = program(learn, lesson.ways, 2)
    host.reset()
    plain, *views = (
        list(map(Driver(host).show, images)) for images in (lesson.support.images, *lesson.views)
    )
    return OnDevice(host, plain, views, lesson.support.labels)


def masters(made: Compiled, kept: Kept, seed: int = 0) -> list[Master]:
    """Return what learns, as it is before."""
    data = {s.name: s.value for s in made.program.state}
    return [Master(n, data[n.inputs[0].name], kept, seed) for n in updates(made)]


def learned(
    lesson: Lesson, learn: Mapping[str, Part], rung: Rung, fronts: list[Mapping[str, Tensor]]
) -> float:
    """Return the accuracy after learning on a rung."""
    key = tuple(sorted(learn.items()))
    count = len(lesson.support.labels)
    if rung in ARITHMETIC:
        student = on_torch(lesson, learn, ARITHMETIC[rung], fronts)
        if learn:
            made = design(key, lesson.ways, 2)
            kept = Kept.FLOAT if rung is Rung.FLOAT else Kept.BOUNDED
            taught(student, masters(made, kept), count, lesson.schedule, lesson.rng())
            student.network.check()
        student.enrol()
        return lesson.accuracy(student.predict(fronts[-1]))
    if rung in {Rung.BACKWARD, Rung.AGAIN}:
        made, host = program(key, lesson.ways, 2)
        kept = Kept.BOUNDED if rung is Rung.BACKWARD else Kept.CODES
        own = masters(made, kept, OTHER_SEED + lesson.schedule.seed)
        taught(on_device(lesson, key), own, count, lesson.schedule, lesson.rng())
        return lesson.accuracy(predict(host, lesson.query.images))
    made, host = program(key, lesson.ways, 1)
    host.reset()
    if rung is Rung.FRESH:  # the same program, asked for a new latent in every step
        made = replace(made, recipe=replace(made.recipe, cache=0))
    fit(host, made, lesson.support, lesson.schedule)
    enrol(host, lesson.support)
    return lesson.accuracy(predict(host, lesson.query.images))


def rows(lesson: Lesson, wanted: Mapping[str, Sequence[Rung]]) -> Iterator[Row]:
    """Learn by methods on rungs; what is the same for several is done once."""
    e = lesson.episode
    chosen = {method: lesson.selection(method) for method in wanted}
    last = lesson.graph.outputs[0].inputs[0].name
    cuts = {
        method: _latent(design(tuple(sorted(learn.items())), lesson.ways, 2)) if learn else (last,)
        for method, learn in chosen.items()
    }
    names = sorted({name for cut in cuts.values() for name in cut})
    for kind in Arithmetic:
        in_torch = any(ARITHMETIC.get(r) is kind for rungs in wanted.values() for r in rungs)
        fronts = lesson.latents(kind, names) if in_torch else []
        for method, rungs in wanted.items():
            for rung in rungs:
                if ARITHMETIC.get(rung, Arithmetic.INTEGER) is not kind:
                    continue
                own = [{name: f[name] for name in cuts[method]} for f in fronts]
                start = time.process_time()
                found = learned(lesson, chosen[method], rung, own)
                seconds = round(time.process_time() - start, 2)
                yield Row(e.dataset, e.seed, method, rung.value, found, seconds)


def _latent(made: Compiled) -> tuple[str, ...]:
    return tuple(n.name for n in made.program.entries[EntryPoint.PREFIX].graph.outputs)


@app.command()
def run(
    stored: Path,
    out: Path,
    episodes: int = 8,
    first: int = 0,
    rungs: str = "abcdefg",
    data: str | None = None,
) -> None:
    """Run what is missing, appending: the first episode of each set, then the second, ..."""
    torch.set_num_threads(1)
    done = {(r.data, r.episode, r.method, r.rung) for r in lines_of(out, Row)}
    asked = [rung for letter, rung in zip("abcdefg", RUNGS, strict=True) if letter in rungs]
    for e in episodes_of(stored, range(first, first + episodes)):
        if data is not None and e.dataset not in data.split(","):
            continue
        wanted = {
            method: [
                rung
                for rung in asked
                if (method != "none" or rung in ARITHMETIC)
                and (e.dataset, e.seed, method, rung.value) not in done
            ]
            for method in METHODS
        }
        wanted = {method: missing for method, missing in wanted.items() if missing}
        if wanted:
            start = time.perf_counter()
            append(out, list(rows(Lesson(e), wanted)))
            print(f"{e.dataset} {e.seed}: {time.perf_counter() - start:.0f} s", flush=True)


def episodes_of(stored: Path, numbers: range) -> list[Episode]:
    """Read stored episodes: the first of each set, then the second, ..."""
    found = sorted(read_episodes(stored, "STORED"), key=lambda e: e.seed)
    return [e for e in found if e.seed in numbers]


Results = Mapping[tuple[str, str, str, int], float]
"""Accuracy in per cent by method, rung, data set and episode."""


def results(rows: Sequence[Row]) -> Results:
    """Return all there is; without learning all rungs with an int8 forward pass are one."""
    found = {(r.method, r.rung, r.data, r.episode): 100 * r.accuracy for r in rows}
    for (method, rung, *rest), value in list(found.items()):
        if method == "none" and rung == Rung.INTEGER:
            found.update({(method, other.value, *rest): value for other in CHAIN[3:]})
    return found


def differences(found: Results, methods: Sequence[str], rung: Rung, less: Rung) -> dict[str, Array]:
    """Return rung less another by data set: an array with an entry for each episode.

    It is the mean over the methods, of which each must have both.
    """
    by_data: dict[str, list[float]] = defaultdict(list)
    episodes = {(data, n): None for _, _, data, n in found}
    for data, n in episodes:
        pairs = [
            (found.get((m, rung.value, data, n)), found.get((m, less.value, data, n)))
            for m in methods
        ]
        own = [a - b for a, b in pairs if a is not None and b is not None]
        if len(own) == len(methods):
            by_data[data].append(float(np.mean(own)))
    return {data: np.array(values) for data, values in by_data.items()}


LEARNING = ("last", "static", "tinytrain")
CHAIN = RUNGS[:-1]
STEPS = (
    *((b, a) for a, b in itertools.pairwise(CHAIN)),
    (Rung.AGAIN, Rung.DEVICE),
    (Rung.DEVICE, Rung.FLOAT),
)


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what each rung reaches, what each step costs, and both by method."""
    found = results(rows)
    sets = list(dict.fromkeys(r.data for r in rows))
    yield head("method", "rung", "episodes", *sets, "all", texts=2)
    whole = {(d, n) for m, _, d, n in found if m != "none"}
    whole = {
        key for key in whole if all((m, r.value, *key) in found for m in METHODS for r in CHAIN)
    }
    for method in METHODS:
        for rung in CHAIN if method != "none" else CHAIN[:3]:
            own = {k: found[method, rung.value, *k] for k in sorted(whole)}
            cells = [f"{np.mean([v for (d, _), v in own.items() if d == x]):.1f}" for x in sets]
            yield line(f"`{method}`", rung, len(own), *cells, shown(interval(list(own.values()))))
    yield ""
    yield head("step", "methods", "episodes", *sets, "all", "sets count once", texts=2)
    for rung, less in STEPS:
        groups = [LEARNING, *((m,) for m in LEARNING)]
        if less in CHAIN[:2]:
            groups.append(("none",))
        for methods in groups:
            by_data = differences(found, methods, rung, less)
            if not by_data:
                continue
            each = np.concatenate(list(by_data.values())).tolist()
            cells = [f"{by_data[x].mean():+z.1f}" if x in by_data else "" for x in sets]
            names = "all three" if methods == LEARNING else f"`{methods[0]}`"
            once = shown(interval([float(x.mean()) for x in by_data.values()]), "+z")
            mean = shown(interval(each), "+z")
            yield line(f"{rung} less {less}", names, len(each), *cells, mean, once)


@app.command()
def table(path: Path) -> None:
    """Print means and 95 % intervals over episodes (Student's t) as Markdown."""
    print("\n".join(tables(lines_of(path, Row))))


@app.command()
def figure(path: Path, out: Path) -> None:
    """Draw what each step costs, mean and 95 % interval, as SVG."""
    found = results(lines_of(path, Row))
    steps = [(f"{a} less {b}", differences(found, LEARNING, a, b)) for a, b in STEPS]
    marks = [
        (name, interval(np.concatenate(list(by.values())).tolist())) for name, by in steps if by
    ]
    left, unit, top, height = 300, 45, 34, 26
    middle = left + 4 * unit
    bottom = top + height * len(marks)
    size = f"{left + 8 * unit + 30} {bottom + 30}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif">',
        "<style>text {font-size: 13px}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="18">points of accuracy, mean and 95 % interval</text>',
    ]
    for x in range(-4, 5):
        at = middle + x * unit
        colour = "#333" if x == 0 else "#ddd"
        parts.append(f'<path d="M{at} {top}V{bottom}" stroke="{colour}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{x:+d}</text>')
    for i, (name, of) in enumerate(marks):
        y, at, half = top + height * (i + 0.5), middle + of.mean * unit, (of.half or 0) * unit
        last = i == len(marks) - 1
        bold = ' font-weight="bold"' if last else ""
        parts += [
            f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end"{bold}>{name}</text>',
            f'<path d="M{at - half:.1f} {y}H{at + half:.1f}" stroke="#1f6f8b" stroke-width="2"/>',
            f'<circle cx="{at:.1f}" cy="{y}" r="4" fill="#1f6f8b"/>',
        ]
    out.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


@app.command()
def check(stored: Path, episodes: int = 1) -> None:
    """Compare what is computed here with the program that is flashed."""
    torch.set_num_threads(1)
    for e in episodes_of(stored, range(episodes)):
        lesson = Lesson(e)
        images = np.concatenate([lesson.support.images, lesson.query.images])
        print(f"{e.dataset} {e.seed}")
        print(f"  features that differ, of {len(images)} images: {_differing(lesson, {}, images)}")
        for method in METHODS:
            learn = lesson.selection(method)
            if not learn:
                continue
            key = tuple(sorted(learn.items()))
            made, adding = program(key, lesson.ways, 2)
            cosine, ratio = _gradients(lesson, learn)
            print(f"  {method}: worst cosine of gradients 1 - {1 - cosine:.1e}, norms {ratio:.4f}")
            own = masters(made, Kept.CODES, lesson.schedule.seed)
            count = len(lesson.support.labels)
            taught(on_device(lesson, key), own, count, lesson.schedule, lesson.rng())
            found = {m.name: adding.state[m.name].copy() for m in own}
            learned(lesson, learn, Rung.DEVICE, [])
            _, host = program(key, lesson.ways, 1)
            differ = sum(int((found[name] != host.state[name]).sum()) for name in found)
            size = sum(x.size for x in found.values())
            print(f"  {method}: weights that differ from the device's: {differ} of {size}")
            differ = _differing(lesson, {m.name: m.real for m in own}, images, learn)
            print(f"  {method}: features that differ afterwards: {differ}")


def _differing(
    lesson: Lesson,
    real: Mapping[str, Array],
    images: Array,
    learn: Mapping[str, Part] | None = None,
) -> int:
    """Return how many features PyTorch computes otherwise than C."""
    network = Network(lesson.graph, learn or {}, Arithmetic.INTEGER)
    data = dict(lesson.graph.data)
    for name, value in real.items():
        network.put(name, value)
        whole = name.removesuffix(".learned")
        part = (learn or {})[whole]
        kind = lesson.graph[whole].type
        scale = np.array(kind.affine.scale) * kind.affine.unit
        scale = scale.reshape([-1 if a == row_axis(kind) else 1 for a in range(value.ndim)])
        index = (slice(None),) * part.axis + (list(part.index) if part.index else slice(None),)
        full = data[whole].astype(np.float64) * scale
        full[index] = value
        data[whole] = np.rint(full / scale).astype(kind.dtype.numpy)
    out = lesson.graph.outputs[0].name
    host = build_host(link({EntryPoint.INFER: replace(lesson.graph, data=data)}), keep=False)
    want = np.stack([host.call(EntryPoint.INFER, image=x)[out] for x in images])
    return int((network.codes(out, network.front(images, [out])[out]) != want).sum())


def _gradients(lesson: Lesson, learn: Mapping[str, Part]) -> tuple[float, float]:
    """Compare the first gradients of PyTorch and of the device; return the worst."""
    key = tuple(sorted(learn.items()))
    device = on_device(lesson, key)
    made = design(key, lesson.ways, 2)
    fronts = lesson.latents(Arithmetic.INTEGER, _latent(made))
    student = on_torch(lesson, learn, Arithmetic.INTEGER, fronts)
    device.enrol()
    student.enrol()
    worst = ratio = 1.0
    for i in range(len(lesson.support.labels)):
        ours, theirs = student.gradients(i, 0), device.gradients(i, 0)
        for name, g in ours.items():
            a, b = g.ravel().astype(np.float64), theirs[name].ravel().astype(np.float64)
            sizes = np.linalg.norm(a), np.linalg.norm(b)
            if min(sizes) > 0:
                worst = min(worst, float(a @ b / (sizes[0] * sizes[1])))
                off = float(sizes[1] / sizes[0])
                ratio = off if abs(off - 1) > abs(ratio - 1) else ratio
    return worst, ratio


if __name__ == "__main__":
    app()
