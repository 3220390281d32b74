"""Networks as tiny-training writes them: dictionaries of numpy arrays, to a model folder's content.

A file has `first_conv`, `blocks` (each with `pointwise1` or none, `depthwise`, `pointwise2` and
`residual` or none) and `classifier`.  Weights are int8 [out, in, h, w] with a scale for each output
channel, activations int8 with one scale; every convolution says the scales of what it reads and
makes.  Padding keeps the size of a map, but for the stride.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from kilograd.errors import InputError
from kilograd.frontend.model_folder import FORMAT
from kilograd.frontend.pickled import Stored
from kilograd.ir import Array

_SIDE = 128
_RESIZE = 147  # of the shorter side of an image, before 128 pixels are cut out
_ALIKE = 1e-6  # of two scales that stand for the same activation


class _Scales(Struct, frozen=True):
    x_scale: Array
    x_zero: Array
    y_scale: Array
    y_zero: Array


class _Weights(_Scales, frozen=True):
    weight: Array
    bias: Array
    w_scales: Array


class _Conv(Struct, frozen=True):
    kernel_size: int | tuple[int, int]
    stride: int | tuple[int, int]
    groups: int
    params: _Weights


class _Residual(Struct, frozen=True):
    params: _Scales


class _Block(Struct, frozen=True):
    pointwise1: _Conv | None
    depthwise: _Conv
    pointwise2: _Conv
    residual: _Residual | None
    se: None = None


class _Network(Struct, frozen=True):
    first_conv: _Conv
    blocks: list[_Block]
    classifier: _Conv
    feature_mix: None = None


def read_network(found: object, name: str, title: str, where: str) -> Content:
    """Return the content of a model folder for what a file holds.

    Raises `InputError`, which begins with `where`, for anything but such a network.
    """
    try:
        network = msgspec.convert(found, _Network, dec_hook=_array)
    except (msgspec.ValidationError, TypeError) as e:
        raise InputError(f"{where}: is no network of tiny-training ({e})") from e
    content = Content(name, title, where)
    content.network(network)
    return content


def _array(kind: type, found: object) -> Array:
    """Return what stands for an array in a file: one that is stored, or a number."""
    if isinstance(found, Stored) and found.array is not None:
        return found.array
    if type(found) in {int, float}:
        return np.array(found)
    raise TypeError(f"{type(found).__name__} is no array")


@dataclass(frozen=True)
class _Activation:
    name: str
    shape: tuple[int, ...]
    scale: float
    zero: int

    @property
    def quantisation(self) -> dict[str, float]:
        return {"scale": self.scale, "zero_point": self.zero}


@dataclass
class Content:
    """What a model folder holds, as it grows operator by operator."""

    name: str
    title: str
    where: str
    ops: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)

    def description(
        self, files: Mapping[str, str], provenance: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what `graph.json` says."""
        return {
            "format": FORMAT,
            "name": self.name,
            "title": self.title,
            "provenance": provenance,
            "files": files,
            "input": self.image,
            "outputs": {"features": "features", "logits": "logits"},
            "ops": self.ops,
        }

    def network(self, network: _Network) -> None:
        """Add all operators, in the order in which they run."""
        first = network.first_conv.params
        scale, zero = _quantisation(first.x_scale, first.x_zero, f"{self.where}: first_conv")
        x = _Activation("input", (3, _SIDE, _SIDE), scale, zero)
        self.image = {
            "tensor": x.name,
            "shape": list(x.shape),
            **x.quantisation,
            "preprocess": {"resize_shorter_side": _RESIZE},
        }
        x = self._conv("first_conv", network.first_conv, x)
        for i, block in enumerate(network.blocks):
            x = self._block(f"blocks.{i}", block, x)
        features = _Activation("features", x.shape[:1], x.scale, x.zero)
        self._op("avgpool", "avgpool", (x,), features)
        self._conv("classifier", network.classifier, features, output="logits")

    def _block(self, name: str, block: _Block, x: _Activation) -> _Activation:
        y = x
        if block.pointwise1 is not None:
            y = self._conv(f"{name}.pw1", block.pointwise1, y)
        y = self._conv(f"{name}.dw", block.depthwise, y)
        y = self._conv(f"{name}.pw2", block.pointwise2, y)
        if block.residual is None:
            return y
        self._check(f"{name}.add", block.residual.params, x)
        return self._op(
            f"{name}.add", "add", (x, y), self._made(f"{name}.add", block.residual.params, y.shape)
        )

    def _conv(
        self, name: str, conv: _Conv, x: _Activation, output: str | None = None
    ) -> _Activation:
        where = f"{self.where}: {name}"
        params = conv.params
        self._check(name, params, x)
        weight = _exact(params.weight, np.int8, where)
        kernel, stride = (np.broadcast_to(v, 2).tolist() for v in (conv.kernel_size, conv.stride))
        grouped = conv.groups > 1
        inputs = 1 if grouped else x.shape[0]
        if weight.shape[1:] != (inputs, *kernel):
            raise InputError(f"{where}: has weights of shape {weight.shape}")
        linear = len(x.shape) == 1
        out = (len(weight),)
        if not linear:
            out += tuple(-(-side // step) for side, step in zip(x.shape[1:], stride, strict=True))
        y = self._made(name, params, out, output)
        self.tensors |= {
            f"{name}.weight": weight.reshape(weight.shape[:2]) if linear else weight,
            f"{name}.bias": _exact(params.bias, np.int32, where),
            f"{name}.weight_scale": _exact(params.w_scales, np.float32, where),
        }
        record = {
            "in_channels": x.shape[0],
            "out_channels": len(weight),
            "weight": {"tensor": f"{name}.weight", "scale_tensor": f"{name}.weight_scale"},
            "bias": {"tensor": f"{name}.bias"},
        }
        if linear:
            return self._op(name, "linear", (x,), y, **record)
        pad = [(k - 1) // 2 for k in kernel]
        record |= {
            "kernel": kernel,
            "stride": stride,
            "padding": [pad[0], pad[0], pad[1], pad[1]],
            "groups": conv.groups,
        }
        return self._op(name, "depthwise_conv" if grouped else "conv", (x,), y, **record)

    def _op(
        self, name: str, kind: str, inputs: tuple[_Activation, ...], y: _Activation, **more: object
    ) -> _Activation:
        self.ops.append(
            {
                "name": name,
                "type": kind,
                "inputs": [x.name for x in inputs],
                "output": y.name,
                "out_shape": list(y.shape),
                "out": y.quantisation,
                **more,
            }
        )
        return y

    def _made(
        self, name: str, scales: _Scales, shape: tuple[int, ...], output: str | None = None
    ) -> _Activation:
        found = _quantisation(scales.y_scale, scales.y_zero, f"{self.where}: {name}")
        return _Activation(output or f"{name}.out", shape, *found)

    def _check(self, name: str, scales: _Scales, x: _Activation) -> None:
        """Raise `InputError` where an operator takes what it reads for something else."""
        where = f"{self.where}: {name}"
        scale, zero = _quantisation(scales.x_scale, scales.x_zero, where)
        if zero != x.zero or not math.isclose(scale, x.scale, rel_tol=_ALIKE):
            raise InputError(f"{where}: reads {x.name} with another scale than it is made with")


def _exact(array: Array, dtype: type, where: str) -> Array:
    """Return an array as another type; `InputError` where that would change a number."""
    found: Array = array.astype(dtype)
    if not np.array_equal(found, array):
        raise InputError(f"{where}: has numbers that are no {np.dtype(dtype)}")
    return found


def _quantisation(scale: Array, zero: Array, where: str) -> tuple[float, int]:
    if scale.size != 1 or zero.size != 1:
        raise InputError(f"{where}: is {max(scale.size, zero.size)} numbers, not one")
    return float(scale.item()), int(zero.item())
