"""Columns of Parquet files that hold lists of numbers, as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kilograd.errors import InputError
from kilograd.ir import Array

_AXES = 3


def is_list(kind: Any) -> bool:  # noqa: ANN401 pyarrow is untyped here
    """Tell whether a type is one of lists: of any length, of a fixed one, or of tensors."""
    import pyarrow as pa
    from pyarrow import types

    tensor = isinstance(kind, pa.FixedShapeTensorType)
    return tensor or types.is_list(kind) or types.is_large_list(kind) or _is_fixed(kind)


def arrays_of(path: Path, column: Any, first: int) -> Iterator[Array | None]:  # noqa: ANN401
    """Yield the rows of a column as arrays of up to three axes; `None` for one that is missing.

    `first`: the number of the first row.  Raises `InputError` that names the row for lists of
    unequal lengths, for holes, and for what holds no numbers.
    """
    import pyarrow as pa

    column.validate(full=True)  # damaged offsets may point anywhere
    shape = None
    if isinstance(column.type, pa.FixedShapeTensorType):
        if column.type.permutation not in (None, list(range(len(column.type.shape)))):
            raise InputError(f"{path}: its tensors have their axes in another order; write lists")
        shape, column = tuple(column.type.shape), column.storage
    for row, scalar in enumerate(column, first):
        values = scalar.values
        if values is None:
            yield None
            continue
        try:
            found = _numbers(values)
        except InputError as e:
            raise InputError(f"{path}: row {row} {e}") from e
        yield found if shape is None else found.reshape(shape)


def shaped(path: Path, row: int, value: object, shape: object) -> object:
    """Return the sample of a row in the shape that the row says; as it is where it says none."""
    if shape is None or not isinstance(value, np.ndarray):
        return value
    sides: list[Any] = shape.tolist() if isinstance(shape, np.ndarray) else [shape]
    if not all(type(n) is int and n > 0 for n in sides) or math.prod(sides) != value.size:
        raise InputError(
            f"{path}: row {row} has {value.size:,} numbers, and says that its shape is "
            f"{str(sides)[:80]}; correct one of the two columns"
        )
    return value.reshape(sides)


def _numbers(values: Any) -> Array:  # noqa: ANN401 pyarrow is untyped here
    """Return lists within lists as an array; `InputError` where they are none."""
    from pyarrow import types

    sides = [len(values)]
    while is_list(values.type):
        if len(sides) == _AXES:
            raise InputError(f"has more than {_AXES} axes; a sample has 1 to {_AXES}")
        _check_whole(values)
        lengths = _lengths(values)
        if lengths.size and lengths.min() != lengths.max():
            raise InputError(
                f"is ragged: its lists hold {lengths.min()} to {lengths.max()} values; make them "
                "equally long"
            )
        sides.append(int(lengths[0]) if lengths.size else 0)
        values = values.flatten()
    _check_whole(values)
    kind = values.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise InputError(f"holds {str(kind)[:80]}, no numbers; write lists of float32")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(sides)


def _check_whole(values: Any) -> None:  # noqa: ANN401 pyarrow is untyped here
    if values.null_count:
        raise InputError("has a hole (null) among its numbers; fill it in")


def _lengths(lists: Any) -> Array:  # noqa: ANN401 pyarrow is untyped here
    if _is_fixed(lists.type):
        return np.full(len(lists), lists.type.list_size)
    return np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False))


def _is_fixed(kind: Any) -> bool:  # noqa: ANN401 pyarrow is untyped here
    from pyarrow import types

    return bool(types.is_fixed_size_list(kind))
