"""What a program needs on a target, in the words of docs/memory.md: one place computes them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from kilograd.boards import Board
from kilograd.emit import Program
from kilograd.errors import InputError, option
from kilograd.extras import Extra
from kilograd.sizes import spelled
from kilograd.targets.elf import ElfTarget, build_elf
from kilograd.targets.target import CrossCompiler, Target


@dataclass(frozen=True)
class Footprint:
    """Bytes of RAM and flash.

    `tables_bytes` are weights, scales and first values.  `stack_bytes` is the most that any path
    of calls can take.  It, `other_bytes` (what the linker adds to state and arena) and `code_bytes`
    (instructions, and parameters of calls) are None where nothing here can compile for the target.
    """

    state_bytes: int
    arena_bytes: int
    tables_bytes: int
    other_bytes: int | None = None
    stack_bytes: int | None = None
    code_bytes: int | None = None

    @property
    def ram_without_stack_bytes(self) -> int:
        """State and arena."""
        return self.state_bytes + self.arena_bytes

    @property
    def ram_bytes(self) -> int | None:
        """All RAM: state, arena, what the linker adds, and the most that the stack can take."""
        if self.other_bytes is None or self.stack_bytes is None:
            return None
        return self.ram_without_stack_bytes + self.other_bytes + self.stack_bytes

    @property
    def flash_bytes(self) -> int | None:
        """All flash: tables and code."""
        return None if self.code_bytes is None else self.tables_bytes + self.code_bytes


def footprint(program: Program, target: Target) -> Footprint:
    """Return what a program needs on a target; compiles it where the tools for that are here."""
    known = Footprint(program.state_bytes, program.arena_bytes, program.flash_bytes)
    if not isinstance(target, ElfTarget):
        return known
    able = _with_tools_here(target)
    if able is None:
        return known
    firmware = build_elf(program, able)
    return Footprint(
        known.state_bytes,
        known.arena_bytes,
        known.tables_bytes,
        firmware.sizes.data_bss_bytes - program.sram_bytes,
        firmware.stack_bound.bytes,
        firmware.sizes.flash_bytes - known.tables_bytes,
    )


def _with_tools_here(target: ElfTarget) -> ElfTarget | None:
    """Return a target with its compiler, or another one that is here; None where nothing is."""
    for compiler in dict.fromkeys((target.compiler, *CrossCompiler)):
        able = target.with_tools(compiler, target.emulator)
        with contextlib.suppress(InputError):
            able.cross_compiler()
            for package in ("elftools", "capstone"):
                Extra.EMULATE.load(package, "bounding the stack")
            return able
    return None


def check_flash(need: Footprint, board: Board) -> None:
    """Raise `InputError` where a program has more tables and code than a board has flash."""
    size = need.flash_bytes or need.tables_bytes
    if size > board.flash.size:
        more = size - board.flash.size
        known = f"{spelled(size)} of flash ({need.tables_bytes:,} of them tables)"
        if need.flash_bytes is None:
            known = f"at least {spelled(size)} of flash, without its code"
        raise InputError(
            f"{option('board')} {board.name}: the program needs {known}, {more:,} more than the "
            f"{spelled(board.flash.size)} that the board has for it; choose a smaller network"
        )
