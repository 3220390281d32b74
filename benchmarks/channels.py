"""Channels chosen for a task, or not: the tables and figure of docs/results/studies/channels.md.

    python benchmarks/channels.py run gtsrb,flowers89 RESULTS.csv --episodes 3
    python benchmarks/channels.py table RESULTS.csv
    python benchmarks/channels.py draw RESULTS.csv OUT.svg

TinyTrain's Figures 6b and 14 to 16: the same layers learn, at several budgets of memory as
TinyTrain counts it; of each layer the channels with most Fisher information, with the largest
weights, or random ones.  `run` goes on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer
from rows import Row, append, grouped, head, line, lines_of, paired, percent, shown, stored
from script import script
from shared import load_images, load_network

from kilograd.settings import OptimizerKind, Settings
from kilograd.sizes import bytes_of
from kilograd.study.work import Row as Measured
from kilograd.study.work import Work, Worker

WAYS = {
    "tinytrain": "Fisher information",
    "tinytrain-l2": "largest weights",
    "tinytrain-random:0": "random",
}
BUDGETS = ("0.7M", "0.8M", "1M", "1.5M")
SETTINGS = Settings.of(ways=5, shots=5, optimizer=OptimizerKind.ROWRMS, lr=0.001, cache=4)

app = typer.Typer(add_completion=False)


@app.command()
def run(
    sets: str,
    results: Path,
    network: Annotated[str, typer.Option(help="A network.")] = "mcunet-5fps",
    episodes: Annotated[int, typer.Option(help="Episodes of each set.")] = 3,
    budgets: Annotated[str, typer.Option(help="Memory of a backward pass.")] = ",".join(BUDGETS),
) -> None:
    """Append a row for each episode, budget and way to choose channels that is not there."""
    done = {(r.model, r.data, r.episode, r.method) for r in lines_of(results, Measured)}
    model, worker = load_network(network), Worker()
    methods = [f"{way}@backward_memory={budget}" for budget in budgets.split(",") for way in WAYS]
    for episode in range(episodes):
        for images in map(load_images, sets.split(",")):
            key = (model.name, images.name, episode)
            missing = tuple(m for m in methods if (*key, m) not in done)
            drawn = SETTINGS.draw(images, episode)
            for row in worker(Work(model, SETTINGS, missing, images, drawn, episode)):
                append(results, [row])


def budget_of(row: Row) -> str:
    """Return the budget that a method of a row has."""
    return row.method.partition("backward_memory=")[2]


def accuracies(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    """Return the accuracy after learning, by data set and episode."""
    return {(r.data, r.episode): r.accuracy_after for r in rows}


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each network and budget, and for each way to choose channels."""
    yield head(
        *("network", "budget", "channels", "weights", "episodes", "accuracy, %", "Fisher less it"),
        texts=3,
    )
    for (model, budget), some in grouped(rows, lambda r: (r.model, budget_of(r))).items():
        by_way = grouped(some, lambda r: r.name)
        best = accuracies(by_way["tinytrain"])
        for way, own in by_way.items():
            found = accuracies(own)
            less = shown(percent(paired(best, found)), "+") if way != "tinytrain" else ""
            after = shown(percent(list(found.values())))
            weights = f"{max(r.learned_parameters for r in own):,}"
            yield line(model, budget, WAYS[way], weights, len(found), after, less)
    yield ""
    yield head(*("network", "budget", "less the next smaller budget"), texts=2)
    fisher = [r for r in rows if r.name == "tinytrain"]
    for model, own in grouped(fisher, lambda r: r.model).items():
        by_budget = {b: accuracies(x) for b, x in grouped(own, budget_of).items()}
        for small, large in zip(list(by_budget), list(by_budget)[1:], strict=False):
            more = shown(percent(paired(by_budget[large], by_budget[small])), "+")
            yield line(model, f"{large} less {small}", more)


@app.command()
def table(results: Path) -> None:
    """Print means and 95 % intervals over episodes (Student's t) as Markdown."""
    print("\n".join(tables(stored(results, Row))))


# ---- the figure ----

WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 420, 300, 50, 16, 40, 44
COLOURS = ("#c2571a", "#1a6fb5", "#6d6d6d")


def drawing(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a figure: accuracy against the budget, a curve for each way."""
    curves = {
        way: sorted(
            (bytes_of(budget, "budget") / 2**20, 100 * mean(accuracies(own).values()))
            for budget, own in grouped([r for r in rows if r.name == way], budget_of).items()
        )
        for way in WAYS
    }
    xs, ys = zip(*(p for curve in curves.values() for p in curve), strict=True)
    low, high = int(min(ys)) - 1, int(max(ys)) + 2

    def place(x: float, y: float) -> str:
        along = (x - min(xs)) / (max(xs) - min(xs))
        up = (y - low) / (high - low)
        width, height = WIDE - LEFT - RIGHT, HIGH - TOP - BOTTOM
        return f"{LEFT + along * width:.1f},{HIGH - BOTTOM - up * height:.1f}"

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
    )
    for y in range(low, high + 1, 2):
        x0, y0 = place(min(xs), y).split(",")
        yield f'<path d="M{x0} {y0}H{WIDE - RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 6}" y="{float(y0) + 4:.1f}" text-anchor="end">{y} %</text>'
    for x in sorted(set(xs)):
        at = place(x, low).split(",")[0]
        yield f'<text x="{at}" y="{HIGH - BOTTOM + 16}" text-anchor="middle">{x:.2g}</text>'
    for i, (way, curve) in enumerate(curves.items()):
        points = " ".join(place(*p) for p in curve)
        yield f'<polyline points="{points}" fill="none" stroke="{COLOURS[i]}" stroke-width="2"/>'
        yield f'<text x="{LEFT + 120 * i}" y="20" fill="{COLOURS[i]}">{WAYS[way]}</text>'
    yield f'<text x="{WIDE / 2}" y="{HIGH - 8}" text-anchor="middle">memory, MiB</text></svg>'


@app.command()
def draw(results: Path, out: Path) -> None:
    """Draw accuracy of the first network against the budget."""
    rows = stored(results, Row)
    own = [r for r in rows if r.model == rows[0].model]
    out.write_text("\n".join(drawing(own)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    script(app)
