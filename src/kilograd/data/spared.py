"""What tuning never sees: the images that what was tuned will be tested on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kilograd.data.dataset import Dataset
from kilograd.data.draw import Draw, EpisodeKind
from kilograd.data.whole import sides
from kilograd.errors import InputError


def spared(dataset: Dataset, draw: Draw, seed: int) -> NDArray[np.bool_]:
    """Tell of each image whether it is tested on.

    Where a set has a split, those are its test images, or val where there is no test; where the
    split divides classes and not their images, those of the test classes.  Without a split they are
    the share of each class, a quarter by default, that `adapt` with this seed tests on.
    """
    if draw.episode is not EpisodeKind.ALL and dataset.split is not None:
        split = np.array(dataset.split)
        test, others = (set(dataset.labels[x].tolist()) for x in (split == "test", split != "test"))
        if test and not test & others:
            return split == "test"
    return sides(dataset, draw.test, seed)[1]


def unspared(dataset: Dataset, draw: Draw, seed: int) -> Dataset:
    """Return the set that tuning draws from: what is not tested on, without a split.

    Raises `InputError` where nothing is left.
    """
    kept = np.flatnonzero(~spared(dataset, draw, seed))
    if not len(kept):
        raise InputError(
            f"{dataset.name}: every image is tested on, and tuning may see none of those; add "
            "images to learn from"
        )
    return replace(
        dataset,
        images=tuple(dataset.images[i] for i in kept),
        image_names=tuple(dataset.image_names[i] for i in kept),
        labels=dataset.labels[kept],
        split=None,
    )
