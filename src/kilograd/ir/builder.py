"""The only way to make nodes."""

from __future__ import annotations

from collections.abc import Collection

from kilograd.ir.graph import Graph, Input, Node, Op, Param, Role
from kilograd.ir.types import Affine, Array, DType, RowCodes, TensorType

_ANY_VALUE = Input()


class Builder:
    r"""Appends nodes: infers their types, keeps their names unique.

    >>> b = Builder()
    >>> x = b.input("x", TensorType((2, 3), DType.F32))
    >>> str(b.graph(x))
    '%x: f32[2,3] = Input()()\nreturn x'
    """

    def __init__(self, start: Graph | None = None) -> None:
        self.nodes: list[Node] = list(start.nodes) if start else []
        self.data: dict[str, Array] = dict(start.data) if start else {}
        self._names = {n.name for n in self.nodes}

    def input(
        self, name: str, tensor: TensorType, op: Input = _ANY_VALUE, *, c_name: str = ""
    ) -> Node:
        """Append a tensor that the caller supplies; `op` says which values it may have."""
        return self.append(Node(op, (), tensor, self._unique(name), c_name))

    def param(
        self,
        name: str,
        value: Array,
        quant: Affine | RowCodes | None = None,
        *,
        role: Role = Role.CONSTANT,
        c_name: str = "",
    ) -> Node:
        """Append a tensor that is kept between calls, with its initial value."""
        tensor = TensorType(value.shape, DType.of(value), quant)
        node = Node(Param(role), (), tensor, self._unique(name), c_name)
        self.data[node.name] = value
        return self.append(node)

    def __call__(self, op: Op, *xs: Node, name: str = "", c_name: str = "") -> Node:
        """Append `op` applied to `xs`; raises `ShapeError` where they do not fit."""
        tensor = op.infer(*(x.type for x in xs))
        own = self._unique(name or type(op).__name__.lower())
        return self.append(Node(op, xs, tensor, own, c_name))

    def append(self, node: Node) -> Node:
        """Append a finished node whose name is known to be free."""
        self._names.add(node.name)
        self.nodes.append(node)
        return node

    def graph(self, *outputs: Node) -> Graph:
        """Return everything appended so far."""
        return Graph(tuple(self.nodes), outputs, self.data)

    def _unique(self, stem: str) -> str:
        return apart(stem, self._names)


def apart(stem: str, names: Collection[str]) -> str:
    """Return `stem`, with a number where it is among `names`."""
    name, i = stem, 1
    while name in names:
        name, i = f"{stem}_{i}", i + 1
    return name
