"""How the 256 KB paper fine-tunes, varied: the tables of docs/results/studies/recipes.md.

    python benchmarks/recipes.py run 1@0.001,1m@0.0001,32@0.01,1q@0.001 gtsrb,dtd10 RESULTS.csv
    python benchmarks/recipes.py table RESULTS.csv

A recipe is BATCH[m][q]@RATE: images an update is made from; with m, SGD has a momentum of 0.9;
with q, the linear head is int8.  What the compiler cannot do is done to the state of the program
behind its updates.  Momentum: the sums of gradients are not cleared then, but multiplied by 0.9.
An int8 head: its weights are set to the nearest codes but one, rounded stochastically; logits stay
float32.
Everything else is the program that is flashed: SGD (with QAS, as always), `--head linear`.
Four views of an image are kept.  A run goes on where it was interrupted.
"""

from __future__ import annotations

import csv
import functools
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
import typer
from few_shot import dataset, model

from kilograd.data import Episode, sample_episode
from kilograd.intervals import interval
from kilograd.ir import Array
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import Schedule, fit, load_samples, predict
from kilograd.learn.views import Cached
from kilograd.passes import EntryPoint
from kilograd.quant import stochastic_round
from kilograd.select import Budget
from kilograd.settings import HeadKind, Recipe
from kilograd.targets import HostProgram, build_host

NETWORK, VIEWS, MOMENTUM = "mcunet-5fps", 4, 0.9
HEAD_RANGE = 0.25
"""127 codes of an int8 head; a constant, since the head starts at zero and has no range yet."""

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Cell:
    """A way to learn."""

    batch: int
    momentum: bool
    int8_head: bool
    rate: float

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read BATCH[m][q]@RATE."""
        name, _, rate = text.partition("@")
        return cls(int(name.rstrip("mq")), "m" in name, "q" in name, float(rate))

    @property
    def sums(self) -> bool:
        """Whether gradients are added up in memory."""
        return self.batch > 1 or self.momentum


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
def program(method: str, ways: int, *, sums: bool) -> tuple[Compiled, HostProgram]:
    """Compile what runs."""
    made = compile_recipe(model(NETWORK), _recipe(method, ways, sums=sums, views=VIEWS), Budget())
    return made, build_host(made.program)


@functools.cache
def sram(method: str, ways: int, *, sums: bool) -> int:
    """Return the bytes of RAM of a device that keeps no views, and takes images row by row."""
    recipe = replace(_recipe(method, ways, sums=sums, views=0), rows=True)
    return compile_recipe(model(NETWORK), recipe, Budget()).program.sram_bytes


def _recipe(method: str, ways: int, *, sums: bool, views: int) -> Recipe:
    accumulate = 2 if sums else 1  # any number makes the same program
    return Recipe(method, ways, HeadKind.LINEAR, accumulate=accumulate, cache=views)


class Int8Head:
    """Codes in place of the floats of a linear head."""

    def __init__(self, host: HostProgram, seed: int) -> None:
        feature = model(NETWORK).graph.outputs[0].type.affine.scale[0]
        weight = HEAD_RANGE / 127
        scales = {"head.weight": weight, "head.bias": weight * feature}
        self._scales = {name: np.float32(scale) for name, scale in scales.items()}
        self._host, self._seed, self._steps = host, seed, 0
        self._codes = {name: np.zeros(host.state[name].shape, np.int64) for name in scales}

    def round(self) -> None:
        """Make codes of what an update left."""
        for salt, (name, scale) in enumerate(self._scales.items()):
            real = self._host.state[name]
            by = real / scale - self._codes[name]
            moved = stochastic_round(by, self._seed, self._steps, (1 << 20) + salt)
            limit = 127 if name == "head.weight" else 1 << 30
            self._codes[name] = np.clip(self._codes[name] + moved, -limit, limit)
            real[...] = self._codes[name] * scale
        self._steps += 1


class Varied:
    """A program of which every update is followed by what the compiler cannot do."""

    def __init__(self, host: HostProgram, cell: Cell, seed: int) -> None:
        self._host, self.program = host, host.program
        self._updates = EntryPoint.APPLY if cell.sums else EntryPoint.STEP
        self._sums = [n for n in host.state if n.endswith(".sum")] if cell.momentum else []
        self._head = Int8Head(host, seed) if cell.int8_head else None

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        """Run an entry point, and vary what it leaves if it is the one that updates."""
        if entry != self._updates:
            return self._host.call(entry, **inputs)
        before = {name: self._host.state[name].copy() for name in self._sums}
        outputs = self._host.call(entry, **inputs)
        for name, x in before.items():
            self._host.state[name][...] = np.float32(MOMENTUM) * x
        if self._head:
            self._head.round()
        return outputs


def learned(e: Episode, method: str, recipes: list[str], given: Schedule) -> Iterator[Row]:
    """Learn an episode by some recipes, with the same views in the same order."""
    preprocess, data = model(NETWORK).preprocess, dataset(e.dataset)
    support = load_samples(data, e.support, e.support_labels, preprocess)
    query = load_samples(data, e.query, e.query_labels, preprocess)
    ways = len(e.classes)
    rng = np.random.default_rng(given.seed)
    _, host = program(method, ways, sums=False)
    views = Cached(host, support.images, given.augment, rng, VIEWS)
    for text in recipes:
        cell = Cell.parse(text)
        made, host = program(method, ways, sums=cell.sums)
        host.reset()
        made = replace(made, recipe=replace(made.recipe, accumulate=cell.batch))
        schedule = replace(given, lr=cell.rate)
        start = time.process_time()
        losses = fit(Varied(host, cell, given.seed), made, support, schedule, views=views)
        loss = float(np.mean(losses[-len(support.labels) :]))
        seconds = round(time.process_time() - start, 2)
        accuracy = float((predict(host, query.images) == query.labels).mean())
        bytes_ = sram(method, ways, sums=cell.sums)
        largest = float(np.abs(host.state["head.weight"]).max())
        yield Row(e.dataset, e.seed, ways, method, text, accuracy, loss, largest, bytes_, seconds)


def read(path: Path) -> list[Row]:
    """Read results."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as f:
        return [
            Row(
                r["data"],
                int(r["episode"]),
                int(r["ways"]),
                r["method"],
                r["recipe"],
                float(r["accuracy"]),
                float(r["loss"]),
                float(r["largest"]),
                int(r["sram_bytes"]),
                float(r["seconds"]),
            )
            for r in csv.DictReader(f)
        ]


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
    done = {(r.data, r.episode, r.ways, r.method, r.recipe) for r in read(out)}
    new = not out.exists() or not out.stat().st_size
    with out.open("a", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        if new:
            writer.writerow([x.name for x in fields(Row)])
        for number in range(first, first + episodes):
            for name in data.split(","):
                missing = [
                    x for x in recipes.split(",") if (name, number, ways, method, x) not in done
                ]
                if not missing:
                    continue
                e = sample_episode(
                    dataset(name), ways=ways, shots=shots, queries=queries, seed=number
                )
                schedule = Schedule(passes, 1.0, seed=number, warmup=warmup)
                for row in learned(e, method, missing, schedule):
                    writer.writerow(astuple(row))
                    f.flush()
                    print(f"{name} {number} {row.recipe}: {row.accuracy:.3f}", flush=True)


def tables(rows: list[Row]) -> Iterator[str]:
    """Yield a table for each method and number of classes; the first recipe is compared with."""
    groups: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for r in rows:
        groups[r.method, r.ways].append(r)
    for (method, ways), own in groups.items():
        sets = list(dict.fromkeys(r.data for r in own))
        recipes = list(dict.fromkeys(r.recipe for r in own))
        first = {(r.data, r.episode): r.accuracy for r in own if r.recipe == recipes[0]}
        head = f"| `{method}`, {ways} classes | RAM, B | episodes | {' | '.join(sets)} | all"
        yield f"{head} | less `{recipes[0]}` |"
        yield "|---|---:|---:" + "|---:" * (len(sets) + 2) + "|"
        for recipe in recipes:
            some = [r for r in own if r.recipe == recipe]
            cells = [[100 * r.accuracy for r in some if r.data == x] for x in sets]
            means = [f"{np.mean(x):.1f}" if x else "" for x in cells]
            keys = [(r, (r.data, r.episode)) for r in some]
            gains = [100 * (r.accuracy - first[key]) for r, key in keys if key in first]
            less = "" if recipe == recipes[0] else _shown(gains, "+")
            all_ = _shown([100 * r.accuracy for r in some], "")
            yield (
                f"| `{recipe}` | {some[0].sram_bytes:,} | {len(some)} | {' | '.join(means)} | "
                f"{all_} | {less} |"
            )
        yield ""


def _shown(values: list[float], sign: str) -> str:
    if not values:
        return ""
    of = interval(values)
    return f"{of.mean:{sign}.1f}" + ("" if of.half is None else f" ± {of.half:.1f}")


@app.command()
def table(path: Path) -> None:
    """Print means and 95 % intervals over episodes (Student's t) as Markdown."""
    print("\n".join(tables(read(path))))


if __name__ == "__main__":
    app()
