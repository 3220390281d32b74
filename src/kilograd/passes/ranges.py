"""Everything that becomes a number in C fits where it goes: refused before anything is emitted."""

from __future__ import annotations

from kilograd.ir import Affine, Graph, Leaf, Node, RangeError, require_range
from kilograd.ir.params import INT32_MAX, SCALES


class LimitError(ValueError):
    """A network has a node that is too large, or too small, for what computes it."""


def check_ranges(graph: Graph) -> None:
    """Raise `LimitError`, which names the node and the limit, unless all of `graph` fits.

    Looks at the size of every tensor, the scales of activations and weights, and the parameters
    of every kernel.
    """
    for n in graph.nodes:
        try:
            _check_tensor(n)
            if not isinstance(n.op, Leaf) and not n.op.view:
                n.op.kernel(n)
        except RangeError as e:
            raise LimitError(f"{n.name!r} cannot be computed: {e}") from e


def _check_tensor(n: Node) -> None:
    require_range("bytes", n.type.nbytes, 1, INT32_MAX)
    if isinstance(n.type.quant, Affine):
        for scale in (*n.type.quant.scale, n.type.quant.unit):
            require_range("scale", scale, *SCALES)
