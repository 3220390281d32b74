"""float32 arithmetic that gives the same bits on every machine.

Only +, -, *, / and sqrt, each rounded once, in a stated order; no library functions, because
exp and log differ in the last bit from one C library to the next.  A damaged state or an absurd
rate may lead to infinities and NaN: what is kept is made finite (`finite`).
"""

from __future__ import annotations

import numpy as np

from kilograd.ir import Array

_F = np.float32
FLOAT_MAX = float(np.finfo(np.float32).max)

#: Decorates a definition in which infinities and NaN are results like others.
ieee754 = np.errstate(over="ignore", invalid="ignore", divide="ignore")


def finite(x: Array | np.float32) -> Array:
    """x; 0 for NaN, and the largest finite number for an infinity.

    >>> finite(np.array([1, np.nan, -np.inf], np.float32)).tolist()
    [1.0, 0.0, -3.4028234663852886e+38]
    """
    return np.asarray(np.nan_to_num(np.float32(x), nan=0, posinf=FLOAT_MAX, neginf=-FLOAT_MAX))


def running_sum(x: Array) -> Array:
    """Sum over the last axis, first element first, each addition rounded to float32."""
    if x.shape[-1] == 0:
        return np.zeros(x.shape[:-1], np.float32)
    return np.asarray(np.add.accumulate(x.astype(np.float32), axis=-1)[..., -1])


def pow2(exponent: int) -> np.float32:
    """2**exponent, zero below and 2**127 above the range of normal numbers."""
    return _F(0) if exponent < -126 else _F(np.ldexp(1.0, min(exponent, 127)))


def power(base: float, exponent: int) -> np.float32:
    """base**exponent by squaring, for an exponent of 32 bits without a sign."""
    result, square = _F(1), _F(base)
    while exponent:
        if exponent & 1:
            result = _F(result * square)
        square = _F(square * square)
        exponent >>= 1
    return result


def exp32(x: Array) -> Array:
    """e**x for x <= 0; zero below -87, and for NaN.

    x = n*ln2 + r with |r| <= ln2/2, then a Taylor polynomial in r and a shift by n.

    >>> float(abs(exp32(np.array([-1.0], np.float32))[0] - np.exp(-1.0))) < 1e-7
    True
    """
    x = x.astype(np.float32)
    small = ~(x >= _F(-87))
    x = np.where(small, _F(0), x)
    n = (x * _F(1.44269504) - _F(0.5)).astype(np.int32)
    r = (x - n.astype(np.float32) * _F(0.693359375)) - n.astype(np.float32) * _F(-2.12194440e-4)
    p = _F(1 / 720)
    for c in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        p = p * r + _F(c)
    return np.where(small, _F(0), p * np.ldexp(_F(1), n).astype(np.float32))


def log32(x: float | Array) -> np.float32:
    """Natural logarithm of a normal x > 0.

    x = m * 2**n with m in [sqrt(1/2), sqrt(2)), then log m = 2 atanh((m-1)/(m+1)).

    >>> bool(abs(log32(10.0) - np.log(10.0)) < 1e-6)
    True
    """
    mantissa, n = np.frexp(_F(x))
    if mantissa < _F(0.707106781):
        mantissa, n = _F(mantissa * _F(2)), n - 1
    s = _F(_F(mantissa - _F(1)) / _F(mantissa + _F(1)))
    z = _F(s * s)
    p = _F(1 / 9)
    for c in (1 / 7, 1 / 5, 1 / 3, 1.0):
        p = _F(_F(p * z) + _F(c))
    return _F(_F(_F(2) * s) * p + _F(_F(n) * _F(0.693147181)))
