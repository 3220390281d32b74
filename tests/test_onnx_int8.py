"""ONNX files in int8: their codes are those that ONNX Runtime computes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_files import Array, helper, model, node, onnx, quantised, saved

from kilograd.errors import InputError
from kilograd.frontend.onnx import read_onnx
from kilograd.frontend.onnx.oracle import runtime_values
from kilograd.ir import Affine, interpret
from kilograd.layers.evaluate import Arithmetic, codes, computed
from kilograd.layers.lower import NoGraphError, lower
from kilograd.layers.network import (
    Convolution,
    Dense,
    Layer,
    Mean,
    Network,
    Pool,
    Requantise,
    Value,
)
from kilograd.layers.shapes import fits
from kilograd.layers.simplify import simplify


def weights(*shape: int) -> Array:
    rng = np.random.default_rng(sum(shape))
    size = 1.4 / math.sqrt(math.prod(shape[1:]))
    return rng.normal(0, size, shape).astype(np.float32)


def mobile() -> Any:
    """Return a network with what MobileNetV3 and ShuffleNet are made of."""
    constants = {
        "w0": weights(16, 3, 3, 3),
        "w1": weights(16, 1, 3, 3),
        "w2": weights(16, 16, 1, 1),
        "w3": weights(24, 16, 3, 3),
        "v1": weights(8, 24, 1, 1),
        "v2": weights(24, 8, 1, 1),
        "b0": weights(16),
        "b3": weights(24),
        "w4": weights(10, 24),
        "b4": weights(10),
        "zero": np.float32(0),
        "six": np.float32(6),
        "axes": np.array([2, 3]),
        "k": np.abs(weights(24, 1, 1)) + 0.5,
        "half": np.float32(0.5),
    }
    nodes = [
        node("Conv", "x w0 b0", "a", pads=[1] * 4, strides=[2, 2]),
        node("Relu", "a", "a1"),
        node("Conv", "a1 w1 b0", "b", pads=[1] * 4, group=16),
        node("Clip", "b zero six", "b1"),
        node("Conv", "b1 w2", "c"),
        node("Add", "c a1", "d"),
        node("Conv", "d w3 b3", "e", pads=[1] * 4),
        node("HardSwish", "e", "f"),
        node("GlobalAveragePool", "f", "g"),
        node("Conv", "g v1", "h"),
        node("Relu", "h", "h1"),
        node("Conv", "h1 v2", "i"),
        node("HardSigmoid", "i", "j", alpha=1 / 6),
        node("Mul", "f j", "l"),
        node("MaxPool", "l", "m", kernel_shape=[2, 2], strides=[2, 2]),
        node("Split", "m", "p q", axis=1, num_outputs=2),
        node("Sigmoid", "p", "p1"),
        node("Mul", "p p1", "p2"),
        node("Concat", "p2 q", "o", axis=1),
        node("Add", "o half", "o1"),
        node("Mul", "o1 k", "r"),
        node("ReduceMean", "r axes", "t", keepdims=0),
        node("Gemm", "t w4 b4", "y", transB=1),
    ]
    return model(nodes, ("batch", 3, 16, 16), constants)


def compare(path: Path, *, images: int = 8) -> Network:
    """Compare every value of a file with what ONNX Runtime computes from its own inputs."""
    network = read_onnx(path)
    (given,) = network.inputs
    x = np.random.default_rng(4).normal(size=(images, *given.shape)).astype(np.float32)
    if given.quant is not None:
        x = codes(x, given.quant)
    feeds = [{given.name: one} for one in x]
    found = runtime_values(path, feeds)
    theirs = {
        v: np.stack([(one | feed)[v.name] for one, feed in zip(found, feeds, strict=True)])
        for v in network.values()
        if v.name in found[0] or v is given
    }
    made = {x.output for x in network.layers if x.inputs and not isinstance(x.op, Requantise)}
    assert made <= set(theirs)
    for layer in network.layers:
        assert fits(layer, network.layout), layer
        if layer.output in theirs and layer.output.quant is not None:
            mine = layer_codes(layer, network, theirs)
            differ = np.abs(mine.astype(int) - theirs[layer.output])
            averages = isinstance(layer.op, Mean | Pool)
            ties = averages and layer.inputs[0].quant == layer.output.quant
            assert differ.max() <= ties, layer.name  # float32 decides ties, docs/import-onnx.md
            assert differ.mean() < 0.05, layer.name
    return network


def layer_codes(layer: Layer, network: Network, given: dict[Value, Array]) -> Array:
    """Return the codes that one layer makes of the codes that it is given."""
    needed, todo = [layer], list(layer.inputs)
    while todo:  # what stands in the file as no tensor of its own is computed too
        v = todo.pop()
        if v not in given and network.made()[v] not in needed:
            needed.append(network.made()[v])
            todo += network.made()[v].inputs
    inputs = tuple({v for x in needed for v in x.inputs if v in given})
    alone = Network("a", network.layout, inputs, (), tuple(needed[::-1]), network.source)
    reals = {
        v.name: (given[v].astype(np.float64) - v.quant.zero_point) * v.quant.scale[0]
        for v in inputs
        if v.quant is not None
    }
    *_, (value, y) = computed(alone, reals, Arithmetic.CODES)
    assert value.quant is not None
    return codes(y, value.quant)


@pytest.mark.parametrize(
    ("per_channel", "unsigned"), [(True, False), (False, False), (True, True), (False, True)]
)
def test_a_network_of_the_quantiser_equals_onnx_runtime(
    per_channel: bool, unsigned: bool, tmp_path: Path
) -> None:
    path = quantised(mobile(), tmp_path, per_channel=per_channel, unsigned=unsigned)
    network = compare(path)
    assert all(v.quant for v in network.values())
    assert network.inputs[0].quant is not None
    for layer in network.layers:
        if isinstance(layer.op, Convolution | Dense):
            w = layer.op.weight
            assert w.values.dtype == np.int8
            assert w.quant is not None
            assert len(w.quant.scale) == (len(w.values) if per_channel else 1)
            assert layer.op.bias is None or layer.op.bias.values.dtype == np.int32
    assert not {"Clamp", "ChannelScale"} & {type(x.op).__name__ for x in network.layers}


@pytest.mark.parametrize("unsigned", [False, True])
def test_the_graph_that_devices_run_answers_with_the_same_codes(
    unsigned: bool, tmp_path: Path
) -> None:
    path = quantised(mobile(), tmp_path, unsigned=unsigned)
    plain = simplify(read_onnx(path))
    graph = lower(plain).graph
    (image,) = graph.inputs()
    (given,) = plain.inputs
    assert given.quant is not None
    x = np.random.default_rng(6).normal(size=(8, *image.type.shape))
    feeds = [codes(one, given.quant) for one in x]
    theirs = runtime_values(path, [{given.name: one.transpose(2, 0, 1)} for one in feeds])
    for one, wanted in zip(feeds, theirs, strict=True):
        found = interpret(graph, {image.name: one})
        for output, value in zip(graph.outputs[1:], plain.outputs, strict=True):
            mine = found[output.name]
            assert isinstance(mine, np.ndarray)
            np.testing.assert_array_equal(mine.ravel(), wanted[value.name].ravel())


def lenet() -> Any:
    constants = {
        "w0": weights(6, 1, 5, 5),
        "w1": weights(16, 6, 5, 5),
        "b1": weights(16),
        "v0": weights(256, 40),
        "o0": weights(40),
        "v1": weights(40, 10),
        "o1": weights(10),
        "shape": np.array([1, 256]),
        "half": np.float32(0.5),
    }
    nodes = [
        node("Mul", "x half", "s"),
        node("Conv", "s w0", "a"),
        node("Relu", "a", "b"),
        node("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "c w1 b1", "d"),
        node("Relu", "d", "e"),
        node("AveragePool", "e", "f", kernel_shape=[2, 1], strides=[2, 2]),
        node("Reshape", "f shape", "g"),
        node("MatMul", "g v0", "h"),
        node("Add", "h o0", "i"),
        node("Relu", "i", "j"),
        node("MatMul", "j v1", "k"),
        node("Add", "k o1", "l"),
        node("Softmax", "l", "y"),
    ]
    return model(nodes, (1, 1, 28, 28), constants, opset=13)


@pytest.mark.parametrize("symmetric", [False, True])
def test_scalars_and_shared_tensors_of_a_lenet(symmetric: bool, tmp_path: Path) -> None:
    path = quantised(lenet(), tmp_path, ActivationSymmetric=symmetric)
    network = compare(path)
    assert ("Clamp" in {type(x.op).__name__ for x in network.layers}) == symmetric


def test_unsigned_weights_count_from_minus_128(tmp_path: Path) -> None:
    path = quantised(mobile(), tmp_path, per_channel=False, unsigned=True, unsigned_weights=True)
    with pytest.raises(InputError, match="weights with a zero point"):
        read_onnx(path)
    made = onnx.load(path)
    for t in made.graph.initializer:
        if t.name[:2] in {"w0", "w1", "w2", "w3", "w4", "v1", "v2"} and "zero_point" in t.name:
            t.CopyFrom(onnx.numpy_helper.from_array(np.array(128, np.uint8), t.name))
    network = compare(saved(made, tmp_path))
    assert all(
        layer.op.weight.quant == Affine(layer.op.weight.quant.scale)
        for layer in network.layers
        if isinstance(layer.op, Convolution | Dense) and layer.op.weight.quant
    )


# No ratio of these is simple: ONNX Runtime lets float32 decide ties.
QUANT = {
    "s": np.float32(0.0517),
    "z": np.int8(3),
    "t": np.float32(0.0973),
    "y0": np.int8(-128),
}
UNITS = np.array([0.0113, 0.0207], np.float32) * np.float32(0.0517)
INT8: dict[str, Any] = {
    "w": np.arange(-4, 4, dtype=np.int8).reshape(2, 4, 1, 1) * 20,
    "ws": np.array([0.0113, 0.0207], np.float32),
    "b": np.array([514, -187], np.float32) * UNITS,
    **QUANT,
}
READ = [
    node("QuantizeLinear", "x s z", "xq"),
    node("DequantizeLinear", "xq s z", "xd"),
    node("DequantizeLinear", "w ws", "wd", axis=0),
]
WRITTEN = [node("QuantizeLinear", "c t y0", "q"), node("DequantizeLinear", "q t y0", "y")]


def hand_made(*nodes: Any, constants: dict[str, Any] = INT8, **extra: Any) -> Any:
    return model([*READ, *nodes, *WRITTEN], (1, 4, 5, 6), constants, **extra)


def test_a_bias_in_floats_is_rounded_to_the_units_of_the_sums(tmp_path: Path) -> None:
    network = compare(saved(hand_made(node("Conv", "xd wd b", "c")), tmp_path))
    between = INT8 | {"b": INT8["b"] + 0.4 * UNITS}
    others = read_onnx(saved(hand_made(node("Conv", "xd wd b", "c"), constants=between), tmp_path))
    for conv in (x.op for x in (*network.layers, *others.layers)):
        assert isinstance(conv, Convolution)
        assert conv.bias is not None
        assert conv.bias.values.tolist() == [514, -187]
        assert conv.bias.quant is not None
        assert conv.bias.quant.unit == pytest.approx(0.0517)


def test_relu_between_a_layer_and_its_codes_is_its_clamp(tmp_path: Path) -> None:
    wide = INT8 | {"y0": np.int8(5)}
    nodes = [node("Conv", "xd wd b", "a"), node("Relu", "a", "c")]
    network = compare(saved(hand_made(*nodes, constants=wide), tmp_path))
    (conv,) = (x.op for x in network.layers)
    assert isinstance(conv, Convolution)
    assert conv.clamp == (0.0, np.inf)


def test_relu_of_codes_is_a_clamp(tmp_path: Path) -> None:
    network = compare(saved(hand_made(node("Relu", "xd", "c")), tmp_path))
    assert [type(x.op).__name__ for x in network.layers] == ["Clamp"]


def test_float_weights_that_the_file_itself_quantises(tmp_path: Path) -> None:
    w = np.random.default_rng(0).normal(0, 0.5, (2, 4, 1, 1)).astype(np.float32)
    nodes = [
        node("QuantizeLinear", "wf ws wz", "wq", axis=0),
        node("DequantizeLinear", "wq ws wz", "wr", axis=0),
        node("Conv", "xd wr b", "c"),
    ]
    made = hand_made(*nodes, constants={**INT8, "wf": w, "wz": np.zeros(2, np.int8)})
    (conv,) = (x.op for x in compare(saved(made, tmp_path)).layers)
    assert isinstance(conv, Convolution)
    assert conv.weight.origin == "wf"


def test_what_moves_codes_needs_none_of_its_own(tmp_path: Path) -> None:
    nodes = [
        node("MaxPool", "xd", "a", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", "a", "e", perm=[0, 1, 3, 2]),
        node("Slice", "e lo hi ax", "d"),
        node("Conv", "d wd b_", "c"),
    ]
    extra = {"lo": np.array([1]), "hi": np.array([3]), "ax": np.array([2]), "b_": INT8["b"]}
    network = compare(saved(hand_made(*nodes, constants=INT8 | extra), tmp_path))
    assert len({v.quant for v in network.values()}) == 2


def test_what_moves_between_a_layer_and_its_codes_moves_codes(tmp_path: Path) -> None:
    nodes = [
        node("GlobalAveragePool", "xd", "a"),
        node("Flatten", "a", "f1"),
        node("Relu", "xd", "e"),
        node("GlobalAveragePool", "e", "g"),
        node("Flatten", "g", "f2"),
        node("Concat", "f1 f2", "c", axis=1),
    ]
    network = compare(saved(hand_made(*nodes[:2], node("Identity", "f1", "c")), tmp_path))
    assert [type(x.op).__name__ for x in network.layers] == ["Mean", "Reshape"]
    assert len({v.quant for v in network.values()}) == 2
    with pytest.raises(InputError, match="in floats"):
        read_onnx(saved(hand_made(*nodes), tmp_path))


def test_a_mean_at_the_end_keeps_the_codes_that_it_reads(tmp_path: Path) -> None:
    """As in SqueezeNet: ONNX Runtime leaves it in floats, and answers with their mean."""
    nodes = [*READ, node("GlobalAveragePool", "xd", "a"), node("Flatten", "a", "y")]
    path = saved(model(nodes, (1, 4, 5, 6), INT8), tmp_path)
    network = read_onnx(path)
    assert {v.quant for v in network.values()} == {network.inputs[0].quant}
    compare(path)


def test_codes_as_inputs_and_outputs(tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", "x s z", "xd"),
        node("DequantizeLinear", "w ws", "wd", axis=0),
        node("Conv", "xd wd b", "c"),
        node("QuantizeLinear", "c t z", "y"),
    ]
    made = model(nodes, (1, 4, 5, 6), INT8 | {"z": np.uint8(131)})
    for info in (made.graph.input[0], made.graph.output[0]):
        info.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    network = compare(saved(made, tmp_path))
    assert network.inputs[0].quant == Affine((float(np.float32(0.0517)),), 3)


def test_one_tensor_in_two_scales(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "xd wd b", "a"),
        node("QuantizeLinear", "a t z", "a1"),
        node("DequantizeLinear", "a1 t z", "a2"),
        node("QuantizeLinear", "a2 s y0", "a3"),
        node("DequantizeLinear", "a3 s y0", "a4"),
        node("Add", "a2 a4", "c"),
    ]
    network = compare(saved(hand_made(*nodes), tmp_path))
    assert [type(x.op).__name__ for x in network.layers] == ["Convolution", "Requantise", "Sum"]


def test_a_normalisation_that_the_quantiser_left(tmp_path: Path) -> None:
    scale = np.array([0.7, -1.3, 0, 2.1], np.float32)
    extra = {"g": scale, "h": np.arange(4, dtype=np.float32), "m": weights(4), "v": np.ones(4, "f")}
    made = hand_made(node("BatchNormalization", "xd g h m v", "c"), constants=QUANT | INT8 | extra)
    path = saved(made, tmp_path)
    (layer,) = read_onnx(path).layers
    assert isinstance(layer.op, Convolution)
    feed = {"x": np.random.default_rng(0).integers(-128, 128, (4, 5, 6)).astype(np.int8)}
    theirs = runtime_values(path, [feed])[0][layer.output.name]
    given = read_onnx(path).inputs[0]
    mine = layer_codes(layer, read_onnx(path), {given: feed["x"][None]})
    differ = np.abs(mine[0].astype(int) - theirs)
    assert differ.max() <= 1
    assert (differ > 0).mean() < 0.02


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        (
            [node("Conv", "xd wd b", "c1"), node("Conv", "c1 v", "c")],
            {"v": weights(2, 2, 1, 1)},
            "in floats",
        ),
        ([node("Conv", "xd wd", "c")], {"ws": np.array([0.1, np.nan], np.float32)}, "finite"),
        ([node("Conv", "xd wd", "c")], {"ws": np.array([0.1, 0], np.float32)}, "above 0"),
        ([node("Conv", "xd wd", "c")], {"ws": np.ones(3, np.float32)}, "3 scales"),
        ([node("Conv", "xd wd", "c")], {"w": INT8["w"].astype(np.int16)}, "codes of int16"),
        ([node("Conv", "xd wd", "c")], {"z": np.uint16(7)}, "codes of uint16"),
        (
            [
                node("QuantizeLinear", "xd ss zz", "c1", axis=1),
                node("DequantizeLinear", "c1 ss zz", "c"),
            ],
            {"ss": np.ones(4, np.float32), "zz": np.zeros(4, np.int8)},
            "scale for each channel",
        ),
        (
            [node("DequantizeLinear", "w ws wz", "wr", axis=0), node("Conv", "xd wr", "c")],
            {"wz": np.array([1, 1], np.int8)},
            "weights with a zero point",
        ),
        (
            [node("DequantizeLinear", "w ws wz", "wr", axis=0), node("Conv", "xd wr", "c")],
            {"wz": np.array([1, 2], np.int8)},
            "zero point for each channel",
        ),
        ([node("QLinearConv", "xq s z w ws z t y0", "c")], {}, "QuantFormat.QDQ"),
        ([node("ConvInteger", "xq w", "c")], {}, "QuantFormat.QDQ"),
        (
            [helper.make_node("QLinearAdd", ["xq"] * 6, ["c"], name="n_c", domain="com.microsoft")],
            {},
            "before any optimiser",
        ),
    ],
    ids=str,
)
def test_what_is_no_int8_is_refused(
    nodes: list[Any], constants: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = saved(hand_made(*nodes, constants={**INT8, **constants}), tmp_path)
    with pytest.raises(InputError, match=said):
        read_onnx(path)


def test_the_oracle_says_why_a_file_does_not_run(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = hand_made(node("Conv", "xd wd b", "c"))
    made.ir_version = 999
    path = saved(made, tmp_path)
    x = np.zeros((4, 5, 6), np.int8)
    with pytest.raises(InputError, match="ONNX Runtime cannot run it"):
        runtime_values(path, [{read_onnx(path).inputs[0].name: x}])


@pytest.mark.parametrize("weight", ["w", "v"])
def test_weights_without_a_scale_among_layers_with_codes_are_refused(
    weight: str, tmp_path: Path
) -> None:
    constants = INT8 | {"v": weights(2, 4, 1, 1), "w2": INT8["w"][:, :2]}
    nodes = [
        node("Conv", f"xd {weight}", "c1"),
        node("QuantizeLinear", "c1 t y0", "q1"),
        node("DequantizeLinear", "q1 t y0", "d1"),
        node("DequantizeLinear", "w2 ws", "wd2", axis=0),
        node("Conv", "d1 wd2", "c"),
    ]
    path = saved(hand_made(*nodes, constants=constants), tmp_path)
    with pytest.raises((InputError, NoGraphError), match=r"n_c1.*(no scale|in floats)"):
        lower(simplify(read_onnx(path)))
