"""Operations that only move elements, however many stand in a row: what they come to, said simply.

A tensor that such operations make is an array of numbers: which element of the source, counted in
its order, lies where.  So a channel shuffle of five operations is seen to be one gather.
"""

from __future__ import annotations

import math

import numpy as np

from kilograd.ir import Array
from kilograd.layers.network import Gather, Operation, Reshape, Slice, Transpose

Shape = tuple[int, ...]
Step = tuple[Operation, Shape]
"""An operation on one input, and the shape of its output."""


def in_order(shape: Shape) -> Array:
    """Return the numbers of a tensor's elements where they lie.

    >>> in_order((2, 3)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)


def steps(shape: Shape, index: Array) -> list[Step] | None:
    """Return a few operations that take a tensor of `shape` to the elements `index`.

    None where no slices and gathers, or a transposition, and a reshape behind them do so.

    >>> steps((2, 3), np.array([[0, 3], [1, 4], [2, 5]]))
    [(Transpose(order=(1, 0)), (3, 2))]
    >>> steps((4, 2), np.array([2, 3, 6, 7]))
    [(Slice(axis=0, begin=1, count=2, step=2), (2, 2)), (Reshape(), (4,))]
    """
    source = in_order(shape)
    if index.size == source.size and np.array_equal(index.ravel(), source.ravel()):
        return _reshaped(shape, index.shape)
    for axis in range(len(shape)):
        if found := _selected(source, index, axis):
            return [found, *_reshaped(found[1], index.shape)]
    if found_all := _boxed(source, index):
        return found_all
    if order := transposition(shape, index):
        made = tuple(shape[i] for i in order)
        return [(Transpose(order), made), *_reshaped(made, index.shape)]
    return None


def _reshaped(have: Shape, want: Shape) -> list[Step]:
    return [] if have == want else [(Reshape(), want)]


def _selected(source: Array, index: Array, axis: int) -> Step | None:
    """Return the slice or gather along one axis that makes `index`, in its own shape."""
    count, left = divmod(index.size, source.size // source.shape[axis])
    if left or not count:
        return None
    shape = (*source.shape[:axis], count, *source.shape[axis + 1 :])
    chosen = _chosen(source, index.reshape(shape), axis)
    if chosen is None or not np.array_equal(source.take(chosen, axis).ravel(), index.ravel()):
        return None
    return _taken(axis, chosen), shape


def _boxed(source: Array, index: Array) -> list[Step]:
    """Return the slices or gathers along several axes that make `index`; empty: there are none."""
    if index.ndim != source.ndim or not index.size:
        return []
    corner = tuple(map(int, np.unravel_index(int(index.reshape(-1)[0]), source.shape)))
    found: list[Step] = []
    made = source
    for axis in range(source.ndim):
        chosen = _chosen(source, index, axis, corner)
        if chosen is None:
            return []
        if not np.array_equal(chosen, np.arange(source.shape[axis])):
            made = made.take(chosen, axis)
            found.append((_taken(axis, chosen), made.shape))
    return found if np.array_equal(made, index) else []


def _chosen(source: Array, index: Array, axis: int, corner: tuple[int, ...] = ()) -> Array | None:
    """Return which slices along an axis the first line of `index` along it is of.

    `corner`: where the first element of `index` lies; all zeros where it is left out.
    """
    line = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)[:, 0]
    others = sum(
        int(c) * math.prod(source.shape[i + 1 :]) for i, c in enumerate(corner) if i != axis
    )
    chosen, left = np.divmod(line - others, math.prod(source.shape[axis + 1 :]))
    wrong = left.any() or chosen.min() < 0 or chosen.max() >= source.shape[axis]
    return None if wrong else chosen


def _taken(axis: int, chosen: Array) -> Slice | Gather:
    """Return what takes these slices along an axis."""
    first = int(chosen[0])
    step = int(chosen[1]) - first if len(chosen) > 1 else 1
    if step > 0 and np.array_equal(chosen, first + step * np.arange(len(chosen))):
        return Slice(axis, first, len(chosen), step)
    return Gather(axis, tuple(chosen.tolist()))


def transposition(shape: Shape, index: Array) -> tuple[int, ...] | None:
    """Return the order of axes that makes `index` of a tensor of `shape`, axes of length 1 last."""
    axes = {math.prod(shape[a + 1 :]): a for a, length in enumerate(shape) if length > 1}
    order = []
    for axis, length in enumerate(index.shape):
        if length > 1:
            line = np.moveaxis(index, axis, 0).reshape(length, -1)[:2, 0]
            order.append(axes.get(int(line[1] - line[0]), -1))
    if sorted(order) != sorted(axes.values()):
        return None
    order += [a for a, length in enumerate(shape) if length == 1]
    made = in_order(shape).transpose(order)
    return tuple(order) if np.array_equal(made.ravel(), index.ravel()) else None
