"""What each layer brings: the tables of docs/results/studies/contribution.md.

Gains are in points of accuracy.

    python benchmarks/contribution.py CONTRIBUTION.json ... | \
        python benchmarks/fill.py docs/results/studies/contribution.md
    python benchmarks/contribution.py efforts CONTRIBUTION.json ...

`efforts` adds to analyses of earlier versions what each choice of weights updates and computes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from rows import head, line
from script import script
from shared import load_network

from kilograd.intervals import t_quantile
from kilograd.ir import Array
from kilograd.learn.recipe import compile_recipe
from kilograd.search import (
    SHARES,
    Contribution,
    Effort,
    Gain,
    read_contribution,
    shrunk,
)
from kilograd.select import Budget, Evidence, strategy
from kilograd.select.cost import layers, tte
from kilograd.settings import OptimizerKind, Recipe
from kilograd.study.contribution import write_contribution

#: MCUNet, all input channels, points on Cars: read off the curve published with tiny-training.
LAYERS = (12, 15, 18, 20, *range(21, 29), *range(30, 42))
PUBLISHED = (
    *(2.0, 3.1, 4.1, 1.8, 5.5, -1.1, 3.6, 6.5, -0.3, 2.5, 8.4, -0.4),
    *(9.3, -0.3, 3.0, 8.0, 0.0, 3.3, 8.8, -0.2, 0.9, 13.7, -0.3, 0.0),
)
DEPTHS = (1, 3, 6, 9, 12, 15, 18, 21, 24, 30, 36)
ROLES = (("first 1x1", ".pw1"), ("depthwise", ".dw"), ("second 1x1", ".pw2"))


def shown(gain: Gain) -> str:
    """Return a gain in points."""
    return f"{100 * gain.mean:+.1f} ± {100 * gain.half_width:.1f}"


def biases(found: list[Contribution]) -> None:
    """Print gains of the biases of the last k layers."""
    print(head("biases of the last", *(c.network for c in found), texts=0))
    for k in DEPTHS:
        print(line(k, *(shown(c.biases[k - 1]) for c in found)))
    print(f"{line('all', *(shown(c.biases[-1]) for c in found))}\n")


def roles(found: list[Contribution]) -> None:
    """Print mean gains by what a layer is in its block, early and late."""
    print(head("network", "layers", "weights of", *(f"{s:g}" for s in SHARES), texts=3))
    for c in found:
        half = len(c.layers) // 2
        for part, own in (("first half", c.layers[:half]), ("second half", c.layers[half:])):
            for role, suffix in ROLES:
                cells = []
                for share in SHARES:
                    some = [
                        g.mean
                        for (layer, s), g in c.weights.items()
                        if s == share and layer in own and layer.endswith(suffix)
                    ]
                    cells.append(f"{100 * np.mean(some):+.1f}" if some else "")
                print(line(c.network, part, role, *cells))
    print()


def best(found: list[Contribution], count: int = 8) -> None:
    """Print the layers that bring most with all their channels."""
    print(f"| rank | {' | '.join(c.network for c in found)} |")
    print("|---:" + "|---" * len(found) + "|")
    columns = []
    for c in found:
        whole = [(g, layer) for (layer, s), g in c.weights.items() if s == 1]
        ranked = sorted(whole, key=lambda x: -x[0].mean)[:count]
        columns.append([f"{c.layers.index(x)} `{x}` {shown(g)}" for g, x in ranked])
    for i, cells in enumerate(zip(*columns, strict=True)):
        print(line(i + 1, *cells))
    print()


def by_block(found: list[Contribution]) -> None:
    """Print which layer of a block gains most, at all and for its cost: TinyTrain's figure 3."""
    said = "points", "per thousand parameters", "per million MACs", "per million of its own MACs"
    print(head("network", "share", "blocks", *said, texts=1))
    for c in found:
        model = load_network(c.network)
        evidence = Evidence(model.name, model.graph, model.layers)
        for share in SHARES:
            blocks = _blocks(c, share)
            gains = np.array([[c.weights[x, share].mean for x in block] for block in blocks])
            spent = [[c.efforts[x, share] for x in block] for block in blocks]
            costs = (
                np.ones_like(gains),
                np.array([[e.parameters / 1e3 for e in block] for block in spent]),
                np.array([[e.macs / 1e6 for e in block] for block in spent]),
                np.array([[share * evidence.macs(x) / 1e6 for x in block] for block in blocks]),
            )
            cells = (_by_role(100 * gains / cost) for cost in costs)
            print(line(c.network, Fraction(share), len(blocks), *cells))
    print()


def _by_role(gains: Array) -> str:
    """Return the means of each place in a block, and in how many blocks it is the best."""
    wins = np.bincount(gains.argmax(axis=1), minlength=len(ROLES))
    means = " / ".join(f"{m:.2g}" for m in gains.mean(axis=0))
    return f"{means} ({', '.join(map(str, wins))})"


def _blocks(c: Contribution, share: float) -> list[list[str]]:
    """Return the layers of each block that has all three, each with channels enough."""
    names = dict.fromkeys(x.rpartition(".")[0] for x in c.layers if x.endswith(ROLES[0][1]))
    blocks = [[f"{name}{suffix}" for _, suffix in ROLES] for name in names]
    return [b for b in blocks if all((x, share) in c.weights for x in b)]


def efforts(path: Path) -> None:
    """Add to a file what each choice of weights updates, and computes beyond inference.

    A program's backward pass takes what the formulas say and, for prototypes, the same for every
    choice: compiled for the first and the last one, which must agree.
    """
    found = read_contribution(path)
    model = load_network(found.network)
    evidence = Evidence(model.name, model.graph, model.layers)
    network = layers(evidence)
    ways = int(found.settings.get("--ways") or 10)
    recipe = Recipe("search", ways, optimizer=OptimizerKind.ROWRMS)
    known, head_macs = {}, set()
    for i, (layer, share) in enumerate(found.weights):
        method = f"weights:{model.layers.index(layer)}:{share:g}"
        chosen = strategy(method)(evidence, Budget())
        cost = tte(network, chosen)
        known[layer, share] = cost.memory.weights, cost.macs.backward
        if i in {0, len(found.weights) - 1}:
            made = compile_recipe(model, replace(recipe, method=method), Budget())
            assert made.learned_parameters == cost.memory.weights
            head_macs.add(made.backward_macs - cost.macs.backward)
    (more,) = head_macs
    spent = {choice: Effort(weights, macs + more) for choice, (weights, macs) in known.items()}
    write_contribution(path, replace(found, efforts=spent))


def noise(found: list[Contribution]) -> None:
    """Print how far apart gains of weights are, and how sure."""
    said = "mean gain", "spread", "standard error", "kept by --shrink"
    print(line("network", "choices of weights", *said))
    print("|---|---:|---:|---:|---:|---|")
    for c in found:
        quantile = t_quantile(c.overall.episodes - 1)
        gains = 100 * np.array([g.mean for g in c.weights.values()])
        errors = 100 * np.array([g.half_width for g in c.weights.values()]) / quantile
        less = shrunk(c, quantile).weights
        kept = [less[key].mean / g.mean for key, g in c.weights.items() if g.mean]
        low, middle, high = np.quantile(kept, (0.1, 0.5, 0.9))
        spread = f"{gains.mean():+.1f}", f"{gains.std():.1f}", f"{errors.mean():.1f}"
        print(line(c.network, len(gains), *spread, f"{middle:.2f} ({low:.2f} to {high:.2f})"))
    print()


def ranks(values: Sequence[float]) -> Array:
    """Return ranks; equal values share theirs."""
    x = np.array(values)
    return (x[:, None] > x).sum(1) + (x[:, None] == x).sum(1) / 2


def published(c: Contribution) -> None:
    """Print how well the published curve tells ours."""
    ours = [100 * c.weights[c.layers[i], 1.0].mean for i in LAYERS]
    linear = np.corrcoef(ours, PUBLISHED)[0, 1]
    ranked = np.corrcoef(ranks(ours), ranks(PUBLISHED))[0, 1]
    print("| layers of the published curve | correlation | of ranks |\n|---:|---:|---:|")
    print(f"| {len(ours)} | {linear:.2f} | {ranked:.2f} |")


def main() -> None:
    """Print the tables."""
    if sys.argv[1] == "efforts":
        for name in sys.argv[2:]:
            efforts(Path(name))
        return
    found = [read_contribution(Path(p)) for p in sys.argv[1:]]
    biases(found)
    roles(found)
    by_block([c for c in found if c.efforts])
    best(found)
    noise(found)
    for c in found:
        if c.network == "mcunet-5fps":
            published(c)


if __name__ == "__main__":
    script(main)
