"""Accuracy before and after learning: the table of docs/results/studies/few-shot.md.

    python benchmarks/few_shot.py run flowers89,gtsrb mcunet-5fps none,last,sparse-49kb,tinytrain \
        results.csv --episodes 20 --sram 128K --compute 15%
    python benchmarks/few_shot.py table results.csv --against tinytrain
    python benchmarks/few_shot.py static cifar100,pacs mcunet-5fps tinytrain plan.json --sram 128K

A recipe is METHOD[@LR[@OPTIMIZER[@ITERATIONS[@HEAD[@AUGMENT[@rows[@VIEWS]]]]]]].  With VIEWS, what
the frozen layers leave of so many views of each image is kept, which is faster; bytes and MACs are
those of the program that keeps nothing.

Episode e of a data set is drawn with seed e and stored beside the results, from where it is taken
the next time; a run that was interrupted goes on where it stopped, and more recipes may be added to
it.  A recipe that is over the budget is named and left out.  Needs the data and model folders:
KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kilograd.cli import Options
from kilograd.data import Augment, Dataset, Episode, load_dataset, sample_episode
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.ir import Array
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import Schedule, enrol, fit, load_samples, predict
from kilograd.select import Budget, Demand, Inspect, strategy, write_plan
from kilograd.select.greedy import INSPECTED
from kilograd.settings import HeadKind, OptimizerKind, Recipe
from kilograd.targets import HostProgram, build_host

Question = Callable[[tuple[str, ...]], Mapping[str, Array]]

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))
WAYS, SHOTS, QUERIES = 10, 5, 15
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """One episode of one recipe.  `layers`: those that learn, numbered as published plans do."""

    model: str
    data: str
    recipe: str
    episode: int
    before: float
    after: float
    sram_bytes: int
    budget: str = ""
    backward_macs: int = 0
    learned: int = 0
    layers: str = ""


@dataclass(frozen=True)
class Limits:
    """The budget, as on the command line of kilograd."""

    sram: str | None
    compute: str | None
    channels: float | None

    def __str__(self) -> str:
        given = {"sram": self.sram, "compute": self.compute, "channels": self.channels}
        return " ".join(f"{k}={v}" for k, v in given.items() if v is not None)

    def budget(self, model: str) -> Budget:
        return Options(
            str(SHARED / "models" / model),
            sram=self.sram,
            compute=self.compute,
            channels=self.channels,
        ).budget


@dataclass(frozen=True)
class Job:
    """What a worker is asked for: some recipes on one episode."""

    model: str
    data: str
    recipes: tuple[str, ...]
    limits: Limits
    episode: Episode


@cache
def dataset(name: str) -> Dataset:
    return load_dataset(SHARED / "data" / f"{name}.parquet")


@cache
def model(name: str) -> Model:
    return load_model(str(SHARED / "models" / name))


def episode(name: str, number: int, ways: int = WAYS) -> Episode:
    data = dataset(name)
    enough = len(data.classes) >= ways and data.groups is None
    return sample_episode(
        data, ways=ways if enough else None, shots=SHOTS, queries=QUERIES, seed=number
    )


def parse(text: str, ways: int) -> tuple[Recipe, float, int, Augment]:
    method, lr, optimizer, iterations, head, augment, rows, views, *_ = [
        *text.split("@"),
        *[""] * 7,
    ]
    recipe = Recipe(
        method,
        ways,
        HeadKind(head) if head else None,
        OptimizerKind(optimizer) if optimizer else OptimizerKind.SGD,
        rows=rows == "rows",
        cache=int(views or 0),
    )
    return recipe, float(lr or 0.003), int(iterations or 10), Augment(augment or "full")


_fixed: dict[tuple[str, Recipe, Budget], Compiled] = {}
"""Programs that depend on no images: compiled once."""
_built: dict[tuple[int, int], tuple[Compiled, HostProgram]] = {}
"""Those of them that keep views, by what they were made from."""
_prices: dict[str, dict[Hashable, Demand]] = defaultdict(dict)
_inspections: dict[str, dict[Hashable, HostProgram]] = defaultdict(dict)


def compiled(name: str, recipe: Recipe, budget: Budget, inspect: Inspect) -> Compiled:
    """Compile a recipe for an episode, or take what does not depend on it."""
    key = (name, recipe, budget)
    if key in _fixed:
        return _fixed[key]
    asked = []

    def noted(question: Question) -> Question:
        def ask(layers: tuple[str, ...]) -> Mapping[str, Array]:
            asked.append(layers)
            return question(layers)

        return ask

    noting = Inspect(noted(inspect.fisher), noted(inspect.steps))
    made = compile_recipe(model(name), recipe, budget, noting, _prices[name])
    if not asked:
        _fixed[key] = made
    return made


def built(made: Compiled, views: int) -> tuple[Compiled, HostProgram]:
    """Build what is trained: where views are kept, what learns is compiled once more for that."""
    if (id(made), views) in _built:
        return _built[id(made), views]
    runs = made
    if views and made.selection.learn and made.selection.graph is None:
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder) / "plan.json"
            write_plan(plan, made.model.name, made.selection)
            same = replace(made.recipe, method=str(plan), head=made.recipe.head_kind, cache=views)
            runs = compile_recipe(made.model, same, Budget())
    pair = runs, build_host(runs.program, keep=False)
    if any(made is known for known in _fixed.values()):
        _built[id(made), views] = pair
    return pair


def work(job: Job) -> list[Row | str]:
    """Return the row of each recipe, or why it cannot be run."""
    return list(rows(job))


def rows(job: Job) -> Iterator[Row | str]:
    """Run the recipes of a job; those that come to the same program are run once."""
    e, network = job.episode, model(job.model)
    support = load_samples(dataset(job.data), e.support, e.support_labels, network.preprocess)
    query = load_samples(dataset(job.data), e.query, e.query_labels, network.preprocess)
    inspectors: dict[Schedule, Inspect] = {}
    known: dict[tuple[object, ...], tuple[float, float]] = {}
    for text in job.recipes:
        recipe, lr, iterations, augment = parse(text, len(e.classes))
        schedule = Schedule(iterations, lr, augment, e.seed)
        if schedule not in inspectors:
            inspectors[schedule] = inspector(network, support, schedule, _inspections[job.model])
        budget = job.limits.budget(job.model)
        try:
            made = compiled(job.model, replace(recipe, cache=0), budget, inspectors[schedule])
        except InputError as error:
            yield str(error)
            continue
        learn = tuple(sorted(made.selection.learn.items()))
        grown = made.selection.graph and made.selection.graph.nodes
        same = (learn, grown, replace(recipe, method="", head=recipe.head_kind), schedule)
        if same not in known:
            runs, host = built(made, recipe.cache)
            host.reset()
            enrol(host, support)
            before = float((predict(host, query.images) == query.labels).mean())
            fit(host, runs, support, schedule)
            enrol(host, support)
            known[same] = before, float((predict(host, query.images) == query.labels).mean())
        names = {parameter.layer for parameter in made.selection.learn}
        learning = [i for i, layer in enumerate(network.layers) if layer in names]
        yield Row(
            job.model,
            job.data,
            text,
            e.seed,
            *known[same],
            made.program.sram_bytes,
            str(job.limits),
            made.backward_macs,
            made.learned_parameters,
            " ".join(map(str, learning)),
        )


def read(path: Path) -> list[Row]:
    """Read results; those from before there were budgets lack the last columns."""
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
                r.get("budget", ""),
                int(r.get("backward_macs", 0)),
                int(r.get("learned", 0)),
                r.get("layers", ""),
            )
            for r in csv.DictReader(f)
        ]


def stored_episodes(
    path: Path, names: list[str], numbers: range, ways: int
) -> dict[tuple[str, int], Episode]:
    """Return the episodes stored beside results, after drawing and storing those that lack."""
    known: dict[tuple[str, int], Episode] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            e = Episode.from_json(line)
            known[e.dataset, e.seed] = e
    with path.open("a", encoding="utf-8") as f:
        for name in names:
            for number in numbers:
                if (name, number) not in known:
                    known[name, number] = episode(name, number, ways)
                    f.write(known[name, number].to_json() + "\n")
    return known


def check(models: list[str], recipes: list[str], limits: Limits, out: Path) -> None:
    """Refuse bad input before anything runs."""
    header = ",".join(x.name for x in fields(Row))
    begun = out.read_text(encoding="utf-8").partition("\n")[0].strip() if out.exists() else ""
    if begun not in {"", header}:
        raise typer.BadParameter(f"{out} has other columns than {header}; give another file")
    try:
        for network in models:
            limits.budget(network)
        for recipe in recipes:
            strategy(parse(recipe, WAYS)[0].method)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def run(
    data: str,
    models: str,
    recipes: str,
    out: Path,
    episodes: int = 20,
    first: int = 0,
    ways: int = WAYS,
    jobs: int = 2,
    sram: str | None = None,
    compute: str | None = None,
    channels: float | None = None,
) -> None:
    """Run what is missing, appending to a CSV file."""
    limits = Limits(sram, compute, channels)
    check(models.split(","), recipes.split(","), limits, out)
    done = {(r.model, r.data, r.recipe, r.budget, r.episode) for r in read(out)}
    names, numbers = data.split(","), range(first, first + episodes)
    stored = stored_episodes(out.with_suffix(".episodes.jsonl"), names, numbers, ways)
    todo = []
    for n in numbers:
        for name in names:
            for network in models.split(","):
                missing = tuple(
                    recipe
                    for recipe in recipes.split(",")
                    if (network, name, recipe, str(limits), n) not in done
                )
                if missing:
                    todo.append(Job(network, name, missing, limits, stored[name, n]))
    new = not out.exists() or not out.stat().st_size
    with out.open("a", newline="", encoding="utf-8") as f, ProcessPoolExecutor(jobs) as pool:
        writer = csv.writer(f)
        if new:
            writer.writerow([x.name for x in fields(Row)])
        for i, found in enumerate(pool.map(work, todo)):
            job = todo[i]
            print(f"{i + 1}/{len(todo)} {job.model} {job.data} {job.episode.seed}", flush=True)
            for recipe, row in zip(job.recipes, found, strict=True):
                if isinstance(row, str):
                    print(f"  {recipe}: left out: {row}", flush=True)
                else:
                    writer.writerow(astuple(row))
                    print(f"  {recipe}: {row.after - row.before:+.3f}", flush=True)
            f.flush()


@app.command()
def static(
    data: str,
    network: str,
    recipe: str,
    out: Path,
    episodes: int = 6,
    first: int = 100,
    sram: str | None = None,
    compute: str | None = None,
    channels: float | None = None,
) -> None:
    """Write the plan that a recipe makes of the mean information over many episodes.

    Each episode counts the same: its information is divided by its sum first.
    """
    limits = Limits(sram, compute, channels)
    check([network], [recipe], limits, out.with_suffix(".csv"))
    parsed, lr, _, augment = parse(recipe, WAYS)
    found = model(network)
    layers = found.layers[-INSPECTED:]
    total = {x: np.zeros(0) for x in layers}
    for name in data.split(","):
        for n in range(first, first + episodes):
            e = episode(name, n)
            support = load_samples(dataset(name), e.support, e.support_labels, found.preprocess)
            fisher = inspector(found, support, Schedule(1, lr, augment, n)).fisher(layers)
            sum_ = sum(float(v.sum(dtype="float64")) for v in fisher.values())
            total = {x: fisher[x] / sum_ + (total[x] if total[x].size else 0) for x in layers}
    mean = {x: v.astype(np.float32) for x, v in total.items()}

    def unknown(layers: tuple[str, ...]) -> Mapping[str, Array]:
        raise typer.BadParameter(f"{recipe} asks for steps, of which there is no mean")

    inspect = Inspect(lambda asked: {x: mean[x] for x in asked}, unknown)
    made = compile_recipe(found, replace(parsed, cache=0), limits.budget(network), inspect)
    write_plan(out, found.name, made.selection)
    print(f"{out}: {made.program.sram_bytes:,} B, {made.backward_macs:,} MACs backward")


#: 97.5 % quantiles of Student's t for n - 1 degrees of freedom; 1.96 beyond.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 7: 2.36, 9: 2.26, 15: 2.13, 19: 2.09, 31: 2.04}


def interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half-width of the 95 % interval, in per cent."""
    n = len(values)
    if n < 2:
        return 100 * values[0], float("nan")
    t = _T[max(k for k in _T if k <= n - 1)]
    return 100 * float(np.mean(values)), 100 * t * float(np.std(values, ddof=1)) / n**0.5


def lines(rows: list[Row], against: str | None) -> Iterator[str]:
    cells: dict[tuple[str, str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for r in rows:
        cells[r.model, r.recipe, r.budget][r.data].append(r)
    names = list(dict.fromkeys(r.data for r in rows))
    budgets = any(r.budget for r in rows)
    last = f"against {against}" if against else "gain"
    head = ["network", "recipe", *(["budget"] if budgets else []), "RAM, B", *names, "mean", last]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    other = {
        (r.model, r.budget, r.data, r.episode): r.after
        for r in rows
        if against in {r.recipe, r.recipe.partition("@")[0]}
    }
    for (network, recipe, budget), by_data in cells.items():
        shown = [
            "{:.1f} ± {:.1f}".format(*interval([r.after for r in by_data[name]]))
            if by_data[name]
            else ""
            for name in names
        ]
        everything = [r for rs in by_data.values() for r in rs]
        shown.append("{:.1f} ± {:.1f}".format(*interval([r.after for r in everything])))
        compared = [
            (r.after, other.get((r.model, r.budget, r.data, r.episode)) if against else r.before)
            for r in everything
        ]
        differences = [a - b for a, b in compared if b is not None]
        shown.append("{:+.1f} ± {:.1f}".format(*interval(differences)) if differences else "")
        sram = max(r.sram_bytes for r in everything)
        cell = [network, recipe, *([budget] if budgets else []), f"{sram:,}", *shown]
        yield f"| {' | '.join(cell)} |"


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="What `run` wrote.")],
    against: Annotated[
        str | None,
        typer.Option(help="A recipe or method: show differences to it, episode by episode."),
    ] = None,
) -> None:
    """Print means and 95 % intervals (Student's t over episodes) as Markdown."""
    rows = read(results)
    if against is not None and not any(
        against in {r.recipe, r.recipe.partition("@")[0]} for r in rows
    ):
        raise typer.BadParameter(f"--against {against}: there are no results of it in {results}")
    print("\n".join(lines(rows, against)))


if __name__ == "__main__":
    app()
