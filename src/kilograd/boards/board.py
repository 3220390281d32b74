"""What a board is to a program: a processor with a clock, RAM and flash."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Core(enum.StrEnum):
    """A processor that runs what a target of the same name is compiled to."""

    M4 = "cortex-m4"
    M7 = "cortex-m7"
    M33 = "cortex-m33"


class Fpu(enum.StrEnum):
    """What numbers the floating-point unit knows: float32, or float64 as well."""

    SINGLE = "single"
    DOUBLE = "double"


@dataclass(frozen=True)
class Region:
    """Memory without a gap: its first address, its bytes, and the banks it is made of."""

    origin: int
    size: int
    banks: str = ""

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.origin + self.size


@dataclass(frozen=True)
class Words:
    """What the hardware reads in flash when it starts: words at an offset, and what they are."""

    offset: int
    words: tuple[int, ...]
    what: str


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A microcontroller.

    `ram` is the longest run of addresses that are RAM after a reset: a program has its state, its
    arena and its stack there.  `other_ram` is what lies elsewhere.  `memory` says where these
    figures are from, `manual` where core, FPU and clock are.
    """

    part: str
    core: Core
    fpu: Fpu
    ram: Region
    flash: Region
    memory: str
    manual: str
    other_ram: tuple[Region, ...] = ()
    boot: Words | None = None


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board that can be bought.

    `mhz` is the fastest clock that its maker allows.  `flash` is what a program may have, where
    that is not all of the chip's: some boards come with a boot loader.  `source` says where this
    is from, `note` what the maker of a program must know.
    """

    name: str
    title: str
    maker: str
    chip: Chip
    mhz: int
    source: str
    program: Region | None = None
    note: str = ""

    @property
    def ram(self) -> Region:
        """The RAM that a program may use: state, arena and stack."""
        return self.chip.ram

    @property
    def flash(self) -> Region:
        """The flash that a program may use: code and tables."""
        return self.program or self.chip.flash

    @property
    def ram_total(self) -> int:
        """Bytes of all RAM on the chip."""
        return self.chip.ram.size + sum(bank.size for bank in self.chip.other_ram)
