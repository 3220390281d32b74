"""A TFLite file as records: every number in them is checked, and nothing is copied."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kilograd.errors import InputError
from kilograd.frontend.tflite.builtin import OPERATORS, Element
from kilograd.frontend.tflite.flatbuffer import Flatbuffer, Table
from kilograd.ir import Array
from kilograd.limits import IMPORTED_BYTES, MAP_ELEMENTS
from kilograd.reading import read_bytes

_RANK = 8
Span = tuple[int, int]
"""Where bytes of the file begin, and how many they are."""


@dataclass(frozen=True, eq=False)
class FileTensor:
    """A tensor: its shape with the batch axis; `values` where the file holds them.

    `scales`, `zeros`: one, or one for each index along `axis`; empty: not quantised.
    """

    number: int
    name: str
    shape: tuple[int, ...]
    element: Element
    values: Array | None = None
    scales: tuple[float, ...] = ()
    zeros: tuple[int, ...] = ()
    axis: int = 0
    trouble: str = ""

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class FileOperator:
    """An operator: `kind` as in CONV_2D; `custom` is what a CUSTOM one is called."""

    kind: str
    inputs: tuple[FileTensor | None, ...]
    outputs: tuple[FileTensor, ...]
    options: Table | None = None
    custom: str = ""

    def option(self, number: int, kind: str = "i", default: int = 0) -> int:
        """Return an integer among the options, in the notation of `struct`."""
        return self.options.integer(number, kind, default) if self.options else default

    def real(self, number: int) -> float:
        """Return a real among the options."""
        return self.options.real(number) if self.options else 0.0

    def flag(self, number: int) -> bool:
        """Return a boolean among the options."""
        return bool(self.options and self.options.flag(number))

    @property
    def name(self) -> str:
        """What people call it: its first output."""
        return self.outputs[0].name if self.outputs else self.kind


@dataclass(frozen=True, eq=False)
class FileGraph:
    """What a file computes: operators in the order in which they run."""

    where: str
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]
    operators: tuple[FileOperator, ...]

    @functools.cached_property
    def made(self) -> dict[FileTensor, FileOperator]:
        """Map each tensor to the operator that makes it."""
        return {t: op for op in self.operators for t in op.outputs}

    @functools.cached_property
    def users(self) -> dict[FileTensor, list[FileOperator]]:
        """Map each tensor to the operators that read it."""
        found: dict[FileTensor, list[FileOperator]] = {}
        for op in self.operators:
            for t in op.inputs:
                if t is not None:
                    found.setdefault(t, []).append(op)
        return found


def read_file(path: Path) -> bytes:
    """Return the bytes of a TFLite file; raises `InputError` for what is none."""
    data = read_bytes(path, IMPORTED_BYTES)
    if data[4:8] != b"TFL3":
        raise InputError(f"{path}: is no TFLite file (its bytes 4 to 8 are not TFL3); give one")
    return data


def parse(data: bytes, where: str, signature: str = "") -> FileGraph:
    """Return the graph of a file, or the one that a signature of it names.

    Raises `InputError`, which begins with `where`, for whatever cannot be a file of TFLite, and
    where it has several signatures of which none is named or called serving_default.
    """
    file = Flatbuffer(data, where)
    model = file.root()
    if (version := model.integer(0, "I")) != 3:
        raise InputError(f"{where}: has version {version} of the schema, 3 is read; convert again")
    graphs = list(model.tables(2))
    number = _chosen(_signatures(model), len(graphs), where, signature)
    if number >= len(graphs):
        raise file.damaged(f"it has {len(graphs)} graphs, and none of number {number}")
    buffers = [_buffer(t) for t in model.tables(4)]
    codes = [_code(t) for t in model.tables(1)]
    return _graph(graphs[number], buffers, codes)


def graph_number(data: bytes, where: str, signature: str = "") -> int:
    """Return the number of the graph that `parse` reads; raises `InputError` as it does."""
    model = Flatbuffer(data, where).root()
    return _chosen(_signatures(model), len(list(model.tables(2))), where, signature)


def _signatures(model: Table) -> dict[str, int]:
    """Map each signature to the number of its graph."""
    return {t.text(2): t.integer(4, "I") for t in model.tables(7)}


def _chosen(signatures: dict[str, int], graphs: int, where: str, signature: str) -> int:
    """Return the number of the graph that is read."""
    if signature:
        if signature not in signatures:
            names = ", ".join(sorted(signatures)) or "none"
            raise InputError(f"{where}: has no signature {signature!r}; it has {names}")
        return signatures[signature]
    if len(set(signatures.values())) > 1 and "serving_default" not in signatures:
        names = ", ".join(sorted(signatures))
        raise InputError(
            f"{where}: has the signatures {names}; convert it with one of them, or name it in "
            f"Python: read_tflite(path, signature)"
        )
    if not graphs:
        raise InputError(f"{where}: holds no graph; give a file with a network")
    return signatures.get("serving_default", next(iter(signatures.values()), 0))


def _buffer(table: Table) -> Span:
    """Return where the bytes of a buffer lie; large files keep them behind all tables."""
    at, size = table.integer(1, "Q"), table.integer(2, "Q")
    if at <= 1:
        return table.span(0, "uint8")
    table.file.require(at, size)
    return at, size


def _code(table: Table) -> tuple[str, str]:
    """Return the kind of an operator, and what a custom one is called."""
    number = max(table.integer(0, "b"), table.integer(3, "i"))
    kind = OPERATORS[number] if 0 <= number < len(OPERATORS) else f"OPERATOR_{number}"
    return kind, table.text(1)


def _graph(table: Table, buffers: Sequence[Span], codes: Sequence[tuple[str, str]]) -> FileGraph:
    file = table.file
    tensors = [_tensor(t, i, buffers) for i, t in enumerate(table.tables(0))]

    def listed(numbers: Array, what: str) -> Iterator[FileTensor | None]:
        for i in numbers.tolist():
            if not -1 <= i < len(tensors):
                raise file.damaged(f"{what} names tensor {i} of {len(tensors)}")
            yield tensors[i] if i >= 0 else None

    def given(numbers: Array, what: str) -> tuple[FileTensor, ...]:
        return tuple(t for t in listed(numbers, what) if t is not None)

    operators = []
    for i, t in enumerate(table.tables(3)):
        code = t.integer(0, "I")
        if code >= len(codes):
            raise file.damaged(f"operator {i} is of kind {code} of {len(codes)}")
        inputs = tuple(listed(t.numbers(1, "int32"), f"operator {i}"))
        outputs = given(t.numbers(2, "int32"), f"operator {i}")
        operators.append(FileOperator(codes[code][0], inputs, outputs, t.table(4), codes[code][1]))
    graph = FileGraph(
        file.where,
        given(table.numbers(1, "int32"), "the list of inputs"),
        given(table.numbers(2, "int32"), "the list of outputs"),
        tuple(operators),
    )
    _require_order(graph, file)
    return graph


def _require_order(graph: FileGraph, file: Flatbuffer) -> None:
    """Raise `InputError` where something is read before it is made, or made twice."""
    here = set(graph.inputs)
    made = {t for op in graph.operators for t in op.outputs}
    for i, op in enumerate(graph.operators):
        if missing := [t for t in op.inputs if t in made and t not in here]:
            raise file.damaged(f"operator {i} reads tensor {missing[0].number} before it is made")
        if twice := [t for t in op.outputs if t in here or t.values is not None]:
            raise file.damaged(f"operator {i} makes tensor {twice[0].number}, which is there")
        here.update(op.outputs)


def _tensor(table: Table, number: int, buffers: Sequence[Span]) -> FileTensor:
    file = table.file
    shape = tuple(table.numbers(0, "int32")[: _RANK + 1].tolist())
    kind = table.integer(1, "b")
    element = next((e for e in Element if e.number == kind), None)
    if len(shape) > _RANK or element is None:
        raise file.damaged(f"tensor {number} has {len(shape)} axes and type {kind}")
    if min(shape, default=1) < 0 or math.prod(shape) > MAP_ELEMENTS:
        raise InputError(
            f"{file.where}: tensor {table.text(3)!r} has the shape {list(shape)}; at most "
            f"{MAP_ELEMENTS:,} elements are taken, and no axis of open length"
        )
    scales, zeros, axis = _quantisation(table.table(4), number)
    return FileTensor(
        number,
        table.text(3) or f"tensor_{number}",
        shape,
        element,
        _values(table, number, shape, element, buffers),
        scales,
        zeros,
        axis,
        _trouble(table, shape, scales),
    )


def _trouble(table: Table, shape: tuple[int, ...], scales: Sequence[float]) -> str:
    """Return why a tensor cannot be used, if it is used."""
    signature = table.numbers(7, "int32")[: _RANK + 1].tolist()
    if any(x < 0 for x in signature[1:]) or 0 in shape:
        said = signature or list(shape)
        return f"has an open shape {said}: convert it for inputs of one size"
    if table.table(6) is not None:
        return "is stored sparsely: convert it without sparsity"
    if not all(0 < s < math.inf for s in scales):
        return "has a scale that is not above 0: convert it again"
    return ""


def _values(
    table: Table, number: int, shape: tuple[int, ...], element: Element, buffers: Sequence[Span]
) -> Array | None:
    """Return the numbers of a tensor, in the file's memory; None where it has none."""
    file, buffer = table.file, table.integer(2, "I")
    if buffer >= len(buffers):
        raise file.damaged(f"tensor {number} is in buffer {buffer} of {len(buffers)}")
    at, size = buffers[buffer]
    if not size or not element.numpy or table.table(6) is not None:
        return None
    dtype = np.dtype(element.numpy).newbyteorder("<")
    count = math.prod(shape)
    if size != count * dtype.itemsize:
        raise file.damaged(f"tensor {number} of {list(shape)} has {size:,} bytes")
    return np.frombuffer(file.data, dtype, count, at).reshape(shape)


def _quantisation(
    table: Table | None, number: int
) -> tuple[tuple[float, ...], tuple[int, ...], int]:
    """Return scales, zero points and their axis; empty where there are none."""
    if table is None:
        return (), (), 0
    scales = tuple(table.numbers(2, "float32").tolist())
    zeros = table.numbers(3, "int64")
    if not scales:
        return (), (), 0
    if zeros.size not in {0, 1, len(scales)}:
        raise table.file.damaged(f"tensor {number} has {len(scales)} scales, {zeros.size} zeros")
    zeros = np.broadcast_to(zeros if zeros.size else np.zeros(1, np.int64), len(scales))
    return scales, tuple(zeros.tolist()), table.integer(6, "i")
