"""Convolution in groups: each filter reads the channels of its group, weights [out, kh, kw, in].

A depthwise convolution whose channels have several filters each is one with as many groups as
channels.  Gradients as in `conv.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    TensorType,
    Value,
)
from kilograd.ir.params import Index, Size
from kilograd.memory import aligned
from kilograd.ops._common import (
    Clamping,
    Normalising,
    array,
    block,
    exact_matmul,
    no_vjp,
    require,
)
from kilograd.ops.conv import (
    ConvInputGradParams,
    ConvParams,
    ConvWeightGradParams,
    LimitsParams,
    backward_scratch,
    check_weights,
    clipped,
    forward_scratch,
    layer_gradients,
    limits_params,
    scaling_params,
)
from kilograd.ops.shape import OverlayParams, overlay_params, weight_args
from kilograd.ops.window import Window, WindowParams
from kilograd.quant import normalise


@dataclass(frozen=True, eq=False)
class GroupedConvParams(Params):
    """A convolution in groups: `conv` is of one group, but for its scaling, which is of all."""

    conv: ConvParams
    overlay: OverlayParams
    groups: Size
    products = (
        ("groups", "conv.window.in_h", "conv.window.in_w", "conv.window.in_c"),
        ("groups", "conv.window.out_h", "conv.window.out_w", "conv.window.out_c"),
    )


@dataclass(frozen=True, eq=False)
class GroupedConvLimitedParams(Params):
    """A convolution in groups with limits, and perhaps another rounding."""

    layer: GroupedConvParams
    limits: LimitsParams


@dataclass(frozen=True, eq=False)
class GroupedInputGradParams(Params):
    """The gradient of x: `conv` is of one group."""

    conv: ConvInputGradParams
    overlay: OverlayParams
    groups: Size
    products = GroupedConvParams.products


@dataclass(frozen=True, eq=False)
class GroupedWeightParams(Params):
    """Filters of groups: `conv` is of one.  Filter o reads from channel reads[o] on."""

    conv: ConvWeightGradParams
    in_c: Size
    out_c: Size
    reads: Index
    products = (
        ("in_c", "conv.window.in_h", "conv.window.in_w"),
        ("out_c", "conv.window.out_h", "conv.window.out_w"),
        (4, "out_c", "conv.window.kernel_h", "conv.window.kernel_w", "conv.window.in_c"),
    )
    ordered = (("conv.window.in_c", "in_c"),)
    struct = "kg_grouped_weight"


@dataclass(frozen=True, eq=False)
class GroupedWeightGradParams(Params):
    """The gradient of w."""

    grad: GroupedWeightParams


@dataclass(frozen=True, repr=False)
class GroupedConv(Clamping):
    """int8 x int8 -> int32 -> int8 in `groups`: of 8 inputs and 12 outputs in 4 groups, outputs
    0, 1 and 2 read inputs 0 and 1, and so on.
    """

    window: Window
    out: Affine
    groups: int
    parts = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        x, w, b = xs
        require(
            len(x.shape) == 3 and len(w.shape) == 4, f"x {x} and w {w} must be maps and filters"
        )
        require(
            self.groups > 0
            and x.shape[2] == w.shape[3] * self.groups
            and w.shape[0] % self.groups == 0,
            f"x {x} does not fit w {w} in {self.groups} groups",
        )
        check_weights(x, w, b, w.shape[0])
        self.require_limits()
        size = self.window.output(*x.shape[:2], *w.shape[1:3])
        return TensorType((*size, w.shape[0]), DType.I8, self.out)

    def reference(self, node: Node, *xs: Value) -> Value:
        x, w, b = map(array, xs)
        centred = x.astype(np.int32) - node.inputs[0].type.affine.zero_point
        parts = [
            exact_matmul(cols.reshape(*cols.shape[:2], -1), filters.reshape(len(filters), -1).T)
            for cols, filters in zip(
                np.split(self.window.patches(centred, *w.shape[1:3]), self.groups, axis=-1),
                np.split(w, self.groups),
                strict=True,
            )
        ]
        return clipped(np.concatenate(parts, axis=-1) + b, node, self)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        x, w, _ = node.inputs
        out, *_, inputs = w.type.shape
        reads = tuple(o // (out // self.groups) * inputs for o in range(out))
        grads = (
            GroupedInputGrad(self.window, x.type.shape, self.groups),
            GroupedWeightGrad(self.window, w.type.shape, reads),
        )
        return layer_gradients(b, node, dy, self, grads)

    def macs(self, node: Node) -> int:
        return node.type.size * node.inputs[1].type.size // node.type.shape[2]

    def kernel(self, node: Node) -> Kernel:
        x, w, b = node.inputs
        one = _of_one(w.type.shape, self.groups)
        conv = ConvParams(
            _window_of_one(self.window, x.type.shape, one, node.type.shape),
            OverlayParams(),
            x.type.affine.zero_point,
            self.out.zero_point,
            scaling_params(x.type.affine, w.type.affine, self.out, self.rounding),
        )
        maps = (x.type.shape[1] * one[1] * one[3], node.type.shape[1] * one[0])
        # the filters of a group, the rows that they see, and the row that they make
        scratch = sum(map(aligned, (math.prod(one), *maps))) + forward_scratch(one)
        args, params = (
            (x, *weight_args(w), b),
            GroupedConvParams(conv, overlay_params(w), self.groups),
        )
        if self.usual:
            return Kernel("kg_grouped_conv", args, params, scratch=scratch)
        limited = GroupedConvLimitedParams(params, limits_params(node, self))
        return Kernel("kg_grouped_conv_limited", args, limited, scratch=scratch)


def _of_one(w: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """Return the shape of the filters of one group."""
    return (w[0] // groups, *w[1:])


def _window_of_one(
    window: Window, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...]
) -> WindowParams:
    """Return the geometry of one group, whose filters have the shape w."""
    return window.params((*x[:2], w[3]), w[1:3], (*y[:2], w[0]))


@dataclass(frozen=True)
class GroupedInputGrad(Normalising):
    """dX of a convolution in groups: (dy scaled by the weight scales, w)."""

    window: Window
    shape: tuple[int, ...]
    groups: int

    def infer(self, *xs: TensorType) -> TensorType:
        dy, w = xs
        require(len(w.shape) == 4, f"w {w} must be filters")
        size = self.window.output(*self.shape[:2], *w.shape[1:3])
        require(
            dy.shape == (*size, w.shape[0]) and self.shape[2] == w.shape[3] * self.groups,
            f"dy {dy} and w {w} do not give a gradient of {self.shape} in {self.groups} groups",
        )
        return TensorType(self.shape, DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy, w = block(xs[0]), array(xs[1])
        parts = [
            exact_matmul(pixels, filters.reshape(len(filters), -1)).reshape(
                *pixels.shape[:2], *w.shape[1:]
            )
            for pixels, filters in zip(
                np.split(dy.mantissa, self.groups, axis=-1), np.split(w, self.groups), strict=True
            )
        ]
        sums = self.window.scatter(np.concatenate(parts, axis=-1), self.shape)
        return normalise(sums, dy.exponent, self.bits)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        dy, w = node.inputs
        return dy.type.size * w.type.size // w.type.shape[0]

    def kernel(self, node: Node) -> Kernel:
        dy, w = node.inputs
        one = _of_one(w.type.shape, self.groups)
        window = _window_of_one(self.window, self.shape, one, dy.type.shape)
        conv = ConvInputGradParams(window, OverlayParams(), self.bits)
        blocks = [4 + t.size // self.groups * 2 for t in (node.type, dy.type)]
        return Kernel(
            "kg_grouped_input_grad",
            (dy, *weight_args(w)),
            GroupedInputGradParams(conv, overlay_params(w), self.groups),
            # the filters and the gradients of a group
            scratch=sum(map(aligned, (math.prod(one), *blocks))) + backward_scratch(one),
        )


@dataclass(frozen=True)
class GroupedWeightGrad(Op):
    """dW of a convolution in groups: (x, dy) -> int32 sums of shape `shape`.

    Filter o reads shape[3] channels from `reads[o]` on.
    """

    window: Window
    shape: tuple[int, ...]
    reads: tuple[int, ...]
    update_symbol = "kg_grouped_weight_update"

    def infer(self, *xs: TensorType) -> TensorType:
        x, dy = xs
        size = self.window.output(*x.shape[:2], *self.shape[1:3])
        require(
            dy.shape == (*size, self.shape[0])
            and len(self.reads) == self.shape[0]
            and len(x.shape) == 3
            and x.shape[2] >= max(self.reads) + self.shape[3],
            f"x {x} and dy {dy} do not give a gradient of {self.shape}",
        )
        return TensorType(self.shape, DType.I32, BlockExponent(31, x.affine.scale[0]))

    def reference(self, node: Node, *xs: Value) -> Value:
        x, dy = array(xs[0]), block(xs[1])
        centred = x.astype(np.int32) - node.inputs[0].type.affine.zero_point
        cols = self.window.patches(centred, *self.shape[1:3])
        rows = [
            np.tensordot(
                dy.mantissa[:, :, o].astype(np.int64), cols[..., first : first + self.shape[3]], 2
            )
            for o, first in enumerate(self.reads)
        ]
        return Block(np.array(rows, np.int32), dy.exponent)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        dy = node.inputs[1]
        return dy.type.size * node.type.size // node.type.shape[0]

    def kernel(self, node: Node) -> Kernel:
        x, dy = node.inputs
        one = (1, *self.shape[1:])
        window = _window_of_one(self.window, x.type.shape, one, dy.type.shape)
        params = GroupedWeightParams(
            ConvWeightGradParams(window, x.type.affine.zero_point),
            x.type.shape[2],
            self.shape[0],
            np.array(self.reads, np.int16),
        )
        pixels = math.prod(x.type.shape[:2]), math.prod(dy.type.shape[:2])
        # what a filter reads, its gradient, and its row
        parts = (pixels[0] * one[3], 4 + 2 * pixels[1], 4 + 4 * math.prod(one))
        scratch = sum(map(aligned, parts))
        return Kernel("kg_grouped_weight_grad", (x, dy), GroupedWeightGradParams(params), scratch)

    def __str__(self) -> str:
        return f"GroupedWeightGrad(window={self.window}, shape={self.shape})"
