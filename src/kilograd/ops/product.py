"""Products of two maps, such as squeeze and excitation has, and their gradients."""

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
    Params,
    Range,
    TensorType,
    Value,
)
from kilograd.ir.params import INT32_MAX, Bits, Code, Count, Multiplier, Shift
from kilograd.ops._common import (
    Clamping,
    Normalising,
    array,
    block,
    int8_map,
    no_vjp,
    require,
)
from kilograd.ops.elementwise import ClipGrad, ClipMask, ScaleChannels
from kilograd.quant import (
    Rounding,
    fixed_point,
    normalise,
    requantise,
    requantise_tflite,
    tflite_multiplier,
)

Steps = Annotated[int, Range("int32_t", 0, INT32_MAX)]


@dataclass(frozen=True, eq=False)
class ProductParams(Params):
    """A map times a factor, whose element for pixel i and channel c lies at
    `i * pixel_step + c * channel_step`: multiplier over 2^shift brings the product of codes to the
    scale of the result.  tflite: round twice, as TensorFlow Lite does.
    """

    pixels: Count
    channels: Count
    pixel_step: Steps
    channel_step: Annotated[int, Range("int32_t", 0, 1)]
    x_zero: Code
    factor_zero: Code
    y_zero: Code
    least: Code
    most: Code
    multiplier: Multiplier
    shift: Shift
    tflite: Annotated[int, Range("int32_t", 0, 1)]
    products = (("pixels", "channels"),)
    ordered = (("pixel_step", "channels"), ("least", "most"))


@dataclass(frozen=True, eq=False)
class ProductGradParams(Params):
    """A gradient times the codes of a factor, which lie as in `kg_product`."""

    pixels: Count
    channels: Count
    pixel_step: Steps
    channel_step: Annotated[int, Range("int32_t", 0, 1)]
    factor_zero: Code
    bits: Bits
    products = (("pixels", "channels"),)
    ordered = (("pixel_step", "channels"),)


@dataclass(frozen=True, eq=False)
class ProductSumGradParams(Params):
    """`results` sums of `terms` products each, that begin `result_step` elements apart and go on
    in steps of `term_step`.
    """

    results: Count
    terms: Count
    result_step: Count
    term_step: Count
    x_zero: Code
    bits: Bits
    products = (("results", "terms"), ("results", "result_step"), ("terms", "term_step"))


def _broadcast(factor: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Say whether a factor is as large as a map, or one for all its pixels or channels or both."""
    return (
        len(factor) == len(shape) == 3
        and factor[:2] in {shape[:2], (1, 1)}
        and factor[2] in {shape[2], 1}
    )


def _steps(factor: tuple[int, ...]) -> tuple[int, int]:
    """Return how many elements of a factor are between pixels, and between channels."""
    h, w, c = factor
    return (c if h * w > 1 else 0, 1 if c > 1 else 0)


@dataclass(frozen=True, repr=False)
class Product(Clamping):
    """An int8 map times another of its shape, [1, 1, c] or [h, w, 1], clamped."""

    out: Affine
    overwrites = (0, 1)

    def infer(self, *xs: TensorType) -> TensorType:
        x, factor = xs
        int8_map(x)
        int8_map(factor)
        require(_broadcast(factor.shape, x.shape), f"{factor} is no factor of {x}")
        self.require_limits()
        return TensorType(x.shape, DType.I8, self.out)

    def ratio(self, x: TensorType, factor: TensorType) -> tuple[int, int]:
        """Return x.scale * factor.scale / out.scale as a multiplier and a shift."""
        real = x.affine.scale[0] * factor.affine.scale[0] / self.out.scale[0]
        return tflite_multiplier(real) if self._tflite else fixed_point(real)

    @property
    def _tflite(self) -> bool:
        return self.rounding is Rounding.TFLITE

    def reference(self, node: Node, *xs: Value) -> Value:
        x, factor = (
            array(v).astype(np.int64) - n.type.affine.zero_point
            for v, n in zip(xs, node.inputs, strict=True)
        )
        rounded = requantise_tflite if self._tflite else requantise
        y = rounded(x * factor, *self.ratio(*(n.type for n in node.inputs)))
        return self.clamped(y + self.out.zero_point)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        x, factor = node.inputs
        dm = b(ClipGrad(), dy, b(ClipMask(self.limits), node))
        whole = factor.type.shape == x.type.shape
        other = ProductGrad() if whole else ProductSumGrad(factor.type.shape)
        return _in_scale(b, b(ProductGrad(), dm, factor), factor), _in_scale(b, b(other, dm, x), x)

    def macs(self, node: Node) -> int:
        return node.type.size

    def kernel(self, node: Node) -> Kernel:
        x, factor = (n.type for n in node.inputs)
        h, w, c = x.shape
        multiplier, shift = self.ratio(x, factor)
        params = ProductParams(
            h * w,
            c,
            *_steps(factor.shape),
            x_zero=x.affine.zero_point,
            factor_zero=factor.affine.zero_point,
            y_zero=self.out.zero_point,
            least=self.limits[0],
            most=self.limits[1],
            multiplier=multiplier,
            shift=shift,
            tflite=int(self._tflite),
        )
        return Kernel("kg_product", node.inputs, params)


def _in_scale(b: Builder, product: Node, x: Node) -> Node:
    """Append the scale of x: what it stands for is that times its codes."""
    return b(ScaleChannels(x.type.affine.scale * product.type.shape[2]), product)


@dataclass(frozen=True)
class ProductGrad(Normalising):
    """dy times a factor's codes, less their zero point: of its shape, [1, 1, c] or [h, w, 1]."""

    overwrites = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        dy, factor = xs
        int8_map(factor)
        require(_broadcast(factor.shape, dy.shape), f"{factor} is no factor of {dy}")
        return TensorType(dy.shape, DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy, factor = block(xs[0]), array(xs[1]).astype(np.int64)
        product = dy.mantissa * (factor - node.inputs[1].type.affine.zero_point)
        return normalise(product, dy.exponent, self.bits)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        return node.type.size

    def kernel(self, node: Node) -> Kernel:
        h, w, c = node.type.shape
        factor = node.inputs[1].type
        params = ProductGradParams(
            h * w,
            c,
            *_steps(factor.shape),
            factor.affine.zero_point,
            bits=self.bits,
        )
        return Kernel("kg_product_grad", node.inputs, params)


@dataclass(frozen=True)
class ProductSumGrad(Normalising):
    """dy times the codes of x, less their zero point, summed to a `shape`: [1, 1, c], [h, w, 1]."""

    shape: tuple[int, ...]

    def infer(self, *xs: TensorType) -> TensorType:
        dy, x = xs
        int8_map(x)
        require(
            dy.shape == x.shape and _broadcast(self.shape, x.shape) and self.shape != x.shape,
            f"the product of {dy} and {x} cannot be summed to {self.shape}",
        )
        return TensorType(self.shape, DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy, x = block(xs[0]), array(xs[1]).astype(np.int64)
        product: Array = dy.mantissa * (x - node.inputs[1].type.affine.zero_point)
        axes = tuple(i for i, n in enumerate(self.shape) if n == 1)
        return normalise(product.sum(axis=axes, keepdims=True), dy.exponent, self.bits)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        return node.inputs[0].type.size

    def kernel(self, node: Node) -> Kernel:
        x = node.inputs[1].type
        h, w, c = x.shape
        results = node.type.size
        per_pixel = self.shape[:2] == (h, w)
        params = ProductSumGradParams(
            results,
            x.size // results,
            result_step=c if per_pixel else 1,
            term_step=c if self.shape[2] == c and not per_pixel else 1,
            x_zero=x.affine.zero_point,
            bits=self.bits,
        )
        return Kernel("kg_product_sum_grad", node.inputs, params)
