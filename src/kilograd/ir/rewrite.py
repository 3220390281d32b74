"""Rebuilding a graph by rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kilograd.ir.builder import Builder
from kilograd.ir.graph import Graph, Leaf, Node

Rule = Callable[[Builder, Node], Node | None]
"""Given a node whose inputs are already rebuilt, a replacement or `None`."""


def rewrite(graph: Graph, *rules: Rule) -> Graph:
    """Rebuild `graph` in order, letting the first rule that answers replace a node.

    Types are inferred anew, so a rule may change what later nodes are given.
    """
    b = Builder()
    b.data.update(graph.data)
    new: dict[Node, Node] = {}

    def rebuilt(old: Node) -> Node:
        inputs = tuple(new[x] for x in old.inputs)
        leaf = isinstance(old.op, Leaf)
        moved = replace(
            old, inputs=inputs, type=old.type if leaf else old.op.infer(*(x.type for x in inputs))
        )
        for rule in rules:
            if (out := rule(b, moved)) is not None:
                return out
        # a rule may have given this name to a node of its own: `b` finds another
        return (
            b.append(moved) if leaf else b(moved.op, *inputs, name=moved.name, c_name=moved.c_name)
        )

    for old in graph.nodes:
        new[old] = rebuilt(old)
    return b.graph(*(new[o] for o in graph.outputs))


def dead_code(graph: Graph) -> Graph:
    """Drop every node that no output needs."""
    live = set(graph.outputs)
    for n in reversed(graph.nodes):
        if n in live:
            live.update(n.inputs)
    nodes = tuple(n for n in graph.nodes if n in live)
    names = {n.name for n in nodes}
    return Graph(nodes, graph.outputs, {k: v for k, v in graph.data.items() if k in names})
