"""Fixed-point arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kilograd.ir import Array, Block

ZERO_EXPONENT = -1000
"""The exponent of a block whose mantissas are all zero: below any other."""


def fixed_point(real: float) -> tuple[int, int]:
    """Write a positive `real` as multiplier * 2**-shift, multiplier in [2**30, 2**31).

    >>> multiplier, shift = fixed_point(0.1)
    >>> abs(multiplier * 2.0**-shift - 0.1) < 1e-10
    True
    """
    mantissa, exponent = math.frexp(real)
    multiplier, shift = round(mantissa * (1 << 31)), 31 - exponent
    return (multiplier // 2, shift - 1) if multiplier == 1 << 31 else (multiplier, shift)


def fractions(reals: Sequence[float]) -> tuple[Array, int]:
    """Write positive `reals` as int32 fractions of one power of two: fraction * 2**(exponent - 31).

    >>> table, exponent = fractions([0.5, 0.125])
    >>> table.tolist(), exponent
    ([1073741824, 268435456], 0)
    """
    table, exponent = signed_fractions(reals)
    return np.maximum(table, 1), exponent


def signed_fractions(reals: Sequence[float]) -> tuple[Array, int]:
    """Write reals of any sign as `fractions` does positive ones.

    >>> table, exponent = signed_fractions([-0.5, 0.0])
    >>> table.tolist(), exponent
    ([-1073741824, 0], 0)
    """
    exponent = math.frexp(max(map(abs, reals)))[1]
    top = (1 << 31) - 1
    table = [max(-top, min(round(math.ldexp(x, 31 - exponent)), top)) for x in reals]
    return np.array(table, np.int32), exponent


def requantise(acc: Array, multiplier: Array | int, shift: Array | int) -> Array:
    """acc * multiplier / 2**shift in 64 bits, rounded half up.

    >>> requantise(np.array([3, -3]), 1 << 30, 31).tolist()
    [2, -1]
    """
    shift64 = np.asarray(shift, np.int64)
    half = np.int64(1) << (shift64 - 1)
    scaled: Array = acc.astype(np.int64) * np.asarray(multiplier, np.int64)
    return np.asarray((scaled + half) >> shift64)


def round_to_odd(x: Array, shift: int) -> Array:
    """x / 2**shift; an inexact result takes whichever neighbour is odd.

    Rounding twice is rounding once: round_to_odd(round_to_odd(x, a), b) equals
    round_to_odd(x, a + b).  So a kernel may store results before it knows the exponent that
    they will share in the end, and shift them again: the outcome does not depend on the order.
    Symmetric about zero, so sums of rounded values are not biased.

    >>> round_to_odd(np.array([8, 9, 11, -9]), 2).tolist()
    [2, 3, 3, -3]
    """
    quotient = x >> shift
    return quotient | (x != (quotient << shift))


def bit_length(x: Array) -> int:
    """Bits of the largest magnitude.

    >>> bit_length(np.array([7, -8])), bit_length(np.array([-7])), bit_length(np.array([0]))
    (4, 3, 0)
    """
    return int(np.bitwise_or.reduce(np.abs(x).ravel(), initial=0)).bit_length()


def normalise(x: Array, exponent: int, bits: int) -> Block:
    """Return x * 2**exponent with int16 mantissas of exactly `bits` bits at the widest.

    >>> normalise(np.array([1 << 20, -3]), 0, 15).mantissa.tolist()
    [16384, -1]
    """
    x = x.astype(np.int64)
    if not x.any():
        return Block(x.astype(np.int16), ZERO_EXPONENT)
    shift = bit_length(x) - bits
    mantissa = round_to_odd(x, shift) if shift > 0 else x << -shift
    return Block(mantissa.astype(np.int16), exponent + shift)
