"""How far to train, as the support itself can tell.

With a few images, training can make things worse.  Images are held out in turn: a part of the
support trains from the start, and prototypes or head are tried on the rest after some passes.
Few images say little, so training goes on as planned unless they speak against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kilograd.errors import InputError, option
from kilograd.learn.recipe import Compiled
from kilograd.learn.samples import Samples
from kilograd.learn.training import enrol, predict, training
from kilograd.settings import Schedule
from kilograd.targets import HostProgram

_FOLDS = 5
_LOOKS = (0.2, 0.5, 1.0)  # of the schedule
_CHANCE = 0.5  # docs/results/studies/guard.md compares it with others


@dataclass(frozen=True)
class Trial:
    """After so many passes over the support, which held-out images are classified right."""

    passes: int
    right: tuple[bool, ...]


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
        raise InputError(f"{option('guard')}: needs two images of each class, to hold one out")
    looks = sorted({0, *(max(1, round(share * schedule.iterations)) for share in _LOOKS)})
    right: dict[int, list[bool]] = {look: [] for look in looks}
    for fold in range(min(_FOLDS, smallest)):
        held = place % min(_FOLDS, smallest) == fold
        rest, asked = support.part(~held), support.part(held)
        host.reset()
        for passes in _passes(host, compiled, rest, schedule):
            if passes in right:
                enrol(host, rest)
                right[passes] += (predict(host, asked.images) == asked.labels).tolist()
    host.reset()
    return tuple(Trial(passes, tuple(each)) for passes, each in right.items())


def passes_that_help(found: tuple[Trial, ...], chance: float = _CHANCE) -> int:
    """Return how many passes to train: all, unless held-out images speak against it.

    Images that training got wrong and those that it got right are heads and tails of a coin.  If
    the former are ahead by more than `chance` standard deviations of a fair coin, training ends
    where most images are right: after the most passes of equals, or before the first.
    """
    first, last = found[0], found[-1]
    changed = [(a, b) for a, b in zip(first.right, last.right, strict=True) if a != b]
    lost = sum(a for a, _ in changed)
    if 2 * lost - len(changed) <= chance * math.sqrt(len(changed)):
        return last.passes
    best = max(found, key=lambda t: (sum(t.right), t.passes))
    return best.passes if sum(best.right) > sum(first.right) else 0


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
