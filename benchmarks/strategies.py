"""Ways to choose what learns, at equal budgets: the tables of docs/results/studies/strategies.md.

    python benchmarks/strategies.py docs/results/data/strategies.csv | \
        python benchmarks/fill.py docs/results/studies/strategies.md

A strategy that knows no budget stands in the table of each budget that it is within.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from few_shot import Limits, Row, interval, model, read

from kilograd.ops import Depthwise

AGAINST = "tinytrain"


def method(r: Row) -> str:
    """Return the strategy of a row; plans of other data sets are called by their file's name."""
    name = r.recipe.partition("@")[0]
    return Path(name).name if name.endswith(".json") else name


def rate(r: Row) -> str:
    """Return the learning rate of a row."""
    return r.recipe.split("@")[1] if "@" in r.recipe else ""


def limits(text: str) -> Limits:
    """Read a budget as rows have it."""
    given = dict(part.split("=") for part in text.split())
    return Limits(given.get("sram"), given.get("compute"), None)


def tables(rows: list[Row]) -> Iterator[str]:
    """Yield a table for each budget."""
    sets = list(dict.fromkeys(r.data for r in rows))
    for text in dict.fromkeys(r.budget for r in rows if r.budget):
        budget = limits(text).budget(rows[0].model)
        mine: dict[str, list[Row]] = defaultdict(list)
        for r in rows:
            if r.budget == text or not r.budget:
                mine[method(r)].append(r)
        known = {(r.data, r.episode): r.after for r in mine[AGAINST]}
        head = f"| {text} | rate | RAM, B | MACs | weights | episodes"
        yield f"{head} | {' | '.join(sets)} | all | less `{AGAINST}` |"
        yield "|---|---|---:|---:|---:|---:" + "|---:" * (len(sets) + 2) + "|"
        gains = {
            name: [r.after - known[r.data, r.episode] for r in some if (r.data, r.episode) in known]
            for name, some in mine.items()
        }
        for name in sorted(mine, key=lambda name: -float(np.mean(gains[name]))):
            found = mine[name]
            sram, macs = max(r.sram_bytes for r in found), max(r.backward_macs for r in found)
            if budget.sram is not None and sram > budget.sram:
                continue
            if budget.compute is not None and macs > budget.compute:
                continue
            cells = []
            for data in sets:
                some = [r.after for r in found if r.data == data]
                cells.append(f"{interval(some)[0]:.1f}" if some else "")
            cells.append("{:.1f} ± {:.1f}".format(*interval([r.after for r in found])))
            less = "" if name == AGAINST else "{:+.1f} ± {:.1f}".format(*interval(gains[name]))
            weights = max(r.learned for r in found)
            yield (
                f"| `{name}` | {rate(found[0])} | {sram:,} | {macs / 1e6:.1f} M | {weights:,} | "
                f"{len(found)} | "
                f"{' | '.join(cells)} | {less} |"
            )
        yield ""


def choices(rows: list[Row]) -> Iterator[str]:
    """Yield how often each layer is chosen, by strategy and budget; d marks a depthwise one."""
    network = model(rows[0].model)
    deep = {
        str(i)
        for i, layer in enumerate(network.layers)
        if isinstance(network.graph[layer].op, Depthwise)
    }
    yield "| budget | strategy | episodes | layers chosen in all episodes | in some (share) |"
    yield "|---|---|---:|---|---|"
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for r in rows:
        if r.budget and r.layers:
            groups[r.budget, method(r)].append(r)
    for (budget, name), found in groups.items():
        seen = Counter(x for r in found for x in r.layers.split())
        named = {x: f"{x}{'d' if x in deep else ''}" for x in sorted(seen, key=int)}
        always = [text for x, text in named.items() if seen[x] == len(found)]
        some = [
            f"{text} ({seen[x] / len(found):.0%})"
            for x, text in named.items()
            if seen[x] < len(found)
        ]
        yield f"| {budget} | `{name}` | {len(found)} | {' '.join(always)} | {', '.join(some)} |"


def main() -> None:
    """Print the tables."""
    rows = read(Path(sys.argv[1]))
    print("\n".join([*tables(rows), *choices(rows)]))


if __name__ == "__main__":
    main()
