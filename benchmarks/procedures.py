r"""Ways to fine-tune, on the same episodes: kept latents, and gradients through prototypes.

    python benchmarks/procedures.py run digits digits last:6 rows.csv --passes 30 --lr 0.01
    python benchmarks/procedures.py run DATA.parquet mcunet-5fps sparse-49kb rows.csv \
        --prototypes --lr 0.0003
    python benchmarks/procedures.py table rows.csv

The first compares fresh views of each image with a few that are kept, one image an update by
plain gradient descent.  With --prototypes: prototypes detached and exact, one Adam step a pass.
DATA `digits` are the handwritten digits 5 to 9 of scikit-learn.

A row is in the file before the next one is begun, all ways of an episode before the next episode.
Stopped or killed, the same command goes on; other settings and more episodes may join the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rows import append, grouped, head, line, lines_of, shown, stored
from script import script

from kilograd.data import Augment, load_dataset, load_digits
from kilograd.frontend import load_model
from kilograd.intervals import interval
from kilograd.learn.adapt import compile_for, load_task, train
from kilograd.settings import Settings

SHARED = Settings.of(ways=5, shots=5, queries=40)
DIGITS = (5, 6, 7, 8, 9)  # those that the bundled network has not seen

#: Ways and their options; the others are compared with the first.
VIEWS = {"fresh": "cache=0"} | {f"{n} kept": f"cache={n}" for n in (1, 2, 4, 8)}
PROTOTYPES = {
    "detached": "optimizer=adam,accumulate=1000",
    "exact": "optimizer=adam,accumulate=1000,prototype_gradients=true",
}
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
    dataset = load_digits(DIGITS) if data == "digits" else load_dataset(Path(data))
    network = load_model(model)
    ways = PROTOTYPES if through_prototypes else VIEWS
    setting = Setting(dataset.name, network.name, method, next(iter(ways)), passes, lr, augment)
    done = {(r.setting, r.way, r.episode) for r in lines_of(out, Row)}
    for number, (way, options) in product(range(seed, seed + episodes), ways.items()):
        if (setting, way, number) in done:
            continue
        own = f"{method}@{options},lr={lr},iterations={passes},augment={augment}"
        settings = SHARED.varied(own).numbered(number)
        task = load_task(dataset, settings.draw(dataset, number), network.preprocess)
        compiled = compile_for(network, task, settings)
        start = time.process_time()
        s = train(compiled, task, settings.schedule).summary
        seconds = round(time.process_time() - start, 3)
        accuracies = s.accuracy_before, s.accuracy_after
        costs = s.macs_training, s.sram_bytes, seconds
        append(out, [Row(*asdict(setting).values(), way, number, *accuracies, *costs)])
        print(f"{number} {way}: {s.accuracy_after:.1%} in {seconds} s", flush=True)


@app.command()
def table(out: Path) -> None:
    """Print a table for each setting, of the episodes that have every way."""
    for setting, mine in grouped(stored(out, Row), lambda r: r.setting).items():
        by_way = {
            way: {r.episode: r for r in own} for way, own in grouped(mine, lambda r: r.way).items()
        }
        numbers = sorted(set.intersection(*map(set, by_way.values())))
        if numbers:
            every = {way: [own[n] for n in numbers] for way, own in by_way.items()}
            print("\n".join(lines(setting, every)))


def lines(s: Setting, by_way: dict[str, list[Row]]) -> Iterator[str]:
    """Yield the table of a setting; differences are to the first way, episode by episode."""
    about = f"{s.data}, {s.model}, `{s.method}`, {s.passes} passes at {s.lr:g}"
    costs = "MACs of training", "RAM, B", "CPU s"
    yield head(about, "episodes", "after, %", f"less {s.first}", *costs, texts=1)
    first = by_way[s.first]
    count = len(first)
    yield f"| before | {count} | {shown(interval([100 * r.before for r in first]))} | | | | |"
    for way, own in by_way.items():
        gains = [100 * (a.after - b.after) for a, b in zip(own, first, strict=True)]
        yield line(
            way,
            count,
            shown(interval([100 * r.after for r in own])),
            "" if own is first else shown(interval(gains), "+"),
            f"{own[0].macs_training / 1e6:,.0f} M",
            f"{own[0].sram_bytes:,}",
            f"{sum(r.cpu_seconds for r in own) / count:.2f}",
        )
    yield ""


if __name__ == "__main__":
    script(app)
