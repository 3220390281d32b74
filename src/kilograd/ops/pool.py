"""Sums and means over the pixels of a map, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kilograd.ir import (
    Block,
    BlockExponent,
    Builder,
    DType,
    Kernel,
    Node,
    Op,
    TensorType,
    Value,
)
from kilograd.ops._common import array, block, no_macs, no_vjp, require
from kilograd.ops.elementwise import ScaleChannels


@dataclass(frozen=True)
class AvgPool(Op):
    """Mean over all pixels, rounded half to even; scale and zero point stay."""

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        require(len(x.shape) == 3 and x.dtype is DType.I8, f"{x} must be an int8 map")
        return replace(x, shape=(1, 1, x.shape[2]))

    def reference(self, node: Node, *xs: Value) -> Value:
        x = array(xs[0]).astype(np.int64)
        n = x.shape[0] * x.shape[1]
        doubled = 2 * x.sum(axis=(0, 1), keepdims=True) + n
        y = doubled // (2 * n)
        tie = doubled % (2 * n) == 0
        return (y - (tie & (y % 2 == 1))).astype(np.int8)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        h, w, c = node.inputs[0].type.shape
        return (b(Broadcast((h, w, c)), b(ScaleChannels((1 / (h * w),) * c), dy)),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        h, w, c = node.inputs[0].type.shape
        return Kernel("kg_avg_pool", node.inputs, {"pixels": h * w, "channels": c})


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
        return Kernel("kg_broadcast", node.inputs, {"pixels": h * w, "channels": c})


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
        return Kernel("kg_sum_pixels", node.inputs, {"pixels": h * w, "channels": c})
