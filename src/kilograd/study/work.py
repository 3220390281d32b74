"""What is to be learned on one episode, and the rows that this makes."""

from __future__ import annotations

import functools
import time
from collections.abc import Hashable, Iterator
from dataclasses import asdict, dataclass, replace

from kilograd.data.augment import Augment
from kilograd.data.episodes import Draw, Episode, EpisodeKind
from kilograd.data.load import Dataset
from kilograd.frontend import Model
from kilograd.learn.adapt import Samples, Schedule, enrol, fit, load_samples, predict
from kilograd.learn.guard import passes_that_help, trials
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, HeadKind, OptimizerKind, Recipe, compile_recipe
from kilograd.learn.views import Cached, Fresh, views_of, within
from kilograd.passes import EntryPoint, Training
from kilograd.select import Budget, Demand, Inspect
from kilograd.targets import HostProgram, build_host


@dataclass(frozen=True)
class Settings:
    """What all rows of an evaluation have in common, named as the options are.

    `sram`, `compute` and `cache_bytes` are as the user gave them; a network's `Budget` says what
    they mean for it.
    """

    episode: EpisodeKind = EpisodeKind.FIXED
    ways: int | None = None
    shots: int | None = None
    queries: int | None = None
    head: HeadKind | None = None
    optimizer: OptimizerKind = OptimizerKind.SGD
    accumulate: int = 1
    prototype_gradients: bool = False
    rows: bool = False
    recompute: bool = False
    cache: int = 0
    cache_bytes: str | None = None
    sram: str | None = None
    compute: str | None = None
    channels: float | None = None
    exact: bool = False
    iterations: int = 10
    lr: float = 0.003
    warmup: int = 0
    augment: Augment = Augment.FULL
    guard: bool = False
    seed: int = 0

    @property
    def draw(self) -> Draw:
        """How episodes are drawn; `InputError` for numbers that the kind draws itself."""
        return Draw(self.episode, self.ways, self.shots, self.queries)

    def schedule(self, episode: int, method: str = "") -> Schedule:
        """Return how long and how fast an episode learns; `InputError` for senseless numbers."""
        rate = split_rate(method)[1]
        lr = self.lr if rate is None else rate
        return Schedule(self.iterations, lr, self.augment, self.seed + episode, self.warmup)

    def recipe(self, method: str, ways: int) -> Recipe:
        """Return what to compile for a method."""
        return Recipe(
            split_rate(method)[0],
            ways,
            self.head,
            self.optimizer,
            self.accumulate,
            self.rows,
            self.recompute,
            self.exact,
            self.cache,
            self.prototype_gradients,
        )

    def named(self) -> dict[str, str | float | bool | None]:
        """Return what was given or is the default, by option."""
        draw = self.draw
        return asdict(self) | {"shots": draw.shots, "queries": draw.queries}


def split_rate(method: str) -> tuple[str, float | None]:
    """Take the rate off METHOD@LR.

    >>> split_rate("last:6@0.01"), split_rate("me@home.json")
    (('last:6', 0.01), ('me@home.json', None))
    """
    name, _, rate = method.rpartition("@")
    try:
        return (name, float(rate)) if name else (method, None)
    except ValueError:
        return method, None


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

    model: Model
    budget: Budget
    settings: Settings
    methods: tuple[str, ...]
    images: Dataset
    episode: Episode
    number: int


class Worker:
    """Makes rows, and remembers of each network what the next episode can use again.

    Networks of one name must be the same.
    """

    def __init__(self) -> None:
        self._remembered: dict[str, _Remembered] = {}

    def __call__(self, work: Work) -> Iterator[Row]:
        """Yield a row for each method.

        Raises `InputError` for a method that fits the network not, or no budget.
        """
        remembered = self._remembered.setdefault(work.model.name, _Remembered(work.model))
        return map(_Task(remembered, work).row, work.methods)


class _Remembered:
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

    def __init__(self, remembered: _Remembered, work: Work) -> None:
        self._remembered, self._work = remembered, work
        self._before: dict[HeadKind, float] = {}
        self._learned: list[tuple[Training, Schedule, _Learned]] = []
        self._looks: dict[Schedule, Inspect] = {}
        self._kept: dict[Hashable, Fresh | Cached] = {}

    @functools.cached_property
    def _support(self) -> Samples:
        e = self._work.episode
        preprocess = self._remembered.model.preprocess
        return load_samples(self._work.images, e.support, e.support_labels, preprocess)

    @functools.cached_property
    def _query(self) -> Samples:
        e = self._work.episode
        preprocess = self._remembered.model.preprocess
        return load_samples(self._work.images, e.query, e.query_labels, preprocess)

    def row(self, method: str) -> Row:
        """Learn by a method, or find that another did the same."""
        work = self._work
        recipe = work.settings.recipe(method, len(work.episode.classes))
        schedule = work.settings.schedule(work.number, method)
        images, limit = len(work.episode.support), work.budget.cache
        recipe = replace(recipe, cache=recipe.cache or int(limit is not None))
        compiled, host = self._compiled(recipe, schedule)
        compiled = within(limit, compiled, images, schedule.augment, schedule.iterations)
        program, trained = compiled.program, (compiled.training, schedule)
        own = compiled.selection.graph is None  # else `training` does not say all of it
        found = next((x for *same, x in self._learned if own and (*same,) == trained), None)
        kind = recipe.head_kind
        before = self._before.get(kind) if own else None
        if found is None or before is None:
            host = host or build_host(program, keep=False)
            host.reset()
            before = self._accuracy(host) if before is None else before
            found = found or self._learn(compiled, host, schedule, before)
        if own:
            self._before[kind] = before
            self._learned.append((*trained, found))
        return Row(
            work.episode.dataset,
            self._remembered.model.name,
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

    def _compiled(self, recipe: Recipe, schedule: Schedule) -> tuple[Compiled, HostProgram | None]:
        """Return the program of a recipe; where it is the same for all episodes, built."""
        remembered, budget = self._remembered, self._work.budget
        if (recipe, budget) in remembered.fixed:
            return remembered.fixed[recipe, budget]
        asked = []

        def look(at: Schedule) -> Inspect:
            asked.append(at)
            if at not in self._looks:
                self._looks[at] = inspector(
                    remembered.model, self._support, at, remembered.inspections
                )
            return self._looks[at]

        # Information is the same at every rate; how far a step goes is not.
        anyhow = self._work.settings.schedule(self._work.number)
        lazy = Inspect(
            lambda layers: look(anyhow).fisher(layers), lambda layers: look(schedule).steps(layers)
        )
        compiled = compile_recipe(remembered.model, recipe, budget, lazy, remembered.prices)
        if asked:
            return compiled, None
        host = build_host(compiled.program)
        remembered.fixed[recipe, budget] = compiled, host
        return compiled, host

    def _accuracy(self, host: HostProgram) -> float:
        enrol(host, self._support)
        return float((predict(host, self._query.images) == self._query.labels).mean())

    def _learn(
        self, compiled: Compiled, host: HostProgram, schedule: Schedule, before: float
    ) -> _Learned:
        if EntryPoint.STEP not in compiled.program.entries:
            return _Learned(before, 0.0)
        start = time.perf_counter()
        passes = None
        if self._work.settings.guard:
            passes = passes_that_help(trials(host, compiled, self._support, schedule))
        views = self._views(compiled, host, schedule)
        fit(host, compiled, self._support, schedule, passes=passes, views=views)
        seconds = round(time.perf_counter() - start, 3)
        return _Learned(self._accuracy(host), seconds)

    def _views(
        self, compiled: Compiled, host: HostProgram, schedule: Schedule
    ) -> Fresh | Cached | None:
        """Return the latents that another method has left, or leave them; `None`: none are kept.

        What is in front of a cut is frozen, so the latent's names say all of it.
        """
        entries = compiled.program.entries
        if EntryPoint.PREFIX not in entries or compiled.selection.graph is not None:
            return None
        names = tuple(n.name for n in entries[EntryPoint.PREFIX].graph.outputs)
        key = names, EntryPoint.ENROL in entries, schedule.seed, schedule.augment
        if key not in self._kept:
            images = self._support.images
            self._kept[key] = views_of(host, compiled, images, schedule.augment, schedule.seed)
        return self._kept[key]
