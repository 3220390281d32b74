"""RAM of every published plan, part by part: the tables of docs/results/studies/memory.md.

    python benchmarks/memory.py

Needs the model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from kilograd.frontend import load_model
from kilograd.ir import Role
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.passes import EntryPoint
from kilograd.report import ablation, without
from kilograd.select import PLANS, Budget
from kilograd.settings import HeadKind, Recipe

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))

#: Released Tiny Training Engine, MCUNet-5FPS, 49kb, 10 classes: measured from its ELF and stack.
ENGINE = {"arena": 189_800, "weights": 13_696, "biases": 26_688, "head": 0, "stack": 21_864}
ENGINE_TOTAL = 252_448

PARTS = {Role.WEIGHT: "weights", Role.BIAS: "biases", Role.HEAD: "head"}
"""What the state of a program for SGD is made of, as the tables call it."""


def parts(compiled: Compiled) -> dict[str, int]:
    """Return bytes by what they hold; the stack is not known here."""
    sizes = dict.fromkeys(ENGINE, 0) | {"arena": compiled.program.arena_bytes}
    for slot in compiled.program.state:
        sizes[PARTS[slot.role]] += slot.value.nbytes
    return sizes


def taken_apart() -> None:
    """Print the RAM of a training step as it grows from naive to ours, and without each part."""
    columns, others = [], []
    for model in PLANS:
        network = load_model(str(SHARED / "models" / model))
        recipe = Recipe("sparse-49kb", 10, HeadKind.LINEAR, rows=True)
        made = compile_recipe(network, recipe, Budget())
        state = made.program.state_bytes
        variants = ablation(network.graph, made.training)
        columns.append([state + v.step.plan.peak for v in variants])
        lacking = without(network.graph, made.training)
        others.append([state + v.step.plan.peak for v in lacking])
    print(f"| training step, sparse-49kb | {' | '.join(PLANS)} |")
    print("|---|---:|---:|---:|")
    for row, v in enumerate(variants):
        cells = (f"{c[row]:,} ({c[0] / c[row]:.1f} x)" for c in columns)
        print(f"| {v.name} | {' | '.join(cells)} |")
    print()
    print(f"| the same, one part left out | {' | '.join(PLANS)} |")
    print("|---|---:|---:|---:|")
    for row, v in enumerate(lacking):
        cells = (
            f"{o[row]:,} ({o[row] / c[-2]:.1f} x)" for o, c in zip(others, columns, strict=True)
        )
        print(f"| {v.name} | {' | '.join(cells)} |")


def every_layer() -> None:
    """Print what it takes to train every layer: maps kept, and computed again."""
    print("| every layer learns | weights and head | maps kept | computed again | MACs a step |")
    print("|---|---:|---:|---:|---:|")
    for model in PLANS:
        network = load_model(str(SHARED / "models" / model))
        kept, again = (
            compile_recipe(
                network, Recipe("full", 10, HeadKind.LINEAR, recompute=recompute), Budget()
            ).program
            for recompute in (False, True)
        )
        macs = again.macs(EntryPoint.STEP) / kept.macs(EntryPoint.STEP) - 1
        row = (kept.state_bytes, kept.sram_bytes, again.sram_bytes)
        print(f"| {model} | {' | '.join(f'{n:,}' for n in row)} | +{macs:.0%} |")


def main() -> None:
    print(
        "| network | plan | arena | weights | biases | head | RAM | lower bound | optimal "
        "| RAM, image by rows | optimal |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for model, plans in PLANS.items():
        network = load_model(str(SHARED / "models" / model))
        for label in plans:
            recipe = Recipe(f"sparse-{label}", 10, HeadKind.LINEAR)
            made = compile_recipe(network, recipe, Budget())
            p, program = parts(made), made.program
            cells = (p["arena"], p["weights"], p["biases"], p["head"], program.sram_bytes)
            shown = " | ".join(f"{c:,}" for c in (*cells, program.sram_lower_bound_bytes))
            by_rows = compile_recipe(network, replace(recipe, rows=True), Budget()).program
            verdicts = ["yes" if x.sram_proved_optimal else "no" for x in (program, by_rows)]
            print(
                f"| {model} | sparse-{label} | {shown} | {verdicts[0]} "
                f"| {by_rows.sram_bytes:,} | {verdicts[1]} |"
            )
    print()
    made = compile_recipe(
        load_model(str(SHARED / "models" / "mcunet-5fps")),
        Recipe("sparse-49kb", 10, HeadKind.LINEAR),
        Budget(),
    )
    ours = parts(made)
    print("| MCUNet-5FPS, 49kb plan | released engine, B | here, B |")
    print("|---|---|---|")
    for part, theirs in ENGINE.items():
        mine = "not counted" if part == "stack" else f"{ours[part]:,}"
        print(f"| {part} | {theirs:,} | {mine} |")
    print(f"| all other static data | {ENGINE_TOTAL - sum(ENGINE.values()):,} | 0 |")
    print(f"| **sum** | **{ENGINE_TOTAL:,}** | **{made.program.sram_bytes:,}** |")
    print()
    taken_apart()
    print()
    every_layer()


if __name__ == "__main__":
    main()
