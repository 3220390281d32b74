"""Tables of a FlatBuffer, every access of which is checked.

Offsets point forward only, as the format has it, so there are no loops; how many tables are read
and how long vectors may be is bounded, so that parts used a million times are no bomb.
https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kilograd.errors import InputError
from kilograd.ir import Array
from kilograd.limits import FLATBUFFER_TABLES

_TEXT = 1 << 10
"""Bytes of a text that are read; names are shorter."""


@dataclass(eq=False)
class Flatbuffer:
    """The bytes of a file, and how much of it has been read.  `where`: the file, for messages."""

    data: bytes
    where: str
    tables: int = field(default=0, init=False)

    def root(self) -> Table:
        """Return the table that all others hang on."""
        return Table(self, self.forward(0))

    def number(self, kind: str, at: int) -> int | float:
        """Return a number in the notation of `struct`, little endian, that lies at `at`."""
        packing = struct.Struct(f"<{kind}")
        self.require(at, packing.size)
        return packing.unpack_from(self.data, at)[0]

    def integer(self, kind: str, at: int) -> int:
        """Return an integer that lies at `at`."""
        return int(self.number(kind, at))

    def require(self, at: int, size: int) -> None:
        """Raise `InputError` where `size` bytes from `at` on are not all in the file."""
        if at < 0 or at + size > len(self.data):
            raise self.damaged(f"something of {size:,} bytes at {at:,} is not in it")

    def damaged(self, what: str) -> InputError:
        """Return the refusal of a file that cannot be right."""
        return InputError(f"{self.where}: is damaged or no TFLite file: {what}; make it again")

    def forward(self, at: int) -> int:
        """Return where the offset that lies at `at` leads."""
        step = self.integer("I", at)
        if step < 4:
            raise self.damaged(f"the offset at {at:,} leads nowhere")
        self.require(at + step, 4)
        return at + step


class Table:
    """One table: fields by their numbers in the schema; what is left out has its default."""

    def __init__(self, file: Flatbuffer, at: int) -> None:
        file.tables += 1
        if file.tables > FLATBUFFER_TABLES:
            raise file.damaged(f"it has more than {FLATBUFFER_TABLES:,} parts")
        self.file, self.at = file, at
        self._fields = at - file.integer("i", at)
        length = file.integer("H", self._fields)
        self._size = file.integer("H", self._fields + 2)
        if length < 4 or length % 2 or self._size < 4:
            raise file.damaged(f"the table at {at:,} has no fields where it says")
        file.require(self._fields, length)
        file.require(at, self._size)
        self._count = (length - 4) // 2

    def place(self, number: int, size: int) -> int | None:
        """Return where a field of `size` bytes lies; None where it is left out."""
        if number >= self._count:
            return None
        inside = self.file.integer("H", self._fields + 4 + 2 * number)
        if not inside:
            return None
        if inside < 4 or inside + size > self._size:
            raise self.file.damaged(f"field {number} of the table at {self.at:,} is not in it")
        return self.at + inside

    def integer(self, number: int, kind: str = "i", default: int = 0) -> int:
        """Return an integer, in the notation of `struct`."""
        place = self.place(number, struct.calcsize(f"<{kind}"))
        return default if place is None else self.file.integer(kind, place)

    def real(self, number: int) -> float:
        """Return a float32; 0 where it is left out."""
        place = self.place(number, 4)
        return 0.0 if place is None else float(self.file.number("f", place))

    def flag(self, number: int) -> bool:
        """Return a boolean; false where it is left out."""
        return bool(self.integer(number, "B"))

    def table(self, number: int) -> Table | None:
        """Return a table that hangs on this one."""
        target = self._target(number)
        return None if target is None else Table(self.file, target)

    def text(self, number: int) -> str:
        """Return a text, its first bytes; what is no UTF-8 is replaced."""
        at, count = self._vector(number, 1)
        return self.file.data[at : at + min(count, _TEXT)].decode("utf-8", "replace")

    def numbers(self, number: int, dtype: str) -> Array:
        """Return a vector of numbers of a type of numpy, not copied; empty where it is left out."""
        at, count = self.span(number, dtype)
        return np.frombuffer(self.file.data, np.dtype(dtype).newbyteorder("<"), count, at)

    def span(self, number: int, dtype: str) -> tuple[int, int]:
        """Return where a vector begins, and how many it holds; 0 and 0 where it is left out."""
        return self._vector(number, np.dtype(dtype).itemsize)

    def tables(self, number: int) -> Iterator[Table]:
        """Yield the tables of a vector."""
        at, count = self._vector(number, 4)
        for i in range(count):
            yield Table(self.file, self.file.forward(at + 4 * i))

    def _target(self, number: int) -> int | None:
        place = self.place(number, 4)
        return None if place is None else self.file.forward(place)

    def _vector(self, number: int, size: int) -> tuple[int, int]:
        """Return where a vector begins and how many elements of `size` bytes it has."""
        target = self._target(number)
        if target is None:
            return 0, 0
        count = self.file.integer("I", target)
        self.file.require(target + 4, count * size)
        return target + 4, count
