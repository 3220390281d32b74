"""What a search promises and what its plans bring: the tables of docs/results/studies/search.md.

    python benchmarks/found_plans.py draw CONTRIBUTION.json MODEL PLANS --sram 128K --count 12
    python benchmarks/found_plans.py once CONTRIBUTION.json ONCE.json
    python benchmarks/found_plans.py table CONTRIBUTION.json MODEL RESULTS.csv ... | \
        python benchmarks/fill.py docs/results/studies/search.md

`draw` writes random plans that fit, whatever they promise.  `once` takes off every gain what
learning in any layer brings on average, so that a sum does not count it again and again.
RESULTS.csv are rows of `kilograd evaluate` (kept by `equal_footing.py keep`), made in the folder
in which plans are named as their methods say; the first has the method `none`.  Plans are compiled
for five classes, `rowrms` and an image that comes row by row.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kilograd.cli import Options
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
from kilograd.study.contribution import write_contribution

RECIPE = Recipe("search", 5, optimizer=OptimizerKind.ROWRMS, rows=True)
#: Share of RAM by which plans may differ that are compared.
ALIKE = 0.06
app = typer.Typer(add_completion=False)


@app.command()
def draw(contribution: Path, model: str, out: Path, sram: str = "128K", count: int = 12) -> None:
    """Write random plans that are predicted to fit."""
    network, gains = load_model(model), read_contribution(contribution)
    evidence = Evidence(network.name, network.graph, network.layers)
    parts = footprint(evidence, lambda s: lowered(network, RECIPE, s), helpful(gains))
    room = problem(gains, parts).within(Limits(Options(model, sram=sram).budget.sram or 0))
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        if answer := Sampling(1)(room, seed):
            write_plan(
                out / f"random-{seed}.json", network.name, selection(evidence, answer.genome)
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
    after: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    bytes_of: dict[str, int] = defaultdict(int)
    for path in results:
        with path.open(newline="", encoding="utf-8") as f:
            for r in csv.DictReader(f):
                name = r["method"] + (f" {path.stem}" if path != results[0] else "")
                after[name][r["data"], r["episode"]] = 100 * float(r["accuracy_after"])
                bytes_of[name] = max(bytes_of[name], int(r["sram_bytes"]))
    base = after["none"]
    promises = {name: promise(name, evidence, gains) for name in after}
    sets = list(dict.fromkeys(data for data, _ in base))
    print(f"| plan | RAM, B | promised | episodes | {' | '.join(sets)} | gain |")
    print("|---|---:|---:|---:" + "|---:" * (len(sets) + 1) + "|")
    pairs: list[tuple[float, float]] = []
    for name in sorted(after, key=bytes_of.__getitem__):
        if name.startswith("none"):
            continue
        gain = {key: x - base[key] for key, x in after[name].items() if key in base}
        each = [f"{np.mean([x for (d, _), x in gain.items() if d == data]):+.1f}" for data in sets]
        all_ = interval(list(gain.values()))
        known = promises[name]
        if known is not None and not name.startswith("once-"):
            pairs.append((known, all_.mean))
        print(
            f"| `{name}` | {bytes_of[name]:,} | {'' if known is None else f'{known:+.1f}'} | "
            f"{len(gain)} | {' | '.join(each)} | {all_.mean:+.1f} ± {all_.half:.1f} |"
        )
    print("\n| compared | RAM, B | difference |\n|---|---:|---:|")
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for a, b in product(sorted(after, key=bytes_of.__getitem__), repeat=2):
        same = abs(bytes_of[a] - bytes_of[b]) < ALIKE * bytes_of[a]
        if a.startswith("sparse-") and same and not b.startswith(("sparse-", "random-")):
            both = {key: x - after[a][key] for key, x in after[b].items() if key in after[a]}
            if b.startswith("ram-"):
                for key, x in both.items():
                    found[key].append(x)
            d = interval(list(both.values()))
            print(f"| `{b}` less `{a}` | {bytes_of[b]:,} | {d.mean:+.1f} ± {d.half:.1f} |")
    d = interval([float(np.mean(each)) for each in found.values()])
    print(f"| all `ram-BYTES` less these, mean of each task | | {d.mean:+.1f} ± {d.half:.1f} |")
    said, brought = np.array(pairs).T
    linear = np.corrcoef(said, brought)[0, 1]
    ranked = np.corrcoef(np.argsort(np.argsort(said)), np.argsort(np.argsort(brought)))[0, 1]
    print("\n| plans | correlation | of ranks |\n|---:|---:|---:|")
    print(f"| {len(pairs)} | {linear:.2f} | {ranked:.2f} |")


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
    app()
