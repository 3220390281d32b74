"""What is to be learned on one episode, and the rows that this makes."""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kilograd import limits
from kilograd.data import Dataset, Episode, Source
from kilograd.data.arrays import stored
from kilograd.errors import InputError
from kilograd.frontend import Model
from kilograd.learn.adapt import Task, load_task
from kilograd.learn.guard import passes_that_help, trials
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import Tests, enrol, fit, predict
from kilograd.learn.views import Cached, Fresh, views_of, within
from kilograd.passes import EntryPoint
from kilograd.reading import read_bytes
from kilograd.select import Budget, Demand, Inspect
from kilograd.settings import Recipe, Schedule, Settings, naming
from kilograd.targets import HostProgram, build_host

_KEPT = 1 << 28
"""Bytes of latents from which on those of another cut are dropped; a large set keeps one or two."""


@dataclass(frozen=True)
class Key:
    """What tells one row from another."""

    data: str
    model: str
    method: str
    episode: int


@dataclass(frozen=True)
class Row(Key):
    """One episode; sizes in bytes, accuracies in 0 ... 1; `seconds` are those of the training.

    `accuracy_by_pass`: after each pass, where that was asked for; `seconds` are with these tests.
    """

    ways: int
    accuracy_before: float
    accuracy_after: float
    sram_bytes: int
    backward_macs: int
    learned_parameters: int
    seconds: float
    accuracy_by_pass: tuple[float, ...] = ()


@dataclass(frozen=True)
class Work:
    """Rows to be made of one episode and network, with all it takes: no data set is needed.

    `images` are those of the episode, which is number `number` of its data set.
    `floor`: training ends after a pass up to which no accuracy has reached the number that stands
    there; passes beyond are free.  It is for tests after each pass.
    """

    model: Model
    settings: Settings
    methods: tuple[str, ...]
    images: Dataset
    episode: Episode
    number: int
    floor: tuple[float, ...] = ()


def portable(work: Work) -> Work:
    """Return a work that can be sent to another machine: its images are bytes, and no paths."""
    images = tuple(map(encoded, work.images.images))
    return replace(work, images=replace(work.images, images=images))


def encoded(source: Source) -> bytes:
    """Return a sample as the bytes of a file; raises `InputError` where it cannot be read now."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        try:
            return read_bytes(source, limits.IMAGE_BYTES)
        except InputError as e:
            raise InputError(f"{e}; it could be read before") from e
    sample = source()
    if isinstance(sample, np.ndarray):
        return stored(sample)
    png = io.BytesIO()
    sample.save(png, "PNG")
    return png.getvalue()


class Worker:
    """Makes rows, and remembers of each network what the next episode can use again.

    Networks of one name must be the same.
    """

    def __init__(self) -> None:
        self._remembered: dict[str, _Remembered] = {}
        self._last: _Task | None = None

    def __call__(self, work: Work) -> Iterator[Row]:
        """Yield a row for each method.

        Raises `InputError` for a method that fits the network not, or no budget.
        """
        remembered = self._remembered.setdefault(work.model.name, _Remembered(work.model))
        if self._last is None or not self._last.is_of(work):
            self._last = _Task(remembered, work)
        task = self._last
        return (task.row(method, work.floor) for method in work.methods)


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
    by_pass: tuple[float, ...] = ()


class _Task:
    """An episode: its images, and what several methods have in common on it."""

    def __init__(self, remembered: _Remembered, work: Work) -> None:
        self._remembered, self._work = remembered, work
        self._settings = work.settings.numbered(work.number).suited(work.model)
        self._before: dict[Hashable, float] = {}
        self._learned: dict[Hashable, _Learned] = {}
        self._looks: dict[Schedule, Inspect] = {}
        self._kept: dict[Hashable, Fresh | Cached] = {}

    def is_of(self, work: Work) -> bool:
        """Say whether a work differs in its methods alone: what was found here then holds."""
        mine = self._work
        return (mine.model.name, mine.settings, mine.episode, mine.number) == (
            work.model.name,
            work.settings,
            work.episode,
            work.number,
        )

    @functools.cached_property
    def _images(self) -> Task:
        work = self._work
        return load_task(work.images, work.episode, work.model.preprocess)

    def row(self, method: str, floor: tuple[float, ...] = ()) -> Row:
        """Learn by a method, or find that another did the same."""
        work = self._work
        settings = self._settings.varied(method).suited(work.model)
        schedule, budget = settings.schedule, settings.budget(work.model)
        ways, images = len(work.episode.classes), len(work.episode.support)
        cache = settings.recipe.cache or int(budget.cache is not None)
        recipe = replace(settings.recipe, ways=ways, cache=cache)
        with naming(method):
            compiled, host = self._compiled(recipe, budget, schedule)
            compiled = within(budget.cache, compiled, images, schedule.augment, schedule.iterations)
        before, found = self._measured(compiled, host, settings, floor)
        return Row(
            work.episode.dataset,
            work.model.name,
            method,
            work.number,
            ways=ways,
            accuracy_before=before,
            accuracy_after=found.accuracy,
            sram_bytes=compiled.program.sram_bytes,
            backward_macs=compiled.backward_macs,
            learned_parameters=compiled.learned_parameters,
            seconds=found.seconds,
            accuracy_by_pass=found.by_pass,
        )

    def _measured(
        self,
        compiled: Compiled,
        host: HostProgram | None,
        settings: Settings,
        floor: tuple[float, ...],
    ) -> tuple[float, _Learned]:
        """Return the accuracy before, and what training does: as found, or as another method."""
        recipe, added = compiled.recipe, compiled.selection.graph
        start = recipe.head_kind, added and added.nodes
        # All that training depends on: what learns and how, the size of updates, the views kept.
        how = settings.schedule, recipe.accumulate, recipe.cache, settings.guard, floor
        end = start, compiled.training, how
        if start not in self._before or end not in self._learned:
            host = host or build_host(compiled.program, keep=False)
            host.reset()
            if start not in self._before:
                self._before[start] = self._accuracy(host)
            if end not in self._learned:
                before = self._before[start]
                self._learned[end] = self._learn(compiled, host, settings, before, floor)
        return self._before[start], self._learned[end]

    def _compiled(
        self, recipe: Recipe, budget: Budget, schedule: Schedule
    ) -> tuple[Compiled, HostProgram | None]:
        """Return the program of a recipe; where it is the same for all episodes, built."""
        remembered = self._remembered
        if (recipe, budget) in remembered.fixed:
            return remembered.fixed[recipe, budget]
        asked = []

        def look(at: Schedule) -> Inspect:
            asked.append(at)
            if at not in self._looks:
                self._looks[at] = inspector(
                    remembered.model, self._images.support, at, remembered.inspections
                )
            return self._looks[at]

        # Information is the same at every rate; how far a step goes is not.
        anyhow = replace(self._settings.schedule, augment=schedule.augment)
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
        query = self._images.query
        enrol(host, self._images.support)
        return float((predict(host, query.images) == query.labels).mean())

    def _learn(
        self,
        compiled: Compiled,
        host: HostProgram,
        settings: Settings,
        before: float,
        floor: tuple[float, ...],
    ) -> _Learned:
        if EntryPoint.STEP not in compiled.program.entries:
            return _Learned(before, 0.0)
        schedule, support = settings.schedule, self._images.support
        start, passes = time.perf_counter(), None
        if settings.guard:
            passes = passes_that_help(trials(host, compiled, support, schedule))
        views = self._views(compiled, host, schedule)
        tests = Tests(self._images.query, floor) if schedule.test_each_pass else None
        fit(host, compiled, support, schedule, passes=passes, views=views, tests=tests)
        seconds = round(time.perf_counter() - start, 3)
        return _Learned(self._accuracy(host), seconds, tuple(tests.found) if tests else ())

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
        kept = compiled.recipe.cache
        key = names, EntryPoint.ENROL in entries, schedule.seed, schedule.augment, kept
        if key not in self._kept:
            images = self._images.support.images
            self._drop_old()
            self._kept[key] = views_of(host, compiled, images, schedule.augment, schedule.seed)
        return self._kept[key]

    def _drop_old(self) -> None:
        """Drop the latents that were made first, until those that are left are not many."""
        sizes = {key: x.nbytes for key, x in self._kept.items() if isinstance(x, Cached)}
        for key in list(sizes):
            if sum(sizes.values()) <= _KEPT:
                return
            del self._kept[key], sizes[key]
