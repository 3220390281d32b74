"""What Optuna is asked: what to try next, and whether a trial is worth going on with.

Both are functions of the trials so far and a seed, so that tuning that goes on proposes what it
would have proposed without the interruption.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kilograd.extras import Extra
from kilograd.settings import OptimizerKind
from kilograd.study.space import Params, Range, Space, Tunable, clipped, rounded

_AT_RANDOM = 10
"""Trials before the sampler believes what it sees; fewer found worse rates in 12 and in 20."""
_WHOLE = 4
"""Trials that are finished before one is pruned."""
_ATTEMPTS = 50
"""Proposals until one is not known yet."""


class State(enum.StrEnum):
    """What became of a trial."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"


@dataclass(frozen=True)
class Tried:
    """What a trial learned with, and the accuracy after each of its tasks, in 0 ... 1."""

    params: Params
    accuracies: tuple[float, ...]
    state: State

    @property
    def mean(self) -> float:
        """The mean accuracy over the tasks so far."""
        return math.fsum(self.accuracies) / len(self.accuracies) if self.accuracies else math.nan


def propose(space: Space, tried: Sequence[Tried], seed: int) -> Params | None:
    """Return what to try next: at first where tuning starts; `None` where all has been tried."""
    known = {space.named(t.params) for t in tried}
    if space.named(space.start) not in known:
        return space.start
    optuna = _optuna()
    for attempt in range(_ATTEMPTS):
        sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence((seed, len(tried), attempt)).generate_state(1)[0]),
            n_startup_trials=_AT_RANDOM,
            constant_liar=True,  # trials on their way count as poor, so that others differ
        )
        found = _params(space, _study(space, tried, sampler).ask())
        if space.named(found) not in known:
            return found
    return None


def hopeless(space: Space, tried: Sequence[Tried], trial: Tried, warm: int) -> bool:
    """Say whether a trial falls behind the median of those that are finished.

    They are compared after as many tasks, which are the same for all; `warm`: tasks that a trial
    is given in any case.
    """
    optuna = _optuna()
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_WHOLE, n_warmup_steps=warm - 1)
    return bool(pruner.prune(_study(space, tried), _frozen(space, trial)))


def floor(others: Sequence[Sequence[float]], passes: int) -> tuple[float, ...]:
    """Return what a trial of so many passes must have reached after each, on one task, to go on.

    As for tasks, it is the median of what the others had reached, which are finished, after the
    same share of their passes.  The first quarter is free, and nothing is stopped at the end.
    `others`: of each its accuracy after each pass; too few of them ask for nothing.
    """
    if len(others) < _WHOLE or not all(others):
        return ()
    best = [np.maximum.accumulate(accuracies) for accuracies in others]
    return tuple(
        float(np.median([x[math.ceil(done / passes * len(x)) - 1] for x in best]))
        if 4 * done > passes
        else 0.0
        for done in range(1, passes)
    )


def need_optuna() -> None:
    """Raise `InputError` where Optuna is not installed."""
    Extra.TUNE.need("tuning")


def _optuna() -> Any:  # noqa: ANN401 a module that may not be there
    optuna = Extra.TUNE.load("optuna", "tuning")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(space: Space, tried: Sequence[Tried], sampler: object = None) -> Any:  # noqa: ANN401
    """Return a study in memory that knows the trials so far."""
    study = _optuna().create_study(direction="maximize", sampler=sampler)
    for trial in tried:
        study.add_trial(_frozen(space, trial))
    return study


def _frozen(space: Space, trial: Tried) -> Any:  # noqa: ANN401
    """Return a trial as Optuna knows it: what is tuned, and the mean after each task."""
    optuna, params = _optuna(), trial.params
    distributions = optuna.distributions
    found: dict[str, tuple[object, object]] = {}
    kinds = [str(kind) for kind in space.rates]
    if Tunable.OPTIMIZER in space.tuned:
        choices = distributions.CategoricalDistribution(kinds)
        found[Tunable.OPTIMIZER] = str(params.optimizer), choices
    if Tunable.LR in space.tuned:
        bounds = space.rates[params.optimizer]
        rates = distributions.FloatDistribution(bounds.low, bounds.high, log=True)
        found[_rate_of(params.optimizer)] = clipped(params.lr, bounds), rates
    for name, value, counts, log in (
        (Tunable.ITERATIONS, params.iterations, space.passes, True),
        (Tunable.WARMUP, params.warmup, space.warmup, False),
    ):
        if counts:
            low, high = counts.whole
            found[name] = value, distributions.IntDistribution(low, high, log=log)
    means = np.cumsum(trial.accuracies) / np.arange(1, len(trial.accuracies) + 1)
    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state={
            State.RUNNING: states.RUNNING,
            State.FINISHED: states.COMPLETE,
            State.PRUNED: states.PRUNED,
        }[trial.state],
        value=None if trial.state is State.RUNNING else trial.mean,
        params={str(name): value for name, (value, _) in found.items()},
        distributions={str(name): kind for name, (_, kind) in found.items()},
        intermediate_values={i: float(mean) for i, mean in enumerate(means)},
    )


def _params(space: Space, trial: Any) -> Params:  # noqa: ANN401
    """Let Optuna choose all that is tuned."""
    start = space.start
    optimizer, lr = start.optimizer, start.lr
    if Tunable.OPTIMIZER in space.tuned:
        kinds = [str(kind) for kind in space.rates]
        optimizer = OptimizerKind(trial.suggest_categorical(Tunable.OPTIMIZER, kinds))
    if Tunable.LR in space.tuned:
        bounds = space.rates[optimizer]
        found = trial.suggest_float(_rate_of(optimizer), bounds.low, bounds.high, log=True)
        lr = clipped(rounded(found), bounds)
    passes = _count(trial, Tunable.ITERATIONS, space.passes, start.iterations, log=True)
    return Params(lr, optimizer, passes, _count(trial, Tunable.WARMUP, space.warmup, start.warmup))


def _count(
    trial: Any,  # noqa: ANN401
    name: Tunable,
    bounds: Range | None,
    fixed: int,
    *,
    log: bool = False,
) -> int:
    if bounds is None:
        return fixed
    low, high = bounds.whole
    return int(trial.suggest_int(name, low, high, log=log))


def _rate_of(optimizer: OptimizerKind) -> str:
    """Return what Optuna calls the rate: each optimiser has its own."""
    return f"lr of {optimizer}"
