"""ONNX files: the bytes damaged, or the fields of a whole one changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from onnx_files import model, node, onnx

from fuzz.case import Case, Target
from fuzz.layers import check_layers
from fuzz.mutate import TEXTS, flipped
from kilograd.frontend.onnx import read_onnx

_NUMBERS = (-(1 << 63), -(1 << 31), -2, -1, 0, 1, 2, 3, 5, 255, 1 << 16, 1 << 31, (1 << 63) - 1)
_REALS = (float("nan"), float("inf"), -1.0, 0.0, 1e-46, 0.5, 1.0, 1e38)


def _float_net() -> Any:
    constants = {
        "w": np.ones((4, 3, 3, 3), np.float32),
        "v": np.ones((4, 1, 3, 3), np.float32),
        "s": np.ones(4, np.float32),
        "k": np.ones((4, 1, 1), np.float32),
        "m": np.ones((36, 2), np.float32),
        "two": np.float32(2),
        "shape": np.array([1, -1]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 0, 0]),
        "up": np.array([1, 1, 2, 2], np.float32),
        "lo": np.array([0]),
        "hi": np.array([6]),
        "ax": np.array([2]),
        "ix": np.array([1, 0]),
    }
    nodes = [
        node("Pad", "x pads", "a"),
        node("Conv", "a w", "b", strides=[2, 2]),
        node("BatchNormalization", "b s s s s", "c", epsilon=0.1),
        node("Conv", "c v", "d", group=4, pads=[1] * 4),
        node("Sigmoid", "d", "e"),
        node("Mul", "d e", "f"),
        node("Add", "f c", "g"),
        node("Split", "g", "h1 h2", axis=1, num_outputs=2),
        node("Concat", "h2 h1", "i", axis=1),
        node("Resize", "i - up", "j", mode="nearest"),
        node("MaxPool", "j", "l", kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", "l", "n", kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]),
        node("Mul", "n k", "o"),
        node("Clip", "o - two", "p"),
        node("Slice", "p lo hi ax", "q"),
        node("Gather", "q ix", "r", axis=3),
        node("Transpose", "q", "t", perm=[0, 1, 3, 2]),
        node("Shape", "t", "sh"),
        node("GlobalAveragePool", "r", "u"),
        node("Add", "t u", "z"),
        node("Reshape", "z shape", "aa"),
        node("ReduceMean", "z ax", "bb", keepdims=0),
        node("Gemm", "aa m", "y"),
    ]
    return model(nodes, ("batch", 3, 6, 6), constants, outputs="y bb")


def _int8_net() -> Any:
    constants = {
        "w": np.ones((4, 3, 1, 1), np.int8),
        "ws": np.ones(4, np.float32),
        "b": np.ones(4, np.int32),
        "bs": np.full(4, 0.5, np.float32),
        "wz": np.zeros(4, np.int8),
        "s": np.float32(0.5),
        "z": np.uint8(128),
        "fw": np.ones((2, 4), np.float32),
    }
    nodes = [
        node("DequantizeLinear", "w ws wz", "wd", axis=0),
        node("DequantizeLinear", "b bs", "bd", axis=0),
        node("QuantizeLinear", "fw s wf0", "fq"),
        node("DequantizeLinear", "fq s wf0", "fd"),
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("Conv", "d wd bd", "c"),
        node("Relu", "c", "r"),
        node("QuantizeLinear", "r s z", "q2"),
        node("DequantizeLinear", "q2 s z", "d2"),
        node("Concat", "d2 d", "cc", axis=1),
        node("QuantizeLinear", "cc bs0 z", "q3"),
        node("DequantizeLinear", "q3 bs0 z", "d3"),
        node("GlobalAveragePool", "d2", "g"),
        node("QuantizeLinear", "g s z", "q4"),
        node("DequantizeLinear", "q4 s z", "d4"),
        node("Flatten", "d4", "f"),
        node("Gemm", "f fd", "y", transB=1),
    ]
    constants |= {"wf0": np.int8(0), "bs0": np.float32(0.7)}
    return model(nodes, (1, 3, 4, 4), constants, outputs="y d3")


class Onnx(Target):
    """Networks in ONNX: what is accepted has layers whose shapes fit, and names of its own."""

    sample = 400

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.seeds = [_float_net().SerializeToString(), _int8_net().SerializeToString()]

    def make(self, rng: Random) -> Case:
        data = rng.choice(self.seeds)
        if rng.random() < 0.3:
            return {"net.onnx": flipped(rng, data)}
        made = onnx.ModelProto.FromString(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            rng.choice(_CHANGES)(rng, made)
        return {"net.onnx": made.SerializeToString(), "beside": bytes(64)}

    def check(self, folder: Path, *, deep: bool) -> None:
        check_layers(read_onnx(folder / "net.onnx"))


def _node(rng: Random, made: Any) -> None:
    """Change which operator a node is, or what it reads or makes."""
    nodes = made.graph.node
    one, other = rng.choice(nodes), rng.choice(nodes)
    match rng.randrange(6):
        case 0:
            one.op_type = rng.choice((other.op_type, "If", "LSTM", "", rng.choice(TEXTS[:9])))
        case 1 if one.input and other.output:
            one.input[rng.randrange(len(one.input))] = rng.choice((other.output[0], "", "nowhere"))
        case 2 if one.input and other.input:
            one.input[rng.randrange(len(one.input))] = rng.choice(other.input)
        case 3 if one.output:
            one.output[0] = rng.choice((other.output[0], "", "another"))
        case 4:
            one.domain = rng.choice(("", "com.microsoft", "ai.onnx", "my.own"))
        case _:
            one.name = rng.choice([t for t in TEXTS if t.isascii()] or [""])


def _attribute(rng: Random, made: Any) -> None:
    """Change an attribute of a node, or give it one of another."""
    given = [a for n in made.graph.node for a in n.attribute]
    one = rng.choice(given)
    match rng.randrange(4):
        case 0 if one.ints:
            one.ints[rng.randrange(len(one.ints))] = rng.choice(_NUMBERS)
        case 1:
            one.i, one.f = rng.choice(_NUMBERS), rng.choice(_REALS)
        case 2:
            one.type = rng.randrange(15)
        case _:
            rng.choice(made.graph.node).attribute.append(one)


def _tensor(rng: Random, made: Any) -> None:
    """Change a constant: its shape, type, numbers, or where they lie."""
    one = rng.choice(made.graph.initializer)
    match rng.randrange(6):
        case 0 if one.dims:
            one.dims[rng.randrange(len(one.dims))] = rng.choice(_NUMBERS)
        case 1:
            one.data_type = rng.randrange(25)
        case 2:
            raw = bytearray(one.raw_data)
            for _ in range(4):
                raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF))
            one.raw_data = bytes(raw)
        case 3:
            one.dims.append(rng.choice((1, 1, 0, 2)))
        case 4:
            one.data_location = 1
            where = rng.choice(("beside", "../beside", "/etc/passwd", "net.onnx", "", "a\0"))
            one.external_data.add(key="location", value=where)
            one.external_data.add(key="offset", value=str(rng.choice(_NUMBERS)))
        case _:
            one.name = rng.choice(made.graph.initializer).name


def _given(rng: Random, made: Any) -> None:
    """Change the inputs, the outputs or the versions."""
    one = rng.choice((*made.graph.input, *made.graph.output))
    dims = one.type.tensor_type.shape.dim
    match rng.randrange(5):
        case 0 if dims:
            rng.choice(dims).dim_value = rng.choice(_NUMBERS)
        case 1 if dims:
            rng.choice(dims).dim_param = "n"
        case 2:
            one.type.tensor_type.elem_type = rng.randrange(20)
        case 3:
            one.name = rng.choice((rng.choice(made.graph.node).input[0], "", "a b"))
        case _:
            made.opset_import[0].version = rng.choice((*_NUMBERS, *range(7, 29)))


_CHANGES: Sequence[Callable[[Random, Any], None]] = (
    *(_node,) * 3,
    *(_attribute,) * 3,
    *(_tensor,) * 3,
    _given,
)
