"""Accuracy before and after learning, over stored episodes: the table of docs/results/few-shot.md.

    python benchmarks/few_shot.py run --data flowers89,gtsrb --models mcunet-5fps \
        --recipes none,head,last,sparse-49kb --episodes 20 --out results.csv
    python benchmarks/few_shot.py table results.csv
    python benchmarks/few_shot.py compare results.csv sparse-49kb@0.003

A recipe is METHOD[@LR[@OPTIMIZER[@ITERATIONS[@HEAD[@AUGMENT[@rows]]]]]].  Episode e of a data set
is drawn with seed e and stored beside the results; a run that was interrupted goes on where it
stopped.  Needs the data and model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kilograd.frontend import load_model
from kilograd.learn.adapt import Schedule, enrol, fit, load_samples, predict
from kilograd.learn.augment import Augment
from kilograd.learn.data import Dataset, load_dataset
from kilograd.learn.episodes import Episode, sample_episode
from kilograd.learn.recipe import Compiled, HeadKind, OptimizerKind, Recipe, compile_recipe
from kilograd.select import Budget
from kilograd.targets import HostProgram, build_host

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))
WAYS, SHOTS, QUERIES = 10, 5, 15
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """One episode of one recipe."""

    model: str
    data: str
    recipe: str
    episode: int
    before: float
    after: float
    sram_bytes: int


@dataclass(frozen=True)
class Job:
    """What a worker is asked for: every episode in `episodes` of one recipe."""

    model: str
    data: str
    recipe: str
    episodes: tuple[int, ...]


@cache
def dataset(name: str) -> Dataset:
    return load_dataset(SHARED / "data" / f"{name}.parquet")


def episode(name: str, number: int) -> Episode:
    data = dataset(name)
    ways = WAYS if len(data.classes) >= WAYS and data.groups is None else None
    return sample_episode(data, ways=ways, shots=SHOTS, queries=QUERIES, seed=number)


def parse(text: str, ways: int) -> tuple[Recipe, float, int, Augment]:
    method, lr, optimizer, iterations, head, augment, rows, *_ = [*text.split("@"), *[""] * 6]
    recipe = Recipe(
        method,
        ways,
        HeadKind(head) if head else None,
        OptimizerKind(optimizer) if optimizer else OptimizerKind.SGD,
        rows=rows == "rows",
    )
    return recipe, float(lr or 0.003), int(iterations or 10), Augment(augment or "full")


@cache
def compiled(model: str, recipe: Recipe) -> tuple[Compiled, HostProgram]:
    made = compile_recipe(load_model(str(SHARED / "models" / model)), recipe, Budget())
    return made, build_host(made.program)


def work(job: Job) -> list[Row]:
    rows = []
    for number in job.episodes:
        e = episode(job.data, number)
        recipe, lr, iterations, augment = parse(job.recipe, len(e.classes))
        made, host = compiled(job.model, recipe)
        preprocess = made.model.preprocess
        support = load_samples(dataset(job.data), e.support, e.support_labels, preprocess)
        query = load_samples(dataset(job.data), e.query, e.query_labels, preprocess)
        host.reset()
        enrol(host, support)
        before = float((predict(host, query.images) == query.labels).mean())
        fit(host, made, support, Schedule(iterations, lr, augment, number))
        enrol(host, support)
        after = float((predict(host, query.images) == query.labels).mean())
        sram = made.program.sram_bytes
        rows.append(Row(job.model, job.data, job.recipe, number, before, after, sram))
    return rows


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as f:
        return [
            Row(
                r["model"],
                r["data"],
                r["recipe"],
                int(r["episode"]),
                float(r["before"]),
                float(r["after"]),
                int(r["sram_bytes"]),
            )
            for r in csv.DictReader(f)
        ]


@app.command()
def run(
    data: str,
    models: str,
    recipes: str,
    out: Path,
    episodes: int = 20,
    first: int = 0,
    jobs: int = 2,
) -> None:
    """Run what is missing, appending to a CSV file."""
    done = {(r.model, r.data, r.recipe, r.episode) for r in read(out)}
    todo = []
    for name in data.split(","):
        for model in models.split(","):
            for recipe in recipes.split(","):
                missing = tuple(
                    n
                    for n in range(first, first + episodes)
                    if (model, name, recipe, n) not in done
                )
                todo += [
                    Job(model, name, recipe, missing[i : i + 5]) for i in range(0, len(missing), 5)
                ]
    stored = out.with_suffix(".episodes.jsonl")
    with stored.open("w", encoding="utf-8") as f:
        for name in data.split(","):
            f.writelines(episode(name, n).to_json() + "\n" for n in range(first, first + episodes))
    new = not out.exists()
    with out.open("a", newline="", encoding="utf-8") as f, ProcessPoolExecutor(jobs) as pool:
        writer = csv.writer(f)
        if new:
            writer.writerow([x.name for x in fields(Row)])
        for i, rows in enumerate(pool.map(work, todo)):
            writer.writerows(astuple(r) for r in rows)
            f.flush()
            job = todo[i]
            gain = np.mean([r.after - r.before for r in rows])
            print(
                f"{i + 1}/{len(todo)} {job.model} {job.data} {job.recipe}: {gain:+.3f}", flush=True
            )


#: 97.5 % quantiles of Student's t for n - 1 degrees of freedom; 1.96 beyond.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 7: 2.36, 9: 2.26, 15: 2.13, 19: 2.09, 31: 2.04}


def interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half-width of the 95 % interval, in per cent."""
    n = len(values)
    if n < 2:
        return 100 * values[0], float("nan")
    t = _T[max(k for k in _T if k <= n - 1)]
    return 100 * float(np.mean(values)), 100 * t * float(np.std(values, ddof=1)) / n**0.5


def lines(rows: list[Row]) -> Iterator[str]:
    cells: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        cells[r.model, r.recipe][r.data].append(r)
    names = list(dict.fromkeys(r.data for r in rows))
    yield f"| network | recipe | RAM, B | {' | '.join(names)} | mean | gain |"
    yield "|---|---|---|" + "---|" * (len(names) + 2)
    for (model, recipe), by_data in cells.items():
        shown = []
        for name in names:
            if by_data[name]:
                mean, half = interval([r.after for r in by_data[name]])
                shown.append(f"{mean:.1f} ± {half:.1f}")
            else:
                shown.append("")
        everything = [r for rs in by_data.values() for r in rs]
        mean, half = interval([r.after for r in everything])
        gain, gain_half = interval([r.after - r.before for r in everything])
        sram = everything[-1].sram_bytes
        yield (
            f"| {model} | {recipe} | {sram:,} | {' | '.join(shown)} | {mean:.1f} ± {half:.1f} "
            f"| {gain:+.1f} ± {gain_half:.1f} |"
        )


@app.command()
def table(results: Annotated[Path, typer.Argument(help="What `run` wrote.")]) -> None:
    """Print means and 95 % intervals (Student's t over episodes) as Markdown."""
    print("\n".join(lines(read(results))))


@app.command()
def compare(
    results: Annotated[Path, typer.Argument(help="What `run` wrote.")],
    reference: Annotated[str, typer.Argument(help="Recipe to subtract, episode by episode.")],
) -> None:
    """Print what each recipe gains over another on the same episodes, as Markdown."""
    rows = read(results)
    base = {(r.model, r.data, r.episode): r.after for r in rows if r.recipe == reference}
    gains: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        if r.recipe != reference and (before := base.get((r.model, r.data, r.episode))) is not None:
            gains[r.model, r.recipe][r.data].append(r.after - before)
    names = list(dict.fromkeys(r.data for r in rows))
    print(f"| network | recipe minus {reference} | {' | '.join(names)} | all |")
    print("|---|---|" + "---|" * (len(names) + 1))
    for (model, recipe), by_data in gains.items():
        lists = [*(by_data[n] for n in names), [g for n in names for g in by_data[n]]]
        cells = ["{:+.1f} ± {:.1f}".format(*interval(x)) if x else "" for x in lists]
        print(f"| {model} | {recipe} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app()
