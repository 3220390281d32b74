"""The main job: a network learns the classes of an episode, in the program that is flashed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilograd.data import Dataset, prepare
from kilograd.errors import InputError, option
from kilograd.frontend import Preprocess
from kilograd.frontend.model_folder import folder_layout
from kilograd.ir import Array
from kilograd.learn.recipe import Compiled
from kilograd.learn.settings import Schedule
from kilograd.learn.views import Cached, Fresh, Shown, shown, views_of
from kilograd.passes import PrototypeHead
from kilograd.targets import HostProgram

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
    """Make the prototypes anew from the support; a linear head has none."""
    if "enrol" in host.program.entries:
        _enrol(host, (shown(host, image) for image in support.images), support.labels)


def _enrol(
    host: HostProgram, seen: Iterable[Shown], labels: NDArray[np.int32], entry: str = "enrol"
) -> None:
    """Enrol samples or, with `enrol_grad`, go back to them."""
    if entry not in host.program.entries:
        return
    if entry == "enrol":
        host.call("forget")
    for inputs, label in zip(seen, labels, strict=True):
        host.call(entry, **inputs, label=label)


def predict(host: HostProgram, images: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return the most likely class of each image."""
    return np.array([int(host.call("infer", image=x)["logits"].argmax()) for x in images])


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
    if "step" not in host.program.entries or not schedule.iterations:
        return
    if views is None:
        views = views_of(host, compiled, support.images, schedule.augment, schedule.seed)
    rng = views.generator()
    every = compiled.recipe.accumulate
    count = len(support.labels)
    total = schedule.iterations * count
    exact = "enrol_grad" in host.program.entries
    if exact and every < count:
        raise InputError(
            f"{option('prototype_gradients')}: needs one update for the whole support of {count} "
            f"images, but {option('accumulate')} is {every}; make it {count} or more"
        )
    seen = updates = pending = 0
    running = math.nan
    for turn in range(schedule.iterations):
        losses: list[float] = []
        _enrol(host, views.plain(), support.labels)
        for left, i in zip(reversed(range(count)), rng.permutation(count), strict=True):
            rate = schedule.rate(seen / total)
            inputs = {**views.view(i, turn), "label": support.labels[i]}
            if every == 1:
                clock = np.array([schedule.seed, updates], np.int32)
                out = host.call("step", **inputs, lr=np.array([rate], np.float32), clock=clock)
                updates += 1
            else:
                share = 1 / min(every, pending + left + 1)
                out = host.call("step", **inputs, share=np.array([share], np.float32))
                pending += 1
                if pending == every or left == 0:
                    if exact:
                        _enrol(host, views.plain(), support.labels, "enrol_grad")
                    clock = np.array([schedule.seed, updates], np.int32)
                    host.call("apply", lr=np.array([rate], np.float32), clock=clock)
                    updates, pending = updates + 1, 0
            loss = float(out["loss"][0])
            running = 0.95 * running + 0.05 * loss if seen else loss
            losses.append(loss)
            seen += 1
            progress(seen, running)
        yield losses


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
    head = compiled.training.head
    names = ("head.prototypes",) if isinstance(head, PrototypeHead) else head.learned
    tensors.update((name, host.state[name].copy()) for name in names if name in host.state)
    return tensors
