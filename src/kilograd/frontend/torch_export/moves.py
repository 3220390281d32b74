"""Operators that move elements, or do nothing.  Names of arguments are PyTorch's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kilograd import limits
from kilograd.frontend.torch_export.building import At, Held
from kilograd.frontend.torch_export.maps import EVAL
from kilograd.frontend.torch_export.program import Ref, Stored
from kilograd.layers.network import Concat, Pad, Reshape, Slice, Transpose, Value
from kilograd.layers.unsupported import UnsupportedError


def same(at: At) -> Held:
    """What changes no number: clone, contiguous, detach."""
    return at.held(at.call.get("self") or at.call.get("input"))


def dropout(at: At) -> Held:
    """Dropout that is switched off."""
    if at.call.flag("train", default=True) and at.call.number("p") != 0:
        raise UnsupportedError(EVAL)
    return same(at)


def converted(at: At) -> Held:
    """To float32 of what is float32."""
    held = same(at)
    if isinstance(held, Value):
        _ = at.shape  # refuses other types
    return held


def reshape(at: At) -> Held:
    """flatten, view, reshape, squeeze, unsqueeze: the same elements in the same order."""
    held = at.held(at.call.ref("self"))
    if isinstance(held, Stored):
        whole = at.building.whole(at.call.outputs[0])
        if math.prod(whole) != held.array.size:
            raise UnsupportedError(f"it makes {list(whole)} of {held.array.size} numbers")
        return replace(held, array=held.array.reshape(whole))
    x = at.input()
    return x if at.shape == x.shape else at.make(Reshape(), x)


def expand(at: At) -> Held:
    """What is repeated; sums and products do so by themselves."""
    x = at.input()
    if len(at.shape) != len(x.shape):
        raise UnsupportedError("it adds axes; unsqueeze before")
    return x


def permute(at: At) -> Held:
    """Axes in another order, the batch first."""
    x = at.input()
    dims = [d + len(x.shape) + 1 if d < 0 else d for d in at.call.integers("dims")]
    if dims[:1] != [0]:
        raise UnsupportedError("it moves the axis of the batch; leave axis 0 first")
    return at.make(Transpose(tuple(d - 1 for d in dims[1:])), x)


def transpose(at: At) -> Held:
    """Two axes exchanged."""
    x = at.input()
    a, b = (at.axis(at.call.integer(n), len(x.shape)) for n in ("dim0", "dim1"))
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return at.make(Transpose(tuple(order)), x)


def concat(at: At) -> Held:
    """Tensors one behind the other."""
    xs = [at.value(r) for r in at.call.refs_of("tensors")]
    axis = at.axis(at.call.integer("dim", 0), len(at.shape))
    return xs[0] if len(xs) == 1 else at.make(Concat(axis), *xs)


def stack(at: At) -> Held:
    """Tensors along a new axis."""
    axis = at.axis(at.call.integer("dim", 0), len(at.shape))
    xs = [at.value(r) for r in at.call.refs_of("tensors")]
    wide = [at.step(Reshape(), (*x.shape[:axis], 1, *x.shape[axis:]), x) for x in xs]
    return wide[0] if len(wide) == 1 else at.make(Concat(axis), *wide)


def parts(at: At) -> list[Held]:
    """chunk, split, split_with_sizes: slices one behind the other."""
    x = at.input()
    axis = at.axis(at.call.integer("dim", 0), len(x.shape))
    shapes = [at.building.shape(name) for name in at.call.outputs]
    if any(len(s) != len(x.shape) for s in shapes) or sum(s[axis] for s in shapes) != x.shape[axis]:
        raise UnsupportedError("its parts are not the whole")
    out: list[Held] = []
    begin = 0
    for i, shape in enumerate(shapes):
        whole = shape == x.shape
        out.append(x if whole else at.make(Slice(axis, begin, shape[axis]), x, output=i))
        begin += shape[axis]
    return out


def unbind(at: At) -> list[Held]:
    """All slices along an axis, without it."""
    x = at.input()
    axis = at.axis(at.call.integer("dim", 0), len(x.shape))
    if len(at.call.outputs) != x.shape[axis]:
        raise UnsupportedError("its parts are not the whole")
    thin = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    steps = [at.step(Slice(axis, i, 1), thin, x) for i in range(x.shape[axis])]
    return [at.make(Reshape(), s, output=i) for i, s in enumerate(steps)]


def sliced(at: At) -> Held:
    """x[begin:end:step] along an axis."""
    x = at.input()
    dim = at.call.integer("dim", 0)
    if dim == 0 and at.shape == x.shape:
        return x  # x[:, ...] says it of each axis
    axis = at.axis(dim, len(x.shape))
    begin, end = (at.call.integer(n) if at.given(n) else None for n in ("start", "end"))
    taken = range(x.shape[axis])[begin : end : at.call.integer("step", 1)]
    return _taken(at, x, axis, taken)


def narrow(at: At) -> Held:
    """Slices from start, length of them."""
    x = at.input()
    axis = at.axis(at.call.integer("dim"), len(x.shape))
    start = at.call.integer("start")
    return _taken(at, x, axis, range(start, start + at.call.integer("length")))


def _taken(at: At, x: Value, axis: int, taken: range) -> Held:
    if not taken or taken.step < 1:
        raise UnsupportedError("it takes nothing")
    if taken == range(x.shape[axis]):
        return x
    return at.make(Slice(axis, taken[0], len(taken), taken.step), x)


def select(at: At) -> Held:
    """One slice, without its axis."""
    x = at.input()
    axis = at.axis(at.call.integer("dim"), len(x.shape))
    index = at.call.integer("index")
    index += x.shape[axis] if index < 0 else 0
    thin = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    return at.make(Reshape(), at.step(Slice(axis, index, 1), thin, x))


def index_select(at: At) -> Held:
    """Slices along an axis by their numbers, which are constants."""
    x = at.input()
    return _gathered(at, x, at.axis(at.call.integer("dim"), len(x.shape)), at.stored("index"))


def index(at: At) -> Held:
    """x[:, numbers], constants, along one axis."""
    x, given = at.input(), at.call.get("indices")
    items = given if isinstance(given, tuple) else ()
    found = [(i, r) for i, r in enumerate(items) if isinstance(r, Ref)]
    if len(found) != 1:
        raise UnsupportedError("it takes single elements; index one axis, by constants")
    held = at.held(found[0][1])
    if not isinstance(held, Stored):
        raise UnsupportedError("its numbers are computed when it runs; use constants")
    return _gathered(at, x, at.axis(found[0][0], len(x.shape)), held)


def _gathered(at: At, x: Value, axis: int, numbers: Stored) -> Held:
    if numbers.array.ndim != 1 or numbers.array.dtype.kind not in "iu":
        raise UnsupportedError("its numbers are no list of integers")
    index = numbers.array.astype(np.int64)
    return at.gather(x, axis, np.where(index < 0, index + x.shape[axis], index).tolist())


def flip(at: At) -> Held:
    """One axis backwards."""
    x = at.input()
    (dim,) = at.call.integers("dims")
    axis = at.axis(dim, len(x.shape))
    return at.gather(x, axis, range(x.shape[axis])[::-1])


def channel_shuffle(at: At) -> Held:
    """Channels dealt to groups."""
    x, groups = at.input(), at.call.integer("groups")
    if groups < 1 or x.shape[0] % groups:
        raise UnsupportedError("its groups do not divide the channels")
    each = x.shape[0] // groups
    if x.shape[0] > limits.SIDE:
        raise UnsupportedError(f"it has {x.shape[0]:,} channels; {limits.SIDE:,} are the most")
    return at.gather(x, 0, [g * each + i for i in range(each) for g in range(groups)])


def pad(at: At) -> Held:
    """Constants around; numbers for the last axis first, two each."""
    x, mode = at.input(), at.call.text("mode", "constant")
    if mode != "constant":
        raise UnsupportedError(f"it pads by {mode}; use zeros")
    numbers = at.call.integers("pad")
    given = list(zip(numbers[::2], numbers[1::2], strict=False))[::-1]
    rank = len(x.shape)
    while len(given) > rank and given[0] == (0, 0):
        del given[0]
    if len(given) > rank or len(numbers) % 2:
        raise UnsupportedError("it pads the axis of the batch")
    sides = ((0, 0),) * (rank - len(given)) + tuple(given)
    if not any(map(any, sides)):
        return x
    if max(map(max, sides)) > limits.SIDE:
        raise UnsupportedError(f"it pads by more than {limits.SIDE:,}")
    if min(map(min, sides)) < 0:
        raise UnsupportedError("it cuts edges off by negative padding; slice instead")
    value = at.call.number("value") if at.given("value") else 0.0
    return at.make(Pad(sides, value), x)
