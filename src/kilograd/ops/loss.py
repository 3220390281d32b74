"""The loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kilograd.ir import Array, Builder, DType, Kernel, Node, Op, Params, TensorType, Value
from kilograd.ir.params import Count
from kilograd.ops._common import array, no_macs, no_vjp, require
from kilograd.quant import exp32, finite, ieee754, log32, running_sum


@dataclass(frozen=True, eq=False)
class CrossEntropyParams(Params):
    """A label is 0 .. classes - 1."""

    classes: Count


@dataclass(frozen=True, eq=False)
class CrossEntropyGradParams(CrossEntropyParams):
    """As for `kg_cross_entropy`."""


def _exponentials(logits: Array) -> tuple[Array, Array]:
    shifted = logits - logits.max()
    return shifted, exp32(shifted)


@dataclass(frozen=True)
class CrossEntropy(Op):
    """-log softmax(logits)[label]."""

    def infer(self, *xs: TensorType) -> TensorType:
        logits, label = xs
        require(len(logits.shape) == 1 and logits.size > 0, f"logits {logits} must be a vector")
        require(label.dtype is DType.I32 and label.size == 1, f"label {label} must be one int32")
        return TensorType((1,), DType.F32)

    @ieee754
    def reference(self, node: Node, *xs: Value) -> Value:
        logits, label = map(array, xs)
        shifted, e = _exponentials(logits)
        loss = log32(running_sum(e)) - shifted[label[0]]
        return finite(np.array([loss]))

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        return b(CrossEntropyGrad(), *node.inputs, dy), None

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        return Kernel("kg_cross_entropy", node.inputs, CrossEntropyParams(node.inputs[0].type.size))


@dataclass(frozen=True)
class CrossEntropyGrad(Op):
    """(softmax(logits) - onehot(label)) * dy."""

    def infer(self, *xs: TensorType) -> TensorType:
        return xs[0]

    @ieee754
    def reference(self, node: Node, *xs: Value) -> Value:
        logits, label, dy = map(array, xs)
        _, e = _exponentials(logits)
        p = e / running_sum(e)
        p[label[0]] -= np.float32(1)
        return np.asarray(p * dy[0])

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        params = CrossEntropyGradParams(node.type.size)
        return Kernel("kg_cross_entropy_grad", node.inputs, params)
