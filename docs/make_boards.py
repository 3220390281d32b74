"""Write docs/boards.md from `kilograd.boards.BOARDS`.

`python docs/make_boards.py` writes the file; with `--check` it says whether the file is stale and
writes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kilograd.boards import BOARDS, Board, Chip, Region

PAGE = Path(__file__).with_name("boards.md")

INTRODUCTION = """\
# Boards

<!-- Written by docs/make_boards.py from kilograd.boards; do not edit. -->

`kilograd boards` lists these boards.
A new one is a value in `src/kilograd/boards/known.py`, and its chip in `chips.py`.
A board that is not here: `--target` names its processor, and `--board-ram` its RAM.

Every core here has an FPU, and a DSP extension that the kernels use.
Boards without them (Cortex-M0+ and M3, such as the first Pico) are missing:
portable kernels need five to eleven times the instructions there.
Boards with a Cortex-M55 or M85 are missing because no target is made for them yet.

- *RAM*: what a program may use for state, arena and stack: the longest run of addresses that are
  RAM after a reset.
- *All RAM*: what the chip has, in several places.
- *Flash*: what a program may use for code and tables; behind a boot loader where the board comes
  with one.
- *Clock*: the fastest that the maker allows.
  After a reset most chips run slower until the application changes that.

| board | `--board` | maker | core | FPU | clock, MHz | RAM | all RAM | flash |
|---|---|---|---|---|---:|---:|---:|---:|
"""

SOURCES = """
## Where the figures are from

RAM and flash are from linker scripts and device trees of public repositories (repository: path),
and from the reference manual of the chip.
Core, FPU and the fastest clock are from its data sheet.
What a boot loader takes is from the source of the board.
Nobody measured them on a board.

### Boards

| board | chip | flash of a program | source | remark |
|---|---|---|---|---|
"""

CHIPS = """
### Chips

| chip | RAM | other RAM | flash | source of the memory | data sheet |
|---|---|---|---|---|---|
"""


def size(n: int) -> str:
    """Return bytes as people write them."""
    return f"{n >> 10}K" if n % 1024 == 0 else f"{n / 1024:.1f}K"


def place(region: Region) -> str:
    """Return where memory lies, and what it is."""
    banks = f" ({region.banks})" if region.banks else ""
    return f"`{region.origin:#010x}` {size(region.size)}{banks}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def line(b: Board) -> str:
    """Return the line of a board."""
    sizes = size(b.ram.size), size(b.ram_total), size(b.flash.size)
    return row(b.title, f"`{b.name}`", b.maker, b.chip.core, b.chip.fpu, str(b.mhz), *sizes)


def about(b: Board) -> str:
    """Return where the figures of a board are from."""
    return row(b.title, b.chip.part, place(b.flash), b.source, b.note)


def about_chip(c: Chip) -> str:
    """Return where the figures of a chip are from."""
    other = "; ".join(map(place, c.other_ram))
    return row(c.part, place(c.ram), other, place(c.flash), c.memory, c.manual)


def main() -> None:
    chips = {b.chip.part: b.chip for b in BOARDS}
    parts = [INTRODUCTION, *map(line, BOARDS), SOURCES, *map(about, BOARDS)]
    text = "".join([*parts, CHIPS, *map(about_chip, chips.values())])
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/boards.md is stale: run python docs/make_boards.py")


if __name__ == "__main__":
    main()
