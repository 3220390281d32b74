"""The meaning of a program."""

from __future__ import annotations

from collections.abc import Mapping

from kilograd.ir.graph import Graph, Input, Leaf, Node
from kilograd.ir.types import Value


def interpret(graph: Graph, feeds: Mapping[str, Value]) -> dict[str, Value]:
    """Run `graph` with each op's numpy reference.

    `feeds` gives every input by name and may replace the initial value of any parameter.
    Returns the outputs by name and the new value of every parameter that was overwritten.
    Raises a ValueError for an input that a program refuses.
    """
    env: dict[Node, Value] = {}
    result: dict[str, Value] = {}
    for n in graph.nodes:
        if isinstance(n.op, Leaf):
            env[n] = feeds[n.name] if n.name in feeds else graph.data[n.name]
            if isinstance(n.op, Input) and (wrong := n.op.wrong(env[n])):
                raise ValueError(f"{n.name} {wrong}")
            continue
        out = n.op.reference(n, *(env[x] for x in n.inputs))
        if isinstance(out, tuple):
            result.update((n.inputs[i].name, v) for i, v in zip(n.op.writes, out, strict=True))
            out = out[0]
        env[n] = out
    result.update((o.name, env[o]) for o in graph.outputs)
    return result
