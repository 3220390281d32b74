"""Update plans from a contribution analysis: searched for, compiled, checked."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import kilograd
from kilograd.errors import InputError, option
from kilograd.frontend import Model
from kilograd.intervals import t_quantile
from kilograd.ir import Graph
from kilograd.learn.recipe import demand, linked, lowered
from kilograd.progress import Progress, silent
from kilograd.search import (
    UNLIMITED,
    Answer,
    Evolution,
    Found,
    Front,
    Genome,
    Limits,
    Problem,
    Published,
    Sampling,
    Solver,
    counted,
    exact,
    footprint,
    helpful,
    problem,
    selection,
    shrunk,
)
from kilograd.search.contribution import Contribution, read_contribution
from kilograd.search.folder import Results, SearchFolder
from kilograd.select import Budget, Demand, Evidence, Selection, published_plans
from kilograd.select.cost import Convention, Layer, layers, tte
from kilograd.select.greedy import too_small
from kilograd.select.plan_file import plan_text
from kilograd.settings import Recipe

RUNG = 16 << 10
"""Bytes of RAM from one plan of a front to the next."""

SHARE = 5
"""Per cent of a full backward pass from one plan of a front to the next."""

SHIPPED = Path(__file__).parent / "contributions"
"""The analyses that come with Kilograd, one a network."""

_TRIES = 50  # programs that are compiled until one is within its limits


class SolverName(enum.StrEnum):
    """How plans are searched for."""

    EXACT = "exact"
    EVOLUTION = "evolution"
    RANDOM = "random"

    @property
    def solver(self) -> Solver:
        """The solver."""
        solvers: dict[str, Solver] = {
            self.EXACT: exact,
            self.EVOLUTION: Evolution(),
            self.RANDOM: Sampling(),
        }
        return solvers[self]


@dataclass(frozen=True)
class Search:
    """What to search for: plans of `model` as `recipe` compiles it, its method aside.

    `pareto`: not one plan within the budget, but one for each of many smaller budgets.
    `shrink`: expect less of what was measured with noise.  `convention`: how the budget is counted.

    Raises `InputError` for a convention that does not know biases.
    """

    model: Model
    recipe: Recipe
    contribution: Contribution
    budget: Budget
    solver: SolverName = SolverName.EXACT
    seed: int = 0
    pareto: bool = False
    shrink: bool = False
    convention: Convention = Convention.KILOGRAD

    def __post_init__(self) -> None:
        """Check the convention."""
        if self.convention is Convention.TINYTRAIN:
            raise InputError(
                f"{option('convention')} {self.convention}: counts no biases, and update plans "
                f"that are searched for have some; use {Convention.TTE} or {Convention.KILOGRAD}"
            )

    def named(self) -> dict[str, object]:
        """Return what decides the result, as JSON."""
        size = self.model.preprocess.size
        gains = self.contribution.biases, sorted(self.contribution.weights.items())
        return {
            "version": kilograd.__version__,
            "network": self.model.name,
            "fingerprint": self.model.fingerprint,
            "gains": hashlib.sha256(repr(gains).encode()).hexdigest(),
            "size": None if self.contribution.size in {None, size} else size,
            "recipe": asdict(replace(self.recipe, method="", head=self.recipe.head_kind)),
            "sram": self.budget.sram,
            "compute": self.budget.compute,
            "solver": self.solver.value,
            "seed": self.seed,
            "pareto": self.pareto,
            "shrink": self.shrink,
            "convention": self.convention.value,
        }


def shipped_contribution(graph: Graph) -> Path | None:
    """Return the analysis of a network's architecture that comes with Kilograd, if there is one."""
    shipped = sorted(SHIPPED.glob("*.json"))
    return next((p for p in shipped if read_contribution(p).of(graph)), None)


def search(out: Path, asked: Search, progress: Progress = silent) -> Results:
    """Search, and write plan files and `search.json` to a folder; what it holds is not redone.

    Raises `InputError` where the folder holds something else; where nothing fits, naming the
    smallest budget that does; where nothing that fits gains anything; and without the library that
    a solver needs.
    """
    folder, model = SearchFolder(out, asked.named()), asked.model
    if folder.finished is not None:
        return folder.finished
    run = _Run(asked, progress)
    plans: list[Found] = []
    rungs = list(run.rungs())
    for i, (front, limits) in enumerate(rungs):
        progress(i, len(rungs), "")
        if known := folder.known(front, limits):
            plans.append(known)
        elif chosen := run.plan(front, limits):
            better = chosen.unless_known(plans)
            plans.append(better)
            if better is chosen.found:
                folder.add(
                    plans, plan_text(Path(better.plan), model.name, model.graph, chosen.selection)
                )
            else:
                folder.add(plans)
    if not plans:
        raise InputError(
            f"{_given(asked.budget)}: nothing that fits gains accuracy on {asked.model.name}, by "
            "its contribution analysis; give more"
        )
    return folder.finish(Results(tuple(plans), tuple(run.published() if asked.pareto else ())))


@dataclass(frozen=True)
class _Chosen:
    """A plan as it will be reported, and what it selects."""

    found: Found
    selection: Selection

    def unless_known(self, before: Sequence[Found]) -> Found:
        """Return the last plan of the same front that is as good, under these limits; else this.

        What fits less is an answer too, and a solver may be a random one.
        """
        mine = self.found
        for known in reversed(before):
            if known.front == mine.front and known.predicted_gain >= mine.predicted_gain:
                return replace(
                    known,
                    sram_limit=mine.sram_limit,
                    compute_limit=mine.compute_limit,
                    gain_bound=mine.gain_bound,
                    programs=mine.programs,
                )
        return mine


class _Run:
    """The parts, compiled once, and what is searched with them."""

    def __init__(self, asked: Search, progress: Progress) -> None:
        self.asked, self.model = asked, asked.model
        self.gains = asked.contribution
        if asked.shrink:
            self.gains = shrunk(self.gains, t_quantile(self.gains.overall.episodes - 1))
        plain = Evidence(self.model.name, self.model.graph, self.model.layers)
        options = helpful(self.gains)
        if asked.convention is Convention.TTE:
            network = layers(plain)
            self.evidence = replace(plain, cost=lambda s: _formula(network, s))
            parts = counted(plain, self.evidence.cost, options)
        else:
            self.evidence = replace(plain, cost=self.compiled)
            parts = footprint(
                plain,
                lambda s: lowered(self.model, asked.recipe, s),
                options,
                lambda done, of: progress(done, of, "compiling parts"),
            )
        self.problem = problem(self.gains, parts)

    def compiled(self, chosen: Selection) -> Demand:
        """Return what the program of a selection costs."""
        return demand(linked(self.model, self.asked.recipe, chosen))

    def rungs(self) -> Iterator[tuple[Front | None, Limits]]:
        """Yield the limits of every plan; raises `InputError` where nothing fits."""
        budget = self.asked.budget
        sram = UNLIMITED if budget.sram is None else budget.sram
        macs = UNLIMITED if budget.compute is None else budget.compute
        if not self.asked.pareto:
            yield None, Limits(sram, macs)
            return
        top = self.asked.solver.solver(self.problem.within(Limits(sram, macs)), self.asked.seed)
        if top is None:
            raise self._too_small()
        most_sram, most_macs = self.problem.cost(top.k, top.genes)
        least_sram, least_macs = self._least()
        for limit in _steps(least_sram, most_sram, RUNG, sram):
            yield Front.SRAM, Limits(limit, macs)
        share = self.evidence.full_backward() * SHARE // 100
        for limit in _steps(least_macs, most_macs, share, macs):
            yield Front.COMPUTE, Limits(sram, limit)

    def plan(self, front: Front | None, limits: Limits) -> _Chosen | None:
        """Return the best plan within limits; `None` where what fits gains nothing."""
        solver, seed = self.asked.solver.solver, self.asked.seed
        room = self.problem.within(limits)
        bound = None
        for tried in range(1, _TRIES + 1):
            answer = solver(room, seed)
            if answer is None:
                if self.asked.pareto:
                    return None
                raise self._too_small()
            if tried == 1:
                bound = self._bound(room, answer)
            if answer.gain <= 0:
                return None
            chosen = selection(self.evidence, answer.genome)
            cost = self.evidence.cost(chosen)
            if cost.sram <= limits.sram and cost.backward_macs <= limits.macs:
                if self.asked.convention is not Convention.KILOGRAD:
                    cost = self.compiled(chosen)
                return _Chosen(self._found(front, limits, answer, cost, bound, tried), chosen)
            said = self.problem.cost(answer.k, answer.genes)
            room = room.tightened(answer.k, (cost.sram - said[0], cost.backward_macs - said[1]))
        raise InputError(
            f"{option('sram')} {limits.sram}: {_TRIES} plans were predicted to fit, and none "
            "did when it was compiled; give a little more"
        )

    def published(self) -> list[Published]:
        """Return what the published plans of the network cost and should gain."""
        found = []
        layers = self.model.layers
        for label, plan in published_plans(self.model.graph).items():
            shares = dict(zip(plan.layers, plan.ratios, strict=True))
            genome = Genome(plan.k, tuple(shares.get(i, 0.0) for i in range(len(layers))))
            try:
                cost = self.compiled(selection(self.evidence, genome))
            except InputError:
                continue  # not with these options
            gain = self.gains.biases[plan.k - 1].mean
            gain += sum(self.gains.weights[layers[i], r].mean for i, r in shares.items())
            found.append(Published(f"sparse-{label}", cost.sram, cost.backward_macs, gain))
        return found

    def _found(
        self,
        front: Front | None,
        limits: Limits,
        answer: Answer,
        cost: Demand,
        bound: float | None,
        tried: int,
    ) -> Found:
        weights = zip(self.model.layers, answer.genome.shares, strict=True)
        return Found(
            plan=_name(front, limits, self.evidence.full_backward(), self.asked.convention),
            front=front,
            sram_limit=None if limits.sram == UNLIMITED else limits.sram,
            compute_limit=None if limits.macs == UNLIMITED else limits.macs,
            sram_bytes=cost.sram,
            predicted_sram_bytes=self.problem.cost(answer.k, answer.genes)[0],
            backward_macs=cost.backward_macs,
            predicted_gain=answer.gain,
            gain_bound=bound,
            k=answer.k,
            weights={layer: share for layer, share in weights if share},
            programs=tried,
        )

    def _bound(self, room: Problem, answer: Answer) -> float | None:
        """Return what no choice can exceed, if the solver or one that is installed knows."""
        if answer.bound is None and find_spec("ortools") is not None:
            best = exact(room, self.asked.seed)
            return None if best is None else best.bound
        return answer.bound

    def _least(self) -> tuple[int, int]:
        """Return the bytes and MACs that the smallest choices are predicted to need."""
        none = [0] * len(self.model.layers)
        costs = [self.problem.cost(k, none) for k in self.problem.depths()]
        return min(c[0] for c in costs), min(c[1] for c in costs)

    def _too_small(self) -> InputError:
        none = [0] * len(self.model.layers)
        costs = {k: self.problem.cost(k, none) for k in self.problem.depths()}
        compute = self.asked.budget.compute
        within = [k for k, c in costs.items() if compute is None or c[1] <= compute]
        k = (
            min(within, key=lambda k: costs[k][0])
            if within
            else min(costs, key=lambda k: costs[k][1])
        )
        smallest = selection(self.evidence, Genome(k, (0.0,) * len(none)))
        error = too_small(self.evidence, self.asked.budget, [smallest])
        if self.asked.convention is Convention.KILOGRAD:
            return error
        return InputError(f"{option('convention')} {self.asked.convention}: {error}")


def _formula(network: Sequence[Layer], chosen: Selection) -> Demand:
    cost = tte(network, chosen)
    return Demand(cost.memory.total, cost.macs.backward)


def _given(budget: Budget) -> str:
    limits = (("sram", budget.sram), ("compute", budget.compute))
    return ", ".join(f"{option(name)} {x}" for name, x in limits if x is not None) or "no budget"


def _steps(least: int, most: int, step: int, limit: int) -> list[int]:
    """Return the multiples of `step` between what is possible and what is of use, up to `limit`.

    >>> _steps(5, 32, 10, 99), _steps(5, 32, 10, 40), _steps(5, 32, 10, 25)
    ([10, 20, 30, 40], [10, 20, 30, 40], [10, 20, 25])
    """
    first, last = -(-least // step), -(-most // step)
    steps = [i * step for i in range(first, last + 1) if i * step < limit]
    return [*steps, limit] if limit <= last * step else steps


def _name(front: Front | None, limits: Limits, full: int, convention: Convention) -> str:
    """Return a file name that says what a plan may cost."""
    sram, macs = limits.sram, limits.macs
    ram = "ram" if convention is Convention.KILOGRAD else str(convention)
    ram += f"-{sram >> 10}K" if sram % 1024 == 0 else f"-{sram}"
    work = f"macs-{macs}"
    if full and macs % (step := full * SHARE // 100) == 0:
        work = f"macs-{macs // step * SHARE}pct"
    match front:
        case Front.SRAM:
            return f"{ram}.json"
        case Front.COMPUTE:
            return f"{work}.json"
        case _:
            parts = [n for n, x in ((ram, sram), (work, macs)) if x != UNLIMITED]
            return f"{'-'.join(parts)}.json"
