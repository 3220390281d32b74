"""A sum or a product of a map with one number, as a table of its codes."""

from __future__ import annotations

import numpy as np

from kilograd import ops
from kilograd.ir import Affine, Builder, DType, TensorType, interpret

_ENTRIES = 256


def with_number(op: ops.Add | ops.Product, x: Affine, number: Affine, code: int) -> ops.Table:
    """Return the table that gives what an op gives for codes of `x` and one code of `number`.

    A map of constants would give the same, and lie in flash; a product takes no single number.
    """
    shape = (_ENTRIES, 1, 1)
    b = Builder()
    every = b.input("x", TensorType(shape, DType.I8, x))
    constant = b.param("number", np.full(shape, code, np.int8), number)
    node = b(op, every, constant)
    inputs = np.arange(-128, 128, dtype=np.int8).reshape(shape)
    codes = np.asarray(interpret(b.graph(node), {"x": inputs})[node.name]).ravel()
    least, most = op.limits
    real = 1.0
    if isinstance(op, ops.Product):
        real = (code - number.zero_point) * number.scale[0]
    slopes = np.where((codes > least) & (codes < most), real, 0.0)
    return ops.Table(tuple(codes.tolist()), tuple(slopes.tolist()), op.out)
