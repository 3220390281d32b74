"""A TFLite file in which some tensors change, and not a byte of the rest.

Offsets of a FlatBuffer point forward.  So what an old table points to is put behind the file; and
where the list of buffers must grow, a new root and list are put in front of it: all offsets are
relative, and what lies behind is moved as a whole.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kilograd.errors import InputError
from kilograd.frontend.tflite.flatbuffer import Flatbuffer, Table
from kilograd.ir import Array

_ALIGNED = 16
"""Bytes that the numbers of a buffer are aligned to."""
_MODEL_FIELDS = 8
_BUFFERS = 4
_ROOT = 8 + 4 + 2 * _MODEL_FIELDS
"""Where a new root lies: behind the file's first 8 bytes and the list of its fields."""


class Patch:
    """The bytes of a file, to be changed; `graph`: the number of the graph that tensors are of."""

    def __init__(self, data: bytes, where: str, graph: int) -> None:
        self.data = bytearray(data)
        self.file = Flatbuffer(data, where)
        self.model = self.file.root()
        self.buffers = list(self.model.tables(4))
        graphs = [list(g.tables(0)) for g in self.model.tables(2)]
        self.tensors = graphs[graph]
        self.uses = Counter(t.integer(2, "I") for tensors in graphs for t in tensors)
        self.uses.update(t.integer(1, "I") for t in self.model.tables(6))
        self.uses.update(self.model.numbers(5, "int32").tolist())
        self.spans = Counter(b.span(0, "uint8") for b in self.buffers)
        self.added: list[bytes] = []
        if any(b.integer(1, "Q") for b in self.buffers):
            raise InputError(f"{where}: keeps its numbers behind all tables; convert it again")

    def numbers(self, number: int, values: Array) -> None:
        """Let a tensor hold other numbers: in place, where they are as many and nobody else's."""
        tensor = self.tensors[number]
        index, raw = tensor.integer(2, "I"), values.tobytes()
        at, size = self.buffers[index].span(0, "uint8")
        if self.uses[index] > 1 or not size:
            self._set(tensor, 2, "I", len(self.buffers) + len(self.added))
            self.added.append(raw)
        elif size == len(raw) and self.spans[at, size] == 1:
            self.data[at : at + size] = raw
        else:
            self._point(self.buffers[index], 0, self._vector(raw, 1))

    def shape(self, number: int, shape: Sequence[int]) -> None:
        """Let a tensor have another shape of as many axes."""
        tensor = self.tensors[number]
        self._point(tensor, 0, self._vector(np.array(shape, "<i4").tobytes(), 4))
        if (open_shape := tensor.numbers(7, "int32")).size:
            told = [s if old >= 0 else old for s, old in zip(shape, open_shape, strict=True)]
            self._point(tensor, 7, self._vector(np.array(told, "<i4").tobytes(), 4))

    def quantisation(self, number: int, scales: Sequence[float], zeros: int, axis: int) -> None:
        """Let a tensor have other scales; one zero point for all of them."""
        table = self._aligned(18, 4)
        self.data += struct.pack("<9H", 18, 16, 0, 0, 4, 8, 0, 0, 12)
        at = self._aligned(16, 4)
        self.data += struct.pack("<iIIi", at - table, 0, 0, axis)
        self._lead(at + 4, self._vector(np.array(scales, "<f4").tobytes(), 4))
        self._lead(at + 8, self._vector(np.full(len(scales), zeros, "<i8").tobytes(), 8))
        self._point(self.tensors[number], 4, at)

    def done(self) -> bytes:
        """Return the file."""
        return self._with_buffers() if self.added else bytes(self.data)

    # -- what is put behind ----------------------------------------------------------------------

    def _aligned(self, size: int, to: int) -> int:
        """Fill up, so that the next bytes are aligned; return where they begin."""
        self.data += bytes(-len(self.data) % to)
        return len(self.data)

    def _vector(self, raw: bytes, size: int) -> int:
        """Append a vector of elements of `size` bytes; return where it begins."""
        self.data += bytes(-(len(self.data) + 4) % _ALIGNED)
        self.data += struct.pack("<I", len(raw) // size) + raw
        return len(self.data) - len(raw) - 4

    def _point(self, table: Table, field: int, target: int) -> None:
        """Let a field of a table of the file lead to what was appended."""
        place = table.place(field, 4)
        if place is None:
            raise InputError(f"{self.file.where}: lacks what is to be changed; convert it again")
        self._lead(place, target)

    def _lead(self, place: int, target: int) -> None:
        struct.pack_into("<I", self.data, place, target - place)

    def _set(self, table: Table, field: int, kind: str, value: int) -> None:
        place = table.place(field, struct.calcsize(f"<{kind}"))
        if place is None:
            raise InputError(f"{self.file.where}: lacks what is to be changed; convert it again")
        struct.pack_into(f"<{kind}", self.data, place, value)

    # -- what is put in front --------------------------------------------------------------------

    def _with_buffers(self) -> bytes:
        """Return the file with a longer list of buffers, and so with another root."""
        added = [self._vector(raw, 1) for raw in self.added]
        count = len(self.buffers) + len(added)
        listed = _ROOT + 4 + 4 * _MODEL_FIELDS
        fields = listed + 4 + 4 * count  # of a new buffer; behind them each of those
        first = fields + 8
        moved = math.ceil((first + 8 * len(added)) / _ALIGNED) * _ALIGNED
        front = bytearray(moved)
        self._root(front, listed)
        tables = [b.at + moved for b in self.buffers] + [first + 8 * i for i in range(len(added))]
        struct.pack_into("<I", front, listed, count)
        for i, table in enumerate(tables):
            place = listed + 4 + 4 * i
            struct.pack_into("<I", front, place, table - place)
        struct.pack_into("<HHH", front, fields, 6, 8, 4)
        for table, data in zip(tables[len(self.buffers) :], added, strict=True):
            struct.pack_into("<iI", front, table, table - fields, data + moved - table - 4)
        return bytes(front + self.data)

    def _root(self, front: bytearray, listed: int) -> None:
        """Write the beginning of a file: a root as before, but for the list of buffers."""
        if any(self.model.place(i, 1) for i in range(_MODEL_FIELDS, _MODEL_FIELDS + 8)):
            raise InputError(f"{self.file.where}: its root has unknown fields; convert it again")
        there = [self.model.place(i, 4) for i in range(_MODEL_FIELDS)]
        struct.pack_into("<I4s", front, 0, _ROOT, b"TFL3")
        struct.pack_into("<HH", front, 8, 4 + 2 * _MODEL_FIELDS, 4 + 4 * _MODEL_FIELDS)
        struct.pack_into("<iI", front, _ROOT, _ROOT - 8, self.model.integer(0, "I"))
        for i, old in enumerate(there):
            place = _ROOT + 4 + 4 * i
            if old is not None:
                struct.pack_into("<H", front, 12 + 2 * i, 4 + 4 * i)
            if old is not None and i:
                target = listed if i == _BUFFERS else self.file.forward(old) + len(front)
                struct.pack_into("<I", front, place, target - place)
