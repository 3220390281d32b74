"""RAM of every published plan, part by part: the tables of docs/results/studies/memory.md.

    python benchmarks/memory.py

Needs the model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

from rows import head, line
from script import script
from shared import compiled, load_network

from kilograd.ir import Role
from kilograd.learn.recipe import Compiled
from kilograd.passes import EntryPoint
from kilograd.report import ablation, without
from kilograd.select import PLANS
from kilograd.settings import HeadKind

#: Released Tiny Training Engine, MCUNet-5FPS, 49kb, 10 classes: measured from its ELF and stack.
ENGINE = {"arena": 189_800, "weights": 13_696, "biases": 26_688, "head": 0, "stack": 21_864}
ENGINE_TOTAL = 252_448
LINEAR = HeadKind.LINEAR
HOLDS = {Role.WEIGHT: "weights", Role.BIAS: "biases", Role.HEAD: "head"}


def parts(made: Compiled) -> dict[str, int]:
    """Return bytes by what they hold; the stack is not known here."""
    sizes = dict.fromkeys(ENGINE, 0) | {"arena": made.program.arena_bytes}
    for slot in made.program.state:
        sizes[HOLDS[slot.role]] += slot.value.nbytes
    return sizes


def plans() -> None:
    """Print what each published plan needs."""
    about = "network", "plan", "arena", "weights", "biases", "head", "RAM", "lower bound", "optimal"
    print(head(*about, "RAM, image by rows", "optimal", texts=11))
    for model, labels in PLANS.items():
        for method in (f"sparse-{label}" for label in labels):
            made = compiled(model, method, LINEAR)
            by_rows = compiled(model, method, LINEAR, rows=True).program
            p, program = parts(made), made.program
            cells = p["arena"], p["weights"], p["biases"], p["head"], program.sram_bytes
            shown = (f"{c:,}" for c in (*cells, program.sram_lower_bound_bytes))
            proved = ("yes" if x.sram_proved_optimal else "no" for x in (program, by_rows))
            print(line(model, method, *shown, next(proved), f"{by_rows.sram_bytes:,}", *proved))


def engine() -> None:
    """Print the RAM of the released engine beside ours."""
    made = compiled("mcunet-5fps", "sparse-49kb", LINEAR)
    ours = parts(made)
    print(head("MCUNet-5FPS, 49kb plan", "released engine, B", "here, B", texts=3))
    for part, theirs in ENGINE.items():
        print(line(part, f"{theirs:,}", "not counted" if part == "stack" else f"{ours[part]:,}"))
    print(line("all other static data", f"{ENGINE_TOTAL - sum(ENGINE.values()):,}", 0))
    print(line("**sum**", f"**{ENGINE_TOTAL:,}**", f"**{made.program.sram_bytes:,}**"))


def taken_apart() -> None:
    """Print the RAM of a training step as it grows from naive to ours, and without each part."""
    columns, others = [], []
    for model in PLANS:
        made = compiled(model, "sparse-49kb", LINEAR, rows=True)
        network, state = load_network(model).graph, made.program.state_bytes
        variants, lacking = ablation(network, made.training), without(network, made.training)
        columns.append([state + v.step.plan.peak for v in variants])
        others.append([state + v.step.plan.peak for v in lacking])
    print(head("training step, sparse-49kb", *PLANS, texts=1))
    for row, v in enumerate(variants):
        print(line(v.name, *(f"{c[row]:,} ({c[0] / c[row]:.1f} x)" for c in columns)))
    print()
    print(head("the same, one part left out", *PLANS, texts=1))
    for row, v in enumerate(lacking):
        pairs = zip(others, columns, strict=True)
        print(line(v.name, *(f"{o[row]:,} ({o[row] / c[-2]:.1f} x)" for o, c in pairs)))


def every_layer() -> None:
    """Print what it takes to train every layer: maps kept, and computed again."""
    about = "weights and head", "maps kept", "computed again", "MACs a step"
    print(head("every layer learns", *about, texts=1))
    for model in PLANS:
        kept, again = (
            compiled(model, "full", LINEAR, recompute=recompute).program
            for recompute in (False, True)
        )
        macs = again.macs(EntryPoint.STEP) / kept.macs(EntryPoint.STEP) - 1
        sizes = kept.state_bytes, kept.sram_bytes, again.sram_bytes
        print(line(model, *(f"{n:,}" for n in sizes), f"+{macs:.0%}"))


def main() -> None:
    """Print all tables."""
    for number, table in enumerate((plans, engine, taken_apart, every_layer)):
        print("\n" * (number > 0), end="")
        table()


if __name__ == "__main__":
    script(main)
