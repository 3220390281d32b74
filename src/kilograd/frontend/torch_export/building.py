"""What the operators' translations have in common: operands, axes, shapes, and layers made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kilograd import limits, names
from kilograd.errors import InputError
from kilograd.frontend.torch_export.program import Argument, Call, Program, Ref, Stored, is_number
from kilograd.ir import Affine, Array
from kilograd.layers.network import (
    Concat,
    Constant,
    Convolution,
    Dense,
    Gather,
    Layer,
    Layout,
    Operation,
    Pair,
    Pool,
    PoolKind,
    Reshape,
    Resize,
    Slice,
    Tensor,
    Transpose,
    Value,
)
from kilograd.layers.parameters import bias_codes
from kilograd.layers.shapes import fits
from kilograd.layers.unsupported import UnsupportedError

Held = Value | Stored
"""What a name of the program stands for: what a layer makes, or numbers that are there."""
Translation = Callable[["At"], Held | list[Held]]
"""Makes the layers of a call, and returns what its outputs are."""


@dataclass
class Building:
    """The layers so far, and what names of the program stand for.

    `lost`: names that stand for nothing that a layer makes.
    """

    program: Program
    batch: int | None
    inputs: list[Value] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    _layer_names: set[str] = field(default_factory=set)
    _last: dict[str, float] = field(default_factory=dict)
    _value_names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        calls = self.program.calls
        self._last = {name: i for i, call in enumerate(calls) for name in call.refs()}
        self._last |= dict.fromkeys(self.program.outputs, math.inf)
        self._value_names.update(self.program.tensors)

    def last_read(self, name: str) -> float:
        """Return the index of the last call that reads a name; infinity for what is returned."""
        return self._last.get(name, -1)

    def read_later(self, value: Value, index: int) -> bool:
        """Tell whether a call behind that of an index reads a value."""
        return any(self.last_read(n) > index for n, held in self.held.items() if held == value)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one of the program's tensors without the axis of the batch.

        Raises `UnsupportedError` where that is not the first axis, or others have no fixed length.
        """
        given = self.program.tensors.get(name)
        if given is None:
            raise UnsupportedError("its result is no tensor")
        if given.dtype != "float32":
            raise UnsupportedError(
                f"it makes {given.dtype}; only float32 is read: call module.float(), and leave "
                f"arithmetic of other types out"
            )
        if not given.shape or given.shape[0] != self.batch:
            raise UnsupportedError(
                "it drops the axis of the batch or mixes images; keep axis 0 as it is, as "
                "torch.flatten(x, 1) does"
            )
        shape = tuple(n for n in given.shape[1:] if n is not None)
        if len(shape) + 1 < len(given.shape):
            raise UnsupportedError(
                "an axis other than the first is dynamic; export with fixed shapes"
            )
        if not shape or not 1 <= math.prod(shape) <= limits.MAP_ELEMENTS:
            raise UnsupportedError(
                f"it makes {list(shape)} of an image; 1 to {limits.MAP_ELEMENTS:,} numbers on one "
                f"axis at least are read"
            )
        return shape

    def whole(self, name: str) -> tuple[int, ...]:
        """Return the shape of one of the program's tensors, all axes; for what has no batch."""
        given = self.program.tensors.get(name)
        shape = tuple(n for n in given.shape if n is not None) if given else ()
        if given is None or len(shape) != len(given.shape):
            raise UnsupportedError("its result has no fixed shape; export with fixed shapes")
        return shape

    def make(self, label: str, op: Operation, inputs: tuple[Value, ...], output: Value) -> Value:
        """Add a layer; raises `UnsupportedError` where the shapes do not fit."""
        if len(self.layers) >= limits.OPERATORS:
            raise InputError(
                f"{self.program.file}: has more than {limits.OPERATORS:,} layers, the most read"
            )
        name = names.spelled(label, self._layer_names)
        layer = Layer(name, op, inputs, output)
        if not fits(layer, Layout.CHANNELS_FIRST):
            read = " and ".join(str(list(v.shape)) for v in inputs)
            raise UnsupportedError(
                f"it makes {list(output.shape)} of {read}, which is not what it does to each image "
                f"by itself"
            )
        self._layer_names.add(name)
        self.layers.append(layer)
        return output

    def fresh(self, stem: str, shape: tuple[int, ...]) -> Value:
        """Return a value that the program has no name for."""
        name = names.spelled(stem, self._value_names)
        self._value_names.add(name)
        return Value(name, shape)


@dataclass(frozen=True)
class At:
    """A call, and where its layers go."""

    call: Call
    building: Building
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output, without the batch."""
        return self.building.shape(self.call.outputs[0])

    def held(self, argument: Argument) -> Held:
        """Return what an argument stands for."""
        if not isinstance(argument, Ref):
            raise UnsupportedError("an argument is no tensor")
        found = self.building.held.get(argument.name)
        if found is None:
            raise UnsupportedError(f"it reads {argument.name!r}, which nothing makes")
        return found

    def input(self, name: str = "self") -> Value:
        """Return an argument that is computed, or a constant layer for one that is not."""
        return self.value(self.call.ref(name))

    def value(self, ref: Ref) -> Value:
        """Return what is computed; a constant layer for numbers with an axis for the batch."""
        found = self.held(ref)
        if isinstance(found, Stored):
            _need_reals(found)
            if found.array.ndim < 2 or len(found.array) != 1:
                raise UnsupportedError(
                    f"it reads {found.origin!r}, which is the same for all images"
                )
            return self.constant(found.array[0], found.origin)
        if found.shape != self.building.shape(ref.name):
            raise UnsupportedError("it reads what was expanded; only sums and products may")
        return found

    def constant(self, array: Array, origin: str = "") -> Value:
        """Return the output of a new layer of float32 numbers."""
        stem = origin or f"{self.call.name}.constant"
        tensor = Tensor(finite(array, stem), None, origin)
        return self.step(Constant(tensor), array.shape, label=stem)

    def stored(self, name: str) -> Stored:
        """Return an argument that is a parameter, a buffer or a constant."""
        found = self.held(self.call.get(name))
        if not isinstance(found, Stored):
            raise UnsupportedError(
                f"its {name} is computed when it runs; make it a plain parameter before the "
                f"export (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        return found

    def given(self, name: str) -> bool:
        """Tell whether an argument is there and not None."""
        return self.call.get(name) is not None

    def tensor(self, name: str, rank: int) -> Tensor:
        """Return a parameter as float32, or in the int8 codes that it has."""
        found = self.stored(name)
        if found.array.ndim != rank:
            raise UnsupportedError(f"{found.origin!r} has {found.array.ndim} axes; {rank} are read")
        if found.quant is not None and found.array.dtype == np.int8:
            return Tensor(np.ascontiguousarray(found.array), found.quant, found.origin)
        _need_reals(found)
        return Tensor(finite(found.array, found.origin), None, found.origin)

    def bias(self, weight: Tensor, x: Value) -> Tensor | None:
        """Return the argument `bias` for a weight, and in codes for codes of it and of `x`."""
        if weight.quant is not None and x.quant is None:
            raise UnsupportedError(
                "its weights have codes, and what it reads has none; quantise both"
            )
        if weight.quant is None and x.quant is not None:
            raise UnsupportedError(
                "what it reads has codes, and its weights have none; quantise both"
            )
        found = self.stored("bias") if self.given("bias") else None
        if found is not None and found.array.shape != weight.values.shape[:1]:
            raise UnsupportedError("its bias does not fit its weight")
        if weight.quant is None or x.quant is None:
            return None if found is None else self.tensor("bias", 1)
        real, origin = np.zeros(len(weight.values)), ""
        if found is not None:
            real, origin = found.array.astype(np.float64), found.origin
            if found.quant is not None:
                real = real * found.quant.scale
        return bias_codes(real, weight.quant.scale, x.quant, origin)

    def make(self, op: Operation, *inputs: Value, output: int = 0) -> Value:
        """Add the layer that makes an output of the call; what only moves codes keeps them."""
        name = self.call.outputs[output]
        value = Value(name, self.building.shape(name), _moved(op, inputs))
        return self.building.make(self._label(op), op, inputs, value)

    def step(self, op: Operation, shape: tuple[int, ...], *inputs: Value, label: str = "") -> Value:
        """Add a layer on the way to an output."""
        value = self.building.fresh(label or f"{self.call.name}.step", shape)
        value = replace(value, quant=_moved(op, inputs))
        return self.building.make(label or self._label(op), op, inputs, value)

    def gather(self, x: Value, axis: int, index: Sequence[int]) -> Value:
        """Add the layer that takes slices along an axis, so many as a side may have."""
        if len(index) > limits.SIDE:
            raise UnsupportedError(f"it takes {len(index):,} slices; {limits.SIDE:,} are the most")
        return self.make(Gather(axis, tuple(index)), x)

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis of a tensor with a batch as one of an image; `rank` is an image's."""
        found = axis + rank + 1 if axis < 0 else axis
        if found == 0:
            raise UnsupportedError("it works along the axis of the batch; leave axis 0 as it is")
        if not 0 < found <= rank:
            raise UnsupportedError(f"axis {axis} is none of its tensor's")
        return found - 1

    def pair(self, name: str, flat: bool, default: int | None = None) -> Pair:  # noqa: FBT001
        """Return an argument for both axes of a map; for 1 and the only one where `flat`."""
        numbers = self.call.integers(name, None if default is None else (default,))
        if max(numbers, default=0) > limits.SIDE:
            raise UnsupportedError(f"its {name} is {list(numbers)}; {limits.SIDE:,} is the most")
        if flat and len(numbers) == 1:
            return (0 if default == 0 else 1), numbers[0]
        if len(numbers) == 1:
            return numbers[0], numbers[0]
        if len(numbers) != 2 or flat:
            raise UnsupportedError(f"its {name} is {list(numbers)}")
        return numbers[0], numbers[1]

    def _label(self, op: Operation) -> str:
        """Return what people call the layer: the module that holds the weights, or calls."""
        call = self.call
        if isinstance(op, Convolution | Dense):
            holder = op.weight.origin.removesuffix(".weight")
            # PT2E calls all weights _frozen_param0 and so on.
            return holder if holder != op.weight.origin else call.path or holder
        if call.module.startswith("torch.nn.modules."):
            return call.path or call.operator
        return ".".join(x for x in (call.path, call.operator) if x)


def _moved(op: Operation, inputs: tuple[Value, ...]) -> Affine | None:
    """Return what codes mean that an operation moves; None where it computes."""
    largest = isinstance(op, Pool) and op.kind is PoolKind.MAX
    quants = {v.quant for v in inputs}
    return quants.pop() if (largest or isinstance(op, _MOVES)) and len(quants) == 1 else None


_MOVES = Concat | Gather | Reshape | Resize | Slice | Transpose


def _need_reals(stored: Stored) -> None:
    if stored.quant is not None:
        raise UnsupportedError(
            f"{stored.origin!r} has codes; only those of weights and biases are read"
        )


def finite(array: Array, origin: str) -> Array:
    """Return numbers as float32; raises `UnsupportedError` where one is not finite."""
    if array.dtype.kind not in "fiu":
        raise UnsupportedError(f"{origin!r} is of type {array.dtype}; make it float32")
    with np.errstate(over="ignore"):
        out = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(out).all():
        raise UnsupportedError(f"{origin!r} holds numbers that are not finite; train it again")
    return out.reshape(array.shape)


def scalar(argument: Argument) -> Stored | None:
    """Return a number as what is stored; None where an argument is none."""
    return Stored("", np.array(argument, np.float32)) if is_number(argument) else None
