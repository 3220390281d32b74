"""Rates and other options tuned for each method, on images that nobody will test on.

Rows are made and stored as those of an evaluation: a trial is a method with options of its own,
which learns one task after the other.  What was tried is known from the rows alone, so tuning goes
on wherever it stopped.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kilograd import limits
from kilograd.data import Episode
from kilograd.errors import InputError, flag, option
from kilograd.intervals import interval, wilson
from kilograd.learn.adapt import load_task
from kilograd.progress import Progress, silent
from kilograd.settings import Settings, split_method
from kilograd.study.evaluate import Evaluation, cut_out, dependencies, options_of
from kilograd.study.pools import check_cluster, check_jobs, here, in_processes, on_cluster
from kilograd.study.propose import State, Tried, hopeless, need_optuna, propose
from kilograd.study.space import Over, Params, Space, space_of
from kilograd.study.store import opened
from kilograd.study.work import Row, Work

TRIALS_FILE = "tuning.sqlite"
"""The file that tells a folder of tuning: one row a task of a trial."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """What to tune: so many trials of every method of `asked`, on its episodes.

    `asked`: of one network; its sets have no image that will be tested on (`unspared`).
    `given`: options that a person has set, where tuning begins.

    Raises `InputError` for no trials, or for more networks than one.
    """

    asked: Evaluation
    over: tuple[Over, ...]
    trials: int
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check what can be checked without running anything."""
        if not 1 <= self.trials <= limits.TRIALS:
            raise InputError(f"{option('trials')} {self.trials}: must be in 1 ... {limits.TRIALS}")
        if len(self.asked.networks) != 1:
            raise InputError(f"{option('model')}: give one; each network has rates of its own")
        tuned = {str(o.what) for o in self.over}
        seen: dict[object, str] = {}
        for method in self.asked.methods:
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
        sets = [d.name for d in self.asked.sets]
        return tuple((name, e) for e in range(self.asked.episodes) for name in sets)


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
        """The options that make `adapt` learn like the best; what was not tuned is named, too."""
        name, own = split_method(self.method)
        given = {"method": name, **own, **_shown(self.best.params)}
        return " ".join(f"{flag(k)} {v}" for k, v in given.items() if k != "warmup" or v)

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
                f"{self.method}: none of {count} trials is above chance, {self.chance:.1%}: the "
                f"best has {best.mean:.1%}; try lower rates, as {lower}"
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


def tune(
    out: Path,
    tuning: Tuning,
    jobs: int = 1,
    progress: Progress = silent,
    cluster: str | None = None,
) -> tuple[Tuned, ...]:
    """Run the trials that `out` does not hold yet, and return those of each method.

    A row is stored as soon as it is there, so an interrupted run goes on where it was; more trials
    and methods may join later.  With one job, trials are the same whatever interrupts.
    `jobs` and `cluster` are as for `evaluate`.

    Raises `InputError` as `evaluate` and `space_of` do, and where Optuna is not installed.
    """
    need_optuna()
    check_jobs(jobs, cluster)
    drawn = tuning.asked.draw()
    if cluster is not None:
        check_cluster(cluster)
    with opened(out / TRIALS_FILE) as store:
        store.agree(_dependencies(tuning), options_of(Settings()))
        stored = tuple(store.rows().values())
        runs = _runs(tuning, drawn)
        for row in stored:
            for run in runs:
                run.remember(row)
        total = len(runs) * tuning.trials * len(tuning.tasks)
        store.check_room(len(stored) + total)
        progress(sum(r.done for r in runs), total, "")
        works = _works(tuning, runs, drawn)
        if cluster is not None:
            rows = on_cluster(works, cluster)
        else:
            # One job waits for nothing: no work is `None`.
            rows = here(filter(None, works)) if jobs == 1 else in_processes(works, jobs)
        with closing(rows):
            for row in rows:
                store.add(row)
                run = next(r for r in runs if r.remember(row))
                _log.debug("%s, %s: %.3f", row.method, row.data, row.accuracy_after)
                progress(sum(r.done for r in runs), total, run.said)
        return tuple(run.tuned() for run in runs)


class _Run:
    """The trials of a method on their way."""

    def __init__(
        self, tuning: Tuning, space: Space, drawn: Mapping[tuple[str, int], Episode]
    ) -> None:
        self._tuning, self._space = tuning, space
        self._episodes = [drawn[task] for task in tuning.tasks]
        self._rows: dict[str, dict[int, Row]] = {}
        self._params: dict[str, Params] = {}
        self._states: dict[str, State] = {}
        self._on_their_way: set[str] = set()
        self._all_tried = False

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        enough = self._all_tried or len(self._rows) >= self._tuning.trials
        return enough and State.RUNNING not in self._states.values()

    @property
    def done(self) -> int:
        """Tasks that are done, or need not be."""
        tasks = len(self._tuning.tasks)
        if self.over:
            return self._tuning.trials * tasks
        return sum(
            len(rows) if self._states[name] is State.RUNNING else tasks
            for name, rows in self._rows.items()
        )

    @property
    def said(self) -> str:
        """The best so far."""
        whole = [self._tried(n).mean for n, s in self._states.items() if s is State.FINISHED]
        return f"{self._space.method} {max(whole):.1%}" if whole else self._space.method

    def remember(self, row: Row) -> bool:
        """Take a row of this method; say whether it is one."""
        task, name = (row.data, row.episode), row.method
        if task not in self._tuning.tasks or not self._known(name):
            return False
        self._rows[name][self._tuning.tasks.index(task)] = row
        self._on_their_way.discard(name)
        mine = self._tried(name)
        if len(mine.accuracies) == len(self._tuning.tasks):
            self._states[name] = State.FINISHED
        elif mine.params != self._space.start and mine.accuracies:
            others = [self._tried(n) for n in self._rows if n != name]
            if hopeless(self._space, others, mine, len(self._tuning.asked.sets)):
                self._states[name] = State.PRUNED
        return True

    def next(self) -> tuple[str, int] | None:
        """Return what to do next, a trial and the number of its task; `None`: wait, or no more."""
        for name, state in self._states.items():
            if state is State.RUNNING and name not in self._on_their_way:
                self._on_their_way.add(name)
                return name, len(self._tried(name).accuracies)
        if self._all_tried or len(self._rows) >= self._tuning.trials:
            return None
        tried = [self._tried(name) for name in self._rows]
        params = propose(self._space, tried, self._tuning.asked.settings.schedule.seed)
        if params is None:
            self._all_tried = True
            _log.info("%s: all there is was tried, %d trials", self._space.method, len(tried))
            return None
        name = self._space.named(params)
        self._begin(name, params)
        self._on_their_way.add(name)
        return name, 0

    def tuned(self) -> Tuned:
        """Return what was tried."""
        trials = [
            Trial(name, self._params[name], self._states[name], self._in_order(name))
            for name in self._rows
        ]
        ways = [len(e.classes) for e in self._episodes]
        held_out = sum(len(e.query) for e in self._episodes)
        chance = math.fsum(1 / w for w in ways) / len(ways)
        return Tuned(self._space.method, self._space, tuple(trials), held_out, chance)

    def _known(self, name: str) -> bool:
        """Say whether a trial is one of this method; one of an earlier run is begun."""
        if name in self._rows:
            return True
        with suppress(InputError):
            params = Params.of(self._tuning.asked.settings.varied(name))
            if self._space.named(params) == name:
                self._begin(name, params)
                return True
        return False

    def _begin(self, name: str, params: Params) -> None:
        self._rows[name], self._params[name] = {}, params
        self._states[name] = State.RUNNING

    def _in_order(self, name: str) -> tuple[Row, ...]:
        """Return the rows of a trial up to the first that is missing."""
        rows = self._rows[name]
        return tuple(rows[i] for i in range(next(i for i in range(len(rows) + 1) if i not in rows)))

    def _tried(self, name: str) -> Tried:
        accuracies = tuple(row.accuracy_after for row in self._in_order(name))
        return Tried(self._params[name], accuracies, self._states[name])


def _runs(tuning: Tuning, drawn: Mapping[tuple[str, int], Episode]) -> list[_Run]:
    """Return a run for each method; its bounds come from what the first task says."""
    (model,), first = tuning.asked.networks, tuning.asked.sets[0]
    task = load_task(first, drawn[first.name, 0], model.preprocess)
    settings = tuning.asked.settings
    return [
        _Run(tuning, space_of(model, method, settings, tuning.given, tuning.over, task), drawn)
        for method in tuning.asked.methods
    ]


def _works(
    tuning: Tuning, runs: Sequence[_Run], drawn: Mapping[tuple[str, int], Episode]
) -> Iterator[Work | None]:
    """Yield what is to be done; `None` where that depends on what is on its way."""
    sets, (model,) = {d.name: d for d in tuning.asked.sets}, tuning.asked.networks
    while not all(run.over for run in runs):
        asked = next(filter(None, (run.next() for run in runs)), None)
        if asked is None:
            yield None
            continue
        method, number = asked
        data, episode = tuning.tasks[number]
        images, own = cut_out(sets[data], drawn[data, episode])
        yield Work(model, tuning.asked.settings, (method,), images, own, episode)


def _dependencies(tuning: Tuning) -> dict[str, str]:
    """Return all that a trial depends on, beside its method: option or input, and its value."""
    over = [
        str(o.what)
        + (f"={o.bounds.low:g}:{o.bounds.high:g}" if o.bounds else "")
        + (f"={':'.join(o.choices)}" if str(o.what) == "optimizer" else "")
        for o in tuning.over
    ]
    return {
        flag("over"): json.dumps(", ".join(over)),
        flag("data"): json.dumps(", ".join(d.name for d in tuning.asked.sets)),
        flag("episodes"): json.dumps(tuning.asked.episodes),
        **dependencies(tuning.asked),
    }


def _shown(params: Params) -> dict[str, object]:
    return {
        "lr": params.lr,
        "optimizer": str(params.optimizer),
        "iterations": params.iterations,
        "warmup": params.warmup,
    }
