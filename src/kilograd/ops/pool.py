"""Sums and means over the pixels of a map or of small squares of it, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from kilograd.ir import (
    Array,
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
from kilograd.ir.params import INT32_MAX, Bits, Count, Header, Length
from kilograd.ops._common import Normalising, array, block, no_macs, no_vjp, require
from kilograd.ops.elementwise import ScaleChannels
from kilograd.ops.mean_pool import MeanPool
from kilograd.ops.window import Window
from kilograd.quant import Rounding, normalise

# kg_rounded_mean computes 2 * sum + n with |sum| <= 128 * n.
Averaged = Annotated[int, Range("int32_t", 1, INT32_MAX // 257)]
Side = Annotated[int, Range("int32_t", 1, 2890)]  # its square is no more


Factors = tuple[int, int]
"""How many pixels of one, down and across."""


@dataclass(frozen=True, eq=False)
class AvgPoolParams(Params):
    """The mean of all pixels."""

    pixels: Averaged
    channels: Count
    products = (("pixels", "channels"),)


@dataclass(frozen=True, eq=False)
class BroadcastParams(Params):
    """A pixel, repeated."""

    pixels: Count
    channels: Count
    products = (("pixels", "channels"),)


@dataclass(frozen=True, eq=False)
class SumPixelsParams(Params):
    """The sum of all pixels."""

    pixels: Count
    channels: Count
    products = (("pixels", "channels"),)


@dataclass(frozen=True, eq=False)
class WindowPoolParams(Params):
    """Squares of size * size pixels become pixels; height and width count the squares."""

    height: Length
    width: Length
    channels: Length
    size: Side
    products = (("height", "width", "channels", "size", "size"),)


@dataclass(frozen=True, eq=False)
class UpsampleParams(Params):
    """Pixels of `pixel_bytes` become `down` rows of `across` pixels, behind a header."""

    header: Header
    height: Length
    width: Length
    pixel_bytes: Count
    down: Length
    across: Length
    products = (("height", "width", "pixel_bytes", "down", "across"),)


@dataclass(frozen=True, eq=False)
class UpsampleGradParams(Params):
    """`down` rows of `across` pixels become a pixel; height and width count the results."""

    height: Length
    width: Length
    channels: Length
    down: Length
    across: Length
    bits: Bits
    products = (("height", "width", "channels", "down", "across"),)


def _rounded_mean(total: Array, n: int) -> Array:
    """Return total / n as int8 codes, rounded half to even."""
    doubled = 2 * total + n
    y = doubled // (2 * n)
    tie = doubled % (2 * n) == 0
    return (y - (tie & (y % 2 == 1))).astype(np.int8)


def _boxes(x: Array, size: Factors) -> Array:
    """View a map [h, w, c] as [h / down, down, w / across, across, c]."""
    (h, w, c), (down, across) = x.shape, size
    return x.reshape(h // down, down, w // across, across, c)


def _smaller(x: TensorType, size: Factors) -> tuple[int, int, int]:
    """Return the shape with each box of `size` pixels made one pixel."""
    down, across = size
    require(
        len(x.shape) == 3 and x.shape[0] % down == x.shape[1] % across == 0,
        f"{x} cannot be cut into boxes of {down}x{across} pixels",
    )
    return x.shape[0] // down, x.shape[1] // across, x.shape[2]


@dataclass(frozen=True, repr=False)
class AvgPool(Op):
    """Mean over all pixels; scale and zero point stay.

    Rounded half to even; or, as TFLite does, half away from zero.
    """

    rounding: Rounding = Rounding.NEAREST

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        require(len(x.shape) == 3 and x.dtype is DType.I8, f"{x} must be an int8 map")
        return replace(x, shape=(1, 1, x.shape[2]))

    def _of_tflite(self, x: TensorType) -> MeanPool:
        """Return a kernel as large as the map, which TFLite has in its place."""
        return MeanPool((x.shape[0], x.shape[1]), Window(), x.affine, rounding=self.rounding)

    def reference(self, node: Node, *xs: Value) -> Value:
        if self.rounding is Rounding.TFLITE:
            return self._of_tflite(node.inputs[0].type).reference(node, *xs)
        x = array(xs[0]).astype(np.int64)
        return _rounded_mean(x.sum(axis=(0, 1), keepdims=True), x.shape[0] * x.shape[1])

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        h, w, c = node.inputs[0].type.shape
        return (b(Broadcast((h, w, c)), b(ScaleChannels((1 / (h * w),) * c), dy)),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        if self.rounding is Rounding.TFLITE:
            return self._of_tflite(node.inputs[0].type).kernel(node)
        h, w, c = node.inputs[0].type.shape
        return Kernel("kg_avg_pool", node.inputs, AvgPoolParams(h * w, c))

    def __repr__(self) -> str:
        """Leave out the usual rounding: fingerprints are made of this."""
        return "AvgPool()" if self.rounding is Rounding.NEAREST else f"AvgPool({self.rounding!r})"


@dataclass(frozen=True)
class Broadcast(Op):
    """A gradient [1, 1, c] repeated for every pixel of `shape`."""

    shape: tuple[int, ...]

    def infer(self, *xs: TensorType) -> TensorType:
        (dy,) = xs
        require(dy.shape == (1, 1, self.shape[2]), f"{dy} cannot fill {self.shape}")
        return replace(dy, shape=self.shape)

    def reference(self, node: Node, *xs: Value) -> Value:
        dy = block(xs[0])
        return Block(np.ascontiguousarray(np.broadcast_to(dy.mantissa, self.shape)), dy.exponent)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        h, w, c = self.shape
        return Kernel("kg_broadcast", node.inputs, BroadcastParams(h * w, c))


@dataclass(frozen=True)
class SumPixels(Op):
    """dy summed over its pixels: the gradient of a bias, int32."""

    def infer(self, *xs: TensorType) -> TensorType:
        (dy,) = xs
        return TensorType(dy.shape[-1:], DType.I32, BlockExponent(31))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy = block(xs[0])
        acc = dy.mantissa.astype(np.int64).sum(axis=(0, 1))
        return Block(acc.astype(np.int32), dy.exponent)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        h, w, c = node.inputs[0].type.shape
        return Kernel("kg_sum_pixels", node.inputs, SumPixelsParams(h * w, c))


@dataclass(frozen=True)
class WindowPool(Op):
    """Mean of each square of `size` pixels a side, rounded half to even; scale, zero point stay."""

    size: int

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        require(x.dtype is DType.I8, f"{x} must be an int8 map")
        return replace(x, shape=_smaller(x, (self.size, self.size)))

    def reference(self, node: Node, *xs: Value) -> Value:
        x = array(xs[0]).astype(np.int64)
        return _rounded_mean(_boxes(x, (self.size, self.size)).sum(axis=(1, 3)), self.size**2)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        share = (1 / self.size**2,) * node.type.shape[2]
        return (b(Upsample((self.size, self.size)), b(ScaleChannels(share), dy)),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        h, w, c = node.type.shape
        return Kernel("kg_window_pool", node.inputs, WindowPoolParams(h, w, c, self.size))


@dataclass(frozen=True)
class Upsample(Op):
    """Each pixel of a map or a gradient as a box of `size` pixels, down and across."""

    size: Factors

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        require(len(x.shape) == 3, f"{x} must be a map")
        (h, w, c), (down, across) = x.shape, self.size
        return replace(x, shape=(h * down, w * across, c))

    def reference(self, node: Node, *xs: Value) -> Value:
        (x,) = xs
        if isinstance(x, Block):
            return Block(self._repeated(x.mantissa), x.exponent)
        return self._repeated(x)

    def _repeated(self, x: Array) -> Array:
        down, across = self.size
        return np.repeat(np.repeat(x, down, axis=0), across, axis=1)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return (b(UpsampleGrad(self.size), dy),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        h, w, c = x.type.shape
        header = 4 if isinstance(x.type.quant, BlockExponent) else 0
        params = UpsampleParams(header, h, w, c * x.type.dtype.nbytes, *self.size)
        return Kernel("kg_upsample", (x,), params)


@dataclass(frozen=True)
class UpsampleGrad(Normalising):
    """dy summed over each box of `size` pixels, down and across."""

    size: Factors

    def infer(self, *xs: TensorType) -> TensorType:
        (dy,) = xs
        return TensorType(_smaller(dy, self.size), DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy = block(xs[0])
        acc = _boxes(dy.mantissa.astype(np.int64), self.size).sum(axis=(1, 3))
        return normalise(acc, dy.exponent, self.bits)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        h, w, c = node.type.shape
        params = UpsampleGradParams(h, w, c, *self.size, self.bits)
        return Kernel("kg_upsample_grad", node.inputs, params)
