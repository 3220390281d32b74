"""Functions of one code, as tables of 256 entries: activations, other scales, clamps apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from kilograd.ir import (
    Affine,
    Array,
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
from kilograd.ir.params import INT32_MAX, Bits, Count
from kilograd.ops._common import (
    Clamping,
    Normalising,
    array,
    block,
    int8_map,
    no_macs,
    no_vjp,
    require,
)
from kilograd.ops.elementwise import ClipGrad, ClipMask
from kilograd.quant import (
    Curve,
    Rounding,
    curve_codes,
    curve_slopes,
    fixed_point,
    normalise,
    requantise,
    requantise_tflite,
    signed_fractions,
    tflite_multiplier,
)

ENTRIES = 256


@dataclass(frozen=True, eq=False)
class TableParams(Params):
    """What each of 256 codes becomes, that of -128 first."""

    size: Count
    codes: Annotated[Array, Range("int8_t", -128, 127)]


@dataclass(frozen=True, eq=False)
class TableGradParams(Params):
    """The slope at each of 256 codes, that of -128 first: a 31-bit fraction with a sign; exponent:
    of all of them.
    """

    size: Count
    slopes: Annotated[Array, Range("int32_t", -INT32_MAX, INT32_MAX)]
    exponent: Annotated[int, Range("int32_t", -200, 200)]
    bits: Bits


@dataclass(frozen=True)
class Table(Op):
    """A function of each code: what -128 ... 127 become, and the slopes there, over the reals."""

    codes: tuple[int, ...]
    slopes: tuple[float, ...]
    out: Affine
    overwrites = (0,)

    @classmethod
    def of(
        cls, curve: Curve, x: Affine, out: Affine, rounding: Rounding = Rounding.NEAREST
    ) -> Table:
        """Return the table of a curve from codes of `x` to codes of `out`."""
        codes, slopes = curve_codes(curve, x, out, rounding), curve_slopes(curve, x, out)
        return cls(tuple(codes.tolist()), tuple(slopes.tolist()), out)

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        int8_map(x)
        require(len(self.codes) == len(self.slopes) == ENTRIES, "a table has 256 entries")
        return TensorType(x.shape, DType.I8, self.out)

    def reference(self, node: Node, *xs: Value) -> Value:
        return _looked_up(np.array(self.codes, np.int8), array(xs[0]))

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return (b(TableGrad(self.slopes), dy, node.inputs[0]),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        params = TableParams(node.type.size, np.array(self.codes, np.int8))
        return Kernel("kg_table", node.inputs, params)

    def __str__(self) -> str:
        return f"Table(out={self.out})"


@dataclass(frozen=True)
class TableGrad(Normalising):
    """dy times the slope at each code of x, widened to `bits` again."""

    slopes: tuple[float, ...]
    overwrites = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        dy, x = xs
        int8_map(x)
        require(dy.shape == x.shape, f"{dy} and {x} differ in shape")
        return TensorType(dy.shape, DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy, x = block(xs[0]), array(xs[1])
        table, exponent = signed_fractions(self.slopes)
        product = dy.mantissa.astype(np.int64) * _looked_up(table, x)
        return normalise(product, dy.exponent + exponent - 31, self.bits)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        table, exponent = signed_fractions(self.slopes)
        params = TableGradParams(node.type.size, table, exponent - 31, self.bits)
        return Kernel("kg_table_grad", node.inputs, params)

    def __str__(self) -> str:
        return f"TableGrad(bits={self.bits})"


def _looked_up(table: Array, x: Array) -> Array:
    """Return the entry for each int8 code; that of -128 comes first."""
    return np.asarray(table[x.astype(np.int64) + 128])


@dataclass(frozen=True, repr=False)
class Rescale(Clamping):
    """An int8 map in another scale and zero point, clamped: a ReLU or a clip apart."""

    out: Affine
    overwrites = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        int8_map(x)
        self.require_limits()
        return TensorType(x.shape, DType.I8, self.out)

    def codes(self, x: Affine) -> Array:
        """Return what the codes -128 ... 127 become."""
        centred = np.arange(-128, 128, dtype=np.int64) - x.zero_point
        # beyond these limits every code but that of zero is clamped, or becomes that of zero
        ratio = min(max(x.scale[0] / self.out.scale[0], 2.0**-20), 2.0**20)
        if self.rounding is Rounding.TFLITE:
            y = requantise_tflite(centred, *tflite_multiplier(ratio))
        else:
            y = requantise(centred, *fixed_point(ratio))
        return self.clamped(y + self.out.zero_point)

    def reference(self, node: Node, *xs: Value) -> Value:
        return _looked_up(self.codes(node.inputs[0].type.affine), array(xs[0]))

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return (b(ClipGrad(), dy, b(ClipMask(self.limits), node)),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        return Kernel("kg_table", (x,), TableParams(node.type.size, self.codes(x.type.affine)))
