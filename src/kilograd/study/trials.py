"""What is to be tuned, what was tried, and what is best."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kilograd import limits
from kilograd.errors import InputError, flag, option
from kilograd.intervals import interval, wilson
from kilograd.options import values
from kilograd.settings import Settings, split_method
from kilograd.study.evaluate import Evaluation
from kilograd.study.propose import State
from kilograd.study.space import Over, Params, Space
from kilograd.study.work import Row


@dataclass(frozen=True)
class TuningRequest:
    """What to tune: so many trials of every method of `evaluation`, on its episodes.

    `evaluation`: of one network; its sets have no image that will be tested on (`unspared`).
    `given`: options that a person has set, where tuning begins.

    Raises `InputError` for no trials, or for more networks than one.
    """

    evaluation: Evaluation
    over: tuple[Over, ...]
    trials: int
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check what can be checked without running anything."""
        if not 1 <= self.trials <= limits.TRIALS:
            raise InputError(f"{option('trials')} {self.trials}: must be in 1 ... {limits.TRIALS}")
        if len(self.evaluation.networks) != 1:
            raise InputError(f"{option('model')}: give one; each network has rates of its own")
        tuned = {str(o.what) for o in self.over}
        seen: dict[object, str] = {}
        for method in self.evaluation.methods:
            name, own = split_method(method)
            key = name, *sorted((k, str(v)) for k, v in own.items() if k not in tuned)
            if (other := seen.setdefault(key, method)) != method:
                raise InputError(
                    f"{option('methods')}: {other} and {method} differ in nothing but what is "
                    "tuned; drop one"
                )

    @property
    def tasks(self) -> tuple[tuple[str, int], ...]:
        """The tasks of a trial, in order: the first of each data set, the second of each ..."""
        sets = [d.name for d in self.evaluation.sets]
        return tuple((name, e) for e in range(self.evaluation.episodes) for name in sets)


@dataclass(frozen=True)
class Trial:
    """What was tried: a method with options of its own, and what became of it."""

    method: str
    params: Params
    state: State
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracy on held-out images after each task, in 0 ... 1."""
        return tuple(row.accuracy_after for row in self.rows)

    @property
    def mean(self) -> float:
        """The mean of them."""
        return math.fsum(self.accuracies) / len(self.rows)


@dataclass(frozen=True)
class Tuned:
    """All trials of a method, each tested on `held_out` images; `chance`: what guessing reaches."""

    method: str
    space: Space = field(repr=False)
    trials: tuple[Trial, ...] = field(repr=False)
    held_out: int
    chance: float

    @property
    def best(self) -> Trial:
        """The finished trial with the highest mean: the first of equals."""
        return max((t for t in self.trials if t.state is State.FINISHED), key=lambda t: t.mean)

    @property
    def first(self) -> Trial:
        """The trial that tuning began with: what would have been chosen without it."""
        return next(t for t in self.trials if t.params == self.space.start)

    @property
    def pruned(self) -> int:
        """How many trials were not worth going on with."""
        return sum(t.state is State.PRUNED for t in self.trials)

    @property
    def adapted(self) -> str:
        """The options that make `adapt` learn like the best, as words of a shell.

        What was not tuned is named, too.
        """
        name, own = split_method(self.method)
        given = {"method": name, **own, **_shown(self.best.params)}
        return " ".join(word for k, v in given.items() if (word := _typed(k, v)))

    def bounds(self, trial: Trial) -> tuple[float, float]:
        """Return the 95 % interval of a trial's accuracy: over tasks, or of one over its images."""
        found = interval(trial.accuracies)
        if found.half is None:
            return wilson(round(found.mean * self.held_out), self.held_out)
        return max(0.0, found.mean - found.half), min(1.0, found.mean + found.half)

    def to_json(self) -> dict[str, object]:
        """Return what tuning.json holds of a method."""
        low, high = self.bounds(self.best)
        return {
            "method": self.method,
            "best": {
                "method": self.best.method,
                **_shown(self.best.params),
                "accuracy": self.best.mean,
                "accuracy_low": low,
                "accuracy_high": high,
            },
            "pruned": self.pruned,
            "trials": [
                {
                    "method": t.method,
                    **_shown(t.params),
                    "state": str(t.state),
                    "accuracy": t.mean,
                    "accuracies": list(t.accuracies),
                }
                for t in self.trials
            ],
        }

    def remarks(self) -> Iterator[str]:
        """Yield what a person should know before believing the best."""
        best, count = self.best, len(self.trials)
        before = interval([row.accuracy_before for row in best.rows]).mean
        rates = self.space.rates[best.params.optimizer]
        lower = f"{option('over')} lr={rates.low / 100:.1e}:{rates.low:.1e}"
        if wilson(round(best.mean * self.held_out), self.held_out)[0] <= self.chance:
            yield (
                f"{self.method}: none of {count} trials is surely above chance, "
                f"{self.chance:.1%}: the best has {best.mean:.1%}; try lower rates, as {lower}"
            )
        elif best.mean <= before:
            yield (
                f"{self.method}: learning brings nothing here: the best of {count} trials has "
                f"{best.mean:.1%}, and before learning it is {before:.1%}; try lower rates, as "
                f"{lower}, or another method"
            )
        elif rates.low < rates.high and not 1.1 * rates.low < best.params.lr < rates.high / 1.1:
            yield (
                f"{self.method}: the best rate, {best.params.lr:g}, is at the end of what was "
                f"tried; try {option('over')} lr={best.params.lr / 10:.1e}:"
                f"{best.params.lr * 10:.1e}"
            )


def evaluated(tuned: Sequence[Tuned]) -> str:
    """Return the options that make `evaluate` compare the best of each, as words of a shell."""
    return f"{flag('methods')} {shlex.quote(','.join(t.best.method for t in tuned))}"


def _typed(name: str, value: object) -> str:
    """Return an option as it is typed; nothing for a switch, or a warm-up, that is as usual."""
    if name == "warmup" and not value:
        return ""
    if not isinstance(value, bool):
        return f"{flag(name)} {shlex.quote(str(value))}"
    if value == values(Settings())[name]:
        return ""
    return flag(name) if value else flag(f"no_{name}")


def _shown(params: Params) -> dict[str, object]:
    return {
        "lr": params.lr,
        "optimizer": str(params.optimizer),
        "iterations": params.iterations,
        "warmup": params.warmup,
    }
