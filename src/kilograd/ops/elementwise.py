"""Element by element: residual sums, clip masks, and arithmetic on gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from kilograd.ir import (
    Affine,
    Block,
    BlockExponent,
    Builder,
    DType,
    Kernel,
    Node,
    Op,
    Params,
    Range,
    TensorType,
    Value,
)
from kilograd.ir.params import INT32_MAX, Bits, Code, Count, Fractions, Multiplier, Shift
from kilograd.ops._common import (
    INT8,
    Clamping,
    Normalising,
    array,
    block,
    no_macs,
    no_vjp,
    require,
)
from kilograd.quant import (
    Rounding,
    bit_length,
    fractions,
    normalise,
    requantise_tflite,
    round_to_odd,
    tflite_multiplier,
)

_TFLITE_ROOM = 20  # bits that a map gains before it is scaled
_ADD_SHIFT = 30  # keeps the multipliers below 2**31 as long as no ratio of scales reaches 2


@dataclass(frozen=True, eq=False)
class AddParams(Params):
    """A residual sum: multipliers over 2^shift bring both maps to the scale of the result."""

    size: Count
    a_zero: Code
    c_zero: Code
    y_zero: Code
    a_multiplier: Multiplier
    c_multiplier: Multiplier
    shift: Annotated[int, Range("int32_t", 1, 30)]


@dataclass(frozen=True, eq=False)
class AddLimitedParams(Params):
    """A residual sum, clamped to lowest .. highest.  tflite: each map has a shift of its own and
    gains 20 bits before; multiplier and shift are of the sum.  Otherwise the two maps and their sum
    have one shift.
    """

    size: Count
    a_zero: Code
    c_zero: Code
    y_zero: Code
    a_multiplier: Multiplier
    c_multiplier: Multiplier
    a_shift: Shift
    c_shift: Shift
    multiplier: Multiplier
    shift: Shift
    tflite: Annotated[int, Range("int32_t", 0, 1)]
    lowest: Code
    highest: Code
    ordered = (("lowest", "highest"),)


@dataclass(frozen=True, repr=False)
class Add(Clamping):
    """Residual sum of two int8 maps, each with its own scale, clamped."""

    out: Affine

    def infer(self, *xs: TensorType) -> TensorType:
        a, c = xs
        require(a.shape == c.shape, f"{a} and {c} differ in shape")
        require(a.dtype is c.dtype is DType.I8, f"{a} and {c} must be int8")
        self.require_limits()
        return TensorType(a.shape, DType.I8, self.out)

    def multipliers(self, a: TensorType, c: TensorType) -> tuple[int, int, int]:
        """Return m_a, m_c and the shift they share: scale / out.scale ~ m * 2**-shift."""
        ratios = [x.affine.scale[0] / self.out.scale[0] for x in (a, c)]
        shift = _ADD_SHIFT - max(0, math.frexp(max(ratios))[1] - 1)
        ma, mc = (min(round(r * (1 << shift)), INT32_MAX) for r in ratios)
        return ma, mc, shift

    def reference(self, node: Node, *xs: Value) -> Value:
        a, c = (x.astype(np.int64) for x in map(array, xs))
        ta, tc = (x.type for x in node.inputs)
        a, c = a - ta.affine.zero_point, c - tc.affine.zero_point
        if self.rounding is Rounding.TFLITE:
            first, second, last = self.tflite_factors(ta, tc)
            total = requantise_tflite(a << _TFLITE_ROOM, *first)
            total = total + requantise_tflite(c << _TFLITE_ROOM, *second)
            return self.clamped(self.out.zero_point + requantise_tflite(total, *last))
        ma, mc, shift = self.multipliers(ta, tc)
        total = ma * a + mc * c
        return self.clamped(self.out.zero_point + ((total + (1 << (shift - 1))) >> shift))

    def tflite_factors(self, a: TensorType, c: TensorType) -> tuple[tuple[int, int], ...]:
        """Return a multiplier and a shift for each map, and one for their sum.

        The maps, 20 bits to the left, get twice the larger of their scales.
        """
        scales = [x.affine.scale[0] for x in (a, c)]
        both = 2 * max(scales)
        sum_scale = both / (1 << _TFLITE_ROOM) / self.out.scale[0]
        return *(tflite_multiplier(s / both) for s in scales), tflite_multiplier(sum_scale)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        dm = b(ClipGrad(), dy, b(ClipMask(self.limits), node))
        return dm, dm

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        a, c = node.inputs
        ma, mc, shift = self.multipliers(a.type, c.type)
        sizes = (node.type.size, a.type.affine.zero_point, c.type.affine.zero_point)
        if self.usual:
            params = AddParams(*sizes, self.out.zero_point, ma, mc, shift)
            return Kernel("kg_add", (a, c), params)
        twice = self.rounding is Rounding.TFLITE
        first, second, last = (
            self.tflite_factors(a.type, c.type) if twice else ((ma, shift), (mc, shift), (0, shift))
        )
        return Kernel(
            "kg_add_limited",
            (a, c),
            AddLimitedParams(
                *sizes,
                self.out.zero_point,
                a_multiplier=first[0],
                c_multiplier=second[0],
                a_shift=first[1],
                c_shift=second[1],
                multiplier=last[0],
                shift=last[1],
                tflite=int(twice),
                lowest=self.limits[0],
                highest=self.limits[1],
            ),
        )

    overwrites = (0, 1)


@dataclass(frozen=True, eq=False)
class ClipMaskParams(Params):
    """Which of `size` codes were clamped."""

    size: Count


@dataclass(frozen=True, eq=False)
class LimitMaskParams(Params):
    """Which of `size` codes are strictly between two others."""

    size: Count
    lowest: Code
    highest: Code
    ordered = (("lowest", "highest"),)


@dataclass(frozen=True)
class ClipMask(Op):
    """One bit an element, first element lowest: did the clamp to `limits` let it pass?

    A code at either limit counts as clamped.
    """

    limits: tuple[int, int] = INT8

    def infer(self, *xs: TensorType) -> TensorType:
        (y,) = xs
        require(y.dtype is DType.I8, f"{y} must be int8")
        return TensorType((-(-y.size // 8),), DType.U8)

    def reference(self, node: Node, *xs: Value) -> Value:
        y = array(xs[0])
        low, high = self.limits
        return np.packbits((y > low) & (y < high), axis=None, bitorder="little")

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        size = node.inputs[0].type.size
        if self.limits == INT8:
            return Kernel("kg_clip_mask", node.inputs, ClipMaskParams(size))
        return Kernel("kg_limit_mask", node.inputs, LimitMaskParams(size, *self.limits))


@dataclass(frozen=True, eq=False)
class ClipGradParams(Params):
    """The gradient of a clamp of `size` elements."""

    size: Count


@dataclass(frozen=True)
class ClipGrad(Op):
    """The gradient of a clamp: `dy` where the mask is set, else zero."""

    overwrites = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        dy, mask = xs
        require(mask.size == -(-dy.size // 8), f"mask {mask} does not fit {dy}")
        return dy

    def reference(self, node: Node, *xs: Value) -> Value:
        dy, mask = block(xs[0]), array(xs[1])
        keep = np.unpackbits(mask, count=dy.mantissa.size, bitorder="little")
        return Block(dy.mantissa * keep.reshape(dy.mantissa.shape).astype(np.int16), dy.exponent)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        return Kernel("kg_clip_grad", node.inputs, ClipGradParams(node.type.size))


@dataclass(frozen=True, eq=False)
class ScaleChannelsParams(Params):
    """factor: a 31-bit fraction for each of the `channels` channels; exponent: of all factors."""

    size: Count
    channels: Count
    factor: Fractions
    exponent: Annotated[int, Range("int32_t", -200, 200)]
    bits: Bits
    ordered = (("channels", "size"),)


@dataclass(frozen=True)
class ScaleChannels(Normalising):
    """dy times a positive factor for each channel (the last axis), widened to `bits` again."""

    factors: tuple[float, ...]
    overwrites = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        (dy,) = xs
        require(dy.shape[-1] == len(self.factors), f"{dy} has not {len(self.factors)} channels")
        return replace(dy, quant=BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy = block(xs[0])
        table, exponent = fractions(self.factors)
        # 16 of the 46 bits of the product are below the precision of any result
        product = (dy.mantissa.astype(np.int64) * table.astype(np.int64)) >> 16
        return normalise(product, dy.exponent + exponent - 15, self.bits)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        table, exponent = fractions(self.factors)
        params = ScaleChannelsParams(node.type.size, len(table), table, exponent - 15, self.bits)
        return Kernel("kg_scale_channels", node.inputs, params)

    def __str__(self) -> str:
        return f"ScaleChannels(bits={self.bits})"


@dataclass(frozen=True, eq=False)
class BlockAddParams(Params):
    """A sum of two gradients."""

    size: Count
    bits: Bits


@dataclass(frozen=True)
class BlockAdd(Normalising):
    """The sum of two gradients: what reaches a tensor that was read twice."""

    overwrites = (0, 1)

    def infer(self, *xs: TensorType) -> TensorType:
        a, c = xs
        require(a.shape == c.shape, f"{a} and {c} differ in shape")
        return replace(a, quant=BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        pair = [block(x) for x in xs]
        tops = [
            x.exponent + bit_length(x.mantissa.astype(np.int64)) for x in pair if x.mantissa.any()
        ]
        common = max(tops, default=0) - 29  # 29 bits for the larger, so that the sum fits int32
        total = np.zeros(node.type.shape, np.int64)
        for x in pair:
            if x.mantissa.any():
                shift = min(common - x.exponent, 31)
                mantissa = x.mantissa.astype(np.int64)
                total += round_to_odd(mantissa, shift) if shift > 0 else mantissa << -shift
        return normalise(total, common, self.bits)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        return Kernel("kg_block_add", node.inputs, BlockAddParams(node.type.size, self.bits))
