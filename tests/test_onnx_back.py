"""What was learned stands in the ONNX file afterwards, and ONNX Runtime computes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_files import Array, model, node, onnx, quantised, run, saved

from kilograd.errors import InputError
from kilograd.frontend.onnx import read_onnx, write_onnx
from kilograd.frontend.onnx.oracle import runtime_values
from kilograd.ir import Affine, interpret
from kilograd.layers.evaluate import codes, evaluate
from kilograd.layers.learned import Learned
from kilograd.layers.lower import lower
from kilograd.layers.network import Convolution, Dense, Layer, Network, Tensor
from kilograd.layers.simplify import simplify


def weights(*shape: int) -> Array:
    rng = np.random.default_rng(sum(shape))
    return rng.normal(0, 0.4, shape).astype(np.float32)


def small(*, normalised: bool = False, head: Sequence[Any] = ()) -> Any:
    """Return a network of convolutions with a classifier of three classes."""
    constants = {
        "w0": weights(8, 3, 3, 3),
        "w1": weights(8, 1, 3, 3),
        "w2": weights(12, 8, 1, 1),
        "b2": weights(12),
        "v": weights(12, 3),
        "o": weights(3),
        "s": np.abs(weights(8)) + 0.5,
        "h": weights(8),
        "m": weights(8),
        "q": np.ones(8, "f"),
    }
    normal = [node("BatchNormalization", "a s h m q", "b"), node("Relu", "b", "c")]
    nodes = [
        node("Conv", "x w0", "a", strides=[2, 2], pads=[0, 0, 1, 1]),
        *(normal if normalised else [node("Relu", "a", "c")]),
        node("Conv", "c w1", "d", group=8, pads=[1] * 4),
        node("Relu", "d", "e"),
        node("Conv", "e w2 b2", "f"),
        node("Relu", "f", "g"),
        node("GlobalAveragePool", "g", "i"),
        node("Flatten", "i", "j"),
        *(head or [node("Gemm", "j v o", "y")]),
    ]
    return model(nodes, (1, 3, 12, 12), constants)


def weighted(network: Network) -> list[Layer]:
    return [x for x in network.layers if isinstance(x.op, Convolution | Dense)]


def changed(old: Tensor | None, count: int = 0) -> Tensor | None:
    """Return other numbers of the same kind, for as many outputs."""
    if old is None:
        return None
    rng = np.random.default_rng(9)
    n = count or len(old.values)
    shape = (n, *old.values.shape[1:])
    if old.quant is None:
        return replace(old, values=rng.normal(0, 0.3, shape).astype(np.float32))
    values = rng.integers(-127, 128, shape) * (20 if old.values.dtype == np.int32 else 1)
    scale = old.quant.scale
    scale = scale if n == len(scale) or len(scale) == 1 else tuple(np.resize(scale, n).tolist())
    return replace(
        old, values=values.astype(old.values.dtype), quant=replace(old.quant, scale=scale)
    )


def relearned(layer: Layer, count: int = 0, output: Affine | None = None) -> Learned:
    assert isinstance(layer.op, Convolution | Dense)
    weight = changed(layer.op.weight, count)
    bias = changed(layer.op.bias, count)
    assert weight is not None
    return Learned(weight, bias, output)


def with_learned(network: Network, learned: dict[str, Learned]) -> Network:
    """Return a network with other numbers, of the same shapes."""
    layers = []
    for x in network.layers:
        if x.name in learned and isinstance(x.op, Convolution | Dense):
            op = replace(x.op, weight=learned[x.name].weight, bias=learned[x.name].bias)
            layers.append(replace(x, op=op))
        else:
            layers.append(x)
    return replace(network, layers=tuple(layers))


def same_codes(path: Path, wanted: Network) -> None:
    """Compare what ONNX Runtime makes of a file with what a graph of layers with codes answers."""
    graph = lower(wanted).graph
    (image,), (given,) = graph.inputs(), wanted.inputs
    assert given.quant is not None
    x = np.random.default_rng(6).normal(size=(6, *image.type.shape))
    feeds = [codes(one, given.quant) for one in x]
    theirs = runtime_values(path, [{given.name: one.transpose(2, 0, 1)} for one in feeds])
    for one, found in zip(feeds, theirs, strict=True):
        mine = interpret(graph, {image.name: one})[graph.outputs[1].name]
        assert isinstance(mine, np.ndarray)
        np.testing.assert_array_equal(mine.ravel(), found[wanted.outputs[0].name].ravel())


@pytest.mark.parametrize(
    "how",
    [{}, {"per_channel": False}, {"unsigned": True}],
    ids=["by channel", "by tensor", "unsigned"],
)
def test_an_int8_file_computes_with_what_was_learned(how: dict[str, Any], tmp_path: Path) -> None:
    path = quantised(small(), tmp_path, **how)
    plain = simplify(read_onnx(path))
    learned = {x.name: relearned(x) for x in weighted(plain)[1:]}
    before = path.read_bytes()
    out = tmp_path / "learned.onnx"
    out.write_bytes(write_onnx(path, learned))
    assert path.read_bytes() == before
    same_codes(out, with_learned(plain, learned))
    assert len(onnx.load(out).graph.node) == len(onnx.load(path).graph.node)


def test_what_is_not_learned_stays(tmp_path: Path) -> None:
    path = quantised(small(), tmp_path)
    assert write_onnx(path, {}) == onnx.load(path).SerializeToString()
    plain = simplify(read_onnx(path))
    last = weighted(plain)[-1]
    old, new = (
        onnx.load(path),
        onnx.ModelProto.FromString(write_onnx(path, {last.name: relearned(last)})),
    )
    differ = {
        a.name for a, b in zip(old.graph.initializer, new.graph.initializer, strict=True) if a != b
    }
    assert differ == {"v_quantized", "o_quantized"}


@pytest.mark.parametrize("unsigned", [False, True])
def test_a_new_head_has_another_number_of_classes(unsigned: bool, tmp_path: Path) -> None:
    path = quantised(small(), tmp_path, unsigned=unsigned)
    plain = simplify(read_onnx(path))
    head = weighted(plain)[-1]
    learned = {head.name: relearned(head, 7, Affine((0.173,), -11))}
    out = tmp_path / "learned.onnx"
    out.write_bytes(write_onnx(path, learned))
    found = simplify(read_onnx(out))
    (value,) = found.outputs
    assert value.shape == (7,)
    assert value.quant == Affine((float(np.float32(0.173)),), -11)
    op = weighted(found)[-1].op
    assert isinstance(op, Dense)
    np.testing.assert_array_equal(op.weight.values, learned[head.name].weight.values)
    same_codes(out, found)


def test_a_bias_is_added_where_there_was_none(tmp_path: Path) -> None:
    path = quantised(small(), tmp_path)
    plain = simplify(read_onnx(path))
    second = weighted(plain)[1]
    op = second.op
    assert isinstance(op, Convolution)
    assert op.bias is None
    assert op.weight.quant is not None
    assert second.inputs[0].quant is not None
    quant = replace(op.weight.quant, unit=second.inputs[0].quant.scale[0])
    bias = Tensor(np.arange(-400, 400, 100, dtype=np.int32), quant)
    learned = {second.name: Learned(op.weight, bias)}
    out = tmp_path / "learned.onnx"
    out.write_bytes(write_onnx(path, learned))
    same_codes(out, with_learned(plain, learned))


def test_a_float_file_computes_with_what_was_learned(tmp_path: Path) -> None:
    path = saved(small(normalised=True), tmp_path)
    plain = simplify(read_onnx(path))
    learned = {x.name: relearned(x) for x in weighted(plain)}
    assert len(learned) == 4
    out = tmp_path / "learned.onnx"
    out.write_bytes(write_onnx(path, learned))
    x = np.random.default_rng(1).normal(size=(1, 3, 12, 12)).astype(np.float32)
    (y,) = run(out, x)
    mine = evaluate(with_learned(plain, learned), {"x": x.transpose(0, 2, 3, 1)})
    np.testing.assert_allclose(y.ravel(), mine[plain.outputs[0]].ravel(), rtol=1e-4, atol=1e-5)
    assert [n.op_type for n in onnx.load(out).graph.node].count("Identity") == 1


def test_codes_become_reals_in_a_float_file(tmp_path: Path) -> None:
    path = saved(small(), tmp_path)
    plain = simplify(read_onnx(path))
    head = weighted(plain)[-1]
    values = np.random.default_rng(2).integers(-127, 128, (5, 12)).astype(np.int8)
    quant = Affine(tuple(np.linspace(0.01, 0.02, 5).tolist()), 0, 0)
    bias = Tensor(np.arange(5, dtype=np.int32) * 9, replace(quant, unit=0.5))
    out = tmp_path / "learned.onnx"
    out.write_bytes(write_onnx(path, {head.name: Learned(Tensor(values, quant), bias)}))
    x = np.random.default_rng(1).normal(size=(1, 3, 12, 12)).astype(np.float32)
    (y,) = run(out, x)
    assert y.shape == (1, 5)
    found = weighted(simplify(read_onnx(out)))[-1].op
    assert isinstance(found, Dense)
    scale = np.array(quant.scale)
    np.testing.assert_allclose(found.weight.values, values * scale[:, None], rtol=1e-6)


def test_columns_go_where_the_file_has_them(tmp_path: Path) -> None:
    nodes = [node("Conv", "x k", "r"), node("Flatten", "r", "f"), node("Gemm", "f w", "y")]
    constants = {"k": weights(4, 4, 1, 1), "w": weights(24, 5)}
    path = saved(model(nodes, (1, 4, 3, 2), constants), tmp_path)
    plain = simplify(read_onnx(path))
    _, dense = weighted(plain)
    assert isinstance(dense.op, Dense)
    assert dense.op.weight.order
    learned = {dense.name: relearned(dense)}
    out = tmp_path / "learned.onnx"
    out.write_bytes(write_onnx(path, learned))
    x = np.random.default_rng(1).normal(size=(1, 4, 3, 2)).astype(np.float32)
    mine = evaluate(with_learned(plain, learned), {"x": x.transpose(0, 2, 3, 1)})
    (y,) = run(out, x)
    np.testing.assert_allclose(y.ravel(), mine[plain.outputs[0]].ravel(), rtol=1e-4, atol=1e-5)


def test_a_matrix_product_with_a_sum_behind(tmp_path: Path) -> None:
    head = [node("MatMul", "j v", "k"), node("Add", "k o", "l"), node("Softmax", "l", "y")]
    path = saved(small(head=head), tmp_path)
    plain = simplify(read_onnx(path))
    last = weighted(plain)[-1]
    for count in (3, 6):
        out = tmp_path / "learned.onnx"
        out.write_bytes(write_onnx(path, {last.name: relearned(last, count)}))
        (y,) = run(out, np.zeros((1, 3, 12, 12), np.float32))
        assert y.shape == (1, count)


Change = Callable[[Layer], Learned]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("nowhere", relearned, "has no layer 'nowhere'"),
        ("n_c", relearned, "has no layer 'n_c'"),
        ("n_f", lambda x: relearned(x, 5), "is not the last"),
        ("n_y", lambda x: replace(relearned(x), bias=None), "is given none"),
        ("n_y", lambda x: replace(relearned(x), bias=relearned(x, 9).bias), "9 biases for 3"),
        ("n_y", lambda x: Learned(Tensor(weights(3, 5)), Tensor(weights(3))), r"weights \[3, 12\]"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, change: Change, said: str, tmp_path: Path) -> None:
    path = saved(small(), tmp_path)
    layers = {x.name: x for x in weighted(simplify(read_onnx(path)))}
    with pytest.raises(InputError, match=said):
        write_onnx(path, {name: change(layers.get(name, layers["n_y"]))})


def test_numbers_that_the_file_computes_are_refused(tmp_path: Path) -> None:
    nodes = [node("Mul", "w two", "v"), node("Conv", "x v", "y")]
    constants = {"w": weights(2, 3, 1, 1), "two": np.float32(2)}
    path = saved(model(nodes, (1, 3, 4, 4), constants), tmp_path)
    plain = simplify(read_onnx(path))
    with pytest.raises(InputError, match="does not keep as they are"):
        write_onnx(path, {"n_y": relearned(weighted(plain)[0])})


def test_numbers_that_layers_share_are_refused(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b w", "y")]
    path = saved(model(nodes, (1, 3, 4, 4), {"w": weights(3, 3, 1, 1)}), tmp_path)
    plain = simplify(read_onnx(path))
    with pytest.raises(InputError, match="shares its numbers"):
        write_onnx(path, {"n_y": relearned(weighted(plain)[1])})


def test_a_normalisation_in_front_is_not_written_into_a_layer(tmp_path: Path) -> None:
    nodes = [node("BatchNormalization", "x s s s s", "a"), node("Conv", "a w", "y")]
    constants = {"w": weights(2, 3, 1, 1), "s": np.abs(weights(3)) + 1}
    path = saved(model(nodes, (1, 3, 4, 4), constants), tmp_path)
    plain = simplify(read_onnx(path))
    with pytest.raises(InputError, match="normalisations folded"):
        write_onnx(path, {"n_y": relearned(weighted(plain)[0])})
