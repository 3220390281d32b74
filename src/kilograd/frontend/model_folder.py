"""Networks as plain data: `graph.json` and int8 tensors in safetensors (format 1).

A model folder holds operators in topological order with exact scales, and tensors named
LAYER.weight, LAYER.bias, LAYER.weight_scale.  Layouts there are channels first; here maps are
[h, w, c] and filters [out, kh, kw, in].
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from safetensors import SafetensorError, deserialize

from kilograd import limits
from kilograd.errors import InputError
from kilograd.frontend.operators import (
    Operator,
    Quantised,
    Side,
    Tensors,
    append_operator,
    read_operator,
)
from kilograd.ir import (
    Array,
    Builder,
    DType,
    Graph,
    Node,
    TensorType,
    fingerprint,
)
from kilograd.names import identifier, label
from kilograd.passes import AccumulatorError, LimitError, accumulator_bounds, check_ranges
from kilograd.reading import inside, read_bytes, read_json, there, typed

FORMAT = 1

COSINE_SCALE = 10.0
"""What cosines are multiplied by where a folder does not say."""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes network input: resize, centre crop, channels. Sizes in pixels.

    `resize`: length of the shorter side before the crop.
    `size`: side of the square crop, at most `resize`, which is at most 2,048.
    `channels`: 3 for RGB, 1 for grey.

    Raises `InputError` if a value is out of range.

    >>> Preprocess(size=128, resize=147, channels=3)
    Preprocess(size=128, resize=147, channels=3)
    """

    size: int
    resize: int
    channels: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        if max(self.size, self.resize) > limits.RESIZE:
            raise InputError(
                f"preprocess: {max(self.size, self.resize)} pixels are too many; "
                f"{limits.RESIZE} are the most"
            )
        if not 1 <= self.size <= self.resize:
            raise InputError(
                f"preprocess: size {self.size} must be 1 or more, and at most resize {self.resize}"
            )
        if self.channels not in {1, 3}:
            raise InputError(f"preprocess: channels is {self.channels}; give 3 (RGB) or 1 (grey)")


@dataclass(frozen=True)
class Model:
    """A network and what its file says of it.

    The outputs of `graph` are the pooled features, int8 [1, 1, c], and the logits of the
    original classifier.  `layers` are the convolutions in execution order, classifier excluded:
    the numbering of the published plans.  `training_classes` are the names of the classes it was
    trained on, where the file says so.
    `cosine_scale`: what a prototype head multiplies cosines by, as meta-training has learned it
    (the inverse of what papers call a temperature).
    """

    name: str
    title: str
    graph: Graph
    layers: tuple[str, ...]
    preprocess: Preprocess
    path: Path
    training_classes: tuple[str, ...] = ()
    cosine_scale: float = COSINE_SCALE

    @property
    def fingerprint(self) -> str:
        """What tells the network from any that answers otherwise.

        At the usual scale it is that of the graph, as it was before scales were kept.
        """
        graph = fingerprint(self.graph)
        if self.cosine_scale == COSINE_SCALE:
            return graph
        return hashlib.sha256(f"{graph} {self.cosine_scale!r}".encode()).hexdigest()


# -- the fields that are read ----------------------------------------------------------------------

_Sharpness = Annotated[float, Meta(ge=1 / limits.SHARPNESS, le=limits.SHARPNESS)]
_Classes = Annotated[tuple[str, ...], Meta(max_length=limits.CLASSES)]


class _Preprocess(Struct, frozen=True):
    resize_shorter_side: Annotated[int, Meta(ge=1, le=limits.RESIZE)]


class _Image(Quantised, frozen=True):
    tensor: str
    shape: tuple[Side, Side, Side]
    preprocess: _Preprocess


class _Files(Struct, frozen=True):
    int8: str
    int8_sanitised: str | None = None


class _Outputs(Struct, frozen=True):
    features: str
    logits: str


class _Provenance(Struct, frozen=True):
    training_classes: _Classes = ()


class _Version(Struct, frozen=True):
    format: Any = None


class _Description(_Version, frozen=True, kw_only=True):
    name: str
    title: str
    files: _Files
    input: _Image
    outputs: _Outputs
    ops: Annotated[tuple[Any, ...], Meta(max_length=limits.OPERATORS)]
    provenance: _Provenance = _Provenance()
    cosine_scale: _Sharpness = COSINE_SCALE


# -- reading ---------------------------------------------------------------------------------------


def load_model_folder(path: Path) -> Model:
    """Read a network.

    Raises `InputError` that names the file, operator or tensor: a missing or truncated file, an
    unknown format version or operator type, a name that is none, a missing tensor, a wrong type or
    shape, a number out of its range, a layer that is larger than its kernel takes, and weights that
    could overflow an int32 accumulator.
    """
    file = path / "graph.json"
    if not there(file):
        raise InputError(f"{file}: no such file; a model folder holds graph.json")
    found = read_json(file, dict[str, Any], limits.GRAPH_BYTES)
    if type(found.get("format")) is not int or found["format"] != FORMAT:
        raise InputError(
            f"{file}: format {found.get('format')!r} is unknown; this version reads {FORMAT}"
        )
    description = typed(found, _Description, str(file))
    tensors = inside(path, description.files.int8, f"{file}: files.int8")
    if (better := description.files.int8_sanitised) is not None:
        tensors = inside(path, better, f"{file}: files.int8_sanitised")
    if not there(tensors):
        raise InputError(f"{tensors}: no such file, but graph.json names it")
    model = _Reader(file, read_tensors(tensors)).model(description)
    try:
        check_ranges(model.graph)
        accumulator_bounds(model.graph, ())
    except (AccumulatorError, LimitError) as e:
        raise InputError(f"{path}: {e}") from e
    return model


_TYPES = {"I8": np.int8, "I32": np.int32, "I64": np.int64, "F32": np.float32}


def read_tensors(file: Path) -> Mapping[str, Array | str]:
    """Return the tensors of a file; of those of types that no network has, the name of the type.

    Raises `InputError` for a file that cannot be read, is too large, or is none of safetensors.
    """
    try:
        stored = deserialize(read_bytes(file, limits.TENSOR_BYTES))  # type: ignore[no-untyped-call]
    except SafetensorError as e:
        raise InputError(f"{file}: cannot be read, it may be truncated ({e})") from e
    return {
        name: np.frombuffer(t["data"], _TYPES[t["dtype"]]).reshape(t["shape"])
        if t["dtype"] in _TYPES
        else t["dtype"]
        for name, t in stored
    }


@dataclass(frozen=True)
class _Reader:
    file: Path
    tensors: Mapping[str, Array | str]

    def model(self, d: _Description) -> Model:
        c, h, w = d.input.shape
        if h != w:
            raise InputError(f"{self.file}: input shape {[c, h, w]} is not square")
        try:
            preprocess = Preprocess(h, d.input.preprocess.resize_shorter_side, c)
        except InputError as e:
            raise InputError(f"{self.file}: {e}") from e
        b = Builder()
        image = b.input("image", TensorType((h, w, c), DType.I8, d.input.affine()))
        values = {identifier(d.input.tensor, f"{self.file}: input.tensor"): image}
        ops = [read_operator(op, f"{self.file}: ops[{i}]") for i, op in enumerate(d.ops)]
        for i, op in enumerate(ops):
            self._check_names(i, op, values, b)
            inputs = [values[x] for x in op.inputs]
            values[op.output] = append_operator(b, op, Tensors(self.file, self.tensors), inputs)
        outputs = []
        for field, name in (("features", d.outputs.features), ("logits", d.outputs.logits)):
            if name not in values:
                raise InputError(
                    f"{self.file}: outputs.{field}: {name[:80]!r} is not made by any operator"
                )
            outputs.append(values[name])
        if outputs[0].type.shape[:2] != (1, 1):
            raise InputError(f"{self.file}: features {d.outputs.features!r} are not pooled")
        return Model(
            name=identifier(d.name, f"{self.file}: name"),
            title=label(d.title, f"{self.file}: title"),
            graph=b.graph(*outputs),
            layers=tuple(op.name for op in ops if op.type in {"conv", "depthwise_conv"}),
            preprocess=preprocess,
            path=self.file.parent,
            training_classes=tuple(
                label(name, f"{self.file}: provenance.training_classes[{i}]")
                for i, name in enumerate(d.provenance.training_classes)
            ),
            cosine_scale=float(np.float32(d.cosine_scale)),
        )

    def _check_names(self, i: int, op: Operator, values: Mapping[str, Node], b: Builder) -> None:
        if op.name in {n.name for n in b.nodes}:
            raise InputError(f"{self.file}: operator {i} needs a name of its own, not {op.name!r}")
        identifier(op.output, f"{self.file}: ops[{i}].output")
        if op.output in values:
            raise InputError(f"{self.file}: {op.name!r} makes {op.output!r} a second time")
        if gone := [x for x in op.inputs if x not in values]:
            raise InputError(
                f"{self.file}: {op.name!r} reads {gone[0][:80]!r}, which nothing makes"
            )
