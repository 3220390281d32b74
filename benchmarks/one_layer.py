"""One layer at a time, and which of its channels: tables of docs/results/studies/contribution.md.

    METHODS=$(python benchmarks/one_layer.py methods 39,33,27,21,34,35)
    kilograd evaluate --methods $METHODS ... --out OUT
    python benchmarks/rows.py keep OUT docs/results/data/one-layer.csv
    python benchmarks/one_layer.py table docs/results/data/one-layer.csv | \
        python benchmarks/fill.py docs/results/studies/contribution.md
    python benchmarks/one_layer.py figure docs/results/data/one-layer.csv mcunet-5fps OUT.svg

`methods` prints shares 1/8 to 1 of each layer, output channels by Fisher information, by norm and
at random (two seeds); all channels are all, whoever chooses.  The first method is `none`, which
gains are to.  While an evaluation goes on, the episodes and methods count that are whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import typer
from rows import Measured, grouped, head, line, percent, shown, stored
from script import script
from shared import load_network

from kilograd.report.curves import STYLE
from kilograd.report.layers import Alone, alone, by_channels, less

SHARES = tuple(map(Fraction, ("1/8", "1/4", "1/2", "1")))
CHANNELS = ("fisher", "l2", "random:1", "random:2")
ORDERS = ("fisher", "l2", "random")
app = typer.Typer(add_completion=False)


@app.command()
def methods(layers: str, shares: str = "1/8,1/4,1/2,1") -> None:
    """Print the methods of some layers, with commas between."""
    some = [
        f"weights:{n}:{share}:{channels}"
        for n in layers.split(",")
        for share in shares.split(",")
        for channels in (CHANNELS if share != "1" else ("l2",))
    ]
    print(",".join(["none", *some]))


@app.command()
def table(path: Path) -> None:
    """Print gains by share and choice of channels, and what one choice has more than another."""
    print("\n".join([*by_choice(complete(path)), "", *by_layer(complete(path))]))


def complete(path: Path) -> list[Alone]:
    """Return what layers brought: of episodes and methods, those that have most rows in common."""
    rows = [_row(cells) for cells in stored(path, dict[str, str])]
    tasks = grouped(rows, lambda r: (r.data, r.episode))
    methods = {task: {r.method for r in own} for task, own in tasks.items()}
    ranked = sorted(methods, key=lambda task: -len(methods[task]))
    some = [ranked[: n + 1] for n in range(len(ranked))]
    shared = [set.intersection(*(methods[task] for task in own)) for own in some]
    best = max(range(len(some)), key=lambda n: len(some[n]) * len(shared[n]))
    kept = [r for task in sorted(some[best]) for r in tasks[task] if r.method in shared[best]]
    return list(alone(kept, "none"))


def _row(cells: dict[str, str]) -> Measured:
    """Return a row; what its accuracy was after each pass is not asked for here."""
    known = {k: v for k, v in cells.items() if k != "accuracy_by_pass"}
    return msgspec.convert(known, Measured, strict=False)


def by_choice(found: Sequence[Alone]) -> Iterator[str]:
    """Yield means over layers: each task counts once."""
    yield head("channels", "tasks", *map(str, SHARES), texts=1)
    for order in ORDERS:
        some = [[a.differences for a in _of(found, order, share)] for share in SHARES]
        cells = [shown(percent(_means(x)), "+") if x else "" for x in some]
        yield line(order, len(found[0].differences), *cells)
    for other in ORDERS[1:]:
        cells = []
        for share in SHARES:
            theirs = {a.choice.number: a for a in _of(found, other, share)}
            mine = [a for a in _of(found, ORDERS[0], share) if a.choice.number in theirs]
            more = [less(a, theirs[a.choice.number]) for a in mine]
            cells.append(shown(percent(_means(more)), "+") if more else "")
        yield line(f"{ORDERS[0]} less {other}", len(found[0].differences), *cells)


def by_layer(found: Sequence[Alone]) -> Iterator[str]:
    """Yield the gain of each layer, share and choice."""
    yield head("layer", "share", *ORDERS, "per 1,000 parameters", "per million MACs", texts=0)
    for number in sorted({a.choice.number for a in found}):
        for share in sorted({a.choice.share for a in found}):
            some = [a for order in ORDERS for a in _of(found, order, share, number)]
            if not some:
                continue
            gains = {a.choice.order: shown(percent(a.differences), "+") for a in some}
            gain, effort = 100 * some[0].gain.mean, some[0].effort
            per = f"{1e3 * gain / effort.parameters:+.2f}", f"{1e6 * gain / effort.macs:+.2f}"
            yield line(number, share, *(gains.get(order, "") for order in ORDERS), *per)


def _of(
    found: Sequence[Alone], order: str, share: Fraction, number: int | None = None
) -> list[Alone]:
    return [
        a
        for a in found
        if (a.choice.order, a.choice.share) == (order, share) and number in {None, a.choice.number}
    ]


def _means(differences: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over layers of each task."""
    return np.mean(differences, axis=0).tolist()


_INK = ":root { --soft: #66707a; --rule: #e3e7ea; --ink: #1c2126; }"
_TEXT = "text { font: 11px sans-serif; fill: var(--soft); } path { fill: none; stroke-width: 1; }"


@app.command()
def figure(path: Path, model: str, out: Path) -> None:
    """Draw a picture for each share, one below the other."""
    html = "".join(by_channels(complete(path), load_network(model).layers))
    names = re.findall(r"<h3>(.*?)</h3>", html)
    pictures = re.findall(r"<svg(.*?</svg>)", html, re.DOTALL)
    high = 260
    style = re.sub(r"@media.*?\} \}", "", STYLE, flags=re.DOTALL)
    said = "dark: Fisher information, middle: norm, light: random"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1120 {high * len(pictures)}">',
        f"<style>{_INK}{style}{_TEXT}path.grid {{ stroke: var(--rule); }}</style>",
        '<rect width="100%" height="100%" style="fill: white"/>',
    ]
    for i, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        parts.append(f'<text x="50" y="{high * i + 14}">{name}, points ({said})</text>')
        parts.append(f'<svg y="{high * i + 20}" width="1120" height="236"{picture}')
    out.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


if __name__ == "__main__":
    script(app)
