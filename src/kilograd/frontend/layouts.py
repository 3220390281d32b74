"""Weights in the layout of files, filters [out, in, kh, kw], and as graphs have them."""

from __future__ import annotations

import numpy as np

from kilograd.ir import Array, Node


def graph_layout(node: Node, value: Array) -> Array:
    """Return a parameter of a file, filters [out, in, kh, kw], as the graph has it."""
    if len(node.type.shape) == 4:
        return np.ascontiguousarray(value.transpose(0, 2, 3, 1))
    if len(node.type.shape) == 3:
        return np.ascontiguousarray(value[:, 0].transpose(1, 2, 0))
    return value


def folder_layout(node: Node, value: Array) -> Array:
    """Return a parameter in the layout of the file: filters [out, in, kh, kw]."""
    if len(node.type.shape) == 4:
        return np.ascontiguousarray(value.transpose(0, 3, 1, 2))
    if len(node.type.shape) == 3:
        return np.ascontiguousarray(value.transpose(2, 0, 1)[:, None])
    return value
