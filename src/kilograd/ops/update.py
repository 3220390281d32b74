"""Updates: the only ops that write where something already was.

A step is computed in real units, `w -= lr * gradient`, and then divided by the scale of the
stored code: for int8 weights that is quantisation-aware scaling (QAS).  Without QAS, for
comparison, codes are treated as if they were the parameters: their gradient is the real one times
the scale, and so is their step.  The fraction below one code is rounded stochastically, so that it
is neither lost nor biased.

Rows are the slices of a parameter along the axis of its scales (else axis 0): one row an output
channel.
"""

from __future__ import annotations

import abc
import enum
import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np

from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    DType,
    Kernel,
    Node,
    Op,
    Params,
    Range,
    RowCodes,
    TensorType,
    Value,
)
from kilograd.ir.params import INT32_MAX, Count
from kilograd.ops._common import array, no_macs, no_vjp, require
from kilograd.quant import (
    FLOAT_MAX,
    decode,
    finite,
    fractions,
    ieee754,
    pow2,
    power,
    running_sum,
    stochastic_round,
)

#: Integer biases stay this far from the ends of int32, so that no accumulator can wrap.
BIAS_LIMIT = 1 << 30

#: No step is larger, in codes.
STEP_LIMIT = 2.0**30


class Rule(enum.IntEnum):
    """Values of `kg_rule` in kg.h."""

    SGD = 0
    ROWRMS = 1
    ADAM = 2
    ACCUMULATE = 3
    MOMENTUM = 4


Decay = Annotated[float, Range("float", 0.0, 1 - 2.0**-24)]
"""Below one as a float32, so that 1 - decay^t is not zero."""


@dataclass(frozen=True, eq=False)
class UpdateFields(Params):
    """How a parameter is cut into rows and how a row steps.  Element j of row r is number
    r * row_stride + j * element_stride of the parameter, and r * length + j of each state.
    scale: of each row, codes / scale codes for a step of a real unit; null: reals are stored.
    state_bytes: of a code of a state; 4: states are floats.  together: rows of codes with one
    exponent: 1, or all of them, which then lie one behind the other.
    """

    rule: Annotated[int, Range("int32_t", 0, 4)]  # kg_rule
    element_bytes: Annotated[int, Range("int32_t", 1, 4)]
    is_float: Annotated[int, Range("int32_t", 0, 1)]
    rows: Count
    length: Count
    row_stride: Count
    element_stride: Count
    salt: Annotated[int, Range("uint32_t", 0, (1 << 32) - 1)]
    scale: Annotated[Array | None, Range("int32_t", 1, INT32_MAX)]
    codes: Annotated[float, Range("float", 2.0**-50, 2.0**111)]
    gradient_scale: Annotated[float, Range("float", 0.0, 2.0**16)] = 0.0
    beta1: Decay = 0.0
    beta2: Decay = 0.0
    epsilon: Annotated[float, Range("float", 0.0, 1.0)] = 0.0
    state_bytes: Annotated[int, Range("int32_t", 1, 4)] = 4
    together: Count = 1
    struct = "kg_update"
    products = ((4, "rows", "length"),)
    ordered = (("together", "rows"),)

    @property
    def scratch(self) -> int:
        """Bytes for the floats that step at once."""
        return 4 * self.together * self.length


@dataclass(frozen=True, eq=False)
class UpdateBlockParams(Params):
    """An update along int32 sums with a shared exponent."""

    update: UpdateFields


@dataclass(frozen=True, eq=False)
class UpdateFloatParams(Params):
    """An update along a gradient in float32."""

    update: UpdateFields


@dataclass(frozen=True, eq=False)
class UpdateCodesParams(Params):
    """An update along a sum that is kept in codes of so many bytes, with so many exponents: one, or
    one for each row.
    """

    update: UpdateFields
    gradient_bytes: Annotated[int, Range("int32_t", 1, 2)]
    gradient_rows: Count


@dataclass(frozen=True, eq=False)
class ClearParams(Params):
    """Zeros."""

    bytes: Count


def reals(kind: TensorType) -> TensorType:
    """Return the type of the reals that the codes of a sum stand for; any other type as it is."""
    if not isinstance(kind.quant, RowCodes):
        return kind
    require(kind.shape == kind.quant.tensor.shape, f"{kind} has {kind.size} bytes")
    rows = Affine((1.0,), axis=kind.quant.axis or 0)
    return TensorType(kind.quant.shape, DType.F32, rows)


def row_axis(param: TensorType) -> int:
    """Return the axis along which a parameter is cut into rows."""
    quant = param.quant
    return quant.axis if isinstance(quant, Affine) and quant.axis is not None else 0


def by_rows(x: Array, param: TensorType) -> Array:
    """View x as [rows, elements of a row]."""
    return np.moveaxis(x, row_axis(param), 0).reshape(param.shape[row_axis(param)], -1)


def unrows(rows: Array, param: TensorType) -> Array:
    """Undo `by_rows`, whatever rows were cut or joined."""
    axis = row_axis(param)
    shape = (param.shape[axis], *param.shape[:axis], *param.shape[axis + 1 :])
    return np.moveaxis(rows.reshape(shape), 0, axis)


def real(grad: Value, kind: TensorType) -> Array:
    """Return a gradient in real units, float32."""
    if isinstance(grad, Block):
        factor = finite(pow2(grad.exponent) * np.float32(kind.block.scale))
        return np.asarray(grad.mantissa.astype(np.float32) * factor)
    if isinstance(kind.quant, RowCodes):
        return unrows(decode(grad, kind.quant), reals(kind))
    return grad


def _scales(param: TensorType, *, qas: bool) -> tuple[Array, np.float32]:
    """Return an int32 for each row and a float32 that, divided by it, gives how many codes a step
    of a real unit moves: with QAS one over the scale, without it the scale.

    With QAS the int32s are those that `ScaleChannels` multiplies by where it serves the same
    weights.
    """
    rows, unit = param.shape[row_axis(param)], param.affine.unit
    table, exponent = fractions([s if qas else 1 / s for s in param.affine.scale])
    most = 2.0 ** (31 - exponent)
    return np.broadcast_to(table, (rows,)), np.float32(most / unit if qas else most * unit)


def mean_squares(v: Array) -> Array:
    """Return v, and 0 for what is no mean of squares: a damaged state may hold anything."""
    return np.where((v >= 0) & (v <= np.float32(FLOAT_MAX)), v, np.float32(0))


def _codes_per_unit(param: TensorType, *, qas: bool) -> Array:
    """Return `_scales` as one number for each row; 1 where the reals themselves are stored."""
    if param.dtype is DType.F32:
        return np.ones(param.shape[row_axis(param)], np.float32)
    table, codes = _scales(param, qas=qas)
    return codes / table.astype(np.float32)


@dataclass(frozen=True)
class Update(Op):
    """Base of the optimisers: inputs are param, grad, states, then lr f32[1] and clock i32[2].

    `clock` is (seed, step), step counting from 0.  `salt` tells tensors apart.  Without `qas`,
    codes are treated as if they were the parameters.
    """

    salt: int
    qas: bool = field(default=True, kw_only=True)
    rule = Rule.SGD
    states = 0
    controls = 2  # lr and clock

    @property
    def writes(self) -> tuple[int, ...]:  # type: ignore[override]
        """The parameter, and every state."""
        return (0, *range(2, 2 + self.states))

    def state_types(self, param: TensorType) -> tuple[TensorType, ...]:
        """Return the type of each state, zero at first."""
        return ()

    def infer(self, *xs: TensorType) -> TensorType:
        param, grad, *rest = xs
        require(reals(param).shape == reals(grad).shape, f"gradient {grad} does not fit {param}")
        require(
            len(rest) == self.states + self.controls,
            f"{type(self).__name__} takes {self.states} states and {self.controls} controls",
        )
        want, given = self.state_types(param), tuple(rest[: self.states])
        require(given == want, f"states of {param} must be {want}, not {given}")
        return param

    @abc.abstractmethod
    def step(self, grad: Array, states: list[Array], t: int) -> tuple[Array, ...]:
        """Return the direction to go and the new states; `grad` is [rows, elements]."""

    def advance(
        self, grad: Array, states: list[Array], kind: TensorType, clock: Array
    ) -> tuple[Array, ...]:
        """Return the direction to go and the new states as they are stored."""
        time = (int(clock[1]) + 1) & 0xFFFFFFFF  # any 32 bits are a step
        return self.step(grad, states, time)

    def healed(self, states: list[Array], outliers: Array) -> list[Array]:
        """Return the states where steps [rows, elements] are no numbers or too large."""
        return states

    @ieee754
    def reference(self, node: Node, *xs: Value) -> tuple[Value, ...]:
        kind = node.inputs[0].type
        param = array(xs[0])
        grad = real(xs[1], node.inputs[1].type)
        lr, clock = array(xs[-2])[0], array(xs[-1])
        states = [array(x) for x in xs[2 : 2 + self.states]]
        direction, *new = self.advance(by_rows(grad, kind), states, kind, clock)
        step = -(direction * lr) * _codes_per_unit(kind, qas=self.qas)[:, None]
        most = np.float32(FLOAT_MAX if kind.dtype is DType.F32 else STEP_LIMIT)
        new = self.healed(new, ~(np.abs(step) <= most))
        step = np.clip(finite(step), -most, most)
        return self._applied(param, unrows(step, kind), clock), *new

    def _applied(self, param: Array, step: Array, clock: Array) -> Array:
        if param.dtype == np.float32:
            return finite(param + step)
        limit = 127 if param.dtype == np.int8 else BIAS_LIMIT
        rounded = stochastic_round(step, int(clock[0]), int(clock[1]), self.salt)
        return np.clip(param + rounded, -limit, limit).astype(param.dtype)

    vjp = no_vjp
    macs = no_macs

    def fields(self, param: TensorType) -> UpdateFields:
        """Return how `param` is cut into rows and how a row steps."""
        axis = row_axis(param)
        inner = math.prod(param.shape[axis + 1 :])
        contiguous = axis == 0
        scales, codes = (None, 1.0) if param.dtype is DType.F32 else _scales(param, qas=self.qas)
        require(
            contiguous or axis == len(param.shape) - 1,
            f"rows of {param} are neither along the first nor along the last axis",
        )
        return UpdateFields(
            rule=int(self.rule),
            element_bytes=param.dtype.nbytes,
            is_float=int(param.dtype is DType.F32),
            rows=param.shape[axis],
            length=param.size // param.shape[axis],
            row_stride=inner if contiguous else 1,
            element_stride=1 if contiguous else param.shape[axis],
            salt=self.salt,
            scale=scales,
            codes=float(codes),
        )

    def args(self, node: Node, rest: tuple[Node, ...]) -> tuple[Node | None, ...]:
        """Return `rest` = (states..., lr, clock) with absent states as null pointers."""
        states: list[Node | None] = [*rest[: self.states], None, None]
        tail: list[Node | None] = [*rest[self.states :], None, None]
        return (*states[:2], *tail[:2])

    def kernel(self, node: Node) -> Kernel:
        param, grad, *rest = node.inputs
        own = self.fields(param.type)
        symbol, params = _along(grad.type, own)
        return Kernel(symbol, (grad, *self.args(node, tuple(rest))), params, scratch=own.scratch)


def _along(grad: TensorType, own: UpdateFields) -> tuple[str, Params]:
    """Return the kernel for a kind of gradient, and what it is told."""
    if isinstance(grad.quant, RowCodes):
        codes = grad.quant
        return "kg_update_codes", UpdateCodesParams(own, codes.bits // 8, codes.rows)
    if isinstance(grad.quant, BlockExponent):
        own = replace(own, gradient_scale=grad.quant.scale)
        return "kg_update_block", UpdateBlockParams(own)
    return "kg_update_float", UpdateFloatParams(own)


@dataclass(frozen=True)
class Sgd(Update):
    """Plain gradient descent; on int8 codes it is SGD with QAS, unless that is turned off."""

    rule = Rule.SGD

    def step(self, grad: Array, states: list[Array], t: int) -> tuple[Array, ...]:
        return (grad,)


@dataclass(frozen=True)
class RowRms(Update):
    """The gradient divided by the root of a running mean square of its row: 4 bytes a row."""

    decay: float = 0.9
    epsilon: float = 1e-8
    rule = Rule.ROWRMS
    states = 1

    def state_types(self, param: TensorType) -> tuple[TensorType, ...]:
        return (TensorType((param.shape[row_axis(param)],), DType.F32),)

    def step(self, grad: Array, states: list[Array], t: int) -> tuple[Array, ...]:
        f = np.float32
        decay = f(self.decay)
        mean = running_sum(grad * grad) / f(grad.shape[1])
        v = finite(decay * mean_squares(states[0]) + (f(1) - decay) * mean)
        corrected = v / (f(1) - power(self.decay, t))
        return grad / (np.sqrt(corrected) + f(self.epsilon))[:, None], v

    def fields(self, param: TensorType) -> UpdateFields:
        return replace(super().fields(param), beta2=self.decay, epsilon=self.epsilon)


@dataclass(frozen=True)
class Clear(Op):
    """Zero a parameter: (param, after...).  It runs after the nodes it names."""

    writes = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        return xs[0]

    def reference(self, node: Node, *xs: Value) -> tuple[Value, ...]:
        return (np.zeros_like(array(xs[0])),)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        return Kernel("kg_clear", (), ClearParams(node.type.nbytes))
