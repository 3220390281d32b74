"""Images as network input, in a file: decoded once, read as they are needed, never all in RAM."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from kilograd import limits
from kilograd.data import Source, prepare
from kilograd.data.listed import Listed
from kilograd.data.pixels import Sample, decoded
from kilograd.errors import InputError, option, shown
from kilograd.frontend import Preprocess
from kilograd.progress import Progress
from kilograd.reading import read_bytes

_EVERY = 2.0
_Natural = Annotated[int, Meta(ge=0)]


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """An image that was looked at: what it is called, what tells another one, and if it is read."""

    name: str
    size: _Natural
    stamp: _Natural
    ok: bool


class Taken:
    """Takes images in the order in which a set lists them; what was taken before is not decoded.

    Row i of `images` is image i of the data set that is made of them.  `data`: where that lies, for
    messages.
    """

    def __init__(
        self, folder: Path, data: Path, preprocess: Preprocess, progress: Progress
    ) -> None:
        self._data_set, self._preprocess, self._progress = data, preprocess, progress
        self._shape = preprocess.shape
        self._each = int(np.prod(self._shape))
        self._log, self._pixels = folder / "taken", folder / "pixels"
        self._head = json.dumps(preprocess.told).encode() + b"\n"
        self._known, self._at, self._rows = self._read(), 0, 0
        self._clean = False
        self._last = time.monotonic()
        self._lines: list[bytes] = []
        self._data = bytearray()

    def __call__(self, one: Listed, at: int, of: int) -> bool:
        """Take an image; return whether it can be read."""
        self._progress(at, of, "reading images")
        size, stamp = _stamp(one.source)
        new = _Record(shown(one.name), size, stamp, ok=True)
        old = self._known[self._at] if self._at < len(self._known) else None
        if old is not None and (old.name, old.size, old.stamp) == (new.name, size, stamp):
            self._at, self._rows = self._at + 1, self._rows + old.ok
            return old.ok
        if not self._clean:
            self._cut()
        pixels = None if one.source is None else self._prepared(one.source, new.name)
        self._add(msgspec.structs.replace(new, ok=pixels is not None), pixels)
        return pixels is not None

    def images(self) -> NDArray[np.int8]:
        """Return the images that can be read, int8 [n, h, w, c], as they lie in the file."""
        if not self._clean:
            self._cut()
        self._write()
        if not self._rows:
            return np.zeros((0, *self._shape), np.int8)
        return np.memmap(self._pixels, np.int8, "r", shape=(self._rows, *self._shape))

    def digest(self) -> str:
        """Return what tells these images from others."""
        return hashlib.sha256(self._log.read_bytes()).hexdigest()

    def _prepared(self, source: Source, name: str) -> NDArray[np.int8] | None:
        """Return a sample as network input; `InputError` for one that is none of the network's."""
        sample = self._decoded(source)
        try:
            return None if sample is None else prepare(sample, self._preprocess)
        except InputError as e:
            raise InputError(f"{self._data_set}: sample {name} {e}") from e

    def _decoded(self, source: Source) -> Sample | None:
        try:
            return decoded(source)
        except Exception:  # noqa: BLE001 as in `readable`: a decoder may raise anything
            return None

    def _add(self, record: _Record, pixels: NDArray[np.int8] | None) -> None:
        self._known.append(record)
        self._at, self._rows = self._at + 1, self._rows + record.ok
        self._lines.append(msgspec.json.encode(record) + b"\n")
        self._data += b"" if pixels is None else pixels.tobytes()
        if time.monotonic() > self._last + _EVERY or len(self._data) > 1 << 26:
            self._write()

    def _write(self) -> None:
        """Put pixels on the disk, and then say that they are there."""
        try:
            for file, data in (
                (self._pixels, bytes(self._data)),
                (self._log, b"".join(self._lines)),
            ):
                with file.open("ab") as out:
                    out.write(data)
                    out.flush()
                    os.fsync(out.fileno())
        except OSError as e:
            raise InputError(
                f"{option('out')} {self._log.parent}: cannot be written ({e.strerror}); make room, "
                "and the same command goes on"
            ) from e
        self._data.clear()
        self._lines.clear()
        self._last = time.monotonic()

    def _cut(self) -> None:
        """Drop what was taken of a set that has changed from here on, and what was half written."""
        self._clean = True
        del self._known[self._at :]
        lines = b"".join(msgspec.json.encode(r) + b"\n" for r in self._known)
        self._log.write_bytes(self._head + lines)
        with self._pixels.open("ab") as file:
            file.truncate(self._rows * self._each)

    def _read(self) -> list[_Record]:
        """Return what was taken before, as far as the files agree; nothing where they do not."""
        if not (self._log.exists() and self._pixels.exists()):
            return []
        head, *lines = read_bytes(self._log, limits.LIST_BYTES).split(b"\n")
        return list(self._agreeing(lines[:-1])) if head + b"\n" == self._head else []

    def _agreeing(self, lines: list[bytes]) -> Iterator[_Record]:
        room = self._pixels.stat().st_size // self._each
        for line in lines:
            try:
                record = msgspec.json.decode(line, type=_Record)
            except (msgspec.ValidationError, msgspec.DecodeError):
                return
            room -= record.ok
            if room < 0:
                return
            yield record


def _stamp(source: Source | None) -> tuple[int, int]:
    """Return what tells an image from another one in its place."""
    if isinstance(source, Path):
        try:
            about = source.stat()
        except OSError:
            return 0, 0
        return about.st_size, about.st_mtime_ns
    if isinstance(source, bytes):
        return len(source), zlib.crc32(source)
    return 0, 0
