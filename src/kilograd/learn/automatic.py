"""The recipe where nobody gives one: what learns, head, optimiser, passes, and a rate that suits.

docs/results/studies/rates.md and pocket.md say what was measured to choose them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from kilograd.ir import DType
from kilograd.learn.recipe import Compiled
from kilograd.ops import RowUpdate, Update
from kilograd.passes import EntryPoint
from kilograd.settings import HeadKind, OptimizerKind, Settings

CHOSEN = frozenset({"method", "head", "optimizer", "iterations", "lr"})
"""The options that are chosen unless they are given."""

_METHODS = "tinytrain", "last"
"""What learns: layers that the images speak for; where none of them fits, the last layer."""

_RATES = {
    OptimizerKind.SGD: 35.0,
    OptimizerKind.MOMENTUM: 3.5,  # in the long run, a gradient counts ten times
    OptimizerKind.ROWRMS: 7.0,
    OptimizerKind.ADAM: 7.0,
}
"""By optimiser: the rate, but for the power of the number of weights."""
_POWER = -0.8
_HIGHEST = {
    OptimizerKind.SGD: 0.05,
    OptimizerKind.MOMENTUM: 0.005,
    OptimizerKind.ROWRMS: 0.01,
    OptimizerKind.ADAM: 0.01,
}
_HEAD_ALONE = {
    OptimizerKind.SGD: 0.003,
    OptimizerKind.MOMENTUM: 0.0003,
    OptimizerKind.ROWRMS: 0.01,
    OptimizerKind.ADAM: 0.01,
}
"""The rate where nothing but a linear head learns."""
_STEPS = 3000
_FEWEST_PASSES, MOST_PASSES = 10, 40
_MANY = 50
"""Images a class from which on a linear head is as good as prototypes, and cheaper."""


def candidates(
    settings: Settings, chosen: frozenset[str], images: int, ways: int
) -> Iterator[Settings]:
    """Yield settings to try in turn, with what is to be `chosen` filled in but for the rate.

    A method may have no use for a head, and an optimiser may not fit into the RAM: the next one
    then may.  `images`: those to learn from, of all classes.
    """
    recipe, schedule = settings.recipe, settings.schedule
    methods = _METHODS if "method" in chosen else (recipe.method,)
    heads: list[HeadKind | None] = [recipe.head]
    if "head" in chosen and images >= _MANY * ways:
        heads = [HeadKind.LINEAR, *heads]
    optimizers = [recipe.optimizer]
    if "optimizer" in chosen:
        both = [OptimizerKind.ROWRMS, OptimizerKind.SGD]
        optimizers = both if recipe.qas else [OptimizerKind.SGD]
    if "iterations" in chosen:
        passes = max(_FEWEST_PASSES, min(MOST_PASSES, _STEPS // max(1, images)))
        schedule = replace(schedule, iterations=max(passes, schedule.warmup + 1))
    for method, head, optimizer in itertools.product(methods, heads, optimizers):
        yield replace(
            settings,
            recipe=replace(recipe, method=method, head=head, optimizer=optimizer),
            schedule=schedule,
        )


def with_rate(settings: Settings, chosen: frozenset[str], compiled: Compiled) -> Settings:
    """Return settings with the rate that suits what learns, unless it is given."""
    if "lr" not in chosen:
        return settings
    lr = suited_rate(compiled)
    return replace(settings, schedule=replace(settings.schedule, lr=lr))


def suited_rate(compiled: Compiled) -> float:
    """Return a rate that suits a program."""
    learned = compiled.learned_parameters if compiled.training.learn else 0
    rate = rate_for(compiled.recipe.optimizer, learned)
    return rate if compiled.recipe.qas else float(f"{rate / _code_moves(compiled):.1e}")


def _code_moves(compiled: Compiled) -> float:
    """Return how far a step moves what learns in codes without QAS, where it is 1 with it.

    The mean over weights, in real units; 1 where a classifier learns as well, whose numbers are
    real: it has the same rate, and could not bear a larger one.
    """
    entries = compiled.program.entries
    entry = entries.get(EntryPoint.APPLY) or entries.get(EntryPoint.STEP)
    nodes = entry.graph.nodes if entry else ()
    learns = [n.inputs[0].type for n in nodes if isinstance(n.op, Update | RowUpdate)]
    kinds = [x for x in learns if x.dtype is DType.I8] or learns
    if not kinds or any(kind.dtype is DType.F32 for kind in learns):
        return 1.0
    squares = [x.size * np.mean(np.square(x.affine.scale)) * x.affine.unit**2 for x in kinds]
    return float(sum(squares) / sum(x.size for x in kinds))


def rate_for(optimizer: OptimizerKind, learned: int) -> float:
    """Return a rate that suits so many weights, to two digits; 0: nothing but a linear head learns.

    A step of `rowrms` and `adam` moves every weight about as far as the rate says, so that what a
    step does to the output grows with the number of weights that learn.  The power is measured.
    """
    if not learned:
        return _HEAD_ALONE[optimizer]
    rate = _RATES[optimizer] * learned**_POWER
    return float(f"{min(rate, _HIGHEST[optimizer]):.1e}")
