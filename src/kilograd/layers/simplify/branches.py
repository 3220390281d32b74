"""Sums of convolutions of one map become one convolution: RepVGG, MobileOne, RepGhost.

Of float networks in `Layout.CHANNELS_LAST`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kilograd.ir import Array
from kilograd.layers.network import (
    UNBOUNDED,
    ChannelScale,
    Convolution,
    Layer,
    Network,
    Sum,
    Tensor,
    Value,
)
from kilograd.layers.simplify.edit import edited, only_user


@dataclass(frozen=True, eq=False)
class _Branch:
    """A linear function of a map: a convolution, with the layer that it is from, if it is one.

    Of a map itself, or a scale of its channels, `op` is depthwise, and of one pixel.
    """

    source: Value
    op: Convolution
    layer: Layer | None


def merge_branches(network: Network) -> Network:
    """Merge the two sides of each sum that are linear in one map; sums of sums come in turn."""
    made, user = network.made(), only_user(network)
    new: dict[Layer, tuple[Layer, ...]] = {}
    for x in network.layers:
        if not isinstance(x.op, Sum) or len(x.output.shape) != 3 or x.output.quant is not None:
            continue
        if any(v.shape != x.output.shape for v in x.inputs):
            continue
        merged = _merged(x, [_branches(v, made, user) for v in x.inputs])
        if merged is None:
            continue
        layer, gone = merged
        if any(g in new for g in gone):
            continue  # another sum has taken it; this one comes in the next round
        new[x] = (layer,)
        new.update(dict.fromkeys(gone, ()))
    return edited(network, new)


def _branches(v: Value, made: dict[Value, Layer], user: dict[Value, Layer]) -> tuple[_Branch, ...]:
    """Return what a value is a linear function of: of the map that its layer reads, of itself."""
    layer = made.get(v)
    channels = v.shape[2]
    same = _Branch(v, _one_pixel(np.ones(channels), np.zeros(channels)), None)
    if layer is None or v not in user:
        return (same,)
    match layer.op:
        case Convolution(clamp=clamp, weight=weight) as op:
            if clamp == UNBOUNDED and weight.quant is None:
                return _Branch(layer.inputs[0], op, layer), same
        case ChannelScale(factor, offset):
            return _Branch(layer.inputs[0], _one_pixel(factor, offset), layer), same
    return (same,)


def _one_pixel(factor: Array, offset: Array) -> Convolution:
    weight = Tensor(factor.astype(np.float32).reshape(-1, 1, 1, 1))
    return Convolution(weight, Tensor(offset.astype(np.float32)), groups=len(factor))


def _merged(x: Layer, sides: list[tuple[_Branch, ...]]) -> tuple[Layer, list[Layer]] | None:
    """Return one layer for a sum, and the layers that go; None where there is no such layer."""
    assert isinstance(x.op, Sum)  # noqa: S101
    for a in sides[0]:
        for b in sides[1]:
            layers = [s.layer for s in (a, b) if s.layer is not None]
            if a.source != b.source or not layers:
                continue
            op = _sum(a.op, b.op, a.source.shape[2])
            if op is not None:
                # The branch with the largest kernel gives its name.
                first = max(layers, key=_size)
                merged = replace(op, clamp=x.op.clamp)
                return Layer(first.name, merged, (a.source,), x.output), layers
    return None


def _size(x: Layer) -> int:
    return int(x.op.weight.values.size) if isinstance(x.op, Convolution) else 0


def _sum(a: Convolution, b: Convolution, channels: int) -> Convolution | None:
    """Return two convolutions of one map [h, w, channels] as one."""
    if a.stride != b.stride or {a.dilation, b.dilation} != {(1, 1)}:
        return None
    a, b = sorted((a, b), key=lambda op: op.groups)
    whole = _regrouped(b, a.groups, channels)
    if whole is None:
        return None
    large, small = (a, whole) if a.weight.values.size >= whole.weight.values.size else (whole, a)
    placed = _placed(small, large)
    if placed is None:
        return None
    biases = [op.bias.values for op in (a, b) if op.bias is not None]
    total = np.asarray(np.sum(biases, axis=0, dtype=np.float64))
    bias = Tensor(total.astype(np.float32)) if biases else None
    return replace(large, weight=Tensor(large.weight.values + placed), bias=bias)


def _regrouped(op: Convolution, groups: int, channels: int) -> Convolution | None:
    """Return a convolution with fewer groups, zeros in its filters; only one of one pixel."""
    if op.groups == groups:
        return op
    w = op.weight.values
    if w.shape[1:] != (1, 1, 1) or len(w) != channels:
        return None
    each = channels // groups
    whole = np.zeros((channels, 1, 1, each), w.dtype)
    index = np.arange(channels)
    whole[index, 0, 0, index % each] = w[:, 0, 0, 0]
    return replace(op, weight=Tensor(whole), groups=groups)


def _placed(small: Convolution, large: Convolution) -> Array | None:
    """Return the filters of one within kernels as large as those of the other."""
    out = np.zeros_like(large.weight.values)
    top, left = large.pad[0] - small.pad[0], large.pad[2] - small.pad[2]
    kh, kw = small.weight.values.shape[1:3]
    if min(top, left) < 0 or top + kh > out.shape[1] or left + kw > out.shape[2]:
        return None
    out[:, top : top + kh, left : left + kw] = small.weight.values
    return out
