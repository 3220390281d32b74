"""Write docs/targets.md from `kilograd.targets.TARGETS`.

`python docs/make_targets.py` writes the file; with `--check` it says whether the file is stale and
writes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kilograd.targets import TARGETS, Target

PAGE = Path(__file__).with_name("targets.md")

INTRODUCTION = """\
# Targets

<!-- Written by docs/make_targets.py from kilograd.targets; do not edit. -->

`kilograd run --target NAME` builds a program for a processor,
runs it in an emulator and measures it.
`kilograd export --target NAME` writes the C project.
[CONTRIBUTING.md](../CONTRIBUTING.md#add-a-target) says how to add a target,
and [results/studies/firmware.md](results/studies/firmware.md) what programs need on each.

- *Kernels*: the folder of `runtime/variants/` whose files replace the portable ones.
- *Tools*: what compiles and what executes.
  `--compiler gcc` and `--emulator qemu` are a second opinion, where a target has them.
- *Counted*: what `run` counts. Instructions are no cycles.
- *Build*: the command for the exported project; its `Makefile` says it too.

| `--target` | kernels | tools | counted | build |
|---|---|---|---|---|
"""


def row(target: Target) -> str:
    """Return the line of a target."""
    kernels = f"`{target.variant}`" if target.variant else "portable"
    cells = (f"`{target.name}`", kernels, target.tools, target.counted, f"`{target.make}`")
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    text = INTRODUCTION + "".join(map(row, TARGETS))
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/targets.md is stale: run python docs/make_targets.py")


if __name__ == "__main__":
    main()
