"""Operators that move elements, each in a line of numpy: they become no layers until they must."""

from __future__ import annotations

import numpy as np

from kilograd.frontend.tflite.reader import Reader, data_of, own
from kilograd.frontend.tflite.schema import FileOperator, FileTensor
from kilograd.ir import Array
from kilograd.layers.network import Concat, Pad
from kilograd.layers.unsupported import UnsupportedError
from kilograd.limits import MAP_ELEMENTS


def reshape(r: Reader, op: FileOperator) -> None:
    """RESHAPE, EXPAND_DIMS, SQUEEZE: the file says the shape, however it was computed."""
    x, y = data_of(op)
    _moved(r, op, x, y, None)


def transpose(r: Reader, op: FileOperator) -> None:
    """TRANSPOSE."""
    x, y = data_of(op)
    order = numbers(r, op, 1, len(x.shape))
    if sorted(order) != list(range(len(x.shape))):
        raise UnsupportedError(f"orders axes as {order}")
    _moved(r, op, x, y, r.elements(x).transpose(order))


def strided_slice(r: Reader, op: FileOperator) -> None:
    """STRIDED_SLICE; masks leave ends open, or take axes away."""
    x, y = data_of(op)
    rank = len(x.shape)
    begin, end, step = (numbers(r, op, i, rank) for i in (1, 2, 3))
    open_begin, open_end, ellipsis, new, away = (op.option(i) for i in range(5))
    if ellipsis or new or op.flag(5):
        raise UnsupportedError("slices with an ellipsis, new axes or offsets: convert it without")
    if 0 in step:
        raise UnsupportedError("slices in steps of 0")
    index: list[slice | int] = []
    for axis in range(rank):
        bit = 1 << axis
        if away & bit:
            if not -x.shape[axis] <= begin[axis] < x.shape[axis]:
                raise UnsupportedError(f"takes slice {begin[axis]} of {x}")
            index.append(begin[axis])
        else:
            first = None if open_begin & bit else begin[axis]
            last = None if open_end & bit else end[axis]
            index.append(slice(first, last, step[axis]))
    _moved(r, op, x, y, r.elements(x)[tuple(index)])


def cut(r: Reader, op: FileOperator) -> None:
    """SLICE: from begin, so many; -1: all that follow."""
    x, y = data_of(op)
    begin, size = (numbers(r, op, i, len(x.shape)) for i in (1, 2))
    index = tuple(
        slice(b, n if c == -1 else b + c) for b, c, n in zip(begin, size, x.shape, strict=True)
    )
    if min(begin, default=0) < 0:
        raise UnsupportedError(f"slices from {begin}")
    _moved(r, op, x, y, r.elements(x)[index])


def last(r: Reader, op: FileOperator) -> None:
    """Take the last steps of a window: an operator of ours."""
    x, y = data_of(op)
    r.move(x, y, r.elements(x)[:, x.shape[1] - y.shape[1] :])


def gather(r: Reader, op: FileOperator) -> None:
    """GATHER of constant indices."""
    x, y = data_of(op)
    which = r.constant(op.inputs[1] if len(op.inputs) > 1 else None, "indices")
    if op.option(1):
        raise UnsupportedError(
            "gathers other elements of each slice: convert it without batch_dims"
        )
    where = axis(op.option(0), len(x.shape))
    if (
        which.dtype.kind != "i"
        or not which.size
        or which.min() < 0
        or which.max() >= x.shape[where]
    ):
        raise UnsupportedError(f"gathers slices of {x} that it does not have")
    _moved(r, op, x, y, r.elements(x).take(which, where))


def split(r: Reader, op: FileOperator) -> None:
    """SPLIT in equal parts."""
    if len(op.inputs) != 2:
        raise UnsupportedError("lacks an axis")
    x, where = op.inputs[1], numbers(r, op, 0, 1)[0]
    _parts(r, op, x, where, [len(op.outputs)])


def split_unequal(r: Reader, op: FileOperator) -> None:
    """SPLIT_V: in parts of given lengths."""
    if len(op.inputs) != 3:
        raise UnsupportedError("lacks lengths and an axis")
    lengths = numbers(r, op, 1, len(op.outputs))
    _parts(r, op, op.inputs[0], numbers(r, op, 2, 1)[0], lengths)


def _parts(r: Reader, op: FileOperator, x: FileTensor | None, where: int, said: list[int]) -> None:
    if x is None:
        raise UnsupportedError("lacks an input")
    where = axis(where, len(x.shape))
    lengths = [y.shape[where] if len(y.shape) == len(x.shape) else 0 for y in op.outputs]
    if sum(lengths) != x.shape[where] or 0 in lengths:
        raise UnsupportedError(f"splits {x} into {lengths}")
    if len(said) > 1 and any(a not in {-1, b} for a, b in zip(said, lengths, strict=True)):
        raise UnsupportedError(f"splits {x} into {said}, and the file says {lengths}")
    index = r.elements(x)
    at = 0
    for y, n in zip(op.outputs, lengths, strict=True):
        _moved(r, op, x, y, index.take(range(at, at + n), where))
        at += n


def unpack(r: Reader, op: FileOperator) -> None:
    """UNPACK: the slices along an axis, which goes."""
    x, _ = data_of(op)
    where = axis(op.option(1), len(x.shape))
    if len(op.outputs) != x.shape[where]:
        raise UnsupportedError(f"makes {len(op.outputs)} slices of {x}")
    for i, y in enumerate(op.outputs):
        _moved(r, op, x, y, r.elements(x).take(i, where))


def pack(r: Reader, op: FileOperator) -> None:
    """PACK: tensors along a new axis."""
    _, y = data_of(op)
    where = axis(op.option(1), len(y.shape))
    parts = [t for t in op.inputs if t is not None]
    shape = (*y.shape[:where], 1, *y.shape[where + 1 :])
    _joined(r, op, parts, [shape] * len(parts), where)


def concatenate(r: Reader, op: FileOperator) -> None:
    """CONCATENATION along any axis but the batch."""
    _, y = data_of(op)
    where = axis(op.option(0), len(y.shape))
    if op.option(1, "b"):
        raise UnsupportedError("has an activation of its own: convert it with one behind")
    parts = [t for t in op.inputs if t is not None]
    _joined(r, op, parts, [t.shape for t in parts], where)


def _joined(
    r: Reader, op: FileOperator, parts: list[FileTensor], shapes: list[tuple[int, ...]], where: int
) -> None:
    _, y = data_of(op)
    others = {(*s[:where], *s[where + 1 :]) for s in shapes if len(s) == len(y.shape)}
    total = sum(s[where] for s in shapes if len(s) == len(y.shape))
    if len(parts) != len(op.inputs) or len(others) != 1 or total != y.shape[where]:
        raise UnsupportedError(f"joins {', '.join(map(str, parts))} to {y}")
    if own(y.shape) != y.shape and where == 0:
        raise UnsupportedError("joins tensors along the batch axis")
    if all(r.is_constant(t) for t in parts):
        values = [r.constant(t, "parts").reshape(s) for t, s in zip(parts, shapes, strict=True)]
        r.spend(y.size)
        r.compute(y, np.concatenate(values, where))
        return
    values_of = [r.value(t, own(s)) for t, s in zip(parts, shapes, strict=True)]
    if any(v.quant != r.quant(y) for v in values_of):
        raise UnsupportedError(
            "joins tensors of several quantisations: convert it with one for all"
        )
    if len(parts) == 1:
        r.move(parts[0], y, None)
        return
    r.make(Concat(where - len(y.shape) + len(own(y.shape))), tuple(values_of), y, own(y.shape))


def pad(r: Reader, op: FileOperator) -> None:
    """PAD with zeros, PADV2 with a value."""
    x, y = data_of(op)
    sides = r.constant(op.inputs[1] if len(op.inputs) > 1 else None, "a width")
    if sides.shape != (len(x.shape), 2) or sides.dtype.kind != "i" or sides.min() < 0:
        raise UnsupportedError(f"pads {x} by {sides.tolist()}")
    if sides.max() > MAP_ELEMENTS:
        raise UnsupportedError("pads by more than there can be")
    value = 0.0
    if op.kind == "PADV2" and len(op.inputs) > 2:
        value = real(r, op.inputs[2])
    gone = len(x.shape) - len(own(x.shape))
    if sides[:gone].any():
        raise UnsupportedError("pads the batch axis")
    given = r.value(x)
    pairs = tuple((int(a), int(b)) for a, b in sides[gone:])
    shape = tuple(n + a + b for n, (a, b) in zip(given.shape, pairs, strict=True))
    if given.quant != r.quant(y):
        raise UnsupportedError("pads into another quantisation")
    r.make(Pad(pairs, value), (given,), y, shape)


def real(r: Reader, tensor: FileTensor | None) -> float:
    """Return the real number that a tensor of one element holds."""
    values = r.constant(tensor, "a number")
    if values.size != 1 or tensor is None:
        raise UnsupportedError("has more than one number where one is read")
    if values.dtype.kind == "f":
        return float(values.reshape(-1)[0])
    if len(tensor.scales) != 1:
        raise UnsupportedError("has a number without a scale")
    return tensor.scales[0] * (int(values.reshape(-1)[0]) - tensor.zeros[0])


def numbers(r: Reader, op: FileOperator, which: int, count: int) -> list[int]:
    """Return integers that an operator is given, so many."""
    values = r.constant(op.inputs[which] if len(op.inputs) > which else None, "a number")
    if values.size != count or values.dtype.kind != "i":
        raise UnsupportedError(f"has {values.size} numbers where {count} are read")
    found: list[int] = values.reshape(-1).tolist()
    return found


def axis(number: int, rank: int) -> int:
    """Return an axis counted from 0."""
    if not -rank <= number < rank:
        raise UnsupportedError(f"names axis {number} of {rank}")
    return number % rank


def _moved(r: Reader, op: FileOperator, x: FileTensor, y: FileTensor, index: Array | None) -> None:
    """Let elements of x stand for y; numbers of the file are moved at once."""
    if not r.is_constant(x):
        r.move(x, y, index)
        return
    values = r.constant(x, "numbers")
    if (values.size if index is None else index.size) != y.size:
        raise UnsupportedError(f"makes another number of elements than {y}")
    r.compute(y, values.reshape(-1) if index is None else values.reshape(-1)[index])
