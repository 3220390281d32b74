"""What the guard gives and takes: the tables of docs/results/studies/guard.md.

    python benchmarks/guard.py run gtsrb,dtd10 mcunet-5fps tinytrain@0.001@rowrms@@@@rows@4 \
        guard.jsonl --compute 15% --episodes 20
    python benchmarks/guard.py table guard.jsonl

For each episode: accuracy on the query before training and after some passes, and which images of
the support are right when they are held out, after the same passes.  What the guard would have done
follows from that.  A run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import typer
from few_shot import (
    Limits,
    built,
    check,
    compiled,
    dataset,
    episode,
    interval,
    model,
    parse,
)

from kilograd.learn.guard import Trial, passes_that_help, trials
from kilograd.learn.inspect import inspector
from kilograd.learn.training import Schedule, enrol, load_samples, predict, training

#: Standard deviations by which lost images must be ahead.
CHANCES = (0.0, 0.5, 1.0, 1.5, 2.0)
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """One episode; `passes`, `accuracy` on the query and held-out images `right` ("1") at each."""

    model: str
    data: str
    recipe: str
    episode: int
    passes: tuple[int, ...]
    accuracy: tuple[float, ...]
    right: tuple[str, ...]

    def guarded(self, chance: float) -> int:
        """Return the place of the passes that the guard chooses."""
        images = [tuple(x == "1" for x in r) for r in self.right]
        found = tuple(Trial(p, r) for p, r in zip(self.passes, images, strict=True))
        return self.passes.index(passes_that_help(found, chance))


@dataclass(frozen=True)
class Job:
    """What a worker is asked for."""

    model: str
    data: str
    recipe: str
    limits: Limits
    number: int
    ways: int


def work(job: Job) -> Row:
    e, network = episode(job.data, job.number, job.ways), model(job.model)
    recipe, lr, iterations, augment = parse(job.recipe, len(e.classes))
    schedule = Schedule(iterations, lr, augment, e.seed)
    support = load_samples(dataset(job.data), e.support, e.support_labels, network.preprocess)
    query = load_samples(dataset(job.data), e.query, e.query_labels, network.preprocess)
    budget, inspect = job.limits.budget(job.model), inspector(network, support, schedule)
    made = compiled(job.model, replace(recipe, cache=0), budget, inspect)
    runs, host = built(made, recipe.cache)
    found = trials(host, runs, support, schedule)
    accuracy = []

    def look() -> None:
        enrol(host, support)
        accuracy.append(float((predict(host, query.images) == query.labels).mean()))

    look()
    for done, _ in enumerate(training(host, runs, support, schedule), start=1):
        if done in {t.passes for t in found}:
            look()
    right = ("".join("01"[x] for x in t.right) for t in found)
    passes = tuple(t.passes for t in found)
    return Row(job.model, job.data, job.recipe, e.seed, passes, tuple(accuracy), tuple(right))


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [
        Row(
            x["model"],
            x["data"],
            x["recipe"],
            x["episode"],
            tuple(x["passes"]),
            tuple(x["accuracy"]),
            tuple(x["right"]),
        )
        for x in lines
    ]


@app.command()
def run(
    data: str,
    network: str,
    recipe: str,
    out: Path,
    episodes: int = 20,
    ways: int = 5,
    jobs: int = 2,
    sram: str | None = None,
    compute: str | None = None,
) -> None:
    """Run what is missing, appending JSON lines."""
    limits = Limits(sram, compute, None)
    check([network], [recipe], limits, Path("-"))
    done = {(r.model, r.data, r.recipe, r.episode) for r in read(out)}
    todo = [
        Job(network, name, recipe, limits, n, ways)
        for n in range(episodes)
        for name in data.split(",")
        if (network, name, recipe, n) not in done
    ]
    with out.open("a", encoding="utf-8") as f, ProcessPoolExecutor(jobs) as pool:
        for row in pool.map(work, todo):
            f.write(json.dumps(asdict(row)) + "\n")
            f.flush()
            print(f"{row.data} {row.episode}: {row.accuracy}", flush=True)


def lines(rows: list[Row]) -> Iterator[str]:
    names = list(dict.fromkeys(r.data for r in rows))
    yield f"| recipe | passes | {' | '.join(names)} | all | trained whole |"
    yield "|---" * (len(names) + 4) + "|"
    by_recipe: dict[str, list[Row]] = defaultdict(list)
    for r in rows:
        by_recipe[r.recipe].append(r)
    for recipe, mine in by_recipe.items():
        chosen = {
            "all": [len(r.passes) - 1 for r in mine],
            **{f"guarded, {c}": [r.guarded(c) for r in mine] for c in CHANCES},
            "best, after the fact": [int(np.argmax(r.accuracy)) for r in mine],
        }
        for title, places in chosen.items():
            gains = [r.accuracy[p] - r.accuracy[0] for r, p in zip(mine, places, strict=True)]
            cells = []
            for name in names:
                some = [g for g, r in zip(gains, mine, strict=True) if r.data == name]
                cells.append(f"{100 * np.mean(some):+.1f}" if some else "")
            whole = np.mean([p == len(r.passes) - 1 for r, p in zip(mine, places, strict=True)])
            total = "{:+.1f} ± {:.1f}".format(*interval(gains))
            yield f"| `{recipe}` | {title} | {' | '.join(cells)} | {total} | {whole:.0%} |"


@app.command()
def table(results: Path) -> None:
    """Print the gain in points over no training, by data set, as Markdown."""
    print("\n".join(lines(read(results))))


if __name__ == "__main__":
    app()
