"""How commands tell what a program needs, and whether it fits: one word for each kind of memory."""

from __future__ import annotations

from dataclasses import asdict

from kilograd.boards import Board
from kilograd.cli.console import OUT, Table
from kilograd.cli.numbers import kib
from kilograd.emit import Program
from kilograd.extras import Extra
from kilograd.passes import EntryPoint
from kilograd.targets import Footprint, Seconds, estimated, footprint, target_of

Rows = list[tuple[str, str]]


def needs(program: Program, board: Board | None) -> Footprint:
    """Return what a program needs on a board; without one, all that holds for every target."""
    if board is not None:
        return footprint(program, target_of(board))
    return Footprint(program.state_bytes, program.arena_bytes, program.flash_bytes)


def memory_rows(need: Footprint, board: Board | None) -> Rows:
    """Return rows of a table: RAM and flash, as far as they are known."""
    rows = [("RAM without stack", kib(need.ram_without_stack_bytes))]
    if need.ram_bytes is not None:
        rows = [("RAM, at most", kib(need.ram_bytes))]
        rows += [("  without stack", kib(need.ram_without_stack_bytes))]
    if need.flash_bytes is not None:
        rows += [("flash", kib(need.flash_bytes)), ("  tables", kib(need.tables_bytes))]
    else:
        rows += [("tables in flash", kib(need.tables_bytes))]
    if board is not None:
        rows += [("board", board.title), ("", spare(need, board))]
    return rows


def time_rows(program: Program, board: Board | None) -> Rows:
    """Return rows that tell about how long a call takes on a board; none without a board."""
    if board is None:
        return []
    calls = (("forward", EntryPoint.INFER), ("step", EntryPoint.STEP))
    found = [(what, estimated(program, entry, board)) for what, entry in calls]
    texts = [f"{what} {about(time)}" for what, time in found if time]
    return [("time", ", ".join(texts)), ("", f"a model at {board.mhz} MHz: nobody measured it")]


def about(time: Seconds) -> str:
    """Write a time, and between what it may be."""
    return f"about {time.about:.2g} s ({time.low:.2g} to {time.high:.2g})"


def time_json(program: Program, board: Board | None) -> dict[str, object]:
    """Return how long calls take on a board as JSON, by the model; nothing without a board."""
    if board is None:
        return {}
    calls = (("seconds_forward", EntryPoint.INFER), ("seconds_step", EntryPoint.STEP))
    found = {name: estimated(program, entry, board) for name, entry in calls}
    return {name: None if time is None else asdict(time) for name, time in found.items()}


def spare(need: Footprint, board: Board) -> str:
    """Say how much of a board's memory is left, or what is too large."""
    ram = need.ram_bytes or need.ram_without_stack_bytes
    flash = need.flash_bytes or need.tables_bytes
    parts = [_spare("RAM", ram, board.ram.size), _spare("flash", flash, board.flash.size)]
    fits = ram <= board.ram.size and flash <= board.flash.size
    known = need.ram_bytes is not None and need.flash_bytes is not None
    only = "" if known else f"; stack and code are not counted: {Extra.EMULATE.install}"
    return f"{'fits: ' if fits else 'does not fit: '}{', '.join(parts)}{only}"


def _spare(what: str, need: int, there: int) -> str:
    if need <= there:
        return f"{_short(there - need)} of {what} to spare"
    return f"{_short(need - there)} too much {what}"


def _short(size: int) -> str:
    return f"{size / 1024:.0f} KB" if size >= 10 * 1024 else f"{size:,} B"


def memory_json(need: Footprint, board: Board | None) -> dict[str, object]:
    """Return the memory of a program as JSON; without a board only what holds for every target."""
    if board is None:
        return {
            "ram_without_stack_bytes": need.ram_without_stack_bytes,
            "tables_bytes": need.tables_bytes,
        }
    ram, flash = need.ram_bytes, need.flash_bytes
    return {
        "board": board.name,
        "ram_bound_bytes": ram,
        "ram_without_stack_bytes": need.ram_without_stack_bytes,
        "stack_bound_bytes": need.stack_bytes,
        "flash_all_bytes": flash,
        "tables_bytes": need.tables_bytes,
        "code_bytes": need.code_bytes,
        "ram_spare_bytes": None if ram is None else board.ram.size - ram,
        "flash_spare_bytes": None if flash is None else board.flash.size - flash,
    }


def show_rows(rows: Rows) -> None:
    """Print rows of two columns."""
    table = Table(show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    OUT.print(table)
