"""Samples that are arrays: windows of sensors, spectrograms, features.

Stored, each is a file of NumPy's kind (.npy): in a folder, or in memory as the bytes of one.
Nothing in such a file is executed: files that hold Python objects are refused.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kilograd import limits
from kilograd.errors import InputError
from kilograd.frontend import Arrays, Preprocess
from kilograd.ir import Array

SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
_RANKS = range(1, 4)
_KINDS = "biuf"
_WIDEST = 8

_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[Any, bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def is_stored_array(source: object) -> bool:
    """Tell by its name or its first bytes whether a source of a sample is an array."""
    if isinstance(source, Path):
        return source.suffix.lower() == SUFFIX
    return isinstance(source, bytes) and source.startswith(_MAGIC)


def stored(array: Array) -> bytes:
    """Return an array of numbers as the bytes of a .npy file."""
    file = io.BytesIO()
    npy.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def unpacked(data: bytes, *, texts: bool = False) -> Array:
    """Return the array of a .npy file, in this machine's order of bytes, rows first.

    `texts`: whether it may hold texts, in place of numbers.

    Raises `InputError` that says what is wrong with it, and not where it is: a damaged or a huge
    header, objects, another number of bytes than the header says.
    """
    file = io.BytesIO(data)
    shape, fortran, kind = _header(file)
    if not (texts and kind.kind in "US"):
        check_kind(kind)
    count, here = math.prod(shape), len(data) - file.tell()
    if count * kind.itemsize != here:
        raise InputError(
            f"holds {here:,} bytes of numbers, but says {count * kind.itemsize:,}; write it again"
        )
    found = np.frombuffer(data, kind, count, file.tell())
    found = found.reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(found, kind.newbyteorder("="))


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, fortran, kind = _HEADERS[npy.read_magic(file)](file)
    except Exception as e:
        # The header is a literal of Python, and its parser may raise anything.
        raise InputError("cannot be read as an array (.npy); write it with numpy.save") from e
    if not all(type(n) is int and n >= 0 for n in shape):
        raise InputError("has a shape that is none; write it with numpy.save")
    return shape, fortran, kind


def check_kind(kind: np.dtype[Any]) -> None:
    """Raise `InputError` for elements that are no real numbers of up to 64 bits."""
    if kind.kind not in _KINDS or kind.itemsize > _WIDEST:
        raise InputError(
            f"holds {str(kind)[:80]}, no real numbers of 8 to 64 bits; save float32, or int8 codes"
        )


def check_sample(array: Array) -> None:
    """Raise `InputError` for an array that is no sample of anything."""
    check_kind(array.dtype)
    if array.ndim not in _RANKS or not 0 < array.size <= limits.MAP_ELEMENTS:
        raise InputError(
            f"has the shape {list(array.shape)}; a sample has 1 to 3 axes and "
            f"1 to {limits.MAP_ELEMENTS:,} numbers"
        )
    finite = np.isfinite(array.reshape(-1))
    if not finite.all():
        at = int(finite.argmin())
        raise InputError(
            f"number {at:,} of {array.size:,} is {array.reshape(-1)[at]}; leave the sample out, or "
            "fill it in"
        )


def check_alike(arrays: Iterable[tuple[str, Callable[[], Array]]]) -> None:
    """Fetch arrays, each with its name, and see that they are samples of one shape.

    Raises `InputError`, which begins with the name, for one that is not.
    """
    first = None
    for name, fetch in arrays:
        try:
            array = fetch()
            check_sample(array)
        except InputError as e:
            raise InputError(f"{name}: {e}") from e
        first = first or (name, array.shape)
        if array.shape != first[1]:
            raise InputError(
                f"{name}: has the shape {list(array.shape)}, and {first[0]} has {list(first[1])}; "
                "make all samples alike"
            )


def fitted(array: Array, preprocess: Preprocess) -> NDArray[np.int8]:
    """Return an array as codes [height, width, channels].

    int8 is codes as they are, all others are real numbers.  Axes of length 1 may be missing, or
    more than the network has; one axis may hold all numbers, in order.

    Raises `InputError` for another shape, and as `check_sample`.
    """
    arrays = preprocess.samples
    if array.dtype != np.int8 and not isinstance(arrays, Arrays):
        check_sample(array)
        raise InputError(
            f"is an array of {array.dtype} {list(array.shape)}, and the network takes images; give "
            "files of images, or uint8 [h, w] or [h, w, 3], and leave out what transforms them"
        )
    shaped = as_map(array, preprocess)
    if array.dtype != np.int8 and isinstance(arrays, Arrays):
        shaped = arrays.codes(shaped)
    return np.ascontiguousarray(shaped)


def as_map(array: Array, preprocess: Preprocess) -> Array:
    """Return the numbers of a sample as a map, [height, width, channels].

    Raises `InputError` for another shape, and as `check_sample`.
    """
    check_sample(array)
    arrays = preprocess.samples
    taken = arrays.taken if isinstance(arrays, Arrays) else None
    wanted = preprocess.shape if taken is None else taken.shape
    if _squeezed(array.shape) != _squeezed(wanted) and array.shape != (math.prod(wanted),):
        same = sorted(_squeezed(array.shape)) == sorted(_squeezed(wanted))
        hint = "reorder its axes" if same else "give a network or data of the other's shape"
        raise InputError(
            f"has the shape {list(array.shape)}, and the network takes {list(wanted)}; {hint}"
        )
    found = array.reshape(wanted)
    return found if taken is None else found.transpose(taken.order).reshape(preprocess.shape)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
