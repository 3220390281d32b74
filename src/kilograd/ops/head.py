"""The float32 head: features to logits, linear or by distance to prototypes.

Sums run first element first, so that every machine rounds alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from kilograd import limits
from kilograd.ir import (
    Array,
    Block,
    BlockExponent,
    Builder,
    DType,
    Kernel,
    Node,
    Op,
    Params,
    Range,
    TensorType,
    Value,
)
from kilograd.ir.params import Bits, Code, Count, Length, Scale
from kilograd.ops._common import Normalising, array, no_macs, no_vjp, require
from kilograd.quant import ZERO_EXPONENT, finite, ieee754, running_sum

Sharpness = Annotated[float, Range("float", 1 / limits.SHARPNESS, limits.SHARPNESS)]
"""What cosines are multiplied by."""


@dataclass(frozen=True, eq=False)
class DequantiseParams(Params):
    """`size` codes to real numbers."""

    size: Length
    zero: Code
    scale: Scale


@dataclass(frozen=True, eq=False)
class ToBlockParams(Params):
    """`size` real numbers to mantissas of at most `bits` bits."""

    size: Length
    bits: Bits


@dataclass(frozen=True, eq=False)
class DenseParams(Params):
    """A linear layer from `features` to `classes`."""

    features: Length
    classes: Count
    products = ((4, "features", "classes"),)


@dataclass(frozen=True, eq=False)
class DenseInputGradParams(DenseParams):
    """The gradient of the features."""


@dataclass(frozen=True, eq=False)
class DenseWeightGradParams(DenseParams):
    """The gradient of the weights."""


@dataclass(frozen=True, eq=False)
class CosineParams(Params):
    """Cosines to a prototype for each of `classes`, times `scale`."""

    features: Length
    classes: Count
    scale: Sharpness
    products = ((4, "features", "classes"),)


@dataclass(frozen=True, eq=False)
class CosineInputGradParams(CosineParams):
    """The gradient of the features."""


@dataclass(frozen=True, eq=False)
class CosinePrototypeGradParams(CosineParams):
    """The gradient of the prototypes."""


@dataclass(frozen=True)
class Dequantise(Op):
    """int8 codes to the float32 numbers they stand for, flattened."""

    def infer(self, *xs: TensorType) -> TensorType:
        (x,) = xs
        require(x.dtype is DType.I8 and x.affine.axis is None, f"{x} must be int8 with one scale")
        return TensorType((x.size,), DType.F32)

    def reference(self, node: Node, *xs: Value) -> Value:
        quant = node.inputs[0].type.affine
        codes = array(xs[0]).ravel().astype(np.int32) - quant.zero_point
        return codes.astype(np.float32) * np.float32(quant.scale[0])

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return (b(ToBlock(node.inputs[0].type.shape), dy),)

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        quant = node.inputs[0].type.affine
        return Kernel(
            "kg_dequantise",
            node.inputs,
            DequantiseParams(node.type.size, quant.zero_point, quant.scale[0]),
        )


@dataclass(frozen=True)
class ToBlock(Normalising):
    """float32 to mantissas with a shared exponent, rounded to odd; zero if the
    largest magnitude is below 2**-101.
    """

    shape: tuple[int, ...]

    def infer(self, *xs: TensorType) -> TensorType:
        out = TensorType(self.shape, DType.I16, BlockExponent(self.bits))
        require(xs[0].size == out.size, f"{xs[0]} does not fill {self.shape}")
        return out

    def reference(self, node: Node, *xs: Value) -> Value:
        x = array(xs[0]).reshape(self.shape)
        exponent = int(np.frexp(np.abs(x).max(initial=0))[1])
        if not x.any() or exponent < -100:
            return Block(np.zeros(self.shape, np.int16), ZERO_EXPONENT)
        scaled = np.ldexp(x, self.bits - exponent).astype(np.float32)
        floor = np.floor(scaled).astype(np.int32)
        return Block((floor | (floor != scaled)).astype(np.int16), exponent - self.bits)

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        return Kernel("kg_to_block", node.inputs, ToBlockParams(node.type.size, self.bits))


@dataclass(frozen=True)
class Dense(Op):
    """logits[k] = b[k] + sum_i x[i] * w[k, i]."""

    def infer(self, *xs: TensorType) -> TensorType:
        x, w, b = xs
        require(len(w.shape) == 2 and x.shape == w.shape[1:], f"x {x} does not fit w {w}")
        require(b.shape == w.shape[:1], f"b {b} does not fit w {w}")
        return TensorType(b.shape, DType.F32)

    @ieee754
    def reference(self, node: Node, *xs: Value) -> Value:
        x, w, b = map(array, xs)
        return finite(running_sum(np.concatenate([b[:, None], x * w], axis=1)))

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        x, w, _ = node.inputs
        return b(DenseInputGrad(), dy, w), b(DenseWeightGrad(), x, dy), dy

    def macs(self, node: Node) -> int:
        return node.inputs[1].type.size

    def kernel(self, node: Node) -> Kernel:
        k, n = node.inputs[1].type.shape
        return Kernel("kg_dense", node.inputs, DenseParams(n, k))


@dataclass(frozen=True)
class DenseInputGrad(Op):
    """dx[i] = sum_k dy[k] * w[k, i]."""

    def infer(self, *xs: TensorType) -> TensorType:
        dy, w = xs
        require(len(w.shape) == 2 and dy.shape == w.shape[:1], f"dy {dy} does not fit w {w}")
        return TensorType(w.shape[1:], DType.F32)

    @ieee754
    def reference(self, node: Node, *xs: Value) -> Value:
        dy, w = map(array, xs)
        return finite(running_sum((dy[:, None] * w).T))

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        return node.inputs[1].type.size

    def kernel(self, node: Node) -> Kernel:
        k, n = node.inputs[1].type.shape
        return Kernel("kg_dense_input_grad", node.inputs, DenseInputGradParams(n, k))


@dataclass(frozen=True)
class DenseWeightGrad(Op):
    """dw[k, i] = dy[k] * x[i]."""

    update_symbol = "kg_dense_weight_update"

    def infer(self, *xs: TensorType) -> TensorType:
        x, dy = xs
        return TensorType((dy.size, x.size), DType.F32)

    def reference(self, node: Node, *xs: Value) -> Value:
        x, dy = map(array, xs)
        return dy[:, None] * x

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        return node.type.size

    def kernel(self, node: Node) -> Kernel:
        k, n = node.type.shape
        return Kernel("kg_dense_weight_grad", node.inputs, DenseWeightGradParams(n, k))


def _norms(x: Array, prototypes: Array) -> tuple[Array, Array]:
    norm = np.sqrt(running_sum(x * x)).astype(np.float32)
    return norm, np.sqrt(running_sum(prototypes * prototypes)).astype(np.float32)


def _pulls(
    dy: Array, x: Array, p: Array, scale: float
) -> Iterator[tuple[int, np.float32, np.float32]]:
    """Yield k, dy[k] * scale / (|x| |p[k]|), dy[k] * scale * cos[k], where both have a length."""
    norm, norms = _norms(x, p)
    for k in range(len(p)):
        length = np.float32(norm * norms[k])
        if not length > 0:
            continue
        cosine = np.float32(running_sum(x * p[k]) / length)
        weight = np.float32(dy[k] * np.float32(scale))
        yield k, np.float32(weight / length), np.float32(weight * cosine)


@dataclass(frozen=True)
class Cosine(Op):
    """logits[k] = scale * cos(x, prototypes[k]); 0 where either is zero.

    The length of a prototype does not matter, so sums serve as means.  Prototypes are detached:
    they have a gradient only if `exact`.
    """

    scale: float = 10.0
    exact: bool = False

    def infer(self, *xs: TensorType) -> TensorType:
        x, p = xs
        require(len(p.shape) == 2 and x.shape == p.shape[1:], f"x {x} does not fit prototypes {p}")
        return TensorType(p.shape[:1], DType.F32)

    @ieee754
    def reference(self, node: Node, *xs: Value) -> Value:
        x, p = map(array, xs)
        norm, norms = _norms(x, p)
        length = norm * norms
        dots = running_sum(x * p)
        cosine = np.divide(dots, length, out=np.zeros_like(dots), where=length > 0)
        return finite(cosine * np.float32(self.scale))

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        x, p = node.inputs
        dp = b(CosinePrototypeGrad(self.scale), dy, x, p) if self.exact else None
        return b(CosineInputGrad(self.scale), dy, x, p), dp

    def macs(self, node: Node) -> int:
        return node.inputs[1].type.size

    def kernel(self, node: Node) -> Kernel:
        k, n = node.inputs[1].type.shape
        return Kernel("kg_cosine", node.inputs, CosineParams(n, k, self.scale))


@dataclass(frozen=True)
class CosineInputGrad(Op):
    """dx = sum_k dy[k] * scale * (p[k]/|p[k]| - cos[k] * x/|x|) / |x|."""

    scale: float = 10.0

    def infer(self, *xs: TensorType) -> TensorType:
        dy, x, p = xs
        require(dy.shape == p.shape[:1], f"dy {dy} does not fit prototypes {p}")
        return x

    @ieee754
    def reference(self, node: Node, *xs: Value) -> Value:
        dy, x, p = map(array, xs)
        norm, _ = _norms(x, p)
        terms = [np.zeros_like(x)]
        for k, along, turn in _pulls(dy, x, p, self.scale):
            back = np.float32(turn / np.float32(norm * norm))
            terms.append(along * p[k] - back * x)
        return finite(running_sum(np.stack(terms, axis=-1)))

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        return node.inputs[2].type.size

    def kernel(self, node: Node) -> Kernel:
        k, n = node.inputs[2].type.shape
        params = CosineInputGradParams(n, k, self.scale)
        return Kernel("kg_cosine_input_grad", node.inputs, params)


@dataclass(frozen=True)
class CosinePrototypeGrad(Op):
    """dp[k] = dy[k] * scale * (x/|x| - cos[k] * p[k]/|p[k]|) / |p[k]|."""

    scale: float = 10.0

    def infer(self, *xs: TensorType) -> TensorType:
        dy, x, p = xs
        require(dy.shape == p.shape[:1], f"dy {dy} does not fit prototypes {p}")
        require(x.shape == p.shape[1:], f"x {x} does not fit prototypes {p}")
        return TensorType(p.shape, DType.F32)

    @ieee754
    def reference(self, node: Node, *xs: Value) -> Value:
        dy, x, p = map(array, xs)
        _, norms = _norms(x, p)
        out = np.zeros_like(p)
        for k, along, turn in _pulls(dy, x, p, self.scale):
            back = np.float32(turn / np.float32(norms[k] * norms[k]))
            out[k] = along * x - back * p[k]
        return finite(out)

    vjp = no_vjp

    def macs(self, node: Node) -> int:
        return node.type.size

    def kernel(self, node: Node) -> Kernel:
        k, n = node.type.shape
        params = CosinePrototypeGradParams(n, k, self.scale)
        return Kernel("kg_cosine_prototype_grad", node.inputs, params)
