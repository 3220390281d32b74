"""ONNX files as networks of layers: what they compute is what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_files import Array, helper, model, node, onnx, run, saved

from kilograd.errors import InputError
from kilograd.frontend.onnx import checksum, read_onnx
from kilograd.frontend.onnx.file import NEWEST, OLDEST
from kilograd.frontend.onnx.oracle import runtime_values
from kilograd.layers.evaluate import evaluate
from kilograd.layers.network import (
    ChannelScale,
    Clamp,
    Convolution,
    Curve,
    CurveKind,
    Dense,
    Network,
)


def weights(*shape: int) -> Array:
    """Return the same numbers for the same shape."""
    rng = np.random.default_rng(sum(shape))
    return rng.normal(0, 0.3, shape).astype(np.float32)


def kinds(network: Network) -> list[str]:
    return [type(x.op).__name__ for x in network.layers]


def same(made: Any, folder: Path, shape: tuple[int, ...]) -> Network:
    """Read a model, compare with ONNX Runtime on random inputs, and return the network."""
    path = saved(made, folder)
    network = read_onnx(path)
    x = np.random.default_rng(1).normal(0, 2, (1, *shape)).astype(np.float32)
    mine = evaluate(network, {network.inputs[0].name: x})
    for value, y in zip(network.outputs, run(path, x), strict=True):
        assert mine[value].size == y.size
        np.testing.assert_allclose(mine[value].ravel(), y.ravel(), rtol=1e-4, atol=1e-5)
    return network


MAP = (4, 9, 7)
CONV = {"w": weights(6, 4, 3, 3), "b": weights(6)}

MAPS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "conv": ([node("Conv", "x w b", "y", pads=[1, 0, 2, 1], strides=[2, 1])], CONV),
    "conv same upper": ([node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2])], CONV),
    "conv same lower": ([node("Conv", "x w", "y", auto_pad="SAME_LOWER", strides=[2, 2])], CONV),
    "conv valid": ([node("Conv", "x w", "y", auto_pad="VALID", kernel_shape=[3, 3])], CONV),
    "conv dilated": ([node("Conv", "x w", "y", dilations=[2, 2])], CONV),
    "conv in groups": ([node("Conv", "x w", "y", group=2)], {"w": weights(6, 2, 3, 3)}),
    "depthwise": ([node("Conv", "x w", "y", group=4)], {"w": weights(8, 1, 3, 3)}),
    "max pool": ([node("MaxPool", "x", "y", kernel_shape=[3, 2], strides=[2, 2])], {}),
    "max pool ceil": (
        [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        {},
    ),
    "average pool": (
        [node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)],
        {},
    ),
    "average pool, all counted": (
        [node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)],
        {},
    ),
    "average pool, same": (
        [node("AveragePool", "x", "y", kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")],
        {},
    ),
    "global": ([node("GlobalAveragePool", "x", "y")], {}),
    "global max": ([node("GlobalMaxPool", "x", "y")], {}),
    "mean": ([node("ReduceMean", "x a", "y", keepdims=0)], {"a": np.array([2, -1])}),
    "batch norm": (
        [node("BatchNormalization", "x s b m v", "y", epsilon=1e-3)],
        {"s": weights(4), "b": weights(4), "m": weights(4), "v": np.abs(weights(4))},
    ),
    "nearest": (
        [node("Resize", "x - f", "y", mode="nearest")],
        {"f": np.array([1, 1, 2, 3], np.float32)},
    ),
    "nearest by sizes": (
        [
            node(
                "Resize",
                "x - - s",
                "y",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"s": np.array([1, 4, 18, 21])},
    ),
    "pad": (
        [node("Pad", "x p v", "y")],
        {"p": np.array([0, 1, 2, 0, 0, 0, 1, 3]), "v": weights(1)[0]},
    ),
    "split": (
        [node("Split", "x", "a b", axis=1, num_outputs=2), node("Mul", "a b", "y")],
        {},
    ),
    "slice": (
        [node("Slice", "x b e a s", "y")],
        {
            "b": np.array([-1, 0]),
            "e": np.array([-99, 6]),
            "a": np.array([1, 2]),
            "s": np.array([-2, 3]),
        },
    ),
    "gather": ([node("Gather", "x i", "y", axis=1)], {"i": np.array([3, 0, -1])}),
    "gather one": ([node("Gather", "x i", "y", axis=2)], {"i": np.array(-2)}),
    "concat": (
        [node("Relu", "x", "r"), node("Concat", "x r x", "y", axis=-1)],
        {},
    ),
    "transpose": ([node("Transpose", "x", "y", perm=[0, 2, 3, 1])], {}),
    "shuffle": (
        [
            node("Reshape", "x s", "a"),
            node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "b t", "y"),
        ],
        {"s": np.array([0, 2, 2, 9, 7]), "t": np.array([1, -1, 9, 7])},
    ),
    "shapes computed": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n axes", "n1"),
            node("Concat", "n1 rest", "to", axis=0),
            node("Reshape", "x to", "y"),
        ],
        {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])},
    ),
    "flatten and gemm": (
        [node("Flatten", "x", "f"), node("Gemm", "f w b", "y", transB=1)],
        {"w": weights(5, 252), "b": weights(5)},
    ),
    "matmul and add": (
        [node("Flatten", "x", "f"), node("MatMul", "f w", "m"), node("Add", "b m", "y")],
        {"w": weights(252, 5), "b": weights(5)},
    ),
    "matmul of rows": (
        [node("MatMul", "x w", "m"), node("Add", "m b", "y")],
        {"w": weights(7, 3), "b": weights(3)},
    ),
    "squeeze and excite": (
        [
            node("GlobalAveragePool", "x", "p"),
            node("Conv", "p w", "c"),
            node("HardSigmoid", "c", "g", alpha=1 / 6),
            node("Mul", "x g", "y"),
        ],
        {"w": weights(4, 4, 1, 1)},
    ),
    "constants by channel": (
        [
            node("Mul", "x k", "a"),
            node("Sub", "k a", "b"),
            node("Div", "b k", "c"),
            node("Add", "c k", "y"),
        ],
        {"k": weights(4, 1, 1) + 2},
    ),
    "constants by pixel": ([node("Add", "x k", "y")], {"k": weights(1, 4, 9, 7)}),
    "softmax": ([node("Softmax", "x", "y", axis=-1)], {}),
    "dropout, identity": (
        [node("Dropout", "x", "a"), node("Identity", "a", "b"), node("Relu", "b", "y")],
        {},
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_an_operator_means_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    nodes, constants = MAPS[name]
    same(model(nodes, (1, *MAP), constants), tmp_path, MAP)


def test_maps_of_one_axis(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a", pads=[2, 1], strides=[2]),
        node("BatchNormalization", "a s s s s", "b"),
        node("Relu", "b", "c"),
        node("MaxPool", "c", "d", kernel_shape=[3], strides=[2]),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "f"),
        node("Gemm", "f v", "y"),
    ]
    constants = {"w": weights(8, 3, 5), "s": np.abs(weights(8)) + 1, "v": weights(8, 2)}
    network = same(model(nodes, ("batch", 3, 40), constants), tmp_path, (3, 40))
    assert network.inputs[0].shape == (3, 40)
    (conv,) = (x for x in network.layers if isinstance(x.op, Convolution))
    assert isinstance(conv.op, Convolution)
    assert conv.op.weight.values.shape == (8, 1, 5, 3)
    assert conv.op.weight.origin == "w"
    assert conv.op.pad == (0, 0, 2, 1)


def scalars(**values: float) -> dict[str, Any]:
    return {k: np.float32(v) for k, v in values.items()}


SIX = scalars(three=3, zero=0, six=6, sixth=1 / 6)
FUNCTIONS: dict[str, tuple[list[Any], dict[str, Any], Curve | Clamp]] = {
    "relu6 by clip": ([node("Clip", "x zero six", "y")], SIX, Clamp((0.0, 6.0))),
    "relu6 by min and max": (
        [node("Max", "x zero", "a"), node("Min", "six a", "y")],
        SIX,
        Clamp((0.0, 6.0)),
    ),
    "silu": (
        [node("Sigmoid", "x", "a"), node("Mul", "x a", "y")],
        {},
        Curve(CurveKind.SILU),
    ),
    "hard-swish, whole": ([node("HardSwish", "x", "y")], {}, Curve(CurveKind.HARD_SWISH)),
    "hard-swish, quantiser's": (
        [node("HardSigmoid", "x", "a", alpha=1 / 6), node("Mul", "x a", "y")],
        {},
        Curve(CurveKind.HARD_SWISH),
    ),
    "hard-swish, old torch's": (
        [
            node("Add", "x three", "a"),
            node("Clip", "a zero six", "b"),
            node("Mul", "x b", "c"),
            node("Div", "c six", "y"),
        ],
        SIX,
        Curve(CurveKind.HARD_SWISH),
    ),
    "hard-sigmoid": (
        [node("Add", "three x", "a"), node("Clip", "a zero six", "b"), node("Mul", "b sixth", "y")],
        SIX,
        Curve(CurveKind.HARD_SIGMOID),
    ),
    "gelu, old torch's": (
        [
            node("Div", "x root", "a"),
            node("Erf", "a", "b"),
            node("Add", "b one", "c"),
            node("Mul", "x c", "d"),
            node("Mul", "d half", "y"),
        ],
        scalars(root=2**0.5, one=1, half=0.5),
        Curve(CurveKind.GELU),
    ),
    "gelu with tanh, old torch's": (
        [
            node("Pow", "x cube", "a"),
            node("Mul", "a k", "b"),
            node("Add", "x b", "c"),
            node("Mul", "c r", "d"),
            node("Tanh", "d", "e"),
            node("Add", "e one", "f"),
            node("Mul", "x f", "g"),
            node("Mul", "g half", "y"),
        ],
        scalars(cube=3, k=0.044715, r=(2 / np.pi) ** 0.5, one=1, half=0.5),
        Curve(CurveKind.GELU_TANH),
    ),
    "mish": (
        [node("Softplus", "x", "a"), node("Tanh", "a", "b"), node("Mul", "x b", "y")],
        {},
        Curve(CurveKind.MISH),
    ),
    "leaky": ([node("LeakyRelu", "x", "y", alpha=0.1)], {}, Curve(CurveKind.LEAKY, 0.1)),
    "leaky by prelu": ([node("PRelu", "x s", "y")], scalars(s=0.25), Curve(CurveKind.LEAKY, 0.25)),
    "leaky by maximum": (
        [node("Mul", "x s", "a"), node("Max", "a x", "y")],
        scalars(s=0.25),
        Curve(CurveKind.LEAKY, 0.25),
    ),
    "elu": ([node("Elu", "x", "y", alpha=0.5)], {}, Curve(CurveKind.ELU, 0.5)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_told_however_it_is_written(name: str, tmp_path: Path) -> None:
    nodes, constants, known = FUNCTIONS[name]
    network = same(model(nodes, (1, 3, 4, 5), constants), tmp_path, (3, 4, 5))
    (layer,) = network.layers
    if isinstance(known, Clamp):
        assert layer.op == known
    else:
        assert isinstance(layer.op, Curve)
        assert layer.op.kind is known.kind
        assert layer.op.parameter == pytest.approx(known.parameter)


def test_a_function_that_others_read_in_part_is_told_in_parts(tmp_path: Path) -> None:
    nodes = [
        node("Relu", "x", "r"),
        node("Conv", "r w", "c"),
        node("Add", "c r", "s"),
        node("Sigmoid", "s", "g"),
        node("Mul", "s g", "t"),
        node("Mul", "t g", "y"),
    ]
    network = same(model(nodes, (1, 4, 5, 5), {"w": weights(4, 4, 1, 1)}), tmp_path, (4, 5, 5))
    assert kinds(network) == ["Clamp", "Convolution", "Sum", "Curve", "Curve", "Product"]


def test_a_bias_behind_a_layer_is_its_own(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Add", "c b", "d"),
        node("Reshape", "d s", "f"),
        node("MatMul", "f v", "m"),
        node("Add", "m o", "y"),
    ]
    constants = {"w": weights(6, 4, 9, 7), "b": weights(1, 6, 1, 1), "s": np.array([1, 6])}
    constants |= {"v": weights(6, 3), "o": weights(3)}
    network = same(model(nodes, (1, *MAP), constants), tmp_path, MAP)
    assert kinds(network) == ["Convolution", "Reshape", "Dense"]
    conv, _, dense = (x.op for x in network.layers)
    assert isinstance(conv, Convolution)
    assert isinstance(dense, Dense)
    assert conv.bias is not None
    assert dense.bias is not None
    assert (conv.bias.origin, dense.weight.origin, dense.bias.origin) == ("b", "v", "o")


def test_values_are_those_of_the_tensors_that_they_are_named_for(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Add", "c b", "d"),
        node("HardSigmoid", "d", "e", alpha=1 / 6),
        node("Mul", "d e", "f"),
        node("Reshape", "f s", "g"),
        node("MatMul", "g v", "m"),
        node("Add", "m o", "y"),
    ]
    constants = {"w": weights(6, 4, 9, 7), "b": weights(1, 6, 1, 1), "s": np.array([1, 6])}
    constants |= {"v": weights(6, 3), "o": weights(3)}
    path = saved(model(nodes, (1, *MAP), constants), tmp_path)
    network = read_onnx(path)
    x = np.random.default_rng(1).normal(size=(1, *MAP)).astype(np.float32)
    (theirs,) = runtime_values(path, [{"x": x[0]}])
    mine = evaluate(network, {"x": x}, network.values())
    compared = [v for v in network.values() if v.name in theirs]
    assert len(compared) == len(network.layers)
    for v in compared:
        np.testing.assert_allclose(mine[v][0], theirs[v.name], rtol=1e-4, atol=1e-5)


def test_old_files_say_in_attributes_what_new_ones_say_in_inputs(tmp_path: Path) -> None:
    nodes = [
        node("Clip", "x", "a", min=-1.0, max=1.0),
        node("Pad", "a", "b", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
        node("Upsample", "b", "c", scales=[1.0, 1.0, 2.0, 2.0]),
        node("Slice", "c", "d", starts=[1], ends=[3], axes=[1]),
        node("ReduceMean", "d", "e", axes=[2, 3], keepdims=1),
        node("Squeeze", "e", "f", axes=[2, 3]),
        node("Softmax", "f", "y"),
    ]
    same(model(nodes, (1, *MAP), opset=8), tmp_path, MAP)


def test_initialisers_may_stand_among_the_inputs_and_layers_in_any_order(tmp_path: Path) -> None:
    made = model(
        [node("Relu", "c", "y"), node("Conv", "x w", "c")], (1, *MAP), {"w": weights(2, 4, 1, 1)}
    )
    made.graph.input.append(helper.make_tensor_value_info("w", 1, (2, 4, 1, 1)))
    assert kinds(read_onnx(saved(made, tmp_path))) == ["Convolution", "Clamp"]


def test_what_nothing_needs_is_not_read(tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y"), node("LSTM", "x w w", "z")], (1, 3), {"w": weights(1)})
    assert len(read_onnx(saved(made, tmp_path)).layers) == 1


# -- what is refused -------------------------------------------------------------------------------


def refusal(made: Any, folder: Path) -> str:
    with pytest.raises(InputError) as e:
        read_onnx(saved(made, folder))
    assert str(e.value).startswith(f"{folder}/net.onnx: ")
    return str(e.value)


def test_all_that_is_not_supported_is_said_at_once(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("LSTM", "c w w", "l"),
        node("Resize", "x - f", "r", mode="linear"),
        node("LayerNormalization", "r s", "n"),
        helper.make_node("Magic", ["n"], ["m"], name="magic", domain="my.own"),
        node("Conv", "m w", "d"),
        node("Einsum", "x x", "e", equation="bchw,bchw->bchw"),
        node("Concat", "l d e", "y", axis=1),
    ]
    constants = {"w": weights(4, 4, 1, 1), "f": np.array([1, 1, 2, 2], np.float32), "s": weights(7)}
    said = refusal(model(nodes, (1, *MAP), constants), tmp_path)
    assert "5 layers" in said
    for part in (
        "LSTM (n_l",
        "Resize (n_r [1, 4, 9, 7])",
        "LayerNormalization (n_n",
        "my.own.Magic",
        "n_e",
    ):
        assert part in said


def test_a_function_that_is_not_known_is_named_once(tmp_path: Path) -> None:
    nodes = [
        node("Erf", "x", "e"),
        node("Conv", "e w", "a"),
        node("Conv", "e w", "b"),
        node("Reciprocal", "x", "y"),
        node("Add", "a b", "z"),
    ]
    made = model(nodes, (1, *MAP), {"w": weights(4, 4, 1, 1)}, outputs="y z e")
    said = refusal(made, tmp_path)
    assert "2 layers" in said
    assert "Erf (n_e [1, 4, 9, 7])" in said
    assert "Reciprocal (n_y" in said


def test_control_flow_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [node("Relu", "x", "b")], "b", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    made = model(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        (1, 3),
        {"c": np.array(True)},
    )
    assert "control flow" in refusal(made, tmp_path)


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((1, 3, "height", "width"), "height, width"),
        ((8, 3, 4, 4), "a batch of 8"),
        ((), "no shape"),
    ],
)
def test_shapes_must_be_fixed(shape: tuple[int | str, ...], part: str, tmp_path: Path) -> None:
    assert part in refusal(model([node("Relu", "x", "y")], shape), tmp_path)


@pytest.mark.parametrize("opset", [1, 6, 99])
def test_versions_that_are_not_read_are_named(opset: int, tmp_path: Path) -> None:
    assert f"version {opset} " in refusal(
        model([node("Relu", "x", "y")], (1, 3), opset=opset), tmp_path
    )


def test_training_graphs_are_refused(tmp_path: Path) -> None:
    norm = {"s": weights(4)}
    nodes = [node("BatchNormalization", "x s s s s", "y m v", training_mode=1)]
    assert "training mode" in refusal(model(nodes, (1, *MAP), norm), tmp_path)
    nodes = [node("Dropout", "x r t", "y")]
    drop = {"r": np.float32(0.5), "t": np.array(True)}
    assert "training mode" in refusal(model(nodes, (1, *MAP), drop), tmp_path)
    made = model([node("Relu", "x", "y")], (1, 3))
    made.training_info.add()
    assert "training graph" in refusal(made, tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_must_be_finite(bad: float, tmp_path: Path) -> None:
    w = weights(2, 4, 1, 1)
    w[1, 2] = bad
    assert "'w' holds" in refusal(model([node("Conv", "x w", "y")], (1, *MAP), {"w": w}), tmp_path)


def test_graphs_without_order_are_refused(tmp_path: Path) -> None:
    made = model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")], (1, 3))
    assert "depends on itself" in refusal(made, tmp_path)
    made = model([node("Add", "x nowhere", "y")], (1, 3))
    assert "nothing makes tensor 'nowhere'" in refusal(made, tmp_path)
    made = model([node("Relu", "x", "y"), node("Neg", "x", "y")], (1, 3))
    assert "made twice" in refusal(made, tmp_path)


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y")], (1, 3))
    made.graph.sparse_initializer.add().values.name = "w"
    assert "sparse" in refusal(made, tmp_path)


@pytest.mark.parametrize("part", [0, 0.01, 0.2, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(part: float, tmp_path: Path) -> None:
    made = model([node("Conv", "x w", "y")], (1, *MAP), {"w": weights(2, 4, 1, 1)})
    path = tmp_path / "net.onnx"
    whole = made.SerializeToString()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(InputError, match=r"net\.onnx"):
        read_onnx(path)


def outside(folder: Path, location: str, **about: str) -> Any:
    """Return a model, the weights of which lie in a file of their own."""
    made = model([node("Conv", "x w", "y")], (1, *MAP), {"w": weights(2, 4, 1, 1)})
    (w,) = made.graph.initializer
    (folder / "net.data").write_bytes(w.raw_data)
    w.ClearField("raw_data")
    w.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **about}.items():
        w.external_data.add(key=key, value=value)
    return made


def test_weights_in_a_file_beside_are_read(tmp_path: Path) -> None:
    same(outside(tmp_path, "net.data"), tmp_path, MAP)
    same(outside(tmp_path, "net.data", offset="0", length="32"), tmp_path, MAP)


def test_weights_in_a_file_beside_count_in_the_checksum(tmp_path: Path) -> None:
    path = saved(outside(tmp_path, "net.data"), tmp_path)
    before = read_onnx(path).source.sha256
    assert checksum(path) == before
    (tmp_path / "net.data").write_bytes(bytes(32))
    assert checksum(path) != before


def test_weights_elsewhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(bytes(32))
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    for location in ("../secret", str(tmp_path / "secret"), "link", "", ".", "absent", "a\0b"):
        with pytest.raises(InputError, match=r"'w'|absent"):
            read_onnx(saved(outside(tmp_path / "in", location), tmp_path / "in"))
    for about in (
        {"offset": "8"},
        {"offset": "-1"},
        {"length": "99"},
        {"length": "x"},
        {"length": "4"},
    ):
        assert "'w'" in refusal(outside(tmp_path, "net.data", **about), tmp_path)


@pytest.mark.parametrize("dims", [(1 << 40,), (1 << 31, 1 << 31), (-1,), (0,), (5,)])
def test_tensors_that_cannot_be_are_refused(dims: tuple[int, ...], tmp_path: Path) -> None:
    made = model([node("Conv", "x w", "y")], (1, *MAP), {"w": weights(2, 4, 1, 1)})
    made.graph.initializer[0].dims[:] = dims
    refusal(made, tmp_path)


@pytest.mark.parametrize(
    "made",
    [
        node("Conv", "x w", "y", strides=[0, 1]),
        node("Conv", "x w", "y", strides=[1 << 40, 1]),
        node("Conv", "x w", "y", pads=[-1, 0, 0, 0]),
        node("Conv", "x w", "y", kernel_shape=[1, 1], dilations=[1, 0]),
        node("Conv", "x w", "y", group=3),
        node("Conv", "x w", "y", group=0),
        node("Conv", "x w", "y", kernel_shape=[5, 5]),
        node("Conv", "x w", "y", auto_pad="ODD"),
        node("Conv", "x w", "y", strides=1.5),
        node("Conv", "x w", "y", strides=["a"]),
        node("MaxPool", "x", "y"),
        node("MaxPool", "x", "y", kernel_shape=[3, 3], pads=[3, 3, 3, 3]),
        node("Concat", "x x", "y", axis=9),
        node("Concat", "x x", "y", axis=0),
        node("Transpose", "x", "y", perm=[0, 0, 1, 2]),
        node("Flatten", "x", "y", axis=77),
        node("Split", "x", "y z", axis=1, split=[1, 1]),
        node("Squeeze", "x", "y", axes=[1]),
        node("LeakyRelu", "x", "y", alpha=float("nan")),
        node("Clip", "x", "y", min=float("nan")),
        node("Cast", "x", "y", to=7),
        node("Relu", "-", "y"),
        node("Reshape", "x", "y"),
    ],
    ids=str,
)
def test_operators_that_cannot_be_are_refused(made: Any, tmp_path: Path) -> None:
    assert "n_y" in refusal(model([made], (1, *MAP), {"w": weights(4, 4, 1, 1)}), tmp_path)


@pytest.mark.parametrize("size", [1 << 30, 1 << 62])
def test_constants_that_blow_up_are_refused(size: int, tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", "n", "c"), node("Add", "x c", "y")]
    assert "n_c" in refusal(model(nodes, (1, 3), {"n": np.array([size])}), tmp_path)


def test_a_sum_of_one_shape_stays_a_sum(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("Conv", "x v", "b"), node("Sub", "a b", "c")]
    said = refusal(
        model(
            [*nodes, node("Relu", "c", "y")],
            (1, *MAP),
            {"w": weights(2, 4, 1, 1), "v": weights(2, 4, 1, 1)},
        ),
        tmp_path,
    )
    assert "only Add and Mul" in said
    made = model([node("Mul", "x k", "y")], (1, *MAP), {"k": weights(4, 1, 1)})
    (layer,) = same(made, tmp_path, MAP).layers
    assert isinstance(layer.op, ChannelScale)


def test_every_version_is_read(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "a"),
        node("MaxPool", "a", "b", kernel_shape=[2, 2]),
        node("Relu", "b", "c"),
        node("GlobalAveragePool", "c", "d"),
        node("Flatten", "d", "e"),
        node("Gemm", "e v o", "y"),
    ]
    constants = {"w": weights(6, 4, 3, 3), "v": weights(6, 2), "o": weights(2)}
    for opset in range(OLDEST, NEWEST + 1):
        same(model(nodes, (1, *MAP), constants, opset=opset), tmp_path, MAP)
