"""Programs that compute in codes: quantize and dequantize, as PT2E's quantisers write them.

A value that is quantised gets what its codes mean; ReLU and clamp between a layer and its codes
become the clamp of that layer.  Weights keep their codes; biases, which PT2E leaves in float32, get
some.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kilograd.frontend.torch_export.building import At, Held
from kilograd.frontend.torch_export.program import Stored
from kilograd.ir import Affine
from kilograd.layers.network import (
    UNBOUNDED,
    Clamp,
    Convolution,
    Dense,
    Layer,
    Pool,
    Product,
    Requantise,
    Sum,
    Value,
)
from kilograd.layers.unsupported import UnsupportedError


def quantize(at: At) -> Held:
    """quantize_per_tensor: what its input is in codes."""
    x, quant = at.input("input"), _affine(at)
    if x.quant == quant:
        return x
    coded = Value(at.call.outputs[0], x.shape, quant)
    if x.quant is not None:
        return at.building.make(at.call.outputs[0], Requantise(), (x,), coded)
    if at.building.read_later(x, at.index) or any(x in y.inputs for y in at.building.layers):
        raise UnsupportedError(
            "what it reads is read in float as well; quantise all of its readers"
        )
    if x in at.building.inputs:
        coded = replace(x, quant=quant)  # the device is given codes
        at.building.inputs[at.building.inputs.index(x)] = coded
    made = next((i for i, y in enumerate(at.building.layers) if y.output == x), None)
    if made is not None:  # else an input, or what a call would make that was refused
        _set_output(at, made, coded)
    for name, held in at.building.held.items():
        if held == x:
            at.building.held[name] = coded
    return coded


def _set_output(at: At, made: int, coded: Value) -> None:
    """Let a layer make codes; one that only clamps what another makes goes into that."""
    layers = at.building.layers
    layer = layers[made]
    if isinstance(layer.op, Clamp):
        (inner,) = layer.inputs
        before = next((i for i, y in enumerate(layers) if y.output == inner), None)
        others = [y for y in layers if inner in y.inputs and y is not layer]
        if before is not None and not others and not at.building.read_later(inner, at.index):
            clamped = _clamped(layers[before], layer.op, coded)
            if clamped is not None:
                layers[before] = clamped
                del layers[made]
                return
    layers[made] = replace(layer, output=coded)


def _clamped(layer: Layer, clamp: Clamp, coded: Value) -> Layer | None:
    op = layer.op
    if not isinstance(op, Convolution | Dense | Sum | Product | Pool) or op.clamp != UNBOUNDED:
        return None
    if layer.output.quant is not None:
        return None
    return replace(layer, op=replace(op, clamp=clamp.bounds), output=coded)


def dequantize(at: At) -> Held:
    """dequantize_per_tensor: what the codes stand for."""
    held, quant = at.held(at.call.get("input")), _affine(at)
    if isinstance(held, Stored):
        return _coded_weights(held, replace(quant, scale=quant.scale * len(held.array), axis=0))
    if held.quant != quant:
        raise UnsupportedError(
            "it reads codes of another scale or zero point than they were made with"
        )
    return held


def dequantize_channels(at: At) -> Held:
    """dequantize_per_channel, of weights."""
    held = at.stored("input")
    scales, zeros = (at.stored(n).array for n in ("scales", "zero_points"))
    if at.call.integer("axis") != 0 or scales.shape != held.array.shape[:1] or np.any(zeros):
        raise UnsupportedError("its weights have zero points, or their scales are not of outputs")
    return _coded_weights(held, Affine(tuple(map(float, scales)), axis=0))


def _coded_weights(held: Stored, quant: Affine) -> Stored:
    if held.array.dtype not in (np.int8, np.int32) or quant.zero_point != 0:
        raise UnsupportedError(
            f"{held.origin!r} has codes of {held.array.dtype} with zero point {quant.zero_point}; "
            f"quantise weights to int8, symmetrically"
        )
    if not all(np.isfinite(s) and s > 0 for s in quant.scale):
        raise UnsupportedError(f"{held.origin!r} has scales that are not above zero")
    return replace(held, quant=quant)


def _affine(at: At) -> Affine:
    scale, zero = at.call.number("scale"), at.call.integer("zero_point")
    dtype = at.call.text("dtype")
    limits = at.call.integer("quant_min"), at.call.integer("quant_max")
    weights = dtype in {"int8", "int32"} and "dequantize" in at.call.target  # whose codes are there
    if not weights and (dtype, limits) != ("int8", (-128, 127)):
        raise UnsupportedError("activations are read in int8 from -128 to 127; quantise to them")
    if not (np.isfinite(scale) and scale > 0 and -128 <= zero <= 127):
        raise UnsupportedError(f"its scale {scale} or zero point {zero} is none of int8 codes")
    return Affine((scale,), zero)
