"""Low-rank updates and groups next to weights: the tables of docs/results/studies/dropped.md.

    python benchmarks/dropped.py run none,lora:6:4@0.003,grouped:6:2@0.001 gtsrb,dtd10 RESULTS.csv
    python benchmarks/dropped.py run head@0.001,lora:6:4@0.003 cifar10 MANY.csv --linear --shots 50
    python benchmarks/dropped.py table RESULTS.csv --against grouped:6:1@0.001
    python benchmarks/dropped.py memory

A recipe is METHOD@RATE, with `rowrms`, or METHOD@RATE@sgd; MCUNet, four kept views of an image.
What an update has learned is then merged into the weights beside it, with each sum rounded to the
nearest code and at random, and the accuracy measured again.  A run goes on where it was
interrupted.
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
from rows import append, grouped, head, line, lines_of, paired, shown, stored
from script import script
from shared import load_images, load_network

from kilograd.data import Draw, Episode
from kilograd.intervals import interval
from kilograd.ir import Array
from kilograd.learn.adapt import Task, load_task
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import enrol, fit, predict
from kilograd.passes import merged
from kilograd.quant import stochastic_round
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Schedule
from kilograd.targets import HostProgram, build_host

NETWORK, VIEWS = "mcunet-5fps", 4
SIZES = (
    *("none", "bias:18", "last:6", "sparse-49kb", "grouped:6:1"),
    *(f"lora:6:{rank}" for rank in (1, 2, 4, 8, 16, 32)),
    *("grouped:6:2", "grouped:6:4"),
)

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """One episode.  `nearest`, `random`: the accuracy once updates are merged; -1: there are none.
    `changed`: the share of merged codes, rounded to the nearest, that are not those before.
    """

    data: str
    episode: int
    head: str
    shots: int
    recipe: str
    before: float
    after: float
    nearest: float = -1
    random: float = -1
    changed: float = -1
    loss: float = 0
    seconds: float = 0


@functools.cache
def program(
    method: str, ways: int, kind: HeadKind, optimizer: OptimizerKind
) -> tuple[Compiled, HostProgram]:
    """Compile what runs."""
    recipe = Recipe(method, ways, kind, optimizer, cache=0 if method == "none" else VIEWS)
    made = compile_recipe(load_network(NETWORK), recipe, Budget())
    return made, build_host(made.program)


def accuracy(host: HostProgram, task: Task) -> float:
    """Return the share of the query that is right; prototypes are made anew."""
    if "head.prototypes" in host.state:
        enrol(host, task.support)
    return float((predict(host, task.query.images) == task.query.labels).mean())


def learned(e: Episode, task: Task, recipe: str, kind: HeadKind, passes: int, shots: int) -> Row:
    """Learn an episode, and merge what can be merged."""
    method, rate, optimizer = (*recipe.split("@"), "", "")[:3]
    by = OptimizerKind(optimizer or "rowrms")
    made, host = program(method, len(e.classes), kind, by)
    host.reset()
    before, start, losses = accuracy(host, task), time.process_time(), [0.0]
    if rate:
        losses = fit(host, made, task.support, Schedule(passes, float(rate), seed=e.seed))
    seconds = round(time.process_time() - start, 2)
    after = accuracy(host, task)
    more = once_merged(made, host, task, e.seed) if method.startswith("lora") else {}
    loss = float(np.mean(losses[-len(task.support.labels) :]))
    return Row(
        e.dataset, e.seed, kind, shots, recipe, before, after, **more, loss=loss, seconds=seconds
    )


def once_merged(made: Compiled, host: HostProgram, task: Task, seed: int) -> dict[str, float]:
    """Return what becomes of the accuracy; dense layers whose weights are state hold the sums."""
    _, blocks, _ = made.recipe.method.split(":")
    kind = made.recipe.head or HeadKind.PROTO
    dense, plain = program(f"grouped:{blocks}:1", made.recipe.ways, kind, made.recipe.optimizer)
    found: dict[str, float] = {}
    changed: list[Array] = []
    for name in ("nearest", "random"):
        plain.reset()
        for salt, layer in enumerate(p.layer for p in dense.selection.learn if p.role == "weight"):
            whole = _whole(made, host, layer)
            codes = np.rint(whole)
            if name == "random":
                codes = stochastic_round(whole, seed, 0, salt)
            else:
                changed.append((codes != plain.state[f"{layer}.weight"]).ravel())
            plain.state[f"{layer}.weight"][...] = np.clip(codes, -127, 127)
            plain.state[f"{layer}.bias"][...] = host.state[f"{layer}.bias"]
        for tensor in ("head.weight", "head.bias"):
            if tensor in host.state:
                plain.state[tensor][...] = host.state[tensor]
        found[name] = accuracy(plain, task)
    return {**found, "changed": float(np.concatenate(changed).mean())}


def _whole(made: Compiled, host: HostProgram, layer: str) -> Array:
    """Return the weights of a layer with its update merged, in codes, not yet rounded."""
    own = host.state[f"{layer}.weight.learned"]
    both = made.model.graph.data[f"{layer}.weight"].copy()
    both[..., -own.shape[3] :] = own
    name = f"{layer}.lora.weight"
    return merged(made.model.graph, layer, {f"{layer}.weight": both, name: host.state[name]})


@app.command()
def run(
    recipes: str,
    data: str,
    out: Path,
    *,
    linear: bool = False,
    ways: int = 5,
    shots: int = 5,
    queries: int = 10,
    passes: int = 10,
    episodes: int = 3,
    first: int = 0,
) -> None:
    """Run what is missing, appending: the first episode of each set, then the second, ..."""
    kind = HeadKind.LINEAR if linear else HeadKind.PROTO
    done = {(r.data, r.episode, r.head, r.shots, r.recipe) for r in lines_of(out, Row)}
    for number, name in itertools.product(range(first, first + episodes), data.split(",")):
        missing = [r for r in recipes.split(",") if (name, number, kind, shots, r) not in done]
        if not missing:
            continue
        e = Draw(ways=ways, shots=shots, queries=queries)(load_images(name), number)
        task = load_task(load_images(name), e, load_network(NETWORK).preprocess)
        for recipe in missing:
            row = learned(e, task, recipe, kind, passes, shots)
            append(out, [row])
            print(row, flush=True)


# ---- tables ----


def tables(rows: list[Row], against: str) -> Iterator[str]:
    """Yield a table for each head: accuracies, and differences episode by episode."""
    for (kind, shots), own in grouped(rows, lambda r: (r.head, r.shots)).items():
        by_recipe = grouped(own, lambda r: r.recipe)
        base = _at(by_recipe.get(against, []))
        about = f"{kind}, {shots} a class"
        names = "episodes", "before", "after", f"less `{against}`", "merged", "at random"
        yield head(about, *names, "codes changed", texts=1)
        for recipe, some in by_recipe.items():
            less = paired(_at(some), base) if recipe != against else []
            cells = [
                len(some),
                f"{100 * np.mean([r.before for r in some]):.1f}",
                shown(interval([100 * r.after for r in some])),
                shown(interval(less), "+") if less else "",
            ]
            if some[0].changed >= 0:
                for name in ("nearest", "random"):
                    lost = [100 * (getattr(r, name) - r.after) for r in some]
                    cells.append(shown(interval(lost), "+"))
                cells.append(f"{100 * np.mean([r.changed for r in some]):.1f} %")
            yield line(f"`{recipe}`", *cells, *[""] * (7 - len(cells)))
        yield ""


def _at(rows: list[Row]) -> dict[tuple[str, int], float]:
    return {(r.data, r.episode): 100 * r.after for r in rows}


@app.command()
def table(path: Path, against: str) -> None:
    """Print means and 95 % intervals over episodes (Student's t) as Markdown."""
    print("\n".join(tables(stored(path, Row), against)))


@app.command()
def memory() -> None:
    """Print what programs of five classes need."""
    sizes = "learned", "kept, B", "RAM, B", "by rows, B", "forward, MACs", "backward, MACs"
    print(head("method", *sizes, texts=1))
    for method in SIZES:
        whole, rows = (
            compile_recipe(
                load_network(NETWORK),
                Recipe(method, 5, optimizer=OptimizerKind.ROWRMS, rows=by_rows),
                Budget(),
            )
            for by_rows in (False, True)
        )
        p = whole.program
        found = whole.learned_parameters, p.state_bytes, p.sram_bytes, rows.program.sram_bytes
        work = (f"{n / 1e6:.2f} M" for n in (p.macs("infer"), whole.backward_macs))
        print(line(f"`{method}`", *(f"{n:,}" for n in found), *work))


if __name__ == "__main__":
    script(app)
