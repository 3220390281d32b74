"""Convolution of maps [h, w, c] with weights [out, kh, kw, in]; 1x1 and fully connected too.

Gradients are with respect to the reals that the integers stand for, so no activation scale
appears in them: dX needs the weight scales (`ScaleChannels` applies them before), dW carries
the scale of x in its type.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from kilograd.ir import (
    Affine,
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
from kilograd.ir.params import INT32_MAX, Bits, Code, Fractions, Shift
from kilograd.ops._common import (
    Clamping,
    Normalising,
    array,
    block,
    exact_matmul,
    no_vjp,
    require,
)
from kilograd.ops.elementwise import ClipGrad, ClipMask, ScaleChannels
from kilograd.ops.pool import SumPixels
from kilograd.ops.shape import OverlayParams, overlay_params, weight_args
from kilograd.ops.window import Window, WindowParams
from kilograd.quant import (
    Rounding,
    fixed_point,
    fractions,
    normalise,
    requantise,
    requantise_tflite,
    tflite_multiplier,
)

#: Filters or input channels that a kernel works on at once; portable ones take half as many.
LANES = 8
_NONE = (1 << 30, 62)  # ratio and shift, where multipliers stand in place of scales
_PIXELS = 4


@dataclass(frozen=True, eq=False)
class ScalingParams(Params):
    """What turns the sums of channel c into codes: times scale[c] * ratio, over 2^shift.  scale[c]
    is the scale of the weights, as a fraction.  Brought to 31 bits, the factors leave shifts from
    lowest to highest (kg_factor_of).
    """

    scale: Fractions
    ratio: Annotated[int, Range("int32_t", 1 << 30, INT32_MAX)]
    shift: Annotated[int, Range("int32_t", 1, 93)]  # at most 31 are taken off
    lowest: Shift
    highest: Shift
    struct = "kg_scaling"
    ordered = (("lowest", "highest"), ("highest", "shift"))


@dataclass(frozen=True, eq=False)
class ConvParams(Params):
    """A convolution: int8 to int8."""

    window: WindowParams
    overlay: OverlayParams
    x_zero: Code
    y_zero: Code
    scaling: ScalingParams
    products = (("window.out_c", "window.kernel_h", "window.kernel_w", "window.in_c"),)


@dataclass(frozen=True, eq=False)
class LimitsParams(Params):
    """Codes are clamped to lowest .. highest.  shift: null where sums are rounded to the nearest.
    Where they are rounded as TensorFlow Lite does, each channel has its own shift, and its
    multiplier in place of a scale: kg_tflite_factor_of.
    """

    lowest: Code
    highest: Code
    shift: Annotated[Array | None, Range("int8_t", 1, 62)]
    struct = "kg_limits"
    ordered = (("lowest", "highest"),)


@dataclass(frozen=True, eq=False)
class ConvLimitedParams(Params):
    """A convolution with limits, and perhaps another rounding."""

    layer: ConvParams
    limits: LimitsParams


@dataclass(frozen=True, eq=False)
class ConvInputGradParams(Params):
    """The gradient of x; `window` is of the forward convolution: "in" is dx, "out" is dy."""

    window: WindowParams
    overlay: OverlayParams
    bits: Bits
    products = ConvParams.products


@dataclass(frozen=True, eq=False)
class ConvWeightGradParams(Params):
    """The gradient of w."""

    window: WindowParams
    x_zero: Code
    products = ((4, "window.out_c", "window.kernel_h", "window.kernel_w", "window.in_c"),)


def forward_scratch(w: tuple[int, ...]) -> int:
    """LANES filters in whole words, and what a few pixels see; or six filters in int16."""
    return 4 * -(-math.prod(w[1:]) // 4) * (LANES + _PIXELS)


def backward_scratch(w: tuple[int, ...]) -> int:
    """LANES columns, transposed, for an even number of outputs."""
    out, height, width, _ = w
    return LANES * (out + out % 2) * height * width


@functools.lru_cache(maxsize=1024)
def scaling(x: Affine, w: Affine, y: Affine) -> tuple[Array, int, int]:
    """Return fractions of the weight scales, and x.scale / y.scale as ratio and shift for them."""
    table, exponent = fractions(w.scale)
    ratio, shift = fixed_point(math.ldexp(x.scale[0] / y.scale[0], exponent - 31))
    return table, ratio, shift


def requantisation(x: Affine, w: Affine, y: Affine) -> tuple[Array, Array]:
    """Return multiplier and shift per output channel: x.scale * w.scale[c] / y.scale.

    The multiplier is that of fractions and ratio, cut off at 31 bits (`kg_factor_of`).
    """
    table, ratio, shift = scaling(x, w, y)
    products = [int(f) * ratio for f in table]
    extra = [p.bit_length() - 31 for p in products]
    multipliers = [p >> e for p, e in zip(products, extra, strict=True)]
    return np.array(multipliers, np.int32), shift - np.array(extra)


@functools.lru_cache(maxsize=1024)
def tflite_requantisation(x: Affine, w: Affine, y: Affine) -> tuple[Array, Array]:
    """Return multiplier and shift per output channel, each made by itself as TFLite makes them.

    What TFLite multiplies by 0, this multiplies by 2^-52, which makes 0 of every int32 as well.
    """
    factors = [tflite_multiplier(x.scale[0] * scale / y.scale[0]) for scale in w.scale]
    multipliers, shifts = zip(*(f if f[0] else (1, 52) for f in factors), strict=True)
    return np.array(multipliers, np.int32), np.array(shifts, np.int64)


def scaling_params(x: Affine, w: Affine, y: Affine, rounding: Rounding) -> ScalingParams:
    """Return the factors of a layer as its kernel takes them.

    For TFLite the multipliers stand in place of the scales, and have no ratio.
    """
    if rounding is Rounding.TFLITE:
        multipliers, shifts = tflite_requantisation(x, w, y)
        return ScalingParams(multipliers, *_NONE, int(shifts.min()), int(shifts.max()))
    _, shifts = requantisation(x, w, y)
    return ScalingParams(*scaling(x, w, y), int(shifts.min()), int(shifts.max()))


def limits_params(node: Node, op: Clamping) -> LimitsParams:
    """Return how the codes of a layer are clamped, and its sums rounded."""
    shifts = None
    if op.rounding is Rounding.TFLITE:
        x, w = (n.type.affine for n in node.inputs[:2])
        shifts = tflite_requantisation(x, w, node.type.affine)[1].astype(np.int8)
    return LimitsParams(*op.limits, shifts)


def check_weights(x: TensorType, w: TensorType, b: TensorType, channels: int) -> None:
    """Raise `ShapeError` unless int8 x and w, per-channel scales and int32 b fit together."""
    require(x.dtype is DType.I8 and w.dtype is DType.I8, f"x {x} and w {w} must be int8")
    require(x.affine.axis is None, f"x {x} must have one scale")
    require(len(w.affine.scale) == channels, f"w {w} needs a scale for each of {channels} channels")
    require(b.dtype is DType.I32 and b.shape == (channels,), f"b {b} must be i32[{channels}]")


def clipped(acc: Array, node: Node, op: Clamping) -> Array:
    """Requantise the accumulators of a layer to the int8 codes of its output."""
    x, w = node.inputs[0].type.affine, node.inputs[1].type.affine
    y = node.type.affine
    sums = acc.astype(np.int32)  # wraps around, if a damaged bias makes it so
    if op.rounding is Rounding.TFLITE:
        codes = requantise_tflite(sums, *tflite_requantisation(x, w, y))
    else:
        codes = requantise(sums, *requantisation(x, w, y))
    return op.clamped(codes + y.zero_point)


def layer_gradients(
    b: Builder, node: Node, dy: Node, op: Clamping, grads: tuple[Op, Op]
) -> tuple[Node | None, ...]:
    """Emit what all int8 layers share: clip mask, weight scales, dX, dW, db.

    `grads`: the ops of dX and dW.
    """
    x, w, _ = node.inputs
    input_grad, weight_grad = grads
    dm = b(ClipGrad(), dy, b(ClipMask(op.limits), node))
    dx = b(input_grad, b(ScaleChannels(w.type.affine.scale), dm), w)
    return dx, b(weight_grad, x, dm), b(SumPixels(), dm)


@dataclass(frozen=True, repr=False)
class Conv(Clamping):
    """int8 x int8 -> int32 -> int8; the clamp is the activation."""

    window: Window
    out: Affine
    parts = (0, 3)  # axes of the weights of which parts can learn: output channels first

    def infer(self, *xs: TensorType) -> TensorType:
        x, w, b = xs
        require(
            len(x.shape) == 3 and len(w.shape) == 4, f"x {x} and w {w} must be maps and filters"
        )
        require(x.shape[2] == w.shape[3], f"x {x} does not fit w {w}")
        check_weights(x, w, b, w.shape[0])
        self.require_limits()
        size = self.window.output(*x.shape[:2], *w.shape[1:3])
        return TensorType((*size, w.shape[0]), DType.I8, self.out)

    def reference(self, node: Node, *xs: Value) -> Value:
        x, w, b = map(array, xs)
        centred = x.astype(np.int32) - node.inputs[0].type.affine.zero_point
        cols = self.window.patches(centred, *w.shape[1:3])
        acc = exact_matmul(cols.reshape(*cols.shape[:2], -1), w.reshape(w.shape[0], -1).T) + b
        return clipped(acc, node, self)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        x, w, _ = node.inputs
        grads = (
            ConvInputGrad(self.window, x.type.shape),
            ConvWeightGrad(self.window, w.type.shape),
        )
        return layer_gradients(b, node, dy, self, grads)

    def macs(self, node: Node) -> int:
        return node.type.size * node.inputs[1].type.size // node.type.shape[2]

    def kernel(self, node: Node) -> Kernel:
        x, w, b = node.inputs
        shape = w.type.shape
        params = ConvParams(
            self.window.params(x.type.shape, shape[1:3], node.type.shape),
            overlay_params(w),
            x.type.affine.zero_point,
            self.out.zero_point,
            scaling_params(x.type.affine, w.type.affine, self.out, self.rounding),
        )
        args, scratch = (x, *weight_args(w), b), forward_scratch(shape)
        if self.usual:
            return Kernel("kg_conv", args, params, scratch=scratch)
        limited = ConvLimitedParams(params, limits_params(node, self))
        return Kernel("kg_conv_limited", args, limited, scratch=scratch)


@dataclass(frozen=True)
class ConvInputGrad(Normalising):
    """dX of a convolution: (dy scaled by the weight scales, w) -> gradient of shape `shape`."""

    window: Window
    shape: tuple[int, ...]

    def infer(self, *xs: TensorType) -> TensorType:
        dy, w = xs
        size = self.window.output(*self.shape[:2], *w.shape[1:3])
        require(
            dy.shape == (*size, w.shape[0]) and self.shape[2] == w.shape[3],
            f"dy {dy} and w {w} do not give a gradient of {self.shape}",
        )
        return TensorType(self.shape, DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy, w = block(xs[0]), array(xs[1])
        cols = exact_matmul(dy.mantissa, w.reshape(w.shape[0], -1))
        cols = cols.reshape(*dy.mantissa.shape[:2], *w.shape[1:])
        return normalise(self.window.scatter(cols, self.shape), dy.exponent, self.bits)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        dy, w = node.inputs
        return dy.type.size * w.type.size // w.type.shape[0]

    def kernel(self, node: Node) -> Kernel:
        dy, w = node.inputs
        shape = w.type.shape
        return Kernel(
            "kg_conv_input_grad",
            (dy, *weight_args(w)),
            ConvInputGradParams(
                self.window.params(self.shape, shape[1:3], dy.type.shape),
                overlay_params(w),
                self.bits,
            ),
            scratch=backward_scratch(shape),
        )


@dataclass(frozen=True)
class ConvWeightGrad(Op):
    """dW of a convolution: (x, dy) -> int32 sums of shape `shape`."""

    window: Window
    shape: tuple[int, ...]
    update_symbol = "kg_conv_weight_update"

    def infer(self, *xs: TensorType) -> TensorType:
        x, dy = xs
        size = self.window.output(*x.shape[:2], *self.shape[1:3])
        require(
            dy.shape == (*size, self.shape[0]) and x.shape[2] == self.shape[3],
            f"x {x} and dy {dy} do not give a gradient of {self.shape}",
        )
        return TensorType(self.shape, DType.I32, BlockExponent(31, x.affine.scale[0]))

    def reference(self, node: Node, *xs: Value) -> Value:
        x, dy = array(xs[0]), block(xs[1])
        centred = x.astype(np.int32) - node.inputs[0].type.affine.zero_point
        cols = self.window.patches(centred, *self.shape[1:3])
        pixels = dy.mantissa.reshape(-1, self.shape[0])
        acc = exact_matmul(pixels.T, cols.reshape(len(pixels), -1))
        return Block(acc.reshape(self.shape).astype(np.int32), dy.exponent)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        dy = node.inputs[1]
        return dy.type.size * node.type.size // node.type.shape[0]

    def kernel(self, node: Node) -> Kernel:
        x, dy = node.inputs
        window = self.window.params(x.type.shape, self.shape[1:3], dy.type.shape)
        params = ConvWeightGradParams(window, x.type.affine.zero_point)
        return Kernel("kg_conv_weight_grad", (x, dy), params)
