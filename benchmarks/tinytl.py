"""What TinyTL needs next to methods that add no layers: a table of docs/results/studies/tinytl.md.

    python benchmarks/tinytl.py

Needs the model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import os
from pathlib import Path

from kilograd.frontend import load_model
from kilograd.learn.recipe import compile_recipe
from kilograd.passes import EntryPoint
from kilograd.select import PLANS, Budget
from kilograd.settings import Recipe

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))
METHODS = ("none", "bias:18", "sparse-49kb", "last:6", "tinytl:3", "tinytl")
WAYS = 10


def main() -> None:
    """Print the table."""
    print("| network | method | learned | kept, B | arena, B | RAM, B | flash, B | MACs |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for network in PLANS:
        model = load_model(str(SHARED / "models" / network))
        for method in METHODS:
            made = compile_recipe(model, Recipe(method, WAYS), Budget())
            p = made.program
            sizes = (
                made.learned_parameters,
                p.state_bytes,
                p.arena_bytes,
                p.sram_bytes,
                p.flash_bytes,
            )
            cells = " | ".join(f"{n:,}" for n in sizes)
            forward, step = (p.macs(e) / 1e6 for e in (EntryPoint.INFER, EntryPoint.STEP))
            macs = f"{forward:.1f} M" + (f", {step:.1f} M" if step else "")
            print(f"| {network} | `{method}` | {cells} | {macs} |")


if __name__ == "__main__":
    main()
