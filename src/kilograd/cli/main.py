"""The command line: its commands, and how each of them ends."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from itertools import islice, pairwise
from typing import Annotated, cast

import typer
from typer.main import get_command

import kilograd
from kilograd import interruption
from kilograd.cli import (
    demo,
    device,
    learn,
    look,
    networks,
    offline,
    search,
    study,
    tune,
    use,
)
from kilograd.cli.console import ERR, report
from kilograd.errors import InputError
from kilograd.frontend import is_model
from kilograd.output import FULL

app = typer.Typer(pretty_exceptions_enable=False, help="Train neural networks in kilobytes.")
for room in (learn, demo, use, networks, look, device, study, tune, search, offline):
    app.add_typer(room.app)
# What typer raises for bad usage; it may be of a copy of click that typer keeps private.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
# How writing to standard output fails.
_UNWRITABLE = (*FULL, errno.EPIPE, errno.EIO)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(kilograd.__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; bad input ends with one line and exit code 2."""
    code: int | None
    try:
        code = _run_command(sys.argv[1:] or ["--help"])
    except BaseException as e:
        code = _error(e)
        if code is None:
            raise
    finally:
        interruption.over()
    if code:
        sys.exit(code)


def _run_command(words: list[str]) -> int:
    """Run a command and return its exit code, whatever it raises."""
    interruption.begin()
    if "_KILOGRAD_COMPLETE" in os.environ:  # a shell asks how a command may go on
        with suppress(KeyError, ValueError):  # of variables that a shell does not set so
            app(prog_name="kilograd")
        return 1
    command = get_command(app)
    try:
        # Not app(): what that does on Ctrl-C is typer's own, and changes with its version.
        with command.make_context("kilograd", words) as context:
            command.invoke(context)
    except typer.Exit as e:
        return e.exit_code
    finally:
        sys.stdout.flush()
    return 0


def _error(e: BaseException) -> int | None:
    """Say in one line why a command ended, and return its exit code; None: a defect, or an exit."""
    if code := interruption.code_of(e):
        ERR.show_cursor()  # a bar that was torn down may have left it hidden
        return _ended(code, interruption.said(e))
    if isinstance(e, InputError):
        return _ended(2, *e.on_command_line().split("\n"))
    if isinstance(e, _UsageError):
        return _ended(2, e.format_message() + _misplaced())
    if isinstance(e, OSError) and e.filename is None and e.errno in _UNWRITABLE:
        # Files and folders name themselves: it is standard output.  What it holds goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if e.errno == errno.EPIPE:  # as in `kilograd demo | head`
            return 1
        return _ended(2, f"the output cannot be written ({e.strerror})")
    return None


def _misplaced() -> str:
    """Say where a network goes that stands where there is no place for it."""
    words = sys.argv[1:]
    alone = (w for before, w in pairwise(words) if not before.startswith("-") and is_model(w))
    return "".join(f"; {w} is a network: give it as --model {w}" for w in islice(alone, 1))


def _ended(code: int, message: str, *items: str) -> int:
    report(message, *items)
    return code
