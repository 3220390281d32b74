"""Fit the model of instructions again: counts from the emulator, rates, and how far off they are.

    python benchmarks/time_model.py > time_model.md

prints the rates that `kilograd.targets.estimate` holds, and the errors of docs/time.md: each
network in turn is left out of the fit and predicted.  Needs scipy, the emulator, and the model
folders: KILOGRAD_SHARED, by default ../shared.  About half an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from instructions import NETWORK, alone, feeds, layer_of
from rows import grouped
from scipy.optimize import nnls
from script import script
from shared import compiled, load_network

from kilograd.emit import Program, link
from kilograd.frontend import resized
from kilograd.ir import Array, Graph
from kilograd.learn.recipe import compile_recipe
from kilograd.ops import Conv, Depthwise
from kilograd.passes import EntryPoint
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe
from kilograd.targets import CORTEX_M7, Driver
from kilograd.targets.estimate import Work, work

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
ROWRMS = OptimizerKind.ROWRMS
#: Of the three networks: the side of the image, and the recipe.
PROGRAMS = (
    (None, Recipe("sparse-49kb", 5)),
    (96, Recipe("sparse-49kb", 5)),
    (None, Recipe("sparse-49kb", 5, rows=True, optimizer=ROWRMS)),
    (96, Recipe("last:6", 5, optimizer=ROWRMS)),
    (64, Recipe("full", 5, HeadKind.LINEAR)),
    (80, Recipe("last:12", 5, cache=1)),
    (None, Recipe("none", 5)),
)
OF_DIGITS = (
    (None, Recipe("last", 5)),
    (None, Recipe("last:3", 5, optimizer=ROWRMS)),
    (None, Recipe("last:6", 5)),
    (None, Recipe("full", 5, HeadKind.LINEAR, OptimizerKind.ADAM)),
    (None, Recipe("last:3", 5, rows=True, cache=1)),
)
HEAD = 6.0  # instructions of a multiply-accumulate of the head, from 5 and 50 classes of digits
SMALL = 50_000  # calls that matter to nobody's time
STEPS = 3
#: What a layer alone weighs beside a call, for each share of the mean of their MACs.
LAYER = 0.35


@dataclass(frozen=True)
class Call:
    """What an entry point executes, and what of; `weight` is what an error in it weighs."""

    network: str
    entry: str
    count: float
    work: Array
    weight: float = 1.0


def amounts(graph: Graph) -> Array:
    """Return the work of a graph in the order of its kinds."""
    found = work(graph)
    return np.array([found.get(kind, 0.0) for kind in Work])


def calls() -> Iterator[Call]:
    """Count every entry point of every program, on random images."""
    programs = [(n, *p) for n in NETWORKS for p in PROGRAMS] + [("digits", *p) for p in OF_DIGITS]
    for name, size, recipe in programs:
        network = load_network(name)
        network = network if size is None else resized(network, size)
        program = compile_recipe(network, recipe, Budget()).program
        for entry, counts in counted(program).items():
            if np.mean(counts) > SMALL:
                each = amounts(program.entries[entry].graph)
                yield Call(name, entry, float(np.mean(counts)), each)


def layers() -> Iterator[Call]:
    """Count every distinct layer of MCUNet alone, as benchmarks/instructions.py does."""
    step = compiled(NETWORK, "full", HeadKind.LINEAR).program.entries[EntryPoint.STEP].graph
    backward = (n for n in step.nodes if not isinstance(n.op, Conv | Depthwise))
    found = grouped([*load_network(NETWORK).graph.nodes, *backward], layer_of)
    nodes = [same[0] for layer, same in found.items() if layer]
    rng = np.random.default_rng(0)
    program = link({f"layer{i}": alone(n, f"layer{i}", rng) for i, n in enumerate(nodes)})
    device = CORTEX_M7.build(program)
    mean = np.mean([n.op.macs(n) for n in nodes])
    for i, n in enumerate(nodes):
        graph = program.entries[f"layer{i}"].graph
        device.call(f"layer{i}", **dict(feeds(graph, rng)))
        weight = LAYER * float(np.sqrt(n.op.macs(n) / mean))
        yield Call("layers", "alone", device.instructions or 0, amounts(graph), weight)


def counted(program: Program) -> dict[str, list[int]]:
    """Return the instructions of each call, by entry point."""
    device = CORTEX_M7.build(program)
    counts: dict[str, list[int]] = {}

    class Counting:
        """The device, and what each call took."""

        def __init__(self) -> None:
            self.program = program

        def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
            found = device.call(entry, **inputs)
            counts.setdefault(entry, []).append(device.instructions or 0)
            return found

    (image,) = program.entries[EntryPoint.INFER].graph.inputs()
    driver, rng = Driver(Counting()), np.random.default_rng(0)

    def picture() -> Array:
        return rng.integers(-128, 128, image.type.shape).astype(np.int8)

    def sample(label: int) -> Iterator[tuple[object, Array]]:
        yield driver.show(picture()), np.array([label])

    driver.enrol(sample(0))
    for step in range(STEPS if EntryPoint.STEP in program.entries else 0):
        clock = (0, step)
        list(driver.update(sample(step), sample(step), share=1, rate=0.01, clock=clock))
    driver.infer(picture())
    return counts


def fitted(known: list[Call]) -> Array:
    """Return the rates, none negative, with the least squares of relative errors."""
    head = list(Work).index(Work.HEAD_MACS)
    x, y = np.array([c.work for c in known]), np.array([c.count for c in known])
    weight = np.array([c.weight for c in known])
    rest = weight * (1 - HEAD * x[:, head] / y)
    x[:, head] = 0
    x *= (weight / y)[:, None]
    scale = np.maximum(np.abs(x).max(0), 1e-30)
    rates = nnls(x / scale, rest)[0] / scale
    rates[head] = HEAD
    return rates


def main() -> None:
    known = [*calls(), *layers()]
    for kind, rate in zip(Work, fitted(known), strict=True):
        print(f"Work.{kind.name}: {rate:.3g},")
    print("\n| network left out | call | worst, % | root mean square, % |\n|---|---|---:|---:|")
    for name in (*NETWORKS, "digits"):
        rates = fitted([c for c in known if c.network != name])
        for entry in (EntryPoint.INFER, EntryPoint.STEP):
            left = [c for c in known if c.network == name and c.entry == entry]
            errors = 100 * np.array([c.work @ rates / c.count - 1 for c in left])
            worst, mean = np.abs(errors).max(), np.sqrt((errors**2).mean())
            print(f"| {name} | {entry} | {worst:.1f} | {mean:.1f} |")


if __name__ == "__main__":
    script(main)
