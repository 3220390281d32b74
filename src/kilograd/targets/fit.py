"""Whether a program fits into the RAM of a board, and what takes the room if it does not."""

from __future__ import annotations

from kilograd.emit import Entry, Program
from kilograd.emit.readme import STACK_BYTES
from kilograd.errors import InputError
from kilograd.memory import Buffer

_NAMED = 3


def ram_needed(program: Program) -> int:
    """Return the bytes of state, arena and a stack."""
    return program.sram_bytes + STACK_BYTES


def check_fits(program: Program, ram: int, option: str) -> None:
    """Raise `InputError` if a program needs more than `ram` bytes, its stack included.

    The message starts with `option`, and names what is in memory when most is.
    """
    need = ram_needed(program)
    if need <= ram:
        return
    entry = max(program.entries.values(), key=lambda e: e.plan.peak)
    largest = sorted(_alive_at_peak(entry), key=lambda b: -b.size)[:_NAMED]
    named = ", ".join(f"{b.name} {b.size:,}" for b in largest)
    raise InputError(
        f"{option}: the program needs {need} bytes of RAM ({program.state_bytes} kept, "
        f"{program.arena_bytes} working memory, {STACK_BYTES} for the stack), {need - ram} more "
        f"than there are; largest at the peak, in {entry.name}: {named}; "
        f"the smallest RAM that fits is {need}"
    )


def _alive_at_peak(entry: Entry) -> list[Buffer]:
    """Return the buffers in use at the step where most bytes are."""
    buffers = entry.storage.buffers

    def alive(step: int) -> list[Buffer]:
        return [b for b in buffers if b.first <= step < b.last]

    return max((alive(t) for t in {b.first for b in buffers}), key=lambda a: sum(b.room for b in a))
