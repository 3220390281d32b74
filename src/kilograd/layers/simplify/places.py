"""Where the elements of a value of a file lie, and what brings them into another order."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from kilograd.ir import Array
from kilograd.layers.network import Gather, Operation, Reshape, Transpose, Value

NEW = -1
"""An axis of length 1 that the file has not."""

Axes = tuple[int, ...]
"""For each axis, which of the file it is, or `NEW`."""

_RANK = 5  # 120 transposes are tried at most


@dataclass(frozen=True, eq=False)
class Place:
    """A value of a file, of `shape` there, whose elements lie in `value`.

    `order`: by axes, or the index in the file, flat, of each element of `value`.
    """

    value: Value
    shape: tuple[int, ...]
    order: Axes | Array

    @property
    def axes(self) -> Axes | None:
        """Return which axis of the file each axis is, where elements lie by axes."""
        return self.order if isinstance(self.order, tuple) else None

    def index(self) -> Array:
        """Return the index in the file, flat, of each element of `value`."""
        return self.order if isinstance(self.order, np.ndarray) else index(self.shape, self.order)


def natural(shape: tuple[int, ...]) -> Axes:
    """Return the order of the file."""
    return tuple(range(len(shape)))


def arranged(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    """Return the shape of what has this shape in the file, with other axes.

    >>> arranged((3, 10), (NEW, 1, 0))
    (1, 10, 3)
    """
    return tuple(1 if a == NEW else shape[a] for a in axes)


def index(shape: tuple[int, ...], axes: Axes) -> Array:
    """Return the index in the file of each element, where they lie by axes.

    >>> index((2, 3), (1, 0)).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    flat = np.arange(math.prod(shape)).reshape(shape)
    return flat.transpose([a for a in axes if a != NEW]).ravel()


def lying(place: Place) -> Axes | None:
    """Return the axes in which elements lie, if they do lie by axes."""
    if len(place.shape) > _RANK:
        return None
    for order in itertools.permutations(natural(place.shape)):
        if (index(place.shape, order) == place.index()).all():
            return _with_new(place, order)
    return None


def _with_new(place: Place, order: Axes) -> Axes:
    """Add the axes of length 1 that the value has and the file has not, where that is so."""
    axes, left = [], list(order)
    for length in place.value.shape:
        own = left and place.shape[left[0]] == length
        axes.append(left.pop(0) if own else NEW)
    if left:
        return order
    return tuple(axes) if arranged(place.shape, tuple(axes)) == place.value.shape else order


Move = tuple[Operation, tuple[int, ...]]
"""What moves elements, and the shape that it gives."""


def moves(place: Place, axes: Axes) -> tuple[Move, ...]:
    """Return what brings the elements into the order of `axes`, one behind the other.

    No transpose where slices along one axis change places: that is a gather.
    """
    if place.axes == axes:
        return ()
    before, after = place.value.shape, arranged(place.shape, axes)
    inverse = np.empty(math.prod(before), np.int64)
    inverse[place.index()] = np.arange(len(inverse))
    taken = inverse[index(place.shape, axes)]
    reshape: tuple[Move, ...] = () if before == after else ((Reshape(), after),)
    if (taken == np.arange(len(taken))).all():
        return reshape
    gather = _gather(taken, before)
    if gather is not None:
        return (gather, before), *reshape
    gather = _gather(taken, after)
    if gather is not None:
        return *reshape, (gather, after)
    return _transposed(taken, before, after)


def _gather(taken: Array, shape: tuple[int, ...]) -> Gather | None:
    """Return slices along one axis of `shape` as which the elements `taken` can be had."""
    flat = np.arange(len(taken)).reshape(shape)
    for axis, length in enumerate(shape):
        first = np.moveaxis(taken.reshape(shape), axis, -1).reshape(-1, length)[0]
        steps = np.unravel_index(first, shape)[axis]
        if (flat.take(steps, axis).ravel() == taken).all():
            return Gather(axis, tuple(map(int, steps)))
    return None


def _transposed(taken: Array, before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Move, ...]:
    flat = np.arange(len(taken)).reshape(before)
    if len(before) <= _RANK:
        for order in itertools.permutations(range(len(before))):
            if (flat.transpose(order).ravel() == taken).all():
                shape = tuple(before[a] for a in order)
                reshape: tuple[Move, ...] = () if shape == after else ((Reshape(), after),)
                return ((Transpose(order), shape), *reshape)
    # Anything at all: element by element.
    size = (len(taken),)
    return (Reshape(), size), (Gather(0, tuple(map(int, taken))), size), (Reshape(), after)
