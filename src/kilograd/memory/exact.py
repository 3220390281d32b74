"""Optimal placement: rectangles of time and address that must not overlap, solved by CP-SAT.

Effort is counted in the solver's own work, not in seconds, and one worker searches: the same
problem has the same plan on every machine.

How far off: all 18 training steps of the three published networks are proved optimal, in 5 s at
most (docs/results/studies/planning.md).  Where the effort ends first, `bound` says what is proved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kilograd.errors import option
from kilograd.extras import Extra
from kilograd.memory.buffer import ALIGN, Buffer, Bytes, Plan
from kilograd.memory.greedy import greedy

# In units of the solver's work, very roughly a minute each. A search for a place for everything
# either succeeds soon or hardly ever: better to start anew, with a little more patience.
_PLACE = (0.01, 0.01, 0.02, 0.02, 0.04, 0.04, 0.08)
_MINIMISE = 0.5


def exact(buffers: Sequence[Buffer]) -> Plan:
    """Return an optimal plan, or the best found and a bound, where the effort does not suffice.

    Starts from the greedy plan.  If that does not meet its bound, the first question is whether
    everything fits into exactly as many bytes as the bound; if not, the peak is minimised.

    Raises `InputError` where OR-Tools is not installed.
    """
    Extra.EXACT.need(option("exact"))
    best = greedy(buffers)
    for seed, effort in enumerate(_PLACE):
        bound = best.bound
        if best.peak == bound:
            return best
        best = _solve(buffers, best, bound, effort, seed)
        if best.bound > bound:  # so much is proved not to suffice
            break
    if best.peak == best.bound:
        return best
    return _solve(buffers, best, best.peak - ALIGN, _MINIMISE)


def _solve(
    buffers: Sequence[Buffer], start: Plan, limit: Bytes, effort: float, seed: int = 0
) -> Plan:
    """Return a plan of at most `limit` bytes, or `start`, with the best bound that is known.

    A limit at the bound of `start` is a question of yes or no; above it, the peak is minimised.
    """
    from ortools.sat.python import cp_model

    low, high = start.bound // ALIGN, limit // ALIGN
    if low > high:
        return Plan(start.offsets, start.peak, start.peak)
    model = cp_model.CpModel()
    peak: Any = model.new_int_var(low, high, "peak")
    at, lives, places = {}, [], []
    for b in sorted((b for b in buffers if b.size), key=lambda b: (b.first, b.last, b.name)):
        words = b.room // ALIGN
        at[b.name] = model.new_int_var(0, high - words, b.name)
        model.add(at[b.name] + words <= peak)
        lives.append(model.new_fixed_size_interval_var(b.first, b.last - b.first, ""))
        places.append(model.new_fixed_size_interval_var(at[b.name], words, ""))
    model.add_no_overlap_2d(lives, places)
    if low < high:
        model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = effort
    match solver.solve(model):
        case cp_model.OPTIMAL | cp_model.FEASIBLE:
            offsets = {b.name: 0 for b in buffers}
            offsets |= {name: solver.value(v) * ALIGN for name, v in at.items()}
            proved = low if low == high else math.ceil(solver.best_objective_bound - 1e-6)
            return Plan(offsets, solver.value(peak) * ALIGN, proved * ALIGN)
        case cp_model.INFEASIBLE:  # no plan between the bound and the limit
            return Plan(start.offsets, start.peak, limit + ALIGN)
        case _:
            return start
