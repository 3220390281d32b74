"""The tables of `ladder.py`: what each rung reaches, what each step costs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ladder_network import RUNGS, Rung
from rows import grouped, head, line, paired, shown

from kilograd.intervals import interval

NETWORK = "mcunet-5fps"
PUBLISHED = "sparse-49kb"


LEARNING = ("last", "static", "tinytrain")
METHODS = ("none", *LEARNING)
CHAIN = RUNGS[:-1]
STEPS = (
    *((b, a) for a, b in itertools.pairwise(CHAIN)),
    (Rung.AGAIN, Rung.DEVICE),
    (Rung.DEVICE, Rung.FLOAT),
)


@dataclass(frozen=True)
class Row:
    """One episode learned on one rung; `seconds` of one core, for learning alone."""

    data: str
    episode: int
    method: str
    rung: str
    accuracy: float
    seconds: float
    model: str = NETWORK


Results = Mapping[tuple[str, str, str, int], float]
"""Accuracy in per cent by method, rung, data set and episode."""


def results(rows: Sequence[Row]) -> Results:
    """Return all there is; without learning all rungs with an int8 forward pass are one."""
    found = {(r.method, r.rung, r.data, r.episode): 100 * r.accuracy for r in rows}
    for (method, rung, *rest), value in list(found.items()):
        if method == "none" and rung == Rung.INTEGER:
            found.update({(method, other.value, *rest): value for other in CHAIN[3:]})
    return found


def differences(
    found: Results, methods: Sequence[str], rung: Rung, less: Rung
) -> dict[str, list[float]]:
    """Return rung less another for each episode of each data set.

    It is the mean over the methods, of which each must have both.
    """
    by_data: dict[str, list[float]] = defaultdict(list)
    for data, n in dict.fromkeys((data, n) for _, _, data, n in found):
        pairs = [[found.get((m, r.value, data, n)) for r in (rung, less)] for m in methods]
        own = [a - b for a, b in pairs if a is not None and b is not None]
        if len(own) == len(methods):
            by_data[data].append(float(np.mean(own)))
    return by_data


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what each rung reaches, what each step costs, and both by method."""
    found, sets = results(rows), list(dict.fromkeys(r.data for r in rows))
    yield head("method", "rung", "episodes", *sets, "all", texts=2)
    tried = sorted({(d, n) for m, _, d, n in found if m != "none"})
    whole = [k for k in tried if all((m, r.value, *k) in found for m in METHODS for r in CHAIN)]
    for method in METHODS:
        for rung in CHAIN if method != "none" else CHAIN[:3]:
            own = {x: [found[method, rung.value, d, n] for d, n in whole if d == x] for x in sets}
            yield line(f"`{method}`", rung, *_means(own, sets))
    yield ""
    yield head("step", "methods", "episodes", *sets, "all", "sets count once", texts=2)
    for rung, less in STEPS:
        untaught = [("none",)] if less in CHAIN[:2] else []
        for methods in (LEARNING, *((m,) for m in LEARNING), *untaught):
            if own := differences(found, methods, rung, less):
                names = "all three" if methods == LEARNING else f"`{methods[0]}`"
                once = shown(interval([float(np.mean(x)) for x in own.values()]), "+z")
                yield line(f"{rung} less {less}", names, *_means(own, sets, "+"), once)


def _means(by_data: Mapping[str, list[float]], sets: Sequence[str], sign: str = "") -> list[str]:
    each = [x for own in by_data.values() for x in own]
    means = (f"{np.mean(by_data[x]):{sign}z.1f}" if x in by_data else "" for x in sets)
    return [str(len(each)), *means, shown(interval(each), f"{sign}z")]


def networks(rows: Sequence[Row]) -> Iterator[str]:
    """Yield float32 and the device's program side by side, for each network and method."""
    yield head("network", "method", "episodes", "float32", "int8", "int8 less float32", texts=2)
    for (model, method), own in grouped(rows, lambda r: (r.model, r.method)).items():
        # Nothing is rounded stochastically where nothing learns: the forward pass says it all.
        device = Rung.INTEGER if method == "none" else Rung.DEVICE
        ends = [
            {(r.data, r.episode): 100 * r.accuracy for r in own if r.rung == rung}
            for rung in (Rung.FLOAT, device)
        ]
        both = [key for key in ends[0] if key in ends[1]]
        if both:
            means = (shown(interval([end[key] for key in both])) for end in ends)
            less = shown(interval(paired(ends[1], ends[0])), "+z")
            yield line(model, f"`{method}`", len(both), *means, less)
