"""The quantiser: ranges, codes, corrections, and what it says of a network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from layer_networks import RELU, Sketch

from kilograd.errors import InputError
from kilograd.ir import Affine, Array, interpret
from kilograd.layers.calibrate import Calibration, Method, affine, checked, ranges
from kilograd.layers.evaluate import Arithmetic, codes, dequantised, evaluate
from kilograd.layers.lower import lower
from kilograd.layers.network import (
    Constant,
    Convolution,
    CurveKind,
    Dense,
    Layout,
    Network,
    PoolKind,
    Value,
)
from kilograd.layers.quantise import Recipe, coded, quantise
from kilograd.layers.report import accuracy
from kilograd.layers.simplify import simplify

LAST = Layout.CHANNELS_LAST
INF = math.inf


def residual(seed: int = 0) -> Network:
    """Two blocks with a sum, a squeeze-and-excite, and a classifier."""
    s = Sketch(LAST, seed)
    x = s.conv(s.input(10, 10, 3), 8, stride=2, clamp=(0, 6), name="stem")
    y = s.conv(s.conv(x, 8, groups=8, clamp=RELU), 8, 1, name="project")
    x = s.relu(s.plus(x, y))
    gate = s.mean(x, 0, 1, keep=True)
    gate = s.conv(s.conv(gate, 4, 1, clamp=RELU), 8, 1)
    x = s.times(x, s.curve(CurveKind.SIGMOID, gate))
    features = s.mean(x, 0, 1)
    return simplify(s.network(s.dense(features, 5, name="head")))


def pictures(count: int = 40, seed: int = 5, shape: tuple[int, ...] = (10, 10, 3)) -> Array:
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def by_name(network: Network, name: str) -> Value:
    return next(v for v in network.values() if v.name == name)


# ---- ranges ----


def test_ranges_are_the_least_and_the_largest_of_all_samples() -> None:
    network, x = residual(), pictures(100)
    every = evaluate(network, {"input 0": x}, tuple(network.values()))
    for v, (low, high) in ranges(network, {"input 0": x}).items():
        assert low == pytest.approx(every[v].min(), rel=1e-5, abs=1e-6)
        assert high == pytest.approx(every[v].max(), rel=1e-5, abs=1e-6)


def test_percentiles_are_those_of_all_elements() -> None:
    network, x = residual(), pictures(60)
    every = evaluate(network, {"input 0": x}, tuple(network.values()))
    found = ranges(network, {"input 0": x}, Calibration(Method.PERCENTILE, 99))
    for v, (low, high) in found.items():
        y = every[v].astype(np.float64)
        one = (y.max() - y.min()) / 2048 + 1e-6
        assert (y < low - 1e-6).mean() <= 0.01 <= (y <= low + 2 * one).mean()
        assert (y > high + 1e-6).mean() <= 0.01 <= (y >= high - 2 * one).mean()


def squared_error(x: Array, quant: Affine) -> float:
    q = np.clip(np.rint(x / quant.scale[0]) + quant.zero_point, -128, 127)
    return float(np.square(dequantised(q, quant) - x).mean())


def test_the_range_of_least_error_is_nearly_the_best_there_is() -> None:
    s = Sketch(LAST)
    network = s.network(s.relu(s.input(4000), (-INF, INF)))
    heavy = np.random.default_rng(0).standard_t(3, (5, 4000)).astype(np.float32)
    found = ranges(network, {"input 0": heavy}, Calibration(Method.MSE))[network.inputs[0]]
    low, high = heavy.min(), heavy.max()
    tried = [
        (low * a, high * b) for a in np.linspace(0.05, 1, 40) for b in np.linspace(0.05, 1, 40)
    ]
    best = min(squared_error(heavy, affine(r)) for r in tried)
    whole = squared_error(heavy, affine((low, high)))
    assert squared_error(heavy, affine(found)) < min(1.05 * best, 0.99 * whole)


# ---- codes ----


def test_weights_are_off_by_half_a_step_and_symmetric() -> None:
    network = residual()
    made = quantise(network, {"input 0": pictures()}, Recipe(correct_bias=False)).network
    for old, new in zip(network.layers, made.layers, strict=True):
        if not isinstance(old.op, Convolution | Dense) or not isinstance(
            new.op, Convolution | Dense
        ):
            continue
        quant, bias = new.op.weight.quant, new.op.bias
        assert quant is not None
        assert bias is not None
        assert bias.quant is not None
        numbers = np.abs(new.op.weight.values.astype(int)).reshape(len(quant.scale), -1)
        assert (numbers.max(axis=1) == 127).all()
        error = np.abs(dequantised(new.op.weight.values, quant) - old.op.weight.values)
        assert (
            error.reshape(len(quant.scale), -1).max(axis=1) <= 0.501 * np.array(quant.scale)
        ).all()
        step = new.inputs[0].quant
        assert step is not None
        assert bias.quant.unit == step.scale[0]
        assert old.op.bias is not None
        wrong = np.abs(dequantised(bias.values, bias.quant) - old.op.bias.values)
        assert (wrong <= 0.501 * step.scale[0] * np.array(quant.scale)).all()


def test_clamps_fit_into_scales() -> None:
    network = residual()
    made = quantise(network, {"input 0": 20 * pictures()}).network
    stem = by_name(made, "stem:0").quant
    assert stem == Affine((6 / 255,), -128)
    linear = by_name(made, "project:0").quant
    assert linear is not None
    assert linear.zero_point > -128


def test_what_moves_elements_keeps_their_scale() -> None:
    s = Sketch(LAST)
    x = s.conv(s.input(8, 8, 3), 4, clamp=RELU)
    wide = s.conv(s.input(8, 8, 3), 4)
    y = s.concat(
        2, s.pool(PoolKind.MAX, x, 3, 1, 1), s.pad(s.slice(wide, 2, 0, 2), (0, 0), (0, 0), (1, 1))
    )
    small = s.conv(y, 4)
    network = s.network(s.pool(PoolKind.MEAN, small, 2, 2))
    data = {"input 0": pictures(9, 1, (8, 8, 3)), "input 1": 2 * pictures(9, 2, (8, 8, 3))}
    made = quantise(network, data).network
    quants = {v.name: v.quant for v in made.values()}
    alike = (x, wide, y, *(layer.output for layer in network.layers[2:5]))
    joined = {quants[v.name] for v in alike}
    assert len(joined) == 1
    assert quants[small.name] not in joined
    assert quants[network.outputs[0].name] != quants[small.name]


def test_what_is_joined_with_far_larger_numbers_is_rescaled() -> None:
    s = Sketch(LAST)
    image = s.input(8, 8, 3)
    x, near, wide = (s.conv(image, 4, clamp=RELU, name=n) for n in ("x", "near", "wide"))
    for layer in s.layers:
        if isinstance(layer.op, Convolution) and layer.name == "wide":
            layer.op.weight.values[:] *= 100
    y = s.concat(2, x, near, wide)
    made = quantise(s.network(s.conv(y, 4)), {"input 0": pictures(9, 1, (8, 8, 3))})
    quants = {v.name: v.quant for v in made.network.values()}
    small = [quants[v.name] for v in (x, near)]
    assert quants[wide.name] == quants[y.name]
    assert all(q and q.scale[0] < 0.1 for q in small)
    assert len(lower(made.network).graph.nodes) > 10


def test_a_pool_of_a_relu_has_no_code_below_zero() -> None:
    s = Sketch(LAST)
    x = s.pool(PoolKind.MAX, s.conv(s.input(8, 8, 3), 4, clamp=RELU), 2, 2)
    made = quantise(s.network(s.conv(x, 4)), {"input 0": pictures(9, 1, (8, 8, 3))}).network
    assert [v.quant and v.quant.zero_point for v in made.values()][1:3] == [-128, -128]


def test_an_input_keeps_the_codes_that_it_has() -> None:
    own = Affine((1 / 255,), -128)
    s = Sketch(LAST)
    network = s.network(s.conv(s.input(6, 6, 3, quant=own), 4))
    made = quantise(network, {"input 0": pictures(9, 1, (6, 6, 3))}).network
    assert made.inputs[0].quant == own


def test_values_can_take_the_scale_of_others() -> None:
    network = residual()
    x = {"input 0": pictures()}
    features, head = network.layers[-1].inputs[0], network.outputs[0]
    made = coded(network, ranges(network, x), {head: features})
    assert by_name(made, features.name).quant == by_name(made, head.name).quant


def test_constants_become_codes() -> None:
    s = Sketch(LAST)
    x = s.conv(s.input(6, 6, 3), 3)
    network = s.network(s.plus(x, s.number(s.normal(6, 6, 3))))
    made = quantise(network, {"input 0": pictures(9, 1, (6, 6, 3))})
    (constant,) = [x for x in made.network.layers if isinstance(x.op, Constant)]
    assert isinstance(constant.op, Constant)
    assert constant.op.tensor.values.dtype == np.int8
    assert made.report.worst.sqnr > 30


def test_a_channel_of_zeros_and_a_layer_of_zeros_have_sane_scales() -> None:
    s = Sketch(LAST)
    x = s.conv(s.conv(s.input(6, 6, 3), 4, clamp=RELU, name="a"), 4, name="b")
    for layer in s.layers:
        assert isinstance(layer.op, Convolution)
        layer.op.weight.values[0 if layer.name == "a" else slice(None)] = 0
    made = quantise(s.network(x), {"input 0": pictures(9, 1, (6, 6, 3))}).network
    for layer in made.layers:
        assert isinstance(layer.op, Convolution)
        assert layer.op.weight.quant is not None
        assert min(layer.op.weight.quant.scale) > 1e-4


def test_layers_of_mostly_dead_channels_and_dead_layers_can_be_computed() -> None:
    s = Sketch(LAST)
    x = s.conv(s.input(6, 6, 3), 9, clamp=RELU, name="mostly")
    s.conv(x, 4, clamp=RELU, name="all")
    y = s.plus(s.conv(x, 4, 1, name="alive"), s.layers[-2].output)
    for layer in s.layers:
        if isinstance(layer.op, Convolution) and layer.name != "alive":
            assert layer.op.bias is not None
            dead = slice(None) if layer.name == "all" else slice(6)
            layer.op.weight.values[dead] *= np.float32(1e-32)
            layer.op.bias.values[dead] *= np.float32(1e-32)
    made = quantise(s.network(y), {"input 0": pictures(9, 1, (6, 6, 3))})
    (mostly, nothing, _) = [
        x.op.weight.quant for x in made.network.layers if isinstance(x.op, Convolution)
    ]
    assert mostly is not None
    assert nothing is not None
    assert min(mostly.scale) > 0.04 * np.median(mostly.scale[6:])
    assert min(nothing.scale) > 1e-8
    assert len(lower(made.network).graph.nodes) > 10


# ---- how good it is ----


@pytest.mark.parametrize("method", Method)
def test_codes_are_near_the_reals(method: Method) -> None:
    made = quantise(residual(), {"input 0": pictures()}, Recipe(Calibration(method)))
    assert made.report.samples == 40
    assert made.report.worst.sqnr > 20
    assert not made.report.doubts


def test_the_graph_gives_the_codes_that_the_report_is_of() -> None:
    """But for ties, and for multipliers of 31 bits: a code, now and then."""
    made = quantise(residual(), {"input 0": pictures()}).network
    graph = lower(made).graph
    x = pictures(12, 7)
    quant = made.inputs[0].quant
    assert quant is not None
    (y,) = evaluate(made, {"input 0": x}, arithmetic=Arithmetic.CODES).values()
    out = made.outputs[0].quant
    assert out is not None
    right = codes(y, out).astype(int)
    got = [
        np.asarray(interpret(graph, {"image": codes(image, quant)})[graph.outputs[-1].name])
        for image in x
    ]
    different = np.abs(np.stack(got).reshape(right.shape) - right)
    assert different.max() <= 1
    assert different.mean() < 0.1


def test_the_report_measures_what_it_says() -> None:
    network, x = residual(), pictures()
    made = quantise(network, {"input 0": x})
    right = evaluate(network, {"input 0": x})[network.outputs[0]]
    got = evaluate(made.network, {"input 0": x}, arithmetic=Arithmetic.CODES)
    (y,) = got.values()
    decibels = 10 * math.log10(np.square(right).sum() / np.square(y - right).sum())
    head = next(x for x in made.report.layers if x.name == "head")
    assert head.sqnr == pytest.approx(decibels, abs=0.01)


def test_corrected_biases_leave_no_mean_error() -> None:
    network = residual()
    for layer in network.layers:  # filters of a few large weights, and many that all round down
        if isinstance(layer.op, Convolution) and layer.name == "project":
            w = layer.op.weight.values
            w[..., 0], w[..., 1:] = 50, 0.19
    x = {"input 0": pictures(64)}
    wrong = []
    for correct in (False, True):
        made = quantise(network, x, Recipe(correct_bias=correct)).network
        name = "project:0"
        v, q = by_name(network, name), by_name(made, name)
        right = evaluate(network, x, (v,))[v]
        got = evaluate(made, x, (q,), Arithmetic.CODES)[q]
        wrong.append(np.abs((got - right).mean((0, 1, 2))).max())
    assert wrong[1] < 0.3 * wrong[0]


def test_outlier_channels_are_named() -> None:
    network = residual()
    for layer in network.layers:
        if isinstance(layer.op, Convolution) and layer.name == "project":
            layer.op.weight.values[3] *= 1000
    made = quantise(network, {"input 0": pictures()})
    project = next(x for x in made.report.layers if x.name == "project")
    assert project.outliers == project.outlier_weights == (3,)


def test_a_layer_that_codes_hardly_describe_is_a_doubt() -> None:
    s = Sketch(LAST)
    x = s.conv(s.input(6, 6, 3), 8, name="uneven")
    (layer,) = s.layers
    assert isinstance(layer.op, Convolution)
    assert layer.op.bias is not None
    layer.op.bias.values[:] = 0
    layer.op.bias.values[5] = 1e4
    y = s.slice(x, 2, 0, 5)
    made = quantise(s.network(y), {"input 0": pictures(9, 1, (6, 6, 3))})
    (doubt,) = made.report.doubts
    assert "differ much" in doubt


def test_accuracy_of_both() -> None:
    network, x = residual(), pictures(80)
    made = quantise(network, {"input 0": x}).network
    right = evaluate(network, {"input 0": x})[network.outputs[0]].argmax(1)
    labels = np.where(np.arange(80) < 60, right, (right + 1) % 5)
    got = accuracy(network, made, {"input 0": x}, labels)
    assert (got.count, got.reals) == (80, 0.75)
    assert got.agreement > 0.9
    assert abs(got.codes - 0.75) <= 1 - got.agreement


# ---- samples that are wrong ----


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (pictures(9)[..., 0], r"shape \[9, 10, 10\]; give \[n, 10, 10, 3\]"),
        (pictures(9).transpose(0, 3, 1, 2), r"shape \[9, 3, 10, 10\]"),
        (pictures(1)[0], r"shape \[10, 10, 3\]"),
        (pictures(9)[:0], "no samples"),
        (np.full((9, 10, 10, 3), 0.5, np.float32), "all numbers .* are 0.5"),
        (np.where(pictures(9) > 4, np.nan, pictures(9)) * np.float32(1), None),
    ],
)
def test_samples_that_cannot_be_used(x: Array, said: str | None) -> None:
    if said is None:
        x = x.copy()
        x[3, 0, 0, 0], said = np.inf, "sample 3 .* not finite"
    with pytest.raises(InputError, match=said):
        quantise(residual(), {"input 0": x})


def test_samples_that_are_missing() -> None:
    with pytest.raises(InputError, match="no samples for the input 'input 0'"):
        quantise(residual(), {"image": pictures()})


def test_few_samples_and_samples_alike_are_doubts() -> None:
    network = residual()
    assert checked(network, {"input 0": pictures(1)}) == (
        "calibrated on one sample: ranges may be too narrow for others; give 8 or more",
    )
    alike = np.repeat(pictures(1), 9, axis=0)
    assert checked(network, {"input 0": alike}) == ("all 9 calibration samples are the same",)


def test_weights_that_explode_are_named() -> None:
    network = residual()
    for x in network.layers:
        if x.name == "project" and isinstance(x.op, Convolution):
            x.op.weight.values[0] = np.nan
    with pytest.raises(InputError, match="'project:0' has numbers that are not finite"):
        quantise(network, {"input 0": pictures()})


def test_labels_that_do_not_fit() -> None:
    network, x = residual(), {"input 0": pictures(9)}
    made = quantise(network, x).network
    with pytest.raises(InputError, match="one label each"):
        accuracy(network, made, x, np.zeros(4, int))
    with pytest.raises(InputError, match="5 classes"):
        accuracy(network, made, x, np.full(9, 5))


def test_a_percentile_of_nothing() -> None:
    with pytest.raises(InputError, match="percentile 0: must be above 50"):
        Calibration(Method.PERCENTILE, 0)
