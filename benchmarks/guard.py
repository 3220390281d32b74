"""What the guard gives and takes: the tables of docs/results/studies/guard.md.

    python benchmarks/guard.py run gtsrb,dtd10 mcunet-5fps guard.jsonl \
        --methods tinytrain@lr=0.001,optimizer=rowrms,rows=true,cache=4,compute=15% --episodes 20
    python benchmarks/guard.py table guard.jsonl

For each episode: accuracy on the query before training and after some passes, and which images of
the support are right when they are held out, after the same passes.  What the guard would have done
follows from that.  A run that was interrupted goes on where it stopped.
Needs the model and data folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from rows import grouped, line, percent, shown
from script import script
from shared import load_images, load_network

from kilograd.data import Draw
from kilograd.errors import InputError
from kilograd.learn.adapt import compile_for, load_task
from kilograd.learn.guard import Trial, passes_that_help, trials
from kilograd.learn.training import enrol, predict, training
from kilograd.settings import Settings, split_methods
from kilograd.targets import build_host

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


def learned(name: str, data: str, method: str, seed: int, ways: int) -> Row:
    """Learn an episode; an alphabet or a domain is taken whole."""
    model, images = load_network(name), load_images(data)
    enough = len(images.classes) >= ways and images.groups is None
    episode = Draw(ways=ways if enough else None)(images, seed)
    task = load_task(images, episode, model.preprocess)
    settings = Settings().varied(method).numbered(seed)
    compiled = compile_for(model, task, settings)
    host = build_host(compiled.program)
    found = trials(host, compiled, task.support, settings.schedule)
    looks = {t.passes for t in found}
    accuracy = []

    def look(done: int) -> None:
        if done in looks:
            enrol(host, task.support)
            accuracy.append(float((predict(host, task.query.images) == task.query.labels).mean()))

    look(0)
    for done, _ in enumerate(training(host, compiled, task.support, settings.schedule), start=1):
        look(done)
    right = tuple("".join("01"[x] for x in t.right) for t in found)
    passes = tuple(t.passes for t in found)
    return Row(name, data, method, seed, passes, tuple(accuracy), right)


def read(path: Path) -> list[Row]:
    """Read results."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [msgspec.convert(json.loads(x), Row) for x in lines]


@app.command()
def run(
    data: str,
    model: str,
    out: Path,
    methods: Annotated[str, typer.Option()],
    episodes: int = 20,
    ways: int = 5,
) -> None:
    """Run what is missing, appending JSON lines."""
    done = {(r.model, r.data, r.recipe, r.episode) for r in read(out)}
    with out.open("a", encoding="utf-8") as f:
        for seed, name, method in product(range(episodes), data.split(","), split_methods(methods)):
            if (model, name, method, seed) not in done:
                row = learned(model, name, method, seed, ways)
                f.write(json.dumps(asdict(row)) + "\n")
                f.flush()
                print(f"{row.data} {row.episode}: {row.accuracy}", flush=True)


def table_lines(rows: list[Row]) -> Iterator[str]:
    """Yield what each rule gains over no training, in points."""
    names = list(dict.fromkeys(r.data for r in rows))
    yield line("recipe", "passes", *names, "all", "trained whole")
    yield "|---" * (len(names) + 4) + "|"
    for recipe, mine in grouped(rows, lambda r: r.recipe).items():
        chosen = {
            "all": [len(r.passes) - 1 for r in mine],
            **{f"guarded, {c}": [r.guarded(c) for r in mine] for c in CHANCES},
            "best, after the fact": [int(np.argmax(r.accuracy)) for r in mine],
        }
        for title, places in chosen.items():
            gains = [r.accuracy[p] - r.accuracy[0] for r, p in zip(mine, places, strict=True)]
            by_data = grouped(zip(mine, gains, strict=True), lambda x: x[0].data)
            each = [[gain for _, gain in by_data.get(name, [])] for name in names]
            cells = [f"{100 * np.mean(some):+.1f}" if some else "" for some in each]
            whole = np.mean([p == len(r.passes) - 1 for r, p in zip(mine, places, strict=True)])
            yield line(f"`{recipe}`", title, *cells, shown(percent(gains), "+"), f"{whole:.0%}")


@app.command()
def table(results: Path) -> None:
    """Print the gain in points over no training, by data set, as Markdown."""
    if not (rows := read(results)):
        raise InputError(f"{results}: holds no rows; give what `run` has written")
    print("\n".join(table_lines(rows)))


if __name__ == "__main__":
    script(app)
