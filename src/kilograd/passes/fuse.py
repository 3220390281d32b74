"""Updates that consume a weight gradient row by row."""

from __future__ import annotations

from kilograd.ir import Builder, Graph, Node, dead_code, rewrite
from kilograd.ops import (
    ConvWeightGrad,
    DenseWeightGrad,
    DepthwiseWeightGrad,
    GroupedWeightGrad,
    RowUpdate,
    Update,
)


def fuse_updates(graph: Graph) -> Graph:
    """Turn update(w, gradient(x, dy)) into one node that never holds the whole gradient."""
    return dead_code(rewrite(graph, update_of_weight_grad))


def update_of_weight_grad(b: Builder, n: Node) -> Node | None:
    """Fuse an update with its gradient, which is computed again for any other reader."""
    match n.op, n.inputs:
        case (
            Update() as update,
            (
                param,
                Node(
                    op=ConvWeightGrad()
                    | DepthwiseWeightGrad()
                    | GroupedWeightGrad()
                    | DenseWeightGrad() as grad,
                    inputs=(x, dy),
                ),
                *rest,
            ),
        ):
            return b(RowUpdate(grad, update), param, x, dy, *rest, name=n.name)
    return None
