"""One file of NumPy's (.npz) with all samples of a set, their labels, and perhaps more.

It is a zip archive of .npy files. What it holds is counted before it is unpacked.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from kilograd import limits
from kilograd.data.arrays import SUFFIX, stored, unpacked
from kilograd.data.columns import Columns, classes_and_labels, split_of_row
from kilograd.data.dataset import Dataset
from kilograd.data.listed import Listed, Look, assemble, check_count, class_names, look_once
from kilograd.errors import InputError
from kilograd.ir import Array
from kilograd.reading import file_there

NPZ_SUFFIX = ".npz"
SAMPLES, LABELS = ("x", "samples"), ("y", "labels")
_MORE = ("classes", "split")
_LAYOUT = "save x (samples, one after another) and y (labels) with numpy.savez"

_END, _END_LENGTH, _COMMENT = b"PK\x05\x06", 22, 1 << 16
_END_64, _END_64_LENGTH = b"PK\x06\x07", 20
_MEMBERS = 256


def load_npz(path: Path, look: Look = look_once) -> Dataset:
    """Load a file with `x`, `y` and perhaps `classes` and `split`; `InputError` says what is wrong.

    `x` or `samples`: [n, ...].  `y` or `labels`: n integers or names.  `classes`: names by number.
    `split`: n names of splits.
    """
    held = _read(path, (*SAMPLES, *LABELS, *_MORE))
    (xs, x), (ys, y) = _samples(path, held), _one(path, held, LABELS)
    labels = _values(path, ys, y, len(x))
    split = held.get("split")
    splits = None if split is None else _values(path, "split", split, len(x))
    declared = held.get("classes")
    columns = Columns(
        images=[],
        labels=labels,
        class_names=None,
        splits=splits,
        declared=None if declared is None else _classes(path, declared),
    )
    classes, numbers = classes_and_labels(path, columns)
    listed = [
        Listed(
            f"{xs}[{row}]",
            data,
            number,
            None if splits is None else split_of_row(path, row, splits[row]),
        )
        for row, (data, number) in enumerate(zip(_rows(x), numbers, strict=True))
    ]
    return assemble(path.stem, path, classes, listed, look)


def npz_samples(path: Path) -> tuple[str, Array]:
    """Return what the samples of a file are called, and they [n, ...]; labels need not be there."""
    return _samples(path, _read(path, SAMPLES))


def _samples(path: Path, held: Mapping[str, Array]) -> tuple[str, Array]:
    name, x = _one(path, held, SAMPLES)
    if x.ndim < 2 or not len(x):
        raise InputError(
            f"{path}: {name} has the shape {list(x.shape)}; it needs a first axis, [n], and a "
            "sample along it"
        )
    check_count(len(x), path)
    return name, x


def _rows(x: Array) -> Iterable[bytes]:
    """Yield each sample as a file of its own."""
    head = stored(x[0])[: -x[0].nbytes or None]
    yield from (head + np.ascontiguousarray(row).tobytes() for row in x)


def _one(path: Path, held: Mapping[str, Array], names: tuple[str, ...]) -> tuple[str, Array]:
    """Return the array that has one of some names."""
    found = [name for name in names if name in held]
    if len(found) != 1:
        what = "has none of" if not found else "has both of"
        raise InputError(f"{path}: {what} {' and '.join(names)}; {_LAYOUT}")
    return found[0], held[found[0]]


def _values(path: Path, name: str, array: Array, count: int) -> list[object]:
    """Return one value for each sample: an integer, or a text."""
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        raise InputError(
            f"{path}: {name} has the shape {list(array.shape)}; it needs one value for each of "
            f"{count:,} samples"
        )
    if array.dtype.kind not in "iuUS":
        raise InputError(f"{path}: {name} holds {array.dtype}; give integers or text")
    return [_text(path, name, value) for value in array.tolist()]


def _text(path: Path, name: str, value: object) -> object:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: {name} holds text that is no UTF-8; save str") from e


def _classes(path: Path, array: Array) -> tuple[str, ...]:
    names = _values(path, "classes", array, array.size)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: classes holds {array.dtype}; give names, by number")
    return class_names(map(str, names), f"{path}: classes")


# ---- the archive ----


def _read(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    """Return the arrays that are there of some names."""
    if not file_there(path):
        raise InputError(f"{path}: is no regular file; {_LAYOUT}")
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive, names)
            data = {name: archive.read(member) for name, member in members.items()}
    except InputError:
        raise
    except Exception as e:
        # zipfile, and zlib behind it, promise no type for damaged data.
        reason = str(e).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as .npz ({reason}); {_LAYOUT}") from e
    found = {}
    for name, packed in data.items():
        try:
            found[name] = unpacked(packed, texts=name not in SAMPLES)
        except InputError as e:
            raise InputError(f"{path}: {name} {e}") from e
    return found


def _members(
    path: Path, archive: zipfile.ZipFile, names: tuple[str, ...]
) -> dict[str, zipfile.ZipInfo]:
    """Return the entries of some names, after a look at what all of them would unpack to."""
    wanted = {f"{name}{SUFFIX}": name for name in names}
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if (name := wanted.get(member.filename)) is None:
            continue
        if name in found:
            raise InputError(f"{path}: holds {name} twice; {_LAYOUT}")
        if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise InputError(f"{path}: {name} is packed in a way that NumPy does not; {_LAYOUT}")
        found[name] = member
    size = sum(member.file_size for member in found.values())
    if size > limits.ARRAY_BYTES:
        raise InputError(
            f"{path}: holds {size:,} bytes when unpacked; {limits.ARRAY_BYTES:,} are the most"
        )
    return found


def _check_directory(path: Path) -> None:
    """Refuse an archive of more entries than any set has, before the list of them is read."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size > limits.ARRAY_BYTES:
            raise InputError(f"{path}: has {size:,} bytes; {limits.ARRAY_BYTES:,} are the most")
        file.seek(max(0, size - _END_LENGTH - _COMMENT - _END_64_LENGTH))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_LENGTH:
        raise InputError(f"{path}: is no .npz file, or one that was cut off; {_LAYOUT}")
    members = int.from_bytes(tail[at + 10 : at + 12], "little")
    bytes_of_list = int.from_bytes(tail[at + 12 : at + 16], "little")
    large = tail[max(0, at - _END_64_LENGTH) :].startswith(_END_64)
    if large or members > _MEMBERS or bytes_of_list > _MEMBERS << 10:
        raise InputError(f"{path}: holds more than {_MEMBERS} arrays; {_LAYOUT}")
