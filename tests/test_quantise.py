"""Float weights to int8 networks, and networks to files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import write_model
from helpers import image, model_path, needs_shared, real, same_bits, small_network
from safetensors.numpy import load_file

from kilograd.errors import InputError
from kilograd.frontend import load_model_folder, save_model, with_classifier
from kilograd.ir import Array, Graph, interpret
from kilograd.layers.raised import clamp, quantised, real_parameters
from kilograd.ops import Add, Conv, Depthwise
from kilograd.passes import accumulator_bounds

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")


def observed(graph: Graph, count: int = 8) -> dict[str, tuple[float, float]]:
    """Least and largest value of every activation, from the integers of a few images."""
    layers = [n for n in graph.nodes if isinstance(n.op, Conv | Depthwise | Add)]
    every = replace(graph, outputs=tuple(layers))
    size = graph.inputs()[0].type.shape[0]
    runs = [
        interpret(every, {"image": image(np.random.default_rng(seed), size)})
        for seed in range(count)
    ]
    return {
        n.name: (
            min(float(real(r[n.name], n.type).min()) for r in runs),
            max(float(real(r[n.name], n.type).max()) for r in runs),
        )
        for n in layers
    }


def outputs(graph: Graph, count: int = 6) -> Array:
    """What a network makes of a few images, in real units."""
    (out,) = graph.outputs
    images = [image(np.random.default_rng(100 + seed), 8) for seed in range(count)]
    return np.stack([real(interpret(graph, {"image": i})[out.name], out.type) for i in images])


# ---- quantising ----


def test_quantising_what_was_dequantised_changes_little() -> None:
    graph = small_network()
    again = quantised(graph, real_parameters(graph), observed(graph))
    before, after = outputs(graph), outputs(again)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.99


def test_weights_are_off_by_half_a_step_at_most() -> None:
    graph = small_network()
    weights = {
        k: v * np.float32(1.7) + np.float32(0.001) for k, v in real_parameters(graph).items()
    }
    again = quantised(graph, weights, observed(graph))
    for n in again.params():
        steps = n.type.affine.unit * np.array(n.type.affine.scale)
        axis = n.type.affine.axis or 0
        error = np.abs(real(again.data[n.name], n.type) - weights[n.name])
        assert (np.moveaxis(error, axis, -1) <= 0.5001 * steps).all(), n.name


def test_the_largest_weight_of_a_channel_is_127_and_codes_are_symmetric() -> None:
    graph = small_network()
    again = quantised(graph, real_parameters(graph), observed(graph))
    for n in again.params():
        if n.name.endswith(".weight"):
            codes = np.moveaxis(np.abs(again.data[n.name].astype(int)), n.type.affine.axis or 0, 0)
            assert (codes.reshape(len(codes), -1).max(axis=1) == 127).all()


def test_the_activation_function_of_every_layer_stays() -> None:
    graph = small_network()
    # As if no value had ever been negative: a linear layer must not turn into one with a ReLU.
    ranges = dict.fromkeys(observed(graph), (0.0, 5.0))
    again = quantised(graph, real_parameters(graph), ranges)
    for name in ranges:
        assert (clamp(again[name].op)[0] == 0) == (clamp(graph[name].op)[0] == 0)


def test_relu6_is_never_wider_than_6() -> None:
    folder = model_path("mcunet-5fps")
    graph = load_model_folder(folder).graph
    layers = [n.name for n in graph.nodes if isinstance(n.op, Conv | Depthwise | Add)]
    again = quantised(graph, real_parameters(graph), dict.fromkeys(layers, (-50.0, 50.0)))
    assert clamp(again["first_conv"].op) == (0.0, 6.0)
    assert again["first_conv"].type.affine.scale[0] == 6 / 255


@needs_shared
@pytest.mark.parametrize("name", NETWORKS)
def test_the_clamp_is_the_activation_that_the_file_names(name: str) -> None:
    folder = model_path(name)
    graph = load_model_folder(folder).graph
    for op in json.loads((folder / "graph.json").read_text("utf-8"))["ops"]:
        if op["type"] != "avgpool":
            bounds = clamp(graph[op["name"]].op)
            assert bounds == ((0, 6) if op["activation"] == "relu6" else (-np.inf, np.inf))


@needs_shared
@pytest.mark.parametrize("name", NETWORKS)
def test_published_weights_come_back_as_they_were(name: str) -> None:
    folder = model_path(name)
    graph = load_model_folder(folder).graph
    floats = load_file(folder / "float.safetensors")
    mine = real_parameters(graph)["classifier.weight"]
    assert np.allclose(mine[:, 0, 0], floats["classifier.weight"], rtol=1e-6)
    layers = [n.name for n in graph.nodes if isinstance(n.op, Conv | Depthwise | Add)]
    again = quantised(graph, real_parameters(graph), dict.fromkeys(layers, (-8.0, 8.0)))
    different = [
        int((again.data[n.name] != graph.data[n.name]).sum())
        for n in graph.params()
        if n.name.endswith(".weight")
    ]
    # Only sanitised channels have no weight of 127.
    assert sum(different) < 0.01 * sum(
        graph.data[n.name].size for n in graph.params() if n.name.endswith(".weight")
    )


def test_a_channel_without_weights_gets_a_scale_in_proportion() -> None:
    graph = small_network()
    weights = real_parameters(graph)
    weights["stem.weight"][1] = 0
    weights["stem.weight"][2] *= np.float32(1e-9)
    again = quantised(graph, weights, observed(graph))
    scale = np.array(again["stem.weight"].type.affine.scale)
    assert scale.min() > 0.04 * np.median(scale)
    accumulator_bounds(again, ())


def test_a_layer_of_zeros_is_a_network_still(tmp_path: Path) -> None:
    model = load_model_folder(write_model(tmp_path / "small"))
    weights = {k: 0 * v for k, v in real_parameters(model.graph).items()}
    ranges = {n.name: (0.0, 0.0) for n in model.graph.nodes}
    (tmp_path / "new").mkdir()
    save_model(replace(model, graph=quantised(model.graph, weights, ranges)), tmp_path / "new")
    assert not any(load_model_folder(tmp_path / "new").graph.data["stem.weight"].ravel())


# ---- files ----


def test_a_saved_network_is_the_same_network(tmp_path: Path) -> None:
    model = replace(
        load_model_folder(write_model(tmp_path / "small")), training_classes=("red", "blue")
    )
    (tmp_path / "again").mkdir()
    save_model(model, tmp_path / "again")
    again = load_model_folder(tmp_path / "again")
    assert replace(again, graph=model.graph, path=model.path) == model
    assert [str(n) for n in again.graph.nodes] == [str(n) for n in model.graph.nodes]
    assert [n.type for n in again.graph.nodes] == [n.type for n in model.graph.nodes]
    for name, value in model.graph.data.items():
        assert same_bits(again.graph.data[name], value)


@needs_shared
@pytest.mark.parametrize("name", NETWORKS)
def test_a_published_network_is_saved_to_the_bit(name: str, tmp_path: Path) -> None:
    model = load_model_folder(model_path(name))
    save_model(model, tmp_path)
    again = load_model_folder(tmp_path)
    assert again.layers == model.layers
    assert [n.type for n in again.graph.nodes] == [n.type for n in model.graph.nodes]
    assert all(same_bits(again.graph.data[k], v) for k, v in model.graph.data.items())


def test_the_same_network_makes_the_same_bytes(tmp_path: Path) -> None:
    model = load_model_folder(write_model(tmp_path / "small"))
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(model, tmp_path / name)
        files.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert files[0] == files[1]
    assert files[0].keys() == {"graph.json", "model.safetensors"}


def test_a_new_classifier_takes_the_place_of_the_old(tmp_path: Path) -> None:
    model = with_classifier(load_model_folder(write_model(tmp_path / "small")), 5)
    assert [o.type.shape for o in model.graph.outputs] == [(1, 1, 12), (1, 1, 5)]
    assert model.graph.data["classifier.weight"].shape == (5, 1, 1, 12)
    (tmp_path / "new").mkdir()
    save_model(model, tmp_path / "new")
    assert load_model_folder(tmp_path / "new").layers == model.layers
    with pytest.raises(InputError, match="two classes"):
        with_classifier(model, 1)


def test_training_classes_of_a_file_are_read(tmp_path: Path) -> None:
    file = write_model(tmp_path / "small") / "graph.json"
    assert load_model_folder(file.parent).training_classes == ()
    text = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(text | {"provenance": {"training_classes": ["a", "b"]}}), "utf-8")
    assert load_model_folder(file.parent).training_classes == ("a", "b")
    file.write_text(json.dumps(text | {"provenance": 3}), "utf-8")
    with pytest.raises(InputError, match="provenance"):
        load_model_folder(file.parent)
