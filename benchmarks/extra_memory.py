"""Accuracy against what training needs beyond inference: the picture of whole-sets.md.

    python benchmarks/extra_memory.py docs/results/data/whole-sets.csv OUT.svg
    python benchmarks/extra_memory.py docs/results/data/whole-sets.csv OUT.svg --analytic

Bytes are those of the compiled program with ten classes, less the RAM of inference, or what the
256 KB paper's own formula counts as added to inference.  Accuracy is the mean of those sets and
seeds that all methods have; its intervals are those of the difference to a head alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rows import head, line
from script import script
from shared import load_network
from whole_sets import by_set, less, main_rows
from whole_work import PLANS, USUAL, Row

from kilograd.frontend import Model
from kilograd.intervals import interval
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.passes import EntryPoint
from kilograd.report.chart import Curve, Point, chart_alone
from kilograd.report.cost import count
from kilograd.select import Budget
from kilograd.select.cost import Convention
from kilograd.settings import Recipe

FAMILIES = {
    "last K layers": ("head", "last", "last:3", "last:6", "last:12"),
    "biases of the last K": ("bias:6", "bias:12", "bias:24"),
    "published sparse plans": tuple(
        dict.fromkeys(f"sparse-{x}" for plans in PLANS.values() for x in plans)
    ),
    "tinytrain, 15 % of the work": ("tinytrain",),
    "full": ("full",),
}
CLASSES = 10


def inference_bytes(network: Model) -> int:
    """Return the RAM of inference alone: the arena of a program that learns nothing."""
    program = compile_recipe(network, Recipe("none", CLASSES), Budget()).program
    return program.entries[EntryPoint.INFER].plan.peak


def extra_bytes(network: Model, method: str, rows: Sequence[Row], convention: Convention) -> int:
    """Return what training needs beyond inference, in bytes, with ten classes."""
    if convention is Convention.TTE:
        return count(network, Recipe(method, CLASSES), convention).memory.total
    ten = [r.sram_bytes for r in rows if r.ways == CLASSES]
    most = max(ten) if ten else compile_for_ten(network, method).program.sram_bytes
    return most - inference_bytes(network)


def compile_for_ten(network: Model, method: str) -> Compiled:
    """Compile a method that looks at no images as the rows had it, for ten classes."""
    recipe = replace(USUAL.recipe, method=method, ways=CLASSES)
    return compile_recipe(network, recipe, Budget())


def common(found: Mapping[str, Sequence[Row]]) -> set[tuple[str, int]]:
    """Return the sets and seeds that every method has, but for `full`, which few have."""
    keys = [{(r.data, r.seed) for r in own} for m, own in found.items() if m != "full"]
    return set.intersection(*keys) if keys else set()


def curves(
    network: Model, found: Mapping[str, Sequence[Row]], convention: Convention
) -> Iterator[Curve]:
    """Yield a curve for each family: accuracy against what training needs beyond inference."""
    shared = common(found)
    same = {m: [r for r in own if (r.data, r.seed) in shared] for m, own in found.items()}
    base = same.get("head", [])
    for family, methods in FAMILIES.items():
        points = []
        for method in methods:
            own = same.get(method, [])
            if not own or (convention is Convention.TTE and method == "tinytrain"):
                continue
            size = extra_bytes(network, method, own, convention)
            mean = float(np.mean(list(by_set(own).values())))
            gain = interval(less(own, base))
            says = f"{method}, {size:,} B: {mean:.1f} %"
            points.append(Point(size / 1024, mean, gain.half, says, method))
        if points:
            yield Curve(family, tuple(sorted(points, key=lambda p: p.x)))


def draw(
    path: Path,
    out: Path,
    network: str = "mcunet-5fps",
    analytic: Annotated[bool, typer.Option("--analytic")] = False,  # noqa: FBT002
    methods: Annotated[str | None, typer.Option(help="Only these, with spaces between.")] = None,
) -> None:
    """Draw accuracy against extra memory, and print what it is drawn from."""
    convention = Convention.TTE if analytic else Convention.KILOGRAD
    model, found = load_network(network), main_rows(path, network)
    if methods is not None:
        found = {m: own for m, own in found.items() if m in methods.split()}
    drawn = tuple(curves(model, found, convention))
    how = "by the paper's formula" if analytic else "of the compiled program, ten classes"
    across = f"RAM of training beyond inference, KiB, {how}"
    out.write_text(chart_alone(drawn, across, "accuracy, %, mean of sets"), encoding="utf-8")
    some = sorted({name for name, _ in common(found)})
    print(head(f"{len(some)} sets: {', '.join(some)}", "extra, KiB", "accuracy, %", texts=1))
    for point in (p for curve in drawn for p in curve.points):
        print(line(f"`{point.name}`", f"{point.x:.1f}", f"{point.y:.1f}"))


if __name__ == "__main__":
    script(lambda: typer.run(draw))
