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
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct
from safetensors import SafetensorError, deserialize

from kilograd import limits
from kilograd.errors import InputError
from kilograd.frontend.operator_records import Operator, Quantised, Side, Tensors
from kilograd.frontend.operators import append_operator, read_operator
from kilograd.frontend.preprocess import Arrays, Images, Normalised, Preprocess
from kilograd.ir import (
    Array,
    Builder,
    DType,
    Graph,
    Node,
    TensorType,
    fingerprint,
)
from kilograd.layers.lower import trunk
from kilograd.layers.network import Source, Taken
from kilograd.names import identifier, label
from kilograd.passes import AccumulatorError, LimitError, accumulator_bounds, check_ranges
from kilograd.reading import inside, read_bytes, read_json, there, typed

FORMAT = 1

COSINE_SCALE = 10.0
"""What cosines are multiplied by where a folder does not say."""


@dataclass(frozen=True)
class Model:
    """A network and what its file says of it.

    The outputs of `graph` are the pooled features, int8 [1, 1, c], the logits of the original
    classifier, and what else the network answers.  `layers` are the convolutions that the features
    stand on, in execution order, classifier excluded: the numbering of the published plans.
    `training_classes` are the names of the classes it was trained on, where the file says so.
    `cosine_scale`: what a prototype head multiplies cosines by, as meta-training has learned it
    (the inverse of what papers call a temperature).
    `source`: the file of another tool that it was imported from.
    """

    name: str
    title: str
    graph: Graph
    layers: tuple[str, ...]
    preprocess: Preprocess
    path: Path
    training_classes: tuple[str, ...] = ()
    cosine_scale: float = COSINE_SCALE
    source: Source | None = None

    @property
    def fingerprint(self) -> str:
        """What tells the network from any that answers otherwise.

        At the usual scale, with pixels as usual, it is that of the graph, as it was before scales
        and other inputs were kept.
        """
        more = [repr(self.cosine_scale)] * (self.cosine_scale != COSINE_SCALE)
        match self.preprocess.samples:
            case Images(_, normal) if normal is not None:
                more += [repr(normal)]
            case Arrays():
                more += ["array"]
        graph = fingerprint(self.graph)
        return hashlib.sha256(" ".join([graph, *more]).encode()).hexdigest() if more else graph


# -- the fields that are read ----------------------------------------------------------------------

_Sharpness = Annotated[float, Meta(ge=1 / limits.SHARPNESS, le=limits.SHARPNESS)]
_Classes = Annotated[tuple[str, ...], Meta(max_length=limits.CLASSES)]


class _Images(Struct, frozen=True):
    resize_shorter_side: Annotated[int, Meta(ge=1, le=limits.RESIZE)]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class _Sample(Struct, frozen=True):
    shape: Annotated[tuple[Side, ...], Meta(max_length=8)]
    axes: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=8)]


class _Input(Quantised, frozen=True, kw_only=True):
    tensor: str
    shape: tuple[Side, Side, Side]
    kind: Literal["image", "array"] = "image"
    sample: _Sample | None = None
    preprocess: _Images | None = None


class _Files(Struct, frozen=True):
    int8: str
    int8_sanitised: str | None = None


class _Outputs(Struct, frozen=True):
    features: str
    logits: str
    more: Annotated[tuple[str, ...], Meta(max_length=limits.INPUTS)] = ()


class _Source(Struct, frozen=True):
    """The file of another tool that a network was imported from."""

    format: Annotated[str, Meta(max_length=limits.LABEL_LENGTH)]
    file: Annotated[str, Meta(max_length=limits.PATH_LENGTH)] = ""
    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""


class _Provenance(Struct, frozen=True):
    training_classes: _Classes = ()
    imported: _Source | None = None


class _Version(Struct, frozen=True):
    format: Any = None


class _Description(_Version, frozen=True, kw_only=True):
    name: str
    title: str
    files: _Files
    input: _Input
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
    except AccumulatorError as e:
        raise InputError(f"{path}: {e} (use the sanitised model file)") from e
    except LimitError as e:
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
        preprocess = self._preprocess(d.input)
        b = Builder()
        image = b.input("image", TensorType(preprocess.shape, DType.I8, d.input.affine()))
        values = {identifier(d.input.tensor, f"{self.file}: input.tensor"): image}
        ops = [read_operator(op, f"{self.file}: ops[{i}]") for i, op in enumerate(d.ops)]
        for i, op in enumerate(ops):
            self._check_names(i, op, values, b)
            inputs = [values[x] for x in op.inputs]
            values[op.output] = append_operator(b, op, Tensors(self.file, self.tensors), inputs)
        outputs = []
        named = {"features": d.outputs.features, "logits": d.outputs.logits}
        named |= {f"more[{i}]": name for i, name in enumerate(d.outputs.more)}
        for field, name in named.items():
            if name not in values:
                raise InputError(
                    f"{self.file}: outputs.{field}: {name[:80]!r} is not made by any operator"
                )
            outputs.append(values[name])
        if outputs[0].type.shape[:2] != (1, 1):
            raise InputError(f"{self.file}: features {d.outputs.features!r} are not pooled")
        graph = b.graph(*outputs)
        return Model(
            name=identifier(d.name, f"{self.file}: name"),
            title=label(d.title, f"{self.file}: title"),
            graph=graph,
            layers=trunk(graph),
            preprocess=preprocess,
            path=self.file.parent,
            training_classes=tuple(
                label(name, f"{self.file}: provenance.training_classes[{i}]")
                for i, name in enumerate(d.provenance.training_classes)
            ),
            cosine_scale=float(np.float32(d.cosine_scale)),
            source=None
            if (x := d.provenance.imported) is None
            else Source(x.format, x.file, x.sha256),
        )

    def _preprocess(self, found: _Input) -> Preprocess:
        """Return how samples become the input."""
        c, h, w = found.shape
        try:
            return Preprocess(h, w, c, _samples(found))
        except InputError as e:
            raise InputError(f"{self.file}: {e}") from e

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


def _samples(found: _Input) -> Images | Arrays:
    """Return what samples are; `InputError` for what is missing or does not fit."""
    where, how = "input.preprocess", found.preprocess
    if found.kind == "array":
        if how is not None:
            raise InputError(f"{where}: an array is not resized; leave the field out")
        own = found.sample
        return Arrays(found.affine(), None if own is None else Taken(own.shape, own.axes))
    if how is None:
        raise InputError(f"{where} is missing; images need it")
    if (how.mean is None) != (how.std is None):
        raise InputError(f"{where} has one of mean and std; give both or none")
    if how.mean is None or how.std is None:
        return Images(how.resize_shorter_side)
    return Images(how.resize_shorter_side, Normalised(how.mean, how.std, found.affine()))
