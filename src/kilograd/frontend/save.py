"""Networks to files: what `load_model_folder` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from kilograd import limits
from kilograd.frontend.layouts import folder_layout
from kilograd.frontend.model_folder import COSINE_SCALE, FORMAT, Model
from kilograd.frontend.operators import described, is_linear
from kilograd.frontend.preprocess import Arrays, Preprocess
from kilograd.ir import Array, Input, Node, Param, Role
from kilograd.ops import Conv, Depthwise, GroupedConv
from kilograd.output import write_file
from kilograd.reading import read_bytes, read_json, there

_TENSORS = "model.safetensors"


def copy_model(model: Model, folder: Path) -> None:
    """Write a network as `save_model`, with its licence, its card and where it comes from.

    Those are what lies beside it in the folder that it was read from.
    """
    save_model(model, folder, _provenance(model))
    for name in sorted(_texts(model.path)):
        write_file(folder / name, read_bytes(model.path / name, limits.CARD_BYTES))


_TEXTS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "README*", "CARD*")


def _texts(folder: Path) -> set[str]:
    """Return the names of the texts on licence and origin that lie in a folder."""
    found = {p for pattern in _TEXTS for p in folder.glob(pattern)}
    return {
        p.name
        for p in found
        if p.is_file() and not p.is_symlink() and p.stat().st_size <= limits.CARD_BYTES
    }


def _provenance(model: Model) -> Mapping[str, Any]:
    """Return what the file of a network says of where it comes from."""
    file = model.path / "graph.json"
    if not there(file):
        return {}
    found = read_json(file, dict[str, Any], limits.GRAPH_BYTES).get("provenance", {})
    return found if isinstance(found, dict) else {}


def save_model(model: Model, folder: Path, provenance: Mapping[str, Any] | None = None) -> None:
    """Write `graph.json` and `model.safetensors` into an existing folder (format 1).

    `provenance`: more to say of where the network comes from.
    `load_model_folder` gives back the same network, to the bit.  The same network makes the same
    bytes.  Raises a TypeError for an op that no model folder has, `InputError` if the disk refuses.
    """
    graph = model.graph
    source = graph.inputs()[0]
    names = {n: f"{n.name}.out" for n in graph.nodes} | {source: "input"}
    h, w, c = source.type.shape
    weights = {
        x
        for n in graph.nodes
        if isinstance(n.op, Conv | Depthwise | GroupedConv)
        for x in n.inputs[1:]
    }
    description = {
        "format": FORMAT,
        "name": model.name,
        "title": model.title,
        "provenance": {
            **(provenance or {}),
            **({"imported": asdict(model.source)} if model.source else {}),
            "training_classes": model.training_classes,
        },
        "files": {"int8": _TENSORS},
        "input": {
            "tensor": "input",
            "shape": [c, h, w],
            **_affine(source),
            **_samples(model.preprocess),
        },
        **({} if model.cosine_scale == COSINE_SCALE else {"cosine_scale": model.cosine_scale}),
        "outputs": _outputs([names[n] for n in graph.outputs]),
        "ops": [
            described(n, names, model.layers)
            for n in graph.nodes
            if not isinstance(n.op, Input) and n not in weights
        ],
    }
    # Tensors first: a folder with a graph.json is a whole one.
    write_file(folder / _TENSORS, save(_tensors(model)))
    write_file(folder / "graph.json", json.dumps(description, indent=1) + "\n")


def _samples(preprocess: Preprocess) -> dict[str, Any]:
    """Return what the input says of samples."""
    images = preprocess.samples
    if isinstance(images, Arrays):
        taken = images.taken
        own = {} if taken is None else {"shape": list(taken.shape), "axes": list(taken.order)}
        return {"kind": "array"} | ({"sample": own} if own else {})
    how: dict[str, Any] = {"resize_shorter_side": images.resize}
    if images.normalised is not None:
        how |= {"mean": list(images.normalised.mean), "std": list(images.normalised.std)}
    return {"preprocess": how}


def _outputs(names: list[str]) -> dict[str, object]:
    features, logits, *more = names
    return {"features": features, "logits": logits, **({"more": more} if more else {})}


def _tensors(model: Model) -> dict[str, Array]:
    """Return every parameter channels first, and the scales of the weights."""
    tensors: dict[str, Array] = {}
    for n in model.graph.nodes:
        if isinstance(n.op, Conv | Depthwise | GroupedConv):
            _, weight, bias = n.inputs
            value = folder_layout(weight, model.graph.data[weight.name])
            linear = is_linear(n, model.layers)
            tensors[f"{n.name}.weight"] = value.reshape(value.shape[:2]) if linear else value
            tensors[f"{n.name}.weight_scale"] = np.array(weight.type.affine.scale, np.float32)
            tensors[f"{n.name}.bias"] = model.graph.data[bias.name]
        elif isinstance(n.op, Param) and n.op.role is Role.CONSTANT:
            tensors[n.name] = np.ascontiguousarray(model.graph.data[n.name].transpose(2, 0, 1))
    return tensors


def _affine(n: Node) -> dict[str, float]:
    quant = n.type.affine
    return {"scale": quant.scale[0], "zero_point": quant.zero_point}
