"""int8 files of TFLite as graphs: every value equals that of TFLM's kernels, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tflite_files
from test_import_tflite import found
from test_tflite_back import changed, layers_of, resized
from tflite_files import Branch

from kilograd.frontend.tflite import Learned, read_tflite, write_tflite
from kilograd.frontend.tflite.oracle import runtime_values
from kilograd.ir import Array, interpret
from kilograd.layers.lower import lower
from kilograd.layers.network import Convolution, Dense, Network, Value
from kilograd.layers.simplify import simplify


def compared(file: Path, seed: int) -> dict[str, int]:
    """Return how many elements of each value differ from TFLM's, for codes drawn."""
    return between(read_tflite(file), file, seed)


def between(read: Network, file: Path, seed: int) -> dict[str, int]:
    """Return how many elements of each value differ from what TFLM makes of a file."""
    network = simplify(read)
    graph = lower(network).graph
    (given,) = read.inputs
    codes = np.random.default_rng(seed).integers(-128, 128, given.shape).astype(np.int8)
    want = runtime_values(file, [{given.name: codes}])[0]
    nodes = {n.name: n for n in graph.nodes if n.name in want}
    outputs = dict(zip((v.name for v in read.outputs), graph.outputs[1:], strict=True))
    nodes = {name: n for name, n in nodes.items() if n.type.size == want[name].size} | outputs
    image = {"image": taken(network, codes).reshape(graph.inputs()[0].type.shape)}
    got = interpret(replace(graph, outputs=(*dict.fromkeys(nodes.values()),)), image)
    differ = {}
    for name, node in nodes.items():
        y = np.asarray(got[node.name])
        differ[name] = int((y.ravel() != want[name].ravel()).sum())
    return differ


def with_learned(network: Network, learned: Mapping[str, Learned]) -> Network:
    """Return a network with other numbers in some layers, and other outputs of theirs."""
    new: dict[Value, Value] = {}
    layers = []
    for layer in network.layers:
        x, made = learned.get(layer.name), layer.output
        op = layer.op
        if x is not None:
            assert isinstance(op, Convolution | Dense)
            shape = (*made.shape[:-1], len(x.weight.values))
            new[made] = made = replace(made, shape=shape, quant=x.output or made.quant)
            op = replace(op, weight=x.weight, bias=x.bias)
        inputs = tuple(new.get(v, v) for v in layer.inputs)
        layers.append(replace(layer, op=op, inputs=inputs, output=made))
    outputs = tuple(new.get(v, v) for v in network.outputs)
    return replace(network, layers=tuple(layers), outputs=outputs)


def taken(network: Network, codes: Array) -> Array:
    """Return an input of the file as the network has it."""
    return codes.transpose(network.taken[0].order) if network.taken else codes


@pytest.mark.parametrize("branch", tflite_files.BRANCHES, ids=lambda b: b.__name__)
def test_each_operator_computes_what_tflm_computes(branch: Branch, tmp_path: Path) -> None:
    for seed in (1, 2):
        f = tflite_files.File(int8=True, seed=seed)
        for y in branch(f):
            f.out(f.add("ADD", [y, y], f.tensor(y.shape, 0.1, 1), f.options("Add")))
        file = tmp_path / "net.tflite"
        file.write_bytes(f.build())
        differ = compared(file, seed)
        assert len(differ) >= len(f.outputs)
        assert not any(differ.values()), {k: v for k, v in differ.items() if v}


FILES = [
    "ambiq_har",
    "emza_ssd_slim_int8",
    "han_mcunet_vww",
    "mlperf_ad01_int8",
    "mlperf_kws_dscnn_int8",
    "mlperf_resnet8_int8",
    "mww_okay_nabu_v1",
    "nxp_fastestdet_shufflenetv2",
    "silabs_fingerprint",
    "silabs_keyword_spotting_mobilenetv2",
    "tflm_person_detect_int8",
    "tinymaix_mnist_dw_q",
]
"""One of each kind; benchmarks/imported.py goes through all."""

LEARNED = ["mlperf_resnet8_int8", "mlperf_kws_dscnn_int8", "silabs_keyword_spotting_mobilenetv2"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_found_computes_what_tflm_computes(name: str) -> None:
    differ = compared(found(name), 3)
    assert not any(differ.values()), {k: v for k, v in differ.items() if v}


@pytest.mark.parametrize("name", LEARNED)
def test_learned_weights_compute_the_same_here_and_there(name: str, tmp_path: Path) -> None:
    """In the last layers with weights, written into the file that they are from."""
    file, rng = found(name), np.random.default_rng(4)
    ops = layers_of(file)
    learned = {layer: changed(op, rng) for layer, op in list(ops.items())[-4:]}
    new = tmp_path / "new.tflite"
    new.write_bytes(write_tflite(file, learned))
    differ = between(with_learned(read_tflite(file), learned), new, 5)
    assert not any(differ.values()), {k: v for k, v in differ.items() if v}


@pytest.mark.parametrize("name", LEARNED[:2])
def test_a_head_of_other_classes_computes_the_same(name: str, tmp_path: Path) -> None:
    file, rng = found(name), np.random.default_rng(4)
    layer, op = list(layers_of(file).items())[-1]
    given = next(x for x in read_tflite(file).layers if x.name == layer).inputs[0].quant
    assert given is not None
    learned = {layer: resized(op, 5, given.scale[0], rng)}
    new = tmp_path / "new.tflite"
    new.write_bytes(write_tflite(file, learned))
    assert read_tflite(new).outputs[0].shape == (5,)
    differ = between(with_learned(read_tflite(file), learned), new, 5)
    assert not any(differ.values())


@pytest.mark.parametrize("branch", [tflite_files.convolutions, tflite_files.depthwise])
def test_learned_weights_of_every_kind_compute_the_same(branch: Branch, tmp_path: Path) -> None:
    f = tflite_files.File(int8=True, seed=3)
    for y in branch(f):
        f.out(y)
    file, new = tmp_path / "net.tflite", tmp_path / "new.tflite"
    file.write_bytes(f.build())
    learned = {name: changed(op, f.rng) for name, op in layers_of(file).items()}
    new.write_bytes(write_tflite(file, learned))
    differ = between(with_learned(read_tflite(file), learned), new, 5)
    assert len(differ) == len(f.outputs)
    assert not any(differ.values())
    assert any(between(read_tflite(file), new, 5).values())
