"""Proof that no int32 accumulator can overflow.

For every sum of products the largest magnitude that any data could give is computed from the
frozen weights, the ranges of int8 codes, and 127 for weights that learn.  Where a gradient with
15-bit mantissas could overflow a later sum, its mantissas are narrowed until it cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from kilograd.ir import Array, BlockExponent, Builder, DType, Graph, Node, rewrite
from kilograd.ops import (
    ConvInputGrad,
    ConvWeightGrad,
    Copy,
    DepthwiseInputGrad,
    DepthwiseWeightGrad,
    FisherSum,
    GroupedInputGrad,
    GroupedWeightGrad,
    LayerOp,
    MaxPoolGrad,
    MeanPoolGrad,
    Overlay,
    ProductSumGrad,
    RowUpdate,
    SumPixels,
    UpsampleGrad,
)
from kilograd.ops._common import Normalising
from kilograd.ops.update import BIAS_LIMIT

_INT32 = (1 << 31) - 1
_WIDEST_WEIGHT = 127


class AccumulatorError(ValueError):
    """A sum of products could exceed int32."""


@dataclass(frozen=True)
class Bound:
    """The largest magnitude that the accumulators of a node can reach."""

    node: str
    worst: int


def _magnitudes(graph: Graph, w: Node, learned: frozenset[str]) -> Array:
    """Return the largest magnitude that each weight can have."""
    first = w.inputs[0] if isinstance(w.op, Overlay | Copy) else w
    out = np.abs(graph.data[first.name].astype(np.int64))
    # a file may begin with -128, which no update makes
    if isinstance(w.op, Overlay):
        part = (slice(None),) * w.op.axis + (list(w.op.index),)
        out[part] = np.maximum(out[part], _WIDEST_WEIGHT)
    elif w.name in learned or isinstance(w.op, Copy):
        out = np.maximum(out, _WIDEST_WEIGHT)
    return out


def _code_range(x: Node) -> int:
    zero = x.type.affine.zero_point
    return max(zero + 128, 127 - zero)


def _pixels(dy: Node) -> int:
    return dy.type.size // dy.type.shape[-1]


def _gain(graph: Graph, n: Node, x: Node, learned: frozenset[str]) -> int:
    """Return how much larger than a mantissa of `x` an accumulator of `n` can be; 0: no sum."""
    match n.op:
        case ConvInputGrad() | DepthwiseInputGrad() | GroupedInputGrad():
            return _column(n.op, _magnitudes(graph, n.inputs[1], learned))
        case SumPixels():
            return _pixels(x)
        case MaxPoolGrad() | MeanPoolGrad():
            return n.op.gain() if x is n.inputs[0] else 0
        case UpsampleGrad(size=(down, across)):
            return down * across
        case ProductSumGrad():
            return x.type.size // n.type.size * _code_range(n.inputs[1])
        case ConvWeightGrad() | DepthwiseWeightGrad() | GroupedWeightGrad():
            return _pixels(x) * _code_range(n.inputs[0])
        case FisherSum():
            return _pixels(x) * _code_range(n.inputs[1])
        case RowUpdate(ConvWeightGrad() | DepthwiseWeightGrad() | GroupedWeightGrad()):
            return _pixels(x) * _code_range(n.inputs[1])
    return 0


def _column(op: ConvInputGrad | DepthwiseInputGrad | GroupedInputGrad, w: Array) -> int:
    """Return the largest sum of the weights that one input channel meets."""
    groups = op.groups if isinstance(op, GroupedInputGrad) else 1
    axes = (0, 1) if isinstance(op, DepthwiseInputGrad) else (0, 1, 2)
    return max(int(part.sum(axis=axes).max()) for part in np.split(w, groups))


def _is_gradient(n: Node) -> bool:
    """Say whether a node holds mantissas whose width can be chosen."""
    return n.type.dtype is DType.I16 and isinstance(n.type.quant, BlockExponent)


def narrow_gradients(graph: Graph, learned: Iterable[str]) -> Graph:
    """Give every gradient the widest mantissas, at most 15 bits, that no reader overflows on.

    `learned` names the parameters that change between calls.  Raises `AccumulatorError` where
    fewer than 4 bits would be left.
    """
    names = frozenset(learned)
    users = graph.users()
    bits: dict[Node, int] = {}
    for n in reversed(graph.nodes):
        if not _is_gradient(n):
            continue
        bits[n] = 15
        for u in users[n]:
            gain = _gain(graph, u, n, names)
            while gain << bits[n] > _INT32:
                bits[n] -= 1
            if u in bits and not isinstance(u.op, Normalising):  # mantissas leave as they came
                bits[n] = min(bits[n], bits[u])
        if bits[n] < 4:
            raise AccumulatorError(
                f"{n.name!r} is summed over so many elements that int32 overflows"
            )
    by_name = {n.name: k for n, k in bits.items()}

    def rule(b: Builder, n: Node) -> Node | None:
        if isinstance(n.op, Normalising) and n.op.bits != by_name[n.name]:
            return b(replace(n.op, bits=by_name[n.name]), *n.inputs, name=n.name)
        return None

    return rewrite(graph, rule)


def accumulator_bounds(graph: Graph, learned: Iterable[str]) -> tuple[Bound, ...]:
    """Return the worst case of every sum in `graph`; `AccumulatorError` if one exceeds int32."""
    names = frozenset(learned)
    bounds = []
    for n in graph.nodes:
        worst = 0
        if isinstance(n.op, LayerOp):
            x, w, b = n.inputs
            axes = tuple(a for a in range(len(w.type.shape)) if a != n.op.parts[0])
            bias = BIAS_LIMIT if b.name in names else np.abs(graph.data[b.name].astype(np.int64))
            sums = _magnitudes(graph, w, names).sum(axis=axes) * _code_range(x)
            worst = int((sums + bias).max())
        else:
            for x in n.inputs:
                if _is_gradient(x):
                    worst = max(worst, _gain(graph, n, x, names) << x.type.block.bits)
        if worst > _INT32:
            raise AccumulatorError(
                f"{n.name!r} can reach {worst}, which int32 cannot hold; the biases or weights of "
                "this layer are out of proportion"
            )
        if worst:
            bounds.append(Bound(n.name, worst))
    return tuple(bounds)
