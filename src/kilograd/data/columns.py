"""What the columns of a Parquet file say: images, classes, labels and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kilograd.data.arrays import stored
from kilograd.data.listed import SPLITS, class_names
from kilograd.errors import InputError
from kilograd.names import label
from kilograd.reading import decoded, parse_json


@dataclass(frozen=True)
class Columns:
    """The columns of a Parquet file that matter here, as Python values, one per row."""

    images: list[object]
    labels: list[object] | None
    class_names: list[object] | None
    splits: list[object] | None
    declared: tuple[str, ...] | None
    """The class list of the file metadata."""


def declared_classes(path: Path, metadata: Mapping[bytes, bytes]) -> tuple[str, ...] | None:
    """Return the class list of the file metadata, Kilograd's or Hugging Face's, if there is one."""
    names: list[Any] | None = None
    match _json(metadata.get(b"dataset")), _json(metadata.get(b"huggingface")):
        case {"classes": [*listed]}, _:
            names = listed
        case _, {"info": {"features": {"label": {"names": [*listed]}}}}:
            names = listed
    if names is None:
        return None
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: the class list in its metadata must be names without repeats")
    return class_names(names, f"{path}: the class list in its metadata")


def _json(text: bytes | None) -> object:
    try:
        return parse_json(decoded(text or b"null", ""), object, "")
    except InputError:
        # Somebody else's metadata under the same key: the columns alone must do.
        return None


def classes_and_labels(path: Path, columns: Columns) -> tuple[tuple[str, ...], list[int]]:
    """Return the class names and the label of each row as an index into them."""
    for column, values in (("label", columns.labels), ("class_name", columns.class_names)):
        if values is not None and None in values:
            raise InputError(
                f"{path}: row {values.index(None)} has no {column}; fill it in or remove the row"
            )
    names = None if columns.class_names is None else _strings(path, columns.class_names)
    if columns.labels is None or any(isinstance(label, str) for label in columns.labels):
        names = names if columns.labels is None else _strings(path, columns.labels)
        return _indexed(sorted(set(names or ())), names or ())
    numbers = _integers(path, columns.labels)
    classes = _classes_of_numbers(path, columns.declared, numbers, names)
    ordered = [classes[number] for number in sorted(classes)]
    if len(set(ordered)) != len(ordered):
        raise InputError(f"{path}: two labels share one class_name; give each label its own")
    class_names(ordered, path)
    return _indexed(ordered, [classes[number] for number in numbers])


def _classes_of_numbers(
    path: Path, declared: Sequence[str] | None, numbers: Sequence[int], names: Sequence[str] | None
) -> dict[int, str]:
    """Return the class of each number, from a list of them or what the rows say."""
    if declared is not None:
        classes = dict(enumerate(declared))
        _check_range(path, numbers, len(classes))
    elif names is not None:
        classes = dict(zip(numbers, names, strict=True))
    else:
        classes = {number: str(number) for number in numbers}
    for row, (number, name) in enumerate(zip(numbers, names or (), strict=False)):
        if classes[number] != name:
            raise InputError(
                f"{path}: row {row} has class_name {name!r}, but label {number} is "
                f"{classes[number]!r} elsewhere; correct one of the two columns"
            )
    return classes


def _indexed(classes: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    index = {name: label for label, name in enumerate(classes)}
    return tuple(classes), [index[name] for name in names]


def _strings(path: Path, values: Sequence[object]) -> list[str]:
    """Return class names in form C."""
    strings = [value for value in values if isinstance(value, str)]
    if len(strings) != len(values):
        raise InputError(
            f"{path}: a class name is not text; write class names as text, or labels as integers"
        )
    known = list(dict.fromkeys(strings))
    names = dict(zip(known, class_names(known, path), strict=True))
    return [names[value] for value in strings]


def _integers(path: Path, values: Sequence[object]) -> list[int]:
    integers = [value for value in values if type(value) is int]
    if len(integers) != len(values):
        raise InputError(
            f"{path}: a label is neither an integer nor text; write labels as one of the two"
        )
    return integers


def _check_range(path: Path, labels: Sequence[int], classes: int) -> None:
    for row, number in enumerate(labels):
        if not 0 <= number < classes:
            raise InputError(
                f"{path}: row {row} has label {number}, but the class list has {classes} names"
            )


def image_of_row(path: Path, row: int, value: object) -> tuple[str, bytes | None]:
    """Return what to call the sample of a row, and its bytes; `None` where it has none."""
    match value:
        case np.ndarray():
            return f"row {row}", stored(value)
        case bytes():
            return f"row {row}", value
        case {"bytes": bytes() | None as data, **rest}:
            inner = rest.get("path")
            return f"row {row} ({str(inner)[:80]})" if inner else f"row {row}", data
        case None:
            return f"row {row}", None
    raise InputError(
        f"{path}: column 'image' must hold encoded image bytes, or lists of numbers; row {row} is "
        "no such thing"
    )


def split_of_row(path: Path, row: int, value: object) -> str:
    """Return "train", "val", "test" or a name of the file's own."""
    if not isinstance(value, str):
        raise InputError(f"{path}: row {row} has no split; fill the column in or remove it")
    return SPLITS.get(value.lower()) or label(value, f"{path}: the split of row {row}")
