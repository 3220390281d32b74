"""How a program learns from a support: views, prototypes, passes, updates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilograd.data import Dataset, prepare
from kilograd.errors import InputError, option
from kilograd.frontend import Preprocess
from kilograd.frontend.model_folder import folder_layout
from kilograd.ir import Array, Role
from kilograd.learn.recipe import Compiled
from kilograd.learn.views import Cached, Fresh, views_of
from kilograd.passes import EntryPoint
from kilograd.settings import Schedule
from kilograd.targets import Driver, HostProgram

Watch = Callable[[int, float], None]
"""Called after every sample with the number of samples done and the running loss."""


@dataclass(frozen=True)
class Samples:
    """Images as network input, int8 [n, h, w, c], and their labels."""

    images: NDArray[np.int8]
    labels: NDArray[np.int32]


def load_samples(
    dataset: Dataset, indices: tuple[int, ...], labels: tuple[int, ...], preprocess: Preprocess
) -> Samples:
    """Decode some images of a data set."""
    images = np.stack([prepare(dataset.image(i), preprocess) for i in indices])
    return Samples(images, np.array(labels, np.int32))


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


def predict(host: HostProgram, images: NDArray[np.int8]) -> NDArray[np.int64]:
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
) -> list[float]:
    """Train in place; return the loss of every sample seen.

    `passes` ends training before the schedule does.  `views`: of the support with this schedule,
    where a program that cuts the network at the same place has kept them.
    """
    each = training(host, compiled, support, schedule, progress, views)
    return [loss for losses in itertools.islice(each, passes) for loss in losses]


def training(
    host: HostProgram,
    compiled: Compiled,
    support: Samples,
    schedule: Schedule,
    progress: Watch = lambda done, loss: None,
    views: Fresh | Cached | None = None,
) -> Iterator[list[float]]:
    """Train in place, and yield the losses of each pass over the support when it is done.

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
    driver, rng = Driver(host), views.generator()
    updates = itertools.count()
    seen, running = 0, math.nan
    for turn in range(schedule.iterations):
        losses: list[float] = []
        driver.enrol(zip(views.plain(), support.labels, strict=True))
        for group in _batched(rng.permutation(count), every):
            each = driver.update(
                ((views.view(i, turn), support.labels[i]) for i in group),
                zip(views.plain(), support.labels, strict=True),
                share=1 / len(group),
                rate=schedule.rate((seen + len(group) - 1) / (schedule.iterations * count)),
                clock=(schedule.seed, next(updates)),
            )
            for loss in each:
                running = 0.95 * running + 0.05 * loss if seen else loss
                losses.append(loss)
                seen += 1
                progress(seen, running)
        yield losses


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
