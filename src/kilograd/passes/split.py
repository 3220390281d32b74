"""Cut parameters into what is frozen and what learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kilograd.ir import Builder, DType, Graph, Node, Param, rewrite
from kilograd.ops import Overlay


@dataclass(frozen=True)
class Part:
    """The slices `index` along `axis` of a parameter; `None` is all of it."""

    axis: int = 0
    index: tuple[int, ...] | None = None


def split(graph: Graph, parts: Mapping[str, Part]) -> tuple[Graph, dict[str, str]]:
    """Give every partly learned parameter a small parameter of its own, seen through an overlay.

    Returns the graph and, for each name in `parts`, the name of the parameter that learns: the
    parameter itself where all of it does, else NAME.learned.  Biases learn whole: a ValueError.
    """
    learned = {name: name for name in parts}

    def rule(b: Builder, n: Node) -> Node | None:
        if not isinstance(n.op, Param) or n.name not in parts:
            return None
        part = parts[n.name]
        if part.index is None or len(part.index) == n.type.shape[part.axis]:
            return None
        if n.type.dtype is not DType.I8:
            raise ValueError(f"{n.name} is a bias, of which no part can learn alone")
        overlay = Overlay(part.axis, part.index)
        frozen = b.append(n)
        quant = n.type.affine
        if quant.axis == part.axis:
            quant = quant.take(part.index)
        value = np.ascontiguousarray(np.take(graph.data[n.name], part.index, part.axis))
        own = b.param(f"{n.name}.learned", value, quant, role=n.op.role)
        learned[n.name] = own.name
        return b(overlay, frozen, own)

    return rewrite(graph, rule), learned
