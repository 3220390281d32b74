"""The largest code of each place of a sliding kernel, and the way back to where it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from kilograd.ir import (
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
from kilograd.ir.params import Bits
from kilograd.ops._common import Normalising, array, block, no_macs, no_vjp, require
from kilograd.ops.window import Window, WindowParams
from kilograd.quant import normalise

_BYTE = 256  # positions of a kernel that a byte tells apart
_MOST = 1 << 15
_BELOW = 129  # added to codes, it leaves none at or below the zeros of padding


PositionBytes = Annotated[int, Range("int32_t", 1, 2)]


@dataclass(frozen=True, eq=False)
class MaxPoolParams(Params):
    """The largest code of each place of a kernel."""

    window: WindowParams


@dataclass(frozen=True, eq=False)
class ArgMaxParams(MaxPoolParams):
    """As for `kg_max_pool`: where it is, in so many bytes each."""

    bytes: PositionBytes


@dataclass(frozen=True, eq=False)
class MaxPoolGradParams(Params):
    """The gradient of x; `window` is of the forward pass: "in" is dx, "out" is dy."""

    window: WindowParams
    bytes: PositionBytes
    bits: Bits


@dataclass(frozen=True)
class MaxPool(Op):
    """The largest code at each place of a kernel of `size`; padding has none.

    A gradient goes to the first of the largest, row by row of the kernel.  `ArgMax` finds it: from
    x, at whatever time costs the least memory, as with a clip mask.
    """

    size: tuple[int, int]
    window: Window

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        require(len(x.shape) == 3 and x.dtype is DType.I8, f"{x} must be an int8 map")
        return replace(x, shape=(*self.window.seen(x.shape, self.size).shape, x.shape[2]))

    def patches(self, x: Array) -> Array:
        """[h, w, c] -> [oh, ow, kh * kw, c], larger for larger codes, 0 outside."""
        cols = self.window.patches(x.astype(np.int16) + _BELOW, *self.size)
        return cols.reshape(*cols.shape[:2], -1, cols.shape[-1])

    def reference(self, node: Node, *xs: Value) -> Value:
        return (self.patches(array(xs[0])).max(axis=2) - _BELOW).astype(np.int8)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        (x,) = node.inputs
        return (b(MaxPoolGrad(self, x.type.shape), dy, b(ArgMax(self), x)),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        window = self.window.params(x.type.shape, self.size, node.type.shape)
        return Kernel("kg_max_pool", (x,), MaxPoolParams(window))


@dataclass(frozen=True)
class ArgMax(Op):
    """Where in its kernel `pool` found each code: the first of the largest, row by row.

    A byte each, or an int16 where the kernel has more than 256 positions.
    """

    pool: MaxPool

    def infer(self, *xs: TensorType) -> TensorType:
        height, width = self.pool.size
        positions = height * width
        require(positions <= _MOST, f"a gradient of a pool of {height}x{width} pixels")
        kind = DType.U8 if positions <= _BYTE else DType.I16
        return TensorType(self.pool.infer(*xs).shape, kind)

    def reference(self, node: Node, *xs: Value) -> Value:
        return self.pool.patches(array(xs[0])).argmax(axis=2).astype(node.type.dtype.numpy)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        window = self.pool.window.params(x.type.shape, self.pool.size, node.type.shape)
        return Kernel("kg_arg_max", (x,), ArgMaxParams(window, node.type.dtype.nbytes))


@dataclass(frozen=True)
class MaxPoolGrad(Normalising):
    """dX of `pool`, of shape `shape`: (dy, positions) -> dy, each where its code came from."""

    pool: MaxPool
    shape: tuple[int, ...]

    def infer(self, *xs: TensorType) -> TensorType:
        dy, at = xs
        size = self.pool.window.seen(self.shape, self.pool.size).shape
        require(
            dy.shape == at.shape == (*size, self.shape[2]) and at.dtype in {DType.U8, DType.I16},
            f"dy {dy} and positions {at} do not give a gradient of {self.shape}",
        )
        return TensorType(self.shape, DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy, at = block(xs[0]), array(xs[1])
        height, width = self.pool.size
        taps = np.arange(height * width).reshape(height, width, 1)
        hit = at[:, :, None, None] == taps
        cols = hit * dy.mantissa[:, :, None, None].astype(np.int64)
        return normalise(self.pool.window.scatter(cols, self.shape), dy.exponent, self.bits)

    def gain(self) -> int:
        """Return how many places of the kernel a pixel is part of, at most."""
        shape = (*self.pool.window.seen(self.shape, self.pool.size).shape, *self.pool.size, 1)
        return int(self.pool.window.scatter(np.ones(shape, np.int64), (*self.shape[:2], 1)).max())

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        window = self.pool.window.params(self.shape, self.pool.size, node.inputs[0].type.shape)
        params = MaxPoolGradParams(window, node.inputs[1].type.dtype.nbytes, self.bits)
        return Kernel("kg_max_pool_grad", node.inputs, params)
