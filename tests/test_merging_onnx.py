"""An ONNX file becomes a network of ours, learns, and is given back with what was learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Run
from onnx_files import Array, model, node, onnx, quantised, saved

from kilograd.data import load_dataset
from kilograd.data.toys import write_toys
from kilograd.frontend.layouts import graph_layout
from kilograd.frontend.onnx import read_onnx
from kilograd.frontend.onnx.oracle import runtime_values
from kilograd.ir import interpret
from kilograd.learn.adapted import Adapted, load_adapted
from kilograd.merging import merge
from kilograd.targets import Driver

SIZE = 32
QUICK = ("--method", "last:2", "--iterations", 5, "--shots", 3, "--queries", 3, "--ways", 3)


def weights(*shape: int) -> Array:
    rng = np.random.default_rng(sum(shape))
    return rng.normal(0, 1.2 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)


def network() -> Any:
    """Return a network for pictures of 0 to 1, with squeeze and excite, and seven classes."""
    constants = {
        "w0": weights(8, 3, 3, 3),
        "b0": weights(8, 1)[:, 0],
        "w1": weights(8, 1, 3, 3),
        "v1": weights(4, 8, 1, 1),
        "v2": weights(8, 4, 1, 1),
        "w2": weights(16, 8, 1, 1),
        "b2": weights(16, 1)[:, 0],
        "w": weights(7, 16),
        "o": weights(7, 1)[:, 0],
    }
    nodes = [
        node("Conv", "x w0 b0", "a", strides=[2, 2], pads=[0, 0, 1, 1]),
        node("Relu", "a", "c"),
        node("Conv", "c w1", "d", strides=[2, 2], pads=[1] * 4, group=8),
        node("HardSwish", "d", "e"),
        node("GlobalAveragePool", "e", "f"),
        node("Conv", "f v1", "g"),
        node("Relu", "g", "h"),
        node("Conv", "h v2", "i"),
        node("HardSigmoid", "i", "j", alpha=1 / 6),
        node("Mul", "e j", "k"),
        node("Conv", "k w2 b2", "l"),
        node("Relu", "l", "m"),
        node("GlobalAveragePool", "m", "p"),
        node("Flatten", "p", "q"),
        node("Gemm", "q w o", "y", transB=1),
    ]
    return model(nodes, (1, 3, SIZE, SIZE), constants)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with drawn pictures."""
    monkeypatch.chdir(tmp_path)
    write_toys(tmp_path / "toys", each=10)
    return tmp_path


def adapted(run: Run, file: str, head: str = "linear") -> Adapted:
    done = run("import", file, "--data", "toys", "--out", "net")
    assert done.code == 0, done.err
    done = run("adapt", "toys", "--model", "net/", *QUICK, "--head", head, "--out", "learned")
    assert done.code == 0, done.err
    return load_adapted(Path("learned"))


def features(found: Adapted, image: Array) -> Array:
    """Return what the adapted network says of an image before its classifier."""
    graph = found.compiled.model.graph
    learned = {k: graph_layout(graph[k], v) for k, v in found.tensors.items() if k in graph.data}
    assert len(learned) > 2
    made = interpret(graph, {"image": image} | learned)[graph.outputs[0].name]
    assert isinstance(made, np.ndarray)
    return made.ravel()


def test_onnx_runtime_computes_the_codes_that_were_learned(run: Run, here: Path) -> None:
    path = quantised(network(), here)
    found = adapted(run, path.name)
    merged = run("merge", "learned", "--into", path.name, "--out", "new.onnx", "--json")
    assert len(merged.json["layers"]) == 3, merged.err
    new = read_onnx(Path("new.onnx"))
    (given,), (logits,) = new.inputs, new.outputs
    assert logits.shape == (3,)
    toys = load_dataset(Path("toys"))
    images = [toys.prepared(i, found.compiled.model.preprocess) for i in range(0, len(toys), 5)]
    theirs = runtime_values(
        Path("new.onnx"), [{given.name: one.transpose(2, 0, 1)} for one in images]
    )
    before = next(x for x in new.layers if x.output == logits).inputs[0]
    for image, values in zip(images, theirs, strict=True):
        np.testing.assert_array_equal(features(found, image), values[before.name].ravel())
    assert before.quant is not None


def test_a_file_of_codes_chooses_as_prototypes_do(run: Run, here: Path) -> None:
    """Those of like images are nearly alike: what tells them apart must not be lost in rounding."""
    path = quantised(network(), here)
    found = adapted(run, path.name, "proto")
    table = found.tensors["head.prototypes"]
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    alike = (unit + 10 * unit.mean(axis=0)).astype(np.float32)
    found = replace(found, tensors={**found.tensors, "head.prototypes": alike})
    merge(found, path, "new.onnx", "toys")
    toys, new = load_dataset(Path("toys")), read_onnx(Path("new.onnx"))
    images = [toys.prepared(i, found.compiled.model.preprocess) for i in range(len(toys))]
    feeds = [{new.inputs[0].name: one.transpose(2, 0, 1)} for one in images]
    values = runtime_values(Path("new.onnx"), feeds)
    theirs = [one[new.outputs[0].name].argmax() for one in values]
    ours = [Driver(found.host()).infer(one).argmax() for one in images]
    assert np.mean(np.array(theirs) == ours) > 0.9


def test_a_float_file_chooses_the_same_classes(run: Run, here: Path) -> None:
    path = saved(network(), here)
    found = adapted(run, path.name)
    merged = run("merge", "learned", "--into", path.name, "--out", "new.onnx", "--json")
    assert len(merged.json["layers"]) == 3, merged.err
    said = run("predict", "learned", "toys", "--threshold", 0, "--json").json["images"]
    toys = load_dataset(Path("toys"))
    names = [Path(row["image"]).name for row in said]
    (given,) = read_onnx(Path("new.onnx")).inputs
    (y,) = read_onnx(Path("new.onnx")).outputs
    same = []
    for i in range(len(toys)):
        pixels = toys.prepared(i, found.compiled.model.preprocess).astype(np.float32) + 128
        feed = {given.name: pixels.transpose(2, 0, 1) / 255}
        chosen = runtime_values(Path("new.onnx"), [feed])[0][y.name].argmax()
        row = said[names.index(Path(toys.image_names[i]).name)]
        same.append(row["nearest"] == found.classes[chosen])
    assert np.mean(same) > 0.9
    assert "w" in {t.name for t in onnx.load("new.onnx").graph.initializer}
