"""Copies of small weights, so that large gradients may go.

A step needs the gradient of a layer's output twice: for the update of its weights, and scaled for
the gradient of its input, which reads the weights as they were before the update.  With a copy of
what learns, the update comes first and the scaling takes place in the gradient's own memory.
"""

from __future__ import annotations

from kilograd.ir import Builder, Graph, Node, rewrite
from kilograd.ops import (
    ConvInputGrad,
    Copy,
    DepthwiseInputGrad,
    GroupedInputGrad,
    Overlay,
    RowUpdate,
    ScaleChannels,
)


def snapshot_weights(graph: Graph) -> Graph:
    """Let input gradients read copies of the learned weights that are smaller than a gradient."""
    sizes = {
        n.inputs[0].name: n.inputs[2].type.nbytes
        for n in graph.nodes
        if isinstance(n.op, RowUpdate)
    }

    def rule(b: Builder, n: Node) -> Node | None:
        match n.op, n.inputs:
            case (
                ConvInputGrad() | DepthwiseInputGrad() | GroupedInputGrad(),
                (Node(op=ScaleChannels(), inputs=(dy,)) as scaled, w),
            ):
                own = w.inputs[1] if isinstance(w.op, Overlay) else w
                if own.type.nbytes < sizes.get(own.name, 0):
                    copy = b(Copy(), own, dy, name=f"{own.name}.before")
                    seen = b(w.op, w.inputs[0], copy) if isinstance(w.op, Overlay) else copy
                    return b(n.op, scaled, seen, name=n.name)
        return None

    return rewrite(graph, rule)
