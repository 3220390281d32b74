"""How the 256 KB paper fine-tunes, varied: the tables of docs/results/studies/recipes.md.

    python benchmarks/recipes.py run 1@0.001,1m@0.0001,32:16@0.01,1q@0.001 gtsrb,dtd10 RESULTS.csv
    python benchmarks/recipes.py table RESULTS.csv

A recipe is BATCH[m|a][q][:BITS]@RATE: images an update is made from; with m, SGD has a momentum of
0.9, with a it is Adam; with q, the head is int8, else linear; BITS (32): of sums, momentum and
moments.  The programs are those that are flashed.  Four views of an image are kept.  A run goes on
where it was interrupted.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import typer
from rows import append, grouped, head, line, lines_of, paired, shown, stored
from script import script
from shared import load_images, load_network

from kilograd.data import Draw, Episode
from kilograd.intervals import interval
from kilograd.ir import DType
from kilograd.learn.adapt import load_task
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import fit, predict
from kilograd.learn.views import views_of
from kilograd.passes import EntryPoint
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Schedule
from kilograd.targets import HostProgram, build_host

NETWORK, VIEWS = "mcunet-5fps", 4
_RULES = {"m": OptimizerKind.MOMENTUM, "a": OptimizerKind.ADAM}

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Cell:
    """A way to learn."""

    batch: int
    optimizer: OptimizerKind
    int8_head: bool
    bits: int
    rate: float

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read BATCH[m|a][q][:BITS]@RATE."""
        name, _, rate = text.partition("@")
        name, _, bits = name.partition(":")
        rule = next((_RULES[x] for x in name if x in _RULES), OptimizerKind.SGD)
        return cls(int(name.rstrip("maq")), rule, "q" in name, int(bits or 32), float(rate))

    def recipe(self, method: str, ways: int, views: int) -> Recipe:
        """Return what is compiled."""
        return Recipe(
            method,
            ways,
            HeadKind.INT8 if self.int8_head else HeadKind.LINEAR,
            self.optimizer,
            self.batch,
            cache=views,
            state_bits=self.bits,
        )


@dataclass(frozen=True)
class Row:
    """One episode; `loss` is the mean of the last pass, `sram_bytes` those without kept views,
    `largest` the largest weight of the head.
    """

    data: str
    episode: int
    ways: int
    method: str
    recipe: str
    accuracy: float
    loss: float
    largest: float
    sram_bytes: int
    seconds: float


@functools.cache
def program(recipe: Recipe) -> tuple[Compiled, HostProgram]:
    """Compile what runs."""
    made = compile_recipe(load_network(NETWORK), recipe, Budget())
    return made, build_host(made.program)


@functools.cache
def sram(recipe: Recipe) -> int:
    """Return the bytes of RAM of a device that takes images row by row."""
    rows = replace(recipe, rows=True)
    return compile_recipe(load_network(NETWORK), rows, Budget()).program.sram_bytes


def weight_unit(made: Compiled) -> float:
    """Return what a stored weight of a head stands for: a code of an int8 head, else itself."""
    nodes = made.program.entries[EntryPoint.INFER].graph.nodes
    (kind,) = {n.type for n in nodes if n.name == "head.weight"}
    return kind.affine.scale[0] if kind.dtype is DType.I8 else 1.0


def learned(e: Episode, method: str, recipes: list[str], given: Schedule) -> Iterator[Row]:
    """Learn an episode by some recipes, with the same views in the same order."""
    task = load_task(load_images(e.dataset), e, load_network(NETWORK).preprocess)
    ways = len(e.classes)
    made, host = program(Cell.parse(recipes[0]).recipe(method, ways, VIEWS))
    views = views_of(host, made, task.support.images, given.augment, given.seed)
    for text in recipes:
        cell = Cell.parse(text)
        made, host = program(cell.recipe(method, ways, VIEWS))
        host.reset()
        schedule = replace(given, lr=cell.rate)
        start = time.process_time()
        losses = fit(host, made, task.support, schedule, views=views)
        seconds = round(time.process_time() - start, 2)
        accuracy = float((predict(host, task.query.images) == task.query.labels).mean())
        loss = float(np.mean(losses[-len(task.support.labels) :]))
        largest = float(np.abs(host.state["head.weight"]).max() * weight_unit(made))
        bytes_ = sram(cell.recipe(method, ways, 0))
        yield Row(e.dataset, e.seed, ways, method, text, accuracy, loss, largest, bytes_, seconds)


@app.command()
def run(
    recipes: str,
    data: str,
    out: Path,
    method: str = "last:6",
    ways: int = 10,
    shots: int = 20,
    queries: int = 8,
    passes: int = 11,
    warmup: int = 1,
    episodes: int = 5,
    first: int = 0,
) -> None:
    """Run what is missing, appending: the first episode of each set, then the second, ..."""
    done = {(r.data, r.episode, r.ways, r.method, r.recipe) for r in lines_of(out, Row)}
    for number, name in itertools.product(range(first, first + episodes), data.split(",")):
        missing = [x for x in recipes.split(",") if (name, number, ways, method, x) not in done]
        e = Draw(ways=ways, shots=shots, queries=queries)(load_images(name), number)
        schedule = Schedule(passes, 1.0, seed=number, warmup=warmup)
        for row in learned(e, method, missing, schedule) if missing else ():
            append(out, [row])
            print(f"{name} {number} {row.recipe}: {row.accuracy:.3f}", flush=True)


def tables(rows: list[Row]) -> Iterator[str]:
    """Yield a table for each method and number of classes; the first recipe is compared with."""
    for (method, ways), own in grouped(rows, lambda r: (r.method, r.ways)).items():
        sets = list(dict.fromkeys(r.data for r in own))
        after = {
            recipe: {(r.data, r.episode): 100 * r.accuracy for r in some}
            for recipe, some in grouped(own, lambda r: r.recipe).items()
        }
        first, *_ = after
        about = f"`{method}`, {ways} classes"
        yield head(about, "RAM, B", "episodes", *sets, "all", f"less `{first}`", texts=1)
        for recipe, found in after.items():
            each = [[x for (data, _), x in found.items() if data == name] for name in sets]
            means = [f"{np.mean(x):.1f}" if x else "" for x in each]
            gains = [] if recipe == first else paired(found, after[first])
            ram = next(f"{r.sram_bytes:,}" for r in own if r.recipe == recipe)
            all_ = shown(interval(list(found.values())))
            less = shown(interval(gains), "+") if gains else ""
            yield line(f"`{recipe}`", ram, len(found), *means, all_, less)
        yield ""


@app.command()
def table(path: Path) -> None:
    """Print means and 95 % intervals over episodes (Student's t) as Markdown."""
    print("\n".join(tables(stored(path, Row))))


if __name__ == "__main__":
    script(app)
