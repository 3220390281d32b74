"""What was learned, written into the file that a network is from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kilograd.errors import InputError
from kilograd.frontend.tflite.builtin import Element
from kilograd.frontend.tflite.patch import Patch
from kilograd.frontend.tflite.read import Reading, read_network
from kilograd.frontend.tflite.schema import FileOperator, FileTensor, graph_number, read_file
from kilograd.ir import Affine, Array
from kilograd.layers.evaluate import real
from kilograd.layers.learned import Learned
from kilograd.layers.network import Convolution, Dense, Layer, Tensor

_BEHIND = {"SOFTMAX", "LOGISTIC", "QUANTIZE", "DEQUANTIZE", "MEAN", "AVERAGE_POOL_2D"}
"""What may follow a layer that gets another number of outputs."""


def write_tflite(path: Path, learned: Mapping[str, Learned], signature: str = "") -> bytes:
    """Return a TFLite file with new numbers in some of its layers, by their names in the network.

    All else in it stays, byte for byte, where it is.  Reals are written into float layers.

    Raises `InputError` for a layer that the file does not have, or the numbers of which it does
    not keep as they are; for another number of outputs of a layer that is not the last; and for
    numbers of other shapes.
    """
    reading = read_network(path, signature)
    data = read_file(path)
    patch = Patch(data, str(path), graph_number(data, str(path), signature))
    layers = {x.name: x for x in reading.network.layers}
    for name, new in learned.items():
        op = layers[name].op if name in layers else None
        if not isinstance(op, Convolution | Dense):
            raise InputError(f"{path}: has no layer {name!r} with weights; give the right file")
        _write(patch, reading, layers[name], op, new)
    return patch.done()


def _write(
    patch: Patch, reading: Reading, layer: Layer, op: Convolution | Dense, new: Learned
) -> None:
    where = f"{reading.graph.where}: layer {layer.name!r}"
    if new.weight.values.shape[1:] != op.weight.values.shape[1:]:
        raise InputError(
            f"{where} has weights {list(op.weight.values.shape)}, not "
            f"{list(new.weight.values.shape)}; give the file it is from"
        )
    if (op.bias is None) != (new.bias is None):
        raise InputError(f"{where} has biases in one of both only; give the file it is from")
    count = len(new.weight.values)
    weight = _kept(reading, op.weight, where)
    if count != len(op.weight.values):
        _resize(patch, reading, layer, op, count, where)
    _numbers(patch, reading, weight, new.weight, count, where)
    if op.bias is not None and new.bias is not None:
        bias = _kept(reading, op.bias, where)
        if count != len(op.bias.values):
            patch.shape(bias.number, [*bias.shape[:-1], count])
        _numbers(patch, reading, bias, new.bias, count, where)
    if new.output is not None and layer.output.quant is not None:
        number = reading.tensors[layer.output.name]
        patch.quantisation(number, new.output.scale, new.output.zero_point, 0)


def _kept(reading: Reading, tensor: Tensor, where: str) -> FileTensor:
    """Return the tensor of the file that holds numbers of a layer."""
    for op in reading.graph.operators:
        for t in op.inputs:
            if t is not None and tensor.origin == f"tensor {t.number}":
                return t
    raise InputError(
        f"{where} has numbers that the file does not keep as they are; convert it to float32 or "
        f"int8"
    )


def _numbers(
    patch: Patch, reading: Reading, kept: FileTensor, new: Tensor, count: int, where: str
) -> None:
    """Write numbers, and scales where they are codes."""
    values = new.values
    if len(values) != count:
        raise InputError(f"{where} is given {len(values)} biases for {count} outputs; give all")
    if kept.element in {Element.FLOAT32, Element.FLOAT16}:
        values = real(new)
    elif new.quant is None:
        raise InputError(f"{where} has codes and is given reals; quantise them")
    else:
        _scales(patch, kept, new.quant, count)
    stored = _in_file(_reordered(new, values), kept).astype(kept.element.numpy)
    if kept.values is not None and stored.tobytes() == kept.values.tobytes():
        return
    if (others := len(_readers(reading, kept)) - 1) > 0:
        raise InputError(
            f"{where} shares its numbers with {others} other layers, which would change with it; "
            f"convert it so that each has its own"
        )
    patch.numbers(kept.number, stored)


def _readers(reading: Reading, tensor: FileTensor) -> list[FileOperator]:
    """Return the operators that compute with a tensor, also those behind one that widens it."""
    found = []
    for op in reading.graph.users.get(tensor, []):
        widened = [u for t in op.outputs for u in reading.graph.users.get(t, [])]
        found += widened if op.kind == "DEQUANTIZE" else [op]
    return found


def _in_file(values: Array, kept: FileTensor) -> Array:
    """Return numbers in the order of the file: of depthwise filters the outputs are last."""
    depthwise = values.ndim == 4 and kept.shape[0] == 1 and kept.shape[3] == len(values)
    if depthwise and kept.shape[1:3] == values.shape[1:3] and values.shape[3] == 1:
        return np.ascontiguousarray(np.moveaxis(values[..., 0], 0, 2))
    return np.ascontiguousarray(values)


def _reordered(new: Tensor, values: Array) -> Array:
    """Return weights with their columns where the file has them."""
    if not new.order:
        return values
    placed = np.empty_like(values)
    placed[:, list(new.order)] = values
    return placed


def _scales(patch: Patch, kept: FileTensor, quant: Affine, count: int) -> None:
    """Write the scales of codes, where they are others than before."""
    scales = np.array(quant.scale) * quant.unit
    if len(scales) == len(kept.scales) and np.array_equal(
        scales.astype(np.float32), np.array(kept.scales, np.float32)
    ):
        return
    if len(scales) not in {1, count}:
        raise ValueError(f"{len(scales)} scales for {count} outputs")
    axis = kept.axis if len(kept.scales) > 1 else 0
    patch.quantisation(kept.number, scales.tolist(), quant.zero_point, axis)


def _resize(
    patch: Patch, reading: Reading, layer: Layer, op: Convolution | Dense, count: int, where: str
) -> None:
    """Give the last layer another number of outputs, and so whatever is behind it."""
    weight = _kept(reading, op.weight, where)
    if weight.shape[0] != len(op.weight.values):
        raise InputError(f"{where} is depthwise: the number of its outputs cannot change")
    patch.shape(weight.number, [count, *weight.shape[1:]])
    graph, users = reading.graph, reading.graph.users
    number = reading.tensors[layer.output.name]
    tensors = [t for x in graph.operators for t in x.outputs if t.number == number]
    while tensors:
        t = tensors.pop()
        patch.shape(t.number, [*t.shape[:-1], count])
        for user in users.get(t, []):
            if user.kind not in _BEHIND:
                raise InputError(
                    f"{where} is not the last: {user.kind} {user.name!r} reads its outputs, so "
                    f"their number cannot change"
                )
            tensors += user.outputs
