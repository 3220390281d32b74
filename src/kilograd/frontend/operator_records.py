"""What stands in `graph.json` of each operator of a model folder.

One class an operator: its fields are those of the file, and `append` makes the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta, Struct

from kilograd import limits
from kilograd.errors import InputError
from kilograd.ir import Affine, Array, Builder, Node, Op, Role
from kilograd.names import identifier
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
from kilograd.ops._common import INT8
from kilograd.quant import Rounding

Side = Annotated[int, Meta(ge=1, le=limits.SIDE)]
_Padding = Annotated[int, Meta(ge=0, le=limits.SIDE)]
_Pair = tuple[Side, Side]
_Sides = tuple[_Padding, _Padding, _Padding, _Padding]
Axis = Literal["height", "width", "channels"]
AXES: tuple[Axis, ...] = ("height", "width", "channels")
_Ends = tuple[_Padding, _Padding]
_Index = Annotated[int, Meta(ge=0, lt=limits.SIDE)]
_Slope = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Positive = Annotated[float, Meta(gt=0)]
Code = Annotated[int, Meta(ge=-128, le=127)]


class Quantised(Struct, frozen=True):
    """A scale and a zero point."""

    scale: _Positive
    zero_point: Code

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


class Named(Struct, frozen=True):
    """What tells an operator from others."""

    name: str
    type: str


class Operator(Named, frozen=True, kw_only=True, omit_defaults=True):
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


class Clamped(Operator, frozen=True, kw_only=True):
    """What operators have that end in a clamp."""

    limits: tuple[Code, Code] = INT8
    rounding: Rounding = Rounding.NEAREST


class AddRecord(Clamped, frozen=True, kw_only=True):
    """A sum of two maps."""

    reads = 2

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        out = self.out.affine()
        tensors.check_ratios(self.name, [x.type.affine.scale[0] / out.scale[0] for x in xs])
        return b(Add(out, limits=self.limits, rounding=self.rounding), *xs, name=self.name)


class AvgPoolRecord(Operator, frozen=True, kw_only=True):
    """The mean over all pixels, in the same scale."""

    rounding: Rounding = Rounding.NEAREST

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(AvgPool(self.rounding), *xs, name=self.name)


class MeanRecord(Operator, frozen=True, kw_only=True):
    """The mean over some axes, in any scale."""

    axes: tuple[Axis, ...] = ("height", "width")
    rounding: Rounding = Rounding.NEAREST

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        axes = tuple(AXES.index(axis) for axis in self.axes)
        return b(Mean(self.out.affine(), self.rounding, axes), *xs, name=self.name)


class MaxPoolRecord(Operator, frozen=True, kw_only=True):
    """The largest code of each window."""

    kernel: _Pair
    stride: _Pair = (1, 1)
    padding: _Sides = (0, 0, 0, 0)

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(MaxPool(self.kernel, Window(self.stride, self.padding)), *xs, name=self.name)


class MeanPoolRecord(Clamped, frozen=True, kw_only=True):
    """The mean of each window; padding does not count."""

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


class Weight(Struct, frozen=True):
    """Where weights and their scales are in the tensor file."""

    tensor: str
    scale_tensor: str


class Bias(Struct, frozen=True):
    """Where biases are in the tensor file."""

    tensor: str


class LayerRecord(Clamped, frozen=True, kw_only=True):
    """What layers with weights have."""

    in_channels: Side
    out_channels: Side
    weight: Weight
    bias: Bias
    kernel: _Pair = (1, 1)
    stride: _Pair = (1, 1)
    padding: _Sides = (0, 0, 0, 0)
    dilation: tuple[Side, Side] = (1, 1)
    groups: Side = 1

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        (x,) = xs
        channels, depthwise = self.out_channels, self.type == "depthwise_conv"
        self._check(tensors)
        full = (channels, self.in_channels // self.groups, *self.kernel)
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
        return b(self._op(), x, w, c, name=self.name)

    def _op(self) -> Op:
        window, out = Window(self.stride, self.padding), self.out.affine()
        limits, rounding = self.limits, self.rounding
        if self.type == "depthwise_conv":
            return Depthwise(window, out, limits=limits, rounding=rounding)
        if self.groups == 1:
            return Conv(window, out, limits=limits, rounding=rounding)
        return GroupedConv(window, out, self.groups, limits=limits, rounding=rounding)

    def _check(self, tensors: Tensors) -> None:
        channels, groups = (self.in_channels, self.out_channels), self.groups
        if self.dilation != (1, 1):
            raise InputError(f"{tensors.file}: {self.name!r} needs no dilation")
        if self.type == "depthwise_conv" and not channels == (groups, groups):
            raise InputError(
                f"{tensors.file}: {self.name!r} has {groups} groups, not one for each channel"
            )
        if any(c % groups for c in channels):
            raise InputError(
                f"{tensors.file}: {self.name!r} has {groups} groups, which do not divide its "
                f"{channels[0]} and {channels[1]} channels"
            )


class ConstantRecord(Operator, frozen=True, kw_only=True):
    """Codes that are the same for every sample."""

    tensor: str
    reads = 0

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        codes = tensors.tensor(self.tensor, np.int8, self.out_shape)
        layout = np.ascontiguousarray(codes.transpose(1, 2, 0))
        return b.param(self.name, layout, self.out.affine())


class MulRecord(Clamped, frozen=True, kw_only=True):
    """A product; the second factor may be one number a channel, or one a pixel."""

    reads = 2

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        op = Product(self.out.affine(), limits=self.limits, rounding=self.rounding)
        return b(op, *xs, name=self.name)


class RescaleRecord(Clamped, frozen=True, kw_only=True):
    """The same reals in another scale, clamped."""

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        op = Rescale(self.out.affine(), limits=self.limits, rounding=self.rounding)
        return b(op, *xs, name=self.name)


class TableRecord(Operator, frozen=True, kw_only=True):
    """A function of each code: what -128 ... 127 become, and the slope at each, over the reals."""

    codes: Annotated[tuple[Code, ...], Meta(min_length=256, max_length=256)]
    slopes: Annotated[tuple[_Slope, ...], Meta(min_length=256, max_length=256)]

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(Table(self.codes, self.slopes, self.out.affine()), *xs, name=self.name)


class ConcatRecord(Operator, frozen=True, kw_only=True):
    """Maps one behind the other."""

    axis: Axis
    reads = None

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(Concat(AXES.index(self.axis)), *xs, name=self.name)


class TakeRecord(Operator, frozen=True, kw_only=True):
    """Some slices of a map, in any order."""

    axis: Axis
    index: Annotated[tuple[_Index, ...], Meta(min_length=1, max_length=limits.SIDE)]

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(Take(AXES.index(self.axis), self.index), *xs, name=self.name)


class ReshapeRecord(Operator, frozen=True, kw_only=True):
    """The same elements in the order height, width, channels."""

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        channels, *rest = self.out_shape
        shape = (1,) * (2 - len(rest)) + (*rest, channels)
        return b(Reshape(shape), *xs, name=self.name)


class PadRecord(Operator, frozen=True, kw_only=True):
    """Zeros around a map: before and behind along height, width and channels."""

    sides: tuple[_Ends, _Ends, _Ends]

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(PadMap(self.sides), *xs, name=self.name)


class UpsampleRecord(Operator, frozen=True, kw_only=True):
    """Each pixel as a box of so many pixels, down and across."""

    size: _Pair

    def append(self, b: Builder, tensors: Tensors, *xs: Node) -> Node:
        return b(Upsample(self.size), *xs, name=self.name)
