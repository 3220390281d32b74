"""What a search promises and what its plans bring: the tables of docs/results/studies/search.md.

    python benchmarks/found_plans.py draw CONTRIBUTION.json MODEL PLANS --sram 128K --count 12
    python benchmarks/found_plans.py once CONTRIBUTION.json ONCE.json
    python benchmarks/found_plans.py table CONTRIBUTION.json MODEL RESULTS.csv ... | \
        python benchmarks/fill.py docs/results/studies/search.md
    python benchmarks/found_plans.py against PLANS.csv RESULTS.csv none,sparse-99kb@0.001

`draw` writes random plans that fit, whatever they promise.  `once` takes off every gain what
learning in any layer brings on average, so that a sum does not count it again and again.
RESULTS.csv are rows of `kilograd evaluate` (kept by `rows.py keep`), made in the folder
in which plans are named as their methods say; the first has the method `none`.  Plans are compiled
for five classes, `rowrms` and an image that comes row by row.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rows import after, grouped, head, line, paired, percent, read, shown
from script import script

from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.intervals import interval
from kilograd.ir import Role
from kilograd.learn.recipe import lowered
from kilograd.search import (
    Contribution,
    Limits,
    Sampling,
    footprint,
    helpful,
    problem,
    read_contribution,
    selection,
)
from kilograd.select import Budget, Evidence, strategy, write_plan
from kilograd.settings import OptimizerKind, Recipe
from kilograd.sizes import bytes_of
from kilograd.study.contribution import write_contribution

RECIPE = Recipe("search", 5, optimizer=OptimizerKind.ROWRMS, rows=True)
#: Share of RAM by which plans may differ that are compared.
ALIKE = 0.06
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Reached:
    """The most bytes of a method, and its accuracy in per cent by data set and episode."""

    sram: int
    accuracy: Mapping[tuple[str, int], float]


@app.command()
def draw(contribution: Path, model: str, out: Path, sram: str = "128K", count: int = 12) -> None:
    """Write random plans that are predicted to fit."""
    network, gains = load_model(model), read_contribution(contribution)
    evidence = Evidence(network.name, network.graph, network.layers)
    parts = footprint(evidence, lambda s: lowered(network, RECIPE, s), helpful(gains))
    room = problem(gains, parts).within(Limits(sram=bytes_of(sram, "sram")))
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        if answer := Sampling(1)(room, seed):
            write_plan(
                out / f"random-{seed}.json",
                network.name,
                network.graph,
                selection(evidence, answer.genome),
            )


@app.command()
def once(contribution: Path, out: Path) -> None:
    """Write an analysis in which gains of weights are those beyond the mean of all of them."""
    found = read_contribution(contribution)
    mean = float(np.mean([g.mean for g in found.weights.values()]))
    weights = {key: replace(g, mean=g.mean - mean) for key, g in found.weights.items()}
    write_contribution(out, replace(found, overall=replace(found.overall, weights=weights)))


@app.command()
def table(contribution: Path, model: str, results: Annotated[list[Path], typer.Argument()]) -> None:
    """Print what was promised and measured, plan by plan, and how well one tells the other."""
    network, gains = load_model(model), read_contribution(contribution)
    evidence = Evidence(network.name, network.graph, network.layers)
    reached: dict[str, Reached] = {}
    for path in results:
        where = "" if path == results[0] else f" {path.stem}"
        for method, own in grouped(read(path), lambda r: r.method).items():
            found = {key: 100 * x for key, x in after(own).items()}
            reached[method + where] = Reached(max(r.sram_bytes for r in own), found)
    reached = dict(sorted(reached.items(), key=lambda x: x[1].sram))
    promises = {name: promise(name, evidence, gains) for name in reached}
    if away := [x for x in promises if ".json" in x and promises[x] is None]:
        few = ", ".join(away[:3])
        print(f"{len(away)} plans are not in this folder, as {few}: not promised", file=sys.stderr)
    print("\n".join([*gained(reached, promises), "", *compared(reached)]))
    brought = {
        name: interval(paired(x.accuracy, reached["none"].accuracy)).mean
        for name, x in reached.items()
    }
    known = [
        (said, brought[name])
        for name, said in promises.items()
        if said is not None and not name.startswith(("none", "once-"))
    ]
    if not known:
        return
    ours, theirs = np.array(known).T
    linear = np.corrcoef(ours, theirs)[0, 1]
    ranked = np.corrcoef(np.argsort(np.argsort(ours)), np.argsort(np.argsort(theirs)))[0, 1]
    print(f"\n{head('plans', 'correlation', 'of ranks', texts=0)}")
    print(line(len(known), f"{linear:.2f}", f"{ranked:.2f}"))


@app.command()
def against(plans: Path, results: Path, methods: str) -> None:
    """Print what plans bring more than methods of other rows, on the tasks that both have."""
    others = grouped(read(results), lambda r: r.method)
    print(head("plan", "RAM, B", "less", "RAM of that, B", "tasks", "difference", texts=1))
    for plan, rows in grouped(read(plans), lambda r: r.method).items():
        for method in methods.split(","):
            theirs = others[method]
            differences = paired(after(rows), after(theirs))
            sizes = (max(r.sram_bytes for r in x) for x in (rows, theirs))
            mine, other = (f"{size:,}" for size in sizes)
            said = shown(percent(differences), "+")
            print(line(f"`{plan}`", mine, f"`{method}`", other, len(differences), said))


def gained(reached: dict[str, Reached], promises: dict[str, float | None]) -> Iterator[str]:
    """Yield what each plan promised, and its gain over no training."""
    base = reached["none"].accuracy
    sets = list(dict.fromkeys(data for data, _ in base))
    yield head("plan", "RAM, B", "promised", "episodes", *sets, "gain", texts=1)
    for name, found in reached.items():
        if name.startswith("none"):
            continue
        gain = {key: x - base[key] for key, x in found.accuracy.items() if key in base}
        each = [np.mean([x for (d, _), x in gain.items() if d == data]) for data in sets]
        said = "" if promises[name] is None else f"{promises[name]:+.1f}"
        cells = (f"{x:+.1f}" for x in each)
        all_ = shown(interval(list(gain.values())), "+")
        yield line(f"`{name}`", f"{found.sram:,}", said, len(gain), *cells, all_)


def compared(reached: dict[str, Reached]) -> Iterator[str]:
    """Yield found plans less the published ones of about the same RAM."""
    yield head("compared", "RAM, B", "difference", texts=1)
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (a, published), (b, other) in product(reached.items(), repeat=2):
        same = abs(published.sram - other.sram) < ALIKE * published.sram
        if not (a.startswith("sparse-") and same) or b.startswith(("sparse-", "random-")):
            continue
        less = shown(interval(paired(other.accuracy, published.accuracy)), "+")
        yield line(f"`{b}` less `{a}`", f"{other.sram:,}", less)
        for key, x in other.accuracy.items():
            if b.startswith("ram-") and key in published.accuracy:
                found[key].append(x - published.accuracy[key])
    of = interval([float(np.mean(each)) for each in found.values()])
    yield f"| all `ram-BYTES` less these, mean of each task | | {shown(of, '+')} |"


def promise(method: str, evidence: Evidence, gains: Contribution) -> float | None:
    """Return the sum of the contributions of a plan, in points; `None` for what is no plan."""
    name = method.split(maxsplit=1)[0].partition("@")[0]
    try:
        chosen = strategy(name)(evidence, Budget())
    except InputError:
        return None
    k = sum(parameter.role is Role.BIAS for parameter in chosen.learn)
    total = gains.biases[k - 1].mean if k else 0.0
    for parameter, part in chosen.learn.items():
        if parameter.role is Role.BIAS:
            continue
        layer = parameter.layer
        channels = evidence.weights(layer).shape[-1]
        share = 1.0 if part.index is None else len(part.index) / channels
        known = min(gains.weights, key=lambda x: (x[0] != layer, abs(x[1] - share)))
        total += gains.weights[known].mean
    return 100 * total


if __name__ == "__main__":
    script(app)
