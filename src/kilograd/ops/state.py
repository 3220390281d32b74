"""Rules that keep something beside each element: a momentum, moments, a sum of gradients.

It is kept in float32, or in codes of 16 or 8 bits with an exponent for each row (`quant.codes`).
A bias and every other vector is one row: an exponent beside each element would double it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from kilograd.ir import Array, DType, Node, RowCodes, TensorType, Value
from kilograd.ops._common import array, require
from kilograd.ops.update import (
    Rule,
    Update,
    UpdateFields,
    by_rows,
    mean_squares,
    real,
    reals,
    row_axis,
)
from kilograd.quant import decode, encode, finite, ieee754, power, row_exponents, units

FLOAT_BITS = 32

_SALT = 1 << 30
"""What is between the salts of a parameter and of its states."""


def codes_beside(param: TensorType, bits: int) -> RowCodes:
    """Return how codes for each element of a parameter are kept."""
    axis = row_axis(param) if len(param.shape) > 1 else None
    return RowCodes(param.shape, axis, bits)


@dataclass(frozen=True)
class ElementRule(Update):
    """Base of the rules that keep `states` numbers of `state_bits` bits beside each element."""

    state_bits: int = field(default=FLOAT_BITS, kw_only=True)

    @property
    def coded(self) -> bool:
        """Whether the states are codes."""
        return self.state_bits < FLOAT_BITS

    def state_types(self, param: TensorType) -> tuple[TensorType, ...]:
        codes = codes_beside(param, self.state_bits)
        rows = param.shape[row_axis(param)]
        floats = TensorType((rows, param.size // rows), DType.F32)
        return (codes.tensor if self.coded else floats,) * self.states

    def advance(
        self, grad: Array, states: list[Array], kind: TensorType, clock: Array
    ) -> tuple[Array, ...]:
        if not self.coded:
            return super().advance(grad, states, kind, clock)
        codes = codes_beside(kind, self.state_bits)
        rows, kept = grad.reshape(codes.rows, codes.length), [decode(x, codes) for x in states]
        direction, *new = super().advance(rows, kept, kind, clock)
        stored = [encode(x, codes, clock, self.salt + i * _SALT) for i, x in enumerate(new, 1)]
        return direction.reshape(grad.shape), *stored

    def healed(self, states: list[Array], outliers: Array) -> list[Array]:
        if self.coded:  # what codes stand for is finite, whatever they are
            return states
        m, *squares = states
        m = np.where(outliers & ~np.isfinite(m), np.float32(0), m)
        return [m, *(np.where(outliers, mean_squares(v), v) for v in squares)]

    def fields(self, param: TensorType) -> UpdateFields:
        own = super().fields(param)
        together = own.rows if self.coded and len(param.shape) == 1 else 1
        return replace(own, state_bytes=self.state_bits // 8, together=together)


@dataclass(frozen=True)
class Momentum(ElementRule):
    """SGD with a heavy ball, as torch.optim.SGD has it: a number beside each element."""

    decay: float = 0.9
    rule = Rule.MOMENTUM
    states = 1

    def step(self, grad: Array, states: list[Array], t: int) -> tuple[Array, ...]:
        m = np.float32(self.decay) * states[0] + grad
        m = finite(m) if self.coded else m
        return m, m

    def fields(self, param: TensorType) -> UpdateFields:
        return replace(super().fields(param), beta1=self.decay)


@dataclass(frozen=True)
class Adam(ElementRule):
    """Adam (Kingma & Ba): two moments beside each element.

    Of the second moment codes keep the root, which spans half as many powers of two.  It counts as
    one code at least: what is rounded to zero would divide by nothing.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    rule = Rule.ADAM
    states = 2

    def step(self, grad: Array, states: list[Array], t: int) -> tuple[Array, ...]:
        f = np.float32
        b1, b2, epsilon = f(self.beta1), f(self.beta2), f(self.epsilon)
        left1, left2 = f(1) - power(self.beta1, t), f(1) - power(self.beta2, t)
        m, v = states
        m = b1 * m + (f(1) - b1) * grad
        if not self.coded:
            v = b2 * v + (f(1) - b2) * (grad * grad)
            return (m / left1) / (np.sqrt(v / left2) + epsilon), m, v
        m = finite(m)
        root = finite(np.sqrt(b2 * (v * v) + (f(1) - b2) * (grad * grad)))
        code = units(row_exponents(root, self.state_bits))[:, None]
        spread = np.maximum(root, code) / np.sqrt(left2)
        return (m / left1) / (spread + epsilon), m, root

    def fields(self, param: TensorType) -> UpdateFields:
        own = super().fields(param)
        return replace(own, beta1=self.beta1, beta2=self.beta2, epsilon=self.epsilon)


@dataclass(frozen=True)
class Accumulate(ElementRule):
    """sum += gradient * share, in real units: (sum, grad, share f32[1]), and the clock for codes.

    With a share of 1 / n for each of n samples the sum becomes their mean gradient.
    """

    rule = Rule.ACCUMULATE

    @property
    def controls(self) -> int:  # type: ignore[override]
        """The share, and the clock where something is rounded."""
        return 2 if self.coded else 1

    def state_types(self, param: TensorType) -> tuple[TensorType, ...]:
        return ()

    def infer(self, *xs: TensorType) -> TensorType:
        total = super().infer(*xs)
        bits = total.quant.bits if isinstance(total.quant, RowCodes) else FLOAT_BITS
        require(bits == self.state_bits, f"sum {total} has not {self.state_bits} bits")
        return total

    def sum_type(self, param: TensorType) -> TensorType:
        """Return the type of the sum of a parameter's gradients, zero at first."""
        codes = codes_beside(param, self.state_bits)
        return codes.tensor if self.coded else reals(codes.tensor)

    def step(self, grad: Array, states: list[Array], t: int) -> tuple[Array, ...]:
        return (grad,)

    @ieee754
    def reference(self, node: Node, *xs: Value) -> tuple[Value, ...]:
        stored, share, kind = array(xs[0]), array(xs[2])[0], node.type
        grad = real(xs[1], node.inputs[1].type)
        if not isinstance(kind.quant, RowCodes):
            return (finite(stored + grad * share),)
        total = decode(stored, kind.quant)
        total = finite(total + by_rows(grad, reals(kind)).reshape(total.shape) * share)
        return (encode(total, kind.quant, array(xs[3]), self.salt + _SALT),)

    def fields(self, param: TensorType) -> UpdateFields:
        return super().fields(reals(param))
