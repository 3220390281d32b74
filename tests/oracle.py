"""A second opinion on everything: the networks in float64, written from the file format alone.

Imports nothing of Kilograd.  Maps are [c, h, w] here, as in the files, and a convolution is a loop
over its taps, so that nothing is shared with the product, not even a layout.  Activations are kept
as codes (floats that are integers once rounded), gradients are with respect to real numbers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

Real = NDArray[np.float64]
Photo = NDArray[np.int8]
"""Network input as the product takes it: [128, 128, 3], pixel - 128."""


def photographs(file: Path, count: int) -> list[tuple[Photo, int]]:
    """Return the first `count` images of a stored set and their labels, ready for a network."""
    parquet = pytest.importorskip("pyarrow.parquet")
    with parquet.ParquetFile(file) as stored:
        batch = next(stored.iter_batches(batch_size=count, columns=["image", "label"]))
    pictures = [Image.open(io.BytesIO(data)) for data in batch["image"].to_pylist()]
    return list(zip(map(preprocessed, pictures), batch["label"].to_pylist(), strict=True))


def preprocessed(picture: Image.Image) -> Photo:
    """Shorter side to 147, centre crop 128, pixel - 128."""
    picture = picture.convert("RGB")
    ratio = 147 / min(picture.size)
    size = round(picture.width * ratio), round(picture.height * ratio)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - 128) // 2, (size[1] - 128) // 2
    pixels = np.asarray(picture.crop((left, top, left + 128, top + 128)))
    return (pixels.astype(np.int16) - 128).astype(np.int8)


@dataclass(frozen=True)
class Layer:
    """A convolution: an entry of `ops` in graph.json and its numbers, all float64."""

    weight: Real  # codes, [out, in / groups, kh, kw]
    bias: Real  # codes, [out]
    weight_scale: Real  # [out]
    bias_scale: Real  # [out]
    x_scale: float
    x_zero: int
    y_scale: float
    stride: int
    pad: tuple[int, int, int, int]
    depthwise: bool

    @classmethod
    def read(cls, op: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Layer:
        weight = tensors[op["weight"]["tensor"]].astype(np.float64)
        scale = tensors[op["weight"]["scale_tensor"]].astype(np.float64)
        return cls(
            weight=weight.reshape(*weight.shape, *(1,) * (4 - weight.ndim)),
            bias=tensors[op["bias"]["tensor"]].astype(np.float64),
            weight_scale=scale,
            bias_scale=op["input"]["scale"] * scale,
            x_scale=op["input"]["scale"],
            x_zero=op["input"]["zero_point"],
            y_scale=op["out"]["scale"],
            stride=op.get("stride", [1])[0],
            pad=tuple(op.get("padding", (0, 0, 0, 0))),
            depthwise=op["type"] == "depthwise_conv",
        )

    def taps(self, padded: Real) -> Iterator[tuple[int, int, Real]]:
        """Yield each tap and the view of the padded map that it reads, [c, out h, out w]."""
        kh, kw = self.weight.shape[2:]
        h, w = ((n - k) // self.stride + 1 for n, k in zip(padded.shape[1:], (kh, kw), strict=True))
        for i in range(kh):
            for j in range(kw):
                rows = slice(i, i + self.stride * (h - 1) + 1, self.stride)
                yield i, j, padded[:, rows, j : j + self.stride * (w - 1) + 1 : self.stride]

    def padded(self, x: Real) -> Real:
        top, bottom, left, right = self.pad
        return np.pad(x, ((0, 0), (top, bottom), (left, right)))

    def accumulate(self, x: Real) -> Real:
        """x: codes less their zero point."""
        total: Real = np.zeros(())
        for i, j, view in self.taps(self.padded(x)):
            w = self.weight[:, :, i, j]
            total = total + (w[:, :, None] * view if self.depthwise else np.tensordot(w, view, 1))
        return total + self.bias[:, None, None]

    def gradients(self, x: Real, dy: Real) -> tuple[Real, Real, Real]:
        """Gradients of x, weight and bias in real units; `x` as for `accumulate`."""
        real = self.weight * self.weight_scale[:, None, None, None]
        dx = self.padded(np.zeros_like(x))
        dw = np.zeros_like(real)
        views = [view for _, _, view in self.taps(dx)]
        for to, (i, j, view) in zip(views, self.taps(self.padded(x * self.x_scale)), strict=True):
            w = real[:, :, i, j]
            if self.depthwise:
                dw[:, 0, i, j] = (dy * view).sum(axis=(1, 2))
                to[...] += w[:, :, None] * dy
            else:
                dw[:, :, i, j] = np.tensordot(dy, view, ((1, 2), (1, 2)))
                to[...] += np.tensordot(w.T, dy, 1)
        top, _, left, _ = self.pad
        inner = dx[:, top : top + x.shape[1], left : left + x.shape[2]]
        return inner, dw, dy.sum(axis=(1, 2))


class Network:
    """A model folder.  `layers` may be replaced, to ask what another weight would do."""

    def __init__(self, folder: Path, tensors: str = "int8_sanitised") -> None:
        self.description = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
        stored = load_file(folder / self.description["files"][tensors])
        self.ops: list[dict[str, Any]] = self.description["ops"]
        self.layers = {op["name"]: Layer.read(op, stored) for op in self.ops if "weight" in op}

    def run(self, photo: Photo, *, rounded: bool = True) -> dict[str, Real]:
        """Return the codes of every activation.

        Unless `rounded`, nothing is rounded: the network that the straight-through gradient is
        the exact gradient of.
        """
        rint = np.rint if rounded else np.positive
        codes = {self.description["input"]["tensor"]: photo.astype(np.float64).transpose(2, 0, 1)}
        for op in self.ops:
            xs = [codes[name] for name in op["inputs"]]
            zero, scale = op["out"]["zero_point"], op["out"]["scale"]
            if op["type"] == "add":
                real = sum(
                    q["scale"] * (x - q["zero_point"]) for x, q in zip(xs, op["input"], strict=True)
                )
                y = np.clip(zero + rint(real / scale), -128, 127)
            elif op["type"] == "avgpool":
                y = rint(xs[0].mean(axis=(1, 2), keepdims=True))
            else:
                layer = self.layers[op["name"]]
                effective = layer.x_scale * layer.weight_scale / scale
                total = layer.accumulate(xs[0] - layer.x_zero)
                y = np.clip(zero + rint(total * effective[:, None, None]), -128, 127)
            codes[op["output"]] = y
        return codes

    def fisher(self, codes: Mapping[str, Real], d_features: Real) -> dict[str, Real]:
        """Return half the square of <activation, gradient> for each channel of each layer."""
        grads, found = self.gradients(codes, d_features)[0], {}
        for op in self.ops:
            if op["output"] in grads and op["name"] in self.layers:
                real = (codes[op["output"]] - op["out"]["zero_point"]) * op["out"]["scale"]
                found[op["name"]] = 0.5 * (real * grads[op["output"]]).sum(axis=(1, 2)) ** 2
        return found

    def features(self, codes: Mapping[str, Real]) -> Real:
        """Return the pooled features in real units."""
        name = self.description["outputs"]["features"]
        quant = self.description["activations"][name]
        return ((codes[name] - quant["zero_point"]) * quant["scale"]).ravel()

    def backward(self, codes: Mapping[str, Real], d_features: Real) -> dict[str, Real]:
        """Return the straight-through gradient of each weight and bias."""
        return self.gradients(codes, d_features)[1]

    def gradients(
        self, codes: Mapping[str, Real], d_features: Real
    ) -> tuple[dict[str, Real], dict[str, Real]]:
        """Return the straight-through gradient of each activation, and of each weight and bias.

        Rounding passes gradients on, a clamp those of codes strictly inside the range, and an
        activation that is read twice collects both.
        """
        grads = {self.description["outputs"]["features"]: d_features[:, None, None]}
        found: dict[str, Real] = {}

        def collect(name: str, grad: Real) -> None:
            grads[name] = grads[name] + grad if name in grads else grad

        for op in reversed(self.ops):
            if op["output"] not in grads:
                continue  # the classifier, which is not trained
            y, dy = codes[op["output"]], grads[op["output"]]
            xs = [codes[name] for name in op["inputs"]]
            if op["type"] == "avgpool":
                pixels = xs[0].shape[1] * xs[0].shape[2]
                collect(op["inputs"][0], np.broadcast_to(dy / pixels, xs[0].shape))
                continue
            dy = np.where((y > -128) & (y < 127), dy, 0.0)
            if op["type"] == "add":
                for name in op["inputs"]:
                    collect(name, dy)
                continue
            layer = self.layers[op["name"]]
            dx, dw, db = layer.gradients(xs[0] - layer.x_zero, dy)
            collect(op["inputs"][0], dx)
            found |= {f"{op['name']}.weight": dw, f"{op['name']}.bias": db}
        return grads, found


@dataclass(frozen=True)
class Linear:
    """logits = weight @ features + bias."""

    weight: Real
    bias: Real

    def logits(self, features: Real) -> Real:
        return self.weight @ features + self.bias

    def gradient(self, features: Real, d_logits: Real) -> Real:
        return self.weight.T @ d_logits


@dataclass(frozen=True)
class Cosine:
    """logits[k] = 10 cos(features, prototypes[k]), the prototypes detached."""

    prototypes: Real
    scale: float = 10.0

    def logits(self, features: Real) -> Real:
        unit = self.prototypes / np.linalg.norm(self.prototypes, axis=1, keepdims=True)
        return self.scale * (unit @ features) / np.linalg.norm(features)

    def gradient(self, features: Real, d_logits: Real) -> Real:
        unit = self.prototypes / np.linalg.norm(self.prototypes, axis=1, keepdims=True)
        length = np.linalg.norm(features)
        direction = features / length
        along = unit.T @ d_logits
        return np.asarray(self.scale * (along - direction * (direction @ along)) / length)

    def prototype_gradient(self, features: Real, d_logits: Real) -> Real:
        """Return the gradient of the prototypes, which `gradient` takes for constants."""
        lengths = np.linalg.norm(self.prototypes, axis=1, keepdims=True)
        unit, direction = self.prototypes / lengths, features / np.linalg.norm(features)
        aside = direction - unit * (unit @ direction)[:, None]
        return np.asarray(self.scale * d_logits[:, None] * aside / lengths)


def cross_entropy(logits: Real, label: int) -> tuple[float, Real]:
    """Return the loss and its gradient."""
    e = np.exp(logits - logits.max())
    p = e / e.sum()
    return float(-np.log(p[label])), p - np.eye(len(p))[label]
