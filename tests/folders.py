"""What a user brings, made up: a small network as a model folder, and folders of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from helpers import Unit, network
from PIL import Image
from safetensors.numpy import load_file, save_file

from kilograd import ops
from kilograd.ir import Array, Graph, Node, Param

SIZE = 16
#: Layers in execution order, as `load_model` numbers them; the network has one residual.
LAYERS = ("stem", "b0.pw1", "b0.dw", "b0.pw2", "b1.pw1", "b1.dw", "b1.pw2")
FEATURES = 12
_UNITS = (Unit(16, 8), Unit(24, FEATURES, kernel=5, stride=2))


def write_model(
    folder: Path, seed: int = 0, units: tuple[Unit, ...] = _UNITS, size: int = SIZE
) -> Path:
    """Write a random network, of 7 convolutions unless told otherwise, and a classifier of 3."""
    graph = network(seed, units, size, stem=8)
    names = {n: "input" if n.name == "image" else f"{n.name}.out" for n in graph.nodes}
    kinds = (ops.Conv, ops.Depthwise, ops.Add, ops.AvgPool)
    records = [_record(n, names) for n in graph.nodes if isinstance(n.op, kinds)]
    tensors = _tensors(graph)
    features = graph.outputs[0]
    channels = features.type.shape[2]
    tensors["classifier.weight"] = np.ones((3, channels), np.int8)
    tensors["classifier.bias"] = np.zeros(3, np.int32)
    tensors["classifier.weight_scale"] = np.ones(3, np.float32)
    classifier = {
        "type": "linear",
        "name": "classifier",
        "inputs": [names[features]],
        "output": "logits",
        "out_shape": [3],
        "in_channels": channels,
        "out_channels": 3,
        **_parameters("classifier"),
        "input": _quant(features),
        "out": {"scale": 1.0, "zero_point": 0},
    }
    description = {
        "format": 1,
        "name": folder.name,
        "title": "Small random network",
        "files": {"int8": "model.safetensors"},
        "input": {
            "tensor": "input",
            "shape": [3, size, size],
            "scale": 2 / 255,
            "zero_point": 0,
            "preprocess": {"resize_shorter_side": size + 2},
        },
        "outputs": {"features": names[features], "logits": "logits"},
        "ops": [*records, classifier],
    }
    folder.mkdir(parents=True)
    (folder / "graph.json").write_text(json.dumps(description), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder


def replace_tensors(folder: Path, tensors: dict[str, Array]) -> None:
    """Put other values into a model folder; a tensor it does not have is added."""
    file = folder / "model.safetensors"
    save_file({**load_file(file), **tensors}, file)


def _tensors(graph: Graph) -> dict[str, Array]:
    """Return every parameter channels first, and the scales of the weights."""
    tensors: dict[str, Array] = {}
    for n in graph.params():
        value = graph.data[n.name]
        if n.name.endswith(".weight"):
            tensors[f"{n.name}_scale"] = np.array(n.type.affine.scale, np.float32)
            value = (
                value.transpose(2, 0, 1)[:, None]
                if value.ndim == 3
                else value.transpose(0, 3, 1, 2)
            )
        tensors[n.name] = np.ascontiguousarray(value)
    return tensors


def _parameters(name: str) -> dict[str, Any]:
    weight = {"tensor": f"{name}.weight", "scale_tensor": f"{name}.weight_scale"}
    return {"weight": weight, "bias": {"tensor": f"{name}.bias"}}


def _quant(n: Node) -> dict[str, float]:
    quant = n.type.affine
    return {"scale": quant.scale[0], "zero_point": quant.zero_point}


def _record(n: Node, names: dict[Node, str]) -> dict[str, Any]:
    h, w, c = n.type.shape
    inputs = [_quant(x) for x in n.inputs if not isinstance(x.op, Param)]
    record = {
        "name": n.name,
        "inputs": [names[x] for x in n.inputs],
        "output": names[n],
        "out_shape": [c, h, w],
        "input": inputs if isinstance(n.op, ops.Add) else inputs[0],
        "out": _quant(n),
    }
    match n.op:
        case ops.Add():
            return {**record, "type": "add"}
        case ops.AvgPool():
            return {**record, "type": "avgpool"}
        case ops.Conv(window=window) | ops.Depthwise(window=window):
            x, weight, _ = n.inputs
            depthwise = isinstance(n.op, ops.Depthwise)
            shape = weight.type.shape
            return {
                **record,
                "type": "depthwise_conv" if depthwise else "conv",
                "inputs": [names[x]],
                "in_channels": x.type.shape[2],
                "out_channels": c,
                "kernel": list(shape[:2] if depthwise else shape[1:3]),
                "stride": list(window.stride),
                "padding": list(window.pad),
                "groups": c if depthwise else 1,
                **_parameters(n.name),
            }
    raise TypeError(n.op)


CLASSES = ("blue", "green", "red", "yellow")
_COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (40, 50, 230),
    "yellow": (230, 210, 20),
}


def write_pictures(
    folder: Path, classes: tuple[str, ...] = CLASSES, count: int = 8, seed: int = 0
) -> Path:
    """Write `count` pictures a class, each a disc of the class's colour somewhere on noise."""
    rng = np.random.default_rng(seed)
    for name in classes:
        write_class(folder / name, rng, _COLOURS[name], count)
    return folder


def write_class(
    folder: Path, rng: np.random.Generator, colour: tuple[int, int, int], count: int
) -> None:
    """Write pictures of discs of one colour."""
    folder.mkdir(parents=True)
    for i in range(count):
        picture(rng, colour).save(folder / f"{i}.png")


def picture(rng: np.random.Generator, colour: tuple[int, int, int]) -> Image.Image:
    """Draw a disc on noise."""
    pixels = rng.integers(90, 160, (20, 24, 3))
    y, x = np.mgrid[:20, :24]
    disc = (y - rng.integers(7, 13)) ** 2 + (x - rng.integers(8, 16)) ** 2 < 36
    pixels[disc] = np.array(colour) + rng.integers(-20, 20, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# ---- what is there afterwards ----


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones included."""
    return sorted(p.name for p in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
