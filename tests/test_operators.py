"""Operators of a model folder: every network that is written comes back the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kilograd.frontend import Arrays, Model, Preprocess, load_model_folder, save_model
from kilograd.ir import Affine, Builder, DType, Graph, Node, Role, TensorType
from kilograd.ops import (
    Add,
    AvgPool,
    Concat,
    Conv,
    GroupedConv,
    MaxPool,
    Mean,
    MeanPool,
    PadMap,
    Product,
    Rescale,
    Reshape,
    Table,
    Take,
    Upsample,
    Window,
)
from kilograd.quant import Rounding

UNIT = Affine((1 / 128,))


def start(h: int = 8, w: int = 6, c: int = 1) -> tuple[Builder, Node]:
    """Return a network to be gone on with, and its input."""
    b = Builder()
    return b, b.input("image", TensorType((h, w, c), DType.I8, UNIT))


def stem(b: Builder, x: Node, op: Conv) -> Node:
    """Append a convolution to 4 channels, whose weights are all 1."""
    w = b.param(
        "conv.weight",
        np.ones((4, 1, 1, x.type.shape[2]), np.int8),
        Affine((1 / 64,) * 4, axis=0),
        role=Role.WEIGHT,
    )
    unit = x.type.affine.scale[0]
    quant = Affine((1 / 64,) * 4, axis=0, unit=unit)
    return b(op, x, w, b.param("conv.bias", np.zeros(4, np.int32), quant, role=Role.BIAS))


def come_back(graph: Graph, layers: tuple[str, ...], folder: Path) -> Graph:
    """Write a network; return what is read."""
    h, w, c = graph.inputs()[0].type.shape
    samples = Preprocess(h, w, c, Arrays(UNIT))
    model = Model("some", "Some", graph, layers, samples, folder)
    save_model(model, folder)
    again = load_model_folder(folder)
    assert again.fingerprint == model.fingerprint
    assert again.layers == layers
    return again.graph


def test_limits_rounding_and_two_strides(tmp_path: Path) -> None:
    b, x = start()
    op = Conv(Window((2, 1)), Affine((0.05,), -10), limits=(-10, 90), rounding=Rounding.TFLITE)
    y = stem(b, x, op)
    total = Add(Affine((0.1,)), limits=(0, 127), rounding=Rounding.TFLITE)
    pool = b(AvgPool(), b(total, y, y, name="sum"), name="pool")
    again = come_back(b.graph(pool, pool), ("conv",), tmp_path)
    assert again["conv"].op == op
    assert again["sum"].op == total


def test_pools_and_means(tmp_path: Path) -> None:
    b, x = start(h=9, w=8, c=3)
    window = Window((2, 1), (1, 0, 0, 1))
    x = b(MaxPool((3, 2), window), x, name="largest")
    mean = MeanPool((2, 2), window, UNIT, limits=(0, 90), rounding=Rounding.TFLITE)
    x = b(mean, x, name="window")
    x = b(Mean(Affine((0.03,)), Rounding.TFLITE, (0,)), x, name="column")
    x = b(AvgPool(Rounding.TFLITE), x, name="pool")
    graph = b.graph(x, x)
    again = come_back(graph, (), tmp_path)
    assert [n.op for n in again.nodes] == [n.op for n in graph.nodes]


def test_what_is_between_layers(tmp_path: Path) -> None:
    b, x = start(h=4, w=4, c=2)
    x = b(Rescale(Affine((0.02,), 7), limits=(-7, 100)), x, name="clip")
    small = b(AvgPool(), x, name="small")
    x = b(Product(Affine((0.03,)), limits=(-100, 127)), x, small, name="gate")
    constant = b.param("offset", np.arange(32, dtype=np.int8).reshape(4, 4, 2), Affine((0.1,), 3))
    x = b(Add(Affine((0.04,))), x, constant, name="plus")
    x = b(Table(tuple(range(-128, 128)), (0.25,) * 256, Affine((0.5,), 1)), x, name="table")
    x = b(Concat(0), x, x, x, name="joined")
    x = b(Take(2, (1, 0)), x, name="shuffled")
    x = b(PadMap(((1, 0), (0, 0), (0, 3))), x, name="padded")
    x = b(Upsample((2, 1)), x, name="larger")
    x = b(Reshape((1, 1, x.type.size)), x, name="flat")
    graph = b.graph(x, x, small)
    again = come_back(graph, (), tmp_path)
    assert [n.op for n in again.nodes] == [n.op for n in graph.nodes]
    assert (again.data["offset"] == graph.data["offset"]).all()


def test_layers_are_those_behind_the_features(tmp_path: Path) -> None:
    b, x = start()
    y = stem(b, x, Conv(Window(), Affine((0.05,))))
    pool = b(AvgPool(), y, name="pool")
    w = b.param(
        "box.weight",
        np.ones((2, 3, 3, 4), np.int8),
        Affine((1 / 64,) * 2, axis=0),
        role=Role.WEIGHT,
    )
    quant = Affine((1 / 64,) * 2, axis=0, unit=0.05)
    c = b.param("box.bias", np.zeros(2, np.int32), quant, role=Role.BIAS)
    boxes = b(Conv(Window(), Affine((0.2,))), y, w, c, name="box")
    again = come_back(b.graph(pool, boxes), ("conv",), tmp_path)
    assert again["box"].type.shape == (6, 4, 2)


def test_groups(tmp_path: Path) -> None:
    b, x = start(c=4)
    scales = (1 / 64,) * 6
    w = b.param(
        "g.weight", np.ones((6, 3, 3, 2), np.int8), Affine(scales, axis=0), role=Role.WEIGHT
    )
    quant = Affine(scales, axis=0, unit=1 / 128)
    c = b.param("g.bias", np.zeros(6, np.int32), quant, role=Role.BIAS)
    op = GroupedConv(Window.same(3, 2), Affine((0.05,)), 2)
    pool = b(AvgPool(), b(op, x, w, c, name="g"), name="pool")
    assert come_back(b.graph(pool, pool), ("g",), tmp_path)["g"].op == op
