"""Work on a whole data set, so that whatever interrupts it loses no more than seconds.

(A test between two passes is made again.)

A folder `unfinished` lies in the folder of the results until these are there.  It holds the images
as network input, which images those are, the answers to the tests so far, and where training is.
The same command goes on with it, and ends with the same bits.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as unpacked
from safetensors.numpy import save as packed

from kilograd import limits
from kilograd.errors import InputError, option
from kilograd.interruption import goes_on
from kilograd.ir import Array
from kilograd.output import write_file
from kilograd.reading import read_bytes

UNFINISHED = "unfinished"
_BEGUN, _CHECKPOINT = "begun", "checkpoint"
_FILES = {_BEGUN, _CHECKPOINT, "before", "after", "taken", "pixels"}
_EVERY = 5.0
"""Seconds after which what was done is written."""
_DIGEST = hashlib.sha256().digest_size


def begun(out: Path) -> bool:
    """Say whether a folder holds unfinished work of ours and nothing else."""
    try:
        alone = [p.name for p in out.iterdir() if not p.name.startswith(".kilograd-")]
    except OSError:
        return False
    return alone == [UNFINISHED] and _ours(out / UNFINISHED)


def _ours(folder: Path) -> bool:
    """Say whether a folder holds files of ours and nothing else."""
    try:
        inside = {p.name: p.lstat().st_mode for p in folder.iterdir()}
    except OSError:
        return False
    kinds = (
        stat.S_ISREG(mode) if name in _FILES else name.startswith(".kilograd-scratch-")
        for name, mode in inside.items()
    )
    return not folder.is_symlink() and all(kinds)


@contextmanager
def unfinished(out: Path | None, *, force: bool) -> Iterator[Path]:
    """Yield the folder of unfinished work: that of `out`, or one that vanishes at the end.

    `force` begins anew.  An error of the user's takes away what was begun here.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="kilograd-") as scratch:
            yield Path(scratch)
        return
    folder = out / UNFINISHED
    if os.path.lexists(folder) and not _ours(folder):
        raise InputError(
            f"{option('out')} {out}: {UNFINISHED} in it holds files that Kilograd has not written; "
            "move them, or choose another folder"
        )
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as e:
        raise InputError(f"{option('out')} {out}: cannot be written ({e.strerror or e})") from e
    try:
        _lock(lock, out)
        with goes_on(out):
            yield folder
    except InputError:
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
            for parent in missing[1:]:
                with suppress(OSError):
                    parent.rmdir()
        raise
    finally:
        os.close(lock)


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise InputError(f"{option('out')} {out}: another run is writing there; wait") from e
    except OSError:
        pass  # where nothing can be locked, nobody is kept out


@dataclass(frozen=True)
class Position:
    """Where training is: `at` samples of the pass `turn` are done, in `order`.

    `losses`: of all samples so far.  `tested`: accuracies after passes.  `random`: the state of
    the generator.  `state`: that of the program, by name.
    """

    turn: int
    at: int
    updates: int
    running: float
    order: NDArray[np.int64]
    losses: NDArray[np.float64]
    tested: NDArray[np.float64]
    random: Mapping[str, Any]
    state: Mapping[str, Array]


class Keeper:
    """Keeps the answers to tests and the position of training in a folder, every few seconds.

    `key` tells the work from another.  Raises `InputError` where the folder holds another's.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._last = folder, time.monotonic()
        mark = folder / _BEGUN
        if mark.exists() and read_bytes(mark, 1 << 10) != key.encode():
            raise InputError(
                f"{option('out')} {folder.parent}: was begun with other options, images or another "
                f"network or version; go on as before, choose another folder, or begin anew with "
                f"{option('force')}"
            )
        write_file(mark, key)

    def answers(self, name: str, count: int, ways: int, infer: Callable[[int], int]) -> list[int]:
        """Return the answers to a test of so many images; those that are known are not asked.

        `ways`: an answer is below.  From the first that is not, the file is damaged.
        """
        file = self._folder / name
        known = read_bytes(file, 4 * count) if file.exists() else b""
        kept = np.frombuffer(known[: len(known) // 4 * 4], np.int32).tolist()
        found = list(itertools.takewhile(lambda way: 0 <= way < ways, kept))
        with file.open("ab") as log:
            log.truncate(4 * len(found))
            for i in range(len(found), count):
                found.append(infer(i))
                log.write(np.int32(found[-1]).tobytes())
                if self._due():
                    log.flush()
        return found

    def keep(self, position: Callable[[], Position], *, now: bool = False) -> None:
        """Write where training is, if that was not done a moment ago."""
        if now or self._due():
            data = _bytes(position())
            write_file(self._folder / _CHECKPOINT, data + hashlib.sha256(data).digest())
            self._last = time.monotonic()

    def position(self) -> Position | None:
        """Return where training was; `None` where it had not begun, or the file is damaged."""
        file = self._folder / _CHECKPOINT
        if not file.exists():
            return None
        content = read_bytes(file, limits.CHECKPOINT_BYTES)
        data, digest = content[:-_DIGEST], content[-_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            return None
        try:
            return _position(data)
        except (SafetensorError, KeyError, ValueError, msgspec.ValidationError):
            return None

    def _due(self) -> bool:
        if time.monotonic() < self._last + _EVERY:
            return False
        self._last = time.monotonic()
        return True


def _bytes(p: Position) -> bytes:
    numbers = json.dumps([p.turn, p.at, p.updates, p.random]).encode()
    tensors = {
        "numbers": np.frombuffer(numbers, np.uint8),
        "running": np.array([p.running]),
        "order": p.order,
        "losses": p.losses,
        "tested": p.tested,
        **{f"state.{name}": np.ascontiguousarray(value) for name, value in p.state.items()},
    }
    return packed(tensors)


def _position(data: bytes) -> Position:
    found = unpacked(data)
    turn, at, updates, random = json.loads(found.pop("numbers").tobytes())
    names = "running", "order", "losses", "tested"
    running, order, losses, tested = (found.pop(name) for name in names)
    state = {name.removeprefix("state."): value for name, value in found.items()}
    seen = order, losses, tested
    return Position(turn, at, updates, float(running[0]), *seen, random, state)
