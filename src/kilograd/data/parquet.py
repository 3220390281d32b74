"""Parquet files: their columns as Python values and arrays, with bounds on what is unpacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from kilograd import limits
from kilograd.data.columns import (
    Columns,
    classes_and_labels,
    declared_classes,
    image_of_row,
    split_of_row,
)
from kilograd.data.dataset import Dataset
from kilograd.data.list_columns import arrays_of, is_list, shaped
from kilograd.data.listed import LAYOUT, Listed, Look, assemble, check_count, look_once
from kilograd.errors import InputError
from kilograd.extras import Extra
from kilograd.ir import Array


def load_parquet(path: Path, look: Look = look_once) -> Dataset:
    """Load a file with a row for each image; `InputError` as `load_dataset` says."""
    columns = _read_columns(path)
    if not columns.images:
        raise InputError(f"{path}: the file has no rows; {LAYOUT}")
    classes, labels = classes_and_labels(path, columns)
    listed = []
    for row, (value, number) in enumerate(zip(columns.images, labels, strict=True)):
        name, data = image_of_row(path, row, value)
        split = None if columns.splits is None else split_of_row(path, row, columns.splits[row])
        listed.append(Listed(name, data, number, split))
    return assemble(path.stem, path, classes, listed, look)


def _read_columns(path: Path) -> Columns:
    Extra.PARQUET.need(f"{path}: reading Parquet files")
    # Not at the top: pyarrow is larger than everything else together, and only this needs it.
    from pyarrow import ArrowException, parquet

    if not path.is_file():
        raise InputError(f"{path}: is no regular file; {LAYOUT}")
    try:
        with parquet.ParquetFile(path) as file:
            wanted = _wanted_columns(path, file)
            found = _read_rows(path, file, wanted)
            metadata = file.schema_arrow.metadata or {}
    except (OSError, ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as Parquet ({reason}); {LAYOUT}") from error
    return Columns(
        images=[shaped(path, i, *row) for i, row in enumerate(zip(*_samples(found), strict=True))],
        labels=found.get("label"),
        class_names=found.get("class_name"),
        splits=found.get("split"),
        declared=declared_classes(path, metadata),
    )


def _samples(found: Mapping[str, list[object]]) -> tuple[list[object], list[object]]:
    """Return what the rows hold, and the shapes that they say it has."""
    held = next(found[name] for name in _SAMPLES if name in found)
    return held, found.get("shape", [None] * len(held))


def _wanted_columns(path: Path, file: Any) -> list[str]:  # noqa: ANN401 pyarrow is untyped here
    """Return the columns to read, after a look at names, types and sizes in the file's footer."""
    from pyarrow import types

    schema, about = file.schema_arrow, file.metadata
    present = tuple(cast("list[str]", schema.names))
    samples = next((name for name in _SAMPLES if name in present), None)
    if samples is None or not {"label", "class_name"} & set(present):
        raise InputError(
            f"{path}: needs a column 'image' or 'sample', and a column 'label' or 'class_name'; "
            f"it has {', '.join(present) or 'none'}"
        )
    check_count(about.num_rows, path)
    wanted = [samples, *(n for n in ("label", "class_name", "split") if n in present)]
    if "shape" in present and is_list(schema.field(samples).type):
        wanted.append("shape")
    for name in wanted:
        if present.count(name) > 1:
            raise InputError(f"{path}: has {present.count(name)} columns {name!r}; keep one")
        kind = schema.field(name).type
        if name not in {samples, "shape"} and types.is_nested(kind):
            raise InputError(f"{path}: column {name!r} holds {kind}; write text or integers")
    # Of the groups, not of their columns: a look at a damaged column ends the process (pyarrow 26).
    # This is what the file says; `_read_rows` counts what comes.
    size = sum(about.row_group(g).total_byte_size for g in range(about.num_row_groups))
    _check_unpacked(size, path)
    return wanted


def _check_unpacked(size: int, path: Path) -> None:
    if size > limits.PARQUET_BYTES:
        raise InputError(
            f"{path}: holds {size:,} bytes when unpacked; {limits.PARQUET_BYTES:,} are the most"
        )


_SAMPLES = ("image", "sample")
"""The columns that may hold samples; the first there is does."""

_ROWS = 4
"""Rows unpacked at once: as many images of the largest size are half a gigabyte."""


def _read_rows(
    path: Path,
    file: Any,  # noqa: ANN401 pyarrow is untyped here
    wanted: Sequence[str],
) -> dict[str, list[object]]:
    """Return columns as Python values, read a few rows at a time and counted as they come."""
    found: dict[str, list[object]] = {name: [] for name in wanted}
    values = _Values(path)
    for group in range(file.num_row_groups):
        # Group by group: a batch would else be filled up from the next ones.
        for batch in file.iter_batches(
            batch_size=_ROWS, row_groups=[group], columns=wanted, use_threads=False
        ):
            values.count(batch.nbytes)
            for name in wanted:
                found[name] += values.of(batch.column(name), len(found[name]))
    return found


class _Values:
    """Turns arrays of a Parquet file into Python values; what is said twice is in memory once.

    A file of a kilobyte can say of 300 rows that each holds the same megabyte, and another can
    say in its footer that it holds a byte.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[bytes | str, bytes | str] = {}
        self._size = 0
        self._arrays: dict[tuple[tuple[int, ...], str, bytes], Array] = {}
        self._held = 0

    def count(self, size: int) -> None:
        """Refuse the file if it is more than the limit with so many bytes more."""
        self._size += size
        _check_unpacked(self._size, self._path)

    def of(self, array: Any, first: int = 0) -> list[object]:  # noqa: ANN401 pyarrow is untyped
        """Return an array as Python values; `None` for one larger than an image may be.

        Lists of numbers become arrays of NumPy.  `first`: number of the first row, for messages.
        """
        from pyarrow import types

        if is_list(array.type):
            return [self._kept(found) for found in arrays_of(self._path, array, first)]
        if types.is_dictionary(array.type):
            array.validate(full=True)  # a damaged index may be negative, or too large
            array = array.dictionary_decode()
        if types.is_struct(array.type):
            names = [field_.name for field_ in array.type]
            parts = zip(*map(self.of, array.flatten()), strict=True)
            present = array.is_valid().to_pylist()
            return [
                dict(zip(names, row, strict=True)) if here else None
                for row, here in zip(parts, present, strict=True)
            ]
        return [self._value(scalar) for scalar in array]

    def _kept(self, array: Array | None) -> Array | None:
        """Count an array, and keep it once where several rows hold the same."""
        if array is None:
            return None
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._arrays:
            self._held += array.nbytes
            if self._held > limits.ARRAY_BYTES:
                raise InputError(
                    f"{self._path}: holds more than {limits.ARRAY_BYTES:,} bytes of numbers, the "
                    "most of a set"
                )
            self._arrays[key] = array
        return self._arrays[key]

    def _value(self, scalar: Any) -> object:  # noqa: ANN401 pyarrow is untyped here
        buffer = scalar.as_buffer() if hasattr(scalar, "as_buffer") else None
        if buffer is not None and buffer.size > limits.IMAGE_BYTES:
            return None
        value = scalar.as_py()
        return self._known.setdefault(value, value) if isinstance(value, bytes | str) else value
