"""Images to learn from or to be tested on, in memory or in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from kilograd.errors import InputError
from kilograd.ir import Array

_LARGE = 1 << 26
"""Bytes from which on arrays go to a file."""

_Some = slice | list[int] | NDArray[np.int64]


class Picked:
    """Some of many images, which may lie in a file: each is read when it is asked for."""

    def __init__(
        self, images: NDArray[np.int8], indices: Sequence[int] | NDArray[np.int64]
    ) -> None:
        self._images, self._indices = images, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        """Count them."""
        return len(self._indices)

    @overload
    def __getitem__(self, which: int) -> NDArray[np.int8]: ...

    @overload
    def __getitem__(self, which: _Some) -> Picked: ...

    def __getitem__(self, which: int | _Some) -> NDArray[np.int8] | Picked:
        """Return one, int8 [h, w, c], or some of them, as an array would."""
        if isinstance(which, slice | list | np.ndarray):
            return Picked(self._images, self._indices[which])
        return np.asarray(self._images[self._indices[which]])

    def __iter__(self) -> Iterator[NDArray[np.int8]]:
        """Yield them in order."""
        return (self[i] for i in range(len(self)))


Images = NDArray[np.int8] | Picked
"""Images as network input: int8 [n, h, w, c], or what reads such an array image by image."""


@dataclass(frozen=True)
class Samples:
    """Images as network input and their labels."""

    images: Images
    labels: NDArray[np.int32]

    def part(self, keep: NDArray[np.bool_]) -> Samples:
        """Return those that are to be kept."""
        kept = np.flatnonzero(keep)
        return Samples(self.images[kept], self.labels[kept])


def stacked(arrays: Iterable[Array]) -> Array:
    """Return arrays of one shape as one array, which is only to be read.

    A large one lies in a file without a name, which goes with the process however that ends: what
    is not asked for need not be in RAM.  Raises `InputError` where there is no room for the file.
    """
    held: list[Array] = []
    waiting = iter(arrays)
    for one in waiting:
        held.append(one)
        if len(held) * one.nbytes >= _LARGE:
            return _in_file(held, waiting)
    return np.stack(held)


def _in_file(held: list[Array], waiting: Iterator[Array]) -> Array:
    kind, shape, count = held[0].dtype, held[0].shape, 0
    try:
        with closing(tempfile.TemporaryFile()) as file:
            for some in (held, waiting):
                for one in some:
                    file.write(one.tobytes())
                    count += 1
            held.clear()
            file.flush()
            return np.memmap(file, kind, "r", shape=(count, *shape))
    except OSError as e:
        raise InputError(
            f"TMPDIR {tempfile.gettempdir()}: large images and latents are kept there, and cannot "
            f"be ({e.strerror}); make room, or set TMPDIR to a folder that has some"
        ) from e
