"""A part of a gradient is the gradient of parts.

Gradients know nothing of sparsity.  These rules push every `Take` of a gradient down to what
the gradient is computed from, so that only the selected part is ever computed or kept.
"""

from __future__ import annotations

from dataclasses import replace

from kilograd.ir import Builder, Graph, Node, dead_code, rewrite
from kilograd.ops import (
    ConvInputGrad,
    ConvWeightGrad,
    DepthwiseWeightGrad,
    GroupedWeightGrad,
    Overlay,
    Take,
)


def push_takes(graph: Graph) -> Graph:
    """Apply the rules everywhere and drop what nothing needs any more."""
    return dead_code(rewrite(graph, take_of_all, take_of_weight_grad, take_of_input_grad))


def take_of_all(b: Builder, n: Node) -> Node | None:
    """A take of everything, in order, is no take."""
    match n.op, n.inputs:
        case Take(axis, index), (x,) if index == tuple(range(x.type.shape[axis])):
            return x
    return None


def take_of_weight_grad(b: Builder, n: Node) -> Node | None:
    """Cut dW by output channel by cutting dy, by input channel by cutting x."""
    match n.op, n.inputs:
        case Take(axis, index), (Node(op=ConvWeightGrad() as grad, inputs=(x, dy)),) if axis in {
            0,
            3,
        }:
            shape = tuple(len(index) if a == axis else s for a, s in enumerate(grad.shape))
            cut = Take(2, index)
            pair = (x, b(cut, dy)) if axis == 0 else (b(cut, x), dy)
            return b(replace(grad, shape=shape), *pair)
        case Take(2, index), (Node(op=DepthwiseWeightGrad() as grad, inputs=(x, dy)),):
            cut = Take(2, index)
            shape = (*grad.shape[:2], len(index))
            return b(replace(grad, shape=shape), b(cut, x), b(cut, dy))
        case Take(0, index), (Node(op=GroupedWeightGrad() as grad, inputs=(x, dy)),):
            shape = (len(index), *grad.shape[1:])
            reads = tuple(grad.reads[o] for o in index)
            return b(replace(grad, shape=shape, reads=reads), x, b(Take(2, index), dy))
    return None


def take_of_input_grad(b: Builder, n: Node) -> Node | None:
    """Cut dX to the input channels that learn, whose weights are a tensor of their own."""
    match n.op, n.inputs:
        case Take(2, index), (
            Node(op=ConvInputGrad() as grad, inputs=(dy, Node(op=Overlay(3, own)) as w)),
        ) if index == own:
            shape = (*grad.shape[:2], len(index))
            return b(replace(grad, shape=shape), dy, w.inputs[1])
    return None
