"""Convolutions in groups against PyTorch and TensorFlow Lite, and what of them can learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tflm
from helpers import Unit, assert_same, call, linked, network, step_feeds
from tflm import Operator, Tensor, constant

from kilograd.errors import InputError
from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    Builder,
    DType,
    Graph,
    Node,
    TensorType,
    interpret,
)
from kilograd.ops import Depthwise, GroupedConv, GroupedWeightGrad, RowUpdate, Sgd, Take, Window
from kilograd.passes import LinearHead, Training, entries
from kilograd.quant import Rounding
from kilograd.select import Evidence, Selection, parts_of
from kilograd.select.cost import layers, tinytrain
from kilograd.select.selection import filters, weight, widest_inputs

WAYS = 3


def quantised(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    return rng.integers(-127, 128, shape).astype(np.int8)


# ---- numbers ----


@pytest.mark.parametrize(("c", "out", "groups"), [(6, 9, 3), (8, 8, 2), (4, 12, 4)])
def test_gradients_are_those_of_torch(c: int, out: int, groups: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(groups)
    x, w = quantised((7, 6, c), rng), quantised((out, 3, 3, c // groups), rng)
    b = Builder()
    scales = tuple(float(s) for s in rng.uniform(0.001, 0.004, out))
    window = Window((2, 1), (1, 0, 1, 1))
    xs = b.input("x", TensorType(x.shape, DType.I8, Affine((0.02,), -3)))
    ws = b.param("w", w, Affine(scales, axis=0))
    bias = b.param("b", np.zeros(out, np.int32), Affine(scales, axis=0, unit=0.02))
    y = b(GroupedConv(window, Affine((0.5,), 4), groups), xs, ws, bias)  # clamps nothing
    dy = b.input("dy", TensorType(y.type.shape, DType.I16, BlockExponent(13)))
    grads = y.op.vjp(b, y, dy)
    codes = rng.integers(-8000, 8000, y.type.shape).astype(np.int16)
    graph = b.graph(*(g for g in grads if g))
    found = interpret(graph, {"x": x, "dy": Block(codes, -20)})

    def tensor(values: Array) -> Any:
        return torch.tensor(values).requires_grad_()

    real = tensor(((x + 3.0) * 0.02).transpose(2, 0, 1)[None])
    weights = tensor((w * np.array(scales)[:, None, None, None]).transpose(0, 3, 1, 2))
    zeros = tensor(np.zeros(out))
    padded = torch.nn.functional.pad(real, (1, 1, 1, 0))
    out_real = torch.nn.functional.conv2d(padded, weights, zeros, (2, 1), groups=groups)
    given = torch.tensor(codes.transpose(2, 0, 1)[None] * 2.0**-20)
    want = torch.autograd.grad(out_real, [real, weights, zeros], given)
    for node, exact, order in zip(grads, want, [(1, 2, 0), (0, 2, 3, 1), (0,)], strict=True):
        assert node is not None
        value = found[node.name]
        assert isinstance(value, Block)
        right = exact.numpy()
        right = (right[0] if right.shape[0] == 1 else right).transpose(order)
        got = value.real() * node.type.block.scale
        np.testing.assert_allclose(got, right, atol=2.0**-12 * np.abs(right).max())


def tflite(kind: str, x: Array, w: Array, bias: Array, options: Any, y: Node) -> Array:
    """Return what TFLite makes of a layer; `w` in the layout of the file."""
    quant = y.inputs[0].type.affine
    scales = y.inputs[1].type.affine.scale
    given = Tensor((1, *x.shape), quant.scale, quant.zero_point)
    filters_ = constant(w, *scales, axis=3 if kind == "DEPTHWISE_CONV_2D" else 0)
    sums = constant(bias, *(float(np.float32(quant.scale[0] * s)) for s in scales))
    made = Tensor((1, *y.type.shape), y.type.affine.scale, y.type.affine.zero_point)
    data = tflm.build([Operator(kind, [given, filters_, sums], [made], options)], [given], [made])
    if kind == "CONV_2D":  # TFLM has no groups
        return next(iter(tflm.litert(data, [x[None]])))[3][0]
    return tflm.tflm(data, [x[None]])[0][0][0]


def layer(groups: int, out: int, rng: np.random.Generator) -> tuple[Node, dict[str, Array]]:
    """Return a convolution in groups of eight channels, and its numbers."""
    b, scales = Builder(), rng.uniform(0.001, 0.004, out).astype(np.float32).tolist()
    w = quantised((out, 3, 3, 8 // groups), rng)
    codes = {"w": w, "b": rng.integers(-999, 999, out).astype(np.int32)}
    x = b.input("x", TensorType((6, 7, 8), DType.I8, Affine((float(np.float32(0.02)),), -3)))
    ws = b.param("w", codes["w"], Affine(tuple(scales), axis=0))
    bias = b.param("b", codes["b"], Affine(tuple(scales), axis=0, unit=x.type.affine.scale[0]))
    quant = Affine((float(np.float32(0.031)),), 4)
    op = GroupedConv(Window(), quant, groups, rounding=Rounding.TFLITE)
    return b(op, x, ws, bias), codes


@pytest.mark.parametrize("multiplier", [2, 3])
def test_several_filters_a_channel_are_those_of_tflm(multiplier: int) -> None:
    rng = np.random.default_rng(multiplier)
    y, codes = layer(8, 8 * multiplier, rng)
    options = tflm.schema().DepthwiseConv2DOptionsT()
    options.strideH = options.strideW = 1
    options.padding, options.depthMultiplier = tflm.schema().Padding.VALID, multiplier
    w = codes["w"][..., 0].transpose(1, 2, 0)[None]
    for _ in range(3):
        x = quantised((6, 7, 8), rng)
        found = tflite("DEPTHWISE_CONV_2D", x, np.ascontiguousarray(w), codes["b"], options, y)
        np.testing.assert_array_equal(y.op.reference(y, x, codes["w"], codes["b"]), found)
        copies = np.repeat(x, multiplier, axis=2)
        b = Builder()
        xs = b.input("x", TensorType(copies.shape, DType.I8, y.inputs[0].type.quant))
        quant = Affine(y.inputs[1].type.affine.scale, axis=2)
        ws = b.param("w", w[0], quant)
        bias = b.param("b", codes["b"], y.inputs[2].type.affine)
        each = b(Depthwise(Window(), y.type.affine, rounding=Rounding.TFLITE), xs, ws, bias)
        np.testing.assert_array_equal(each.op.reference(each, copies, w[0], codes["b"]), found)


@pytest.mark.parametrize(("groups", "out"), [(2, 6), (4, 4)])
def test_groups_are_those_of_litert(groups: int, out: int) -> None:
    rng = np.random.default_rng(groups)
    y, codes = layer(groups, out, rng)
    options = tflm.schema().Conv2DOptionsT()
    options.strideH = options.strideW = 1
    options.padding = tflm.schema().Padding.VALID
    x = quantised((6, 7, 8), rng)
    found = tflite("CONV_2D", x, codes["w"], codes["b"], options, y)
    np.testing.assert_array_equal(y.op.reference(y, x, codes["w"], codes["b"]), found)


# ---- what can learn ----


def evidence() -> Evidence:
    """A network with a convolution in two groups of three channels each, six filters a group."""
    net = network(1, (Unit(3, 5, groups=2),))
    names = tuple(n.name for n in net.nodes if hasattr(n.op, "parts"))
    return Evidence("grouped", net, names)


def test_parts_are_chosen_by_output_channel() -> None:
    found = evidence()
    assert found.axes("b0.gc") == (0,)
    assert (found.channels("b0.gc"), found.inputs("b0.gc")) == (12, 12)
    assert not found.depthwise("b0.gc")
    assert widest_inputs(found, "b0.gc", 3).axis == 0
    assert filters(found, "b0.gc", [4, 1]).index == (1, 4)


def test_a_part_of_input_channels_is_refused() -> None:
    learn = {"b0.gc.weight": {"axis": 3, "index": [0]}}
    with pytest.raises(InputError, match=r"plan: b0.gc.weight: axis 3: must be 0 \(output chan"):
        parts_of(learn, evidence(), "plan")


def test_formulas_count_the_weights_of_a_group() -> None:
    found = evidence()
    (grouped,) = (x for x in layers(found) if x.name == "b0.gc")
    assert grouped.weights == found.graph.data["b0.gc.weight"].size
    assert grouped.macs == found.macs("b0.gc")
    part = filters(found, "b0.gc", [0, 5])
    cost = tinytrain(layers(found), Selection({weight("b0.gc"): part}))
    assert cost.memory.weights == 4 * 2 * found.graph.data["b0.gc.weight"][0].size


def learning(chosen: tuple[int, ...]) -> tuple[dict[str, Graph], Node]:
    """Return a program in which some filters learn, and the update of them."""
    found = evidence()
    learn = {"b0.gc.weight": filters(found, "b0.gc", chosen)}
    graphs = entries(found.graph, Training(LinearHead(WAYS), Sgd(0), learn))
    (update,) = (n for n in graphs["step"].nodes if n.name == "b0.gc.weight.learned.step")
    return graphs, update


def test_chosen_filters_learn_in_c() -> None:
    """Filters of either group: only their rows are computed, and the others stay."""
    graphs, update = learning((0, 4, 7, 11))
    step = graphs["step"]
    assert update.inputs[0].type.shape == (4, 3, 3, 3)
    host, rng = linked(graphs), np.random.default_rng(0)
    state = {s.name: s.value for s in host.program.state}
    state["head.weight"] = rng.normal(size=(WAYS, 5)).astype(np.float32)
    first = state[update.inputs[0].name]
    for t in range(4):
        feeds = {**step_feeds(rng, step, WAYS, t, 0.5), **state}
        want = interpret(step, feeds)
        assert_same(call(host, "step", feeds), want)
        state.update({k: np.asarray(v) for k, v in want.items() if k in state})
    assert (state[update.inputs[0].name] != first).any(axis=(1, 2, 3)).sum() > 1


def test_a_cut_gradient_reads_the_channels_of_each_filter() -> None:
    _, update = learning((2, 8))
    assert isinstance(update.op, RowUpdate)
    assert isinstance(update.op.grad, GroupedWeightGrad)
    assert update.op.grad.reads == (0, 3)
    assert isinstance(update.inputs[2].op, Take)
