"""A board as a budget: how much RAM a program may take there, and what fits if one takes more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from kilograd.boards import Board
from kilograd.emit.readme import STACK_BYTES
from kilograd.errors import InputError, option
from kilograd.frontend import Model, resized
from kilograd.ir import Graph, dead_code
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.select import Budget, RamError, runs_code
from kilograd.settings import Limits, Recipe
from kilograd.sizes import ram_of, spelled

_SMALLER = ("last:6", "last:3", "last", "none")
"""Methods in falling order of RAM, of which the first that fits is named."""


def most_without_stack(board: Board) -> int:
    """Return the bytes of state and arena that a board takes beside a stack."""
    return board.ram.size - STACK_BYTES


def feature_bytes(network: Graph) -> int:
    """Return the bytes of weights that every program of a network has: those of its features.

    The original classifier is in none.  Equal weights are in flash once.
    """
    features = dead_code(replace(network, outputs=network.outputs[:1]))
    once = {(v.dtype.str, v.tobytes()): v.nbytes for v in features.data.values()}
    return sum(once.values())


def within(limits: Limits, board: Board) -> Limits:
    """Return limits that a program on a board must keep: its RAM, or less where less is given.

    Raises `InputError` for more than the board has.
    """
    most = most_without_stack(board)
    if limits.sram is None:
        return replace(limits, sram=most)
    if ram_of(limits.sram, "sram") > most:
        raise InputError(
            f"{option('sram')} {limits.sram}: {option('board')} {board.name} has "
            f"{spelled(board.ram.size)} of RAM for a program, {STACK_BYTES:,} of them for its "
            f"stack; give at most {most}, or leave {option('sram')} away"
        )
    return limits


@contextmanager
def fitting(board: Board | None, model: Model, recipe: Recipe) -> Iterator[None]:
    """Say of a program that is too large for a board by how much it is, and what fits."""
    try:
        yield
    except RamError as e:
        if board is None or e.need <= most_without_stack(board):
            raise
        need = e.need + STACK_BYTES
        asked = replace(recipe, ways=e.ways or recipe.ways)  # a task says how many late
        raise InputError(
            f"{option('board')} {board.name}: method {recipe.method} on {model.name} needs "
            f"{need:,} bytes of RAM, {STACK_BYTES:,} of them for the stack; that is "
            f"{need - board.ram.size:,} more than the {spelled(board.ram.size)} that a program "
            f"may use; {_what_fits(board, model, asked)}"
        ) from e


def check_ram(compiled: Compiled, board: Board) -> None:
    """Raise `InputError` where a program is too large for a board."""
    need, most = compiled.program.sram_bytes, most_without_stack(board)
    with fitting(board, compiled.model, compiled.recipe):
        if need > most:
            raise RamError(f"{option('sram')} {most}: the program needs {need}", need)


def _what_fits(board: Board, model: Model, recipe: Recipe) -> str:
    """Compile one thing after the other that needs less, and name the first that fits."""
    least: tuple[int, str] | None = None
    for smaller, tried, given in _trials(model, recipe):
        try:
            need = compile_recipe(smaller, tried, Budget()).program.sram_bytes + STACK_BYTES
        except InputError:
            continue  # not with this network, or not without images
        if need <= board.ram.size:
            return f"what fits, with {board.ram.size - need:,} bytes to spare: {given}"
        if least is None or need < least[0]:
            least = (need, given)
    if least is None:
        return "choose a board with more RAM"
    return (
        f"nothing that was tried fits; the least, {least[0]:,} bytes, has {least[1]}: choose a "
        "smaller network, or a board with more RAM"
    )


def _trials(model: Model, recipe: Recipe) -> Iterator[tuple[Model, Recipe, str]]:
    """Yield a network, a recipe and the options that ask for both, from what costs least to lose.

    First the image comes row by row, then less learns, then images are smaller.
    """
    by_rows = replace(recipe, rows=True)
    # The method may stand in a folder that somebody else wrote: his code is not run for this.
    if not recipe.rows and not runs_code(recipe.method):
        yield model, by_rows, option("rows")
    side = model.preprocess.size
    smaller_sides = (side * 3 // 4, side // 2) if isinstance(side, int) else ()
    for size in (None, *smaller_sides):
        try:
            smaller = model if size is None else resized(model, size)
        except InputError:
            continue  # not a size that this network takes
        at = "" if size is None else f" {option('size')} {size}"
        for method in _SMALLER:
            head = None if method == "none" else recipe.head
            tried = replace(by_rows, method=method, head=head)
            other = "" if head is recipe.head else f" {option('head')} proto"
            yield smaller, tried, f"{option('method')} {method} {option('rows')}{other}{at}"
