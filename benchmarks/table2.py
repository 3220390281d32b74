"""How many channels meet TinyTrain's Table 2: rows, and a table of docs/results/studies/cost.md.

    python benchmarks/table2.py run RESULTS.csv
    python benchmarks/table2.py table RESULTS.csv

The paper leaves open which share of a layer's channels learns, whether a layer that does not fit
ends the choice, and whether its last convolution is looked at.  `run` tries each, with and without
a budget of 1 MB, at 15 % of a full backward pass, on the Fisher information of some tasks; memory
and work are those of TinyTrain's formulas.  Nothing is compiled or learned.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer
from rows import append, grouped, head, line, lines_of, stored
from script import script
from shared import load_images, load_network

from kilograd.data import Draw
from kilograd.errors import InputError
from kilograd.frontend import Model, with_last_conv
from kilograd.ir import Array
from kilograd.learn.adapt import load_task
from kilograd.learn.inspect import inspector
from kilograd.select import Budget, Demand, Evidence, Inspect, Selection
from kilograd.select.cost import layers, tinytrain
from kilograd.select.greedy import INSPECTED
from kilograd.select.tinytrain import TinyTrain
from kilograd.settings import Schedule

#: Channels of the last convolution, MB, and millions of MACs as printed.
PRINTED = {
    "mcunet-5fps": (0, 0.89, 6.51),
    "mbv2-w0.35": (448, 1.06, 4.90),
    "proxyless-w0.3": (384, 0.78, 5.00),
}
RATIOS = (
    {"1": (1.0,)}
    | {f"1/{n}": (1 / n,) for n in (2, 4, 8, 12, 16, 20)}
    | {"1, 1/2, 1/4, 1/8": (1, 0.5, 0.25, 0.125)}
)
MIB = 1 << 20

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """What is chosen for a task; 0 bytes: no layer fits.  `budget`: of memory, 0 is none."""

    network: str
    data: str
    episode: int
    ratio: str
    skip: bool
    inspected: int
    budget: int
    memory: int
    macs: int
    layers: int


def network_of(name: str) -> Model:
    """Load a network as TinyTrain has it: some end in another convolution, random here."""
    model = load_network(name)
    last, *_ = PRINTED[name]
    return with_last_conv(model, last) if last else model


def choices(model: Model, fisher: Mapping[str, Array]) -> Iterator[tuple[object, ...]]:
    """Yield each way to choose, and what it costs: the last fields of `Row`."""
    network = layers(Evidence(model.name, model.graph, model.layers))

    def cost(selection: Selection) -> Demand:
        return Demand(0, tinytrain(network, selection).macs.backward)

    known = Inspect(lambda asked: {x: fisher[x] for x in asked}, lambda asked: {})
    evidence = Evidence(model.name, model.graph, model.layers, cost, known)
    depths = (INSPECTED, INSPECTED + 1) if model.layers[-1] == "last_conv" else (INSPECTED,)
    ways = itertools.product(RATIOS, (True, False), depths, (None, MIB))
    for ratio, skip, inspected, budget in ways:
        way = TinyTrain(ratios=RATIOS[ratio], skip=skip, inspected=inspected)
        try:
            found = way(evidence, Budget(backward_memory=budget))
        except InputError:
            yield ratio, skip, inspected, budget or 0, 0, 0, 0
            continue
        of = tinytrain(network, found)
        said = of.memory.total, of.macs.backward, len(found.learn)
        yield ratio, skip, inspected, budget or 0, *said


@app.command()
def run(
    results: Path,
    sets: Annotated[str, typer.Option()] = "gtsrb,flowers89,omniglot,dtd10",
    episodes: Annotated[int, typer.Option(help="Tasks of each set.")] = 2,
) -> None:
    """Append the rows of each network and task that is not there."""
    done = {(r.network, r.data, r.episode) for r in lines_of(results, Row)}
    for name, data in itertools.product(PRINTED, sets.split(",")):
        for episode in range(episodes):
            if (name, data, episode) in done:
                continue
            model, images = network_of(name), load_images(data)
            task = load_task(images, Draw(ways=5, shots=5)(images, episode), model.preprocess)
            looked = inspector(model, task.support, Schedule(seed=episode))
            fisher = looked.fisher(model.layers[-INSPECTED - 1 :])
            found = [Row(name, data, episode, *way) for way in choices(model, fisher)]
            append(results, found)


def cell(rows: Sequence[Row]) -> str:
    """Write mean memory and work, and how many layers learn."""
    some = [r for r in rows if r.memory]
    if not some:
        return "no layer fits"
    memory, macs = mean(r.memory for r in some) / MIB, mean(r.macs for r in some) / 1e6
    return f"{memory:.2f} MB, {macs:.2f} M, {mean(r.layers for r in some):.0f}"


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what each share of channels costs, with layers that do not fit passed over."""
    yield head("budget", "share of channels", *PRINTED, texts=5)
    printed = (f"**{memory:.2f} MB, {macs:.2f} M**" for _, memory, macs in PRINTED.values())
    yield line("**printed**", "", *printed)
    usual = [r for r in rows if r.skip and r.inspected == INSPECTED]
    ordered = sorted(usual, key=lambda r: r.budget)
    for (budget, ratio), own in grouped(ordered, lambda r: (r.budget, r.ratio)).items():
        by_network = grouped(own, lambda r: r.network)
        cells = [cell(by_network.get(name, [])) for name in PRINTED]
        yield line("1 MB" if budget else "", ratio, *cells)
    yield ""
    yield head("of these, the nearest", *PRINTED, texts=4)
    yield line("", *(nearest(rows, name) for name in PRINTED))


def nearest(rows: Sequence[Row], name: str) -> str:
    """Say which way comes nearest to what is printed, by the larger of two relative errors."""
    _, memory, macs = PRINTED[name]
    ways = grouped(
        (r for r in rows if r.network == name),
        lambda r: (r.ratio, r.skip, r.inspected, r.budget),
    )

    def error(way: tuple[str, bool, int, int]) -> float:
        own = [r for r in ways[way] if r.memory]
        if len(own) < len(ways[way]):
            return float("inf")
        found = mean(r.memory for r in own) / MIB / memory, mean(r.macs for r in own) / 1e6 / macs
        return max(abs(x - 1) for x in found)

    best = min(ways, key=error)
    ratio, skip, inspected, budget = best
    what = f"{ratio}{'' if skip else ', stops'}, {inspected} layers{', 1 MB' if budget else ''}"
    return f"{what}: {cell(ways[best])} ({100 * error(best):.0f} % off)"


@app.command()
def table(results: Path) -> None:
    """Print means over tasks as Markdown."""
    print("\n".join(tables(stored(results, Row))))


if __name__ == "__main__":
    script(app)
