"""What a network is built with: tensors of the file, and the values that stand for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from kilograd.errors import InputError
from kilograd.frontend.tflite.builtin import Element
from kilograd.frontend.tflite.schema import FileGraph, FileOperator, FileTensor
from kilograd.ir import Affine, Array
from kilograd.layers import moves
from kilograd.layers.network import Constant, Layer, Operation, Reshape, Tensor, Value
from kilograd.layers.unsupported import UnsupportedError
from kilograd.limits import IMPORTED_ELEMENTS, IMPORTED_MOVED
from kilograd.names import spelled

Shape = tuple[int, ...]


def own(shape: Shape) -> Shape:
    """Return a shape without the batch axis."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


@dataclass(frozen=True, eq=False)
class Moved:
    """Elements of a value, by their numbers, in the shape of the file; None: all, in order."""

    value: Value
    index: Array | None = None


@dataclass(eq=False)
class Reader:
    """A network in the making.

    `held`: what stands for a tensor of the file.  `constants`: numbers that were computed from
    others of the file while reading.  `tensors`: by the name of a value, the number of the tensor
    that has the same elements in the same order.  `ended`: for a tensor behind what is left out at
    the end, the one before.  `spent`: elements that were copied or followed so far.
    """

    graph: FileGraph
    layers: list[Layer] = field(default_factory=list)
    inputs: dict[FileTensor, Value] = field(default_factory=dict)
    held: dict[FileTensor, Moved] = field(default_factory=dict)
    constants: dict[FileTensor, Array] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    tensors: dict[str, int] = field(default_factory=dict)
    ended: dict[FileTensor, FileTensor] = field(default_factory=dict)
    spent: int = 0

    # -- tensors of the file -------------------------------------------------------------------

    def constant(self, tensor: FileTensor | None, what: str) -> Array:
        """Return the numbers of a tensor; raises `UnsupportedError` where it has none."""
        found = None if tensor is None else self.constants.get(tensor, tensor.values)
        if tensor is None or found is None:
            raise UnsupportedError(f"has {what} that the file does not hold: it must be constant")
        if tensor.trouble:
            raise UnsupportedError(f"has {what} that {tensor.trouble}")
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise InputError(
                f"{self.graph.where}: tensor {tensor.name!r} holds NaN or infinity; train again"
            )
        return found

    def compute(self, tensor: FileTensor, values: Array) -> None:
        """Let numbers of the file be computed while it is read."""
        self.constants[tensor] = values.reshape(tensor.shape)

    def spend(self, elements: int) -> None:
        """Count elements that are copied or followed; raises `InputError` beyond the limit.

        A file may name its numbers as often as it likes.
        """
        self.spent += elements
        if self.spent > IMPORTED_ELEMENTS:
            raise InputError(
                f"{self.graph.where}: has more than {IMPORTED_ELEMENTS:,} parameters and elements "
                f"that move; give a smaller network"
            )

    def is_constant(self, tensor: FileTensor | None) -> bool:
        """Tell whether the numbers of a tensor are known."""
        return tensor is not None and (tensor.values is not None or tensor in self.constants)

    def quant(self, tensor: FileTensor) -> Affine | None:
        """Return what the codes of an activation mean; None for reals."""
        require_usable(tensor)
        if tensor.element is Element.FLOAT32:
            return None
        if len(tensor.scales) != 1:
            raise UnsupportedError(
                f"has an int8 tensor with {len(tensor.scales)} scales: convert it with 1"
            )
        if not -128 <= tensor.zeros[0] <= 127:
            raise UnsupportedError(f"has the zero point {tensor.zeros[0]}, which is no int8")
        return Affine(tensor.scales, tensor.zeros[0])

    # -- values --------------------------------------------------------------------------------

    def moved(self, tensor: FileTensor | None) -> Moved:
        """Return what stands for a tensor that an operator reads."""
        if tensor is None:
            raise UnsupportedError("lacks an input")
        if tensor not in self.held:
            if self.is_constant(tensor):
                self.held[tensor] = Moved(self._constant(tensor))
            elif tensor in self.graph.inputs:
                self.held[tensor] = Moved(self.given(tensor, tensor, self.quant(tensor)))
            else:
                raise UnsupportedError("reads what nothing makes")
        return self.held[tensor]

    def given(self, tensor: FileTensor, like: FileTensor, quant: Affine | None) -> Value:
        """Return the value of an input, with the codes of the tensor `like`."""
        if tensor not in self.inputs:
            if len(tensor.shape) > 1 and tensor.shape[0] != 1:
                raise UnsupportedError(
                    f"takes {tensor.shape[0]} inputs at once: convert it for one"
                )
            if tensor.trouble:
                raise UnsupportedError(f"reads an input that {tensor.trouble}")
            self.inputs[tensor] = Value(self.name(tensor.name), own(tensor.shape), quant)
        if self.inputs[tensor].quant != quant:
            raise UnsupportedError("reads an input in another quantisation than others do")
        return self.inputs[tensor]

    def value(self, tensor: FileTensor | None, shape: Shape | None = None) -> Value:
        """Return the value of a tensor, its elements where the file has them.

        `shape`: another one than its own without the batch axis.
        """
        if tensor is None:
            raise UnsupportedError("lacks an input")
        value = self._placed(
            self.moved(tensor), own(tensor.shape) if shape is None else shape, tensor.name
        )
        if shape is None:
            self.stand(tensor, value)
        self.tensors.setdefault(value.name, self.ended.get(tensor, tensor).number)
        return value

    def _placed(self, moved: Moved, shape: Shape, name: str) -> Value:
        """Return elements as a value of a shape."""
        if moved.index is None:
            return self._reshaped(moved.value, shape, name)
        self.spend(moved.index.size + math.prod(moved.value.shape))
        found = moves.steps(moved.value.shape, moved.index.reshape(shape))
        if found is None:
            raise UnsupportedError(
                "reads elements that were moved as no slice or permutation of axes does"
            )
        value = moved.value
        for op, made in found:
            value = self.layer(op, (value,), name, made, value.quant)
        return value

    def _reshaped(self, value: Value, shape: Shape, name: str) -> Value:
        same = value.shape == shape
        return value if same else self.layer(Reshape(), (value,), name, shape, value.quant)

    def elements(self, tensor: FileTensor | None) -> Array:
        """Return the numbers of the elements of a tensor, in the shape of the file."""
        if tensor is None or tensor.size > IMPORTED_MOVED:
            raise UnsupportedError(f"moves nothing, or more than {IMPORTED_MOVED:,} elements")
        self.spend(tensor.size)
        index = None if self.is_constant(tensor) else self.moved(tensor).index
        return moves.in_order(tensor.shape) if index is None else index

    def move(self, source: FileTensor, to: FileTensor, index: Array | None) -> None:
        """Let elements of `source` stand for a tensor; `index` as `elements` numbers them.

        None: the same ones in the same order.
        """
        moved = self.moved(source)
        if (source.size if index is None else index.size) != to.size:
            raise UnsupportedError(f"moves another number of elements than {to} has")
        if self.quant(to) != moved.value.quant:
            raise UnsupportedError("moves elements into another quantisation")
        kept = moved.index if index is None else index
        self.held[to] = Moved(moved.value, None if kept is None else kept.reshape(to.shape))

    def stand(self, tensor: FileTensor, value: Value) -> None:
        """Let a value stand for a tensor; it has its elements in the same order."""
        self.held[tensor] = Moved(value)
        self.tensors.setdefault(value.name, self.ended.get(tensor, tensor).number)

    def make(
        self, op: Operation, inputs: tuple[Value, ...], tensor: FileTensor, shape: Shape
    ) -> None:
        """Let a layer make a tensor, whose shape without batch must be `shape`."""
        if own(tensor.shape) != shape:
            raise UnsupportedError(
                f"makes {list(shape)}, and the file says {list(own(tensor.shape))}"
            )
        self.stand(tensor, self.layer(op, inputs, tensor.name, shape, self.quant(tensor)))

    def layer(
        self,
        op: Operation,
        inputs: tuple[Value, ...],
        name: str,
        shape: Shape,
        quant: Affine | None,
    ) -> Value:
        """Add a layer; return what it makes."""
        called = self.name(name)
        value = Value(called, shape, quant)
        self.layers.append(Layer(called, op, inputs, value))
        return value

    def origin(self, tensor: FileTensor) -> str:
        """Return where the file keeps numbers: also float16 that are made float32 first."""
        made = self.graph.made.get(tensor)
        if made is None or made.kind != "DEQUANTIZE":
            return f"tensor {tensor.number}" if tensor.values is not None else ""
        x = made.inputs[0]
        return f"tensor {x.number}" if x is not None and x.element is Element.FLOAT16 else ""

    def name(self, text: str) -> str:
        """Return a name that is not given yet, like `text`."""
        called = spelled(text, self.names)
        self.names.add(called)
        return called

    def _constant(self, tensor: FileTensor) -> Value:
        values = self.constant(tensor, "numbers")
        quant = self.quant(tensor)
        held = Tensor(np.array(values).reshape(own(tensor.shape)), quant, self.origin(tensor))
        return self.layer(Constant(held), (), tensor.name, own(tensor.shape), quant)


def require_usable(tensor: FileTensor) -> None:
    """Raise `UnsupportedError` for element types and shapes that are not computed with."""
    if tensor.trouble:
        raise UnsupportedError(tensor.trouble)
    if tensor.element is Element.UINT8:
        raise UnsupportedError(
            "computes in uint8: convert it again with a current converter, to int8"
        )
    if tensor.element is Element.INT16:
        raise UnsupportedError("computes in int16: convert it with int8 activations")
    if tensor.element is Element.FLOAT32:
        return
    if tensor.element is not Element.INT8:
        raise UnsupportedError(f"computes in {tensor.element.name}: convert it to float32 or int8")
    if not tensor.scales:
        raise UnsupportedError("has int8 numbers without a scale")


def data_of(op: FileOperator) -> tuple[FileTensor, FileTensor]:
    """Return the first input and the first output of an operator."""
    if not op.inputs or op.inputs[0] is None or not op.outputs:
        raise UnsupportedError("lacks an input or an output")
    return op.inputs[0], op.outputs[0]
