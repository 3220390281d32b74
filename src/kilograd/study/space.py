"""What is tuned, between which bounds, and where tuning begins: at the recipe that suits."""

from __future__ import annotations

import enum
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from kilograd import limits
from kilograd.errors import InputError, as_typed, option
from kilograd.frontend import Model
from kilograd.learn.adapt import Task
from kilograd.learn.automatic import CHOSEN, candidates, suited_rate
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import compile_recipe
from kilograd.options import changed, check_names, converted
from kilograd.passes import EntryPoint
from kilograd.settings import OptimizerKind, Settings, naming, split_method

_log = logging.getLogger(__name__)

_AROUND = 30.0
"""Rates are tried from a so many-th of the one that suits to so many times it."""
PASSES = 4
"""So are passes, around those that are given or suit."""


class Tunable(enum.StrEnum):
    """An option that can be tuned."""

    LR = "lr"
    OPTIMIZER = "optimizer"
    ITERATIONS = "iterations"
    WARMUP = "warmup"


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both among them."""

    low: float
    high: float

    @property
    def whole(self) -> tuple[int, int]:
        """The bounds as whole numbers."""
        return int(self.low), int(self.high)


@dataclass(frozen=True)
class Params:
    """What a trial learns with."""

    lr: float
    optimizer: OptimizerKind
    iterations: int
    warmup: int

    @classmethod
    def of(cls, settings: Settings) -> Params:
        """Return those of settings."""
        schedule = settings.schedule
        return cls(schedule.lr, settings.recipe.optimizer, schedule.iterations, schedule.warmup)


@dataclass(frozen=True)
class Over:
    """What to tune, as a person says it: an option, and its bounds or choices if any."""

    what: Tunable
    bounds: Range | None = None
    choices: tuple[OptimizerKind, ...] = tuple(OptimizerKind)


@dataclass(frozen=True)
class Space:
    """What may be tried for a method.

    `rates`: of each optimiser that fits.  `passes` and `warmup` are `None` where they are not
    tuned; `tuned` says whether rates and optimisers are.  `start` is tried first.
    """

    method: str
    tuned: tuple[Tunable, ...]
    rates: dict[OptimizerKind, Range] = field(repr=False)
    passes: Range | None
    warmup: Range | None
    start: Params

    def holds(self, params: Params) -> bool:
        """Say whether these are within the bounds, or where tuning begins."""
        if params == self.start:
            return True
        counts = (self.passes, params.iterations), (self.warmup, params.warmup)
        rates = self.rates.get(params.optimizer)
        return (
            rates is not None
            and rates.low <= params.lr <= rates.high
            and all(r is None or r.low <= count <= r.high for r, count in counts)
        )

    def named(self, params: Params) -> str:
        """Return the method with what is tuned as options of its own, as `evaluate` takes it."""
        name, own = split_method(self.method)
        given = {**own, **{str(t): getattr(params, t) for t in self.tuned}}
        return f"{name}@{','.join(f'{k}={_spelled(v)}' for k, v in given.items())}"


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_over(given: Sequence[str]) -> tuple[Over, ...]:
    """Read what to tune: names, each with LOW:HIGH, or with optimisers, as `optimizer=sgd:adam`.

    Raises `InputError` for what is no such thing.

    >>> [str(o.what) for o in read_over(["lr=0.001:0.1", "warmup"])]
    ['lr', 'warmup']
    """
    found = tuple(_read(text.strip()) for text in given if text.strip())
    names = [o.what for o in found]
    if not names:
        raise InputError(f"{option('over')}: names nothing; give some of {', '.join(Tunable)}")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{option('over')}: names {name} twice; leave one away")
    return found


def _read(text: str) -> Over:
    name, equals, rest = text.partition("=")
    where = f"{option('over')} {text}"
    try:
        check_names([name], set(Tunable))
        what = Tunable(name)
        if not equals:
            return Over(what)
        if what is Tunable.OPTIMIZER:
            chosen = tuple(converted("over", part, OptimizerKind) for part in rest.split(":"))
            return Over(what, choices=tuple(dict.fromkeys(chosen)))
    except InputError as e:
        said = str(e).removeprefix("over ")
        raise InputError(f"{where}: {said}") from e
    return Over(what, _bounds(where, what, rest))


def _bounds(where: str, what: Tunable, text: str) -> Range:
    kind = float if what is Tunable.LR else int
    low, _, high = text.partition(":")
    try:
        found = Range(kind(low), kind(high))
    except ValueError:
        example = "0.0001:0.1" if kind is float else "5:40"
        raise InputError(f"{where}: give its bounds as LOW:HIGH, as {what}={example}") from None
    least = 0 if what is Tunable.WARMUP else 1 if what is Tunable.ITERATIONS else None
    if least is not None and found.low < least:
        raise InputError(f"{where}: {found.low} is too low; {least} is the least")
    if not found.high <= (limits.CODE_RATE if kind is float else limits.COUNT):
        raise InputError(f"{where}: {high} is too high")
    if what is Tunable.LR and not found.low > 0:
        raise InputError(f"{where}: {low} is no rate; a rate is a positive number")
    if found.low >= found.high:
        instead = (
            f"leave {what} out of it, and give {option(str(what))} {low}"
            if found.low == found.high
            else f"give the lower one first, as {what}={high}:{low}"
        )
        raise InputError(f"{where}: the bounds leave nothing to choose; {instead}")
    return found


def space_of(
    model: Model,
    method: str,
    settings: Settings,
    given: frozenset[str],
    over: Sequence[Over],
    task: Task,
) -> Space:
    """Return what may be tried for a method on tasks like this one.

    `given`: options that a person has set: where tuning begins.  The others begin as `adapt` would
    choose them.

    Raises `InputError` for a method that learns nothing, fits no optimiser, or has bounds that
    cannot be.
    """
    asked = {o.what: o for o in over}
    with naming(method):
        varied = settings.varied(method)
        own = set(split_method(method)[1])
        chosen = (CHOSEN & set(asked)) - given - own
        images, ways = len(task.support.labels), len(task.episode.classes)
        begun = next(candidates(varied, chosen, images, ways))
        choice = asked.get(Tunable.OPTIMIZER)
        choices = choice.choices if choice else (begun.recipe.optimizer,)
        suited = _suited(model, begun, choices, task)
        optimizer = (
            begun.recipe.optimizer if begun.recipe.optimizer in suited else next(iter(suited))
        )
        start = Params.of(changed(begun, {"optimizer": optimizer}))
        if "lr" in chosen:
            start = replace(start, lr=suited[optimizer])
        passes = _passes(asked.get(Tunable.ITERATIONS), start)
        fewest = int(passes.low) if passes else start.iterations
        return Space(
            method,
            tuple(asked),
            dict(_rates(asked.get(Tunable.LR), begun, suited, start)),
            passes,
            _warmup(asked.get(Tunable.WARMUP), fewest),
            _inside(start, asked),
        )


def _suited(
    model: Model, settings: Settings, choices: Sequence[OptimizerKind], task: Task
) -> dict[OptimizerKind, float]:
    """Return the rate that suits each optimiser that fits the method and the limits."""
    ways, found = len(task.classes), dict[OptimizerKind, float]()
    refused: InputError | None = None
    # The rate of the settings may be one that another optimiser does not take.
    calm = changed(settings, {"lr": min(settings.schedule.lr, 1e-3)}).suited(model)
    look = inspector(model, task.support, calm.schedule)
    for kind in choices:
        try:
            tried = changed(calm, {"optimizer": kind})
            budget = tried.budget(model)
            cache = tried.recipe.cache or int(budget.cache is not None)
            recipe = replace(tried.recipe, ways=ways, cache=cache)
            compiled = compile_recipe(model, recipe, budget, look)
        except InputError as e:
            refused = e
            _log.info("%s: %s left out: %s", settings.recipe.method, kind, as_typed(f"{e}"))
            continue
        if EntryPoint.STEP not in compiled.program.entries:
            raise InputError(
                f"{option('methods')} {settings.recipe.method}: nothing learns, so there is "
                "nothing to tune; leave it away"
            )
        found[kind] = suited_rate(compiled)
    if refused and not found:
        raise refused
    return found


def _rates(
    over: Over | None, settings: Settings, suited: dict[OptimizerKind, float], start: Params
) -> Iterator[tuple[OptimizerKind, Range]]:
    """Yield the rates of each optimiser; where rates are not tuned, the one that is set."""
    for kind, rate in suited.items():
        if over is None:
            yield kind, Range(start.lr, start.lr)
        elif over.bounds:
            for bound in (over.bounds.low, over.bounds.high):
                changed(settings, {"optimizer": kind, "lr": bound})  # refuses what cannot be
            yield kind, over.bounds
        else:
            most = limits.RATE if settings.recipe.qas else limits.CODE_RATE
            most = limits.NORMED_RATE if kind.normed else most
            yield kind, Range(rounded(rate / _AROUND), rounded(min(most, rate * _AROUND)))


def _passes(over: Over | None, start: Params) -> Range | None:
    if over is None:
        return None
    if over.bounds:
        return over.bounds
    return Range(max(1, start.iterations // PASSES), min(limits.COUNT, start.iterations * PASSES))


def _warmup(over: Over | None, fewest: int) -> Range | None:
    """Return how many passes may warm up; `fewest` are the fewest passes of a trial."""
    if over is None:
        return None
    found = over.bounds or Range(0, max(0, (fewest - 1) // 2))
    if found.high >= fewest:
        raise InputError(
            f"{option('over')} warmup={found.low}:{found.high}: must be fewer than the passes, "
            f"which may be {fewest}; give {option('over')} iterations=LOW:HIGH with more"
        )
    return found


def _inside(start: Params, asked: dict[Tunable, Over]) -> Params:
    """Return where to begin, moved to the nearest bound where it is outside of them."""
    inside = start
    for what in (Tunable.LR, Tunable.ITERATIONS, Tunable.WARMUP):
        if what in asked and (bounds := asked[what].bounds):
            value = getattr(start, what)
            inside = replace(inside, **{str(what): type(value)(clipped(value, bounds))})
    return inside


def clipped(value: float, bounds: Range) -> float:
    """Return a value, or the bound that it is beyond."""
    return max(bounds.low, min(bounds.high, value))


def rounded(rate: float) -> float:
    """Return a rate to three digits: nobody can tell rates apart that are closer."""
    return float(f"{rate:.2e}") if math.isfinite(rate) else rate
