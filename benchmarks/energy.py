"""Seconds and joules of adapting to a task, by a model: docs/results/studies/energy.md.

    python benchmarks/energy.py count gtsrb.parquet docs/results/data/energy.csv
    python benchmarks/energy.py table docs/results/data/energy.csv

`count` adds the instructions of each call on emulated processors, as `adaptation.py` does it, for
three networks and five methods; it goes on where it stopped.  `table` multiplies them by how often
learning makes a call, by cycles for an instruction, over the clock, and by a power.  Needs the
model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import adaptation
import typer
from rows import append, grouped, head, line, lines_of, stored
from script import script

from kilograd.passes import EntryPoint
from kilograd.targets import AARCH64, CORTEX_M7
from kilograd.targets.target import Target

app = typer.Typer(add_completion=False)

#: The update plans that the 256 KB paper calls 100 KB.
PLANS = {"mcunet-5fps": "sparse-99kb", "mbv2-w0.35": "sparse-99kb", "proxyless-w0.3": "sparse-98kb"}
METHODS = ("full", "last", "tinytl", "sparse", "tinytrain")
TARGETS: tuple[Target, ...] = (CORTEX_M7, AARCH64)
LOOK = "look"


@dataclass(frozen=True)
class Row:
    """What a call takes on a target, and how often adapting to a task makes it."""

    target: str
    model: str
    method: str
    entry: str
    calls: int
    instructions: float
    ram: int

    @property
    def total(self) -> float:
        """Instructions of all calls."""
        return self.calls * self.instructions


@dataclass(frozen=True)
class About:
    """A number, and between what it lies."""

    low: float
    about: float
    high: float

    def __mul__(self, other: About) -> About:
        return About(self.low * other.low, self.about * other.about, self.high * other.high)

    def times(self, factor: float) -> About:
        """Return it times an exact number."""
        return About(self.low * factor, self.about * factor, self.high * factor)

    def shown(self, digits: int = 0) -> str:
        """Write it with its range."""
        low, about, high = (f"{x:,.{digits}f}" for x in (self.low, self.about, self.high))
        return f"{about} ({low} to {high})"


@dataclass(frozen=True)
class Device:
    """A board: `cycles` for an instruction of one core, `watts` of all of it while that is busy."""

    name: str
    target: str
    clock: float
    cycles: About
    watts: About


#: Where each figure is from: docs/results/studies/energy.md.
DEVICES = (
    Device("STM32F746", "cortex-m7", 216e6, About(1.1, 1.26, 2.0), About(0.28, 0.35, 0.6)),
    Device("Pi Zero 2 W, one core", "aarch64", 1e9, About(1.2, 1.6, 2.5), About(0.8, 1.0, 1.4)),
    Device("Jetson Nano, one core", "aarch64", 1.43e9, About(0.5, 0.7, 1.0), About(2.0, 3.0, 5.0)),
)


@app.command()
def count(data: Path, out: Path, seed: int = 0) -> None:
    """Count what is missing in a file of rows."""
    done = {(r.target, r.model, r.method) for r in lines_of(out, Row)} if out.exists() else set()
    for model, plan in PLANS.items():
        missing = [
            (target, method)
            for target in TARGETS
            for method in METHODS
            if (target.name, model, method) not in done
        ]
        if not missing:
            continue
        task = adaptation.Task(data, seed, model)
        for target, method in missing:
            name = plan if method == "sparse" else method
            append(out, list(_counted(task, target, name, method)))
            typer.echo(f"{target.name}, {model}, {method}")


def _counted(task: adaptation.Task, target: Target, name: str, method: str) -> Iterator[Row]:
    way = task.compile(name, 0)
    load = adaptation.load(way, task.support, target)
    made = adaptation.calls(way, len(task.support.labels))
    for entry, each in load.each.items():
        yield Row(target.name, task.model.name, method, entry, made[entry], each, load.ram)
    if method == "tinytrain":
        asked, n = adaptation.look(task, target), len(task.support.labels)
        each = asked.each[EntryPoint.ENROL] + asked.each[EntryPoint.INSPECT]
        yield Row(target.name, task.model.name, method, LOOK, n, each, asked.ram)


@app.command()
def table(rows: Path) -> None:
    """Print time and energy on each device, and what training everything takes beside."""
    found = stored(rows, Row)
    for device in DEVICES:
        mine = [r for r in found if r.target == device.target]
        texts = (device.name, "method")
        numbers = ("G instructions", "of these the look", "s", "J", "`full` takes")
        typer.echo("\n" + head(*texts, *numbers, texts=len(texts)))
        full: dict[str, float] = {}
        for (model, method), some in grouped(mine, lambda r: (r.model, r.method)).items():
            total = sum(r.total for r in some)
            full.setdefault(model, total)
            look = sum(r.total for r in some if r.entry == LOOK)
            seconds = device.cycles.times(total / device.clock)
            typer.echo(
                line(
                    model,
                    f"`{PLANS[model] if method == 'sparse' else method}`",
                    f"{total / 1e9:.1f}",
                    f"{look / total:.1%}" if look else "",
                    seconds.shown(),
                    (seconds * device.watts).shown(),
                    f"{full[model] / total:.1f} x",
                )
            )
    typer.echo("\n" + head("a step, 64-bit Arm", "`full`", "`sparse`", "ratio", texts=1))
    steps = {
        (r.model, r.method): r.instructions
        for r in found
        if r.target == AARCH64.name and r.entry == EntryPoint.STEP
    }
    for model in PLANS:
        dense, sparse = steps[model, "full"], steps[model, "sparse"]
        millions = (f"{x / 1e6:.1f} M" for x in (dense, sparse))
        typer.echo(line(model, *millions, f"{dense / sparse:.2f} x"))


if __name__ == "__main__":
    script(app)
