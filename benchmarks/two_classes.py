"""Two classes made of the images of other sets, in the manner of Visual Wake Words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilograd.data import Dataset


@dataclass(frozen=True)
class Source:
    """A set, and which of its classes hold what is looked for, and which do not."""

    dataset: Dataset
    yes: frozenset[str]
    no: frozenset[str]


def two_classes(yes: str, no: str, sources: Sequence[Source]) -> Dataset:
    """Return a set of two classes: all images with, and as many without, source by source.

    So no source is a hint.  Images without are drawn in the same splits; there are fewer where a
    source has not as many.  Nothing is copied but names and labels; the draw is always the same.
    """
    parts = [(s.dataset, *_chosen(s)) for s in sources]
    every = [
        (dataset, int(i), label)
        for dataset, *sides in parts
        for label, side in enumerate(sides)
        for i in side
    ]
    split = tuple("" if d.split is None else d.split[i] for d, i, _ in every)
    return Dataset(
        name=yes,
        classes=(yes, no),
        images=tuple(d.images[i] for d, i, _ in every),
        image_names=tuple(f"{d.name} {d.image_names[i]}" for d, i, _ in every),
        labels=np.array([label for *_, label in every]),
        split=split if all(split) else None,
    )


def _chosen(source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the images with, and those that are drawn of the ones without."""
    dataset, rng = source.dataset, np.random.default_rng(0)
    named = np.array(dataset.classes)[dataset.labels]
    split = np.array(dataset.split or [""] * len(dataset))
    with_, without = (np.isin(named, sorted(names)) for names in (source.yes, source.no))
    drawn = []
    for name in np.unique(split):
        some = np.flatnonzero(without & (split == name))
        most = int((with_ & (split == name)).sum())
        drawn.append(np.sort(rng.permutation(some)[:most]))
    return np.flatnonzero(with_), np.concatenate(drawn).astype(np.int64)
