"""How many classes and images an episode of Meta-Dataset has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kilograd.data.bounds import at_least
from kilograd.data.chance import below, shuffled
from kilograd.errors import InputError

# The defaults of Meta-Dataset (Triantafillou et al. 2020), which TinyTrain keeps.
META_MIN_WAYS = 5
META_MAX_WAYS = 50
META_MAX_QUERIES = 10
META_MAX_SUPPORT = 500
META_MAX_CONTRIBUTION = 100
"""What a class adds to the size of the support set, at most; it may get more images than that."""


@dataclass(frozen=True)
class Composition:
    """What an episode is made of, before any image is drawn.

    `classes`: indices of the K classes, ascending.
    `shots`: support images of each class [K], all different in general.
    `queries`: query images of every class.
    """

    classes: tuple[int, ...]
    shots: tuple[int, ...]
    queries: int


def sample_composition(
    rng: np.random.Generator, learn: Sequence[int], test: Sequence[int] | None = None
) -> Composition:
    """Draw classes, shots and queries as Meta-Dataset does (Triantafillou et al. 2020, 3.2).

    5 to 50 classes; as many queries of each as half of the smallest class, at most 10; a support
    set of at most 500 images, divided in proportion to the size of each class times a random
    factor of 1/2 to 2, so that shots are unequal as they are in life.

    `learn`: images that each class can give [n], two or more.
    `test`: if given, the queries come from these other images [n], one or more of each class, and
        `learn` is for support alone, one or more of each class.

    Raises `InputError` if there are fewer than five classes, or a class is too small.

    >>> sample_composition(np.random.default_rng(3), [20, 40, 80, 160, 320, 640])
    Composition(classes=(0, 2, 3, 4, 5), shots=(2, 3, 7, 17, 30), queries=10)
    """
    if len(learn) < META_MIN_WAYS:
        raise InputError(
            f"classes: {len(learn)} are too few for a Meta-Dataset episode; "
            f"give {META_MIN_WAYS} or more"
        )
    at_least(2 if test is None else 1, "images of a class", min(learn))
    ways = META_MIN_WAYS + below(rng, min(META_MAX_WAYS, len(learn)) - META_MIN_WAYS + 1)
    classes = np.sort(shuffled(rng, len(learn))[:ways])
    sizes = np.array(learn, dtype=np.int64)[classes]
    if test is None:
        queries = min(META_MAX_QUERIES, int(sizes.min()) // 2)
        left = sizes - queries
    else:
        at_least(1, "test images of a class", min(test))
        queries = min(META_MAX_QUERIES, int(np.array(test)[classes].min()))
        left = sizes
    contributions = np.floor(rng.random() * np.minimum(META_MAX_CONTRIBUTION, left)) + 1
    support = min(META_MAX_SUPPORT, int(contributions.sum()))
    # Uniform in the logarithm, between 1/2 and 2.
    weights = sizes * np.exp2(2 * rng.random(ways) - 1)
    # One image of each class is certain; the floor leaves some of the rest undealt, on average
    # half an image a class. That is how the published episodes are.
    shots = np.floor(weights / weights.sum() * (support - ways)).astype(np.int64) + 1
    return Composition(
        classes=tuple(classes.tolist()),
        shots=tuple(np.minimum(shots, left).tolist()),
        queries=queries,
    )
