r"""Ways to fine-tune, on the same episodes: kept latents, and gradients through prototypes.

    python benchmarks/procedures.py run digits digits last:6 rows.csv --passes 30 --lr 0.01
    python benchmarks/procedures.py run DATA.parquet mcunet-5fps sparse-49kb rows.csv \
        --prototypes --lr 0.0003
    python benchmarks/procedures.py table rows.csv

The first compares fresh views of each image with a few that are kept, one image an update by
plain gradient descent.  With --prototypes: prototypes detached and exact, one Adam step a pass.
DATA `digits` are the handwritten digits of the demo.

A row is in the file before the next one is begun, all ways of an episode before the next episode.
Stopped or killed, the same command goes on; other settings and more episodes may join the file.
"""

from __future__ import annotations

import csv
import io
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from kilograd.data import Augment, Dataset, load_dataset, load_digits, sample_episode
from kilograd.frontend import load_model
from kilograd.intervals import Interval, interval
from kilograd.learn.recipe import compile_recipe
from kilograd.learn.training import Schedule, adapt
from kilograd.select import Budget
from kilograd.settings import OptimizerKind, Recipe

WAYS, SHOTS, QUERIES = 5, 5, 40
DIGITS = (5, 6, 7, 8, 9)  # those that the bundled network has not seen
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Setting:
    """What the ways of a table have in common; they are compared with `first`."""

    data: str
    model: str
    method: str
    first: str
    passes: int
    lr: float
    augment: str


@dataclass(frozen=True)
class Row(Setting):
    """One episode, learned in one way; accuracies in 0 ... 1."""

    way: str
    episode: int
    before: float
    after: float
    macs_training: int
    sram_bytes: int
    cpu_seconds: float

    @property
    def setting(self) -> Setting:
        """What it has in common with others."""
        return Setting(*(getattr(self, f.name) for f in fields(Setting)))


def kept(method: str) -> dict[str, Recipe]:
    """Fresh views, and some that are kept."""
    return {
        f"{views} kept" if views else "fresh": Recipe(method, WAYS, cache=views)
        for views in (0, 1, 2, 4, 8)
    }


def prototypes(method: str) -> dict[str, Recipe]:
    """Prototypes detached, and exact."""
    return {
        "exact" if exact else "detached": Recipe(
            method,
            WAYS,
            optimizer=OptimizerKind.ADAM,
            accumulate=1000,
            prototype_gradients=exact,
        )
        for exact in (False, True)
    }


def read(out: Path) -> list[Row]:
    """Read the rows of a file; a last line that somebody was killed in is none, and goes."""
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        out.write_text(whole, encoding="utf-8")
    types = {"int": int, "float": float, "str": str}
    return [
        Row(**{f.name: types[str(f.type)](r[f.name]) for f in fields(Row)})
        for r in csv.DictReader(io.StringIO(whole))
    ]


def append(out: Path, row: Row) -> None:
    """Write a row, under the names of its columns if it is the first."""
    with out.open("a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, asdict(row), lineterminator="\n")
        if not f.tell():
            writer.writeheader()
        writer.writerow(asdict(row))


def load(data: str) -> Dataset:
    """Load a data set."""
    return load_digits(DIGITS) if data == "digits" else load_dataset(Path(data))


@app.command()
def run(
    data: str,
    model: str,
    method: str,
    out: Path,
    lr: Annotated[float, typer.Option()],
    passes: int = 40,
    episodes: int = 40,
    seed: Annotated[int, typer.Option(help="Of the first episode.")] = 0,
    augment: Augment = Augment.NOFLIP,
    through_prototypes: Annotated[bool, typer.Option("--prototypes")] = False,  # noqa: FBT002
) -> None:
    """Learn what the file does not hold yet."""
    dataset, network = load(data), load_model(model)
    ways = (prototypes if through_prototypes else kept)(method)
    setting = Setting(
        dataset.name, network.name, method, next(iter(ways)), passes, lr, augment.value
    )
    done = {(r.setting, r.way, r.episode) for r in read(out)}
    missing = [
        (number, way)
        for number in range(seed, seed + episodes)
        for way in ways
        if (setting, way, number) not in done
    ]
    needed = dict.fromkeys(way for _, way in missing)
    programs = {way: compile_recipe(network, ways[way], Budget()) for way in needed}
    for number, way in missing:
        episode = sample_episode(dataset, ways=WAYS, shots=SHOTS, queries=QUERIES, seed=number)
        start = time.process_time()
        s = adapt(programs[way], dataset, episode, Schedule(passes, lr, augment, number)).summary
        seconds = round(time.process_time() - start, 3)
        accuracies = s.accuracy_before, s.accuracy_after
        costs = s.macs_training, s.sram_bytes, seconds
        row = Row(*asdict(setting).values(), way, number, *accuracies, *costs)
        append(out, row)
        print(f"{number} {way}: {row.before:.1%} -> {row.after:.1%} in {seconds} s", flush=True)


@app.command()
def table(out: Path) -> None:
    """Print a table for each setting, of the episodes that have every way."""
    rows = read(out)
    for setting in dict.fromkeys(r.setting for r in rows):
        mine = [r for r in rows if r.setting == setting]
        by_way: dict[str, dict[int, Row]] = defaultdict(dict)
        for r in mine:
            by_way[r.way][r.episode] = r
        numbers = sorted(set.intersection(*map(set, by_way.values())))
        if numbers:
            print(
                "\n".join(lines(setting, {w: [x[n] for n in numbers] for w, x in by_way.items()}))
            )


def lines(setting: Setting, by_way: dict[str, list[Row]]) -> Iterator[str]:
    """Yield the table of a setting; differences are to the first way, episode by episode."""
    s, first = setting, by_way[setting.first]
    about = f"{s.data}, {s.model}, `{s.method}`, {s.passes} passes at {s.lr:g}"
    yield (
        f"| {about} | episodes | after, % | less {s.first} | MACs of training | RAM, B | CPU s |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|"
    count = len(first)
    yield f"| before | {count} | {cell(interval([100 * r.before for r in first]))} | | | | |"
    for way, own in by_way.items():
        after = cell(interval([100 * r.after for r in own]))
        gains = [100 * (a.after - b.after) for a, b in zip(own, first, strict=True)]
        less = "" if own is first else cell(interval(gains), "+")
        seconds = sum(r.cpu_seconds for r in own) / count
        size = f"{own[0].macs_training / 1e6:,.0f} M | {own[0].sram_bytes:,} | {seconds:.2f}"
        yield f"| {way} | {count} | {after} | {less} | {size} |"
    yield ""


def cell(of: Interval, sign: str = "") -> str:
    """Write a mean and its interval."""
    half = "" if of.half is None else f" ± {of.half:.1f}"
    return f"{of.mean:{sign}.1f}{half}"


if __name__ == "__main__":
    app()
