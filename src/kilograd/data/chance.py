"""Choices by a seed, the same with every version of numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kilograd import limits
from kilograd.data.bounds import at_least, at_most
from kilograd.errors import option

_Indices = NDArray[np.int64]


def generator(seed: int) -> np.random.Generator:
    """Return where the choices of a seed come from; `InputError` for one outside 0..2^31-1."""
    at_least(0, option("seed"), seed)
    at_most(limits.SEED, option("seed"), seed)
    return np.random.default_rng(seed)


def shuffled(rng: np.random.Generator, n: int) -> _Indices:
    """Return 0..n-1 in random order.

    From uniform numbers and a stable sort: numpy may change how `permutation` and `choice` use
    the generator from one version to the next, and a seed should outlive that.
    """
    return np.argsort(rng.random(n), kind="stable")


def below(rng: np.random.Generator, n: int) -> int:
    """Return one of 0..n-1, each as likely; from a uniform number as in `shuffled`."""
    return int(rng.random() * n)
