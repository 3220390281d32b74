"""Parquet files: their columns as Python values, with bounds on what is unpacked."""

from __future__ import annotations

from collections.abc import Sequence
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
from kilograd.data.listed import LAYOUT, Listed, Look, assemble, check_count, look_once
from kilograd.errors import InputError
from kilograd.extras import Extra


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
        images=found["image"],
        labels=found.get("label"),
        class_names=found.get("class_name"),
        splits=found.get("split"),
        declared=declared_classes(path, metadata),
    )


def _wanted_columns(path: Path, file: Any) -> list[str]:  # noqa: ANN401 pyarrow is untyped here
    """Return the columns to read, after a look at names, types and sizes in the file's footer."""
    from pyarrow import types

    schema, about = file.schema_arrow, file.metadata
    present = tuple(cast("list[str]", schema.names))
    if "image" not in present or not {"label", "class_name"} & set(present):
        raise InputError(
            f"{path}: needs a column 'image' and a column 'label' or 'class_name'; "
            f"it has {', '.join(present) or 'none'}"
        )
    check_count(about.num_rows, path)
    wanted: list[str] = [n for n in ("image", "label", "class_name", "split") if n in present]
    for name in wanted:
        if present.count(name) > 1:
            raise InputError(f"{path}: has {present.count(name)} columns {name!r}; keep one")
        kind = schema.field(name).type
        if name != "image" and types.is_nested(kind):
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
                found[name] += values.of(batch.column(name))
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

    def count(self, size: int) -> None:
        """Refuse the file if it is more than the limit with so many bytes more."""
        self._size += size
        _check_unpacked(self._size, self._path)

    def of(self, array: Any) -> list[object]:  # noqa: ANN401 pyarrow is untyped here
        """Return an array as Python values; `None` for one larger than an image may be."""
        from pyarrow import types

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

    def _value(self, scalar: Any) -> object:  # noqa: ANN401 pyarrow is untyped here
        buffer = scalar.as_buffer() if hasattr(scalar, "as_buffer") else None
        if buffer is not None and buffer.size > limits.IMAGE_BYTES:
            return None
        value = scalar.as_py()
        return self._known.setdefault(value, value) if isinstance(value, bytes | str) else value
