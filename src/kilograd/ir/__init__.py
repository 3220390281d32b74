"""The intermediate representation: types, nodes, graphs, and how they are built and read."""

from kilograd.ir.builder import Builder, apart
from kilograd.ir.fingerprint import architecture, fingerprint
from kilograd.ir.graph import (
    Check,
    Graph,
    Input,
    Kernel,
    Leaf,
    Node,
    Op,
    Param,
    Role,
    ShapeError,
    StageCall,
    StreamedInput,
)
from kilograd.ir.interpret import interpret
from kilograd.ir.params import Params, Range, RangeError, require_range
from kilograd.ir.rewrite import Rule, dead_code, rewrite
from kilograd.ir.types import (
    Affine,
    Array,
    Block,
    BlockExponent,
    DType,
    RowCodes,
    TensorType,
    Value,
)
from kilograd.ir.verify import GraphError, verify

__all__ = [
    "Affine",
    "Array",
    "Block",
    "BlockExponent",
    "Builder",
    "Check",
    "DType",
    "Graph",
    "GraphError",
    "Input",
    "Kernel",
    "Leaf",
    "Node",
    "Op",
    "Param",
    "Params",
    "Range",
    "RangeError",
    "Role",
    "RowCodes",
    "Rule",
    "ShapeError",
    "StageCall",
    "StreamedInput",
    "TensorType",
    "Value",
    "apart",
    "architecture",
    "dead_code",
    "fingerprint",
    "interpret",
    "require_range",
    "rewrite",
    "verify",
]
