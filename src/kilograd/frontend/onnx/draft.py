"""A network in the making: what each tensor of the file has become, and the layers so far."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kilograd import limits
from kilograd.errors import InputError
from kilograd.frontend.onnx.constants import Given
from kilograd.frontend.onnx.file import Operator, Program
from kilograd.frontend.onnx.functions import Function, Line, recognise
from kilograd.ir import Affine, Array
from kilograd.layers.network import (
    UNBOUNDED,
    ChannelScale,
    Clamp,
    Concat,
    Constant,
    Convolution,
    Curve,
    CurveKind,
    Dense,
    Gather,
    Layer,
    Operation,
    Pad,
    Pool,
    PoolKind,
    Product,
    Requantise,
    Reshape,
    Resize,
    Slice,
    Sum,
    Tensor,
    Transpose,
    Value,
)
from kilograd.layers.unsupported import Unsupported, UnsupportedError
from kilograd.names import spelled


@dataclass(frozen=True, eq=False)
class Known:
    """A constant; codes where `quant` says what they mean.  `origin`: the initialiser it is."""

    values: Array
    origin: str = ""
    quant: Affine | None = None


@dataclass(frozen=True)
class Flow:
    """A tensor that depends on the input.

    `batch`: its first axis in the file is that of the batch, which `value` does not have.
    `codes`: in the file it is the integers themselves, not what they stand for.
    """

    value: Value
    batch: bool
    codes: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the file."""
        return (1, *self.value.shape) if self.batch else self.value.shape

    def axis(self, axis: int) -> int:
        """Return an axis of the file as one of the value."""
        rank = len(self.shape)
        if not -rank <= axis < rank:
            raise UnsupportedError(f"axis {axis} is none of its {rank}; check the file")
        axis = axis % rank - self.batch
        if axis < 0:
            raise UnsupportedError("works across the images of a batch; export without")
        return axis


@dataclass(frozen=True)
class Codes:
    """An input of int8 or uint8: what its codes mean is said where it is read."""

    shape: tuple[int, ...]
    batch: bool
    unsigned: bool


@dataclass(frozen=True)
class Unknown:
    """What an operator makes that is not supported."""


Entry = Known | Flow | Function | Codes | Unknown


class UnreachedError(Exception):
    """An operator reads what one that is not supported makes."""


@dataclass(eq=False)
class Draft:
    """Layers by the names of the values that they make, and what tensors have become."""

    program: Program
    where: str
    inputs: list[Value] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    fed: dict[str, str] = field(default_factory=dict)
    operators: dict[str, Operator] = field(default_factory=dict)
    problems: list[Unsupported] = field(default_factory=list)
    readers: Counter[str] = field(default_factory=Counter)
    _told: dict[Function, Flow | None] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Count who reads what."""
        self.readers.update(x for node in self.program.operators for x in node.inputs if x)
        self.readers.update(self.program.outputs)

    # -- what nodes read ---------------------------------------------------------------------------

    def entry(self, node: Operator, index: int) -> Entry | None:
        """Return an input of an operator; None where an optional one is left out."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        found = self.entries[node.inputs[index]]
        if isinstance(found, Unknown):
            raise UnreachedError
        return found

    def known(self, node: Operator, index: int) -> Known | None:
        """Return an input that must be constant; None where it is left out."""
        found = self.entry(node, index)
        if found is not None and not isinstance(found, Known):
            raise UnsupportedError(
                f"its input {index} depends on the image; export it with a constant"
            )
        return found

    def constants(self, node: Operator) -> Given:
        """Return all inputs but the first, which must be constant; None in place of the first."""
        rest = [self.known(node, i) for i in range(1, len(node.inputs))]
        return [None, *(None if x is None else reals(x) for x in rest)]

    def flow(self, node: Operator, index: int = 0) -> Flow:
        """Return an input that must be data."""
        return self.as_flow(node, self.entry(node, index))

    def as_flow(self, node: Operator, found: Entry | None) -> Flow:
        """Return what an operator reads as data; layers that make it are added."""
        match found:
            case Flow():
                return found
            case Function():
                return self.told(found)
            case Unknown():
                raise UnreachedError
            case Codes():
                raise UnsupportedError("reads codes; put a DequantizeLinear in front of it")
            case _:
                raise UnsupportedError("reads a constant where it needs data; fold it")

    def refuse(self, node: Operator, advice: str) -> None:
        """Note that an operator cannot be imported, with the shape that it makes or reads."""
        shapes = self.program.shapes
        shape = next((shapes[x] for x in node.outputs if x in shapes), None)
        read = self.entries.get(node.inputs[0]) if node.inputs else None
        if shape is None and isinstance(read, Flow):
            shape = read.shape
        kind = f"{node.domain}.{node.kind}" if node.domain else node.kind
        self.problems.append(Unsupported(node.name, kind, shape, advice))

    # -- what nodes make ---------------------------------------------------------------------------

    def add(
        self,
        node: Operator,
        op: Operation,
        inputs: Sequence[Flow],
        shape: Sequence[int],
        *,
        output: str | None = None,
    ) -> Flow:
        """Add a layer; its output has no codes yet, but where it moves those of its input."""
        tensor = node.outputs[0] if output is None else output
        batch = any(x.batch for x in inputs) or not inputs
        value = self.value(tensor, shape)
        if _moves(op, inputs):
            value = replace(value, quant=inputs[0].value.quant)
        elif any(x.codes for x in inputs):
            raise UnsupportedError("computes with codes; put a DequantizeLinear in front of it")
        layer = self._add(node.name, op, [x.value for x in inputs], value)
        self.operators[layer.name] = node
        return Flow(value, batch, bool(inputs) and inputs[0].codes)

    def given(self, tensor: str, shape: Sequence[int], quant: Affine | None = None) -> Value:
        """Return a new input of the network."""
        value = self.value(tensor, shape, quant)
        self.inputs.append(value)
        self.fed[value.name] = tensor
        return value

    def value(self, tensor: str, shape: Sequence[int], quant: Affine | None = None) -> Value:
        """Return a new value for a tensor of the file."""
        if min(shape, default=1) < 1 or math.prod(shape) > limits.MAP_ELEMENTS:
            raise InputError(
                f"{self.where}: tensor {tensor[:80]!r} has the shape {list(shape)[:8]}, which "
                f"cannot be"
            )
        name = spelled(tensor, self.tensors)
        self.tensors[name] = tensor
        return Value(name, tuple(map(int, shape)), quant)

    def constant(self, node: Operator, known: Known, shape: tuple[int, ...]) -> Flow:
        """Return a constant as a value."""
        value = self.value(known.origin or f"{node.name}.constant", shape, known.quant)
        tensor = self.tensor(known, known.values.reshape(shape))
        self._add(value.name, Constant(tensor), [], value)
        return Flow(value, batch=True)

    def reshaped(self, node: Operator, x: Flow, shape: Sequence[int]) -> Flow:
        """View a tensor in a shape of the file, which may begin with the axis of the batch."""
        batch = len(shape) > 1 and shape[0] == 1
        own = tuple(shape[1:] if batch else shape)
        if own != x.value.shape:
            x = self.add(node, Reshape(), [x], own)
        return replace(x, batch=batch)

    def _add(self, name: str, op: Operation, inputs: Sequence[Value], output: Value) -> Layer:
        layer = Layer(spelled(name, self._names), op, tuple(inputs), output)
        self._names.add(layer.name)
        self.layers[output.name] = layer
        if len(self.layers) > limits.OPERATORS:
            raise InputError(f"{self.where}: has more than {limits.OPERATORS:,} layers")
        return layer

    def tensor(self, known: Known, values: Array) -> Tensor:
        """Return a constant, seen as `values`, as a layer's; floats must be finite."""
        if known.quant is None:
            values = values.astype(np.float32, copy=False)
            if not np.isfinite(values).all():
                raise InputError(
                    f"{self.where}: tensor {known.origin[:80]!r} holds numbers that are not finite "
                    f"(NaN or infinite); train or export it anew"
                )
        return Tensor(values, known.quant, known.origin)

    # -- functions of each element -----------------------------------------------------------------

    def told(self, f: Function) -> Flow:
        """Return the values of a function; a layer is added where it has none yet.

        Raises `UnreachedError` where it is none that is known, which has been noted.
        """
        if f not in self._told:
            try:
                self._told[f] = self._tell(f)
            except UnsupportedError as e:
                self.refuse(f.node, str(e))
                self._told[f] = None
        found = self._told[f]
        if found is None:
            raise UnreachedError
        return found

    def _tell(self, f: Function) -> Flow:
        found = recognise(f)
        if found is None:
            return self._combined(f)
        start, known = found
        x = self.told(start) if isinstance(start, Function) else Flow(start, f.batch)
        shape = x.value.shape
        match known:
            case Line(1.0, 0.0):
                return x
            case Line(-1.0, 0.0):
                return self.add(f.node, Curve(CurveKind.NEG), [x], shape)
            case Line(slope, offset):
                channels = shape[0] if shape else 1
                both = (np.full(channels, v, np.float32) for v in (slope, offset))
                return self.add(f.node, ChannelScale(*both), [x], shape)
            case Clamp() | Curve():
                return self.add(f.node, known, [x], shape)

    def _combined(self, f: Function) -> Flow:
        """Return a sum or product of two functions of one tensor that are none together."""
        kinds: dict[str, Operation] = {"Add": Sum(), "Mul": Product()}
        if f.node.kind not in kinds or any(isinstance(a, float) for a in f.args):
            raise UnsupportedError(
                "is no function of one number that is known here; those that are stand in "
                "docs/import-onnx.md"
            )
        xs = [self.told(a) if isinstance(a, Function) else Flow(f.base, f.batch) for a in f.args]
        return self.add(f.node, kinds[f.node.kind], xs, f.base.shape)

    # -- codes -------------------------------------------------------------------------------------

    def coded(self, node: Operator, x: Flow, quant: Affine) -> Flow:
        """Return a tensor in codes: the layer that makes it makes these, where nothing else reads.

        ReLU and clip between a layer and its codes become the clamp of that layer.
        """
        if x.codes:
            raise UnsupportedError("quantises what are codes already")
        before = x.value
        value = self._coded(before, quant, node.outputs[0])
        if before.quant is None:
            self.tensors[value.name] = node.outputs[0]
        return Flow(value, x.batch, codes=True)

    def _coded(self, value: Value, quant: Affine, name: str) -> Value:
        """Return a value in codes; `name`: of one that must be made for it."""
        if value.quant is not None or not self.only(value):
            return self._requantised(name, value, quant)
        coded = replace(value, quant=quant)
        if value in self.inputs:
            self.inputs[self.inputs.index(value)] = coded
            return coded
        layer = self.layers.pop(value.name)
        match layer.op:
            case Clamp() if self._clamping(layer, layer.op, coded):
                return coded
            case Concat() | Pool(PoolKind.MAX) | Slice() | Gather() | Transpose() | Reshape():
                # What is moved is rounded before as it would be behind.
                parts = [self._coded(v, quant, f"{v.name} in {layer.name}") for v in layer.inputs]
                layer = replace(layer, inputs=tuple(parts))
        self.layers[value.name] = replace(layer, output=coded)
        return coded

    def _requantised(self, tensor: str, value: Value, quant: Affine) -> Value:
        """Return a value in other codes."""
        if value.quant == quant:
            return value
        made = self.value(tensor, value.shape, quant)
        self._add(made.name, Requantise(), [value], made)
        return made

    def _clamping(self, layer: Layer, clamp: Clamp, coded: Value) -> bool:
        """Let the layer before a clamp do it, where it can."""
        (before,) = layer.inputs
        maker = self.layers.get(before.name)
        if before.quant is not None or maker is None or not self.only(before):
            return False
        op = maker.op
        if not isinstance(op, Convolution | Dense | Sum | Product | Pool) or op.clamp != UNBOUNDED:
            return False
        del self.layers[before.name]
        clamping = replace(op, clamp=clamp.bounds)
        self.layers[coded.name] = Layer(maker.name, clamping, maker.inputs, coded)
        return True

    def only(self, value: Value) -> bool:
        """Tell whether one operator reads a value."""
        return self.readers[self.tensors[value.name]] == 1


def _moves(op: Operation, inputs: Sequence[Flow]) -> bool:
    """Tell whether a layer only moves codes, whatever they mean."""
    match op:
        case Pool(PoolKind.MAX) | Slice() | Gather() | Transpose() | Reshape() | Resize() | Pad():
            return True
        case Concat():
            return len({(x.value.quant, x.codes) for x in inputs}) == 1
        case _:
            return False


def reals(known: Known) -> Array:
    """Return what a constant stands for."""
    if known.quant is None:
        return known.values
    quant = known.quant
    along = [-1 if a == quant.axis else 1 for a in range(known.values.ndim)]
    scale = np.array(quant.scale, np.float32)
    scale = scale.reshape(along) if quant.axis is not None else scale.reshape(())
    return (known.values.astype(np.float32) - quant.zero_point) * scale
