"""Layers with codes become graphs that compute the same codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from layer_networks import RELU, Sketch

from kilograd.ir import Affine, Array, Builder, DType, TensorType, interpret
from kilograd.layers.evaluate import Arithmetic, codes, evaluate
from kilograd.layers.lower import NoGraphError, limits_of, lower
from kilograd.layers.network import (
    Constant,
    CurveKind,
    Layout,
    Network,
    Pool,
    PoolKind,
    Product,
    Sum,
    Tensor,
)
from kilograd.layers.quantise import coded as quantise_coded
from kilograd.layers.quantise import quantise
from kilograd.layers.simplify import simplify
from kilograd.ops import Add, AvgPool, Conv, Depthwise, GroupedConv, Mean, Table, Take
from kilograd.ops._common import array
from kilograd.quant import Rounding

LAST = Layout.CHANNELS_LAST


def gated(seed: int = 0) -> Network:
    """A residual block, a squeeze-and-excite, pools, a concatenation and a classifier."""
    s = Sketch(LAST, seed)
    x = s.conv(s.input(10, 12, 3), 8, stride=2, clamp=(0, 6), name="stem")
    y = s.conv(s.conv(x, 8, groups=8, clamp=RELU), 8, 1, name="project")
    x = s.relu(s.plus(x, y))
    gate = s.mean(x, 0, 1, keep=True)
    gate = s.conv(s.conv(gate, 4, 1, clamp=RELU), 8, 1)
    x = s.times(x, s.curve(CurveKind.SIGMOID, gate))
    x = s.concat(2, s.pool(PoolKind.MAX, x, 3, 2), s.pool(PoolKind.MEAN, x, 3, 2))
    return s.network(s.dense(s.mean(x, 0, 1), 5, name="head"))


def grouped(seed: int = 0) -> Network:
    """Several filters a channel, groups of channels, and a mean that counts its padding."""
    s = Sketch(LAST, seed)
    x = s.conv(s.input(9, 8, 4), 12, groups=4, clamp=RELU, name="several")
    x = s.conv(x, 8, stride=2, groups=2, clamp=RELU, name="groups")
    padded = Pool(PoolKind.MEAN, (3, 3), (2, 2), (1, 1, 1, 1), count_pad=True)
    x = s.add(padded, x, shape=(3, 2, 8))
    return s.network(s.dense(s.mean(x, 0, 1), 5, name="head"))


def samples(network: Network, count: int = 24, seed: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {v.name: rng.normal(size=(count, *v.shape)).astype(np.float32) for v in network.inputs}


@pytest.mark.parametrize("network", [gated, grouped])
def test_a_graph_computes_what_its_layers_say(network: Callable[[], Network]) -> None:
    plain = simplify(network())
    x = samples(plain)
    made = quantise(plain, x).network
    graph = lower(made).graph
    (image,), (out,) = made.inputs, made.outputs
    expected = evaluate(made, x, [out], Arithmetic.CODES)[out]
    assert image.quant is not None
    assert out.quant is not None
    inputs = codes(x[image.name], image.quant)
    name = graph.outputs[1].name
    found = np.stack([np.ravel(array(interpret(graph, {"image": one})[name])) for one in inputs])
    # A code more or less in the middle is a few at the end.
    assert np.abs(found - codes(expected, out.quant).astype(int)).mean() < 1
    assert (found == codes(expected, out.quant)).mean() > 0.6


def test_several_filters_a_channel_are_a_depthwise_convolution_of_copies() -> None:
    """Which takes a third of the instructions, or less, and learns by channel as others do."""
    network = simplify(grouped())
    graph = lower(quantise(network, samples(network)).network).graph
    assert isinstance(graph["several"].op, Depthwise)
    assert graph["several"].inputs[0].op == Take(2, (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3))
    assert isinstance(graph["groups"].op, GroupedConv)


def test_features_are_what_the_last_layer_reads() -> None:
    lowered = lower(quantise(simplify(gated()), samples(simplify(gated()))).network)
    features, logits = lowered.graph.outputs
    assert features.type.shape == (1, 1, 16)
    assert logits.inputs[0] is features
    assert isinstance(features.op, AvgPool | Mean)
    assert lowered.layers[0] == "stem"
    assert "head" not in lowered.layers
    weights = [n for n in lowered.graph.nodes if isinstance(n.op, Conv | Depthwise)]
    assert len(lowered.layers) == len(weights) - 1


def test_all_that_no_op_computes_is_listed() -> None:
    s = Sketch(LAST)
    x = s.conv(s.input(8, 8, 2), 4)
    mean = s.mean(x, 0, 1, keep=True)
    network = simplify(s.network(s.conv(s.softmax(s.plus(x, mean)), 4), s.softmax(s.relu(mean))))
    made = quantise(network, samples(network)).network
    with pytest.raises(NoGraphError) as e:
        lower(made)
    assert len(e.value.reasons) == 1
    assert "differ in shape" in e.value.reasons[0]


def test_more_than_a_model_folder_can_say_is_refused() -> None:
    s = Sketch(LAST)
    joined = s.concat(2, *[s.input(2, 2, 3)] * 257)
    with pytest.raises(NoGraphError, match="joins 257 maps; 256 are the most"):
        lower(coded(s.network(joined)))
    s = Sketch(LAST)
    x = s.input(2, 2, 3)
    with pytest.raises(NoGraphError, match="257 outputs; 256 are the most"):
        lower(coded(s.network(*(s.slice(x, 2, 0, 1) for _ in range(257)))))
    s = Sketch(LAST)
    y = s.input(2, 2, 3)
    for _ in range(4097):
        y = s.relu(y, (-0.5, 0.5))
    with pytest.raises(NoGraphError, match=r"operators; 4,096 are the most"):
        lower(coded(s.network(y)))


def test_a_value_without_codes_among_others_is_refused() -> None:
    plain = simplify(gated())
    network = quantise(plain, samples(plain)).network
    layer = network.layers[3]
    bare = replace(layer, output=replace(layer.output, quant=None))
    broken = replace(network, layers=(*network.layers[:3], bare, *network.layers[4:]))
    with pytest.raises(NoGraphError, match="it is in float, and others have codes"):
        lower(broken)


def coded(network: Network) -> Network:
    return quantise_coded(network, dict.fromkeys(network.values(), (-1.0, 1.0)))


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("op", [Sum((0, 6)), Product()])
def test_a_single_number_is_in_a_table(op: Sum | Product, rounding: Rounding) -> None:
    """As TFLite files spell hard-swish; a map of constants gives the same sums."""
    before, after = Affine((0.05,), 3), Affine((6 / 255,), -128)
    three = Affine((3 / 127,), 0)
    s = Sketch(LAST)
    x = s.input(4, 5, 6, quant=before)
    number = s.add(Constant(Tensor(np.array([127], np.int8), three)), shape=(1,), quant=three)
    y = s.add(op, x, number, shape=x.shape, quant=after)
    network = replace(s.network(y), rounding=rounding)
    graph = lower(network).graph
    table = graph[s.layers[-1].name]
    assert isinstance(table.op, Table)
    codes_in = np.random.default_rng(0).integers(-128, 128, x.shape).astype(np.int8)
    got = array(interpret(graph, {"image": codes_in})[table.name])
    reals = (codes_in.astype(float) - 3) * 0.05
    right = np.clip(reals + 3, 0, 6) if isinstance(op, Sum) else reals * 3
    assert np.abs(got - np.clip(np.rint(right / after.scale[0]) - 128, -128, 127)).max() <= 1
    steep = [s for c, s in zip(table.op.codes, table.op.slopes, strict=True) if -128 < c < 127]
    assert np.allclose(steep, 1 if isinstance(op, Sum) else 3)
    if isinstance(op, Sum):
        b = Builder()
        a = b.input("a", TensorType(x.shape, DType.I8, before))
        c = b.param("c", np.full(x.shape, 127, np.int8), three)
        whole = b(
            Add(after, limits=limits_of(op.clamp, after), rounding=rounding), a, c, name="sum"
        )
        same = array(interpret(b.graph(whole), {"a": codes_in})["sum"])
        np.testing.assert_array_equal(got, same)
