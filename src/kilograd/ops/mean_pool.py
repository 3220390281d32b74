"""Means of the pixels that a sliding kernel sees, in any scale, and the way back."""

from __future__ import annotations

import enum
import functools
import math
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
from kilograd.ir.params import INT32_MAX, Bits, Code, Multiplier, Shift
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
from kilograd.ops.elementwise import ClipGrad, ClipMask
from kilograd.ops.window import Window, WindowParams
from kilograd.quant import Rounding, fixed_point, normalise, requantise_tflite, tflite_multiplier

_BELOW_POINT = 16  # bits taken off a product with a share, so that sums of them fit int32

Pair = tuple[int, int]
"""Down and across, or the least and the largest."""


class MeanRule(enum.IntEnum):
    """What becomes of a sum of codes: kg_mean_rule in kg.h."""

    NEAREST = 0
    AWAY = 1
    TWICE = 2


@dataclass(frozen=True, eq=False)
class AveragingParams(Params):
    """What turns a sum of n codes into a code from lowest to highest.  rule, a kg_mean_rule:
    KG_MEAN_NEAREST: less n * x_zero, times multiplier, over n * 2^shift, rounded half to even;
    KG_MEAN_AWAY: over n, rounded half away from zero; the scale stays;
    KG_MEAN_TWICE: less n * x_zero, times multiplier, over 2^shift, rounded as TFLite does; the
    multiplier is of one n.
    """

    rule: Annotated[int, Range("int32_t", 0, 2)]
    x_zero: Code
    y_zero: Code
    multiplier: Multiplier
    shift: Shift
    lowest: Code
    highest: Code
    struct = "kg_averaging"
    ordered = (("lowest", "highest"),)

    def codes(self, total: Array, n: Array) -> Array:
        """Return the codes of sums of `n` codes each."""
        centred = total - n * self.x_zero
        match self.rule:
            case MeanRule.AWAY:
                y = np.sign(total) * ((np.abs(total) + n // 2) // n)
            case MeanRule.TWICE:
                y = requantise_tflite(centred, self.multiplier, self.shift) + self.y_zero
            case _:
                y = _half_to_even(centred * self.multiplier, n, self.shift) + self.y_zero
        return np.clip(y, self.lowest, self.highest).astype(np.int8)


def _half_to_even(x: Array, n: Array, shift: int) -> Array:
    """Return x / (n * 2**shift)."""
    quotient, rest = np.divmod(x, n)
    y = quotient >> shift
    part, half = quotient - (y << shift), 1 << (shift - 1)
    return y + ((part > half) | ((part == half) & ((rest > 0) | (y % 2 == 1))))


@dataclass(frozen=True, eq=False)
class MeanPoolParams(Params):
    """The mean of what each place of a kernel sees; padding does not count."""

    window: WindowParams
    averaging: AveragingParams
    products = ((257, "window.kernel_h", "window.kernel_w"),)


@dataclass(frozen=True, eq=False)
class MeanPoolGradParams(Params):
    """The gradient of x; `window` is of the forward pass: "in" is dx, "out" is dy.  A place that
    sees n pixels gives each of them 2^exponent / n.
    """

    window: WindowParams
    exponent: Annotated[int, Range("int32_t", 0, 30)]
    bits: Bits


def _sums(x: Array, size: Pair, window: Window) -> Array:
    return window.patches(x.astype(np.int64), *size).sum(axis=(2, 3))


@dataclass(frozen=True, repr=False)
class MeanPool(Clamping):
    """Mean of the pixels that each place of a kernel of `size` sees, in the scale and zero point
    `out`; padding is none.

    Rounded half to even, zero points apart; or, if the scale stays, as TFLite's AVERAGE_POOL_2D:
    half away from zero, zero points included.
    """

    size: Pair
    window: Window
    out: Affine

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        require(len(x.shape) == 3 and x.dtype is DType.I8, f"{x} must be an int8 map")
        require(
            self.rounding is Rounding.NEAREST or self.out == x.quant,
            f"a pool of TFLite keeps the scale of {x}",
        )
        self.require_limits()
        seen = self.window.seen(x.shape, self.size)
        return TensorType((*seen.shape, x.shape[2]), DType.I8, self.out)

    def _averaging(self, x: Affine) -> AveragingParams:
        exact = self.rounding is Rounding.NEAREST
        rule = MeanRule.NEAREST if exact else MeanRule.AWAY
        factor = fixed_point(x.scale[0] / self.out.scale[0])
        return AveragingParams(rule, x.zero_point, self.out.zero_point, *factor, *self.limits)

    def reference(self, node: Node, *xs: Value) -> Value:
        x = array(xs[0])
        n = self.window.seen(x.shape, self.size)[:, :, None]
        averaging = self._averaging(node.inputs[0].type.affine)
        return averaging.codes(_sums(x, self.size, self.window), n)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        dm = b(ClipGrad(), dy, b(ClipMask(self.limits), node))
        return (b(MeanPoolGrad(self.size, self.window, node.inputs[0].type.shape), dm),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        window = self.window.params(x.type.shape, self.size, node.type.shape)
        params = MeanPoolParams(window, self._averaging(x.type.affine))
        return Kernel("kg_mean_pool", (x,), params)


@dataclass(frozen=True)
class Mean(Op):
    """Mean over the whole of some `axes` of a map, 0 down and 1 across, in the scale and zero point
    `out`.

    Rounded half to even, zero points apart; or as TFLite's MEAN, which folds the number of pixels
    into the multiplier.
    """

    out: Affine
    rounding: Rounding = Rounding.NEAREST
    axes: tuple[int, ...] = (0, 1)

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        require(len(x.shape) == 3 and x.dtype is DType.I8, f"{x} must be an int8 map")
        require(self.axes in {(0,), (1,), (0, 1)}, f"a mean over axes {self.axes} of a map")
        shape = (*(1 if a in self.axes else x.shape[a] for a in (0, 1)), x.shape[2])
        return TensorType(shape, DType.I8, self.out)

    def _size(self, x: TensorType) -> Pair:
        height, width = (x.shape[a] if a in self.axes else 1 for a in (0, 1))
        return height, width

    def _averaging(self, x: TensorType) -> AveragingParams:
        ratio = x.affine.scale[0] / self.out.scale[0]
        rule, factor = MeanRule.NEAREST, fixed_point(ratio)
        if self.rounding is Rounding.TFLITE:
            rule, factor = MeanRule.TWICE, _folded(ratio, math.prod(self._size(x)))
        zeros = x.affine.zero_point, self.out.zero_point
        return AveragingParams(rule, *zeros, *factor, *INT8)

    def reference(self, node: Node, *xs: Value) -> Value:
        total = array(xs[0]).astype(np.int64).sum(axis=self.axes, keepdims=True)
        x = node.inputs[0].type
        return self._averaging(x).codes(total, np.array(math.prod(self._size(x))))

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        x = node.inputs[0].type
        dm = b(ClipGrad(), dy, b(ClipMask(), node))
        return (b(MeanPoolGrad(self._size(x), Window(), x.shape), dm),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        window = Window().params(x.type.shape, self._size(x.type), node.type.shape)
        return Kernel("kg_mean_pool", (x,), MeanPoolParams(window, self._averaging(x.type)))


def _folded(ratio: float, n: int) -> tuple[int, int]:
    """Return multiplier and shift of ratio / n as TFLite's MEAN makes them: cut off."""
    multiplier, shift = tflite_multiplier(ratio)
    bits = min(n.bit_length() - 1, 32, 62 - shift)
    return (multiplier << bits) // n, shift + bits


@dataclass(frozen=True)
class _Shares:
    """What pixels of a map [h, w, c] have of each place of a kernel that sees n of them: 1 / n.

    As integers they are 2**(31 + exponent) / n: the larger the finer, as long as sums of products
    with mantissas of 15 bits fit int32.
    """

    size: Pair
    window: Window
    shape: tuple[int, ...]
    exponent: int

    def over(self) -> Array:
        """Return the integers: [oh, ow, 1, 1, 1]."""
        seen = self.window.seen(self.shape, self.size)
        return ((INT32_MAX << self.exponent) // seen)[:, :, None, None, None]

    def spread(self, cols: Array) -> Array:
        """Add what places [oh, ow, 1, 1, c] give to each pixel that they see: [h, w, c]."""
        oh, ow, _, _, c = cols.shape
        cols = np.broadcast_to(cols, (oh, ow, *self.size, c))
        return self.window.scatter(cols, (*self.shape[:2], c))

    @functools.cached_property
    def gain(self) -> int:
        """The largest sum of what a pixel has of all places, over 2**16."""
        return int(self.spread((self.over() >> _BELOW_POINT) + 1).max())


@functools.lru_cache(maxsize=256)
def _shares(size: Pair, window: Window, shape: tuple[int, ...]) -> _Shares:
    fewest = int(window.seen(shape, size).min())
    for exponent in reversed(range(fewest.bit_length())):
        shares = _Shares(size, window, shape, exponent)
        if shares.gain << 15 <= INT32_MAX:
            break
    return shares


@dataclass(frozen=True)
class MeanPoolGrad(Normalising):
    """dX of a mean, of shape `shape`: each pixel has a share in every place that sees it."""

    size: Pair
    window: Window
    shape: tuple[int, ...]

    def infer(self, *xs: TensorType) -> TensorType:
        (dy,) = xs
        size = self.window.seen(self.shape, self.size).shape
        require(
            dy.shape == (*size, self.shape[2]), f"dy {dy} does not give a gradient of {self.shape}"
        )
        return TensorType(self.shape, DType.I16, BlockExponent(self.bits))

    def reference(self, node: Node, *xs: Value) -> Value:
        dy = block(xs[0])
        shares = _shares(self.size, self.window, self.shape)
        mantissa = dy.mantissa[:, :, None, None].astype(np.int64)
        given = (mantissa * shares.over()) >> _BELOW_POINT
        exponent = dy.exponent + _BELOW_POINT - 31 - shares.exponent
        return normalise(shares.spread(given), exponent, self.bits)

    def gain(self) -> int:
        """Return how much larger than a mantissa of dy a sum can be."""
        return _shares(self.size, self.window, self.shape).gain

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        window = self.window.params(self.shape, self.size, node.inputs[0].type.shape)
        exponent = _shares(self.size, self.window, self.shape).exponent
        params = MeanPoolGradParams(window, exponent, self.bits)
        return Kernel("kg_mean_pool_grad", node.inputs, params)
