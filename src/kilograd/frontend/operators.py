"""The operators of a model folder: what stands in `graph.json` of each, read and written.

One class an operator: its fields are those of the file, `append` makes the node, and `described`
makes the record of a node.  Maps are channels first in the file, [h, w, c] here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from kilograd import limits
from kilograd.errors import InputError
from kilograd.ir import Affine, Array, Builder, Node, Role, ShapeError
from kilograd.names import identifier, operator
from kilograd.ops import Add, AvgPool, Conv, Depthwise, MaxPool, Mean, MeanPool, Window
from kilograd.ops._common import INT8, Clamping
from kilograd.quant import Rounding
from kilograd.reading import typed

Side = Annotated[int, Meta(ge=1, le=limits.SIDE)]
_Padding = Annotated[int, Meta(ge=0, le=limits.SIDE)]
_Pair = tuple[Side, Side]
_Sides = tuple[_Padding, _Padding, _Padding, _Padding]
_Axis = Literal["height", "width", "channels"]
_AXES: tuple[_Axis, ...] = ("height", "width", "channels")
_Positive = Annotated[float, Meta(gt=0)]
_Code = Annotated[int, Meta(ge=-128, le=127)]


class Quantised(Struct, frozen=True):
    """A scale and a zero point."""

    scale: _Positive
    zero_point: _Code

    @classmethod
    def of(cls, quant: Affine) -> Quantised:
        """Return a quantisation as a file has it."""
        return cls(quant.scale[0], quant.zero_point)

    def affine(self) -> Affine:
        """Return it as a graph has it."""
        return Affine((self.scale,), self.zero_point)


@dataclass(frozen=True)
class Tensors:
    """The tensors of a folder by name; of types that no network has, the name of the type.

    `file`: where operators are, for messages.
    """

    file: Path
    values: Mapping[str, Array | str]

    def tensor(self, name: str, dtype: type, shape: tuple[int, ...]) -> Array:
        """Return a tensor; raises `InputError` if it is missing or another than expected."""
        value = self.values.get(identifier(name, f"{self.file}: a tensor"))
        if value is None:
            raise InputError(f"{self.file.parent}: tensor {name!r} is missing")
        expected = f"{np.dtype(dtype)}{list(shape)}"
        if isinstance(value, str):
            raise InputError(f"{self.file.parent}: tensor {name!r} is {value}, expected {expected}")
        if value.dtype != dtype or value.shape != shape:
            raise InputError(
                f"{self.file.parent}: tensor {name!r} is {value.dtype}{list(value.shape)}, "
                f"expected {expected}"
            )
        return value

    def scales(self, name: str, count: int) -> tuple[float, ...]:
        """Return the scales of a layer's weights, one a channel."""
        scales = self.tensor(name, np.float32, (count,))
        if not ((scales > 0) & (scales < np.inf)).all():
            raise InputError(
                f"{self.file.parent}: tensor {name!r} has scales that are not > 0 and finite"
            )
        return tuple(float(s) for s in scales)

    def check_ratios(self, name: str, ratios: list[float]) -> None:
        """Refuse scales whose ratio no 32-bit multiplier and shift of 1..62 can express."""
        if not all(2.0**-32 <= r < 2.0**30 for r in ratios):
            raise InputError(
                f"{self.file}: {name!r} multiplies by {min(ratios):.3g} to {max(ratios):.3g}; its "
                f"scales are out of proportion"
            )


class _Named(Struct, frozen=True):
    name: str
    type: str


class Operator(_Named, frozen=True, kw_only=True, omit_defaults=True):
    """What all operators have."""

    inputs: Annotated[tuple[str, ...], Meta(max_length=limits.INPUTS)]
    output: str
    out_shape: Annotated[tuple[Side, ...], Meta(min_length=1, max_length=3)]
    out: Quantised

    reads: ClassVar[int | None] = 1
    """How many activations; None: any number."""

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        """Append the node.  Raises `ShapeError` and `InputError`."""
        raise NotImplementedError


class _Clamped(Operator, frozen=True, kw_only=True):
    """What operators have that end in a clamp."""

    limits: tuple[_Code, _Code] = INT8
    rounding: Rounding = Rounding.NEAREST


class _Add(_Clamped, frozen=True, kw_only=True):
    reads = 2

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        out = self.out.affine()
        tensors.check_ratios(self.name, [x.type.affine.scale[0] / out.scale[0] for x in xs])
        return b(Add(out, limits=self.limits, rounding=self.rounding), *xs, name=self.name)


class _AvgPool(Operator, frozen=True, kw_only=True):
    rounding: Rounding = Rounding.NEAREST

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(AvgPool(self.rounding), *xs, name=self.name)


class _Mean(Operator, frozen=True, kw_only=True):
    axes: tuple[_Axis, ...] = ("height", "width")
    rounding: Rounding = Rounding.NEAREST

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        axes = tuple(_AXES.index(axis) for axis in self.axes)
        return b(Mean(self.out.affine(), self.rounding, axes), *xs, name=self.name)


class _MaxPool(Operator, frozen=True, kw_only=True):
    kernel: _Pair
    stride: _Pair = (1, 1)
    padding: _Sides = (0, 0, 0, 0)

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(MaxPool(self.kernel, Window(self.stride, self.padding)), *xs, name=self.name)


class _MeanPool(_Clamped, frozen=True, kw_only=True):
    kernel: _Pair
    stride: _Pair = (1, 1)
    padding: _Sides = (0, 0, 0, 0)

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        op = MeanPool(
            self.kernel,
            Window(self.stride, self.padding),
            self.out.affine(),
            limits=self.limits,
            rounding=self.rounding,
        )
        return b(op, *xs, name=self.name)


class _Weight(Struct, frozen=True):
    tensor: str
    scale_tensor: str


class _Bias(Struct, frozen=True):
    tensor: str


class _Layer(_Clamped, frozen=True, kw_only=True):
    """What layers with weights have."""

    in_channels: Side
    out_channels: Side
    weight: _Weight
    bias: _Bias
    kernel: _Pair = (1, 1)
    stride: _Pair = (1, 1)
    padding: _Sides = (0, 0, 0, 0)
    dilation: tuple[Side, Side] = (1, 1)
    groups: Side = 1

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        (x,) = xs
        channels, depthwise = self.out_channels, self.type == "depthwise_conv"
        self._check(tensors, channels if depthwise else 1)
        full = (channels, 1 if depthwise else self.in_channels, *self.kernel)
        shape = full[:2] if self.type == "linear" else full
        codes = tensors.tensor(self.weight.tensor, np.int8, shape).reshape(full)
        real = tensors.scales(self.weight.scale_tensor, channels)
        step, out = x.type.affine.scale[0], self.out.affine()
        bias = tensors.tensor(self.bias.tensor, np.int32, (channels,))
        tensors.check_ratios(self.name, [step * s / out.scale[0] for s in real])
        layout = codes[:, 0].transpose(1, 2, 0) if depthwise else codes.transpose(0, 2, 3, 1)
        w = b.param(
            f"{self.name}.weight",
            np.ascontiguousarray(layout),
            Affine(real, axis=2 if depthwise else 0),
            role=Role.WEIGHT,
        )
        quant = Affine(real, axis=0, unit=step)
        c = b.param(f"{self.name}.bias", bias, quant, role=Role.BIAS)
        window = Window(self.stride, self.padding)
        kind = Depthwise if depthwise else Conv
        op = kind(window, out, limits=self.limits, rounding=self.rounding)
        return b(op, x, w, c, name=self.name)

    def _check(self, tensors: Tensors, groups: int) -> None:
        if self.dilation != (1, 1):
            raise InputError(f"{tensors.file}: {self.name!r} needs no dilation")
        if self.groups != groups:
            raise InputError(
                f"{tensors.file}: {self.name!r} has groups that are neither 1 nor depthwise"
            )


OPERATORS: Mapping[str, type[Operator]] = {
    "conv": _Layer,
    "depthwise_conv": _Layer,
    "linear": _Layer,
    "add": _Add,
    "avgpool": _AvgPool,
    "mean": _Mean,
    "max_pool": _MaxPool,
    "mean_pool": _MeanPool,
}


def read_operator(found: object, where: str) -> Operator:
    """Return an entry of `ops` by its type; raises `InputError`, which begins with `where`."""
    op = typed(found, _Named, where)
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
    reads = n.inputs[:1] if isinstance(n.op, Conv | Depthwise) else n.inputs
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
        case Add():
            return _Add(type="add", **common)
        case AvgPool(rounding):
            return _AvgPool(type="avgpool", rounding=rounding, **common)
        case Mean(_, rounding, axes):
            named = tuple(_AXES[axis] for axis in axes)
            return _Mean(type="mean", axes=named, rounding=rounding, **common)
        case MaxPool(size, window):
            return _MaxPool(type="max_pool", kernel=size, **_window(window), **common)
        case MeanPool(size, window):
            return _MeanPool(type="mean_pool", kernel=size, **_window(window), **common)
        case Conv() | Depthwise():
            return _layer_record(n, common, layers)
    raise TypeError(f"{n} has no place in a model folder")


def _window(window: Window) -> dict[str, Any]:
    return {"stride": window.stride, "padding": window.pad}


def _layer_record(n: Node, common: dict[str, Any], layers: tuple[str, ...]) -> Operator:
    """Return the record of a layer with weights."""
    assert isinstance(n.op, Conv | Depthwise)  # noqa: S101 says so to the type checker
    c = n.type.shape[2]
    common |= {
        "in_channels": n.inputs[0].type.shape[2],
        "out_channels": c,
        "weight": _Weight(f"{n.name}.weight", f"{n.name}.weight_scale"),
        "bias": _Bias(f"{n.name}.bias"),
    }
    if n.name not in layers:
        return _Layer(type="linear", **common | {"out_shape": (c,)})
    depthwise = isinstance(n.op, Depthwise)
    height, width = n.inputs[1].type.shape[:2] if depthwise else n.inputs[1].type.shape[1:3]
    return _Layer(
        type="depthwise_conv" if depthwise else "conv",
        kernel=(height, width),
        groups=c if depthwise else 1,
        **_window(n.op.window),
        **common,
    )
