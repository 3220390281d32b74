"""Depthwise convolution: one filter a channel, weights [kh, kw, c]."""

from __future__ import annotations

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
from kilograd.ir.params import Bits, Code
from kilograd.ops._common import Clamping, Normalising, array, block, no_vjp, require
from kilograd.ops.conv import (
    LimitsParams,
    ScalingParams,
    check_weights,
    clipped,
    layer_gradients,
    limits_params,
    scaling_params,
)
from kilograd.ops.shape import OverlayParams, overlay_params, weight_args
from kilograd.ops.window import Window, WindowParams
from kilograd.quant import normalise

#: Channels a kernel works on at once; their filters are gathered into scratch memory first.
CHANNELS = 16
_MORE_COLUMNS = 15


@dataclass(frozen=True, eq=False)
class DepthwiseParams(Params):
    """A depthwise convolution: int8 to int8."""

    window: WindowParams
    overlay: OverlayParams
    x_zero: Code
    y_zero: Code
    scaling: ScalingParams


@dataclass(frozen=True, eq=False)
class DepthwiseLimitedParams(Params):
    """A depthwise convolution with limits, and perhaps another rounding."""

    layer: DepthwiseParams
    limits: LimitsParams


@dataclass(frozen=True, eq=False)
class DepthwiseInputGradParams(Params):
    """The gradient of x; `window` is of the forward convolution: "in" is dx, "out" is dy."""

    window: WindowParams
    overlay: OverlayParams
    bits: Bits


@dataclass(frozen=True, eq=False)
class DepthwiseWeightGradParams(Params):
    """The gradient of w."""

    window: WindowParams
    x_zero: Code


def _forward_scratch(kernel: tuple[int, ...], width: int, stride: int) -> int:
    """CHANNELS filters; or a quarter of them and some columns of the map as pairs of int16."""
    rows, columns = kernel
    most = columns + min(_MORE_COLUMNS, (width - 1) * stride)
    return max(rows * columns * CHANNELS, 16 * -(-rows // 2) * (columns + most))


def _backward_scratch(kernel: tuple[int, ...], window: Window, width: int, out_width: int) -> int:
    """As many rows of dy as a filter has, with padding, and filters: eight channels at a time; or
    four, and some columns as pairs of int16.  Where the padding on the right is wider than a
    filter, dy has columns that no kernel with padding keeps.
    """
    rows, columns = kernel
    across = window.stride[1]
    left = max(0, -(-(columns - 1 - window.pad[2]) // across))
    padded = left + (width - 1 + window.pad[2]) // across + 1
    most = columns + min(_MORE_COLUMNS, width - 1)
    return max(
        8 * rows * (2 * max(padded, out_width) + columns),
        8 * rows * out_width + 16 * -(-rows // 2) * (columns + most),
    )


@dataclass(frozen=True, repr=False)
class Depthwise(Clamping):
    """int8 x int8 -> int32 -> int8, each channel by itself."""

    window: Window
    out: Affine
    parts = (2,)

    def infer(self, *xs: TensorType) -> TensorType:
        x, w, b = xs
        require(
            len(x.shape) == 3 and len(w.shape) == 3, f"x {x} and w {w} must be maps and filters"
        )
        require(x.shape[2] == w.shape[2], f"x {x} does not fit w {w}")
        check_weights(x, w, b, w.shape[2])
        self.require_limits()
        size = self.window.output(*x.shape[:2], *w.shape[:2])
        return TensorType((*size, w.shape[2]), DType.I8, self.out)

    def reference(self, node: Node, *xs: Value) -> Value:
        x, w, b = map(array, xs)
        centred = x.astype(np.int64) - node.inputs[0].type.affine.zero_point
        cols = self.window.patches(centred, *w.shape[:2])
        return clipped((cols * w).sum(axis=(2, 3)) + b, node, self)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        x, w, _ = node.inputs
        grads = (
            DepthwiseInputGrad(self.window, x.type.shape),
            DepthwiseWeightGrad(self.window, w.type.shape),
        )
        return layer_gradients(b, node, dy, self, grads)

    def macs(self, node: Node) -> int:
        return node.type.size * node.inputs[1].type.size // node.type.shape[2]

    def kernel(self, node: Node) -> Kernel:
        x, w, b = node.inputs
        shape = w.type.shape
        params = DepthwiseParams(
            self.window.params(x.type.shape, shape[:2], node.type.shape),
            overlay_params(w),
            x.type.affine.zero_point,
            self.out.zero_point,
            scaling_params(x.type.affine, w.type.affine, self.out, self.rounding),
        )
        scratch = _forward_scratch(shape[:2], node.type.shape[1], self.window.stride[1])
        args = (x, *weight_args(w), b)
        if self.usual:
            return Kernel("kg_depthwise", args, params, scratch=scratch)
        limited = DepthwiseLimitedParams(params, limits_params(node, self))
        return Kernel("kg_depthwise_limited", args, limited, scratch=scratch)


@dataclass(frozen=True)
class DepthwiseInputGrad(Normalising):
    """dX of a depthwise convolution: (dy scaled by the weight scales, w).

    Without a stride it may take the place of dy: a row of dx needs no row of dy that lies more
    than the filter above it, and kernels keep copies of those.
    """

    window: Window
    shape: tuple[int, ...]

    @property
    def overwrites(self) -> tuple[int, ...]:  # type: ignore[override]
        """The gradient dy."""
        return (0,) if self.window.stride == (1, 1) else ()

    def infer(self, *xs: TensorType) -> TensorType:
        dy, w = xs
        require(len(w.shape) == 3, f"w {w} must be filters")
        size = self.window.output(*self.shape[:2], *w.shape[:2])
        require(
            dy.shape == (*size, w.shape[2]) and self.shape[2] == w.shape[2],
            f"dy {dy} and w {w} do not give a gradient of {self.shape}",
        )
        return TensorType(self.shape, DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy, w = block(xs[0]), array(xs[1])
        cols = dy.mantissa[:, :, None, None, :].astype(np.int64) * w
        return normalise(self.window.scatter(cols, self.shape), dy.exponent, self.bits)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        dy, w = node.inputs
        return dy.type.size * w.type.size // w.type.shape[2]

    def kernel(self, node: Node) -> Kernel:
        dy, w = node.inputs
        shape = w.type.shape
        return Kernel(
            "kg_depthwise_input_grad",
            (dy, *weight_args(w)),
            DepthwiseInputGradParams(
                self.window.params(self.shape, shape[:2], dy.type.shape),
                overlay_params(w),
                self.bits,
            ),
            scratch=_backward_scratch(shape[:2], self.window, self.shape[1], dy.type.shape[1]),
        )


@dataclass(frozen=True)
class DepthwiseWeightGrad(Op):
    """dW of a depthwise convolution: (x, dy) -> int32 sums of shape `shape`."""

    window: Window
    shape: tuple[int, ...]
    update_symbol = "kg_depthwise_weight_update"

    def infer(self, *xs: TensorType) -> TensorType:
        x, dy = xs
        size = self.window.output(*x.shape[:2], *self.shape[:2])
        require(
            dy.shape == (*size, self.shape[2]) and x.shape[2] == self.shape[2],
            f"x {x} and dy {dy} do not give a gradient of {self.shape}",
        )
        return TensorType(self.shape, DType.I32, BlockExponent(31, x.affine.scale[0]))

    def reference(self, node: Node, *xs: Value) -> Value:
        x, dy = array(xs[0]), block(xs[1])
        centred = x.astype(np.int64) - node.inputs[0].type.affine.zero_point
        cols = self.window.patches(centred, *self.shape[:2])
        acc = (cols * dy.mantissa[:, :, None, None, :].astype(np.int64)).sum(axis=(0, 1))
        return Block(acc.astype(np.int32), dy.exponent)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        dy = node.inputs[1]
        return dy.type.size * node.type.size // node.type.shape[2]

    def kernel(self, node: Node) -> Kernel:
        x, dy = node.inputs
        window = self.window.params(x.type.shape, self.shape[:2], dy.type.shape)
        params = DepthwiseWeightGradParams(window, x.type.affine.zero_point)
        return Kernel("kg_depthwise_weight_grad", (x, dy), params)
