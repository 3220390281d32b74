"""What a case is, what a target does with it, and what counts as a finding."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import re
import resource
import signal
import traceback
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import kilograd
from kilograd.errors import InputError
from kilograd.targets.runner import RefusedError

Case = Mapping[str, bytes | str]
"""Files by path: what each holds, or, where it is text, where a link leads."""

FOLDER = "fuzzed"
"""The folder that a case lies in: what messages must name."""

LONGEST = 2100
"""Characters of a message."""

WAIT = 4
"""A case may take so many times its CPU limit by the clock."""


class Target(ABC):
    """Something that reads: makes cases for it, and says whether one was dealt with rightly.

    `share`: of the time.  `seconds`: of CPU, for one case.  `memory`: bytes that it may add.
    `deep`: one in so many cases is followed further than the reader, where that is dear.
    `sample`: cases in `make test`.  `named`: a refusal names a file or an option.
    """

    share = 1.0
    seconds = 5.0
    memory = 768 << 20
    deep = 1
    sample = 150
    named = True

    def __init__(self, home: Path) -> None:
        """Make seeds in a folder that stays."""
        self.home = home

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return type(self).__name__.lower()

    @abstractmethod
    def make(self, rng: Random) -> Case:
        """Return a case; the same for the same numbers."""

    @abstractmethod
    def check(self, folder: Path, *, deep: bool) -> None:
        """Read what is in a folder.  Raises `InputError` where it is refused, or `RefusedError`.

        Anything else that is raised is a finding, an AssertionError among it: what was accepted
        is not what it should be.
        """

    def close(self) -> None:  # noqa: B027 most begin nothing
        """End what was begun for all cases."""

    def case(self, seed: int, number: int) -> Case:
        """Return case `number` of a run."""
        return self.make(Random(f"{seed} {self.name} {number}"))


@dataclass(frozen=True)
class Finding:
    """What should not have happened: `where` tells one kind from another."""

    kind: str
    where: str
    text: str

    @property
    def key(self) -> str:
        """The name of a file for findings of this kind."""
        told = "".join(
            c if c.isascii() and c.isalnum() else "-" for c in f"{self.kind}-{self.where}"
        )
        return f"{told[:70].strip('-')}-{zlib.crc32(self.where.encode()):08x}"


class OvertimeError(BaseException):
    """A case takes too long.  No Exception: readers catch those."""


def judge(target: Target, case: Case, scratch: Path, *, deep: bool) -> bool | Finding:
    """Check a case; say whether it was accepted, or what is wrong."""
    forget_peak()  # else what is added below an earlier peak goes unseen
    before = peak()
    with written(case, scratch) as folder:
        try:
            with limited(target.seconds):
                target.check(folder, deep=deep)
            result: bool | Finding = True
        except InputError as e:
            result = _message(target, e)
        except RefusedError:
            result = False
        except OvertimeError:
            result = Finding("time", _place(traceback.format_exc()), traceback.format_exc())
        except MemoryError:  # the limit of the process came before that of the case
            result = Finding("memory", target.name, traceback.format_exc())
        except Exception as e:  # noqa: BLE001 that is the question
            trace = traceback.format_exc()
            wrong = isinstance(e, AssertionError)
            where = getattr(e, "where", "") or (_plain(str(e)) if wrong else "") or _place(trace)
            result = Finding("wrong" if wrong else type(e).__name__, where, trace)
    if peak() - before > target.memory and not isinstance(result, Finding):
        return Finding("memory", target.name, f"{(peak() - before) >> 20} MiB")
    return result


def _message(target: Target, error: InputError) -> bool | Finding:
    """See that a refusal is one clean line that says what is refused, and one for each item."""
    text = error.on_command_line()
    lines = text.split("\n")
    faults = {
        "not one printable line": not all(map(str.isprintable, lines)),
        "more lines than items": len(lines) != 1 + len(error.items),
        "too long": max(map(len, lines)) > LONGEST,
        "names no file or option": target.named and FOLDER not in text and "--" not in text,
        "empty": not text.strip(),
    }
    wrong = [fault for fault, found in faults.items() if found]
    place = _place("".join(traceback.format_exception(error)))
    return Finding("message", f"{wrong[0]} {place}", repr(text)[:9000]) if wrong else False


def _plain(text: str) -> str:
    """Return what a text begins with, without what differs from case to case."""
    return re.sub(r"'.*'|\".*\"|-?\d+", "", re.split(r"\n|: ", text)[0])[:80].strip()


def _place(trace: str) -> str:
    """Return the innermost line of the product in a traceback: file and line."""
    package = str(Path(kilograd.__file__).parent) + os.sep
    lines = [x.split('"')[1:] for x in trace.splitlines() if x.startswith('  File "')]
    ours = [(file, rest) for file, rest in lines if file.startswith(package)] or lines
    if not ours:
        return "nowhere"
    file, rest = ours[-1]
    return f"{Path(file).parent.name}/{Path(file).name}:{rest.split('line ')[1].split(',')[0]}"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop what takes more CPU than that, or waits for long.

    What stays in C is seen by the parent alone.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for timer, _, _ in timers:  # once is enough, and twice would hit who tells of it
            signal.setitimer(timer, 0)
        raise OvertimeError

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, WAIT * seconds),  # others may have the processor
    )
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def peak() -> int:
    """Return the most bytes that this process had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def forget_peak() -> None:
    """Count the peak from here; where the system knows how."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


@contextmanager
def written(case: Case, scratch: Path) -> Iterator[Path]:
    """Write a case into a folder that is gone afterwards.

    What no file can be called is left out.
    """
    folder = scratch / FOLDER
    folder.mkdir()
    for name, content in case.items():
        try:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                file.symlink_to(content)
            else:
                file.write_bytes(content)
        except (OSError, ValueError):
            continue
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """As rmtree, which asks the system far more."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove(Path(entry.path))
            else:
                os.unlink(entry.path)  # noqa: PTH108
    folder.rmdir()


# ---- cases that are kept ----


def store(file: Path, target: str, case: Case, about: Mapping[str, object]) -> None:
    """Write a case as JSON: text where a file is text."""
    files = {name: _told(content) for name, content in case.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"target": target, **about, "files": files}, indent=1)
    file.write_text(text + "\n", encoding="utf-8")


def stored(file: Path) -> tuple[str, Case]:
    """Return what `store` wrote: target and case."""
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found["target"], {name: _meant(x) for name, x in found["files"].items()}


def _told(content: bytes | str) -> object:
    if isinstance(content, str):
        return {"link": content}
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return {"zlib": base64.b64encode(zlib.compress(content)).decode("ascii")}
    return text


def _meant(told: Any) -> bytes | str:
    if isinstance(told, str):
        return told.encode("utf-8")
    return told["link"] if "link" in told else zlib.decompress(base64.b64decode(told["zlib"]))


def die_with_parent() -> None:
    """Let the system end this process where its parent ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
