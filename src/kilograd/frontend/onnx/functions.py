"""Which function of each element a few operators compute together: told by its values.

Exporters write one function in many ways: SiLU as x * sigmoid(x), GELU with erf in five operators,
hard-swish with a clip or whole.  So operators of one element are put together to a `Function`, and
what it is, is seen from what it does to numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kilograd.frontend.onnx.file import Operator
from kilograd.ir import Array
from kilograd.layers.network import Bounds, Clamp, Curve, CurveKind, Value
from kilograd.quant.curves import curve

_NEAR = np.linspace(-20, 20, 1281)
_FAR = np.concatenate([s * np.logspace(1, 30, 117) for s in (-1, 1)])
_CLOSE = 2e-5
"""Of float32 constants, such as 0.7978846 for the root of 2 / pi."""
MOST_PARTS = 40
"""Operators of a function; of the longest known one, GELU with tanh, there are 15."""
_INFINITE = 1e30
"""Bounds beyond are none."""


@dataclass(frozen=True)
class Line:
    """slope * x + offset."""

    slope: float
    offset: float


Known = Line | Clamp | Curve


@dataclass(frozen=True, eq=False)
class Function:
    """What an operator makes of each element of one tensor: of it, of functions of it, of numbers.

    `base`: the tensor.  `batch`: whether its first axis in the file is that of the batch.
    """

    node: Operator
    compute: Callable[..., Array]
    args: tuple[Function | Value | float, ...]
    base: Value
    batch: bool

    @property
    def parts(self) -> int:
        """How many operators it is made of, those that it reads twice counted twice."""
        return 1 + sum(a.parts for a in self.args if isinstance(a, Function))

    def of(self, x: Array, start: Function | Value) -> Array:
        """Return its values where `start` has the values `x`.

        Raises LookupError where it depends on the tensor in another way than through `start`.
        """
        return self.compute(*(_argument(a, x, start) for a in self.args))

    def starts(self) -> list[Function | Value]:
        """Return from where on it may be told: its tensor, or a function it is composed with."""
        inner = [f for a in self.args if isinstance(a, Function) for f in (*a.starts()[1:], a)]
        return [self.base, *dict.fromkeys(inner)]


def _argument(a: Function | Value | float, x: Array, start: Function | Value) -> Array | float:
    if a is start:
        return x
    if isinstance(a, Function):
        return a.of(x, start)
    if isinstance(a, Value):
        if a == start:
            return x
        raise LookupError(a.name)
    return a


def recognise(f: Function) -> tuple[Function | Value, Known] | None:
    """Return what a function is, and of what; None where it is none that is known."""
    with np.errstate(all="ignore"):
        for start in f.starts():
            try:
                near, far = f.of(_NEAR, start), f.of(_FAR, start)
            except LookupError:
                continue
            if near.shape != _NEAR.shape or far.shape != _FAR.shape:
                continue
            if known := _known(near, far):
                return start, known
    return None


def _known(near: Array, far: Array) -> Known | None:
    """Tell a function by its values at `_NEAR` and `_FAR`."""
    if np.isfinite(far).all():
        if line := _line(near, far):
            return line
        if clamp := _clamp(near, far):
            return clamp
    for kind in CurveKind:
        parameter = _parameter(kind, near)
        op = Curve(kind, parameter)
        if np.isfinite(parameter) and _alike(near, curve(op, _NEAR)):
            return op
    return None


def _parameter(kind: CurveKind, near: Array) -> float:
    at = np.searchsorted(_NEAR, -1)
    match kind:
        case CurveKind.LEAKY:
            return float(-near[at])
        case CurveKind.ELU:
            return float(near[at] / np.expm1(-1))
        case _:
            return 0.0


def _line(near: Array, far: Array) -> Line | None:
    offset = float(near[len(near) // 2])
    slope = float(far[-1] / _FAR[-1])
    if not (_alike(near, slope * _NEAR + offset) and _alike(far, slope * _FAR + offset)):
        return None
    return Line(slope, offset)


def _clamp(near: Array, far: Array) -> Clamp | None:
    low, high = float(far[len(far) // 2 - 1]), float(far[-1])  # the furthest on either side
    bounds: Bounds = (
        -math.inf if low <= -_INFINITE else low,
        math.inf if high >= _INFINITE else high,
    )
    if bounds[0] > bounds[1]:
        return None
    if not (_alike(near, np.clip(_NEAR, *bounds)) and _alike(far, np.clip(_FAR, *bounds))):
        return None
    return Clamp(bounds)


def _alike(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=_CLOSE, atol=_CLOSE))
