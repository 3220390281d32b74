"""The operators of a model folder, read and written.  Maps are channels first there, here last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from kilograd import limits
from kilograd.errors import InputError
from kilograd.frontend.operator_records import (
    AXES,
    AddRecord,
    AvgPoolRecord,
    Bias,
    ConcatRecord,
    ConstantRecord,
    LayerRecord,
    MaxPoolRecord,
    MeanPoolRecord,
    MeanRecord,
    MulRecord,
    Named,
    Operator,
    PadRecord,
    Quantised,
    RescaleRecord,
    ReshapeRecord,
    TableRecord,
    TakeRecord,
    Tensors,
    UpsampleRecord,
    Weight,
)
from kilograd.ir import Builder, Node, Param, ShapeError
from kilograd.names import operator
from kilograd.ops import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Depthwise,
    GroupedConv,
    MaxPool,
    Mean,
    MeanPool,
    PadMap,
    Product,
    Rescale,
    Reshape,
    Table,
    Take,
    Upsample,
    Window,
)
from kilograd.ops._common import Clamping
from kilograd.reading import typed

OPERATORS: Mapping[str, type[Operator]] = {
    "conv": LayerRecord,
    "depthwise_conv": LayerRecord,
    "linear": LayerRecord,
    "add": AddRecord,
    "avgpool": AvgPoolRecord,
    "mean": MeanRecord,
    "max_pool": MaxPoolRecord,
    "mean_pool": MeanPoolRecord,
    "constant": ConstantRecord,
    "mul": MulRecord,
    "rescale": RescaleRecord,
    "table": TableRecord,
    "concat": ConcatRecord,
    "take": TakeRecord,
    "reshape": ReshapeRecord,
    "pad": PadRecord,
    "upsample": UpsampleRecord,
}


def read_operator(found: object, where: str) -> Operator:
    """Return an entry of `ops` by its type; raises `InputError`, which begins with `where`."""
    op = typed(found, Named, where)
    name = operator(op.name, f"{where}.name")
    if op.type not in OPERATORS:
        raise InputError(
            f"{where}: operator {name!r} has unknown type {op.type[:80]!r}; known are "
            f"{', '.join(OPERATORS)}"
        )
    return typed(found, OPERATORS[op.type], f"{where} {name!r}")


def append_operator(b: Builder, op: Operator, tensors: Tensors, inputs: list[Node]) -> Node:
    """Append the node of an operator; raises `InputError` where file and graph do not agree."""
    if op.reads is not None and len(inputs) != op.reads:
        raise InputError(
            f"{tensors.file}: {op.name!r} ({op.type}) reads {len(inputs)} activations, "
            f"not {op.reads}"
        )
    try:
        node = op.append(b, tensors, *inputs)
    except ShapeError as e:
        raise InputError(f"{tensors.file}: operator {op.name!r}: {e}") from e
    if node.type.size != math.prod(op.out_shape):
        raise InputError(
            f"{tensors.file}: {op.name!r} declares {list(op.out_shape)} but makes {node.type}"
        )
    if node.type.size > limits.MAP_ELEMENTS:
        raise InputError(
            f"{tensors.file}: {op.name!r} makes {node.type}; {limits.MAP_ELEMENTS:,} elements are "
            f"the most"
        )
    return node


def described(n: Node, names: Mapping[Node, str], layers: tuple[str, ...]) -> dict[str, Any]:
    """Return the entry of `ops` of a node; raises a TypeError for an op that no folder has.

    `names`: of activations.  `layers`: those with weights that are no classifiers.
    """
    found: dict[str, Any] = msgspec.to_builtins(_record(n, names, layers))
    return found


def _record(n: Node, names: Mapping[Node, str], layers: tuple[str, ...]) -> Operator:
    h, w, c = n.type.shape
    reads = n.inputs[:1] if isinstance(n.op, Conv | Depthwise | GroupedConv) else n.inputs
    common: dict[str, Any] = {
        "name": n.name,
        "inputs": tuple(names[x] for x in reads),
        "output": names[n],
        "out_shape": (c, h, w),
        "out": Quantised.of(n.type.affine),
    }
    if isinstance(n.op, Clamping):
        common |= {"limits": n.op.limits, "rounding": n.op.rounding}
    match n.op:
        case Conv() | Depthwise() | GroupedConv():
            return _layer_record(n, common, layers)
        case AvgPool() | Mean() | MaxPool() | MeanPool() | Upsample():
            return _pool_record(n.op, common)
        case Add():
            return AddRecord(type="add", **common)
        case Product():
            return MulRecord(type="mul", **common)
        case Rescale():
            return RescaleRecord(type="rescale", **common)
        case Table(codes, slopes):
            return TableRecord(type="table", codes=codes, slopes=slopes, **common)
        case Param():
            return ConstantRecord(type="constant", tensor=n.name, **common)
    return _moving_record(n, common)


def _pool_record(
    op: AvgPool | Mean | MaxPool | MeanPool | Upsample, common: dict[str, Any]
) -> Operator:
    match op:
        case AvgPool(rounding):
            return AvgPoolRecord(type="avgpool", rounding=rounding, **common)
        case Mean(_, rounding, axes):
            named = tuple(AXES[axis] for axis in axes)
            return MeanRecord(type="mean", axes=named, rounding=rounding, **common)
        case MaxPool(size, window):
            return MaxPoolRecord(type="max_pool", kernel=size, **_window(window), **common)
        case MeanPool(size, window):
            return MeanPoolRecord(type="mean_pool", kernel=size, **_window(window), **common)
        case Upsample(side):
            return UpsampleRecord(type="upsample", size=side, **common)


def _moving_record(n: Node, common: dict[str, Any]) -> Operator:
    match n.op:
        case Concat(axis):
            return ConcatRecord(type="concat", axis=AXES[axis], **common)
        case Take(axis, index):
            return TakeRecord(type="take", axis=AXES[axis], index=index, **common)
        case Reshape():
            return ReshapeRecord(type="reshape", **common)
        case PadMap(sides):
            height, width, channels = sides
            return PadRecord(type="pad", sides=(height, width, channels), **common)
    raise TypeError(f"{n} has no place in a model folder")


def is_linear(n: Node, layers: tuple[str, ...]) -> bool:
    """Tell whether a node is written as `linear`: a layer of a vector that is none of `layers`."""
    vector = n.inputs[0].type.shape[:2] == (1, 1)
    return isinstance(n.op, Conv) and vector and n.name not in layers


def _window(window: Window) -> dict[str, Any]:
    return {"stride": window.stride, "padding": window.pad}


def _layer_record(n: Node, common: dict[str, Any], layers: tuple[str, ...]) -> Operator:
    """Return the record of a layer with weights."""
    assert isinstance(n.op, Conv | Depthwise | GroupedConv)  # noqa: S101 says so to the type checker
    c = n.type.shape[2]
    common |= {
        "in_channels": n.inputs[0].type.shape[2],
        "out_channels": c,
        "weight": Weight(f"{n.name}.weight", f"{n.name}.weight_scale"),
        "bias": Bias(f"{n.name}.bias"),
    }
    if is_linear(n, layers):
        return LayerRecord(type="linear", **common | {"out_shape": (c,)})
    depthwise = isinstance(n.op, Depthwise)
    height, width = n.inputs[1].type.shape[:2] if depthwise else n.inputs[1].type.shape[1:3]
    return LayerRecord(
        type="depthwise_conv" if depthwise else "conv",
        kernel=(height, width),
        groups=c if depthwise else n.op.groups if isinstance(n.op, GroupedConv) else 1,
        **_window(n.op.window),
        **common,
    )
