"""How much the loss would feel the loss of a channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kilograd.ir import DType, Kernel, Node, Op, Params, TensorType, Value
from kilograd.ir.params import Code, Count, Scale
from kilograd.ops._common import array, block, no_macs, no_vjp, require
from kilograd.quant import finite, ieee754, pow2


@dataclass(frozen=True, eq=False)
class FisherSumParams(Params):
    """A map and its gradient; zero point and scale are of the map."""

    pixels: Count
    channels: Count
    zero: Code
    scale: Scale
    products = (("pixels", "channels"),)


@dataclass(frozen=True)
class FisherSum(Op):
    """sums[c] += (sum over pixels of activation * gradient)^2 / 2: (sums, activation, gradient).

    The sums over samples, divided by their number, are the empirical Fisher information of a gate
    on each channel (TinyTrain, eq. 2; Theis et al. 2018).
    """

    writes = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        sums, a, g = xs
        require(len(a.shape) == 3 and a.dtype is DType.I8, f"{a} must be an int8 map")
        require(g.shape == a.shape, f"gradient {g} does not fit {a}")
        require(
            sums.dtype is DType.F32 and sums.shape == a.shape[2:],
            f"sums {sums} must be f32[{a.shape[2]}]",
        )
        return sums

    @ieee754
    def reference(self, node: Node, *xs: Value) -> tuple[Value, ...]:
        sums, a, g = array(xs[0]), array(xs[1]), block(xs[2])
        kind = node.inputs[1].type.affine
        centred = a.astype(np.int64) - kind.zero_point
        total = (centred * g.mantissa).sum(axis=(0, 1)).astype(np.float32)
        gate = total * finite(pow2(g.exponent) * np.float32(kind.scale[0]))
        return (finite(sums + np.float32(0.5) * (gate * gate)),)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        _, a, g = node.inputs
        height, width, channels = a.type.shape
        quant = a.type.affine
        params = FisherSumParams(height * width, channels, quant.zero_point, quant.scale[0])
        return Kernel("kg_fisher_sum", (a, g), params)
