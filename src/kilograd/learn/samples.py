"""Images to learn from or to be tested on, in memory or in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class Picked:
    """Some of many images, which may lie in a file: each is read when it is asked for."""

    def __init__(self, images: NDArray[np.int8], indices: Sequence[int]) -> None:
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        """Count them."""
        return len(self._indices)

    def __getitem__(self, i: int) -> NDArray[np.int8]:
        """Return one, int8 [h, w, c]."""
        return np.asarray(self._images[self._indices[i]])

    def part(self, places: NDArray[np.int64]) -> Picked:
        """Return those at some places."""
        return Picked(self._images, [self._indices[i] for i in places.tolist()])

    def __iter__(self) -> Iterator[NDArray[np.int8]]:
        """Yield them in order."""
        return map(self.__getitem__, range(len(self)))


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
        if isinstance(self.images, Picked):
            return Samples(self.images.part(kept), self.labels[kept])
        return Samples(self.images[kept], self.labels[kept])
