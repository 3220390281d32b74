"""Networks as plain data: `graph.json` and int8 tensors in safetensors (format 1).

A model folder holds operators in topological order with exact scales, and tensors named
LAYER.weight, LAYER.bias, LAYER.weight_scale.  Layouts there are channels first; here maps are
[h, w, c] and filters [out, kh, kw, in].
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kilograd.errors import InputError
from kilograd.ir import Affine, Array, Builder, DType, Graph, Node, ShapeError, TensorType
from kilograd.ops import Add, AvgPool, Conv, Depthwise, Window
from kilograd.passes import AccumulatorError, accumulator_bounds

FORMAT = 1
_LAYERS = ("conv", "depthwise_conv", "linear")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes network input: resize, centre crop, channels. Sizes in pixels.

    `resize`: length of the shorter side before the crop.
    `size`: side of the square crop, at most `resize`.
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
    the numbering of the published plans.
    """

    name: str
    title: str
    graph: Graph
    layers: tuple[str, ...]
    preprocess: Preprocess
    path: Path


def load_model_folder(path: Path) -> Model:
    """Read a network.

    Raises `InputError` that names the file, operator or tensor: a missing or truncated file, an
    unknown format version or operator type, a missing tensor, a wrong type or shape, and
    weights that could overflow an int32 accumulator.
    """
    file = path / "graph.json"
    description = _json(file)
    if description.get("format") != FORMAT:
        raise InputError(
            f"{file}: format {description.get('format')!r} is unknown; this version reads {FORMAT}"
        )
    try:
        files = description["files"]
        tensors = _tensors(path / files.get("int8_sanitised", files["int8"]))
        reader = _Reader(file, tensors)
        model = reader.model(description, path)
        accumulator_bounds(model.graph, ())
    except KeyError as e:
        raise InputError(f"{file}: field {e} is missing") from e
    except ShapeError as e:
        raise InputError(f"{file}: {e}") from e
    except AccumulatorError as e:
        raise InputError(f"{path}: {e}") from e
    return model


def _json(file: Path) -> Mapping[str, Any]:
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise InputError(f"{file}: no such file; a model folder holds graph.json") from e
    except (ValueError, OSError) as e:
        raise InputError(f"{file}: cannot be read as JSON ({e})") from e
    if not isinstance(description, dict):
        raise InputError(f"{file}: is not a network description")
    return description


def _tensors(file: Path) -> Mapping[str, Array]:
    try:
        return load_file(file)
    except FileNotFoundError as e:
        raise InputError(f"{file}: no such file, but graph.json names it") from e
    except (SafetensorError, OSError) as e:
        raise InputError(f"{file}: cannot be read, it may be truncated ({e})") from e


@dataclass(frozen=True)
class _Reader:
    file: Path
    tensors: Mapping[str, Array]

    def model(self, d: Mapping[str, Any], path: Path) -> Model:
        b = Builder()
        c, h, w = d["input"]["shape"]
        quant = Affine((float(d["input"]["scale"]),), int(d["input"]["zero_point"]))
        image = b.input("image", TensorType((h, w, c), DType.I8, quant))
        values = {d["input"]["tensor"]: image}
        for op in d["ops"]:
            try:
                inputs = [values[name] for name in op["inputs"]]
            except KeyError as e:
                raise InputError(
                    f"{self.file}: {op['name']!r} reads {e}, which nothing makes"
                ) from e
            values[op["output"]] = self._op(b, op, inputs)
        try:
            outputs = [values[d["outputs"][k]] for k in ("features", "logits")]
        except KeyError as e:
            raise InputError(f"{self.file}: output {e} is not made by any operator") from e
        steps = d["input"]["preprocess"]
        return Model(
            name=str(d["name"]),
            title=str(d["title"]),
            graph=b.graph(*outputs),
            layers=tuple(o["name"] for o in d["ops"] if o["type"] in ("conv", "depthwise_conv")),
            preprocess=Preprocess(h, int(steps["resize_shorter_side"]), c),
            path=path,
        )

    def _op(self, b: Builder, op: Mapping[str, Any], inputs: list[Node]) -> Node:
        name = op["name"]
        out = Affine((float(op["out"]["scale"]),), int(op["out"]["zero_point"]))
        match op["type"]:
            case "conv" | "depthwise_conv" | "linear":
                node = self._layer(b, op, inputs[0], out)
            case "add":
                node = b(Add(out), *inputs, name=name)
            case "avgpool":
                node = b(AvgPool(), inputs[0], name=name)
            case other:
                raise InputError(
                    f"{self.file}: operator {name!r} has unknown type {other!r}; "
                    f"known are {', '.join(_LAYERS)}, add, avgpool"
                )
        declared = math.prod(op["out_shape"])
        if node.type.size != declared:
            raise InputError(
                f"{self.file}: {name!r} declares {op['out_shape']} but makes {node.type}"
            )
        return node

    def _layer(self, b: Builder, op: Mapping[str, Any], x: Node, out: Affine) -> Node:
        name, channels = op["name"], int(op["out_channels"])
        depthwise = op["type"] == "depthwise_conv"
        kh, kw = op.get("kernel", (1, 1))
        stride, across = op.get("stride", (1, 1))
        if stride != across or tuple(op.get("dilation", (1, 1))) != (1, 1):
            raise InputError(f"{self.file}: {name!r} needs equal strides and no dilation")
        inputs = 1 if depthwise else int(op["in_channels"])
        if int(op.get("groups", 1)) != (channels if depthwise else 1):
            raise InputError(f"{self.file}: {name!r} has groups that are neither 1 nor depthwise")
        shape = (channels, inputs) if op["type"] == "linear" else (channels, inputs, kh, kw)
        weight = self._tensor(op["weight"]["tensor"], np.int8, shape).reshape(
            channels, inputs, kh, kw
        )
        scales = self._tensor(op["weight"]["scale_tensor"], np.float32, (channels,))
        if not (scales > 0).all():
            raise InputError(
                f"{self.file}: {op['weight']['scale_tensor']} has scales that are not > 0"
            )
        axis = 2 if depthwise else 0
        layout = weight[:, 0].transpose(1, 2, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        real = tuple(float(s) for s in scales)
        w = b.param(f"{name}.weight", np.ascontiguousarray(layout), Affine(real, axis=axis))
        bias = self._tensor(op["bias"]["tensor"], np.int32, (channels,))
        step = x.type.affine.scale[0]
        c = b.param(f"{name}.bias", bias, Affine(tuple(step * s for s in real), axis=0))
        window = Window(int(stride), tuple(op.get("padding", (0, 0, 0, 0))))
        kind = Depthwise(window, out) if depthwise else Conv(window, out)
        return b(kind, x, w, c, name=name)

    def _tensor(self, name: str, dtype: type, shape: tuple[int, ...]) -> Array:
        if name not in self.tensors:
            raise InputError(f"{self.file.parent}: tensor {name!r} is missing")
        value = self.tensors[name]
        if value.dtype != dtype or value.shape != shape:
            raise InputError(
                f"{self.file.parent}: tensor {name!r} is {value.dtype}{list(value.shape)}, "
                f"expected {np.dtype(dtype)}{list(shape)}"
            )
        return value


def folder_layout(node: Node, value: Array) -> Array:
    """Return a parameter in the layout of the file: filters [out, in, kh, kw]."""
    if len(node.type.shape) == 4:
        return np.ascontiguousarray(value.transpose(0, 3, 1, 2))
    if len(node.type.shape) == 3:
        return np.ascontiguousarray(value.transpose(2, 0, 1)[:, None])
    return value
