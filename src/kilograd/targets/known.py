"""The targets: a new one is a value here and its line in `TARGETS`, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from kilograd.boards import Board, Core, Fpu
from kilograd.errors import InputError, option
from kilograd.targets.aarch64 import AArch64
from kilograd.targets.cortex import Cortex, Machine
from kilograd.targets.target import Target
from kilograd.targets.wasm import Wasm

CORTEX_M7 = Cortex(
    name="cortex-m7",
    zig_cpu="cortex_m7+fp_armv8d16",
    gcc_cpu=("-mcpu=cortex-m7", "-mfpu=fpv5-d16"),
    unicorn_cpu="UC_CPU_ARM_CORTEX_M7",
    machine=Machine(name="mps2-an500"),
    cached=True,
)
#: As many STM32F7 are: with float32 only.
_CORTEX_M7_SINGLE = replace(
    CORTEX_M7, zig_cpu="cortex_m7+fp_armv8d16sp", gcc_cpu=("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16")
)
CORTEX_M4 = Cortex(
    name="cortex-m4",
    zig_cpu="cortex_m4+vfp4d16sp",
    gcc_cpu=("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"),
    unicorn_cpu="UC_CPU_ARM_CORTEX_M4",
    machine=Machine(name="mps2-an386"),
)
#: Starts in the secure state, to which memory and timer of the machine belong.
CORTEX_M33 = Cortex(
    name="cortex-m33",
    zig_cpu="cortex_m33+dsp+fp_armv8d16sp",
    gcc_cpu=("-mcpu=cortex-m33", "-mfpu=fpv5-sp-d16"),
    unicorn_cpu="UC_CPU_ARM_CORTEX_M33",
    machine=Machine(
        name="mps2-an505",
        code=0x10000000,
        ram=0x38000000,
        timer=0x50000000,
        tick_instructions=50,  # 20 MHz
    ),
)
AARCH64 = AArch64(
    name="aarch64",
    zig_cpu="cortex_a53",
    unicorn_cpu="UC_CPU_ARM64_A53",
    qemu_cpu="cortex-a53",
)
WASM32 = Wasm(name="wasm32", counted="wasm operations", ram=4 * 65536)

TARGETS: tuple[Target, ...] = (CORTEX_M7, CORTEX_M4, CORTEX_M33, AARCH64, WASM32)

_OF_BOARDS = {
    (Core.M4, Fpu.SINGLE): CORTEX_M4,
    (Core.M7, Fpu.SINGLE): _CORTEX_M7_SINGLE,
    (Core.M7, Fpu.DOUBLE): CORTEX_M7,
    (Core.M33, Fpu.SINGLE): CORTEX_M33,
}


def target_of(board: Board) -> Cortex:
    """Return the target that a board is: its processor, FPU and memory."""
    return replace(_OF_BOARDS[board.chip.core, board.chip.fpu], board=board)


def chosen_target(target: str | None, board: Board | None) -> Target:
    """Return the target of a name, or that of a board; the usual one where neither is given.

    Raises `InputError` where the board has another processor.
    """
    if board is None:
        return find_target(CORTEX_M7.name if target is None else target)
    of_board = target_of(board)
    if target is not None and find_target(target).name != of_board.name:
        raise InputError(
            f"{option('target')} {target}: {option('board')} {board.name} has a {of_board.name}; "
            "leave one away"
        )
    return of_board


def find_target(name: str) -> Target:
    """Return the target of that name; raises `InputError` where there is none."""
    for known in TARGETS:
        if known.name == name:
            return known
    names = ", ".join(t.name for t in TARGETS)
    raise InputError(f"{option('target')} {name}: is none of {names}")
