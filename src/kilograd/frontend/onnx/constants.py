"""Operators on constants: what exporters leave of shapes and of weights is computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from kilograd.errors import InputError
from kilograd.frontend.onnx.file import Operator
from kilograd.ir import Array

_TYPES = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
}

_MOST = 1 << 24
"""Elements of what is made larger than its parts."""

Given = Sequence[Array | None]
"""The inputs of an operator; None stands for an optional one that is left out."""

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Pow": np.power,
    "Mod": np.mod,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "And": np.logical_and,
    "Or": np.logical_or,
}
_UNARY: dict[str, Callable[[Array], Array]] = {
    "Identity": np.asarray,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Neg": np.negative,
    "Abs": np.abs,
    "Exp": np.exp,
    "Not": np.logical_not,
}


def fold(node: Operator, xs: Given) -> tuple[Array, ...] | None:
    """Return what an operator makes of constants; None where it is not computed here.

    Raises `InputError` where it cannot be computed of these.
    """
    try:
        with np.errstate(all="ignore"):
            found = _folded(node, xs)
    except (ArithmeticError, IndexError, MemoryError, TypeError, ValueError) as e:
        raise InputError(
            f"{node.where}: {node.kind} cannot be computed of its constants ({e})"
        ) from e
    return None if found is None else tuple(map(np.asarray, found))


def _folded(node: Operator, xs: Given) -> Sequence[Array] | None:
    if node.kind == "Constant":
        return [_constant(node)]
    if node.kind == "Split":
        return _split(node, xs)
    if node.kind in _BINARY:
        a, b = _arrays(xs, 2)
        _check_size(np.broadcast_shapes(a.shape, b.shape))
        return [_BINARY[node.kind](a, b)]
    if node.kind in _UNARY:
        return [_UNARY[node.kind](_arrays(xs, 1)[0])]
    for compute in (_arithmetic, _made, _viewed, _moved):
        if (found := compute(node, xs)) is not None:
            return [found]
    return None


def _constant(node: Operator) -> Array:
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        if node.has(name):
            return np.array(node.attributes[name], dtype)
    for name, dtype in (("value_floats", np.float32), ("value_ints", np.int64)):
        if node.has(name):
            return np.array(node.attributes[name], dtype)
    value = node.attributes.get("value")
    if not isinstance(value, np.ndarray):
        raise TypeError("it has no numbers")
    return value


def _arithmetic(node: Operator, xs: Given) -> Array | None:
    """Return numbers computed of numbers."""
    match node.kind:
        case "Div":
            a, b = _arrays(xs, 2)
            _check_size(np.broadcast_shapes(a.shape, b.shape))
            if a.dtype.kind in "iu":  # towards zero
                return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
            return np.divide(a, b)
        case "Cast":
            (x,) = _arrays(xs, 1)
            to = _TYPES.get(node.integer("to"))
            return None if to is None else x.astype(to)
        case "Min" | "Max":
            combine = np.minimum if node.kind == "Min" else np.maximum
            out, *rest = _arrays(xs, len(xs))
            for x in rest:
                _check_size(np.broadcast_shapes(out.shape, x.shape))
                out = combine(out, x)
            return out
        case "Where":
            a, b, c = _arrays(xs, 3)
            _check_size(np.broadcast_shapes(a.shape, b.shape, c.shape))
            return np.where(a, b, c)
        case "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin":
            return _reduced(node, xs)
        case _:
            return None


def _made(node: Operator, xs: Given) -> Array | None:
    """Return numbers made of a few: of a shape, of bounds."""
    match node.kind:
        case "Range":
            a, b, c = (x.item() for x in _arrays(xs, 3))
            _check_size((max(0, math.ceil((b - a) / c)),))
            return np.arange(a, b, c, dtype=_arrays(xs, 3)[0].dtype)
        case "ConstantOfShape":
            (shape,) = _arrays(xs, 1)
            value = node.attributes.get("value", np.zeros(1, np.float32))
            return np.full(_check_size(shape.tolist()), np.asarray(value).item(), value.dtype)
        case "Size":
            return np.array(_arrays(xs, 1)[0].size, np.int64)
        case "Shape":
            return shape_of(node, _arrays(xs, 1)[0].shape)
        case _:
            return None


def shape_of(node: Operator, shape: Sequence[int]) -> Array:
    """Return what the operator Shape makes of a shape."""
    end = node.integer("end") if node.has("end") else None
    return np.array(shape[slice(node.integer("start"), end)], np.int64)


def _viewed(node: Operator, xs: Given) -> Array | None:
    """Return the same numbers in another shape or order."""
    match node.kind:
        case "Reshape":
            x = _arrays(xs, 1)[0]
            shape = node.integers("shape") if len(xs) < 2 else _arrays(xs, 2)[1].tolist()
            keep = not node.integer("allowzero")
            return x.reshape([x.shape[i] if d == 0 and keep else d for i, d in enumerate(shape)])
        case "Flatten":
            (x,) = _arrays(xs, 1)
            return x.reshape(math.prod(x.shape[: node.integer("axis", 1)]), -1)
        case "Squeeze":
            x = _arrays(xs, 1)[0]
            axes = numbers(node, xs, 1, "axes")
            return np.squeeze(x, None if axes is None else axes)
        case "Unsqueeze":
            return np.expand_dims(_arrays(xs, 1)[0], numbers(node, xs, 1, "axes") or ())
        case "Transpose":
            (x,) = _arrays(xs, 1)
            return x.transpose(node.integers("perm", range(x.ndim)[::-1]))
        case _:
            return None


def _moved(node: Operator, xs: Given) -> Array | None:
    """Return some of the numbers, or several one behind the other."""
    match node.kind:
        case "Concat":
            several = _arrays(xs, len(xs))
            _check_size((sum(x.size for x in several),))
            return np.concatenate(several, node.integer("axis", 1))
        case "Gather":
            x, index = _arrays(xs, 2)
            _check_size((x.size // max(1, x.shape[node.integer("axis")]), index.size))
            return np.take(x, index.astype(np.int64), node.integer("axis"))
        case "Slice":
            return _sliced(node, xs)
        case "Expand":
            x, shape = _arrays(xs, 2)
            return np.broadcast_to(x, _check_size(np.broadcast_shapes(x.shape, shape.tolist())))
        case "Tile":
            x, times = _arrays(xs, 2)
            _check_size([a * b for a, b in zip(x.shape, times.tolist(), strict=True)])
            return np.tile(x, times.tolist())
        case _:
            return None


def _reduced(node: Operator, xs: Given) -> Array:
    x = _arrays(xs, 1)[0]
    axes = numbers(node, xs, 1, "axes")
    if not axes and node.integer("noop_with_empty_axes"):
        return x
    along = tuple(axes) if axes else None
    keep = bool(node.integer("keepdims", 1))
    match node.kind:
        case "ReduceProd":
            return np.prod(x, along, keepdims=keep, dtype=x.dtype)
        case "ReduceSum":
            return np.sum(x, along, keepdims=keep, dtype=x.dtype)
        case "ReduceMax":
            return np.max(x, along, keepdims=keep)
        case _:
            return np.min(x, along, keepdims=keep)


def _sliced(node: Operator, xs: Given) -> Array:
    x = _arrays(xs, 1)[0]
    where = [slice(None)] * x.ndim
    for axis, begin, end, step in slices(node, xs, x.ndim):
        where[axis] = slice(begin, None if end < -x.shape[axis] and step < 0 else end, step)
    return x[tuple(where)]


def slices(node: Operator, xs: Given, rank: int) -> list[tuple[int, int, int, int]]:
    """Return axis, begin, end and step of each axis that the operator Slice cuts, as it says."""
    begin = numbers(node, xs, 1, "starts") or ()
    end = numbers(node, xs, 2, "ends") or ()
    axes = numbers(node, xs, 3, "axes") or tuple(range(len(begin)))
    step = numbers(node, xs, 4, "steps") or (1,) * len(begin)
    found = list(zip(axes, begin, end, step, strict=True))
    if any(not -rank <= a < rank or s == 0 for a, _, _, s in found):
        raise IndexError(f"axes {list(axes)} or steps {list(step)} are none of {rank} axes")
    return [(a % rank, b, e, s) for a, b, e, s in found]


def _split(node: Operator, xs: Given) -> Sequence[Array]:
    x = _arrays(xs, 1)[0]
    axis = node.integer("axis")
    sizes = parts(node, xs, x.shape[axis])
    return np.split(x, np.cumsum(sizes)[:-1].tolist(), axis)


def parts(node: Operator, xs: Given, length: int) -> tuple[int, ...]:
    """Return how long the parts are that the operator Split makes of an axis."""
    sizes = numbers(node, xs, 1, "split")
    if sizes is None:
        count = len(node.outputs)
        if node.integer("num_outputs", count) != count:
            raise ValueError(f"num_outputs is {node.integer('num_outputs')} for {count} outputs")
        each = -(-length // count)
        sizes = (*(each,) * (count - 1), length - each * (count - 1))
    if len(sizes) != len(node.outputs) or sum(sizes) != length or min(sizes) < 0:
        raise ValueError(f"parts of {list(sizes)} do not make {length}")
    return sizes


def numbers(node: Operator, xs: Given, index: int, attribute: str) -> tuple[int, ...] | None:
    """Return integers that are an attribute in old files, an input in new ones; None: neither."""
    if node.has(attribute):
        return node.integers(attribute)
    x = xs[index] if index < len(xs) else None
    if x is None:
        return None
    if x.dtype.kind not in "iu":
        raise TypeError(f"{attribute} are no integers")
    return tuple(int(i) for i in x.ravel())


def _arrays(xs: Given, count: int) -> list[Array]:
    """Return the first inputs, all of which must be there."""
    found = [x for x in xs[:count] if x is not None]
    if len(found) != count:
        raise TypeError("an input is missing")
    return found


def _check_size(shape: Sequence[int]) -> tuple[int, ...]:
    if min(shape, default=0) < 0 or math.prod(shape) > _MOST:
        raise ValueError(f"the shape {list(shape)[:8]} cannot be")
    return tuple(shape)
