"""How good the memory plans are: the tables of docs/results/studies/planning.md.

    python benchmarks/planning.py

Needs the model folders: KILOGRAD_SHARED, by default ../shared; and pip install ortools.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rows import head, line
from script import script
from shared import compiled

from kilograd.memory import Buffer, Plan, Planner, exact, greedy, lower_bound, place
from kilograd.select import PLANS
from kilograd.settings import HeadKind


def first_fit(buffers: Sequence[Buffer], key: Callable[[Buffer], tuple[int, ...]]) -> Plan:
    """Place each buffer, in one fixed order, at the lowest offset free for its whole life."""
    placed: list[tuple[int, Buffer]] = []
    for b in sorted(buffers, key=key):
        meanwhile = [(at, other) for at, other in placed if other.meets(b)]
        ends = sorted({0, *(at + other.room for at, other in meanwhile)})
        start = next(
            e for e in ends if all(e + b.room <= at or at + o.room <= e for at, o in meanwhile)
        )
        placed.append((start, b))
    return Plan({b.name: at for at, b in placed}, max(at + b.room for at, b in placed))


def by_size(buffers: Sequence[Buffer]) -> Plan:
    """Largest first, as TensorFlow Lite for Microcontrollers plans its arena."""
    return first_fit(buffers, lambda b: (-b.room, b.first))


def in_time_order(buffers: Sequence[Buffer]) -> Plan:
    """As they are needed, as an allocator at run time would."""
    return first_fit(buffers, lambda b: (b.first, -b.room))


def timed(planner: Planner, buffers: Sequence[Buffer]) -> tuple[Plan, float]:
    start = time.perf_counter()
    return place(buffers, planner), time.perf_counter() - start


def main() -> None:
    columns = ("network", "method", "buffers", "lower bound", "in time order", "by size")
    print(head(*columns, "greedy", "s", "exact", "s", texts=2))
    proved = {greedy: 0, exact: 0}
    methods = [
        (model, method)
        for model, plans in PLANS.items()
        for method in (*(f"sparse-{label}" for label in plans), "full")
    ]
    for model, method in methods:
        program = compiled(model, method, HeadKind.LINEAR).program
        largest = max(program.entries.values(), key=lambda e: e.plan.peak)
        buffers = largest.storage.buffers
        bound = lower_bound(buffers)
        cells = [f"{bound:,}"]
        for baseline in (in_time_order, by_size):
            plan, _ = timed(baseline, buffers)
            cells.append(f"+{plan.peak - bound:,}")
        for planner in proved:
            plan, seconds = timed(planner, buffers)
            optimal = plan.peak == plan.bound
            proved[planner] += optimal
            cells += ["optimal" if optimal else f"+{plan.peak - bound:,}", f"{seconds:.1f}"]
        print(line(model, method, len(buffers), *cells), flush=True)
    print()
    for planner, count in proved.items():
        print(f"{planner.__name__}: {count} of {len(methods)} proved optimal")


if __name__ == "__main__":
    script(main)
