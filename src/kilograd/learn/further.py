"""Learning goes on from what was learned: more images, another class, one class less."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from kilograd.errors import InputError, option, shown
from kilograd.ir import Array, Role
from kilograd.learn.adapt import Outcome, Task, train
from kilograd.learn.adapted import Adapted
from kilograd.passes import PrototypeHead
from kilograd.progress import Progress, silent
from kilograd.settings import Recipe, Schedule

_log = logging.getLogger(__name__)


def classes_after(
    adapted: Adapted, given: Sequence[str], forget: Collection[str]
) -> tuple[str, ...]:
    """Return the classes there will be: those there are but `forget`, then the new ones of `given`.

    Raises `InputError` for a class to be forgotten that there is not, or that images are given of.
    """
    for name in forget:
        if name not in adapted.classes:
            raise InputError(
                f"{option('forget')} {name}: no such class; there are {', '.join(adapted.classes)}"
            )
        if name in given:
            raise InputError(
                f"{option('forget')} {name}: the data holds images of it; leave one of the two out"
            )
    kept = tuple(name for name in adapted.classes if name not in forget)
    return kept + tuple(name for name in given if name not in kept)


def begin(adapted: Adapted, classes: Sequence[str], recipe: Recipe) -> Adapted:
    """Return what was learned as the start of a program for other classes.

    The rows of the head go by the names of their classes; those of new classes are zero.
    """
    known = {name: row for row, name in enumerate(adapted.classes)}
    heads = {s.name for s in adapted.compiled.program.state if s.role is Role.HEAD}

    def rows(table: Array) -> Array:
        found = np.zeros((len(classes), *table.shape[1:]), table.dtype)
        for row, name in enumerate(classes):
            if name in known:
                found[row] = table[known[name]]
        return found

    tensors = {k: rows(v) if k in heads else v for k, v in adapted.tensors.items()}
    other = adapted.compiled_as(replace(recipe, ways=len(classes)))
    return replace(other, classes=tuple(classes), tensors=tensors)


def go_on(start: Adapted, task: Task, schedule: Schedule, progress: Progress = silent) -> Outcome:
    """Learn from the support of a task, from `start` on, and test on its query.

    The task is one of some classes of `start`.  If some have no images, weights stay as they are:
    what the network makes of those classes would change, and their prototypes would not.  Only the
    prototypes of classes with images then are made anew.

    Raises `InputError` where weights must stay, for a schedule with passes, and for a classifier,
    which learns from images of all classes together.
    """
    absent = [name for name in start.classes if name not in task.episode.classes]
    task = task.within(start.classes)
    if not absent:
        return train(start.compiled, task, schedule, progress, start=start)
    names = shown(", ".join(absent))
    if not isinstance(start.compiled.training.head, PrototypeHead):
        raise InputError(
            f"no image of {names} is given, and a classifier learns from images of all its "
            f"classes; give some of each, or begin anew, with {option('head')} proto"
        )
    if schedule.iterations:
        raise InputError(
            f"{option('iterations')} {schedule.iterations}: no image of {names} is given, whose "
            "prototypes would not fit other weights; give some of each, or leave this out"
        )
    _log.info("no image of %s: their prototypes are kept, and the weights stay", names)
    outcome = train(start.compiled, task, schedule, progress, start=start)
    both = [x for x in (start.threshold, outcome.threshold) if x is not None]
    # what is remarked of learning that changed no weight is not meant for this
    return replace(outcome, threshold=min(both, default=None), remarks=())
