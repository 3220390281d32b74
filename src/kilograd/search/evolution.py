"""Evolution (pymoo): the best quarter has offspring, by crossing and by mutation.

How far off: with MCUNet's gains and 128 KiB, 5,000 samples reach 17.5 of the 18.9 points that
`exact` proves best, with 192 KiB 51.4 of 51.8 (docs/results/studies/search.md).  `exact` is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kilograd.errors import option
from kilograd.extras import Extra
from kilograd.ir import Array
from kilograd.search.problem import Answer, Problem
from kilograd.search.sampling import SAMPLES, draw, finished, fit

_INFEASIBLE = 1e9


@dataclass(frozen=True)
class Evolution:
    """A genetic algorithm with the figures of Once-for-All's, which the 256 KB paper comes from.

    Of the offspring a half is crossed, gene by gene, and a half has each gene drawn anew with
    probability `mutation`.  What does not fit is made to, as in `Sampling`.
    """

    samples: int = SAMPLES
    population: int = 100
    parents: float = 0.25
    mutation: float = 0.1

    def __call__(self, problem: Problem, seed: int = 0) -> Answer | None:
        """Search.  Raises `InputError` where pymoo is not installed."""
        Extra.SEARCH.need(f"{option('solver')} evolution")
        from pymoo.algorithms.soo.nonconvex.ga import GA
        from pymoo.core import mutation, repair, selection
        from pymoo.core import problem as objective
        from pymoo.operators.crossover.ux import UniformCrossover
        from pymoo.optimize import minimize

        rng = np.random.default_rng(seed)
        elite = max(2, int(self.parents * self.population))
        record = _Record(problem)

        class Best(selection.Selection):  # type: ignore[misc]
            def _do(
                self, _: object, pop: Sequence[object], pairs: int, parents: int, **__: object
            ) -> Array:
                most = min(elite, len(pop))  # survivors are sorted
                return rng.integers(most, size=(pairs, parents))

        class Redraw(mutation.Mutation):  # type: ignore[misc]
            def _do(inner, _: object, x: Array, **__: object) -> Array:  # noqa: N805
                anew = _rows(*draw(problem, len(x), rng))
                return np.where(rng.random(x.shape) < self.mutation, anew, x)

        class Fit(repair.Repair):  # type: ignore[misc]
            def _do(self, _: object, x: Array, **__: object) -> Array:
                k, genes = _parts(x)
                fit(problem, k, genes, rng)
                return _rows(k, genes)

        class Gain(objective.Problem):  # type: ignore[misc]
            def _evaluate(self, x: Array, out: dict[str, Array], *_: object, **__: object) -> None:
                out["F"] = -record.gains(*_parts(x))

        count = len(problem.weights)
        algorithm: Any = GA(
            self.population,
            sampling=_rows(*draw(problem, self.population, rng)),
            selection=Best(),
            crossover=UniformCrossover(prob=0.5),
            mutation=Redraw(prob=0.5),
            repair=Fit(),
        )
        goal = Gain(n_var=1 + count, n_obj=1, xl=0, xu=count, vtype=int)
        minimize(goal, algorithm, ("n_eval", self.samples), seed=seed)
        return record.best and finished(record.best, np.concatenate(record.course))


class _Record:
    """Looks at samples, and remembers the best."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.best: Answer | None = None
        self.course: list[Array] = []

    def gains(self, k: Array, genes: Array) -> Array:
        """Return the gains of choices, very low where they do not fit."""
        fits = self.problem.fits(k, genes)
        gains = np.where(fits, self.problem.gain(k, genes), -_INFEASIBLE)
        self.course.append(np.where(fits, gains, -np.inf))
        at = int(np.argmax(gains))
        if fits[at] and (self.best is None or gains[at] > self.best.gain):
            self.best = Answer(int(k[at]), tuple(genes[at].tolist()), float(gains[at]))
        return gains


def _rows(k: Array, genes: Array) -> Array:
    return np.concatenate([k[:, None], genes], axis=1)


def _parts(rows: Array) -> tuple[Array, Array]:
    return rows[:, 0].astype(int), rows[:, 1:].astype(int)
