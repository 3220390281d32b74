"""Reads `.pt2` files, what `torch.export.save` writes: a zip file of JSON and raw numbers.

`torch.export.load` unpickles parts of such a file, which runs code that stands in it.  This reader
takes the JSON and the raw numbers only: nothing of a file is executed, and it needs no PyTorch.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

from kilograd import limits, names
from kilograd.errors import InputError
from kilograd.frontend.torch_export.program import (
    Argument,
    Call,
    Other,
    Program,
    Ref,
    Scalar,
    Shaped,
    Stored,
)
from kilograd.ir import Array
from kilograd.reading import decoded, parse_json, read_bytes

_SCHEMA = 8
_MEMBERS = 1 << 14
_AXES = 8
_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
"""PyTorch's number of a type of elements, and its name."""

Size = Annotated[int, Meta(ge=0, le=1 << 62)]


class _Named(Struct):
    name: str


class _SymInt(Struct):
    as_int: Size | None = None


class _TensorMeta(Struct):
    dtype: int
    sizes: list[_SymInt]
    strides: list[_SymInt]
    storage_offset: _SymInt


class _NamedArgument(Struct):
    name: str
    arg: dict[str, Any]


class _Node(Struct):
    target: str
    inputs: list[_NamedArgument]
    outputs: list[dict[str, Any]]
    metadata: dict[str, str]


class _Graph(Struct):
    nodes: Annotated[list[_Node], Meta(max_length=limits.OPERATORS)]
    tensor_values: dict[str, _TensorMeta]


class _Signature(Struct):
    input_specs: list[dict[str, dict[str, Any]]]
    output_specs: list[dict[str, dict[str, Any]]]


class _GraphModule(Struct):
    graph: _Graph
    signature: _Signature


class _Version(Struct):
    major: int


class _Model(Struct):
    graph_module: _GraphModule
    schema_version: _Version


class _Payload(Struct):
    path_name: str
    use_pickle: bool
    tensor_meta: _TensorMeta | None = None


class _Payloads(Struct):
    config: dict[str, _Payload]


def read_program(path: Path) -> Program:
    """Return the program of a `.pt2` file; raises `InputError` as `program_of` does."""
    data = read_bytes(path, limits.IMPORTED_BYTES)
    return program_of(data, str(path), path.stem, hashlib.sha256(data).hexdigest())


def program_of(data: bytes, where: str, name: str, sha256: str = "") -> Program:
    """Return the program that an archive holds.

    Raises `InputError`, which begins with `where`, for what is no such archive, for one of another
    version, and for one that is damaged or keeps a tensor as a pickle.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            return _Archive(opened, where).program(name, sha256)
    except InputError:
        raise
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError),
        *(ValueError, struct.error),
    ) as e:
        raise InputError(
            f"{where}: cannot be read as a file of torch.export.save ({e}); save it again"
        ) from e


@dataclass
class _Archive:
    """`read`: members that hold numbers; they are at most as many bytes together as one may be."""

    zip: zipfile.ZipFile
    where: str
    read: dict[str, bytes] = field(default_factory=dict)
    _elements: int = 0

    def program(self, name: str, sha256: str) -> Program:
        model, read = self._model()
        root, stem = model.partition("/")[0], Path(model).stem
        state = self._numbers(f"{root}/data/weights", f"{stem}_weights_config.json")
        constants = self._numbers(f"{root}/data/constants", f"{stem}_constants_config.json")
        graph, signature = read.graph_module.graph, read.graph_module.signature
        inputs, outputs = self._ends(signature)
        return Program(
            name,
            self.where,
            sha256,
            inputs,
            outputs,
            tuple(self._call(i, node) for i, node in enumerate(graph.nodes)),
            {k: self._shaped(k, v) for k, v in graph.tensor_values.items()},
            self._stored(signature, state, {**state, **constants}),
            state,
        )

    def _model(self) -> tuple[str, _Model]:
        """Return the folder in the archive, and the one program that it holds."""
        members = self.zip.namelist()
        found = [m for m in members if re.fullmatch(r"[^/]+/models/[^/]+\.json", m)]
        if not found and any(m.endswith("serialized_exported_program.json") for m in members):
            raise InputError(
                f"{self.where}: was written by an old PyTorch; save the program again with "
                f"PyTorch 2.9 or newer"
            )
        if len(found) != 1 or len(members) > _MEMBERS:
            raise InputError(
                f"{self.where}: holds {len(found) or 'no'} exported programs; write one with "
                f"torch.export.save(torch.export.export(module.eval(), (example,)), 'net.pt2')"
            )
        root = found[0].partition("/")[0]
        if self._bytes(f"{root}/byteorder", 16) != b"little":
            raise InputError(f"{self.where}: byteorder: only little-endian numbers are read")
        text = decoded(self._bytes(found[0], limits.GRAPH_BYTES), self._at(found[0]))
        version = parse_json(text, _Versioned, self._at(found[0])).schema_version.major
        if version != _SCHEMA:
            raise InputError(
                f"{self._at(found[0])}: has version {version} of PyTorch's format, {_SCHEMA} is "
                f"read; save it with a PyTorch from 2.9 on"
            )
        return found[0], parse_json(text, _Model, self._at(found[0]))

    def _stored(
        self, signature: _Signature, state: Mapping[str, Array], others: Mapping[str, Array]
    ) -> dict[str, Stored]:
        """Return the numbers that inputs of the graph stand for; buffers may be in either place."""
        out: dict[str, Stored] = {}
        for spec in signature.input_specs:
            match spec:
                case {"parameter": {"arg": {"name": str(name)}, "parameter_name": str(origin)}} | {
                    "buffer": {"arg": {"name": str(name)}, "buffer_name": str(origin)}
                }:
                    found = state.get(origin, others.get(origin))
                case {
                    "tensor_constant": {
                        "arg": {"name": str(name)},
                        "tensor_constant_name": str(origin),
                    }
                }:
                    found = others.get(origin)
                case _:
                    continue
            if found is None:
                raise InputError(
                    f"{self.where}: {origin[:80]!r}: the numbers are missing; save it again"
                )
            out[name] = Stored(origin, found)
        return out

    def _numbers(self, folder: str, config: str) -> dict[str, Array]:
        """Return the tensors of a folder by their names in the module."""
        member = f"{folder}/{config}"
        text = decoded(self._bytes(member, limits.GRAPH_BYTES), self._at(member))
        return {
            name: self._tensor(folder, name, payload)
            for name, payload in parse_json(text, _Payloads, self._at(member)).config.items()
        }

    def _tensor(self, folder: str, name: str, payload: _Payload) -> Array:
        where = f"{self.where}: {name[:80]!r}"
        if payload.use_pickle or payload.tensor_meta is None:
            raise InputError(
                f"{where}: is a tensor of its own class, kept as a pickle, which could run code; "
                f"make it a plain float32 tensor before the export"
            )
        member = f"{folder}/{payload.path_name}"
        if member not in self.read:
            room = limits.IMPORTED_BYTES - sum(map(len, self.read.values()))
            self.read[member] = self._bytes(member, room)
        found = _strided(self.read[member], payload.tensor_meta, where)
        self._elements += found.size
        if self._elements > limits.IMPORTED_BYTES:
            raise InputError(f"{where}: the tensors together have more than 2^28 numbers")
        return found

    def _bytes(self, member: str, most: int) -> bytes:
        try:
            info = self.zip.getinfo(member)
        except KeyError:
            raise InputError(f"{self._at(member)}: is missing; save the program again") from None
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise InputError(
                f"{self._at(member)}: is compressed as PyTorch does not; save it again"
            )
        if info.file_size > most:
            raise InputError(f"{self._at(member)}: is larger than {most:,} bytes, the most read")
        with self.zip.open(info) as file:
            return file.read(most)

    def _at(self, member: str) -> str:
        return f"{self.where}: {member[:120]}"

    def _shaped(self, name: str, meta: _TensorMeta) -> Shaped:
        sizes = tuple(s.as_int for s in meta.sizes)
        if len(sizes) > _AXES:
            raise InputError(f"{self.where}: {name[:80]!r}: has more than {_AXES} axes")
        return Shaped(sizes, _DTYPES.get(meta.dtype, f"type {meta.dtype}"))

    def _call(self, index: int, node: _Node) -> Call:
        """Return a call; arguments of control flow have no names, and get numbers."""
        where = f"{self.where}: node {index}"
        outputs = tuple(names.identifier(x, where) for o in node.outputs for x in _output(o))
        stack = node.metadata.get("nn_module_stack", "").rpartition(";")[2].split(",")
        return Call(
            outputs[0] if outputs else f"node_{index}",
            node.target.removeprefix("torch.ops."),
            {x.name or str(i): _argument(x.arg) for i, x in enumerate(node.inputs)},
            outputs,
            *(stack[1:3] if len(stack) > 2 else ("", "")),
        )

    def _ends(self, signature: _Signature) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what the caller gives, and what is returned: tensors."""
        inputs = [_end(s["user_input"]) for s in signature.input_specs if "user_input" in s]
        outputs = [_end(s["user_output"]) for s in signature.output_specs if "user_output" in s]
        if not inputs or None in inputs or not outputs or None in outputs:
            raise InputError(
                f"{self.where}: takes or returns something that is no tensor; export a module "
                f"from tensors to tensors"
            )
        return tuple(map(str, inputs)), tuple(map(str, outputs))


class _Versioned(Struct):
    schema_version: _Version


def _end(spec: Mapping[str, Any]) -> str | None:
    match spec:
        case {"arg": {"as_tensor": {"name": str(name)}}}:
            return name
    return None


def _output(given: Mapping[str, Any]) -> list[str]:
    match given:
        case {"as_tensor": {"name": str(name)}} | {"as_sym_int": {"as_name": str(name)}}:
            return [name]
        case {"as_tensors": list(items)}:
            return [x["name"] for x in items if isinstance(x, dict) and type(x.get("name")) is str]
    return []


def _argument(given: Mapping[str, Any]) -> Argument:
    """Return an argument of the file's JSON, an object of one field that says its kind."""
    match given:
        case {"as_none": _}:
            return None
        case {"as_int": x} | {"as_float": x} | {"as_bool": x} | {"as_string": x}:
            return _scalar(x, "as_float" in given)
        case {"as_ints": list(items)} | {"as_floats": list(items)} | {"as_bools": list(items)}:
            return tuple(_scalar(x, "as_floats" in given) for x in items)
        case {"as_scalar_type": int(dtype)}:
            return _DTYPES.get(dtype, f"type {dtype}")
        case {"as_tensors": list(items)} | {"as_sym_ints": list(items)}:
            return tuple(_item(x) for x in items)
        case {"as_optional_tensors": list(items)}:
            return tuple(_item(x.get("as_tensor")) if isinstance(x, dict) else None for x in items)
        case {"as_tensor": x} | {"as_sym_int": x} | {"as_optional_tensor": {"as_tensor": x}}:
            return _item(x)
        case {"as_optional_tensor": {"as_none": _}}:
            return None
        case {"as_graph": {"graph": {"nodes": list(nodes)}}}:
            called = (x.get("target") for x in nodes if isinstance(x, dict))
            operators = {x.removeprefix("torch.ops.") for x in called if isinstance(x, str)}
            return Other("graph", tuple(sorted(operators)))
    return Other(next(iter(given), "nothing").removeprefix("as_"))


def _item(given: Any) -> Ref | Scalar | None:  # noqa: ANN401 JSON
    match given:
        case {"name": str(name)} | {"as_name": str(name)}:
            return Ref(name)
        case {"as_int": int(x)}:
            return x
    return None


def _scalar(x: Any, real: bool) -> Scalar:  # noqa: ANN401, FBT001 JSON; 1.0 may be written as 1
    if real and isinstance(x, str):
        return {"Infinity": math.inf, "-Infinity": -math.inf}.get(x, math.nan)
    if real and isinstance(x, int) and abs(x) > 1 << 1000:
        return math.nan  # float() would raise
    if isinstance(x, int | float | str):
        return float(x) if real else x
    return math.nan


def _strided(data: bytes, meta: _TensorMeta, where: str) -> Array:
    """Return a view of a tensor's memory as its sizes and strides say; checked to lie inside."""
    kind = _DTYPES.get(meta.dtype)
    if kind is None:
        raise InputError(f"{where}: has elements of type {meta.dtype}; make it float32")
    stored = np.dtype(np.uint16 if kind == "bfloat16" else kind).newbyteorder("<")
    if len(data) % stored.itemsize:
        raise InputError(f"{where}: is cut off; save the program again")
    flat = np.frombuffer(data, stored)
    sizes, strides = (_known(x, where) for x in (meta.sizes, meta.strides))
    (offset,) = _known([meta.storage_offset], where)
    if len(sizes) != len(strides) or len(sizes) > _AXES:
        raise InputError(f"{where}: has sizes and strides that do not fit")
    strides = [s if n > 1 else 0 for n, s in zip(sizes, strides, strict=True)]
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if not 0 < math.prod(sizes) <= flat.size or last >= flat.size:
        raise InputError(f"{where}: holds fewer numbers than its shape says; save it again")
    view = np.lib.stride_tricks.as_strided(
        flat[offset:], sizes, [s * stored.itemsize for s in strides], writeable=False
    )
    if kind == "bfloat16":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view


def _known(given: list[_SymInt], where: str) -> list[int]:
    numbers = [x.as_int for x in given]
    if None in numbers:
        raise InputError(f"{where}: has a shape that is not known; export with fixed shapes")
    return [x for x in numbers if x is not None]
