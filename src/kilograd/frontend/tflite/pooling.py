"""Windows of maps, means, and larger maps."""

from __future__ import annotations

import math

import numpy as np

from kilograd.frontend.tflite.moving import axis
from kilograd.frontend.tflite.reader import Moved, Reader, data_of, own
from kilograd.frontend.tflite.schema import FileOperator, FileTensor
from kilograd.frontend.tflite.weighted import clamp, geometry
from kilograd.layers import moves
from kilograd.layers.network import Mean, Pool, PoolKind, Resize
from kilograd.layers.unsupported import UnsupportedError

_KINDS = {"MAX_POOL_2D": PoolKind.MAX, "AVERAGE_POOL_2D": PoolKind.MEAN}


def pool(r: Reader, op: FileOperator) -> None:
    """MAX_POOL_2D, AVERAGE_POOL_2D: what is padded counts in no mean."""
    x, y = data_of(op)
    kernel, stride = (op.option(4), op.option(3)), (op.option(2), op.option(1))
    out, pad = geometry(op, x, y, kernel, stride)
    given = r.value(x)
    if given.quant != r.quant(y):
        raise UnsupportedError("pools into another quantisation")
    made = Pool(_KINDS[op.kind], kernel, stride, pad, clamp=clamp(op, 5))
    r.make(made, (given,), y, (*out, x.shape[3]))


def _axes(r: Reader, op: FileOperator, rank: int) -> list[int]:
    values = r.constant(op.inputs[1] if len(op.inputs) > 1 else None, "axes")
    if values.dtype.kind != "i" or not 0 < values.size <= rank:
        raise UnsupportedError(f"has {values.size} axes")
    return sorted({axis(int(a), rank) for a in values.reshape(-1)})


def mean(r: Reader, op: FileOperator) -> None:
    """MEAN over some axes, of a map the axes of which may have been turned before."""
    x, y = data_of(op)
    lengths = own(x.shape)
    over = [a - len(x.shape) + len(lengths) for a in _axes(r, op, len(x.shape))]
    if min(over) < 0:
        raise UnsupportedError("is a mean over the batch axis")
    order = _order(r, x)
    source = r.moved(x).value
    axes = dict(zip([a for a, n in enumerate(lengths) if n > 1], order, strict=False))
    there = tuple(sorted(axes[a] for a in over if a in axes))
    kept = tuple(1 if a in there else n for a, n in enumerate(source.shape))
    if not there or math.prod(kept) != y.size:
        raise UnsupportedError(
            f"makes {math.prod(kept)} numbers over axes {over}, and the file says {y}"
        )
    made = r.layer(Mean(there), (source,), y.name, kept, r.quant(y))
    index = moves.in_order(kept).transpose(order)
    if np.array_equal(index.reshape(-1), np.arange(index.size)):
        r.stand(y, made)
    else:
        r.held[y] = Moved(made, index.reshape(y.shape))


def _order(r: Reader, x: FileTensor) -> tuple[int, ...]:
    """Return which axes of what stands for x its own are: first those that are longer than 1."""
    moved = r.moved(x)
    if moved.index is not None:
        turned = moves.transposition(moved.value.shape, moved.index.reshape(own(x.shape)))
        if turned is not None:
            return turned
    shape = r.value(x).shape
    return tuple(sorted(range(len(shape)), key=lambda a: shape[a] == 1))


def largest(r: Reader, op: FileOperator) -> None:
    """REDUCE_MAX over both axes of a map: one window."""
    x, y = data_of(op)
    if len(x.shape) != 4 or x.shape[0] != 1 or _axes(r, op, 4) != [1, 2]:
        raise UnsupportedError("is a maximum over other axes than height and width")
    given = r.value(x)
    if given.quant != r.quant(y):
        raise UnsupportedError("pools into another quantisation")
    size = (x.shape[1], x.shape[2])
    shape = (1, 1, x.shape[3])
    if y.size != x.shape[3]:
        raise UnsupportedError(f"makes {list(shape)}, and the file says {y}")
    r.stand(y, r.layer(Pool(PoolKind.MAX, size, (1, 1)), (given,), y.name, shape, given.quant))


def resize(r: Reader, op: FileOperator) -> None:
    """RESIZE_NEAREST_NEIGHBOR by whole factors."""
    x, y = data_of(op)
    if len(x.shape) != 4 or len(y.shape) != 4:
        raise UnsupportedError(f"resizes {x} to {y}")
    down, across = (divmod(b, a) for a, b in zip(x.shape[1:3], y.shape[1:3], strict=True))
    if down[1] or across[1] or not down[0] or not across[0] or op.flag(0):
        raise UnsupportedError(
            f"resizes {x} to {y}: only whole factors, without align_corners, are read"
        )
    given = r.value(x)
    if given.quant != r.quant(y):
        raise UnsupportedError("resizes into another quantisation")
    factors = (down[0], across[0])
    r.make(Resize(factors), (given,), y, (y.shape[1], y.shape[2], x.shape[3]))
