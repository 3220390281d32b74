"""Parts of tensors: what learns and what does not, what goes separate ways and joins again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
    require_range,
)
from kilograd.ir.params import Count, Header, Index
from kilograd.ops._common import array, no_macs, no_vjp, require


@dataclass(frozen=True, eq=False)
class TakeParams(Params):
    """Which slices of `outer` tensors, each `length` slices of `inner_bytes`, behind a header."""

    header: Header
    outer: Count
    length: Count
    inner_bytes: Count
    count: Count
    index: Index
    products = (("outer", "length", "inner_bytes"),)
    ordered = (("count", "length"),)


@dataclass(frozen=True, eq=False)
class TakeGradParams(TakeParams):
    """As for `kg_take`, the other way."""


@dataclass(frozen=True, eq=False)
class ConcatParams(Params):
    """Channels of two maps side by side."""

    pixels: Count
    a_channels: Count
    c_channels: Count
    products = (("pixels", "a_channels"), ("pixels", "c_channels"))


@dataclass(frozen=True, eq=False)
class CopyParams(Params):
    """A copy."""

    bytes: Count


@dataclass(frozen=True, eq=False)
class OverlayParams(Params):
    """Which slices of a weight tensor are found in `learned` instead: `index` increases along
    `axis`.  count = 0: none, `learned` is a null pointer.
    """

    index: Annotated[Array | None, Range("int16_t", 0, 32767)] = None
    axis: Annotated[int, Range("int32_t", 0, 3)] = 0
    count: Annotated[int, Range("int32_t", 0, 32767)] = 0
    struct = "kg_overlay"


def _check(axis: int, index: tuple[int, ...], x: TensorType) -> None:
    require(0 <= axis < len(x.shape), f"{x} has no axis {axis}")
    require(
        index and list(index) == sorted(set(index)) and 0 <= index[0] <= index[-1] < x.shape[axis],
        f"an index into axis {axis} of {x} must be increasing and within it",
    )


@dataclass(frozen=True)
class Take(Op):
    """The slices `index` along `axis`, copied."""

    axis: int
    index: tuple[int, ...]

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        _check(self.axis, self.index, x)
        shape = (*x.shape[: self.axis], len(self.index), *x.shape[self.axis + 1 :])
        quant = x.quant
        if isinstance(quant, Affine) and quant.axis == self.axis:
            quant = quant.take(self.index)
        return replace(x, shape=shape, quant=quant)

    def reference(self, node: Node, *xs: Value) -> Value:
        (x,) = xs
        if isinstance(x, Block):
            return Block(np.take(x.mantissa, self.index, self.axis), x.exponent)
        return np.take(x, self.index, self.axis)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return (b(TakeGrad(self.axis, self.index, node.inputs[0].type.shape[self.axis]), dy),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        return Kernel("kg_take", (x,), _slices(TakeParams, x.type, self.axis, self.index))


def _slices(
    record: type[TakeParams], whole: TensorType, axis: int, index: tuple[int, ...]
) -> TakeParams:
    """Return which slices of `whole` the index means."""
    shape = whole.shape
    return record(
        header=4 if isinstance(whole.quant, BlockExponent) else 0,
        outer=math.prod(shape[:axis]),
        length=shape[axis],
        inner_bytes=math.prod(shape[axis + 1 :]) * whole.dtype.nbytes,
        count=len(index),
        index=_table(index),
    )


def _table(index: tuple[int, ...]) -> Array:
    """Return an index as the table that it becomes."""
    require_range("index", index[-1], 0, 32767)
    return np.array(index, np.int16)


@dataclass(frozen=True)
class TakeGrad(Op):
    """dy as the slices `index` along `axis`, which is `length` long; zeros elsewhere."""

    axis: int
    index: tuple[int, ...]
    length: int

    def infer(self, *xs: TensorType) -> TensorType:
        (dy,) = xs
        require(
            self.axis < len(dy.shape) and dy.shape[self.axis] == len(self.index),
            f"{dy} has not {len(self.index)} slices along axis {self.axis}",
        )
        return replace(dy, shape=self._whole(dy.shape))

    def _whole(self, part: tuple[int, ...]) -> tuple[int, ...]:
        return (*part[: self.axis], self.length, *part[self.axis + 1 :])

    def reference(self, node: Node, *xs: Value) -> Value:
        (dy,) = xs
        if isinstance(dy, Block):
            return Block(self._spread(dy.mantissa), dy.exponent)
        return self._spread(dy)

    def _spread(self, part: Array) -> Array:
        out = np.zeros(self._whole(part.shape), part.dtype)
        out[(slice(None),) * self.axis + (list(self.index),)] = part
        return out

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        params = _slices(TakeGradParams, node.type, self.axis, self.index)
        return Kernel("kg_take_grad", node.inputs, params)


@dataclass(frozen=True)
class Concat(Op):
    """The channels of two int8 maps of one quantisation, those of `a` first."""

    def infer(self, *xs: TensorType) -> TensorType:
        a, c = xs
        require(
            len(a.shape) == len(c.shape) == 3
            and a.shape[:2] == c.shape[:2]
            and a.dtype is c.dtype is DType.I8
            and a.quant == c.quant,
            f"{a} and {c} are not two int8 maps of one size and one scale",
        )
        return replace(a, shape=(*a.shape[:2], a.shape[2] + c.shape[2]))

    def reference(self, node: Node, *xs: Value) -> Value:
        a, c = map(array, xs)
        return np.concatenate([a, c], axis=2)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        first, channels = node.inputs[0].type.shape[2], node.type.shape[2]
        return (
            b(Take(2, tuple(range(first))), dy),
            b(Take(2, tuple(range(first, channels))), dy),
        )

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        h, w, a_channels = node.inputs[0].type.shape
        c_channels = node.inputs[1].type.shape[2]
        return Kernel("kg_concat", node.inputs, ConcatParams(h * w, a_channels, c_channels))


@dataclass(frozen=True)
class Copy(Op):
    """A tensor as it is now: (x, after...).  It runs after the nodes it names."""

    def infer(self, *xs: TensorType) -> TensorType:
        return xs[0]

    def reference(self, node: Node, *xs: Value) -> Value:
        return xs[0]

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        return Kernel("kg_copy", node.inputs[:1], CopyParams(node.type.nbytes))


@dataclass(frozen=True)
class Overlay(Op):
    """Weights of which some learn: `frozen`, with `learned` in place of the slices `index`.

    A view: kernels fetch the rows they need from both, so the whole never exists in RAM.
    """

    axis: int
    index: tuple[int, ...]
    view = True

    def infer(self, *xs: TensorType) -> TensorType:
        frozen, learned = xs
        want = Take(self.axis, self.index).infer(frozen)
        require(learned == want, f"what learns of {frozen} must be {want}, not {learned}")
        return frozen

    def reference(self, node: Node, *xs: Value) -> Value:
        frozen, learned = map(array, xs)
        out = frozen.copy()
        out[(slice(None),) * self.axis + (list(self.index),)] = learned
        return out

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return None, b(Take(self.axis, self.index), dy)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        raise TypeError("a view is not called")


def weight_args(w: Node) -> tuple[Node, Node | None]:
    """Return the two pointers that a kernel takes for weights: all, and what replaces a part."""
    if isinstance(w.op, Overlay):
        return w.inputs[0], w.inputs[1]
    return w, None


def overlay_params(w: Node) -> OverlayParams:
    """Return what replaces a part of the weights."""
    if isinstance(w.op, Overlay):
        return OverlayParams(_table(w.op.index), w.op.axis, len(w.op.index))
    return OverlayParams()
