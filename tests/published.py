"""Files as tiny-training publishes them: of a model folder, or of a small network made up."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from kilograd.ir import Array

Cfg = dict[str, Any]


def cfg_of(folder: Path) -> Cfg:
    """Return what a file of tiny-training says of a model folder with its names."""
    graph = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / graph["files"]["int8"])
    scales = {graph["input"]["tensor"]: graph["input"]}
    convs: dict[str, Cfg] = {}
    blocks: dict[int, Cfg] = {}
    for op in graph["ops"]:
        x, y = scales[op["inputs"][0]], op["out"]
        scales[op["output"]] = y
        params = {
            "x_scale": np.float64(x["scale"]),
            "x_zero": x["zero_point"],
            "y_scale": np.float64(y["scale"]),
            "y_zero": y["zero_point"],
        }
        if op["type"] == "add":
            convs[op["name"]] = {"params": params}
        elif "weight" in op:
            convs[op["name"]] = _conv(op, params, tensors)
    for name, conv in convs.items():
        if name.startswith("blocks."):
            _, block, part = name.split(".")
            blocks.setdefault(int(block), {})[part] = conv
    return {
        "first_conv": convs["first_conv"],
        "blocks": [_block(blocks[i]) for i in sorted(blocks)],
        "feature_mix": None,
        "classifier": convs["classifier"],
    }


def _block(parts: Cfg) -> Cfg:
    return {
        "pointwise1": parts.get("pw1"),
        "depthwise": parts["dw"],
        "pointwise2": parts["pw2"],
        "se": None,
        "residual": parts.get("add"),
    }


def _conv(op: Cfg, params: Cfg, tensors: Mapping[str, Array]) -> Cfg:
    name, kernel = op["name"], tuple(op.get("kernel", (1, 1)))
    weight = tensors[f"{name}.weight"]
    return {
        "in_channel": op["in_channels"],
        "out_channel": op["out_channels"],
        "kernel_size": kernel,
        "stride": op.get("stride", [1])[0],
        "groups": op.get("groups", 1),
        "depthwise": op["type"] == "depthwise_conv",
        "act": None,
        "params": {
            **params,
            "weight": weight.reshape(*weight.shape[:2], *kernel),
            "bias": tensors[f"{name}.bias"],
            "w_scales": tensors[f"{name}.weight_scale"],
        },
    }


def small_cfg() -> Cfg:
    """Return a network of three blocks, the last one residual; one channel of the stem is lost."""
    rng = np.random.default_rng(0)
    scales = {"image": (2 / 255, 0), "relu": (6 / 255, -128), "line": (0.05, 3), "sum": (0.07, -2)}

    def conv(x: str, y: str, out: int, inputs: int, kernel: int = 1, stride: int = 1) -> Cfg:
        depthwise = kernel > 1 and inputs > 3
        shape = (out, 1 if depthwise else inputs, kernel, kernel)
        params = {
            "x_scale": scales[x][0],
            "x_zero": np.array([scales[x][1]]),
            "y_scale": np.float64(scales[y][0]),
            "y_zero": np.int64(scales[y][1]),
            "weight": rng.integers(-127, 128, shape, np.int8),
            "bias": rng.integers(-1000, 1000, out, np.int32),
            "w_scales": rng.uniform(0.005, 0.01, out).astype(np.float32),
        }
        groups = out if depthwise else 1
        return {
            "in_channel": inputs, "out_channel": out, "kernel_size": (kernel, kernel),
            "stride": stride, "groups": groups, "depthwise": depthwise, "act": None,
            "params": params,
        }  # fmt: skip

    first = conv("image", "relu", 8, 3, 3, 2)
    first["params"]["w_scales"][5] = 5e-8
    first["params"]["bias"][5] = -(2**31)
    added = {"x_scale": 0.05, "x_zero": 3, "y_scale": 0.07, "y_zero": -2}
    blocks = [
        _block({"dw": conv("relu", "relu", 8, 8, 3), "pw2": conv("relu", "line", 4, 8)}),
        _block(
            {
                "pw1": conv("line", "relu", 12, 4),
                "dw": conv("relu", "relu", 12, 12, 5, 2),
                "pw2": conv("relu", "line", 4, 12),
            }
        ),
        _block(
            {
                "pw1": conv("line", "relu", 12, 4),
                "dw": conv("relu", "relu", 12, 12, 3),
                "pw2": conv("relu", "line", 4, 12),
                "add": {"params": added},
            }
        ),
    ]
    classifier = conv("sum", "line", 10, 4)
    return {"first_conv": first, "blocks": blocks, "feature_mix": None, "classifier": classifier}


def archive(cfg: object, protocol: int = 2) -> bytes:
    """Return a file as torch.save writes it; in protocol 2 with the names that numpy 1 used."""
    data = pickle.dumps(cfg, protocol=protocol)
    return archive_of(data.replace(b"numpy._core.", b"numpy.core.") if protocol == 2 else data)


def archive_of(data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a file of torch.save with any pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as z:
        z.writestr("archive/data.pkl", data)
        z.writestr("archive/version", "3\n")
    return file.getvalue()
