"""What tells one network from another: kept beside results, so that they are of no other."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

from kilograd.ir.graph import Graph, Param
from kilograd.ir.rewrite import dead_code
from kilograd.ir.types import Affine


def fingerprint(graph: Graph) -> str:
    """Return a SHA-256, in hex, of a network's operators and its parameters' values."""
    sha = hashlib.sha256()
    for node in graph.nodes:
        sha.update(repr((node.name, node.op, node.type, [x.name for x in node.inputs])).encode())
    for name, value in sorted(graph.data.items()):
        sha.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return sha.hexdigest()


_NUMBERS = ("limits", "rounding")  # of codes: they follow from scales, and from what made them


def architecture(graph: Graph) -> str:
    """Return a SHA-256, in hex, of how a network makes its features: its first output.

    It covers the operators, how they follow each other, and the shapes of their parameters.  It
    is the same whatever the weights and their scales, the names, the size of the image, and the
    classifier: what is said of an architecture holds for a network that was trained again.
    """
    features = dead_code(replace(graph, outputs=graph.outputs[:1]))
    place = {node: i for i, node in enumerate(features.nodes)}
    sha = hashlib.sha256()
    for node in features.nodes:
        about = [getattr(node.op, f.name) for f in fields(node.op) if f.name not in _NUMBERS]  # type: ignore[arg-type]
        geometry = [x for x in about if not isinstance(x, Affine)]
        shape = node.type.shape if isinstance(node.op, Param) else ()
        reads = [place[x] for x in node.inputs]
        sha.update(repr((type(node.op).__name__, geometry, shape, reads)).encode())
    return sha.hexdigest()
