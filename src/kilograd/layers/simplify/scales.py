"""Batch normalisation, and sums and products with constants: into the weights beside them.

Of float networks in `Layout.CHANNELS_LAST`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kilograd.ir import Array
from kilograd.layers.network import (
    UNBOUNDED,
    ChannelScale,
    Clamp,
    Convolution,
    Dense,
    Layer,
    Network,
    Product,
    Reshape,
    Sum,
    Tensor,
    Value,
)
from kilograd.layers.simplify.edit import by_channel, constants, edited, only_user

Edits = dict[Layer, tuple[Layer, ...]]


def name_scales(network: Network) -> Network:
    """Write sums and products with a constant, one number a channel, as scales of channels."""
    numbers = constants(network)
    new: Edits = {}
    for x in network.layers:
        if isinstance(x.op, Sum | Product) and x.output.quant is None:
            scale = _channel_scale(x, numbers)
            if scale is not None:
                new[x] = scale
    return edited(network, new)


def _channel_scale(x: Layer, numbers: Mapping[Value, Tensor]) -> tuple[Layer, ...] | None:
    assert isinstance(x.op, Sum | Product)  # noqa: S101
    for v, other in (x.inputs, x.inputs[::-1]):
        constant = by_channel(numbers.get(other), x.output.shape)
        if constant is None or v in numbers or v.shape != x.output.shape:
            continue
        factor, offset = np.ones_like(constant), np.zeros_like(constant)
        op = ChannelScale(factor, constant)
        if isinstance(x.op, Product):
            op = ChannelScale(constant, offset)
        if x.op.clamp == UNBOUNDED:
            return (Layer(x.name, op, (v,), x.output),)
        inner = Value(f"{x.output.name} before its clamp", x.output.shape)
        return (
            Layer(x.name, op, (v,), inner),
            Layer(f"{x.name}.clamp", Clamp(x.op.clamp), (inner,), x.output),
        )
    return None


def fold_scales(network: Network) -> Network:
    """Fold scales of channels into the layer before, the layer behind, or each other."""
    user = only_user(network)
    made = network.made()
    new: Edits = {}
    for x in network.layers:
        if not isinstance(x.op, ChannelScale):
            continue
        before, after = made.get(x.inputs[0]), user.get(x.output)
        if before is not None and before not in new and user.get(before.output) is x:
            op = _behind(before, x.op)
            if op is not None:
                new[before] = (Layer(_kept_name(before, x), op, before.inputs, x.output),)
                new[x] = ()
                continue
        if after is not None and after not in new and after.inputs[0] == x.output:
            op = _before(after, x.op)
            if op is not None:
                new[x] = ()
                new[after] = (Layer(after.name, op, x.inputs, after.output),)
    return edited(network, new)


def _kept_name(before: Layer, x: Layer) -> str:
    return x.name if isinstance(before.op, ChannelScale) else before.name


def _behind(layer: Layer, scale: ChannelScale) -> Convolution | Dense | ChannelScale | None:
    """Return a layer and a scale of what it gives as one operation."""
    factor, offset = scale.factor.astype(np.float64), scale.offset.astype(np.float64)
    match layer.op:
        case ChannelScale(f, o):
            return ChannelScale(_f32(f * factor), _f32(o * factor + offset))
        case Convolution() | Dense():
            op = layer.op
            if op.clamp != UNBOUNDED or op.weight.quant is not None:
                return None
            w = op.weight.values * factor.reshape(-1, *(1,) * (op.weight.values.ndim - 1))
            return replace(op, weight=_like(op.weight, w), bias=_bias(op, factor, offset))
        case _:
            return None


def _before(layer: Layer, scale: ChannelScale) -> Convolution | Dense | None:
    """Return a scale and the layer that reads what it gives as one operation."""
    factor, offset = scale.factor.astype(np.float64), scale.offset.astype(np.float64)
    op = layer.op
    if not isinstance(op, Convolution | Dense) or op.weight.quant is not None:
        return None
    w = op.weight.values.astype(np.float64)
    if isinstance(op, Convolution):
        if any(op.pad) and offset.any():
            return None  # padding is zero behind the scale, and would be something else before it
        read = _inputs_of_filters(op, len(factor))
        along = (len(w), 1, 1, w.shape[3])
        factor, offset = factor[read].reshape(along), offset[read].reshape(along)
    shift = (w * offset).sum(tuple(range(1, w.ndim)))
    bias = _bias(op, np.ones(len(w)), shift)
    return replace(op, weight=_like(op.weight, w * factor), bias=bias)


def _inputs_of_filters(op: Convolution, channels: int) -> Array:
    """Return which input channels each filter reads, [out, in / groups]."""
    out, each = len(op.weight.values), channels // op.groups
    group = np.arange(out) // (out // op.groups)
    return group[:, None] * each + np.arange(each)


def _bias(op: Convolution | Dense, factor: Array, offset: Array) -> Tensor:
    old = 0.0 if op.bias is None else op.bias.values.astype(np.float64)
    values = _f32(old * factor + offset)
    return Tensor(values) if op.bias is None else replace(op.bias, values=values)


def _like(old: Tensor, values: Array) -> Tensor:
    return replace(old, values=_f32(values))


def _f32(x: Array) -> Array:
    return x.astype(np.float32)


def scales_to_convolutions(network: Network) -> Network:
    """Make the scales that are left depthwise convolutions of one pixel."""
    new: Edits = {}
    for x in network.layers:
        if isinstance(x.op, ChannelScale):
            weight = Tensor(_f32(x.op.factor).reshape(-1, 1, 1, 1))
            op = Convolution(weight, Tensor(_f32(x.op.offset)), groups=len(x.op.factor))
            new[x] = _on_maps(x, op)
    return edited(network, new)


def _on_maps(x: Layer, op: Convolution) -> tuple[Layer, ...]:
    """Return a convolution, with reshapes around it if it is of vectors."""
    shape = x.output.shape
    if len(shape) == 3:
        return (Layer(x.name, op, x.inputs, x.output),)
    whole = (1, math.prod(shape[:-1]), shape[-1])
    before, after = (Value(f"{x.output.name} as a map {i}", whole) for i in (1, 2))
    return (
        Layer(before.name, Reshape(), x.inputs, before),
        Layer(x.name, op, (before,), after),
        Layer(f"{x.name}.flat", Reshape(), (after,), x.output),
    )
