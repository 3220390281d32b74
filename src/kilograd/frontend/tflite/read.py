"""From a TFLite file to a network of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kilograd.errors import InputError
from kilograd.frontend.tflite import moving, pointwise, pooling, weighted
from kilograd.frontend.tflite.reader import Moved, Reader, data_of, own
from kilograd.frontend.tflite.schema import FileGraph, FileOperator, FileTensor, parse, read_file
from kilograd.frontend.tflite.stream import LAST, has_state, unrolled
from kilograd.ir import Affine
from kilograd.layers.network import Layout, Network, Source, Value
from kilograd.layers.unsupported import Unsupported, UnsupportedError, refuse
from kilograd.limits import OPERATORS
from kilograd.names import spelled
from kilograd.quant import Rounding

Read = Callable[[Reader, FileOperator], None]

_READ: Mapping[str, Read] = {
    "ADD": pointwise.add,
    "SUB": pointwise.subtract,
    "MUL": pointwise.multiply,
    "DIV": pointwise.divide,
    "MAXIMUM": pointwise.bound,
    "MINIMUM": pointwise.bound,
    "RELU": pointwise.activation,
    "RELU6": pointwise.activation,
    "RELU_N1_TO_1": pointwise.activation,
    "RELU_0_TO_1": pointwise.activation,
    "LEAKY_RELU": pointwise.curve,
    "LOGISTIC": pointwise.curve,
    "TANH": pointwise.curve,
    "HARD_SWISH": pointwise.curve,
    "ELU": pointwise.curve,
    "GELU": pointwise.curve,
    "EXP": pointwise.curve,
    "SQRT": pointwise.curve,
    "ABS": pointwise.curve,
    "NEG": pointwise.curve,
    "PRELU": pointwise.leaky_per_channel,
    "SOFTMAX": pointwise.softmax,
    "QUANTIZE": pointwise.quantise,
    "DEQUANTIZE": pointwise.dequantise,
    "CONV_2D": weighted.convolution,
    "DEPTHWISE_CONV_2D": weighted.depthwise,
    "FULLY_CONNECTED": weighted.dense,
    "MAX_POOL_2D": pooling.pool,
    "AVERAGE_POOL_2D": pooling.pool,
    "MEAN": pooling.mean,
    "REDUCE_MAX": pooling.largest,
    "RESIZE_NEAREST_NEIGHBOR": pooling.resize,
    "RESHAPE": moving.reshape,
    "EXPAND_DIMS": moving.reshape,
    "SQUEEZE": moving.reshape,
    "TRANSPOSE": moving.transpose,
    "STRIDED_SLICE": moving.strided_slice,
    "SLICE": moving.cut,
    "GATHER": moving.gather,
    "SPLIT": moving.split,
    "SPLIT_V": moving.split_unequal,
    "UNPACK": moving.unpack,
    "PACK": moving.pack,
    "CONCATENATION": moving.concatenate,
    "PAD": moving.pad,
    "PADV2": moving.pad,
    LAST: moving.last,
}

_OTHERWISE = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "recurrent layers cannot be imported; use convolutions",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "recurrent layers cannot be imported; use convolutions",
    "LSTM": "recurrent layers cannot be imported; use convolutions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "recurrent layers cannot be imported; use convolutions",
    "SVDF": "cannot be imported (it keeps int16 state); use depthwise convolutions over time",
    "BATCH_MATMUL": "attention cannot be imported; use convolutions",
    "RESIZE_BILINEAR": "use RESIZE_NEAREST_NEIGHBOR by a whole factor",
    "TRANSPOSE_CONV": "use RESIZE_NEAREST_NEIGHBOR and a convolution",
    "IF": "control flow cannot be imported; convert the branch that is used",
    "WHILE": "control flow cannot be imported; convert it with the loop unrolled",
    "CALL": "calls of other graphs cannot be imported; convert them inlined",
    "ARG_MAX": "take it away: the network ends in what it compares",
    "FAKE_QUANT": "convert it to int8, or without quantisation-aware training",
    "L2_NORMALIZATION": "take it away, and choose `--head proto`",
    "ethos-u": "compiled by Vela: give the file before Vela",
    "edgetpu-custom-op": "compiled for the Edge TPU: give the file before edgetpu_compiler",
    "TFLite_Detection_PostProcess": "take it away: the network ends in boxes and scores",
}
"""What to do about operators that are not read; for custom ones by their own names."""

_ENDS = {"SOFTMAX", "LOG_SOFTMAX", "LOGISTIC", "QUANTIZE", "DEQUANTIZE"}
"""What is left out at the end: answers are taken from what they are made of."""
_MOVES = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS"}


def read_tflite(path: Path, signature: str = "") -> Network:
    """Return the network of a .tflite file: of int8 codes or of float32.

    A softmax or sigmoid at its end, and conversions from and to float at both, are left out.
    `signature`: which one, of a file with several.

    Raises `InputError` for a file that is none or is damaged; and one that names all operators
    which cannot be imported, where there are any.
    """
    return read_network(path, signature).network


@dataclass(frozen=True, eq=False)
class Reading:
    """A network, and what in the file it was read from.

    `graph`: what the file says.  `tensors`: by the names of values, the number of the tensor that
    has the same elements in the same order.
    """

    network: Network
    graph: FileGraph
    tensors: Mapping[str, int]


def read_network(path: Path, signature: str = "") -> Reading:
    """Return the network of a file with where it comes from; raises as `read_tflite` does."""
    data = read_file(path)
    graph = parse(data, str(path), signature)
    if len(graph.operators) > OPERATORS:
        raise InputError(
            f"{graph.where}: has more than {OPERATORS:,} operators; give a smaller one"
        )
    plain = alive(_without_state(graph))
    ends = _ends(plain)
    reader = Reader(plain)
    refused: list[Unsupported] = []
    for op in plain.operators:
        try:
            _read(reader, op, ends)
        except UnsupportedError as e:
            kind = f"custom operator {op.custom!r}" if op.kind == "CUSTOM" else op.kind
            refused.append(Unsupported(op.name.partition(";")[0], kind, _shape(op), str(e)))
    refuse(plain.where, refused)
    source = Source("TFLite", path.name, hashlib.sha256(data).hexdigest())
    return Reading(_made(reader, spelled(path.stem, ()), source), graph, reader.tensors)


def _without_state(graph: FileGraph) -> FileGraph:
    if not has_state(graph):
        return graph
    try:
        return unrolled(graph)
    except UnsupportedError as e:
        raise InputError(
            f"{graph.where}: {e}; give a network that takes its whole window at once"
        ) from e


def alive(graph: FileGraph) -> FileGraph:
    """Return a graph without operators that no output needs; shapes are known without them."""
    needed = set(graph.outputs)
    kept = []
    for op in reversed(graph.operators):
        if needed.intersection(op.outputs):
            kept.append(op)
            data = op.inputs[:1] if op.kind in _MOVES | {"RESIZE_NEAREST_NEIGHBOR"} else op.inputs
            needed.update(t for t in data if t is not None)
    return FileGraph(graph.where, graph.inputs, graph.outputs, tuple(reversed(kept)))


def _ends(graph: FileGraph) -> set[FileOperator]:
    """Return the operators at the end that are left out, and those between that move elements."""
    made, users = graph.made, graph.users
    passed: list[FileOperator] = []
    for t in graph.outputs:
        found = made.get(t)
        while found is not None and found.kind in _ENDS | _MOVES:
            passed.append(found)
            x = found.inputs[0] if found.inputs else None
            found = None if x is None else made.get(x)
    left: set[FileOperator] = set(passed)
    while True:  # what anything else reads stays, and so does what that reads
        read = {
            op for op in left if any(u not in left for t in op.outputs for u in users.get(t, []))
        }
        if not read:
            break
        left -= read
    return left


def _read(reader: Reader, op: FileOperator, ends: set[FileOperator]) -> None:
    if op in ends:
        x = data_of(op)[0]
        moved = reader.moved(x)
        for t in op.outputs:
            if t.size != x.size:
                raise UnsupportedError(f"makes {t} of {x}")
            reader.ended[t] = reader.ended.get(x, x)
            kept = None if moved.index is None else moved.index.reshape(t.shape)
            reader.held[t] = Moved(moved.value, kept)
        return
    read = _READ.get(op.kind)
    if read is None:
        _skip(reader, op)
        raise UnsupportedError(_OTHERWISE.get(op.custom or op.kind, "cannot be imported"))
    try:
        read(reader, op)
    except UnsupportedError:
        _skip(reader, op)
        raise


def _skip(reader: Reader, op: FileOperator) -> None:
    """Let outputs of an operator that is refused be something, so that the rest is looked at."""
    for t in op.outputs:
        if t not in reader.held:
            reader.stand(t, Value(reader.name(t.name), own(t.shape), _quant(reader, t)))


def _quant(reader: Reader, t: FileTensor) -> Affine | None:
    try:
        return reader.quant(t)
    except UnsupportedError:
        return None


def _shape(op: FileOperator) -> tuple[int, ...] | None:
    tensors = [*op.outputs, *(t for t in op.inputs if t is not None)]
    return tensors[0].shape if tensors else None


def _made(reader: Reader, name: str, source: Source) -> Network:
    try:
        outputs = tuple(dict.fromkeys(reader.value(t) for t in reader.graph.outputs))
        for t in reader.graph.inputs:
            if t not in reader.inputs:
                reader.given(t, t, reader.quant(t))
    except UnsupportedError as e:
        raise InputError(f"{reader.graph.where}: {e}; give another network") from e
    inputs = tuple(reader.inputs[t] for t in reader.graph.inputs)
    made = {x.output for x in reader.layers}
    if not outputs or not made.intersection(outputs):
        raise InputError(f"{reader.graph.where}: computes nothing; give a file with a network")
    layers = tuple(reader.layers)
    quantised = any(v.quant is not None for v in outputs)
    rounding = Rounding.TFLITE if quantised else Rounding.NEAREST
    return Network(name, Layout.CHANNELS_LAST, inputs, outputs, layers, source, rounding)
