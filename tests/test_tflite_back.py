"""What was learned goes back into files of TFLite, which then compute with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_files
import tflm
from test_import_tflite import found
from tflite_files import File
from tflm import constant

from kilograd.errors import InputError
from kilograd.frontend.tflite import Learned, read_tflite, write_tflite
from kilograd.frontend.tflite.read import read_network
from kilograd.ir import Affine, Array
from kilograd.layers.network import Convolution, Dense, Layer, Tensor, Value


def layers_of(path: Path) -> dict[str, Convolution | Dense]:
    layers = read_tflite(path).layers
    return {x.name: x.op for x in layers if isinstance(x.op, Convolution | Dense)}


def changed(op: Convolution | Dense, rng: np.random.Generator) -> Learned:
    """Return other codes of a layer."""
    assert op.bias is not None
    weight = rng.integers(-127, 128, op.weight.values.shape).astype(np.int8)
    bias = (op.bias.values + rng.integers(-50, 50, op.bias.values.shape)).astype(np.int32)
    return Learned(replace(op.weight, values=weight), replace(op.bias, values=bias))


def resized(op: Convolution | Dense, count: int, x: float, rng: np.random.Generator) -> Learned:
    """Return a head of another number of classes, over an input of scale x."""
    shape = (count, *op.weight.values.shape[1:])
    scale = float(np.float32(0.013))
    weight = Tensor(rng.integers(-127, 128, shape).astype(np.int8), Affine((scale,)))
    bias = Tensor(rng.integers(-99, 99, count).astype(np.int32), Affine((scale,), unit=x))
    return Learned(weight, bias, Affine((float(np.float32(0.21)),), 17))


def in_schema(data: bytes, new: dict[int, Array]) -> Any:
    """Return the file's own object, with other numbers in some tensors: another way to write it."""
    model = tflm.unpacked(data)
    for number, values in new.items():
        tensor = model.subgraphs[0].tensors[number]
        buffer = tflm.schema().BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
    return model


def biases(op: Convolution | Dense | Learned) -> Array:
    assert op.bias is not None
    return op.bias.values


def number(tensor: Tensor | None) -> int:
    assert tensor is not None
    return int(tensor.origin.removeprefix("tensor "))


def in_file(op: Convolution | Dense, values: Array) -> Array:
    depthwise = isinstance(op, Convolution) and op.groups > 1
    return np.moveaxis(values, 0, 3).squeeze(2)[None] if depthwise else values


INT8 = 9
FILES = [
    "mlperf_resnet8_int8",
    "mlperf_kws_dscnn_int8",
    "silabs_keyword_spotting_mobilenetv2",
    "tflm_person_detect_int8",
]


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_other_weights_computes_with_them(name: str, tmp_path: Path) -> None:
    file, rng = found(name), np.random.default_rng(1)
    data = file.read_bytes()
    ops = layers_of(file)
    learned = {layer: changed(op, rng) for layer, op in list(ops.items())[-5:]}
    new = write_tflite(file, learned)
    assert len(new) == len(data)
    assert sum(a != b for a, b in zip(data, new, strict=True)) <= sum(
        x.weight.values.size + 4 * len(x.weight.values) for x in learned.values()
    )
    numbers = {}
    for layer, x in learned.items():
        assert x.bias is not None
        numbers[number(x.weight)] = in_file(ops[layer], x.weight.values)
        numbers[number(x.bias)] = x.bias.values
    other = tflm.packed(in_schema(data, numbers))
    graph = tflm.unpacked(data).subgraphs[0]
    shape = graph.tensors[graph.inputs[0]].shape
    feeds = [[rng.integers(-128, 128, shape).astype(np.int8)] for _ in range(3)]
    got, want, before = tflm.tflm(new, *feeds), tflm.tflm(other, *feeds), tflm.tflm(data, *feeds)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(got, want, strict=True))
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(got, before, strict=True))
    (tmp_path / "new.tflite").write_bytes(new)
    again = layers_of(tmp_path / "new.tflite")
    for layer, x in learned.items():
        assert np.array_equal(again[layer].weight.values, x.weight.values)


def _layer(path: Path, name: str) -> Layer:
    return next(x for x in read_tflite(path).layers if x.name == name)


def quant(value: Value) -> Affine:
    assert value.quant is not None
    return value.quant


@pytest.mark.parametrize("name", [*FILES[:3], "tinymaix_mnist_dw_q", "silabs_rock_paper_scissors"])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_head_may_have_other_classes(name: str, count: int, tmp_path: Path) -> None:
    file, rng = found(name), np.random.default_rng(2)
    layer, op = list(layers_of(file).items())[-1]
    given = quant(_layer(file, layer).inputs[0])
    learned = resized(op, count, given.scale[0], rng)
    (tmp_path / "new.tflite").write_bytes(write_tflite(file, {layer: learned}))
    network = read_tflite(tmp_path / "new.tflite")
    assert network.outputs[0].shape[-1] == count
    assert network.outputs[0].quant == learned.output
    graph = tflm.unpacked((tmp_path / "new.tflite").read_bytes()).subgraphs[0]
    tensor = graph.tensors[graph.inputs[0]]
    codes, about = rng.integers(-128, 128, tensor.shape), quant(network.inputs[0])
    x = codes.astype(np.int8)
    if tensor.type != INT8:
        x = ((codes - about.zero_point) * about.scale[0]).astype(np.float32)
    values = tflm.tflm((tmp_path / "new.tflite").read_bytes(), [x])[0][0]
    assert values.shape[-1] == count
    # The same head, from what its layer reads, as the original file computes it.
    features = tflm.litert(file.read_bytes(), [x])[0][_read_by(file, layer)].reshape(-1)
    assert learned.bias is not None
    acc = learned.weight.values.reshape(count, -1) @ (features.astype(int) - given.zero_point)
    reals = (acc + learned.bias.values) * quant_of(learned.weight).scale[0] * given.scale[0]
    e = np.exp(reals.clip(*(0.21 * (np.array([-128, 127]) - 17))) - reals.max())
    probabilities = values.reshape(-1).astype(np.float64)
    if tensor.type == INT8:
        probabilities = (probabilities + 128) / 256
    assert np.abs(probabilities - e / e.sum()).max() < 0.12


def _read_by(file: Path, name: str) -> int:
    """Return the number of the tensor that a layer reads."""
    return read_network(file).tensors[_layer(file, name).inputs[0].name]


def quant_of(tensor: Tensor) -> Affine:
    assert tensor.quant is not None
    return tensor.quant


def _twins() -> tuple[bytes, File]:
    """Return a file in which two layers share their filters."""
    f = File(int8=True)
    w, b = f.weights((4, 1, 1, 4), 0, f.x)
    made = f.options(
        "Conv2D", padding=1, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1
    )
    y = f.add("CONV_2D", [f.x, w, b], f.tensor(tflite_files.SHAPE, 0.02, -3), made)
    again = replace(w)
    f.out(f.add("CONV_2D", [y, again, b], f.tensor(tflite_files.SHAPE), made))
    model = tflm.unpacked(f.build())
    tensors = model.subgraphs[0].tensors
    tensors[4].buffer = tensors[1].buffer
    return tflm.packed(model), f


def test_a_buffer_of_two_tensors_is_written_for_one(tmp_path: Path) -> None:
    data, _ = _twins()
    (tmp_path / "net.tflite").write_bytes(data)
    ops = layers_of(tmp_path / "net.tflite")
    first, second = ops
    rng = np.random.default_rng(4)
    learned = replace(changed(ops[second], rng), bias=ops[second].bias)
    new = write_tflite(tmp_path / "net.tflite", {second: learned})
    (tmp_path / "new.tflite").write_bytes(new)
    again = layers_of(tmp_path / "new.tflite")
    assert np.array_equal(again[second].weight.values, learned.weight.values)
    assert np.array_equal(again[first].weight.values, ops[first].weight.values)
    other = tflm.packed(in_schema(data, {4: learned.weight.values}))
    x = rng.integers(-128, 128, tflite_files.SHAPE).astype(np.int8)
    got, want = tflm.tflm(new, [x])[0][0], tflm.tflm(other, [x])[0][0]
    assert np.array_equal(got, want)
    assert not np.array_equal(got, tflm.tflm(data, [x])[0][0])
    with pytest.raises(InputError, match="shares its numbers with 1 other layers"):
        write_tflite(tmp_path / "net.tflite", {second: changed(ops[second], rng)})


def test_reals_are_written_into_a_float_file(tmp_path: Path) -> None:
    f = tflite_files.everything(int8=False)
    file = tmp_path / "net.tflite"
    file.write_bytes(f.build())
    ops, rng = layers_of(file), np.random.default_rng(5)
    learned = {}
    for name, op in ops.items():
        weight = Tensor(rng.normal(0, 1, op.weight.values.shape).astype(np.float32))
        learned[name] = Learned(weight, op.bias)
    file.write_bytes(write_tflite(file, learned))
    for name, op in layers_of(file).items():
        assert np.array_equal(op.weight.values, learned[name].weight.values)


def _half(twice: bool) -> bytes:
    """Return a float file with filters in float16, of one layer or of two."""
    f = File(int8=False)
    kept = constant(f.rng.normal(0, 1, (4, 1, 1, 4)).astype(np.float16))
    w = f.add("DEQUANTIZE", [kept], tflm.Tensor((4, 1, 1, 4), dtype="float32"))
    made = f.options(
        "Conv2D", padding=1, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1
    )
    y = f.x
    for _ in range(1 + twice):
        y = f.add("CONV_2D", [y, w, f.numbers((4,))], f.tensor(tflite_files.SHAPE), made)
    f.out(y)
    return f.build()


def test_float16_is_written_as_float16(tmp_path: Path) -> None:
    file = tmp_path / "net.tflite"
    file.write_bytes(_half(twice=False))
    ((name, op),) = layers_of(file).items()
    values = np.random.default_rng(7).normal(0, 1, (4, 1, 1, 4)).astype(np.float32)
    file.write_bytes(write_tflite(file, {name: Learned(Tensor(values), op.bias)}))
    ((_, again),) = layers_of(file).items()
    assert np.array_equal(again.weight.values, values.astype(np.float16).astype(np.float32))
    file.write_bytes(_half(twice=True))
    name, op = next(iter(layers_of(file).items()))
    with pytest.raises(InputError, match="shares its numbers with 1 other layers"):
        write_tflite(file, {name: Learned(Tensor(values), op.bias)})


def test_weights_of_the_dynamic_range_are_not_written(tmp_path: Path) -> None:
    f = File(int8=False)
    w = constant(f.rng.integers(-127, 128, (7, 192)).astype(np.int8), 0.01)
    f.out(
        f.add(
            "FULLY_CONNECTED",
            [f.x, w, f.numbers((7,))],
            f.tensor((1, 7)),
            f.options("FullyConnected"),
        )
    )
    file = tmp_path / "net.tflite"
    file.write_bytes(f.build())
    ((name, op),) = layers_of(file).items()
    with pytest.raises(InputError, match="numbers that the file does not keep as they are"):
        write_tflite(file, {name: Learned(op.weight, op.bias)})


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    data, _ = _twins()
    file = tmp_path / "net.tflite"
    file.write_bytes(data)
    name, op = next(iter(layers_of(file).items()))
    rng = np.random.default_rng(6)
    with pytest.raises(InputError, match="no layer 'other'"):
        write_tflite(file, {"other": changed(op, rng)})
    wide = replace(op.weight, values=np.zeros((4, 3, 3, 4), np.int8))
    with pytest.raises(InputError, match=r"has weights \[4, 1, 1, 4\], not \[4, 3, 3, 4\]"):
        write_tflite(file, {name: Learned(wide, op.bias)})
    with pytest.raises(InputError, match="is not the last: CONV_2D"):
        write_tflite(file, {name: resized(op, 7, 0.02, rng)})
    with pytest.raises(InputError, match="biases in one of both only"):
        write_tflite(file, {name: Learned(op.weight)})
    real = Tensor(np.zeros(op.weight.values.shape, np.float32))
    with pytest.raises(InputError, match="has codes and is given reals"):
        write_tflite(file, {name: Learned(real, op.bias)})
