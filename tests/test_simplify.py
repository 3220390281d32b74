"""Plain networks compute what the networks of the files do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from layer_networks import (
    Sketch,
    as_taken,
    batches,
    in_file_order,
    kinds,
    outputs,
)

from kilograd.ir import Affine
from kilograd.layers.evaluate import Arithmetic, codes, evaluate
from kilograd.layers.network import (
    Clamp,
    Constant,
    Convolution,
    Curve,
    CurveKind,
    Dense,
    Gather,
    Layout,
    Mean,
    Network,
    Pool,
    PoolKind,
    Product,
    Sum,
    Taken,
    Tensor,
    Value,
)
from kilograd.layers.simplify import simplify
from kilograd.quant import Rounding

INF = math.inf
LAST = Layout.CHANNELS_LAST


def plain(network: Network) -> Network:
    """The network made plain, which computes the same."""
    made = simplify(network)
    assert made.layout is LAST
    names = [x.name for x in made.layers]
    assert len(set(names)) == len(names)
    given = {v for x in made.layers for v in x.inputs} | set(made.outputs)
    assert given <= set(made.values())
    inputs = batches(network)
    for got, right in zip(
        outputs(made, as_taken(made, inputs)), outputs(network, inputs), strict=True
    ):
        np.testing.assert_allclose(in_file_order(network, got, right), right, rtol=2e-5, atol=2e-5)
    return made


# ---- layout ----


def test_channels_come_last_without_a_transpose() -> None:
    s = Sketch()
    x = s.relu(s.conv(s.input(3, 12, 10), 8, stride=2, name="stem"))
    y = s.plus(s.conv(x, 8, groups=8), x)
    y = s.concat(0, s.pool(PoolKind.MAX, y, 2, 2), s.pool(PoolKind.MEAN, x, 2, 2))
    y = s.dense(s.reshape(y, 16 * 3 * 2), 5, name="head")
    made = plain(s.network(y))
    assert made.inputs == (Value("input 0", (12, 10, 3)),)
    assert made.taken == (Taken((3, 12, 10), (1, 2, 0)),)
    assert "Transpose" not in kinds(made)
    assert [x.name for x in made.layers if x.name in {"stem", "head"}] == ["stem", "head"]
    (head,) = [x.op for x in made.layers if isinstance(x.op, Dense)]
    (old,) = [x.op for x in s.layers if isinstance(x.op, Dense)]
    back = np.empty_like(old.weight.values)
    back[:, list(head.weight.order)] = head.weight.values
    np.testing.assert_array_equal(back, old.weight.values)


def test_what_stands_between_a_map_and_a_dense_layer_moves_nothing() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 6, 5), 4)
    y = s.norm(s.relu(s.reshape(x, 120)))
    made = plain(s.network(s.dense(y, 3)))
    assert {"Gather", "Transpose"}.isdisjoint(kinds(made))


def test_two_flat_maps_side_by_side_and_added() -> None:
    s = Sketch()
    x = s.input(3, 6, 5)
    a, b = s.reshape(s.conv(x, 4), 120), s.reshape(s.conv(x, 4), 120)
    both = s.concat(0, s.plus(a, b), s.times(a, s.number(0.5)), a)
    assert "Transpose" not in kinds(plain(s.network(s.dense(both, 3))))


def test_a_channel_shuffle_is_a_gather() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 6, 5), 8)
    y = s.reshape(s.transpose(s.reshape(x, 2, 4, 6, 5), 1, 0, 2, 3), 8, 6, 5)
    made = plain(s.network(s.conv(y, 8, groups=2)))
    (gather,) = [x.op for x in made.layers if isinstance(x.op, Gather)]
    assert (gather.axis, gather.index) == (2, (0, 4, 1, 5, 2, 6, 3, 7))
    assert kinds(made) == ["Convolution", "Gather", "Convolution"]


def test_a_shuffle_of_channels_last() -> None:
    s = Sketch(LAST)
    x = s.conv(s.input(6, 5, 3), 6)
    y = s.reshape(s.transpose(s.reshape(x, 6, 5, 3, 2), 0, 1, 3, 2), 6, 5, 6)
    assert kinds(plain(s.network(s.conv(y, 4)))) == ["Convolution", "Gather", "Convolution"]


def test_transposes_cancel_and_wait_for_what_minds() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 6, 5), 4)
    y = s.relu(s.transpose(x, 1, 2, 0))
    y = s.conv(s.transpose(y, 2, 0, 1), 4)
    assert kinds(plain(s.network(y))) == ["Convolution", "Convolution"]


def test_a_detector_joins_what_channels_last_has_in_order() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 4)
    small = s.conv(x, 6, stride=2)
    heads = [
        s.reshape(s.transpose(s.conv(y, 6), 1, 2, 0), y.shape[1] * y.shape[2] * 2, 3)
        for y in (x, small)
    ]
    made = plain(s.network(s.concat(0, *heads)))
    assert {"Gather", "Transpose"}.isdisjoint(kinds(made))


def test_maps_of_one_axis() -> None:
    s = Sketch()
    x = s.relu(s.norm(s.conv(s.input(4, 20), 8, 5, stride=2)))
    x = s.conv(x, 8, 3, groups=8)
    made = plain(s.network(s.dense(s.mean(x, 1), 3)))
    assert made.inputs[0].shape == (1, 20, 4)
    assert made.taken == (Taken((4, 20), (1, 0)),)
    assert kinds(made) == ["Convolution", "Convolution", "Mean", "Dense"]


def test_rows_of_features_that_a_network_transposes_first() -> None:
    s = Sketch()
    x = s.transpose(s.input(20, 4), 1, 0)
    made = plain(s.network(s.dense(s.reshape(s.conv(x, 3, 3), 60), 2)))
    assert made.inputs[0].shape == (1, 20, 4)
    assert made.taken == (Taken((20, 4), (0, 1)),)
    assert "Transpose" not in kinds(made)


def test_a_flat_input_of_channels_last_is_a_map_at_once() -> None:
    s = Sketch(LAST)
    made = plain(s.network(s.conv(s.reshape(s.input(60), 6, 10, 1), 2)))
    assert made.inputs[0].shape == (6, 10, 1)
    assert kinds(made) == ["Convolution"]


def test_an_input_that_tflite_has_channels_first() -> None:
    s = Sketch(LAST)
    x = s.relu(s.input(3, 8, 6), (-1, 1))
    made = plain(s.network(s.conv(s.transpose(x, 1, 2, 0), 2)))
    assert made.inputs[0].shape == (8, 6, 3)
    assert kinds(made) == ["Clamp", "Convolution"]


def test_rows_by_a_dense_layer() -> None:
    s = Sketch()
    x = s.transpose(s.conv(s.input(4, 20), 8), 1, 0)
    assert "Transpose" not in kinds(plain(s.network(s.dense(x, 3))))


def test_a_transpose_that_is_one_stays() -> None:
    s = Sketch()
    x = s.transpose(s.conv(s.input(3, 4, 6), 5), 0, 2, 1)
    assert kinds(plain(s.network(s.conv(x, 2)))) == ["Convolution", "Transpose", "Convolution"]


def test_slices_pads_gathers_and_means_of_named_axes() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 6, 5), 8)
    a, b = s.slice(x, 0, 0, 4), s.slice(x, 0, 4, 4)
    y = s.concat(0, s.pad(s.gather(a, 2, 0, 2, 4), (0, 0), (0, 0), (1, 1)), b)
    made = plain(s.network(s.mean(y, 1, keep=True), s.mean(y, 0, keep=True), s.mean(y, 1, 2)))
    assert "Transpose" not in kinds(made)


# ---- scales ----


def test_batch_norm_goes_into_convolutions_before_and_behind() -> None:
    s = Sketch()
    x = s.norm(s.conv(s.input(3, 6, 5), 8, bias=False, name="a"))
    x = s.relu(s.norm(s.conv(x, 8, groups=8, name="b")))
    x = s.conv(s.norm(x), 6, 1, groups=2, name="c")  # groups read their own channels
    x = s.norm(s.dense(s.mean(x, 1, 2), 4, name="d"))
    made = plain(s.network(x))
    assert [x.name for x in made.layers if x.name in "abcd"] == list("abcd")
    assert kinds(made) == ["Convolution"] * 3 + ["Mean", "Dense"]


def test_before_a_padded_convolution_a_norm_is_a_convolution() -> None:
    s = Sketch()
    x = s.norm(s.relu(s.conv(s.input(3, 6, 5), 8)), name="norm")
    made = plain(s.network(s.conv(s.relu(x), 4), s.conv(x, 2)))
    assert kinds(made)[:2] == ["Convolution"] * 2
    (norm,) = [x.op for x in made.layers if x.name == "norm"]
    assert isinstance(norm, Convolution)
    assert norm.groups == 8


def test_norms_of_vectors_that_nothing_takes() -> None:
    s = Sketch()
    x = s.norm(s.relu(s.dense(s.input(7), 5)))
    assert "ChannelScale" not in kinds(plain(s.network(s.relu(x), x)))


def test_constants_by_channel_are_scales() -> None:
    s = Sketch()
    x = s.input(3, 6, 5)
    x = s.times(s.plus(x, s.number(s.normal(3, 1, 1))), s.number(1 / 58))
    x = s.conv(x, 4, pad=0)
    x = s.plus(s.number(s.normal(4, 1, 1)), x)
    assert kinds(plain(s.network(x))) == ["Convolution"]


# ---- branches ----


def test_repvgg_is_one_convolution_a_block() -> None:
    s = Sketch()
    x = s.input(4, 6, 6)
    for name in ("first", "second"):
        three, one = s.norm(s.conv(x, 4, 3, name=name)), s.norm(s.conv(x, 4, 1))
        x = s.relu(s.plus(s.plus(three, one), s.norm(x)))
    made = plain(s.network(x))
    assert kinds(made) == ["Convolution"] * 2
    assert [x.name for x in made.layers] == ["first", "second"]


def test_mobileone_has_depthwise_branches_and_strides() -> None:
    s = Sketch()
    x = s.conv(s.input(4, 8, 8), 4)
    branches = [s.norm(s.conv(x, 4, 3, groups=4)) for _ in range(3)]
    branches += [s.norm(s.conv(x, 4, 1, groups=4)), s.norm(x)]
    total = branches[0]
    for b in branches[1:]:
        total = s.plus(b, total)
    x = s.relu(total)
    y = s.plus(s.norm(s.conv(x, 6, 3, stride=2)), s.norm(s.conv(x, 6, 1, stride=2)))
    assert kinds(plain(s.network(y))) == ["Convolution"] * 3


def test_branches_that_are_read_elsewhere_stay() -> None:
    s = Sketch()
    x = s.input(4, 6, 6)
    a, b = s.conv(x, 4), s.conv(x, 4)
    assert kinds(plain(s.network(s.plus(a, b), a))) == ["Convolution", "Convolution", "Sum"]


def test_residual_connections_stay() -> None:
    s = Sketch()
    x = s.conv(s.input(4, 6, 6), 4)
    y = s.plus(x, s.conv(s.relu(s.conv(x, 4)), 4))
    assert kinds(plain(s.network(s.relu(y)))) == ["Convolution"] * 3 + ["Sum"]


# ---- pads and clamps ----


def test_pads_go_into_convolutions_and_pools() -> None:
    s = Sketch()
    sides = ((0, 0), (0, 1), (2, 1))
    x = s.relu(s.conv(s.pad(s.input(3, 8, 8), *sides), 4, pad=0, stride=2))
    large = s.pool(PoolKind.MAX, s.pad(x, (0, 0), (1, 1), (1, 1)), 3, 2)
    assert kinds(plain(s.network(large))) == ["Convolution", "Pool"]


def test_a_mean_that_counts_padding_is_of_a_padded_map() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 4)
    op = Pool(PoolKind.MEAN, (3, 3), (2, 2), (1, 1, 1, 1), count_pad=True)
    made = plain(s.network(s.add(op, x, shape=(4, 4, 4))))
    assert kinds(made) == ["Convolution", "Pad", "Pool"]
    mean = s.pool(PoolKind.MEAN, x, 3, 2, 1)
    assert kinds(plain(s.network(mean))) == ["Convolution", "Pool"]


def test_pads_that_mean_something_stay() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 8, 8), 4)
    large = s.pool(PoolKind.MAX, s.pad(x, (0, 0), (1, 1), (1, 1)), 3, 2)  # zeros may be largest
    ones = s.conv(s.pad(x, (0, 0), (1, 1), (0, 0), value=1.0), 2, pad=0)
    wide = s.conv(s.pad(x, (0, 2), (0, 0), (0, 0)), 2)
    assert kinds(plain(s.network(large, ones, wide))).count("Pad") == 3


def test_clamps_go_into_the_layer_before_and_into_each_other() -> None:
    s = Sketch()
    x = s.relu(s.relu(s.conv(s.input(3, 6, 6), 4)), (-INF, 6))
    y = s.relu(s.plus(x, s.relu(s.conv(x, 4))), (0.5, INF))
    y = s.relu(s.relu(s.reshape(y, 144)), (1, 2))
    made = plain(s.network(s.dense(y, 2)))
    assert kinds(made) == ["Convolution", "Convolution", "Sum", "Reshape", "Dense"]
    first, second, total = (x.op for x in made.layers[:3])
    assert isinstance(first, Convolution)
    assert isinstance(second, Convolution)
    assert isinstance(total, Sum)
    assert (first.clamp, second.clamp, total.clamp) == ((0, 6), (0, INF), (1, 2))


def test_a_clamp_stays_where_the_value_is_read_before_it() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 6, 6), 4)
    made = plain(s.network(s.relu(x), x))
    assert kinds(made) == ["Convolution", "Clamp"]
    assert isinstance(made.layers[1].op, Clamp)


# ---- curves ----


def spelled(s: Sketch, x: Value, kind: str) -> Value:
    """Curves as files spell them."""
    shifted = s.relu(s.plus(x, s.number(3)), (0, 6))
    match kind:
        case "x * sigmoid(x)":
            return s.times(s.curve(CurveKind.SIGMOID, x), x)
        case "relu6(x + 3) / 6":
            return s.times(shifted, s.number(1 / 6))
        case "x * relu6(x + 3) / 6":
            return s.times(s.times(x, shifted), s.number(1 / 6))
        case "x * (relu6(x + 3) / 6)":
            return s.times(x, s.times(s.number(1 / 6), shifted))
        case "(x / 6) * relu6(x + 3)":
            return s.times(s.times(x, s.number(1 / 6)), shifted)
        case "clip(x / 6 + 1/2, 0, 1)":
            line = s.plus(s.times(x, s.number(1 / 6)), s.number(0.5))
            return s.relu(line, (0, 1))
        case "min(max(x + 3, 0), 6) / 6":
            low = s.relu(s.plus(s.number(3), x))
            return s.times(s.relu(low, (-INF, 6)), s.number(1 / 6))
        case "x * hard_sigmoid(x)":
            return s.times(s.curve(CurveKind.HARD_SIGMOID, x), x)
        case "x * tanh(softplus(x))":
            return s.times(s.curve(CurveKind.TANH, s.curve(CurveKind.SOFTPLUS, x)), x)
    raise AssertionError(kind)


SPELLED = {
    "x * sigmoid(x)": CurveKind.SILU,
    "relu6(x + 3) / 6": CurveKind.HARD_SIGMOID,
    "x * relu6(x + 3) / 6": CurveKind.HARD_SWISH,
    "x * (relu6(x + 3) / 6)": CurveKind.HARD_SWISH,
    "(x / 6) * relu6(x + 3)": CurveKind.HARD_SWISH,
    "clip(x / 6 + 1/2, 0, 1)": CurveKind.HARD_SIGMOID,
    "min(max(x + 3, 0), 6) / 6": CurveKind.HARD_SIGMOID,
    "x * hard_sigmoid(x)": CurveKind.HARD_SWISH,
    "x * tanh(softplus(x))": CurveKind.MISH,
}


@pytest.mark.parametrize("kind", SPELLED)
def test_curves_are_recognised(kind: str) -> None:
    s = Sketch()
    x = s.conv(s.input(3, 6, 6), 4)
    made = plain(s.network(s.conv(spelled(s, x, kind), 2)))
    assert kinds(made) == ["Convolution", "Curve", "Convolution"]
    (curve,) = [x.op for x in made.layers if isinstance(x.op, Curve)]
    assert curve.kind is SPELLED[kind]


def test_what_is_nearly_a_curve_is_not_one() -> None:
    s = Sketch()
    x, other = s.conv(s.input(3, 6, 6), 4), s.conv(s.input(3, 6, 6), 4)
    keras = s.relu(s.plus(s.times(x, s.number(0.2)), s.number(0.5)), (0, 1))
    gated = s.times(x, s.curve(CurveKind.SIGMOID, other))
    made = plain(s.network(keras, gated))
    assert [x.op.kind for x in made.layers if isinstance(x.op, Curve)] == [CurveKind.SIGMOID]


# ---- squeeze and excite ----


@pytest.mark.parametrize("form", ["two means", "vector", "pool", "convolution"])
def test_squeeze_and_excite(form: str) -> None:
    s = Sketch()
    x = s.relu(s.conv(s.input(3, 6, 6), 8))
    match form:
        case "two means":
            y = s.mean(s.mean(x, 2, keep=True), 1, keep=True)
        case "pool":
            y = s.pool(PoolKind.MEAN, x, 6, 6)
        case _:
            y = s.mean(x, 1, 2, keep=form == "convolution")
    if form == "vector":
        y = s.dense(s.relu(s.dense(y, 2)), 8)
        y = s.reshape(y, 8, 1, 1)
    else:
        y = s.conv(s.relu(s.conv(y, 2, 1)), 8, 1)
    y = s.times(s.times(s.relu(s.plus(y, s.number(3)), (0, 6)), s.number(1 / 6)), x)
    made = plain(s.network(s.conv(y, 4)))
    layers = "Dense" if form == "vector" else "Convolution"
    without = [k for k in kinds(made) if k != "Reshape"]
    assert without == ["Convolution", "Mean", layers, layers, "Curve", "Product", "Convolution"]


# ---- edges and the dead ----


def test_softmax_and_sigmoid_at_the_end_go_and_dead_layers() -> None:
    s = Sketch()
    x = s.conv(s.input(3, 6, 6), 4)
    s.conv(x, 9)
    y = s.dense(s.mean(x, 1, 2), 5)
    network = s.network(s.softmax(y), s.curve(CurveKind.SIGMOID, x))
    made = simplify(network)
    assert kinds(made) == ["Convolution", "Mean", "Dense"]
    before = s.network(y, x)
    inputs = batches(before)
    for got, right in zip(
        outputs(made, as_taken(made, inputs)), outputs(before, inputs), strict=True
    ):
        np.testing.assert_allclose(in_file_order(network, got, right), right, rtol=1e-5, atol=1e-5)


def test_softmax_before_a_last_reshape_goes() -> None:
    s = Sketch()
    y = s.dense(s.mean(s.conv(s.input(3, 6, 6), 4), 1, 2), 6)
    made = simplify(s.network(s.reshape(s.softmax(y), 2, 3)))
    assert "Softmax" not in kinds(made)
    assert made.outputs[0].shape == (2, 3)


def test_what_depends_on_no_input_is_computed() -> None:
    s = Sketch()
    x = s.input(3, 6, 6)
    table = s.reshape(s.times(s.number(s.normal(1, 3)), s.number(2)), 3, 1, 1)
    made = plain(s.network(s.times(s.conv(x, 3), s.plus(table, s.number(1)))))
    assert kinds(made) == ["Convolution"]


def test_constants_that_are_maps_stay() -> None:
    s = Sketch()
    made = plain(s.network(s.plus(s.conv(s.input(3, 6, 5), 3), s.number(s.normal(3, 6, 5)))))
    (constant,) = [x.op for x in made.layers if isinstance(x.op, Constant)]
    assert constant.tensor.values.shape == (6, 5, 3)


def test_means_and_pools_of_whole_maps_are_one() -> None:
    s = Sketch()
    x = s.input(3, 6, 5)
    made = plain(s.network(s.mean(s.mean(x, 1), 1), s.pool(PoolKind.MEAN, x, 5, 5)))
    (mean,) = [x.op for x in made.layers if isinstance(x.op, Mean)]
    assert mean.axes == (0, 1)
    assert [type(x.op) for x in made.layers if isinstance(x.op, Pool)] == [Pool]


# ---- codes ----

INPUT, MIDDLE, OUTPUT = Affine((0.02,), -3), Affine((0.05,), 4), Affine((0.1,), -128)


def coded(s: Sketch, x: Value, out: int, quant: Affine, scales: tuple[float, ...] = ()) -> Value:
    """A convolution of one pixel in codes."""
    assert x.quant is not None
    scales = scales or (0.01,) * out
    codes = s.rng.integers(-127, 128, (out, 1, 1, x.shape[-1])).astype(np.int8)
    codes[np.array(scales) < 1e-6] = 0
    bias = s.rng.integers(-(2**30), 2**30, out) if min(scales) < 1e-6 else np.arange(out) * 100
    op = Convolution(
        Tensor(codes, Affine(scales, axis=0)),
        Tensor(bias.astype(np.int32), Affine(scales, axis=0, unit=x.quant.scale[0])),
    )
    return s.add(op, x, shape=(*x.shape[:2], out), quant=quant)


def same_codes(network: Network) -> Network:
    """The network made plain, which gives the same codes."""
    made = simplify(network)
    inputs = batches(network)
    before = evaluate(network, inputs, arithmetic=Arithmetic.CODES)
    after = evaluate(made, as_taken(made, inputs), arithmetic=Arithmetic.CODES)
    for old, new in zip(network.outputs, made.outputs, strict=True):
        assert old.quant is not None
        assert old.quant == new.quant
        right = codes(before[old], old.quant)
        np.testing.assert_array_equal(codes(after[new], old.quant), right)
        assert len(np.unique(right)) > 1
    return made


def test_codes_at_the_edges_are_those_of_the_first_and_last_layer() -> None:
    s = Sketch(LAST)
    x = s.requantise(s.input(4, 4, 3), INPUT)
    y = coded(s, x, 5, MIDDLE)
    made = simplify(s.network(s.requantise(y, None)))
    assert made.inputs == (Value("input 0", (4, 4, 3), INPUT),)
    assert made.outputs[0].quant == MIDDLE
    assert kinds(made) == ["Convolution"]


def test_a_clamp_in_another_scale_stays() -> None:
    s = Sketch(LAST)
    x = coded(s, s.input(4, 4, 3, quant=INPUT), 5, MIDDLE)
    y = coded(s, s.relu(x), 4, MIDDLE)
    z = s.add(Clamp((0, INF)), y, shape=y.shape, quant=OUTPUT)
    assert kinds(same_codes(s.network(z))) == ["Convolution", "Convolution", "Clamp"]


def test_scales_and_curves_in_codes_are_left_alone() -> None:
    s = Sketch(LAST)
    x = coded(s, s.input(4, 4, 3, quant=INPUT), 5, MIDDLE)
    gate = s.add(Curve(CurveKind.SIGMOID), x, shape=x.shape, quant=Affine((1 / 256,), -128))
    y = s.add(Product(), x, gate, shape=x.shape, quant=OUTPUT)
    y = s.add(Mean((0,)), y, shape=(1, 4, 5), quant=OUTPUT)
    y = s.add(Mean((1,)), y, shape=(1, 1, 5), quant=MIDDLE)
    made = same_codes(s.network(y))
    assert kinds(made) == ["Convolution", "Curve", "Product", "Mean", "Mean"]


@pytest.mark.parametrize("rounding", Rounding)
def test_zero_channels_get_a_scale_and_give_the_same_codes(rounding: Rounding) -> None:
    s = Sketch(LAST)
    scales = (0.01, 1e-11, 0.02, 3e-11, 2e-10, 0.005)
    y = coded(s, s.input(4, 4, 3, quant=INPUT), 6, MIDDLE, scales)
    made = same_codes(replace(s.network(y), rounding=rounding))
    (op,) = [x.op for x in made.layers if isinstance(x.op, Convolution)]
    assert op.weight.quant is not None
    assert op.bias is not None
    assert op.bias.quant is not None
    assert op.weight.quant.scale == op.bias.quant.scale == (0.01, 0.01, 0.02, 0.01, 0.01, 0.005)


def test_a_zero_channel_that_a_multiplier_can_say_stays() -> None:
    s = Sketch(LAST)
    y = coded(s, s.input(4, 4, 3, quant=INPUT), 3, MIDDLE, (0.01, 1e-7, 0.02))
    network = s.network(y)
    assert same_codes(network).layers[-1].op is network.layers[-1].op


def test_a_mean_of_one_axis_is_transposed_before_the_other_is_taken() -> None:
    s = Sketch(LAST)
    x = s.mean(coded(s, s.input(6, 4, 3, quant=INPUT), 5, MIDDLE), 1, keep=True)
    x = replace(x, quant=MIDDLE)
    s.layers[-1] = replace(s.layers[-1], output=x)
    y = s.reshape(s.transpose(x, 2, 0, 1), 5, 6)
    z = s.add(Mean((1,)), y, shape=(5, 1), quant=MIDDLE)
    made = same_codes(s.network(s.reshape(z, 5)))
    assert "Transpose" not in kinds(made)


def test_zeros_around_codes_that_cannot_be_less_go_into_the_largest() -> None:
    s = Sketch(LAST)
    x = s.concat(2, *(coded(s, s.input(6, 4, 3, quant=INPUT), 2, OUTPUT) for _ in range(2)))
    y = s.pad(x, (1, 1), (1, 1), (0, 0))
    op = Pool(PoolKind.MAX, (3, 3), (2, 2))
    z = s.add(op, y, shape=(3, 2, 4), quant=OUTPUT)
    assert kinds(same_codes(s.network(z))) == ["Convolution", "Convolution", "Concat", "Pool"]
