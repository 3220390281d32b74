"""Ctrl-C, SIGTERM and SIGHUP: at any moment of a command they mean the same, and one line says so.

While a command starts, nothing has been made and the process ends at once.  While it works, the
first signal raises `Interruption`; those that follow do not disturb the tidying up.
"""

from __future__ import annotations

import enum
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress

TYPE_CHECKING = False  # as typing's; to import that takes time in which no signal is heard
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from sys import UnraisableHookArgs
    from types import FrameType
    from typing import NoReturn

_LISTENED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 5.0  # seconds for tidying up; a signal that comes later ends the process at once
_AGAIN = 0.02  # seconds after which an interruption is raised again that nobody could catch
_NOTHING = "nothing is half written"


class Interruption(KeyboardInterrupt):
    """A signal asks the command to end; `code` is the exit code that says which."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


class _Phase(enum.Enum):
    STARTING = enum.auto()
    RUNNING = enum.auto()
    ENDING = enum.auto()


class _Signals:
    """The handler; `number` is the signal that came, 0 before one does."""

    def __init__(self) -> None:
        self.phase = _Phase.STARTING
        self.number = 0
        self.held = 0
        self._raised_at = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.phase is _Phase.RUNNING:
            self.number = number
            self.release()
        elif self.phase is _Phase.STARTING or time.monotonic() > self._raised_at + _PATIENCE:
            _end_at_once(number)

    def release(self) -> None:
        """Raise what came, unless it must wait."""
        if self.number and not self.held and self.phase is _Phase.RUNNING:
            self.phase, self._raised_at = _Phase.ENDING, time.monotonic()
            raise Interruption(self.number)

    def swallowed(self, args: UnraisableHookArgs) -> None:
        """Raise again, a moment later, what came where nothing can be raised: in a destructor."""
        if self.number and isinstance(args.exc_value, Interruption):
            self.phase = _Phase.RUNNING
            signal.signal(signal.SIGALRM, lambda *_: self.release())
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        elif self.phase is not _Phase.ENDING:
            sys.__unraisablehook__(args)


_signals = _Signals()


def listen() -> None:
    """Take over the signals of this process, but for those that are ignored (nohup)."""
    sys.unraisablehook = _signals.swallowed
    for number in _LISTENED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _signals)


def begin() -> None:
    """Work begins: from now on a signal raises."""
    _signals.phase, _signals.number = _Phase.RUNNING, 0


def over() -> None:
    """All is done and said: what comes now comes too late."""
    _signals.phase, _signals.number = _Phase.ENDING, 0
    for number in _LISTENED:
        if signal.getsignal(number) is _signals:
            signal.signal(number, signal.SIG_IGN)


def code_of(error: BaseException) -> int:
    """Return the exit code of an error that comes of an interruption, 0 for any other.

    What is interrupted in the middle of something may come out as any error.
    """
    if isinstance(error, Interruption):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return 128 + _signals.number if _signals.number else 0


def said(error: BaseException) -> str:
    """Return the line for the user: what is known of what is left."""
    return "; ".join(["interrupted", *(getattr(error, "__notes__", None) or [_NOTHING])])


@contextmanager
def goes_on(out: Path) -> Iterator[None]:
    """Say of an interruption that the same command goes on with what `out` holds."""
    try:
        yield
    except KeyboardInterrupt as e:
        e.add_note(f"the same command goes on with what {out} holds")
        raise


@contextmanager
def later() -> Iterator[None]:
    """Let a signal wait until the end of the block: one that is short, and must not be torn."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are for the main thread
        return
    _signals.held += 1
    try:
        yield
    finally:
        _signals.held -= 1
        _signals.release()


def _end_at_once(number: int) -> NoReturn:
    with suppress(OSError):
        os.write(2, f"error: interrupted; {_NOTHING}\n".encode())
    os._exit(128 + number)
