"""What stands in an ONNX file: constants as arrays, nodes in an order in which they can run.

https://onnx.ai/onnx/repo-docs/IR.html
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kilograd import limits
from kilograd.errors import InputError
from kilograd.extras import Extra
from kilograd.ir import Array
from kilograd.reading import inside, read_bytes

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

T = TypeVar("T")

OLDEST, NEWEST = 7, 28
"""Versions of ONNX's operators that are read, docs/import-onnx.md."""

_STORED = {  # TensorProto.DataType: how raw_data holds it, the field that may hold it instead
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    4: ("<u2", "int32_data"),
    5: ("<i2", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<f2", "int32_data"),
    11: ("<f8", "double_data"),
}


@dataclass(frozen=True, eq=False)
class Operator:
    """A node: which operator, on which tensors, and its attributes."""

    name: str
    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    where: str

    def integer(self, name: str, default: int = 0) -> int:
        """Return an integer attribute."""
        return self._get(name, int, default)

    def real(self, name: str, default: float = 0.0) -> float:
        """Return a finite attribute of real numbers."""
        value = self._get(name, float, default)
        if not math.isfinite(value):
            raise InputError(f"{self.where}: attribute {name} is {value}; export it anew")
        return value

    def text(self, name: str, default: str = "") -> str:
        """Return a text attribute."""
        return self._get(name, str, default)

    def integers(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """Return an attribute that is a list of integers."""
        found: tuple[int, ...] = self._get(name, tuple, tuple(default))
        if not all(isinstance(x, int) for x in found):
            raise self._other(name)
        return found

    def has(self, name: str) -> bool:
        """Tell whether an attribute is given."""
        return name in self.attributes

    def _get(self, name: str, kind: type[T], default: T) -> T:
        value = self.attributes.get(name, default)
        if not isinstance(value, kind):
            raise self._other(name)
        return value

    def _other(self, name: str) -> InputError:
        return InputError(
            f"{self.where}: attribute {name} is of another type than the operator takes; check the "
            f"file with onnx.checker"
        )


@dataclass(frozen=True)
class Declared:
    """An input or output as the file declares it; a dimension without a number is a text."""

    name: str
    shape: tuple[int | str, ...]
    dtype: int


@dataclass(frozen=True, eq=False)
class Program:
    """A graph of ONNX, checked so far that every tensor comes from somewhere, before it is read.

    `shapes`: what the file says of tensors in between, where that is whole.
    """

    name: str
    opset: int
    inputs: tuple[Declared, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Array]
    operators: tuple[Operator, ...]
    shapes: dict[str, tuple[int, ...]]
    sha256: str


def read_model(path: Path) -> tuple[ModelProto, bytes]:
    """Return an `onnx.ModelProto` and its bytes; what else it names is not read.

    Raises `InputError` where the file cannot be read as one, or is larger than 2^28 bytes.
    """
    onnx = Extra.ONNX.load("onnx", f"{path}: reading ONNX files")
    protobuf = Extra.ONNX.load("google.protobuf.message", f"{path}: reading ONNX files")
    data = read_bytes(path, limits.TENSOR_BYTES)
    try:
        model = onnx.ModelProto.FromString(data)
    except (protobuf.DecodeError, RuntimeError, ValueError) as e:
        raise InputError(f"{path}: is damaged or no ONNX file; export it anew") from e
    return model, data


def read_program(path: Path) -> Program:
    """Read an ONNX file, and the data outside that it names.

    Raises `InputError` for a file that is damaged, is no inference graph, or leads elsewhere.
    """
    return program_of(*read_model(path), path)


def checksum(path: Path) -> str:
    """Return what tells a file from others: SHA-256 of it and of the data outside that it names."""
    return read_program(path).sha256


def program_of(model: ModelProto, data: bytes, path: Path) -> Program:
    """Return what stands in a model, the bytes of which are `data`, as `read_program` does."""
    where = str(path)
    _check_kind(model, where)
    graph = model.graph
    digest = hashlib.sha256(data)
    tensors = _Tensors(path, digest)
    constants: dict[str, Array] = {}
    for t in graph.initializer:
        if (name := text(t.name)) in constants:
            raise InputError(f"{where}: two initialisers are called {name[:80]!r}")
        constants[name] = tensors.array(t)
    operators = [_operator(n, i, tensors) for i, n in enumerate(graph.node)]
    inputs = tuple(_declared(x) for x in graph.input if text(x.name) not in constants)
    outputs = tuple(dict.fromkeys(filter(None, (text(x.name) for x in graph.output))))
    if not outputs or len({x.name for x in inputs}) < len(inputs):
        raise InputError(f"{where}: has no outputs, or two inputs of one name; export it anew")
    known = [_declared(x) for x in (*graph.value_info, *graph.output)]
    return Program(
        name=text(graph.name),
        opset=_opset(model, where),
        inputs=inputs,
        outputs=outputs,
        constants=constants,
        operators=_ordered(operators, {*constants, *(x.name for x in inputs)}, outputs, where),
        shapes={
            x.name: tuple(map(int, x.shape))
            for x in known
            if x.shape and all(isinstance(d, int) for d in x.shape)
        },
        sha256=digest.hexdigest(),
    )


def text(found: str | bytes) -> str:
    """Return a text of a file: protobuf gives bytes where it is no UTF-8."""
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found


def whole(path: Path, program: Program) -> ModelProto:
    """Return the model of a file that was read, with the numbers that lie in others inside it."""
    model, _ = read_model(path)
    for t in model.graph.initializer:
        if t.data_location == 1:
            store(t, program.constants[text(t.name)])
    return model


def store(t: TensorProto, values: Array) -> None:
    """Put numbers into a tensor, with its name and element type."""
    for _, other in _STORED.values():
        t.ClearField(other)
    t.ClearField("external_data")
    t.ClearField("data_location")
    del t.dims[:]
    t.dims.extend(values.shape)
    t.raw_data = values.astype(_STORED[t.data_type][0]).tobytes()


def _check_kind(model: ModelProto, where: str) -> None:
    graph = model.graph
    if not graph.node:
        raise InputError(f"{where}: holds no graph; is it an ONNX file, and whole?")
    if len(graph.node) > limits.NODES:
        raise InputError(f"{where}: has {len(graph.node):,} nodes; {limits.NODES:,} are the most")
    if model.training_info:
        raise InputError(f"{where}: is a training graph; export the network for inference")
    if graph.sparse_initializer:
        name = text(graph.sparse_initializer[0].values.name)
        raise InputError(f"{where}: initialiser {name[:80]!r} is sparse; export dense weights")


def _opset(model: ModelProto, where: str) -> int:
    versions = [x.version for x in model.opset_import if x.domain in {"", "ai.onnx"}]
    if len(versions) != 1:
        raise InputError(f"{where}: says not which version of ONNX's operators it uses")
    if not OLDEST <= versions[0] <= NEWEST:
        raise InputError(
            f"{where}: uses version {versions[0]} of ONNX's operators; {OLDEST} to {NEWEST} are "
            f"read; convert it with onnx.version_converter, or export it with such an opset"
        )
    return int(versions[0])


def _declared(info: ValueInfoProto) -> Declared:
    tensor = info.type.tensor_type
    dims = tensor.shape.dim
    shape = tuple(
        int(d.dim_value)
        if d.HasField("dim_value") and d.dim_value > 0
        else text(d.dim_param) or "?"
        for d in dims
    )
    return Declared(text(info.name), shape, tensor.elem_type)


def _operator(node: NodeProto, index: int, tensors: _Tensors) -> Operator:
    outputs = tuple(map(text, node.output))
    kind, domain = text(node.op_type), text(node.domain)
    named = text(node.name) or next(filter(None, outputs), "") or f"{kind}_{index}"
    return Operator(
        name=named,
        kind=kind,
        domain="" if domain == "ai.onnx" else domain,
        inputs=tuple(map(text, node.input)),
        outputs=outputs,
        attributes={text(a.name): _attribute(a, tensors) for a in node.attribute},
        where=f"{tensors.path}: node {named[:80]!r}",
    )


class Subgraph:
    """Stands for an attribute that is a graph: only control flow has one."""


def _attribute(a: AttributeProto, tensors: _Tensors) -> object:
    match a.type:
        case 1:
            return float(a.f)
        case 2:
            return int(a.i)
        case 3:
            return text(a.s)
        case 4:
            return tensors.array(a.t)
        case 6:
            return tuple(map(float, a.floats))
        case 7:
            return tuple(map(int, a.ints))
        case 8:
            return tuple(map(text, a.strings))
        case 5 | 10:
            return Subgraph()
        case _:
            return None


@dataclass
class _Tensors:
    """Constants of a file, and the files beside it that hold some of them."""

    path: Path
    digest: TensorProto
    files: dict[Path, bytes] = field(default_factory=dict)
    total: int = 0

    def array(self, t: TensorProto) -> Array:
        """Return a `TensorProto` as an array; bfloat16 and smaller types are refused."""
        where = f"{self.path}: tensor {text(t.name)[:80]!r}"
        if t.data_type not in _STORED:
            raise InputError(
                f"{where}: is of a type that is not read (number {t.data_type} of ONNX); float32, "
                f"float16, int8, uint8, int32 are"
            )
        stored, other = _STORED[t.data_type]
        dtype = np.dtype(stored)
        shape = tuple(t.dims)
        size = math.prod(shape)
        if min(shape, default=0) < 0 or size * dtype.itemsize > limits.TENSOR_BYTES:
            raise InputError(f"{where}: has the shape {list(shape)[:8]}, which cannot be")
        self.total += size * dtype.itemsize
        if self.total > limits.TENSOR_BYTES:
            raise InputError(f"{where}: all tensors together are larger than 2^28 bytes")
        return self._numbers(t, dtype, other, size, where).reshape(shape)

    def _numbers(
        self, t: TensorProto, dtype: np.dtype[Any], other: str, size: int, where: str
    ) -> Array:
        if t.data_location == 1:
            data = self._outside(t, where)
        elif t.HasField("raw_data"):
            data = t.raw_data
        else:
            return _listed(getattr(t, other), dtype, size, where)
        if len(data) != size * dtype.itemsize:
            raise InputError(
                f"{where}: has {len(data):,} bytes where its shape needs {size * dtype.itemsize:,}"
            )
        return np.frombuffer(data, dtype)

    def _outside(self, t: TensorProto, where: str) -> bytes:
        """Return data that lies in a file beside this one."""
        about = {text(x.key): text(x.value) for x in t.external_data}
        file = inside(self.path.parent, about.get("location", ""), where)
        if file not in self.files:
            self.files[file] = read_bytes(file, limits.TENSOR_BYTES)
            self.digest.update(self.files[file])
        data = self.files[file]
        try:
            begin = int(about.get("offset", "0"))
            length = int(about.get("length", str(len(data) - begin)))
        except ValueError as e:
            raise InputError(f"{where}: says not where in {file} it lies ({e})") from e
        if begin < 0 or length < 0 or begin + length > len(data):
            raise InputError(f"{where}: lies outside of {file}, which has {len(data):,} bytes")
        return data[begin : begin + length]


def _listed(values: Iterable[Any], dtype: np.dtype[Any], size: int, where: str) -> Array:
    """Return numbers that protobuf holds one by one."""
    wide = np.array(values)
    if len(wide) != size:
        raise InputError(f"{where}: has {len(wide):,} numbers where its shape needs {size:,}")
    if dtype == np.float16:  # its bits
        return wide.astype(np.uint16).view(np.float16)
    return wide.astype(dtype)


def _ordered(
    operators: Sequence[Operator], given: set[str], outputs: Sequence[str], where: str
) -> tuple[Operator, ...]:
    """Return those operators that outputs depend on, each behind those whose tensors it reads.

    Files of quantisers have them in another order, though the format asks for this one.
    """
    maker: dict[str, Operator] = {}
    for x in operators:
        for name in filter(None, x.outputs):
            if name in maker or name in given:
                raise InputError(f"{where}: tensor {name[:80]!r} is made twice")
            maker[name] = x
    order: list[Operator] = []
    state: dict[Operator, bool] = {}  # False: begun; True: done
    todo = list(outputs)
    while todo:
        name = todo.pop()
        if not name or name in given or _done(name, maker, state):
            continue
        if name not in maker:
            raise InputError(f"{where}: nothing makes tensor {name[:80]!r}; export it anew")
        one = maker[name]
        missing = [n for n in one.inputs if n and n not in given and not _done(n, maker, state)]
        if not missing:
            state[one] = True
            order.append(one)
        elif one in state:
            raise InputError(f"{one.where}: reads what depends on itself; export it anew")
        else:
            state[one] = False
            todo += [name, *missing]
    return tuple(order)


def _done(name: str, maker: dict[str, Operator], state: dict[Operator, bool]) -> bool:
    return name in maker and state.get(maker[name], False)
