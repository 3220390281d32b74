"""What was learned, written into the ONNX file that a network is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kilograd.errors import InputError
from kilograd.extras import Extra
from kilograd.frontend.onnx.file import Program, program_of, read_program, store, text, whole
from kilograd.frontend.onnx.reader import Reading, read_network
from kilograd.ir import Affine, Array
from kilograd.layers.evaluate import real
from kilograd.layers.learned import Learned
from kilograd.layers.network import (
    ChannelScale,
    Convolution,
    Dense,
    Layer,
    Tensor,
    Value,
)
from kilograd.layers.simplify import simplify

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_Weighted = Convolution | Dense
_CLOSE = 2e-3
"""Of the largest weight: what float16 keeps."""


def write_onnx(path: Path, learned: Mapping[str, Learned]) -> bytes:
    """Return an ONNX file with new numbers in some of its layers, by their names in the network.

    Names, other numbers and operators stay.  Codes are written into int8 layers, reals into float
    ones; a normalisation that was folded into a layer becomes Identity.  Numbers from other files
    are in it.

    Raises `InputError` for a layer that the file does not have, or the numbers of which it does
    not keep as they are; for another number of outputs of a layer that is not the last; and for
    numbers of other shapes.
    """
    program = _writable(read_program(path))
    reading = read_network(program, path)
    file = _File(path, program, reading, whole(path, program))
    layers = {x.name: x for x in reading.network.layers}
    for name, new in learned.items():
        op = layers[name].op if name in layers else None
        if not isinstance(op, _Weighted):
            raise InputError(f"{path}: has no layer {name!r} with weights; give the right file")
        _write(file, layers[name], op, new)
    for t in file.model.graph.initializer:
        if text(t.name) in file.changed:
            store(t, program.constants[text(t.name)])
    _verify(file, learned)
    return file.model.SerializeToString()


def _writable(program: Program) -> Program:
    """Return a program the constants of which may be changed, and are what layers look at."""
    constants = {
        name: x.astype(np.float32) if x.dtype.kind == "f" else x.copy()
        for name, x in program.constants.items()
    }
    return replace(program, constants=constants)


@dataclass(eq=False)
class _File:
    """A file as it changes.  `changed`: its initialisers with other numbers than before."""

    path: Path
    program: Program
    reading: Reading
    model: ModelProto

    def __post_init__(self) -> None:
        """Index what reads and makes tensors."""
        self.changed: set[str] = set()
        self.makers = {text(t): n for n in self.model.graph.node for t in n.output}

    def readers(self, tensor: str) -> list[NodeProto]:
        """Return the nodes that read a tensor."""
        return [n for n in self.model.graph.node if tensor in map(text, n.input)]

    def node(self, layer: Layer) -> NodeProto:
        """Return the node that a layer is."""
        return self.makers[self.reading.operators[layer.name].outputs[0]]

    def add(self, name: str, values: Array) -> str:
        """Add an initialiser, and return its name."""
        onnx = Extra.ONNX.load("onnx", f"{self.path}: writing ONNX files")
        taken = {text(t.name) for t in self.model.graph.initializer} | set(self.makers)
        while name in taken:
            name += "_"
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return name

    def quantisers(self, tensor: str) -> Iterator[NodeProto]:
        """Yield the quantisers that read a constant, and those that read what these make."""
        for n in self.readers(tensor):
            if n.op_type in {"QuantizeLinear", "DequantizeLinear"} and text(n.input[0]) == tensor:
                yield n
                yield from self.quantisers(text(n.output[0]))

    def requantise(self, nodes: Sequence[NodeProto], quant: Affine, axis: int) -> None:
        """Let quantisers say another scale and zero point, along an axis where there are many."""
        onnx = Extra.ONNX.load("onnx", f"{self.path}: writing ONNX files")
        scale = np.array(quant.scale, np.float64) * quant.unit
        many = len(scale) > 1
        for n in nodes:
            name = text(n.input[0])
            old = self._zero(n)
            zero = np.full(scale.shape, quant.zero_point + 128 * (old.dtype == np.uint8), old.dtype)
            shape = scale.shape if many else ()
            n.input[1] = self.add(f"{name}.scale", scale.astype(np.float32).reshape(shape))
            if len(n.input) > 2:
                n.input[2] = self.add(f"{name}.zero", zero.reshape(shape))
            for a in [a for a in n.attribute if a.name == "axis"]:
                n.attribute.remove(a)
            if many:
                n.attribute.append(onnx.helper.make_attribute("axis", axis))

    def _zero(self, node: NodeProto) -> Array:
        """Return the zero point of a quantiser."""
        name = text(node.input[2]) if len(node.input) > 2 else ""
        constants = self.program.constants
        return constants[name] if name in constants else np.zeros((), np.int8)


def _write(file: _File, layer: Layer, op: _Weighted, new: Learned) -> None:
    where = f"{file.path}: layer {layer.name!r}"
    if new.weight.values.shape[1:] != op.weight.values.shape[1:]:
        raise InputError(
            f"{where} has weights {list(op.weight.values.shape)}, not "
            f"{list(new.weight.values.shape)}; give the file it is from"
        )
    if op.bias is not None and new.bias is None:
        raise InputError(f"{where} has biases, and is given none; give the file it is from")
    if new.bias is not None and len(new.bias.values) != len(new.weight.values):
        raise InputError(
            f"{where} is given {len(new.bias.values)} biases for {len(new.weight.values)} outputs"
        )
    if (op.weight.quant is not None) and new.weight.quant is None:
        raise InputError(f"{where} has codes and is given reals; quantise them")
    if len(new.weight.values) != len(op.weight.values):
        _resize(file, layer, len(op.weight.values), len(new.weight.values), where)
    weight = replace(new.weight, values=_reordered(new.weight))
    _numbers(file, op.weight, weight, where)
    if new.bias is not None:
        _bias(file, layer, op, new.bias, where)
    if op.weight.quant is None:
        _drop_scales(file, layer)
    if new.output is not None and layer.output.quant is not None:
        quantiser = file.makers[file.reading.tensors[layer.output.name]]
        nodes = [quantiser, *file.quantisers(text(quantiser.output[0]))]
        file.requantise(nodes, new.output, 0)


def _reordered(new: Tensor) -> Array:
    """Return weights with their columns where the file has them."""
    if not new.order:
        return new.values
    placed = np.empty_like(new.values)
    placed[:, list(new.order)] = new.values
    return placed


def _numbers(file: _File, old: Tensor, new: Tensor, where: str) -> None:
    """Write numbers in place of others, and their scales where they are codes."""
    values = new.values if old.quant else real(new)
    same = values.shape == old.values.shape
    rescaled = old.quant is not None and not _alike(old.quant, new.quant)
    if same and np.array_equal(values, old.values) and not rescaled:
        return
    stored = file.program.constants.get(old.origin)
    if stored is None or not old.values.flags.writeable:
        raise InputError(
            f"{where} has numbers that the file does not keep as they are; export it with weights "
            f"that are initialisers"
        )
    if len(file.readers(old.origin)) > 1:
        raise InputError(
            f"{where} shares its numbers with other layers, which would change with it; export it "
            f"so that each has its own"
        )
    axis = 1 if old.values.ndim == 2 and _is_turned(old.values, stored) else 0
    if same:
        old.values[...] = values
        laid_out = _owner(old.values)
    else:
        laid_out = _laid_out(old.values, stored, values, where)
    file.program.constants[old.origin] = _encoded(laid_out, stored, new.quant, axis)
    file.changed.add(old.origin)
    if rescaled and new.quant is not None:
        file.requantise(list(file.quantisers(old.origin)), new.quant, axis)


def _alike(a: Affine | None, b: Affine | None) -> bool:
    """Tell whether two quantisations are the same in a file, where scales are float32."""
    if a is None or b is None or a.zero_point != b.zero_point:
        return False
    mine, theirs = (np.array(x.scale, np.float64) * x.unit for x in (a, b))
    return mine.shape == theirs.shape and np.allclose(mine, theirs, rtol=1e-6, atol=0)


def _owner(values: Array) -> Array:
    """Return the array that a view looks at."""
    return values.base if isinstance(values.base, np.ndarray) else values


def _is_turned(values: Array, stored: Array) -> bool:
    """Tell whether a matrix stands in the file with its outputs last."""
    return values.shape != stored.shape or values.strides[0] < values.strides[1]


def _laid_out(old: Array, stored: Array, values: Array, where: str) -> Array:
    """Return numbers of another count of outputs in the order of the file."""
    if old.ndim == 1:
        shape = [len(values) if n == len(old) else n for n in stored.shape]
        return values.reshape(shape)
    if old.ndim == 4 and stored.shape[0] == len(old):
        return values.transpose(0, 3, 1, 2).reshape(len(values), *stored.shape[1:])
    if old.ndim == 2 and stored.shape in {old.shape, old.shape[::-1]}:
        return values.T if _is_turned(old, stored) else values
    raise InputError(f"{where} is kept in another order; the number of its outputs cannot change")


def _encoded(laid_out: Array, stored: Array, quant: Affine | None, axis: int) -> Array:
    """Return numbers, or codes, in the element type of an initialiser."""
    if stored.dtype == np.uint8:
        return laid_out.view(np.uint8) ^ np.uint8(0x80)
    if stored.dtype.kind == "f" and laid_out.dtype == np.int8 and quant is not None:
        along = replace(quant, axis=None if quant.axis is None else axis)
        return real(Tensor(laid_out, along))  # the file itself quantises them
    return laid_out.astype(stored.dtype)


def _bias(file: _File, layer: Layer, op: _Weighted, new: Tensor, where: str) -> None:
    """Write biases where there are some, or where there could be."""
    old = op.bias
    if old is not None and old.origin in file.program.constants and old.values.flags.writeable:
        stored = file.program.constants[old.origin]
        if stored.dtype.kind == "f" and old.quant is not None:  # rounded when it was read
            if not np.array_equal(old.values, new.values):
                file.program.constants[old.origin] = real(new).reshape(_sized(stored, new))
                file.changed.add(old.origin)
            return
        _numbers(file, old, new, where)
        return
    if old is None and not np.any(new.values):
        return
    node = file.node(layer)
    if node.op_type not in {"Conv", "Gemm", "MatMul"} or (
        node.op_type == "MatMul" and len(layer.inputs[0].shape) != 1
    ):
        raise InputError(f"{where} has no room for biases; export it with biases")
    if node.op_type == "MatMul":
        node.op_type = "Gemm"
    named = f"{layer.name}.bias"
    if op.weight.quant is None:
        tensor = file.add(named, real(new).astype(np.float32))
    else:
        tensor = _coded_bias(file, named, new)
    del node.input[2:]
    node.input.append(tensor)


def _sized(stored: Array, new: Tensor) -> tuple[int, ...]:
    return tuple(len(new.values) if n > 1 else n for n in stored.shape) or (len(new.values),)


def _coded_bias(file: _File, name: str, new: Tensor) -> str:
    """Add int32 biases with what says their scales, and return the tensor to read."""
    onnx = Extra.ONNX.load("onnx", f"{file.path}: writing ONNX files")
    assert new.quant is not None  # noqa: S101 a layer of codes has it
    codes = file.add(name, new.values.astype(np.int32))
    scale = (np.array(new.quant.scale, np.float64) * new.quant.unit).astype(np.float32)
    scales = file.add(f"{name}.scale", scale if len(scale) > 1 else scale.reshape(()))
    axis = {"axis": 0} if len(scale) > 1 else {}
    node = onnx.helper.make_node("DequantizeLinear", [codes, scales], [f"{codes}.real"], **axis)
    file.model.graph.node.insert(0, node)
    file.makers[f"{codes}.real"] = node
    return f"{codes}.real"


def _drop_scales(file: _File, layer: Layer) -> None:
    """Let normalisations behind a layer do nothing, as its numbers have them in."""
    users = file.reading.network.users()
    value: Value = layer.output
    last: Layer | None = None
    while len(users[value]) == 1 and isinstance(users[value][0].op, ChannelScale):
        (last,) = users[value]
        value = last.output
    if last is None:
        return
    node = file.node(last)
    node.op_type = "Identity"
    node.domain = ""
    del node.attribute[:]
    del node.input[:]
    node.input.append(file.reading.tensors[layer.output.name])


def _resize(file: _File, layer: Layer, old: int, new: int, where: str) -> None:
    """Give the last layer another number of outputs, and so whatever is behind it."""
    if isinstance(layer.op, Convolution) and layer.op.groups > 1:
        raise InputError(f"{where} has groups: the number of its outputs cannot change")
    users = file.reading.network.users()
    behind = [layer.output]
    for value in behind:
        for user in users[value]:
            if isinstance(user.op, _Weighted) or len(user.inputs) > 1:
                raise InputError(
                    f"{where} is not the last: {user.name!r} reads its outputs, so their number "
                    f"cannot change"
                )
            behind.append(user.output)
    del file.model.graph.value_info[:]
    outputs = dict(zip(file.program.outputs, file.reading.network.outputs, strict=False))
    for info in file.model.graph.output:
        if outputs.get(text(info.name)) in behind:
            for d in info.type.tensor_type.shape.dim:
                d.dim_value = new if d.dim_value == old else d.dim_value


def _verify(file: _File, learned: Mapping[str, Learned]) -> None:
    """Read what was written, and raise `InputError` where it is not what was learned."""
    program = program_of(file.model, b"", file.path)
    found = {x.name: x.op for x in simplify(read_network(program, file.path).network).layers}
    for name, new in learned.items():
        op = found.get(name)
        if not isinstance(op, _Weighted) or not (
            _kept(op.weight, new.weight) and (new.bias is None or _kept(op.bias, new.bias))
        ):
            raise InputError(
                f"{file.path}: layer {name!r} has numbers that the file does not keep as they are "
                f"learned: it computes with them before; export it with weights that are "
                f"initialisers, and normalisations folded"
            )


def _kept(found: Tensor | None, new: Tensor) -> bool:
    """Tell whether numbers are those that were learned."""
    if found is None:
        return not np.any(new.values)
    if found.values.shape != new.values.shape:
        return False
    if found.quant is not None:
        return np.array_equal(found.values, new.values) and _alike(found.quant, new.quant)
    mine, theirs = real(found), real(new)
    return bool(np.abs(mine - theirs).max() <= _CLOSE * max(1e-30, float(np.abs(theirs).max())))
