"""What TinyTL needs next to methods that add no layers: a table of docs/results/studies/tinytl.md.

    python benchmarks/tinytl.py

Needs the model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

from rows import head, line
from script import script
from shared import compiled

from kilograd.passes import EntryPoint
from kilograd.select import PLANS

METHODS = ("none", "bias:18", "sparse-49kb", "last:6", "tinytl:3", "tinytl")


def main() -> None:
    """Print the table."""
    sizes = "learned", "kept, B", "arena, B", "RAM, B", "flash, B", "MACs"
    print(head("network", "method", *sizes, texts=2))
    for network in PLANS:
        for method in METHODS:
            made = compiled(network, method)
            p = made.program
            found = p.state_bytes, p.arena_bytes, p.sram_bytes, p.flash_bytes
            forward, step = (p.macs(e) / 1e6 for e in (EntryPoint.INFER, EntryPoint.STEP))
            macs = f"{forward:.1f} M" + (f", {step:.1f} M" if step else "")
            cells = (f"{n:,}" for n in (made.learned_parameters, *found))
            print(line(network, f"`{method}`", *cells, macs))


if __name__ == "__main__":
    script(main)
