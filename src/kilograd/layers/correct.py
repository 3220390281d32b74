"""Biases that take up the mean error of rounded weights and activations.

As M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019,
where there are samples: the mean over them, layer by layer, each on what those before it give.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kilograd.ir import Array
from kilograd.layers.calibrate import Samples
from kilograd.layers.evaluate import Arithmetic, applied, real, rounded
from kilograd.layers.network import UNBOUNDED, Convolution, Dense, Layer, Network
from kilograd.layers.parameters import bias_codes

_SAMPLES = 64  # means over more hardly differ
_F32 = np.dtype(np.float32)


def corrected(floats: Network, coded: Network, samples: Samples) -> Network:
    """Return a network in codes with other biases; `floats` has the same layers in reals."""
    some = {k: x[:_SAMPLES].astype(np.float32) for k, x in samples.items()}
    last = {v.name: i for i, x in enumerate(floats.layers) for v in x.inputs}
    right: dict[str, Array] = dict(some)
    got = {v.name: rounded(some[v.name], v.quant, Arithmetic.CODES) for v in coded.inputs}
    layers: list[Layer] = []
    for i, (a, b) in enumerate(zip(floats.layers, coded.layers, strict=True)):
        xs, qs = [right[v.name] for v in a.inputs], [got[v.name] for v in b.inputs]
        new = _corrected(a, b, xs[0], qs[0], floats) if isinstance(a.op, Convolution | Dense) else b
        layers.append(new)
        for v in a.inputs:
            if last[v.name] == i:
                right.pop(v.name, None)
                got.pop(v.name, None)
        right[a.output.name] = applied(a, xs, floats.layout, _F32)
        q = applied(new, qs, coded.layout, _F32)
        got[new.output.name] = rounded(q, new.output.quant, Arithmetic.CODES)
    return replace(coded, layers=tuple(layers))


def _corrected(a: Layer, b: Layer, x: Array, q: Array, floats: Network) -> Layer:
    """Return a layer in codes whose channels have the means of the layer in reals."""
    right, got = (
        applied(_unclamped(layer), [inputs], floats.layout, _F32)
        for layer, inputs in ((a, x), (b, q))
    )
    op, step = b.op, b.inputs[0].quant
    assert isinstance(op, Convolution | Dense)  # noqa: S101
    assert op.bias is not None  # noqa: S101
    assert op.weight.quant is not None  # noqa: S101
    assert step is not None  # noqa: S101
    error = (right - got).mean(tuple(range(right.ndim - 1)), dtype=np.float64)
    values = real(op.bias, np.float64) + error
    bias = bias_codes(values, op.weight.quant.scale, step, op.bias.origin)
    return replace(b, op=replace(op, bias=bias))


def _unclamped(x: Layer) -> Layer:
    assert isinstance(x.op, Convolution | Dense)  # noqa: S101
    return replace(x, op=replace(x.op, clamp=UNBOUNDED))
