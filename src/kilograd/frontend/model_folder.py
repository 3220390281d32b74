"""Networks as plain data: `graph.json` and int8 tensors in safetensors (format 1).

A model folder holds operators in topological order with exact scales, and tensors named
LAYER.weight, LAYER.bias, LAYER.weight_scale.  Layouts there are channels first; here maps are
[h, w, c] and filters [out, kh, kw, in].
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kilograd.errors import InputError
from kilograd.ir import Affine, Array, Builder, DType, Graph, Node, ShapeError, TensorType
from kilograd.ops import Add, AvgPool, Conv, Depthwise, Window
from kilograd.passes import AccumulatorError, LimitError, accumulator_bounds, check_ranges

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
    the numbering of the published plans.  `training_classes` are the names of the classes it was
    trained on, where the file says so.
    """

    name: str
    title: str
    graph: Graph
    layers: tuple[str, ...]
    preprocess: Preprocess
    path: Path
    training_classes: tuple[str, ...] = ()


def load_model_folder(path: Path) -> Model:
    """Read a network.

    Raises `InputError` that names the file, operator or tensor: a missing or truncated file, an
    unknown format version or operator type, a missing tensor, a wrong type or shape, a layer
    that is larger than its kernel takes, and weights that could overflow an int32 accumulator.
    """
    file = path / "graph.json"
    description = _json(file)
    if description.get("format") != FORMAT:
        raise InputError(
            f"{file}: format {description.get('format')!r} is unknown; this version reads {FORMAT}"
        )
    with _reading(str(file)):
        files = description["files"]
        tensors = _tensors(path / files.get("int8_sanitised", files["int8"]))
        model = _Reader(file, tensors).model(description, path)
    try:
        check_ranges(model.graph)
        accumulator_bounds(model.graph, ())
    except (AccumulatorError, LimitError) as e:
        raise InputError(f"{path}: {e}") from e
    return model


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Turn what Python says of a field that is absent or no such thing into a line on `where`."""
    try:
        yield
    except InputError:
        raise
    except KeyError as e:
        raise InputError(f"{where}: field {e} is missing") from e
    except ShapeError as e:
        raise InputError(f"{where}: {e}") from e
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as e:
        raise InputError(f"{where}: a field has a value of the wrong kind ({e})") from e


def _json(file: Path) -> Mapping[str, Any]:
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise InputError(f"{file}: no such file; a model folder holds graph.json") from e
    except (ValueError, OSError, RecursionError) as e:
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
        with _reading(f"{self.file}: input"):
            c, h, w = (int(n) for n in d["input"]["shape"])
            if h != w:
                raise InputError(f"{self.file}: input shape {[c, h, w]} is not square")
            quant = self._affine("input", d["input"])
            image = b.input("image", TensorType((h, w, c), DType.I8, quant))
            values = {d["input"]["tensor"]: image}
        for i, op in enumerate(d["ops"]):
            with _reading(f"{self.file}: operator {i}"):
                name = op["name"]
            with _reading(f"{self.file}: operator {name!r}"):
                if not isinstance(name, str) or name in {n.name for n in b.nodes}:
                    raise InputError(
                        f"{self.file}: operator {i} needs a name of its own, not {name!r}"
                    )
                if op["output"] in values:
                    raise InputError(f"{self.file}: {name!r} makes {op['output']!r} a second time")
                if gone := [x for x in op["inputs"] if x not in values]:
                    raise InputError(
                        f"{self.file}: {name!r} reads {gone[0]!r}, which nothing makes"
                    )
                values[op["output"]] = self._op(b, op, [values[x] for x in op["inputs"]])
        try:
            outputs = [values[d["outputs"][k]] for k in ("features", "logits")]
        except KeyError as e:
            raise InputError(f"{self.file}: output {e} is not made by any operator") from e
        if outputs[0].type.shape[:2] != (1, 1):
            raise InputError(f"{self.file}: features {d['outputs']['features']!r} are not pooled")
        with _reading(f"{self.file}: input"):
            resize = int(d["input"]["preprocess"]["resize_shorter_side"])
        try:
            preprocess = Preprocess(h, resize, c)
        except InputError as e:
            raise InputError(f"{self.file}: {e}") from e
        with _reading(f"{self.file}: provenance"):
            seen = tuple(map(str, d.get("provenance", {}).get("training_classes", ())))
        return Model(
            name=str(d["name"]),
            title=str(d["title"]),
            graph=b.graph(*outputs),
            layers=tuple(o["name"] for o in d["ops"] if o["type"] in ("conv", "depthwise_conv")),
            preprocess=preprocess,
            path=path,
            training_classes=seen,
        )

    def _affine(self, name: str, d: Mapping[str, Any]) -> Affine:
        """Read the scale and the zero point of an activation."""
        scale, zero = float(d["scale"]), int(d["zero_point"])
        if not 0 < scale < math.inf:
            raise InputError(
                f"{self.file}: {name!r} has scale {scale}, which is not > 0 and finite"
            )
        if not -128 <= zero <= 127:
            raise InputError(f"{self.file}: {name!r} has zero point {zero}, which is no int8")
        return Affine((scale,), zero)

    def _op(self, b: Builder, op: Mapping[str, Any], inputs: list[Node]) -> Node:
        name = op["name"]
        out = self._affine(name, op["out"])
        match op["type"]:
            case "conv" | "depthwise_conv" | "linear":
                node = self._layer(b, op, inputs[0], out)
            case "add":
                self._check_ratios(name, [x.type.affine.scale[0] / out.scale[0] for x in inputs])
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
        if not ((scales > 0) & (scales < np.inf)).all():
            raise InputError(
                f"{self.file.parent}: tensor {op['weight']['scale_tensor']!r} has scales that are "
                f"not > 0 and finite"
            )
        axis = 2 if depthwise else 0
        layout = weight[:, 0].transpose(1, 2, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        real = tuple(float(s) for s in scales)
        w = b.param(f"{name}.weight", np.ascontiguousarray(layout), Affine(real, axis=axis))
        bias = self._tensor(op["bias"]["tensor"], np.int32, (channels,))
        step = x.type.affine.scale[0]
        self._check_ratios(name, [step * s / out.scale[0] for s in real])
        c = b.param(f"{name}.bias", bias, Affine(tuple(real), axis=0, unit=step))
        pad = tuple(op.get("padding", (0, 0, 0, 0)))
        if len(pad) != 4 or min(pad) < 0 or stride < 1:
            raise InputError(f"{self.file}: {name!r} has stride {stride} and padding {list(pad)}")
        window = Window(int(stride), pad)
        kind = Depthwise(window, out) if depthwise else Conv(window, out)
        return b(kind, x, w, c, name=name)

    def _check_ratios(self, name: str, ratios: list[float]) -> None:
        """Refuse scales whose ratio no 32-bit multiplier and shift of 1..62 can express."""
        if not all(2.0**-32 <= r < 2.0**30 for r in ratios):
            raise InputError(
                f"{self.file}: {name!r} multiplies by {min(ratios):.3g} to {max(ratios):.3g}; its "
                f"scales are out of proportion"
            )

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
