"""What ops share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from kilograd.ir import Affine, Array, Block, DType, Op, ShapeError, TensorType, Value
from kilograd.quant import Rounding

if TYPE_CHECKING:
    from kilograd.ir import Builder, Node


@dataclass(frozen=True, kw_only=True)
class Normalising(Op):
    """Base of the ops that choose a shared exponent for their result.

    Its mantissas have at most `bits` bits.  Other ops that result in a gradient pass mantissas on
    as they came.
    """

    bits: int = 15


INT8 = (-128, 127)
"""The limits of codes that nothing but their type limits."""


@dataclass(frozen=True, kw_only=True)
class Clamping(Op):
    """Base of the ops that end in a clamp of int8 codes: to `limits`, both of them included.

    The clamp is the activation.  A code at either limit counts as clamped: no gradient passes.
    """

    limits: tuple[int, int] = INT8
    rounding: Rounding = Rounding.NEAREST

    def clamped(self, codes: Array) -> Array:
        """Return whole numbers as the int8 codes that the op results in."""
        return np.clip(codes, *self.limits).astype(np.int8)

    def require_limits(self) -> None:
        """Raise `ShapeError` unless the limits are int8 codes in order."""
        low, high = self.limits
        require(
            INT8[0] <= low <= high <= INT8[1], f"limits {self.limits} are no range of int8 codes"
        )

    @property
    def usual(self) -> bool:
        """Whether codes are limited by their type alone, and rounded to the nearest."""
        return self.limits == INT8 and self.rounding is Rounding.NEAREST

    def __repr__(self) -> str:
        """Leave out limits and rounding that are the usual ones: fingerprints are made of this."""
        usual = {"limits": INT8, "rounding": Rounding.NEAREST}
        pairs = [(f.name, getattr(self, f.name)) for f in fields(self) if f.repr]
        shown = [f"{k}={v!r}" for k, v in pairs if k not in usual or v != usual[k]]
        return f"{type(self).__name__}({', '.join(shown)})"


class NotDifferentiableError(TypeError):
    """The gradient of a gradient or of an update was asked for."""


def no_vjp(self: object, b: Builder, node: Node, dy: Node) -> NoReturn:
    """Stand in for the gradient of an op that has none."""
    raise NotDifferentiableError(f"{node.name} ({type(self).__name__}) has no gradient")


def no_macs(self: object, node: Node) -> int:
    """Count nothing: the cost model counts multiply-accumulates of layers only."""
    return 0


def require(ok: object, why: str) -> None:
    """Raise `ShapeError` unless `ok`."""
    if not ok:
        raise ShapeError(why)


def int8_map(x: TensorType) -> None:
    """Raise `ShapeError` unless `x` holds int8 codes of one scale."""
    one = isinstance(x.quant, Affine) and x.quant.axis is None
    require(x.dtype is DType.I8 and one, f"{x} must be int8 with one scale")


def array(value: Value) -> Array:
    """Narrow a value to an array."""
    if isinstance(value, Block):
        raise TypeError("expected an array, not a gradient with a shared exponent")
    return value


def block(value: Value) -> Block:
    """Narrow a value to a gradient with a shared exponent."""
    if not isinstance(value, Block):
        raise TypeError("expected a gradient with a shared exponent, not an array")
    return value


def exact_matmul(a: Array, b: Array) -> Array:
    """Product of integer matrices as int64.

    float64 holds every partial sum exactly (all are far below 2**53), and numpy multiplies
    floats a hundred times faster than integers.
    """
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
