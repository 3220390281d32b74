"""Reverse-mode differentiation, at compile time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kilograd.ir import Builder, Leaf, Node
from kilograd.ops import BlockAdd


def differentiate(
    b: Builder, loss: Node, wrt: Iterable[Node], seed: Node | None = None
) -> dict[Node, Node]:
    """Append the backward pass of `loss`; return the gradient of each node in `wrt`.

    `seed` is the gradient of `loss`, which may be any tensor then; one without.

    Only nodes on a path from `wrt` to `loss` are differentiated: the backward pass stops at the
    earliest tensor that learns.  A node that is read twice receives the sum of both gradients.
    """
    wrt = tuple(wrt)
    forward = tuple(b.nodes)
    needed = set(wrt)
    for n in forward:
        if any(x in needed for x in n.inputs):
            needed.add(n)
    grad = {loss: seed or b.param("one", np.ones(loss.type.shape, np.float32))}
    for n in reversed(forward):
        if n not in needed or n not in grad or isinstance(n.op, Leaf):
            continue
        for x, dx in zip(n.inputs, n.op.vjp(b, n, grad[n]), strict=True):
            if dx is not None and x in needed:
                grad[x] = b(BlockAdd(), grad[x], dx) if x in grad else dx
    return {w: grad[w] for w in wrt if w in grad}
