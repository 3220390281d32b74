"""Operators with weights, on maps, and pools.  Names of arguments are PyTorch's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kilograd import limits
from kilograd.frontend.torch_export.building import At, Held, finite
from kilograd.layers.network import (
    ChannelScale,
    Convolution,
    Dense,
    Mean,
    Pair,
    Pool,
    PoolKind,
    Product,
    Reshape,
    Resize,
    Sides,
    Tensor,
    Value,
)
from kilograd.layers.unsupported import UnsupportedError

EVAL = "it is in training mode; call module.eval() before the export"


def convolution(at: At) -> Held:
    """conv1d, conv2d; padding as numbers, "same" or "valid"."""
    x = at.input("input")
    flat = at.call.operator == "conv1d"
    _need_map(x, flat)
    weight = at.tensor("weight", 3 if flat else 4)
    kernel = weight.values[:, :, None] if flat else weight.values
    stride, dilation = at.pair("stride", flat, 1), at.pair("dilation", flat, 1)
    op = Convolution(
        replace(weight, values=np.ascontiguousarray(kernel.transpose(0, 2, 3, 1))),
        at.bias(weight, x),
        stride,
        _padding(at, flat, (kernel.shape[2], kernel.shape[3]), dilation),
        dilation,
        at.call.integer("groups", 1),
    )
    if op.groups < 1:
        raise UnsupportedError("it has no groups")
    return at.make(op, x)


def _padding(at: At, flat: bool, kernel: Pair, dilation: Pair) -> Sides:  # noqa: FBT001
    if not isinstance(at.call.get("padding"), str):
        down, across = at.pair("padding", flat, 0)
        return down, down, across, across
    if at.call.text("padding") == "valid":
        return 0, 0, 0, 0
    down, across = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    return down // 2, down - down // 2, across // 2, across - across // 2


def linear(at: At) -> Held:
    """A matrix times the last axis."""
    x, weight = at.input("input"), at.tensor("weight", 2)
    return at.make(Dense(weight, at.bias(weight, x)), x)


def batch_norm(at: At) -> Held:
    """batch_norm with the statistics that the module has learned."""
    x = at.input("input")
    if at.call.flag("training"):
        raise UnsupportedError(EVAL)
    if not at.given("running_mean") or not at.given("running_var"):
        raise UnsupportedError("it keeps no statistics; make it with track_running_stats=True")
    mean, var = (at.tensor(n, 1).values.astype(np.float64) for n in ("running_mean", "running_var"))
    eps = at.call.number("eps")
    if var.size == 0 or not var.min() + eps > 0:
        raise UnsupportedError("its running_var is below zero")
    factor = 1 / np.sqrt(var + eps)
    if at.given("weight"):
        factor = _times(factor, at.tensor("weight", 1))
    if factor.shape != mean.shape:
        raise UnsupportedError("its statistics do not fit each other")
    offset = -mean * factor
    if at.given("bias"):
        offset = offset + at.tensor("bias", 1).values
    where = at.stored("running_mean").origin
    return at.make(ChannelScale(finite(factor, where), finite(offset, where)), x)


def _times(factor: np.ndarray, weight: Tensor) -> np.ndarray:
    if weight.values.shape != factor.shape:
        raise UnsupportedError("its weight does not fit its statistics")
    return factor * weight.values


def max_pool(at: At) -> Held:
    """max_pool1d and max_pool2d."""
    return _pool(at, PoolKind.MAX)


def mean_pool(at: At) -> Held:
    """avg_pool1d and avg_pool2d."""
    if at.given("divisor_override"):
        raise UnsupportedError("it has a divisor of its own; use a mean")
    return _pool(at, PoolKind.MEAN)


def _pool(at: At, kind: PoolKind) -> Held:
    x, flat = at.input(), at.call.operator.endswith("1d")
    _need_map(x, flat)
    kernel = at.pair("kernel_size", flat)
    stride = at.pair("stride", flat) if at.call.get("stride") else kernel
    pad = at.pair("padding", flat, 0)
    if at.pair("dilation", flat, 1) != (1, 1):
        raise UnsupportedError("its windows have holes; use dilation 1")
    if min(stride) < 1:
        raise UnsupportedError("its stride is below 1")
    size = x.shape[1:] if not flat else (1, *x.shape[1:])
    out = at.shape[1:] if not flat else (1, *at.shape[1:])
    if len(out) != 2:
        raise UnsupportedError(f"it makes {list(at.shape)} of {list(x.shape)}")
    # With ceil_mode the last windows may reach beyond the padding.
    reach = [
        (o - 1) * s + k - n - p
        for n, k, s, p, o in zip(size, kernel, stride, pad, out, strict=True)
    ]
    far = [max(p, r) for p, r in zip(pad, reach, strict=True)]
    if max(far) > limits.SIDE:
        raise UnsupportedError(f"it pads by more than {limits.SIDE:,}")
    beyond = tuple(far) != pad
    count_pad = at.call.flag("count_include_pad", default=True) and any(pad)
    if kind is PoolKind.MEAN and beyond and count_pad:
        raise UnsupportedError("it counts padding and has ceil_mode; use one of them")
    sides = pad[0], far[0], pad[1], far[1]
    return at.make(Pool(kind, kernel, stride, sides, kind is PoolKind.MEAN and count_pad), x)


def adaptive_mean(at: At) -> Held:
    """adaptive_avg_pool1d and 2d, where all windows are of one size."""
    x = at.input()
    if at.shape == x.shape:
        return x
    if all(n == 1 for n in at.shape[1:]):
        return at.make(Mean(tuple(range(1, len(x.shape)))), x)
    return _adaptive(at, x, PoolKind.MEAN)


def adaptive_max(at: At) -> Held:
    """adaptive_max_pool1d and 2d, where all windows are of one size and nobody asks for places."""
    return _adaptive(at, at.input(), PoolKind.MAX)


def _adaptive(at: At, x: Value, kind: PoolKind) -> Held:
    out = at.shape[1:]
    if len(out) != len(x.shape) - 1 or any(n % o for n, o in zip(x.shape[1:], out, strict=True)):
        raise UnsupportedError(
            f"windows of {list(x.shape)} for {list(out)} differ in size; export with an example "
            f"whose map is a multiple of it"
        )
    window = [n // o for n, o in zip(x.shape[1:], out, strict=True)]
    kernel = (window[0], window[1]) if len(window) == 2 else (1, window[0])
    return at.make(Pool(kind, kernel, kernel), x)


def mean(at: At) -> Held:
    """The mean over axes that are not the batch's."""
    x = at.input()
    return at.make(Mean(_axes(at, x)), x)


def total(at: At) -> Held:
    """The sum over axes that are not the batch's: a mean, times their length."""
    x = at.input()
    axes = _axes(at, x)
    count = math.prod(x.shape[a] for a in axes)
    each = at.constant(np.full((1,) * len(at.shape), count, np.float32))
    return at.make(Product(), at.step(Mean(axes), at.shape, x), each)


def largest(at: At) -> Held:
    """amax over all pixels."""
    x = at.input()
    axes = _axes(at, x)
    if len(x.shape) < 2 or axes != tuple(range(1, len(x.shape))):
        raise UnsupportedError("the largest of other axes than all pixels; use a max pool")
    size = x.shape[1:] if len(x.shape) == 3 else (1, *x.shape[1:])
    kernel = size[0], size[1]
    whole = Pool(PoolKind.MAX, kernel, kernel)
    pooled = (x.shape[0], *(1 for _ in axes))
    if at.shape == pooled:
        return at.make(whole, x)
    return at.make(Reshape(), at.step(whole, pooled, x))


def _axes(at: At, x: Value) -> tuple[int, ...]:
    if not at.call.get("dim"):
        raise UnsupportedError("it is over the batch as well; name its axes, as in x.mean((2, 3))")
    given = at.call.integers("dim")
    return tuple(sorted({at.axis(a, len(x.shape)) for a in given}))


def upsample(at: At) -> Held:
    """upsample_nearest1d and 2d, by whole numbers."""
    x = at.input(next(n for n in ("input", "self") if at.given(n) or n == "self"))
    size, out = x.shape[1:], at.shape[1:]
    if not 2 <= len(x.shape) <= 3 or len(out) != len(size):
        raise UnsupportedError("it resizes no map")
    if any(o % n for n, o in zip(size, out, strict=True)):
        raise UnsupportedError("it enlarges by no whole number; use scale_factor=2")
    factors = [o // n for n, o in zip(size, out, strict=True)]
    if len(factors) == 2:
        return at.make(Resize((factors[0], factors[1])), x)
    if out[0] > limits.SIDE:
        raise UnsupportedError(f"it makes {out[0]:,} of a side; {limits.SIDE:,} is the most")
    return at.gather(x, 1, np.repeat(range(size[0]), factors[0]).tolist())


def _need_map(x: Value, flat: bool) -> None:  # noqa: FBT001
    if len(x.shape) != (2 if flat else 3):
        raise UnsupportedError(
            f"it reads {list(x.shape)} without the batch; give an example with a batch axis, "
            f"[1, {'c, l' if flat else 'c, h, w'}]"
        )
