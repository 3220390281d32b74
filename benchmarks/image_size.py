"""What a smaller image costs and saves: the tables of docs/results/studies/image-size.md.

    python benchmarks/image_size.py learn mcunet-5fps sparse-49kb@0.003 RESULTS.csv
    python benchmarks/image_size.py firmware mcunet-5fps none,sparse-49kb FIRMWARE.csv
    python benchmarks/image_size.py table RESULTS.csv FIRMWARE.csv
    python benchmarks/image_size.py draw RESULTS.csv FIRMWARE.csv OUT.svg

`learn`: five classes by prototypes from five images of each, `rowrms`, ten passes over four kept
views; with --across, what was learned at one size is put into the programs of the others, which
make their prototypes themselves.  `firmware`: a program for ten classes, image row by row, on a
Cortex-M7.  A run goes on where it was interrupted.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer
from rows import append, grouped, head, line, lines_of, paired, shown, stored
from script import script
from shared import load_images, load_network

from kilograd.data import Draw
from kilograd.frontend import resized
from kilograd.intervals import interval
from kilograd.learn.adapt import Task, load_task
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import enrol, fit, predict
from kilograd.select import Budget
from kilograd.settings import OptimizerKind, Settings, split_methods
from kilograd.targets import CORTEX_M7, HostProgram, build_host, measure

SIZES = (64, 80, 96, 112, 128)
SETS = "gtsrb,flowers89,omniglot,dtd10,fashion_mnist,trashnet,caltech101,neu_surface"
LEARNING = Settings.of(ways=5, shots=5, queries=15, optimizer=OptimizerKind.ROWRMS, cache=4)
FIRMWARE = Settings.of(ways=10, optimizer=OptimizerKind.ROWRMS, rows=True)

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """One episode, learned at `size` and tested at `tested`; `before`: features at `tested`."""

    model: str
    data: str
    episode: int
    method: str
    size: int
    tested: int
    before: float
    after: float


@dataclass(frozen=True)
class Firmware:
    """What a program needs on a Cortex-M7: bytes, stack included, and instructions."""

    model: str
    method: str
    size: int
    ram: int
    flash: int
    forward: int
    step: int


def compiled(settings: Settings, model: str, method: str, size: int) -> Compiled:
    """Compile a method at an image size."""
    recipe = settings.varied(method).recipe
    return compile_recipe(resized(load_network(model), size), recipe, Budget())


@functools.cache
def program(model: str, method: str, size: int) -> tuple[Compiled, HostProgram]:
    """Return what learns."""
    made = compiled(LEARNING, model, method, size)
    return made, build_host(made.program)


def accuracy(host: HostProgram, task: Task) -> float:
    """Make the prototypes, and return the share of queries that they tell right."""
    enrol(host, task.support)
    return float((predict(host, task.query.images) == task.query.labels).mean())


def learned(
    model: str, data: str, number: int, method: str, sizes: Sequence[int], *, across: bool
) -> Iterator[Row]:
    """Learn an episode at some sizes."""
    images, settings = load_images(data), LEARNING.varied(method).numbered(number)
    episode = Draw(ways=5, shots=5, queries=15)(images, number)
    tasks, before = {}, {}
    for size in SIZES if across else sizes:
        made, host = program(model, method, size)
        tasks[size] = load_task(images, episode, made.model.preprocess)
        host.reset()
        before[size] = accuracy(host, tasks[size])
    for size in sizes:
        made, host = program(model, method, size)
        host.reset()
        fit(host, made, tasks[size].support, settings.schedule)
        state = {name: value.copy() for name, value in host.state.items()}
        for tested in SIZES if across else (size,):
            _, other = program(model, method, tested)
            for name, value in state.items():
                other.state[name][...] = value
            after = accuracy(other, tasks[tested])
            name = Path(method).name
            yield Row(model, data, number, name, size, tested, before[tested], after)


@app.command()
def learn(
    model: str,
    method: str,
    out: Path,
    data: str = SETS,
    episodes: int = 8,
    *,
    across: Annotated[bool, typer.Option("--across")] = False,
) -> None:
    """Run what is missing, appending: the first episode of each set, then the second, ..."""
    done = {(r.model, r.data, r.episode, r.method, r.size) for r in lines_of(out, Row)}
    name = Path(method).name
    for number, of in itertools.product(range(episodes), data.split(",")):
        sizes = [s for s in SIZES if (model, of, number, name, s) not in done]
        for _, rows in itertools.groupby(
            learned(model, of, number, method, sizes, across=across) if sizes else (),
            lambda r: r.size,
        ):
            append(out, rows)
        print(f"{model} {name} {of} {number}", flush=True)


@app.command()
def firmware(model: str, methods: str, out: Path) -> None:
    """Measure what is missing on a Cortex-M7, appending."""
    done = {(r.model, r.method, r.size) for r in lines_of(out, Firmware)}
    for method, size in itertools.product(split_methods(methods), SIZES):
        name = Path(method).name
        if (model, name, size) in done:
            continue
        found = measure(compiled(FIRMWARE, model, method, size).program, CORTEX_M7, steps=2)
        counts = found.instructions_forward or 0, found.instructions_step or 0
        append(out, [Firmware(model, name, size, found.ram_bytes, found.flash_bytes, *counts)])


def name_of(method: str) -> str:
    """Return a method without its options, and without the end of a file's name."""
    return method.partition("@")[0].removesuffix(".json")


Curve = dict[int, dict[tuple[str, int], float]]
"""Accuracy in per cent by image size, then by data set and episode."""


def curves(rows: Sequence[Row]) -> dict[str, Curve]:
    """Return a network's accuracies by method, on what all have learned; features are `none`."""
    found: dict[str, Curve] = {}
    for r in rows:
        if r.size == r.tested:
            for name, value in (("none", r.before), (name_of(r.method), r.after)):
                of = found.setdefault(name, {}).setdefault(r.size, {})
                of[r.data, r.episode] = 100 * value
    all_ = set.intersection(*(set(of) for curve in found.values() for of in curve.values()))
    return {
        name: {size: {k: of[k] for k in of if k in all_} for size, of in sorted(curve.items())}
        for name, curve in found.items()
    }


def costs(programs: Sequence[Firmware], model: str) -> dict[tuple[str, int], Firmware]:
    """Return what the programs of a network need, by method and size."""
    own = (f for f in programs if f.model == model and "@" not in f.method)
    return {(name_of(f.method), f.size): f for f in own}


def tables(rows: Sequence[Row], programs: Sequence[Firmware]) -> Iterator[str]:
    """Yield a table for each network, and one of what was learned at one size for another."""
    sets = list(dict.fromkeys(r.data for r in rows))
    last = SIZES[-1]
    for model, own in grouped(rows, lambda r: r.model).items():
        cost = costs(programs, model)
        names = ("px", "RAM, B", "flash, B", "step", "episodes", *sets, "all", f"less {last} px")
        yield head(model, *names, texts=1)
        for method, curve in curves(own).items():
            for size, found in reversed(curve.items()):
                needs = cost.get((method, size))
                each = [mean([x for (of, _), x in found.items() if of == name]) for name in sets]
                less = paired(found, curve[last])
                yield line(
                    f"`{method}`",
                    size,
                    *((f"{needs.ram:,}", f"{needs.flash:,}") if needs else ("", "")),
                    f"{needs.step / 1e6:.1f} M" if needs and needs.step else "",
                    len(found),
                    *(f"{x:.1f}" for x in each),
                    shown(interval(list(found.values()))),
                    "" if size == last else shown(interval(less), "+"),
                )
        yield ""
    yield from crossed([r for r in rows if r.model == rows[0].model])


def crossed(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what was learned at a size (a line each) brings at the others, in per cent."""
    for method, own in grouped(rows, lambda r: name_of(r.method)).items():
        by_size = grouped(own, lambda r: (r.size, r.tested))
        if len(by_size) == len(SIZES) ** 2:
            yield head(f"`{method}` learned at", *(f"tested at {s}" for s in SIZES), texts=1)
            for size in SIZES:
                found = [mean(100 * r.after for r in by_size[size, t]) for t in SIZES]
                yield line(size, *(f"{x:.1f}" for x in found))
            yield ""


@app.command()
def table(results: Path, programs: Path) -> None:
    """Print means and 95 % intervals over episodes (Student's t) as Markdown."""
    print("\n".join(tables(stored(results, Row), stored(programs, Firmware))))


# ---- the picture ----

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 330, 46, 16, 40, 44
COLOURS = ("#6d6d6d", "#c2571a", "#1a6fb5")
Point = tuple[float, float, int]
"""RAM or instructions, accuracy, image size."""


@app.command()
def draw(results: Path, programs: Path, out: Path) -> None:
    """Draw accuracy of the first network against RAM and against instructions."""
    rows = stored(results, Row)
    own = [r for r in rows if r.model == rows[0].model]
    cost = costs(stored(programs, Firmware), rows[0].model)
    ram: dict[str, list[Point]] = {}
    work: dict[str, list[Point]] = {}
    for method, curve in curves(own).items():
        for size, of in curve.items():
            needs, y = cost[method, size], mean(of.values())
            ram.setdefault(method, []).append((needs.ram / 1024, y, size))
            count = needs.step or needs.forward
            work.setdefault(method, []).append((count / 1e6, y, size))
    key = "".join(
        text(LEFT + 150 * i, 18, method, COLOURS[i], "start") for i, method in enumerate(ram)
    )
    left, right = panel("RAM in all, KiB", ram), panel("million instructions a step", work)
    out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f'{key}<g>{left}</g>\n<g transform="translate({WIDTH} 0)">{right}</g></svg>\n',
        encoding="utf-8",
    )


def panel(title: str, points: Mapping[str, Sequence[Point]]) -> str:
    """Return the axes, and a line for each method."""
    ys = [y for of in points.values() for _, y, _ in of]
    low, high = math.floor(min(ys)), math.ceil(max(ys))
    wide = 10 * math.ceil(max(x for of in points.values() for x, _, _ in of) / 10)

    def across(x: float) -> float:
        return LEFT + x / wide * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = []
    for y in range(low, high + 1):
        out += [f'<path d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>']
        out += [text(LEFT - 6, down(y) + 4, str(y), "#444", "end")]
    for x in range(0, wide + 1, 20):
        out += [text(across(x), HEIGHT - BOTTOM + 16, str(x), "#444", "middle")]
    out += [text(WIDTH / 2, HEIGHT - 8, f"accuracy, %, against {title}", "#444", "middle")]
    for colour, of in zip(COLOURS, points.values(), strict=False):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y, _ in of)
        out += [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
        for x, y, size in of:
            out += [f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3" fill="{colour}"/>']
            out += [text(across(x), down(y) - 6, str(size), colour, "middle")]
    return "".join(out)


def text(x: float, y: float, what: str, colour: str, anchor: str) -> str:
    """Return a text of the picture."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{what}</text>'


if __name__ == "__main__":
    script(app)
