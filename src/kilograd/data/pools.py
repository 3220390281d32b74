"""What each class of a set can give to an episode: images to learn from, images to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kilograd.data.bounds import at_least
from kilograd.data.chance import shuffled
from kilograd.data.dataset import Dataset
from kilograd.errors import option

_Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pool:
    """The images of one class that may serve as support and as query."""

    name: str
    support: _Indices
    query: _Indices
    shared: bool
    """Support and query are the same images, to be divided by the draw."""

    def queries(self, shots: int) -> int:
        """Count the query images left beside `shots` support images; 0 if those are too few."""
        if len(self.support) < shots:
            return 0
        return len(self.query) - shots if self.shared else len(self.query)

    def draw(self, rng: np.random.Generator, shots: int) -> tuple[_Indices, _Indices]:
        """Return `shots` support images and all possible query images, in random order."""
        support = self.support[shuffled(rng, len(self.support))]
        if self.shared:
            return support[:shots], support[shots:]
        return support[:shots], self.query[shuffled(rng, len(self.query))]

    def __str__(self) -> str:
        if self.shared:
            return f"{self.name} ({counted_images(self.support.size)})"
        return f"{self.name} ({len(self.support)} to learn from, {len(self.query)} to test on)"


def usable_classes(dataset: Dataset, shots: int) -> tuple[str, ...]:
    """Name the classes that can give `shots` support images and at least one query image.

    The other classes of the set are too small and never part of an episode: report them.

    Raises `InputError` if `shots` is less than 1.
    """
    at_least(1, option("shots"), shots)
    return tuple(pool.name for pool in pools_of(dataset) if pool.queries(shots) > 0)


def pools_of(dataset: Dataset) -> tuple[Pool, ...]:
    """Return one pool per class, in the order of `dataset.classes`."""
    everything = np.ones(len(dataset), dtype=np.bool_)
    if dataset.split is not None:
        split = np.array(dataset.split)
        learn, test = np.isin(split, ("train", "val")), split == "test"
        if set(dataset.labels[learn].tolist()) & set(dataset.labels[test].tolist()):
            supports, queries = _by_class(dataset, learn), _by_class(dataset, test)
            return tuple(
                Pool(name, support, query, shared=False)
                for name, support, query in zip(dataset.classes, supports, queries, strict=True)
            )
    return tuple(
        Pool(name, images, images, shared=True)
        for name, images in zip(dataset.classes, _by_class(dataset, everything), strict=True)
    )


def _by_class(dataset: Dataset, chosen: NDArray[np.bool_]) -> list[_Indices]:
    """Return the indices of the chosen images of each class, in ascending order."""
    indices = np.flatnonzero(chosen)
    labels = dataset.labels[indices]
    indices = indices[np.argsort(labels, kind="stable")]
    ends = np.cumsum(np.bincount(labels, minlength=len(dataset.classes)))
    return np.split(indices, ends)[:-1]


def only_test_classes(dataset: Dataset, pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
    """Empty the pools of train and val classes, if the splits of the set divide the classes."""
    if dataset.split is None or not all(pool.shared for pool in pools):
        return pools
    test = set(dataset.labels[np.array(dataset.split) == "test"].tolist())
    if not test:
        return pools
    none = np.empty(0, dtype=np.int64)
    return tuple(
        pool if label in test else replace(pool, support=none, query=none)
        for label, pool in enumerate(pools)
    )


def usable_groups(dataset: Dataset, pools: Sequence[Pool], *, shots: int) -> dict[str, list[Pool]]:
    """Return the usable classes of each group; without groups, one group of all."""
    names = dataset.groups or ("",) * len(pools)
    # dict.fromkeys: the groups in the order of the set, where a set() would change with each run.
    groups = {name: list[Pool]() for name in dict.fromkeys(names)}
    for name, pool in zip(names, pools, strict=True):
        if pool.queries(shots) > 0:
            groups[name].append(pool)
    return groups


def counted_images(count: int) -> str:
    """Return "1 image", "2 images" and so on."""
    return "1 image" if count == 1 else f"{count} images"
