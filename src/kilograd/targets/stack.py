"""The most stack that a program can use, from its machine code.

A function takes what its instructions subtract from the stack pointer, and then what the deepest
function that it calls takes; after its own frame is released it may end in another function.
That is a bound for what compilers make of C: they release what they took before they take it
again, except for arrays whose length is known only when the program runs, which are refused.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilograd.extras import Extra


class StackError(ValueError):
    """A program whose stack has no bound."""


@dataclass(frozen=True)
class StackBound:
    """`bytes` at most, on the calls of `path`.

    `unresolved` names functions that call through a pointer nobody named a function for: what
    is called there comes on top.
    """

    bytes: int
    path: tuple[str, ...]
    unresolved: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """What a function takes from the stack itself, and the functions it calls and ends in.

    `problem` says why it has no bound, if it has none.
    """

    name: str
    frame: int
    problem: str
    calls: frozenset[int]
    tails: frozenset[int]
    indirect: bool


def stack_bound(
    elf: Path, entries: tuple[str, ...], pointers: Mapping[str, tuple[str, ...]] | None = None
) -> StackBound:
    """Return the bound over some functions of an ELF file for Thumb or AArch64.

    `pointers` names, for functions that call through a pointer, what they may call; what is not in
    the file was made part of its caller.

    Raises `StackError` for recursion and for frames whose size is not constant.
    """
    functions = read_functions(elf)
    at = {f.name: address for address, f in functions.items()}
    through = pointers or {}
    known: dict[int, tuple[int, tuple[str, ...]]] = {}

    def deepest(these: frozenset[int], above: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
        return max((visit(to, above) for to in sorted(these)), default=(0, ()))

    def visit(address: int, above: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
        f = functions[address]
        if f.problem:
            raise StackError(f"{f.name}: {f.problem}")
        above = (*above, address)
        if address in above[:-1]:
            circle = " -> ".join(functions[a].name for a in above[above.index(address) :])
            raise StackError(f"recursion has no bound: {circle}")
        if address not in known:
            named = frozenset(at[name] for name in through.get(f.name, ()) if name in at)
            inside, path = deepest(f.calls | named, above)
            after, tail = deepest(f.tails, above)
            within = f.frame + inside
            known[address] = max((within, (f.name, *path)), (after, (f.name, *tail)))
        return known[address]

    used, path = deepest(frozenset(at[name] for name in entries), ())
    pointing = {f.name for a, f in functions.items() if a in known and f.indirect}
    return StackBound(used, path, tuple(sorted(pointing - set(through))))


def read_functions(elf: Path) -> dict[int, Function]:
    """Return the functions of an ELF file by address."""
    elffile = Extra.EMULATE.load("elftools.elf.elffile", "reading firmware")
    with elf.open("rb") as f:
        file = elffile.ELFFile(f)
        thumb = file["e_machine"] == "EM_ARM"
        symbols = list(file.get_section_by_name(".symtab").iter_symbols())
        code = [(s["sh_addr"], s.data()) for s in file.iter_sections() if s["sh_flags"] & _CODE]
    names: dict[int, str] = {}
    ends: dict[int, int] = {}
    for s in symbols:
        if s["st_info"]["type"] == "STT_FUNC":
            start = s["st_value"] & ~int(thumb)
            # of several names the one in C, not that of the compiler's library
            names[start] = min(s.name, names.get(start, s.name), key=lambda n: ("." in n, n))
            ends[start] = start + s["st_size"]
    marks = sorted((s["st_value"], s.name[1:2]) for s in symbols if s.name.startswith("$"))
    decoder = _decoder(thumb=thumb)
    starts = sorted(names)
    for start, following in itertools.pairwise(starts):
        if ends[start] == start:  # assembler need not say how long a function is
            ends[start] = following
    functions = {}
    for start in starts:
        frame, problem, indirect, labels = 0, "", False, False
        calls: set[int] = set()
        tails: set[int] = set()
        for insn in _instructions(decoder, code, marks, start, ends[start]):
            taken = _taken(insn)
            if taken is None:
                shown = f"{insn.mnemonic} {insn.op_str}"
                problem = f"the size of its frame is not constant ({shown})"
            frame += taken or 0
            labels |= insn.mnemonic == "adr" and start < insn.operands[1].imm < ends[start]
            # AArch64 adds to the address of a label of its own for a switch
            indirect |= _is_indirect(insn) and not (insn.mnemonic == "br" and labels)
            to = _branch(insn)
            if to is not None and (insn.group(_CALL) or not start <= to < ends[start]):
                home = starts[max(bisect.bisect(starts, to) - 1, 0)]
                if not home <= to < ends[home]:
                    problem = f"it goes to {to:#x}, where no function is known"
                (calls if insn.group(_CALL) else tails).add(home)
        functions[start] = Function(
            names[start], frame, problem, frozenset(calls), frozenset(tails), indirect
        )
    return functions


_CODE = 4  # SHF_EXECINSTR
_JUMP, _CALL = 1, 2  # groups of instructions
_REGISTER, _NUMBER, _MEMORY = 1, 2, 3  # kinds of operands

# Instructions by how their names begin; what follows says width, flags or a condition (`sub.w`,
# `subs`).  The Arm Architecture Reference Manuals define them in alphabetical order: DDI 0403
# A7.7 (Armv7-M), DDI 0553 C2.4 (Armv8-M), DDI 0487 C6.2 (A64).
#
#: Store every register in the list below SP, and move SP there: STMDB SP!, VSTMDB SP!.
_PUSH = ("push", "vpush")
#: Only read SP where it is their first operand: they compare it, or access memory without moving
#: it (what moves it is disassembled as PUSH or POP).
_READ_SP = ("cmp", "tst", "stm", "ldm", "vstm", "vldm")
#: Copies a frame pointer into SP at the end of a function, which releases the frame.
_COPY = ("mov",)
#: The stack grows down: ADD releases, SUB takes.
_RELEASE, _TAKE = ("add",), ("sub",)
#: Where compilers keep SP as it was in the middle of a function: r7 in Thumb, r11 or fp in the
#: procedure call standard of Arm, x29 in that of AArch64.  Nothing but SP is copied there.
_FRAME_POINTERS = {"r7", "r11", "fp", "x29"}
#: Go elsewhere where they write PC: MOV PC, register and LDR PC, table.
_TO_PC = ("mov", "ldr")


def _decoder(*, thumb: bool) -> Any:  # noqa: ANN401 capstone has no types
    capstone = Extra.EMULATE.load("capstone", "bounding the stack")
    decoder = (
        capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
        if thumb
        else capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    )
    decoder.detail = True
    return decoder


def _instructions(
    decoder: Any,  # noqa: ANN401
    code: list[tuple[int, bytes]],
    marks: list[tuple[int, str]],
    start: int,
    end: int,
) -> Iterator[Any]:
    """Yield the instructions of a function; compilers mark the constants among them ($d)."""
    base, data = next((b, d) for b, d in code if b <= start < b + len(d))
    inside = [m for m in marks if start < m[0] < end]
    kinds = [m[1] for m in marks if m[0] <= start]
    pieces = [(start, kinds[-1] if kinds else "t"), *inside, (end, "")]
    for (first, kind), (last, _) in itertools.pairwise(pieces):
        if kind != "d":
            decoded = first
            for insn in decoder.disasm(data[first - base : last - base], first):
                decoded += insn.size
                yield insn
            if decoded != last:
                raise StackError(f"no instruction is known at {decoded:#x}")


def _taken(insn: Any) -> int | None:  # noqa: ANN401
    """Return the bytes that an instruction takes from the stack; None if that is no constant."""
    name, operands = insn.mnemonic, insn.operands
    registers = [insn.reg_name(o.reg) if o.type == _REGISTER else "" for o in operands]
    if name.startswith(_PUSH):  # a D register has 8 bytes, core and S registers have 4
        return sum(8 if r.startswith("d") else 4 for r in registers)
    memory = next((o for o in operands if o.type == _MEMORY), None)
    if memory is not None and insn.reg_name(memory.mem.base) == "sp" and insn.writeback:
        # STP x29, x30, [sp, #-16]! takes 16 bytes; LDP with [sp], #16 releases them
        return None if memory.mem.index else max(0, -memory.mem.disp)
    if registers[:1] != ["sp"] or name.startswith(_READ_SP):
        return 0
    source, last = registers[-2] or registers[-1], operands[-1]
    if name.startswith(_COPY) and registers[1] in _FRAME_POINTERS:
        return 0
    if last.type == _NUMBER and name.startswith(_RELEASE):
        return 0
    if last.type == _NUMBER and name.startswith(_TAKE):
        # SUB sp, x29, #n is back at an earlier SP; A64 may shift the number left by 12
        return 0 if source in _FRAME_POINTERS else last.imm << last.shift.value
    return None


def _branch(insn: Any) -> int | None:  # noqa: ANN401
    """Return where an instruction may go on, if that is a constant."""
    if insn.group(_JUMP) and insn.operands and insn.operands[-1].type == _NUMBER:
        return int(insn.operands[-1].imm)
    return None


def _is_indirect(insn: Any) -> bool:  # noqa: ANN401
    """Say whether an instruction goes where a register or a table of functions says."""
    registers = [insn.reg_name(o.reg) for o in insn.operands if o.type == _REGISTER]
    if insn.group(_JUMP):
        return len(registers) == len(insn.operands) == 1 and registers != ["lr"]
    memory = next((o for o in insn.operands if o.type == _MEMORY), None)
    # LDR PC, [sp], #4 is POP {pc}
    returns = memory is not None and insn.reg_name(memory.mem.base) == "sp"
    return registers[:1] == ["pc"] and insn.mnemonic.startswith(_TO_PC) and not returns
