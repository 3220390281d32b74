"""Where commands speak: results on standard output, all else on standard error."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from rich import table as rich_table
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from kilograd.errors import shown
from kilograd.progress import Progress

# Names of the user's are no markup: a class may be called [red].
OUT = Console(markup=False, highlight=False)
ERR = Console(markup=False, highlight=False, stderr=True)

_LOG = logging.getLogger("kilograd")
_BEGUN = time.perf_counter()


class Table(rich_table.Table):
    """A table whose cells may hold texts of others: whatever does not print is escaped.

    On a narrow terminal the first column, which names things, stays whole; others are wrapped, and
    nothing is cut off.
    """

    def __init__(self, *headers: str, title: str | None = None, **look: Any) -> None:  # noqa: ANN401
        super().__init__(title=title, **look)
        for i, header in enumerate(headers):
            self.add_column(shown(header), no_wrap=i == 0)

    def add_column(  # type: ignore[override]  # rich names a dozen looks
        self,
        header: RenderableType = "",
        **look: Any,  # noqa: ANN401
    ) -> None:
        """Append a column."""
        super().add_column(header, **{"overflow": "fold", **look})

    def add_row(self, *cells: RenderableType | None, **look: Any) -> None:  # noqa: ANN401
        """Append a row."""
        super().add_row(*(shown(c) if isinstance(c, str) else c for c in cells), **look)


class _Remarks(logging.Handler):
    """Prints what the library logs; details with the seconds since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        text = shown(record.getMessage())
        if record.levelno < logging.INFO:
            text = f"{time.perf_counter() - _BEGUN:7.2f} s  {text}"
        ERR.print(text, soft_wrap=True)


def speak(level: int) -> None:
    """Say what is at least so important: remarks are warnings, details of the work are debugging.

    Bars show the work where information does.
    """
    _LOG.handlers = [_Remarks()]
    _LOG.propagate = False
    _LOG.setLevel(level)


def say(text: str) -> None:
    """Print a line as it is, but for what does not print."""
    print(shown(text))


def word(path: Path) -> str:
    """Return a path as a word of a command that a person may copy into a shell.

    >>> print(word(Path("learned")), word(Path("my cats; ls")), word(Path("-v")))
    learned 'my cats; ls' ./-v
    """
    name = str(path)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def report(message: str, *items: str) -> None:
    """Say why a command ends: in one line, or in one and a list."""
    with suppress(OSError):
        lines = "\n".join(map(shown, (message, *items)))
        print(f"error: {lines}", file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    """End a command that has shown a defect of ours."""
    report(message)
    sys.exit(1)


@contextmanager
def bar(work: str) -> Iterator[Progress]:
    """Show a bar of long work on a terminal; what is yielded is told how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    unseen = not (ERR.is_terminal and _LOG.isEnabledFor(logging.INFO))
    with Bar(*columns, console=ERR, disable=unseen, transient=True) as drawn:
        task = drawn.add_task(work, total=None, said="")
        yield lambda done, of, said: drawn.update(task, completed=done, total=of, said=said)
