"""Reals in 8 or 16 bits each, with an exponent for each row: what is kept beside parameters.

`RowCodes` says how the bytes lie.  A row has the least exponent with which its largest element
fits; what is below a code is rounded stochastically, so that small additions are not lost.
"""

from __future__ import annotations

import numpy as np

from kilograd.ir import Array, RowCodes
from kilograd.quant.float32 import finite, ieee754
from kilograd.quant.stochastic import stochastic_round

_F = np.float32
_LEAST = -126
"""A smaller power of two is no normal number."""


def units(exponents: Array) -> Array:
    """Return 2**exponent for int8 exponents; 0 for those that no row has.

    >>> units(np.array([-127, -1, 0], np.int8)).tolist()
    [0.0, 0.5, 1.0]
    """
    powers = np.ldexp(_F(1), np.maximum(exponents, _LEAST))
    return np.where(exponents < _LEAST, _F(0), powers.astype(np.float32))


def row_exponents(x: Array, bits: int) -> Array:
    """Return the exponent of each row of finite float32 x, int32 [rows]; 0 for zeros.

    >>> row_exponents(np.array([[127, 3], [127.5, 0], [0, 0], [-1, 2**-120]], np.float32), 8)
    array([ 0,  1,  0, -6], dtype=int32)
    """
    most = np.abs(x).max(axis=1)
    _, exponents = np.frexp(most)
    exponents = np.maximum(exponents - (bits - 1), _LEAST)
    limit = _F((1 << (bits - 1)) - 1)
    exponents = exponents + (most * np.ldexp(_F(1), -exponents).astype(np.float32) > limit)
    return np.where(most == 0, 0, exponents).astype(np.int32)


@ieee754
def decode(stored: Array, kind: RowCodes) -> Array:
    """Return what bytes stand for, float32 [rows, elements]; any bytes stand for something."""
    size = kind.rows * kind.length * kind.bits // 8
    codes = stored[:size].view(f"int{kind.bits}").reshape(kind.rows, kind.length)
    exponents = stored[size:].view(np.int8)
    return finite(codes.astype(np.float32) * units(exponents)[:, None])


def encode(x: Array, kind: RowCodes, clock: Array, salt: int) -> Array:
    """Return the bytes of finite float32 x [rows, elements]; `clock` is seed and step."""
    exponents = row_exponents(x, kind.bits)
    scaled = x * np.ldexp(_F(1), -exponents).astype(np.float32)[:, None]
    codes = stochastic_round(scaled, int(clock[0]), int(clock[1]), salt)
    parts = codes.astype(f"int{kind.bits}"), exponents.astype(np.int8)
    return np.concatenate([part.ravel().view(np.uint8) for part in parts])
