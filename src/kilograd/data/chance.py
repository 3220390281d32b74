"""Choices by a seed, the same with every version of numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Indices = NDArray[np.int64]


def shuffled(rng: np.random.Generator, n: int) -> _Indices:
    """Return 0..n-1 in random order.

    From uniform numbers and a stable sort: numpy may change how `permutation` and `choice` use
    the generator from one version to the next, and a seed should outlive that.
    """
    return np.argsort(rng.random(n), kind="stable")


def below(rng: np.random.Generator, n: int) -> int:
    """Return one of 0..n-1, each as likely; from a uniform number as in `shuffled`."""
    return int(rng.random() * n)
