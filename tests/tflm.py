"""Files of TFLite made of a few operators, and what other people's interpreters compute from them.

Both interpreters run in a process of their own: some files make them abort.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilograd.ir import Array

_SCHEMA = "ai_edge_litert.schema_py_generated"
_DTYPES = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "int16": 7,
    "int8": 9,
    "resource": 13,
}


def schema() -> Any:
    """Return the classes of the file format, `ModelT` and so on; skips where they are absent."""
    _needed("ai_edge_litert")
    return importlib.import_module(_SCHEMA)


def _needed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed, which this compares with")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a file, batch axis included; constant where it has `values`.

    `scale`: one for the tensor or one for each index along `axis`; none: not quantised.
    """

    shape: tuple[int, ...]
    scale: tuple[float, ...] = ()
    zero: int = 0
    values: Array | None = None
    dtype: str = "int8"
    axis: int = 0
    name: str = ""


def constant(values: Array, *scale: float, zero: int = 0, axis: int = 0) -> Tensor:
    """Return a tensor that holds numbers."""
    return Tensor(values.shape, scale, zero, values, str(values.dtype), axis)


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of a file: `name` as in CONV_2D, `options` an object such as `Conv2DOptionsT`."""

    name: str
    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    options: Any = None


def build(
    operators: Sequence[Operator], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> bytes:
    """Return a file with one graph.  Tensors are numbered in the order in which they are met."""
    s = schema()
    met = dict.fromkeys(inputs)
    for op in operators:
        met.update(dict.fromkeys(t for t in [*op.inputs, *op.outputs] if t))
    number = {t: i for i, t in enumerate(met)}
    graph = s.SubGraphT()
    graph.tensors = [_tensor(s, t, i) for t, i in number.items()]
    graph.inputs, graph.outputs = [number[t] for t in inputs], [number[t] for t in outputs]
    graph.operators = [_operator(s, op, i, number) for i, op in enumerate(operators)]
    model = s.ModelT()
    model.version = 3
    model.description = "made by a test"
    model.operatorCodes = [_code(s, op.name) for op in operators]
    model.subgraphs = [graph]
    model.buffers = [_buffer(s, None), *(_buffer(s, t) for t in number)]
    return packed(model)


def packed(model: Any) -> bytes:
    """Return the file of a `ModelT`."""
    builder = importlib.import_module("flatbuffers").Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def unpacked(data: bytes) -> Any:
    """Return the `ModelT` of a file."""
    return schema().ModelT.InitFromPackedBuf(data, 0)


def joined(data: bytes, other: bytes) -> bytes:
    """Return a file with the graph of another one as its second."""
    model, more = unpacked(data), unpacked(other)
    graph = more.subgraphs[0]
    for op in graph.operators:
        op.opcodeIndex += len(model.operatorCodes)
    for tensor in graph.tensors:
        tensor.buffer += len(model.buffers)
    model.operatorCodes += more.operatorCodes
    model.buffers += more.buffers
    model.subgraphs.append(graph)
    return packed(model)


def _tensor(s: Any, tensor: Tensor, number: int) -> Any:
    made = s.TensorT()
    made.name = tensor.name or f"t{number}"
    made.shape, made.type = list(tensor.shape), _DTYPES[tensor.dtype]
    made.buffer = number + 1
    if tensor.scale:
        made.quantization = s.QuantizationParametersT()
        made.quantization.scale = list(tensor.scale)
        made.quantization.zeroPoint = [tensor.zero] * len(tensor.scale)
        made.quantization.quantizedDimension = tensor.axis
    return made


def _operator(s: Any, op: Operator, code: int, number: dict[Tensor, int]) -> Any:
    made = s.OperatorT()
    made.opcodeIndex = code
    made.inputs = [-1 if t is None else number[t] for t in op.inputs]
    made.outputs = [number[t] for t in op.outputs]
    if op.options is not None:
        made.builtinOptions = op.options
        made.builtinOptionsType = getattr(s.BuiltinOptions, type(op.options).__name__[:-1])
    return made


def _code(s: Any, name: str) -> Any:
    made = s.OperatorCodeT()
    made.builtinCode = getattr(s.BuiltinOperator, name)
    made.deprecatedBuiltinCode = min(made.builtinCode, 127)
    made.version = 1
    return made


def _buffer(s: Any, tensor: Tensor | None) -> Any:
    made = s.BufferT()
    if tensor is not None and tensor.values is not None:
        made.data = np.frombuffer(np.ascontiguousarray(tensor.values).tobytes(), np.uint8)
    return made


def tflm(data: bytes, *feeds: Sequence[Array]) -> list[list[Array]]:
    """Return the outputs of the reference kernels of TensorFlow Lite Micro, for each of `feeds`.

    A feed has one array for each input, in the order and the shapes of the file.  All run one after
    the other in one interpreter: variables keep what they hold.
    """
    _needed("tflite_micro")
    return [[out[f"{i}"] for i in range(len(out))] for out in _run(_TFLM, data, feeds)]


def litert(data: bytes, *feeds: Sequence[Array]) -> list[dict[int, Array]]:
    """Return every tensor that LiteRT's reference kernels make, by its number, for each feed."""
    _needed("ai_edge_litert")
    return [{int(k): v for k, v in out.items()} for out in _run(_LITERT, data, feeds)]


def _run(script: str, data: bytes, feeds: Sequence[Sequence[Array]]) -> list[dict[str, Array]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(data)
        for i, feed in enumerate(feeds):
            np.savez(folder / f"in{i}.npz", *feed)
        run = subprocess.run(
            [sys.executable, "-c", script, name, f"{len(feeds)}"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, f"{run.returncode}: {run.stderr[-2000:]}"
        found = []
        for i in range(len(feeds)):
            with np.load(folder / f"out{i}.npz") as arrays:
                found.append(dict(arrays))
        return found


_TFLM = """
import sys
from pathlib import Path
import numpy as np
from tflite_micro import runtime
folder = Path(sys.argv[1])
data = (folder / "model.tflite").read_bytes()
net = runtime.Interpreter.from_bytes(data, arena_size=(64 << 20) + 10 * len(data))
for i in range(int(sys.argv[2])):
    with np.load(folder / f"in{i}.npz") as feed:
        for k in range(len(feed)):
            net.set_input(feed[f"arr_{k}"], k)
    net.invoke()
    outputs = {}
    try:
        while len(outputs) < 64:
            outputs[str(len(outputs))] = net.get_output(len(outputs))
    except (IndexError, ValueError, RuntimeError):
        pass
    np.savez(folder / f"out{i}.npz", **outputs)
"""

_LITERT = """
import sys
from pathlib import Path
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
folder = Path(sys.argv[1])
net = Interpreter(
    str(folder / "model.tflite"),
    experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    experimental_preserve_all_tensors=True,
)
net.allocate_tensors()
for i in range(int(sys.argv[2])):
    with np.load(folder / f"in{i}.npz") as feed:
        for k, about in enumerate(net.get_input_details()):
            net.set_tensor(about["index"], feed[f"arr_{k}"])
    net.invoke()
    tensors = {}
    for about in net.get_tensor_details():
        try:
            if about["dtype"] is not np.object_:
                tensors[str(about["index"])] = net.get_tensor(about["index"])
        except ValueError:
            pass
    np.savez(folder / f"out{i}.npz", **tensors)
"""
