"""The best choice, proved: a knapsack of which only the worst moment counts, solved by CP-SAT.

One variable a depth, of which one is chosen, and one a share; the bytes at every moment are a
linear sum of them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from kilograd.errors import option
from kilograd.extras import Extra
from kilograd.search.problem import Answer, Problem

_UNITS = 1e7  # gains are whole numbers to the solver
_EFFORT = 60.0  # in units of the solver's work, not of time: the same answer on every machine


def exact(problem: Problem, seed: int = 0) -> Answer | None:
    """Return the choice with the largest sum of gains, and the proof that none has more.

    Raises `InputError` where OR-Tools is not installed.
    """
    Extra.EXACT.need(f"{option('solver')} exact")
    from ortools.sat.python import cp_model

    f, (count, _) = problem.footprint, problem.weights.shape
    model = cp_model.CpModel()
    depth: dict[int, Any] = {k: model.new_bool_var(f"k{k}") for k in problem.depths()}
    model.add_exactly_one(depth.values())
    share: dict[tuple[int, int, int], Any] = {}
    for first, i in itertools.product((0, 1), range(count)):
        mine = {(first, i, s): model.new_bool_var("") for s in _options(problem, first, i)}
        enough = [v for k, v in depth.items() if (k == count - i if first else k > count - i)]
        model.add(sum(mine.values()) <= sum(enough))
        share |= mine
    # Bytes at each moment and, last, MACs: what each variable needs of the room of its depth.
    needs = {k: np.append(f.base[k], f.base_macs[k]) - _rooms(problem, k) for k in depth}
    more = {w: np.append(f.more[w], f.more_macs[w]) for w in share}
    worst = np.max(list(needs.values()), axis=0) + sum(
        np.max([more[w] for w in share if w[1] == i], axis=0, initial=0) for i in range(count)
    )
    for rows in np.flatnonzero(worst > 0):
        terms = [int(n[rows]) * depth[k] for k, n in needs.items()]
        terms += [int(m[rows]) * share[w] for w, m in more.items() if m[rows]]
        model.add(sum(terms) <= 0)
    gains = [_units(problem.biases[k]) * v for k, v in depth.items()]
    gains += [_units(problem.weights[i, s]) * v for (_, i, s), v in share.items()]
    model.maximize(sum(gains))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = _EFFORT
    status = solver.solve(model)
    if status not in {cp_model.OPTIMAL, cp_model.FEASIBLE}:
        return None
    k = next(k for k, v in depth.items() if solver.value(v))
    genes = [0] * count
    for (_, i, s), v in share.items():
        if solver.value(v):
            genes[i] = s
    gain = float(problem.gain(np.array([k]), np.array([genes]))[0])
    bound = gain if status == cp_model.OPTIMAL else solver.best_objective_bound / _UNITS
    return Answer(k, tuple(genes), gain, max(bound, gain))


def _options(problem: Problem, first: int, layer: int) -> list[int]:
    """Return the shares of a layer that may learn where it is, or is not, the earliest."""
    return [s for s in problem.options(layer) if problem.footprint.able[first, layer, s]]


def _rooms(problem: Problem, k: int) -> Any:  # noqa: ANN401 an array
    sram, macs = problem.room[k]
    return np.append(np.full(problem.footprint.base.shape[1], sram), macs)


def _units(gain: float) -> int:
    return round(float(gain) * _UNITS)
