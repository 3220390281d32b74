"""What is to be learned on one episode, and the rows that this makes."""

from __future__ import annotations

import functools
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kilograd.frontend import Model, load_model
from kilograd.learn.adapt import Samples, Schedule, enrol, fit, load_samples, predict
from kilograd.learn.augment import Augment
from kilograd.learn.data import Dataset
from kilograd.learn.episodes import Episode
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, HeadKind, OptimizerKind, Recipe, compile_recipe
from kilograd.passes import Training
from kilograd.select import Budget, Demand, Inspect
from kilograd.targets import HostProgram, build_host


@dataclass(frozen=True)
class Settings:
    """What all rows of an evaluation have in common, named as the options are.

    `sram` and `compute` are as the user gave them; a network's `Budget` says what they mean for it.
    """

    ways: int | None = None
    shots: int = 5
    queries: int = 15
    sram: str | None = None
    compute: str | None = None
    optimizer: OptimizerKind = OptimizerKind.SGD
    iterations: int = 10
    lr: float = 0.003
    augment: Augment = Augment.FULL
    seed: int = 0

    def schedule(self, episode: int) -> Schedule:
        """Return how long and how fast an episode learns; `InputError` for senseless numbers."""
        return Schedule(self.iterations, self.lr, self.augment, self.seed + episode)

    def recipe(self, method: str, ways: int) -> Recipe:
        """Return what to compile for a method."""
        return Recipe(method, ways, optimizer=self.optimizer)


@dataclass(frozen=True)
class Key:
    """What tells one row from another."""

    data: str
    model: str
    method: str
    episode: int


@dataclass(frozen=True)
class Row(Key):
    """One episode; sizes in bytes, accuracies in 0 ... 1; `seconds` are those of the training."""

    ways: int
    accuracy_before: float
    accuracy_after: float
    sram_bytes: int
    backward_macs: int
    learned_parameters: int
    seconds: float


@dataclass(frozen=True)
class Work:
    """Rows to be made of one episode and network, with all it takes: no data set is needed.

    `images` are those of the episode, which is number `number` of its data set.
    """

    network: Path
    budget: Budget
    settings: Settings
    methods: tuple[str, ...]
    images: Dataset
    episode: Episode
    number: int


class Worker:
    """Makes rows, and remembers of each network what the next episode can use again."""

    def __init__(self) -> None:
        self._desks: dict[Path, _Desk] = {}

    def __call__(self, work: Work) -> Iterator[Row]:
        """Yield a row for each method.

        Raises `InputError` for a method that fits the network not, or no budget.
        """
        if work.network not in self._desks:
            self._desks[work.network] = _Desk(load_model(str(work.network)))
        task = _Task(self._desks[work.network], work)
        return map(task.row, work.methods)


class _Desk:
    """A network, what programs for it cost, and programs that depend on no episode."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.prices: dict[Hashable, Demand] = {}
        self.inspections: dict[Hashable, HostProgram] = {}
        self.fixed: dict[tuple[Recipe, Budget], tuple[Compiled, HostProgram]] = {}


@dataclass(frozen=True)
class _Learned:
    """What became of a training; another method may come to the same one."""

    accuracy: float
    seconds: float


class _Task:
    """An episode: its images, and what several methods have in common on it."""

    def __init__(self, desk: _Desk, work: Work) -> None:
        self._desk, self._work = desk, work
        self._schedule = work.settings.schedule(work.number)
        self._before: dict[HeadKind, float] = {}
        self._learned: list[tuple[Training, _Learned]] = []

    @functools.cached_property
    def _support(self) -> Samples:
        e = self._work.episode
        preprocess = self._desk.model.preprocess
        return load_samples(self._work.images, e.support, e.support_labels, preprocess)

    @functools.cached_property
    def _query(self) -> Samples:
        e = self._work.episode
        preprocess = self._desk.model.preprocess
        return load_samples(self._work.images, e.query, e.query_labels, preprocess)

    @functools.cached_property
    def _asked(self) -> Inspect:
        return inspector(self._desk.model, self._support, self._schedule, self._desk.inspections)

    def row(self, method: str) -> Row:
        """Learn by a method, or find that another did the same."""
        work = self._work
        recipe = work.settings.recipe(method, len(work.episode.classes))
        compiled, host = self._compiled(recipe)
        program = compiled.program
        own = compiled.selection.graph is None  # else `training` does not say all of it
        found = next((x for t, x in self._learned if own and t == compiled.training), None)
        kind = recipe.head_kind
        before = self._before.get(kind) if own else None
        if found is None or before is None:
            host = host or build_host(program, keep=False)
            host.reset()
            before = self._accuracy(host) if before is None else before
            found = found or self._learn(compiled, host, before)
        if own:
            self._before[kind] = before
            self._learned.append((compiled.training, found))
        return Row(
            work.episode.dataset,
            self._desk.model.name,
            method,
            work.number,
            ways=recipe.ways,
            accuracy_before=before,
            accuracy_after=found.accuracy,
            sram_bytes=program.sram_bytes,
            backward_macs=compiled.backward_macs,
            learned_parameters=compiled.learned_parameters,
            seconds=found.seconds,
        )

    def _compiled(self, recipe: Recipe) -> tuple[Compiled, HostProgram | None]:
        """Return the program of a recipe; where it is the same for all episodes, built."""
        desk, budget = self._desk, self._work.budget
        if (recipe, budget) in desk.fixed:
            return desk.fixed[recipe, budget]
        asked = []

        def answer() -> Inspect:
            asked.append(True)
            return self._asked

        lazy = Inspect(
            lambda layers: answer().fisher(layers), lambda layers: answer().steps(layers)
        )
        compiled = compile_recipe(desk.model, recipe, budget, lazy, desk.prices)
        if asked:
            return compiled, None
        host = build_host(compiled.program)
        desk.fixed[recipe, budget] = compiled, host
        return compiled, host

    def _accuracy(self, host: HostProgram) -> float:
        enrol(host, self._support)
        return float((predict(host, self._query.images) == self._query.labels).mean())

    def _learn(self, compiled: Compiled, host: HostProgram, before: float) -> _Learned:
        if "step" not in compiled.program.entries:
            return _Learned(before, 0.0)
        start = time.perf_counter()
        fit(host, compiled, self._support, self._schedule)
        seconds = round(time.perf_counter() - start, 3)
        return _Learned(self._accuracy(host), seconds)
