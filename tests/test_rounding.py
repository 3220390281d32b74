"""Limits and TFLite's rounding, against TensorFlow Lite Micro itself; and what both leave as is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tflm
from helpers import SMALL_UNITS, network

from kilograd.ir import (
    Affine,
    Builder,
    DType,
    Node,
    ShapeError,
    TensorType,
    fingerprint,
    interpret,
)
from kilograd.ir.fingerprint import architecture
from kilograd.ops import Add, ClipMask, Conv, Depthwise, Window
from kilograd.quant import Rounding

#: Of the file, and what it clamps reals to.
ACTIVATIONS = {"NONE": (-math.inf, math.inf), "RELU": (0.0, math.inf), "RELU6": (0.0, 6.0)}


def activation_range(name: str, out: Affine) -> tuple[int, int]:
    """Return the codes that an activation of the file clamps to."""
    scale, zero = np.float32(out.scale[0]), out.zero_point
    low, high = (
        limit if math.isinf(limit) else zero + round(float(np.float32(limit) / scale))
        for limit in ACTIVATIONS[name]
    )
    return int(max(-128, low)), int(min(127, high))


def float32(*numbers: float) -> tuple[float, ...]:
    """Return numbers as a file holds them."""
    return tuple(float(np.float32(x)) for x in numbers)


class Layer:
    """A layer of random weights: as a graph, and as a file."""

    def __init__(self, kind: str, activation: str, steep: float, stride: tuple[int, int]) -> None:
        rng = np.random.default_rng(len(kind) + int(1000 * steep))
        self.kind, self.activation, self.stride = kind, activation, stride
        self.shape = (1, 1, 24) if kind == "FULLY_CONNECTED" else (9, 12, 5)
        out, (_, _, channels) = 40, self.shape
        filters = {
            "CONV_2D": (out, 3, 2, channels),
            "FULLY_CONNECTED": (out, 1, 1, channels),
            "DEPTHWISE_CONV_2D": (3, 2, channels),
        }[kind]
        self.axis = 2 if kind == "DEPTHWISE_CONV_2D" else 0
        self.w = rng.integers(-127, 128, filters).astype(np.int8)
        channels = filters[self.axis]
        self.b = rng.integers(-3000, 3001, channels).astype(np.int32)
        scales = 0.01 * 2.0 ** rng.uniform(-4, 0, channels)
        if kind == "FULLY_CONNECTED":
            scales[:] = scales.max()
        if kind == "CONV_2D":  # a dead channel: TFLite's multiplier of 2^-33 is 0
            self.w[0], self.b[0], scales[0] = 0, 7, 2.0**-36
        self.scales = float32(*scales)
        self.x = Affine(float32(0.0471), -11)
        self.y = Affine(float32(0.0471 * 0.01 * 40 / steep * math.sqrt(self.w.size / channels)), 23)

    def graph(self) -> Node:
        op = Depthwise if self.axis == 2 else Conv
        b = Builder()
        weight = b.param("w", self.w, Affine(self.scales, axis=self.axis))
        bias = b.param("b", self.b, Affine(self.scales, axis=0, unit=self.x.scale[0]))
        x = b.input("x", TensorType(self.shape, DType.I8, self.x))
        layer = op(
            Window(self.stride),
            self.y,
            limits=activation_range(self.activation, self.y),
            rounding=Rounding.TFLITE,
        )
        y = b(layer, x, weight, bias, name="y")
        self.data = b.graph(y)
        return y

    def file(self, y: tuple[int, ...]) -> bytes:
        """Return the file of the same layer; its result has the shape `y`."""
        s = tflm.schema()
        flat = self.kind == "FULLY_CONNECTED"
        w = self.w[:, 0, 0] if flat else self.w[None] if self.axis else self.w
        x = tflm.Tensor((1, 24) if flat else (1, *self.shape), self.x.scale, self.x.zero_point)
        out = tflm.Tensor((1, y[-1]) if flat else (1, *y), self.y.scale, self.y.zero_point)
        scales = self.scales[:1] if flat else self.scales
        products = float32(*(self.x.scale[0] * scale for scale in scales))
        options = {
            "CONV_2D": s.Conv2DOptionsT,
            "DEPTHWISE_CONV_2D": s.DepthwiseConv2DOptionsT,
            "FULLY_CONNECTED": s.FullyConnectedOptionsT,
        }[self.kind]()
        options.fusedActivationFunction = getattr(s.ActivationFunctionType, self.activation)
        if not flat:
            options.padding = s.Padding.VALID
            options.strideH, options.strideW = self.stride
        if self.axis:
            options.depthMultiplier = 1
        weight = tflm.constant(w, *scales, axis=3 if self.axis else 0)
        bias = tflm.constant(self.b, *products)
        op = tflm.Operator(self.kind, [x, weight, bias], [out], options)
        return tflm.build([op], [x], [out])


LAYERS = [
    ("CONV_2D", "NONE", 0.5, (1, 1)),
    ("CONV_2D", "RELU6", 2.0, (2, 1)),
    ("CONV_2D", "RELU", 300.0, (1, 3)),  # scales above 1: shifted to the left first
    ("DEPTHWISE_CONV_2D", "RELU6", 1.0, (1, 1)),
    ("DEPTHWISE_CONV_2D", "NONE", 0.3, (2, 2)),
    ("DEPTHWISE_CONV_2D", "RELU", 200.0, (3, 3)),
    ("FULLY_CONNECTED", "NONE", 0.5, (1, 1)),
    ("FULLY_CONNECTED", "RELU", 150.0, (1, 1)),
]


@pytest.mark.parametrize(("kind", "activation", "steep", "stride"), LAYERS)
def test_layers_are_those_of_tflm_to_the_bit(
    kind: str, activation: str, steep: float, stride: tuple[int, int]
) -> None:
    layer = Layer(kind, activation, steep, stride)
    y = layer.graph()
    rng = np.random.default_rng(1)
    images = [rng.integers(-128, 128, layer.shape).astype(np.int8) for _ in range(20)]
    flat = kind == "FULLY_CONNECTED"
    feeds = [[x.reshape(1, -1) if flat else x[None]] for x in images]
    wanted = [out[0].reshape(y.type.shape) for out in tflm.tflm(layer.file(y.type.shape), *feeds)]
    got = [interpret(layer.data, {"x": x})["y"] for x in images]
    np.testing.assert_array_equal(np.stack(got), np.stack(wanted))  # type: ignore[arg-type]
    assert np.unique(np.stack(wanted)).size > (1 if steep > 100 else 20)


SUMS = [("NONE", 1.0), ("RELU6", 1.0), ("RELU", 30.0), ("NONE", 0.01)]


@pytest.mark.parametrize(("activation", "steep"), SUMS)
def test_sums_are_those_of_tflm_to_the_bit(activation: str, steep: float) -> None:
    s = tflm.schema()
    a, c = Affine(float32(0.0313), -128), Affine(float32(0.0717), 5)
    out = Affine(float32(0.1 / steep), -9)
    shape = (256, 256, 1)
    b = Builder()
    op = Add(out, limits=activation_range(activation, out), rounding=Rounding.TFLITE)
    maps = [b.input(name, TensorType(shape, DType.I8, q)) for name, q in (("a", a), ("c", c))]
    graph = b.graph(b(op, *maps, name="y"))
    every = np.arange(-128, 128, dtype=np.int8)
    values = {
        "a": np.broadcast_to(every[:, None, None], shape),
        "c": np.broadcast_to(every[None, :, None], shape),
    }
    tensors = [tflm.Tensor((1, *shape), q.scale, q.zero_point) for q in (a, c, out)]
    options = s.AddOptionsT()
    options.fusedActivationFunction = getattr(s.ActivationFunctionType, activation)
    file = tflm.build(
        [tflm.Operator("ADD", tensors[:2], tensors[2:], options)], tensors[:2], tensors[2:]
    )
    ((wanted,),) = tflm.tflm(file, [values[k][None].copy() for k in ("a", "c")])
    np.testing.assert_array_equal(interpret(graph, values)["y"], wanted[0])


def test_limits_are_a_range_of_codes() -> None:
    x = TensorType((1, 1, 2), DType.I8, Affine((1.0,)))
    for limits in ((5, 4), (-129, 0), (0, 128)):
        with pytest.raises(ShapeError, match="limits"):
            Add(Affine((1.0,)), limits=limits).infer(x, x)


def test_the_mask_lets_pass_what_is_strictly_between_the_limits() -> None:
    b = Builder()
    y = b.input("y", TensorType((4,), DType.I8, Affine((1.0,))))
    mask = b(ClipMask((-5, 90)), y)
    got = interpret(b.graph(mask), {"y": np.array([-5, -4, 89, 90], np.int8)})[mask.name]
    assert isinstance(got, np.ndarray)
    assert got.tolist() == [0b0110]


def test_the_usual_rounding_and_limits_leave_fingerprints_as_they_were() -> None:
    """The hashes are those of before ops had limits, rounding and two strides."""
    graph = network(3, SMALL_UNITS, 12)
    assert fingerprint(graph).startswith("6cc6dc380700963e")
    assert architecture(graph).startswith("38034bda55d0bfa0")


@pytest.mark.parametrize(
    "change", [{"limits": (-128, 90)}, {"rounding": Rounding.TFLITE}, {"window": Window((2, 1))}]
)
def test_other_rounding_limits_and_strides_are_another_network(change: dict[str, object]) -> None:
    conv = Conv(Window((2, 2)), Affine((1.0,)))
    assert repr(replace(conv, **change)) != repr(conv)  # type: ignore[arg-type]
