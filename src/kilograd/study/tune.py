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
from dataclasses import dataclass
from pathlib import Path

from kilograd.data import Episode
from kilograd.errors import InputError, flag
from kilograd.learn.adapt import load_task
from kilograd.progress import Progress, silent
from kilograd.settings import Settings
from kilograd.study.evaluate import cut_out, dependencies, options_of
from kilograd.study.pools import check_cluster, check_jobs, here, in_processes, on_cluster
from kilograd.study.propose import State, Tried, floor, hopeless, need_optuna, propose
from kilograd.study.space import Params, Space, space_of
from kilograd.study.store import opened
from kilograd.study.trials import Trial, Tuned, TuningRequest
from kilograd.study.work import Row, Work

TRIALS_FILE = "tuning.sqlite"
"""The file that tells a folder of tuning: one row a task of a trial."""

_log = logging.getLogger(__name__)


def tune(
    out: Path,
    tuning: TuningRequest,
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
    drawn = tuning.evaluation.draw()
    if cluster is not None:
        check_cluster(cluster)
    runs = _runs(tuning, drawn)
    with opened(out / TRIALS_FILE) as store:
        store.agree(_dependencies(tuning), options_of(Settings()))
        stored = tuple(store.rows().values())
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


@dataclass(frozen=True)
class _Step:
    """The task, by its number, that a trial is to learn next, and what it must reach in it."""

    trial: str
    number: int
    floor: tuple[float, ...]


class _Run:
    """The trials of a method on their way."""

    def __init__(
        self, tuning: TuningRequest, space: Space, drawn: Mapping[tuple[str, int], Episode]
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
        if 0 < len(row.accuracy_by_pass) < mine.params.iterations:  # it was stopped on the way
            self._states[name] = State.PRUNED
        elif len(mine.accuracies) == len(self._tuning.tasks):
            self._states[name] = State.FINISHED
        elif mine.params != self._space.start and mine.accuracies:
            others = [self._tried(n) for n in self._rows if n != name]
            if hopeless(self._space, others, mine, len(self._tuning.evaluation.sets)):
                self._states[name] = State.PRUNED
        return True

    def next(self) -> _Step | None:
        """Return what to do next; `None`: wait, or no more."""
        for name, state in self._states.items():
            if state is State.RUNNING and name not in self._on_their_way:
                return self._step(name)
        if self._all_tried or len(self._rows) >= self._tuning.trials:
            return None
        tried = [self._tried(name) for name in self._rows]
        params = propose(self._space, tried, self._tuning.evaluation.settings.schedule.seed)
        if params is None:
            self._all_tried = True
            _log.info("%s: all there is was tried, %d trials", self._space.method, len(tried))
            return None
        name = self._space.named(params)
        self._begin(name, params)
        return self._step(name)

    def _step(self, name: str) -> _Step:
        """Send a trial on its way to its next task."""
        self._on_their_way.add(name)
        number = len(self._in_order(name))
        return _Step(name, number, self._floor(name, number))

    def _floor(self, name: str, number: int) -> tuple[float, ...]:
        """Return what a trial must have reached after each pass over a task, so as to go on."""
        params = self._params[name]
        if params == self._space.start:
            return ()
        whole = [n for n, state in self._states.items() if state is State.FINISHED]
        return floor([self._rows[n][number].accuracy_by_pass for n in whole], params.iterations)

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
            params = Params.of(self._tuning.evaluation.settings.varied(name))
            if self._space.holds(params) and self._space.named(params) == name:
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


def _runs(tuning: TuningRequest, drawn: Mapping[tuple[str, int], Episode]) -> list[_Run]:
    """Return a run for each method; its bounds come from what the first task says."""
    (model,), first = tuning.evaluation.networks, tuning.evaluation.sets[0]
    task = load_task(first, drawn[first.name, 0], model.preprocess)
    settings = tuning.evaluation.settings
    return [
        _Run(tuning, space_of(model, method, settings, tuning.given, tuning.over, task), drawn)
        for method in tuning.evaluation.methods
    ]


def _works(
    tuning: TuningRequest, runs: Sequence[_Run], drawn: Mapping[tuple[str, int], Episode]
) -> Iterator[Work | None]:
    """Yield what is to be done; `None` where that depends on what is on its way."""
    sets, (model,) = {d.name: d for d in tuning.evaluation.sets}, tuning.evaluation.networks
    while not all(run.over for run in runs):
        asked = next(filter(None, (run.next() for run in runs)), None)
        if asked is None:
            yield None
            continue
        data, episode = tuning.tasks[asked.number]
        images, own = cut_out(sets[data], drawn[data, episode])
        settings, methods = tuning.evaluation.settings, (asked.trial,)
        yield Work(model, settings, methods, images, own, episode, asked.floor)


def _dependencies(tuning: TuningRequest) -> dict[str, str]:
    """Return all that a trial depends on, beside its method: option or input, and its value."""
    over = [
        str(o.what)
        + (f"={o.bounds.low:g}:{o.bounds.high:g}" if o.bounds else "")
        + (f"={':'.join(o.choices)}" if str(o.what) == "optimizer" else "")
        for o in tuning.over
    ]
    return {
        flag("over"): json.dumps(", ".join(over)),
        flag("data"): json.dumps(", ".join(d.name for d in tuning.evaluation.sets)),
        flag("episodes"): json.dumps(tuning.evaluation.episodes),
        **dependencies(tuning.evaluation),
    }
