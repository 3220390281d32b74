"""Means of episodes and shares of images, and how sure they are."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

_NORMAL = 1.959963984540054
"""The bound that a standard normal number stays within with probability 0.95."""


@dataclass(frozen=True)
class Interval:
    """The mean of `count` values, and half the width of its 95 % interval by Student's t.

    `half` is `None` for a single value, which says nothing about its spread.
    """

    mean: float
    half: float | None
    count: int


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of at least one value, with its interval.

    >>> interval([0.5, 0.75, 1.0])
    Interval(mean=0.75, half=0.6210..., count=3)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(mean, None, n)
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return Interval(mean, t_quantile(n - 1) * math.sqrt(variance / n), n)


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, `right` of `count`, by Wilson's score.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not count:
        return 0.0, 1.0
    share, z = right / count, _NORMAL
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    half /= 1 + z * z / count
    # exact where nothing, or all, is right; rounding would leave 1e-17
    low = 0.0 if right == 0 else middle - half
    high = 1.0 if right == count else middle + half
    return low, high


def p_value(differences: Sequence[float]) -> float | None:
    """Return how likely a mean this far from 0 is where there is no difference: paired t test.

    Two-sided; `None` for a single value.

    >>> p_value([1.0, 2.0, 3.0, -1.0, 0.0])
    0.2301...
    """
    found = interval(differences)
    if found.half is None:
        return None
    if found.half == 0:
        return 1.0 if found.mean == 0 else 0.0
    freedom = found.count - 1
    t = abs(found.mean) / found.half * t_quantile(freedom)
    return 1 - _within(math.atan(t / math.sqrt(freedom)), freedom)


@functools.cache
def t_quantile(freedom: int) -> float:
    """Return the bound that |t| stays below with probability 0.95, for `freedom` >= 1 degrees.

    >>> round(t_quantile(1), 3), round(t_quantile(9), 3)
    (12.706, 2.262)
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, freedom) < 0.95:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """Return the probability of |t| < sqrt(freedom) tan(angle).

    For whole degrees of freedom the distribution is a finite sum of powers of the cosine
    (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    share = math.sin(angle) * total
    return (angle + share) * 2 / math.pi if odd else share
