"""Networks whose inputs are not square images, made up: small ones, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kilograd.frontend import Arrays, Images, Model, Preprocess
from kilograd.ir import Affine, Builder, DType, Node, Role, TensorType
from kilograd.ops import AvgPool, Conv, Depthwise, Window

UNIT = Affine((1 / 255,), -128)
MIDDLE = Affine((0.05,), 3)


def convolution(b: Builder, name: str, x: Node, out: int, pad: int = 1, stride: int = 1) -> Node:
    """Append a random convolution of 3 x 3, or of a point where nothing is added around maps."""
    rng = np.random.default_rng(sum(map(ord, name)))
    kernel, channels = 2 * pad + 1, x.type.shape[2]
    scale = (float(np.float32(4 / (kernel * kernel * channels * 100))),) * out
    weight = rng.integers(-127, 128, (out, kernel, kernel, channels)).astype(np.int8)
    bias = rng.integers(-500, 500, out).astype(np.int32)
    unit = x.type.affine.scale[0]
    w = b.param(f"{name}.weight", weight, Affine(scale, axis=0), role=Role.WEIGHT)
    c = b.param(f"{name}.bias", bias, Affine(scale, axis=0, unit=unit), role=Role.BIAS)
    return b(Conv(Window((stride, stride), (pad,) * 4), MIDDLE), x, w, c, name=name)


def depthwise(b: Builder, name: str, x: Node) -> Node:
    """Append a random depthwise convolution of 3 x 3."""
    rng, channels = np.random.default_rng(7), x.type.shape[2]
    scale = (float(np.float32(0.004)),) * channels
    weight = rng.integers(-127, 128, (3, 3, channels)).astype(np.int8)
    unit = x.type.affine.scale[0]
    w = b.param(f"{name}.weight", weight, Affine(scale, axis=2), role=Role.WEIGHT)
    zero = np.zeros(channels, np.int32)
    c = b.param(f"{name}.bias", zero, Affine(scale, axis=0, unit=unit), role=Role.BIAS)
    return b(Depthwise(Window(pad=(1,) * 4), MIDDLE), x, w, c, name=name)


def model(preprocess: Preprocess, affine: Affine, name: str = "windows") -> Model:
    """Return a network of five convolutions for such inputs."""
    b = Builder()
    x = b.input("image", TensorType(preprocess.shape, DType.I8, affine))
    x = convolution(b, "stem", x, 8)
    x = depthwise(b, "b0.dw", x)
    x = convolution(b, "b0.pw", x, 12, pad=0)
    x = convolution(b, "b1.conv", x, 12)
    x = convolution(b, "b1.pw", x, 16, pad=0)
    features = b(AvgPool(), x, name="pool")
    logits = convolution(b, "classifier", features, 4, pad=0)
    layers = ("stem", "b0.dw", "b0.pw", "b1.conv", "b1.pw")
    graph = b.graph(features, logits)
    return Model(name, "A small network of windows", graph, layers, preprocess, Path(name))


def of_arrays(shape: tuple[int, int, int] = (12, 5, 2), name: str = "windows") -> Model:
    """Return a network of real numbers, from about -6 to 6."""
    affine = Affine((0.05,), 4)
    return model(Preprocess(*shape, Arrays(affine)), affine, name)


def of_images(high: int = 12, wide: int = 20, channels: int = 3, name: str = "oblong") -> Model:
    """Return a network of images that are no squares."""
    resize = min(high, wide) + 2
    return model(Preprocess(high, wide, channels, Images(resize)), UNIT, name)
