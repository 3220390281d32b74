"""How a program learns from a support: views, prototypes, passes, updates."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kilograd.data import Dataset
from kilograd.errors import InputError, option
from kilograd.frontend import Preprocess
from kilograd.frontend.layouts import folder_layout
from kilograd.ir import Array, Role
from kilograd.learn.recipe import Compiled
from kilograd.learn.samples import Images, Samples, stacked
from kilograd.learn.unfinished import Keeper, Position
from kilograd.learn.views import Cached, Fresh, views_of
from kilograd.passes import EntryPoint
from kilograd.settings import Schedule
from kilograd.targets import Driver, HostProgram, Sample

Watch = Callable[[int, float], None]
"""Called after every sample with the number of samples done and the running loss."""


def load_samples(
    dataset: Dataset, indices: tuple[int, ...], labels: tuple[int, ...], preprocess: Preprocess
) -> Samples:
    """Decode some images of a data set."""
    images = stacked(dataset.prepared(i, preprocess) for i in indices)
    return Samples(images, np.array(labels, np.int32))


@dataclass(frozen=True)
class Tests:
    """Tests after each pass: what is asked, and what shares were right after the passes done.

    `floor`: what should have been reached after so many passes; where it ends, nothing is asked.
    """

    query: Samples
    floor: tuple[float, ...] = ()
    found: list[float] = field(default_factory=list)

    @property
    def behind(self) -> bool:
        """Whether, after so many passes, no share so far has reached what stands in `floor`."""
        done = len(self.found)
        return 0 < done <= len(self.floor) and max(self.found) < self.floor[done - 1]


def enrol(host: HostProgram, support: Samples) -> None:
    """Make the prototypes anew from the support, but those of classes without images.

    A linear head has none.
    """
    driver = Driver(host)
    prototypes = host.state.get("head.prototypes", np.zeros((0, 0)))
    before = prototypes.copy()
    driver.enrol(zip(map(driver.show, support.images), support.labels, strict=True))
    absent = np.setdiff1d(np.arange(len(prototypes)), support.labels)
    prototypes[absent] = before[absent]


def predict(host: HostProgram, images: Images) -> NDArray[np.int64]:
    """Return the most likely class of each image."""
    driver = Driver(host)
    return np.array([int(driver.infer(x).argmax()) for x in images])


def fit(
    host: HostProgram,
    compiled: Compiled,
    support: Samples,
    schedule: Schedule,
    progress: Watch = lambda done, loss: None,
    passes: int | None = None,
    views: Fresh | Cached | None = None,
    tests: Tests | None = None,
) -> list[float]:
    """Train in place; return the loss of every sample seen.

    `passes` ends training before the schedule does.  `views`: of the support with this schedule,
    where a program that cuts the network at the same place has kept them.
    `tests` that are behind their floor end it, too.
    """
    each = training(host, compiled, support, schedule, progress, views, tests=tests)
    losses: list[float] = []
    for of_pass in itertools.islice(each, passes):
        losses += of_pass
        if tests and tests.behind:
            break
    return losses


def training(
    host: HostProgram,
    compiled: Compiled,
    support: Samples,
    schedule: Schedule,
    progress: Watch = lambda done, loss: None,
    views: Fresh | Cached | None = None,
    keeper: Keeper | None = None,
    tests: Tests | None = None,
) -> Iterator[list[float]]:
    """Train in place, and yield the losses of each pass over the support when it is done.

    `keeper`: training goes on where it says, and tells it how far it is.
    `tests`: made after each pass; training goes on as if there had been none.

    Prototypes are made anew before each pass, and detached, unless the program has gradients for
    them: then what they add to the mean gradient comes last, right before its update.
    Raises `InputError` if such a program would update before the end of a pass.
    """
    if EntryPoint.STEP not in host.program.entries or not schedule.iterations:
        return
    every, count = compiled.recipe.accumulate, len(support.labels)
    if EntryPoint.ENROL_GRAD in host.program.entries and every < count:
        raise InputError(
            f"{option('prototype_gradients')}: needs one update for the whole support of {count} "
            f"images, but {option('accumulate')} is {every}; make it {count} or more"
        )
    if views is None:
        views = views_of(host, compiled, support.images, schedule.augment, schedule.seed)
    run = _Run(host, support, schedule, views, every, progress, tests)
    begun = keeper.position() if keeper else None
    first = run.resume(begun) if begun else 0
    run.test(first)
    for turn in range(first):
        yield run.losses[turn * count : (turn + 1) * count]
    for turn in range(first, schedule.iterations):
        for _ in run.turn(turn):
            if keeper:
                keeper.keep(functools.partial(run.position, turn))
        run.test(turn + 1)
        if keeper and (tests or turn == schedule.iterations - 1):
            keeper.keep(functools.partial(run.position, turn), now=True)
        yield run.losses[turn * count :]


class _Run:
    """Training on its way: all that its next update depends on."""

    def __init__(
        self,
        host: HostProgram,
        support: Samples,
        schedule: Schedule,
        views: Fresh | Cached,
        every: int,
        progress: Watch,
        tests: Tests | None,
    ) -> None:
        self._host, self._support, self._schedule = host, support, schedule
        self._views, self._every, self._progress = views, every, progress
        self._tests = tests
        self._driver, self._rng = Driver(host), views.generator()
        self._order = np.zeros(0, np.int64)
        self._at, self._updates = 0, 0
        self.losses: list[float] = []
        self.running = math.nan

    def turn(self, turn: int) -> Iterator[None]:
        """Make a pass over the support, or what is left of it; yield after each update."""
        count = len(self._support.labels)
        if self._at in {0, len(self._order)}:
            self._driver.enrol(self._plain())
            self._order, self._at = self._rng.permutation(count), 0
        for group in _batched(self._order[self._at :], self._every):
            self._update(group, turn)
            self._at += len(group)
            yield

    def _update(self, group: NDArray[np.int64], turn: int) -> None:
        seen, count = len(self.losses), len(self._support.labels)
        each = self._driver.update(
            ((self._views.view(i, turn), self._support.labels[i]) for i in group),
            self._plain(),
            share=1 / len(group),
            rate=self._schedule.rate((seen + len(group) - 1) / (self._schedule.iterations * count)),
            clock=(self._schedule.seed, self._updates),
            seen=seen,
        )
        for loss in each:
            self.running = 0.95 * self.running + 0.05 * loss if self.losses else loss
            self.losses.append(loss)
            self._progress(len(self.losses), self.running)
        self._updates += 1

    def test(self, passes: int) -> None:
        """Test after so many passes, unless that was done.

        It makes the prototypes anew, as the next pass will.
        """
        if self._tests is None or len(self._tests.found) >= passes:
            return
        self._driver.enrol(self._plain())
        query = self._tests.query
        right = predict(self._host, query.images) == query.labels
        self._tests.found.append(float(right.mean()))

    def _plain(self) -> Iterator[Sample]:
        return zip(self._views.plain(), self._support.labels, strict=True)

    def position(self, turn: int) -> Position:
        """Return where training is, with copies of nothing: write it at once."""
        return Position(
            turn,
            self._at,
            self._updates,
            self.running,
            self._order,
            np.array(self.losses),
            np.array(self._tests.found if self._tests else []),
            self._rng.bit_generator.state,
            self._host.state,
        )

    def resume(self, begun: Position) -> int:
        """Go on from a position; return its pass."""
        for name, value in begun.state.items():
            self._host.state[name][...] = value
        self._rng.bit_generator.state = begun.random
        self._order, self._at, self._updates = begun.order, begun.at, begun.updates
        self.losses, self.running = begun.losses.tolist(), begun.running
        if self._tests is not None:
            self._tests.found[:] = begun.tested.tolist()
        done = begun.at == len(begun.order)
        return begun.turn + done


def _batched(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Cut an order into groups of `size`; the last may have fewer."""
    return (order[i : i + size] for i in range(0, len(order), size))


def adapted_tensors(compiled: Compiled, host: HostProgram) -> dict[str, Array]:
    """Return whole tensors of every layer that learned, and the head."""
    tensors: dict[str, Array] = {}
    for name, part in compiled.training.learn.items():
        node = compiled.model.graph[name]
        if name in host.state:
            value = host.state[name].copy()
        else:
            value = compiled.model.graph.data[name].copy()
            where = (slice(None),) * part.axis + (list(part.index or ()),)
            value[where] = host.state[f"{name}.learned"]
        tensors[name] = folder_layout(node, value)
    heads = [s.name for s in compiled.program.state if s.role is Role.HEAD]
    tensors.update((name, host.state[name].copy()) for name in heads)
    return tensors
