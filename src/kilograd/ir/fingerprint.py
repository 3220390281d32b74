"""What tells one network from another: kept beside results, so that they are of no other."""

from __future__ import annotations

import hashlib

from kilograd.ir.graph import Graph


def fingerprint(graph: Graph) -> str:
    """Return a SHA-256, in hex, of a network's operators and its parameters' values."""
    sha = hashlib.sha256()
    for node in graph.nodes:
        sha.update(repr((node.name, node.op, node.type, [x.name for x in node.inputs])).encode())
    for name, value in sorted(graph.data.items()):
        sha.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return sha.hexdigest()
