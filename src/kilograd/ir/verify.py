"""What must hold between passes."""

from __future__ import annotations

from kilograd.ir.graph import Graph, Leaf, Node, Param


class GraphError(ValueError):
    """A graph is not well formed: a pass is wrong, not the user."""


def verify(graph: Graph) -> Graph:
    """Raise `GraphError` unless `graph` is well formed; return it, so that passes chain.

    Names are unique, inputs come first, types are what the ops infer, only parameters are
    overwritten, and none is read after it was.
    """
    seen: set[Node] = set()
    names: set[str] = set()
    overwritten: set[Node] = set()
    for n in graph.nodes:
        if n.name in names:
            raise GraphError(f"two nodes are called {n.name!r}")
        for x in n.inputs:
            if x not in seen:
                raise GraphError(f"{n.name!r} reads {x.name!r} before it is made")
        if not isinstance(n.op, Leaf):
            inferred = n.op.infer(*(x.type for x in n.inputs))
            if inferred != n.type:
                raise GraphError(f"{n.name!r} is {n.type}, but its op makes {inferred}")
            if not n.op.view and (stale := [x.name for x in n.reads() if x in overwritten]):
                raise GraphError(f"{n.name!r} reads {stale} after they were overwritten")
        targets = {n.inputs[i] for i in n.op.writes}
        if bad := [x.name for x in targets if not isinstance(x.op, Param)]:
            raise GraphError(f"{n.name!r} overwrites {bad}, which are not parameters")
        overwritten |= targets
        seen.add(n)
        names.add(n.name)
    if missing := [o.name for o in graph.outputs if o not in seen]:
        raise GraphError(f"outputs {missing} are not in the graph")
    return graph
