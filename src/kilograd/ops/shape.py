"""Parts of tensors: what learns and what does not, what goes separate ways and joins again."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Annotated

import numpy as np

from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    Builder,
    Kernel,
    Node,
    Op,
    Params,
    Range,
    RowCodes,
    TensorType,
    Value,
    require_range,
)
from kilograd.ir.params import INT32_MAX, Code, Count, Header, Index, Length
from kilograd.ops._common import array, int8_map, no_macs, no_vjp, require
from kilograd.ops.elementwise import BlockAdd

Margin = Annotated[int, Range("int32_t", 0, 32767)]


@dataclass(frozen=True, eq=False)
class TakeParams(Params):
    """Which slices of `outer` tensors, each `length` slices of `inner_bytes`, behind a header."""

    header: Header
    outer: Count
    length: Count
    inner_bytes: Count
    count: Count
    index: Index
    products = (("outer", "length", "inner_bytes"), ("outer", "count", "inner_bytes"))


@dataclass(frozen=True, eq=False)
class TakeGradParams(TakeParams):
    """As for `kg_take`, the other way; no slice comes twice."""

    ordered = (("count", "length"),)


@dataclass(frozen=True, eq=False)
class ConcatParams(Params):
    """`outer` times, `bytes` of each of `count` inputs."""

    outer: Count
    count: Length
    bytes: Annotated[Array, Range("int32_t", 1, INT32_MAX)]


@dataclass(frozen=True, eq=False)
class PadMapParams(Params):
    """`fill` around a map: so many rows, pixels and channels in front of it."""

    height: Length
    width: Length
    channels: Length
    above: Margin
    left: Margin
    front: Margin
    out_height: Length
    out_width: Length
    out_channels: Length
    fill: Code
    products = (("out_height", "out_width", "out_channels"),)
    ordered = (("height", "out_height"), ("width", "out_width"), ("channels", "out_channels"))


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
        index and 0 <= min(index) <= max(index) < x.shape[axis],
        f"an index into axis {axis} of {x} must be within it",
    )


@dataclass(frozen=True)
class Take(Op):
    """The slices `index` along `axis`, copied: in any order, and as often as they are named."""

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
        length = node.inputs[0].type.shape[self.axis]
        grads = []
        for places in _occurrences(self.index):
            own = tuple(self.index[i] for i in places)
            part = dy if len(own) == len(self.index) else b(Take(self.axis, places), dy)
            grads.append(b(TakeGrad(self.axis, own, length), part))
        return (functools.reduce(lambda a, c: b(BlockAdd(), a, c), grads),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        return Kernel("kg_take", (x,), _slices(TakeParams, x.type, self.axis, self.index))


def _occurrences(index: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return where each slice is named for the first time, for the second time, and so on.

    >>> _occurrences((4, 1, 4, 4))
    [(0, 1), (2,), (3,)]
    """
    seen: Counter[int] = Counter()
    found: list[list[int]] = []
    for place, i in enumerate(index):
        if seen[i] == len(found):
            found.append([])
        found[seen[i]].append(place)
        seen[i] += 1
    return [tuple(places) for places in found]


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
    require_range("index", max(index), 0, 32767)
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
            self.axis < len(dy.shape)
            and dy.shape[self.axis] == len(self.index) == len(set(self.index)),
            f"{dy} has not {len(self.index)} slices along axis {self.axis}, all of them different",
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
    """Int8 maps of one quantisation, one behind the other along `axis`."""

    axis: int = 2

    def infer(self, *xs: TensorType) -> TensorType:
        require(xs and 0 <= self.axis < len(xs[0].shape), f"there is no axis {self.axis} to join")
        first = xs[0]
        for x in xs:
            int8_map(x)
            require(
                x.quant == first.quant and self._others(x.shape) == self._others(first.shape),
                f"{first} and {x} are not int8 maps of one scale that join along axis {self.axis}",
            )
        return replace(first, shape=self._with(first.shape, sum(x.shape[self.axis] for x in xs)))

    def _others(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._with(shape, 0)

    def _with(self, shape: tuple[int, ...], length: int) -> tuple[int, ...]:
        return (*shape[: self.axis], length, *shape[self.axis + 1 :])

    def reference(self, node: Node, *xs: Value) -> Value:
        return np.concatenate([array(x) for x in xs], axis=self.axis)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        ends = [0, *accumulate(x.type.shape[self.axis] for x in node.inputs)]
        return tuple(
            b(Take(self.axis, tuple(range(begin, end))), dy) for begin, end in pairwise(ends)
        )

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        sizes = [math.prod(x.type.shape[self.axis :]) for x in node.inputs]
        outer = math.prod(node.type.shape[: self.axis])
        params = ConcatParams(outer, len(sizes), np.array(sizes, np.int32))
        return Kernel("kg_concat", (node.inputs,), params)


@dataclass(frozen=True)
class PadMap(Op):
    """Zeros around an int8 map, before and behind it along each axis."""

    sides: tuple[tuple[int, int], ...]

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        int8_map(x)
        require(
            len(x.shape) == len(self.sides) == 3 and all(n >= 0 for s in self.sides for n in s),
            f"{x} cannot be padded by {self.sides}",
        )
        shape = tuple(n + sum(side) for n, side in zip(x.shape, self.sides, strict=True))
        return replace(x, shape=shape)

    def reference(self, node: Node, *xs: Value) -> Value:
        return np.pad(array(xs[0]), self.sides, constant_values=node.type.affine.zero_point)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        for axis, (before, behind) in enumerate(self.sides):
            if before or behind:
                inner = range(before, node.type.shape[axis] - behind)
                dy = b(Take(axis, tuple(inner)), dy)
        return (dy,)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        (x,) = node.inputs
        (h, w, c), (oh, ow, oc) = x.type.shape, node.type.shape
        above, left, front = (side[0] for side in self.sides)
        fill = node.type.affine.zero_point
        params = PadMapParams(h, w, c, above, left, front, oh, ow, oc, fill)
        return Kernel("kg_pad_map", (x,), params)


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in the same order, in another shape.

    A view: what it is made of lies in memory as it would.
    """

    shape: tuple[int, ...]
    view = True

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        whole = not isinstance(x.quant, RowCodes) and getattr(x.quant, "axis", None) is None
        require(
            whole and all(n > 0 for n in self.shape) and math.prod(self.shape) == x.size,
            f"{x} cannot have the shape {self.shape}",
        )
        return replace(x, shape=self.shape)

    def reference(self, node: Node, *xs: Value) -> Value:
        (x,) = xs
        if isinstance(x, Block):
            return Block(x.mantissa.reshape(self.shape), x.exponent)
        return x.reshape(self.shape)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return (b(Reshape(node.inputs[0].type.shape), dy),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        raise TypeError("a view is not called")


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
        require(
            list(self.index) == sorted(set(self.index)), "the index of an overlay must increase"
        )
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
