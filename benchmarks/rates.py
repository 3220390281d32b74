"""Which rate suits a network and what learns: the tables of docs/results/studies/rates.md.

    python benchmarks/rates.py run caltech101,trashnet,sign_digits,omniglot RESULTS.csv SPEC...
    python benchmarks/rates.py table RESULTS.csv

A SPEC is NETWORK:METHOD:OPTIMIZER:HEAD:SHOTS:PASSES@RATE,RATE,...; there may be several.  The
programs are those that are flashed.  Four views of an image are kept, so that rates share them.
A run goes on where it was interrupted.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from rows import append, grouped, head, line, lines_of, stored
from script import script
from shared import load_images, load_network

from kilograd.data import Draw
from kilograd.learn.adapt import Task, load_task
from kilograd.learn.automatic import rate_for
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import enrol, fit, predict
from kilograd.learn.views import views_of
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Schedule
from kilograd.targets import HostProgram, build_host

VIEWS, WAYS, QUERIES = 4, 10, 10

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Spec:
    """What learns, how, and from how much."""

    network: str
    method: str
    optimizer: str
    head: str
    shots: int
    passes: int

    @classmethod
    def parse(cls, text: str) -> tuple[Spec, list[float]]:
        """Read NETWORK:METHOD:OPTIMIZER:HEAD:SHOTS:PASSES@RATE,RATE; a method may have colons."""
        name, _, rates = text.rpartition("@")
        network, *method, optimizer, head, shots, passes = name.split(":")
        spec = cls(network, ":".join(method), optimizer, head, int(shots), int(passes))
        return spec, [float(r) for r in rates.split(",")]


@dataclass(frozen=True)
class Row(Spec):
    """One task at one rate; accuracies in 0 ... 1, `first` and `last`: losses of those passes."""

    data: str
    episode: int
    ways: int
    images: int
    learned: int
    rate: float
    before: float
    after: float
    first: float
    last: float
    seconds: float


def spec_of(row: Row) -> Spec:
    """Return the way to learn of a row."""
    return Spec(row.network, row.method, row.optimizer, row.head, row.shots, row.passes)


@functools.cache
def program(spec: Spec, ways: int) -> tuple[Compiled, HostProgram]:
    """Compile what runs."""
    recipe = Recipe(
        spec.method, ways, HeadKind(spec.head), OptimizerKind(spec.optimizer), cache=VIEWS
    )
    made = compile_recipe(load_network(spec.network), recipe, Budget())
    return made, build_host(made.program)


@functools.lru_cache(maxsize=2)
def task(network: str, data: str, shots: int, episode: int) -> Task:
    """Draw a task, with all classes of a set that has fewer than ten."""
    images = load_images(data)
    drawn = Draw(shots=shots, queries=QUERIES)(images, episode)
    return load_task(images, drawn, load_network(network).preprocess)


def accuracy(host: HostProgram, given: Task) -> float:
    """Return the share of query images that are classified right."""
    enrol(host, given.support)
    return float((predict(host, given.query.images) == given.query.labels).mean())


def learned(spec: Spec, rates: list[float], data: str, episode: int) -> Iterator[Row]:
    """Learn a task at some rates, from the same views in the same order."""
    given = task(spec.network, data, spec.shots, episode)
    ways, images = len(given.episode.classes), len(given.support.labels)
    made, host = program(spec, ways)
    host.reset()
    before = accuracy(host, given)
    schedule = Schedule(spec.passes, 1.0, seed=episode)
    views = views_of(host, made, given.support.images, schedule.augment, schedule.seed)
    for rate in rates:
        host.reset()
        start = time.process_time()
        at_rate = Schedule(spec.passes, rate, seed=episode)
        losses = fit(host, made, given.support, at_rate, views=views)
        seconds = round(time.process_time() - start, 2)
        yield Row(
            **vars(spec),
            data=data,
            episode=episode,
            ways=ways,
            images=images,
            learned=made.learned_parameters,
            rate=rate,
            before=round(before, 4),
            after=round(accuracy(host, given), 4),
            first=round(float(np.mean(losses[:images])), 4),
            last=round(float(np.mean(losses[-images:])), 4),
            seconds=seconds,
        )


@app.command()
def run(data: str, out: Path, specs: list[str], episodes: int = 1) -> None:
    """Run what is missing, appending: the first episode of each set, then the second, ..."""
    known = {
        (Spec(*(getattr(r, f) for f in Spec.__annotations__)), r.data, r.episode, r.rate)
        for r in lines_of(out, Row)
    }
    for number, name, text in itertools.product(range(episodes), data.split(","), specs):
        spec, rates = Spec.parse(text)
        missing = [r for r in rates if (spec, name, number, r) not in known]
        for row in learned(spec, missing, name, number) if missing else ():
            append(out, [row])
            print(
                f"{name} {number} {spec.network} {spec.method} {spec.optimizer} {spec.head} "
                f"{row.images} {row.learned} @{row.rate:g}: {row.before:.3f} -> {row.after:.3f}, "
                f"loss {row.first:.3f} -> {row.last:.3f}, {row.seconds} s",
                flush=True,
            )


def tables(rows: list[Row]) -> Iterator[str]:
    """Yield a line for each way to learn: mean accuracy at each rate, and at the rule's."""
    rates = sorted({r.rate for r in rows if f"{r.rate:g}"[-1] in "13"})
    names = ("network", "what learns", "optimiser", "head", "images", "passes", "weights", "sets")
    yield head(*names, "before", *(f"{r:g}" for r in rates), "rule", texts=4)
    for spec, own in grouped(rows, spec_of).items():
        ways, learned = own[0].ways, max(r.learned for r in own)
        at = {x: [r.after for r in own if r.rate == x] for x in {r.rate for r in own}}
        every = max(map(len, at.values()))
        means = {x: f"{100 * np.mean(a):.1f}" for x, a in at.items() if len(a) == every}
        rule = rate_for(OptimizerKind(spec.optimizer), 0 if spec.method == "head" else learned)
        yield line(
            spec.network,
            f"`{spec.method}`",
            f"`{spec.optimizer}`",
            spec.head,
            f"{spec.shots} x {ways}",
            spec.passes,
            f"{learned:,}",
            every,
            f"{100 * np.mean([r.before for r in own]):.1f}",
            *(means.get(x, "") for x in rates),
            f"{rule:g}" + (f": {means[rule]}" if rule in means else ""),
        )


@app.command()
def table(path: Path) -> None:
    """Print accuracy in per cent, mean over the sets, as Markdown."""
    print("\n".join(tables(stored(path, Row))))


_WIDE, _HIGH = 640, 400
_WEIGHTS, _RATES = (1e3, 1e6), (1e-5, 0.2)
"""The ends of the axes."""
_DRAWN = ("rowrms", "proto", 5, 10)


def _place(learned: float, rate: float) -> tuple[float, float]:
    """Return where a point of the figure lies; both axes are logarithmic."""
    x = np.log(learned / _WEIGHTS[0]) / np.log(_WEIGHTS[1] / _WEIGHTS[0])
    y = np.log(rate / _RATES[0]) / np.log(_RATES[1] / _RATES[0])
    return round(60 + x * (_WIDE - 80), 1), round(_HIGH - 40 - y * (_HIGH - 60), 1)


def drawing(rows: list[Row]) -> Iterator[str]:
    """Yield the lines of a figure: what became of `rowrms` at each rate, and the rule."""
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" '
    yield 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    for weights in (1e3, 1e4, 1e5, 1e6):
        x, y = _place(weights, _RATES[0])
        yield f'<text x="{x}" y="{y + 16}" text-anchor="middle">{weights:,.0f}</text>'
    for rate in (1e-4, 1e-3, 1e-2, 1e-1):
        x, y = _place(_WEIGHTS[0], rate)
        yield f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{rate:g}</text>'
        yield f'<path d="M{x} {y}H{_WIDE - 20}" stroke="#ddd"/>'
    some = [r for r in rows if (r.optimizer, r.head, r.shots, r.passes) == _DRAWN]
    cells = grouped(some, lambda r: (r.learned, r.rate))
    gains = {cell: float(np.mean([r.after - r.before for r in own])) for cell, own in cells.items()}
    for (learned, rate), gain in gains.items():
        best = max(x for cell, x in gains.items() if cell[0] == learned)
        colour = "#c22" if gain < -0.05 else "#2a2" if gain > best - 0.03 else "#cc4"
        x, y = _place(learned, rate)
        yield f'<circle cx="{x}" cy="{y}" r="6" fill="{colour}"/>'
    path = [_place(n, rate_for(OptimizerKind.ROWRMS, int(n))) for n in np.geomspace(*_WEIGHTS, 50)]
    line_ = "L".join(f"{x} {y}" for x, y in path)
    yield f'<path d="M{line_}" fill="none" stroke="black"/>'
    yield f'<text x="{_WIDE / 2}" y="{_HIGH - 6}" text-anchor="middle">weights that learn</text>'
    said = "rate of rowrms; green: within 3 points of the best; red: 5 points below no training"
    yield f'<text x="64" y="14">{said}</text>'
    yield "</svg>"


@app.command()
def figure(path: Path, out: Path) -> None:
    """Draw rates against weights."""
    out.write_text("\n".join(drawing(stored(path, Row))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    script(app)
