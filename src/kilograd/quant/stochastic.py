"""Stochastic rounding from a counter-based generator.

A random number is a function of (seed, step, tensor, element), not of what was drawn before,
so the order in which elements are updated does not matter.
"""

from __future__ import annotations

import numpy as np

from kilograd.ir import Array

_RESOLUTION = 1 << 23


def hash32(value: Array | int) -> Array:
    """Mix 32 bits (the `lowbias32` finaliser of C. Wellons' hash-prospector, public domain)."""
    x: Array = np.asarray(value).astype(np.uint32)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return np.asarray(x ^ (x >> 16))


def stochastic_round(x: Array, seed: int, step: int, salt: int) -> Array:
    """Round float32 x to one of its two integer neighbours, to the upper one with
    probability x - floor(x), in steps of 2**-23.

    Elements are numbered in C order; `salt` tells tensors apart.  |x| is at most 2**30.
    """
    x = x.astype(np.float32)
    key = hash32(np.uint32(seed & 0xFFFFFFFF) ^ hash32(step) ^ hash32(salt + 1))
    index = np.arange(x.size, dtype=np.uint32).reshape(x.shape)
    draw = (hash32(index ^ key) >> np.uint32(9)).astype(np.float32) + np.float32(0.5)
    floor = np.floor(x)
    up = draw < (x - floor) * np.float32(_RESOLUTION)
    return floor.astype(np.int64) + up
