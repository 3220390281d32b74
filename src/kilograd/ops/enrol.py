"""Prototypes: the sums of features that a head compares with."""

from __future__ import annotations

from dataclasses import dataclass

from kilograd.ir import Builder, DType, Kernel, Node, Op, TensorType, Value
from kilograd.ops._common import array, no_macs, no_vjp, require
from kilograd.ops.head import DenseParams
from kilograd.quant import finite, ieee754


@dataclass(frozen=True, eq=False)
class EnrolParams(DenseParams):
    """A label is 0 .. classes - 1."""


@dataclass(frozen=True, eq=False)
class LookupParams(DenseParams):
    """A label is 0 .. classes - 1."""


@dataclass(frozen=True)
class Enrol(Op):
    """prototypes[label] += x: (prototypes, x, label)."""

    writes = (0,)

    def infer(self, *xs: TensorType) -> TensorType:
        p, x, label = xs
        require(len(p.shape) == 2 and x.shape == p.shape[1:], f"x {x} does not fit prototypes {p}")
        require(label.dtype is DType.I32 and label.size == 1, f"label {label} must be one int32")
        return p

    @ieee754
    def reference(self, node: Node, *xs: Value) -> tuple[Value, ...]:
        p, x, label = map(array, xs)
        out = p.copy()
        out[label[0]] = finite(out[label[0]] + x)
        return (out,)

    def vjp(self, b: Builder, node: Node, dy: Node) -> tuple[Node | None, ...]:
        _, x, label = node.inputs
        return dy, b(Lookup(), dy, label, x), None

    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        p, x, label = node.inputs
        return Kernel("kg_enrol", (x, label), EnrolParams(x.type.size, p.type.shape[0]))


@dataclass(frozen=True)
class Lookup(Op):
    """table[label]: the gradient of what was enrolled, from that of the prototypes.

    (table, label, after...): it runs after the nodes it names, so that a backward pass that could
    begin at once does not take memory from the forward pass.
    """

    def infer(self, *xs: TensorType) -> TensorType:
        table, label, *_ = xs
        require(len(table.shape) == 2 and table.dtype is DType.F32, f"{table} must be a f32 table")
        require(label.dtype is DType.I32 and label.size == 1, f"label {label} must be one int32")
        return TensorType(table.shape[1:], DType.F32)

    def reference(self, node: Node, *xs: Value) -> Value:
        table, label, *_ = map(array, xs)
        return finite(table[label[0]])

    vjp = no_vjp
    macs = no_macs

    def kernel(self, node: Node) -> Kernel:
        table, label = node.inputs[:2]
        return Kernel("kg_lookup", (table, label), LookupParams(*table.type.shape[::-1]))
