"""Images to learn from or to be tested on, in memory or in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

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
