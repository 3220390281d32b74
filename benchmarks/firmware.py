"""Networks on every target, one network on all tools: docs/results/studies/firmware.md.

    python benchmarks/firmware.py

Needs the extra `emulate`, and the model folders: KILOGRAD_SHARED, by default ../shared.
Tools of the system that are not installed (QEMU, GCC for Arm) leave their rows out.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

from rows import head, line
from script import script
from shared import compiled

from kilograd.emit import Program
from kilograd.errors import InputError
from kilograd.targets import TARGETS, CrossCompiler, Emulator, Measurement, Target, measure

STEPS = 20

NETWORKS = (
    ("digits", "last:6"),
    ("mcunet-5fps", "sparse-49kb"),
    ("mbv2-w0.35", "sparse-49kb"),
    ("proxyless-w0.3", "sparse-49kb"),
)


def with_all_tools() -> Iterator[Target]:
    """Yield every target with every compiler and emulator; not all have all of them."""
    for target, compiler, emulator in itertools.product(TARGETS, CrossCompiler, Emulator):
        try:
            yield target.with_tools(compiler, emulator)
        except InputError as e:
            print(f"left out: {e}", file=sys.stderr)


def cells(found: Measurement) -> list[str]:
    """Return what was measured."""
    numbers = (
        found.ram_bytes,
        found.stack_bytes,
        found.stack_bound_bytes,
        found.flash_bytes,
        found.instructions_forward,
        found.instructions_step,
    )
    shown = ["unknown" if n is None else f"{n:,}" for n in numbers]
    return [*shown, "yes" if found.bit_exact else "NO"]


def row(made: Program, target: Target, *first: str) -> None:
    try:
        found = measure(made, target, STEPS)
    except InputError as e:
        print(f"left out: {e}", file=sys.stderr)
        return
    print(line(*first, *cells(found)), flush=True)


def begin(*first: str) -> None:
    names = (*first, "RAM", "stack", "bound", "flash", "forward", "step", "bit exact")
    print(head(*names, texts=len(names)))


def main() -> None:
    begin("network", "method", "image", "target")
    for name, method in NETWORKS:
        for image in ("whole", "by rows"):
            made = compiled(name, method, rows=image == "by rows").program
            for target in TARGETS:
                row(made, target, name, method, image, target.name)
    print()
    made = compiled("mcunet-5fps", "sparse-49kb").program
    begin("target", "compiler", "emulator")
    for target in with_all_tools():
        row(made, target, target.name, *target.tools.split(", "))


if __name__ == "__main__":
    script(main)
