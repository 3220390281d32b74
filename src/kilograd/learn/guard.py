"""How far to train, as the support itself can tell.

With a few images, training can make things worse.  Images are held out in turn: a part of the
support trains from the start, and prototypes or head are tried on the rest after some passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kilograd.errors import InputError
from kilograd.learn.adapt import Samples, Schedule, enrol, predict, training
from kilograd.learn.recipe import Compiled
from kilograd.targets import HostProgram

_FOLDS = 5
_LOOKS = (0.2, 0.5, 1.0)  # of the schedule


@dataclass(frozen=True)
class Trial:
    """So many passes over the support classify so many held-out images right."""

    passes: int
    right: int


def trials(
    host: HostProgram, compiled: Compiled, support: Samples, schedule: Schedule
) -> tuple[Trial, ...]:
    """Return what training would do to images it has not seen; the first entry is no training.

    Every image is held out once, with one of each class at a time.  The program starts anew for
    each fold, and is left untrained.

    Raises `InputError` where a class has a single image.
    """
    place = _place_in_class(support.labels)
    smallest = min(int((support.labels == way).sum()) for way in set(support.labels.tolist()))
    if smallest < 2:
        raise InputError("--guard: needs two images of each class, to hold one out")
    looks = sorted({0, *(max(1, round(share * schedule.iterations)) for share in _LOOKS)})
    right = dict.fromkeys(looks, 0)
    for fold in range(min(_FOLDS, smallest)):
        held = place % min(_FOLDS, smallest) == fold
        rest, asked = _part(support, ~held), _part(support, held)
        host.reset()
        for passes in _passes(host, compiled, rest, schedule):
            if passes in right:
                enrol(host, rest)
                right[passes] += int((predict(host, asked.images) == asked.labels).sum())
    host.reset()
    return tuple(Trial(passes, n) for passes, n in right.items())


def passes_that_help(found: tuple[Trial, ...]) -> int:
    """Return how many passes to train: those that classify most held-out images right.

    The most passes of equals, because whole training sees one image more of each class than a
    fold did; but none at all unless more are right than without training.
    """
    best = max(found, key=lambda t: (t.right, t.passes))
    return best.passes if best.right > found[0].right else 0


def _passes(
    host: HostProgram, compiled: Compiled, support: Samples, schedule: Schedule
) -> Iterator[int]:
    """Train, and yield the number of passes done, from 0 on."""
    yield 0
    each = training(host, compiled, support, schedule)
    for done, _ in enumerate(islice(each, schedule.iterations), start=1):
        yield done


def _place_in_class(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return, for each sample, how many of its class come before it."""
    return np.array([int((labels[:i] == way).sum()) for i, way in enumerate(labels)])


def _part(samples: Samples, keep: NDArray[np.bool_]) -> Samples:
    return Samples(samples.images[keep], samples.labels[keep])
