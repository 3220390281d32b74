"""Look: the networks there are, what a program keeps in memory, and what training costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from kilograd import api
from kilograd.cli.command import (
    AdaptedOption,
    AsJson,
    BoardName,
    Group,
    ImageSize,
    ModelName,
    command,
    with_settings,
)
from kilograd.cli.console import OUT, Table, say
from kilograd.cli.memory import memory_json, memory_rows, needs, show_rows, time_json, time_rows
from kilograd.cli.numbers import in_short, kib
from kilograd.emit import Entry, Program
from kilograd.errors import InputError, shown
from kilograd.frontend import (
    Model,
    load_sizes,
    with_last_conv,
)
from kilograd.learn.recipe import Compiled
from kilograd.output import check_file, write_file
from kilograd.passes import EntryPoint, accumulator_bounds
from kilograd.report import Variant, ablation, page, without
from kilograd.report.cost import count
from kilograd.select.cost import Convention, Cost
from kilograd.settings import Build, Limits, Recipe

app = typer.Typer()


@command(app, "plan", Group.LOOK)
@with_settings(Build(), unset=True)
def plan_command(
    *,
    model: ModelName = None,
    size: ImageSize = None,
    adapted: AdaptedOption = None,
    board: BoardName = None,
    settings: dict[str, Any],
    entry: Annotated[
        str | None, typer.Option(help="Entry point to map; default: the one with the peak.")
    ] = None,
    with_ablation: Annotated[
        bool, typer.Option("--ablation", help="Show what each part of the compiler saves.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Draw the map: an HTML file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the memory map of a training program, and what sets its peak."""
    if out is not None:
        check_file(out, ".html", force=force)
    compiled = api.plan(model, size=size, board=board, adapted=adapted, **settings)
    there = api.find_board_given(board)
    recipe, program = compiled.recipe, compiled.program
    chosen = _entry(program, entry)
    trains = EntryPoint.STEP in program.entries
    if with_ablation and not trains:
        raise InputError(f"--ablation: method {recipe.method} trains nothing; choose another")
    graph, training = compiled.model.graph, compiled.training
    steps = ablation(graph, training) if trains and (with_ablation or out) else ()
    if out is not None:
        others = without(graph, training) if trains else ()
        title = f"{compiled.model.title}, {recipe.method}, {recipe.ways} classes"
        budget = Limits(sram=settings.get("sram")).budget(compiled.model).sram
        html = page(title, program, chosen, budget=budget, steps=steps, without=others)
        write_file(out, html)
    if as_json:
        parts = {"ablation": [variant_json(program, v) for v in steps]} if with_ablation else {}
        memory = memory_json(needs(program, there), there) | time_json(program, there)
        print(json.dumps(map_json(program, chosen) | memory | parts))
        return
    show_map(compiled, chosen)
    show_rows([*memory_rows(needs(program, there), there), *time_rows(program, there)])
    if with_ablation:
        show_ablation(program, steps)
    if out is not None:
        say(f"Written to {out}")


def _entry(program: Program, name: str | None) -> Entry:
    if name is None:
        return max(program.entries.values(), key=lambda e: e.plan.peak)
    if name not in program.entries:
        raise InputError(
            f"--entry {name}: no such entry point; there are {', '.join(program.entries)}"
        )
    return program.entries[name]


@command(app, "cost", Group.LOOK)
@with_settings(Recipe())
def cost_command(
    *,
    model: ModelName = None,
    size: ImageSize = None,
    settings: Recipe,
    convention: Annotated[
        Convention, typer.Option(help="kilograd: the compiled program; else a paper's formulas.")
    ] = Convention.KILOGRAD,
    last_conv: Annotated[
        int | None,
        typer.Option(help="Append a random 1x1 convolution with so many output channels."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count memory and work of training by the convention of a paper, or of the real program."""
    network = load_sizes(model, size)
    if last_conv is not None:
        network = with_last_conv(network, last_conv)
    cost = count(network, settings, convention)
    if as_json:
        print(json.dumps(cost_json(network, settings.method, convention, cost)))
    else:
        show_cost(network, settings.method, convention, cost)


def map_json(program: Program, entry: Entry) -> dict[str, object]:
    """Return a memory map as JSON."""
    return {
        "sram_bytes": program.sram_bytes,
        "sram_lower_bound_bytes": program.sram_lower_bound_bytes,
        "sram_proved_optimal": program.sram_proved_optimal,
        "state_bytes": program.state_bytes,
        "arena_bytes": program.arena_bytes,
        "flash_bytes": program.flash_bytes,
        "state": [
            {"name": s.name, "offset": s.offset, "size": s.value.nbytes} for s in program.state
        ],
        "entries": {
            e.name: {"peak": e.plan.peak, "lower_bound": e.plan.bound}
            for e in program.entries.values()
        },
        "entry": entry.name,
        "buffers": [
            {**asdict(b), "offset": entry.plan.offsets[b.name]} for b in entry.storage.buffers
        ],
    }


def show_map(compiled: Compiled, entry: Entry) -> None:
    """Print a memory map, and what sets its peak."""
    program = compiled.program
    buffers = entry.storage.buffers
    peak_step = max(
        {b.first for b in buffers},
        key=lambda t: sum(b.room for b in buffers if b.first <= t < b.last),
    )
    nodes = entry.graph.nodes
    table = Table("offset", "bytes", "in use", "buffer", "", box=None)
    for b in sorted(buffers, key=lambda b: (entry.plan.offsets[b.name], b.first)):
        mark = "peak" if b.first <= peak_step < b.last else ""
        offset = f"{entry.plan.offsets[b.name]:,}"
        table.add_row(offset, f"{b.size:,}", f"{b.first}-{b.last - 1}", b.name, mark)
    OUT.print(table)
    state = Table("offset", "bytes", "kept between calls", box=None)
    for s in program.state:
        state.add_row(f"{s.offset:,}", f"{s.value.nbytes:,}", s.name)
    OUT.print(state)
    names = compiled.training.learn
    worst = max(accumulator_bounds(entry.graph, names), key=lambda b: b.worst, default=None)
    OUT.print(shown(f"peak of {entry.name}: step {peak_step}, {nodes[peak_step].name}"))
    for e in program.entries.values():
        verdict = "optimal" if e.plan.peak == e.plan.bound else f"lower bound {e.plan.bound:,}"
        OUT.print(shown(f"{e.name}: {e.plan.peak:,} B of arena, {verdict}"))
    if worst:
        share = worst.worst / (1 << 31)
        OUT.print(
            shown(f"no int32 accumulator can overflow: {worst.node} comes closest, {share:.0%}")
        )


def variant_json(program: Program, variant: Variant) -> dict[str, object]:
    """Return a step of an ablation as JSON."""
    arena = variant.step.plan.peak
    sizes = {"arena_bytes": arena, "sram_bytes": program.state_bytes + arena}
    return {"name": variant.name, "adds": variant.adds, **sizes}


def show_ablation(program: Program, steps: Sequence[Variant]) -> None:
    """Print what each part of the compiler saves."""
    table = Table("training step", "", box=None)
    table.add_column("RAM without stack, B", justify="right")
    table.add_column("less than naive", justify="right")
    rams = [program.state_bytes + v.step.plan.peak for v in steps]
    for v, ram in zip(steps, rams, strict=True):
        table.add_row(v.name, v.adds, f"{ram:,}", f"{rams[0] / ram:.1f} x")
    OUT.print(table)


def cost_json(model: Model, method: str, convention: Convention, cost: Cost) -> dict[str, object]:
    """Return the cost by a convention as JSON."""
    return {
        "network": model.name,
        "method": method,
        "convention": convention.value,
        "batch": cost.batch,
        "memory_bytes": asdict(cost.memory),
        "macs": {**asdict(cost.macs), "backward": cost.macs.backward},
    }


def show_cost(model: Model, method: str, convention: Convention, cost: Cost) -> None:
    """Print the cost by a convention."""
    memory, macs = cost.memory, cost.macs
    table = Table(show_header=False, box=None)
    table.add_row("network", f"{model.title}, method {method}")
    table.add_row("convention", f"{convention}, {cost.batch} learned at once")
    table.add_row("memory", Text(kib(memory.total), "bold"))
    parts = {
        "buffers": memory.buffers,
        "saved inputs": memory.saved_inputs,
        "masks": memory.masks,
        "weights": memory.weights,
        "biases": memory.biases,
        "optimizer": memory.optimizer,
        "head": memory.head,
        "stamp": memory.stamp,
    }
    absent = "in the buffers" if convention is Convention.KILOGRAD else "not counted"
    for name, size in parts.items():
        table.add_row(f"  {name}", absent if size is None else kib(size))
    if memory.total < sum(size or 0 for size in parts.values()):
        table.add_row("", "buffers, and saved inputs with masks, share their place")
    table.add_row("MACs", f"{in_short(macs.forward)} forward, {in_short(macs.backward)} backward")
    table.add_row("", f"of which {in_short(macs.dx)} dX, {in_short(macs.dw)} dW")
    OUT.print(table)
