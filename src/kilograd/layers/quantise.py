"""The quantiser: a float network and ranges of its activations make a network in int8 codes.

Weights are symmetric, one scale an output channel, codes -127 to 127; activations asymmetric, one
scale a tensor; biases int32.  What `docs/arithmetic.md` computes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from kilograd.errors import InputError
from kilograd.ir import Affine
from kilograd.layers.calibrate import Calibration, Range, Samples, affine, checked, ranges
from kilograd.layers.correct import corrected
from kilograd.layers.network import (
    UNBOUNDED,
    Bounds,
    Clamp,
    Constant,
    Convolution,
    Dense,
    Layer,
    Layout,
    Network,
    Pool,
    Product,
    Sum,
    Value,
)
from kilograd.layers.parameters import parameters
from kilograd.layers.report import Report, compared
from kilograd.layers.sharing import Same, moves_codes, sharing


@dataclass(frozen=True)
class Recipe:
    """How a network is quantised.

    `correct_bias`: biases take up what rounding the weights adds to the mean of each channel.
    """

    calibration: Calibration = field(default_factory=Calibration)
    correct_bias: bool = True


@dataclass(frozen=True, eq=False)
class Quantised:
    """A network in codes, and how near it is to the one in reals."""

    network: Network
    report: Report


def quantise(network: Network, samples: Samples, recipe: Recipe | None = None) -> Quantised:
    """Quantise a plain float network (`simplify`) for samples of the data that it is for.

    An input whose value has a quantisation keeps it; others get that of their samples.

    Raises `InputError` for samples of another shape, constant ones, or numbers that are not finite.
    """
    recipe = recipe or Recipe()
    doubts = checked(network, samples)
    made = coded(network, ranges(network, samples, recipe.calibration))
    if recipe.correct_bias:
        made = corrected(network, made, samples)
    return Quantised(made, compared(network, made, samples, doubts))


def coded(network: Network, observed: Mapping[Value, Range], same: Same | None = None) -> Network:
    """Return a float network with codes for weights and activations, for ranges observed before.

    `same`: further values that take a quantisation, beside those whose layer moves what it reads.
    """
    if network.layout is not Layout.CHANNELS_LAST or network.quantised:
        raise InputError(f"{network.name} has codes already, or is not made plain")
    quants = _quantisations(network, observed, same or {})
    new = {v: replace(v, quant=quants[v]) for v in network.values()}
    return replace(
        network,
        inputs=tuple(new[v] for v in network.inputs),
        outputs=tuple(new[v] for v in network.outputs),
        layers=tuple(_layer(x, new) for x in network.layers),
    )


def _quantisations(
    network: Network, observed: Mapping[Value, Range], same: Same
) -> dict[Value, Affine]:
    """Return the quantisation of each value; those of one group share it."""
    bounds = {x.output: _bounds(x) for x in network.layers}
    spans = {v: _within(observed[v], bounds.get(v, UNBOUNDED)) for v in network.values()}
    groups = sharing(network, spans, same)
    fixed = {groups[v]: v.quant for v in network.inputs if v.quant is not None}
    moved = {x.output for x in network.layers if moves_codes(x)} | set(same)
    members: dict[Value, list[Range]] = {}
    one_sided: dict[Value, bool] = {}
    for v, g in groups.items():
        if v in same:
            continue
        members.setdefault(g, []).append(spans[v])
        if v not in moved:  # what is moved is as far from zero as what it is moved from
            given = v in network.inputs and spans[v][0] >= 0  # nothing clamps an input
            one_sided[g] = one_sided.get(g, True) and (bounds.get(v, UNBOUNDED)[0] == 0 or given)
    out: dict[Value, Affine] = {}
    for v, g in groups.items():
        span = min(low for low, _ in members[g]), max(high for _, high in members[g])
        out[v] = fixed.get(g) or affine(span, one_sided=one_sided.get(g, span[0] >= 0))
    return out


def _within(observed: Range, bounds: Bounds) -> Range:
    """Return the range that is left behind a clamp; zero always has a code."""
    low, high = max(observed[0], bounds[0]), min(observed[1], bounds[1])
    return min(low, 0.0), max(high, 0.0)


def _bounds(x: Layer) -> Bounds:
    """Return what a layer clamps its output to."""
    match x.op:
        case Convolution() | Dense() | Sum() | Product() | Pool():
            return x.op.clamp
        case Clamp(bounds):
            return bounds
        case _:
            return UNBOUNDED


def _layer(x: Layer, new: Mapping[Value, Value]) -> Layer:
    inputs, output = tuple(new[v] for v in x.inputs), new[x.output]
    op = x.op
    match op:
        case Convolution() | Dense():
            step = inputs[0].quant
            assert step is not None  # noqa: S101
            weight, bias = parameters(op.weight, op.bias, step)
            op = replace(op, weight=weight, bias=bias)
        case Constant(tensor):
            assert output.quant is not None  # noqa: S101
            scaled = np.rint(tensor.values / output.quant.scale[0]) + output.quant.zero_point
            numbers = np.clip(scaled, -128, 127).astype(np.int8)
            op = Constant(replace(tensor, values=numbers, quant=output.quant))
    return Layer(x.name, op, inputs, output)
