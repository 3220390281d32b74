"""A network for inputs of another size: the same weights, all shapes inferred anew."""

from __future__ import annotations

from dataclasses import replace

from kilograd.ir import Graph, Leaf, Node, ShapeError, TensorType
from kilograd.ops import LayerOp


def resize(graph: Graph, height: int, width: int) -> Graph:
    """Return an inference graph for images of another height and width.

    Every op infers its map from the maps it reads; parameters and scales stay as they are.

    Raises `ShapeError` where a stride is larger than the map it moves over, where an op cannot
    take its maps, and where an output would have another shape: something in front of it reads
    maps of one size.
    """
    (image,) = graph.inputs()
    new: dict[Node, Node] = {}
    for old in graph.nodes:
        inputs = tuple(new[x] for x in old.inputs)
        kind = old.type
        if old is image:
            kind = replace(kind, shape=(height, width, kind.shape[2]))
        elif not isinstance(old.op, Leaf):
            kind = _inferred(old, tuple(x.type for x in inputs))
        new[old] = replace(old, inputs=inputs, type=kind)
    for old in graph.outputs:
        if new[old].type != old.type:
            raise ShapeError(f"{old.name!r} would be {new[old].type}, in place of {old.type}")
    outputs = tuple(new[x] for x in graph.outputs)
    return Graph(tuple(new.values()), outputs, graph.data)


def _inferred(node: Node, xs: tuple[TensorType, ...]) -> TensorType:
    if isinstance(node.op, LayerOp):
        (down, across), (h, w, _) = node.op.window.stride, xs[0].shape
        if down > h or across > w:
            stride = down if down > h else across
            raise ShapeError(f"{node.name!r} moves by {stride} pixels over a map of {h}x{w}")
    try:
        return node.op.infer(*xs)
    except ShapeError as e:
        raise ShapeError(f"{node.name!r}: {e}") from e
