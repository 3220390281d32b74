"""Files of TFLite as layers, compared with what LiteRT computes and with its own reader."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import tflite_files
import tflm
from tflite_files import File, integers
from tflm import Tensor

from kilograd.errors import InputError
from kilograd.frontend.tflite import pointwise, read_tflite
from kilograd.frontend.tflite.oracle import runtime_values
from kilograd.frontend.tflite.schema import FileGraph, parse
from kilograd.layers.evaluate import Arithmetic, evaluate
from kilograd.layers.lower import lower
from kilograd.layers.network import Convolution, Network, Slice
from kilograd.layers.simplify import simplify
from kilograd.settings import HeadKind

FOUND = Path(os.environ.get("KILOGRAD_SHARED", "")) / "models-found"


def found(name: str) -> Path:
    """Return a file of the networks found; skips where it is absent."""
    if not (FOUND / f"{name}.tflite").is_file():
        pytest.skip("needs $KILOGRAD_SHARED/models-found")
    return FOUND / f"{name}.tflite"


def read(data: bytes, folder: Path) -> Network:
    file = folder / "net.tflite"
    file.write_bytes(data)
    return read_tflite(file)


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_every_operator_means_what_litert_computes(int8: bool, tmp_path: Path) -> None:
    f = tflite_files.everything(int8)
    data = f.build()
    given, reals = tflite_files.feed(f)
    network = read(data, tmp_path)
    assert network.quantised == int8
    want = tflm.litert(data, [given])[0]
    numbers = parse(data, "").outputs
    kind = Arithmetic.CODES if int8 else Arithmetic.REALS
    got = evaluate(network, {network.inputs[0].name: reals}, arithmetic=kind)
    assert len(network.outputs) == len(f.outputs) > 40
    for value, tensor, made in zip(network.outputs, numbers, f.outputs, strict=True):
        y = want[tensor.number].astype(np.float64)
        if int8:
            y = (y - made.zero) * made.scale[0]
        error = np.abs(got[value].reshape(-1) - y.reshape(-1)).max()
        # A sum of twice a value is wrong by two codes where the value is by one of 0.15.
        assert error <= (0.401 if int8 else 2e-5 * max(1, np.abs(y).max())), value.name


def test_a_shuffle_of_five_operators_is_one_slice(tmp_path: Path) -> None:
    f = File(int8=True)
    w, b = f.weights((3, 1, 1, 2), 0, f.x)
    for y in tflite_files.shuffled(f):
        f.out(
            f.add(
                "CONV_2D",
                [y, w, b],
                f.tensor((1, 6, 8, 3)),
                f.options(
                    "Conv2D", padding=1, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1
                ),
            )
        )
    network = read(f.build(), tmp_path)
    assert [type(x.op) for x in network.layers] == [Slice, Convolution] * 2
    slices = [x.op for x in network.layers if isinstance(x.op, Slice)]
    assert slices == [Slice(2, 0, 2, 2), Slice(2, 1, 2, 2)]


def _same(ours: FileGraph, data: bytes) -> None:
    theirs = tflm.unpacked(data)
    graph = theirs.subgraphs[0]
    names = vars(tflm.schema().BuiltinOperator)
    kinds = {v: k for k, v in names.items() if isinstance(v, int)}
    for op, other in zip(ours.operators, graph.operators, strict=True):
        code = theirs.operatorCodes[other.opcodeIndex]
        assert op.kind == kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = [-1 if t is None else t.number for t in op.inputs]
        assert inputs == ([] if other.inputs is None else list(other.inputs))
        for t in [x for x in op.inputs if x is not None]:
            tensor = graph.tensors[t.number]
            assert t.shape == tuple([] if tensor.shape is None else tensor.shape)
            assert t.element.number == tensor.type
            held = theirs.buffers[tensor.buffer].data
            assert (t.values is None) == (held is None or not len(held))
            if t.values is not None:
                assert t.values.tobytes() == bytes(held)
            quant = tensor.quantization
            scales = [] if quant is None or quant.scale is None else list(quant.scale)
            assert list(t.scales) == scales


def test_a_file_is_read_as_its_own_schema_reads_it() -> None:
    data = tflite_files.everything(int8=True).build()
    _same(parse(data, ""), data)


@pytest.mark.parametrize("name", ["mlperf_resnet8_int8", "nxp_fastestdet_shufflenetv2"])
def test_a_file_that_was_found_is_read_as_its_own_schema_reads_it(name: str) -> None:
    data = found(name).read_bytes()
    _same(parse(data, ""), data)


def test_all_that_cannot_be_imported_is_told_at_once(tmp_path: Path) -> None:
    f = File(int8=False)
    y = f.add("RESIZE_BILINEAR", [f.x, integers(9, 9)], f.tensor((1, 9, 9, 4)))
    w, b = f.weights((5, 3, 3, 4), 0, f.x)
    dilated = f.options("Conv2D", strideH=1, strideW=1, dilationHFactor=2, dilationWFactor=2)
    z = f.add("CONV_2D", [y, w, b], f.tensor((1, 9, 9, 5)), dilated)
    custom = f.add("SIN", [z], f.tensor((1, 9, 9, 5)))
    f.out(f.add("ADD", [custom, z], f.tensor((1, 9, 9, 5)), f.options("Add")))
    with pytest.raises(InputError) as e:
        read(f.build(), tmp_path)
    text = str(e.value)
    assert "net.tflite: 3 layers cannot be imported" in text
    assert "RESIZE_BILINEAR (t2 [1, 9, 9, 4]): use RESIZE_NEAREST_NEIGHBOR" in text
    assert "is dilated by (2, 2)" in text
    assert "SIN" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tflm_person_detect_vela", ["'ethos-u'", "give the file before Vela"]),
        (
            "tflm_mnist_lstm_int8",
            ["UNIDIRECTIONAL_SEQUENCE_LSTM", "[1, 28, 20]", "use convolutions"],
        ),
        ("tflm_keyword_scrambled_8bit", ["SVDF", "int16"]),
        ("coral_mobilenet_v1_0.25_128_quant", ["computes in uint8", "29 layers"]),
        ("coral_deeplabv3_mnv2_dm05_pascal_quant", ["RESIZE_BILINEAR", "uint8"]),
        ("ambiq_nnid_act", ["computes in int16"]),
    ],
)
def test_what_is_not_imported_is_called_by_name(name: str, words: list[str]) -> None:
    with pytest.raises(InputError) as e:
        read_tflite(found(name))
    assert all(word in str(e.value) for word in words), e.value


def test_what_is_advised_instead_of_an_operator_exists(tmp_path: Path) -> None:
    f = File(int8=True)
    y = f.add("L2_NORMALIZATION", [f.x], f.tensor((1, 6, 8, 4)))
    w, b = f.weights((7, 192), 0, y)
    f.out(f.add("FULLY_CONNECTED", [y, w, b], f.tensor((1, 7)), f.options("FullyConnected")))
    with pytest.raises(InputError, match="`--head ") as e:
        read(f.build(), tmp_path)
    assert HeadKind(re.findall(r"--head (\w+)", str(e.value))[0])


@pytest.mark.parametrize("name", ["mediapipe_face_short_range_f16", "mlperf_resnet8_float"])
def test_a_float_file_computes_what_litert_computes(name: str) -> None:
    file = found(name)
    network, graph = read_tflite(file), parse(file.read_bytes(), "")
    x = np.random.default_rng(2).normal(0, 1, graph.inputs[0].shape).astype(np.float32)
    want = tflm.litert(file.read_bytes(), [x])[0]
    got = evaluate(network, {network.inputs[0].name: x})
    made = graph.made
    for value, tensor in zip(network.outputs, graph.outputs, strict=True):
        end = made[tensor]
        t = end.inputs[0] if end.kind == "SOFTMAX" else tensor
        assert t is not None
        y = want[t.number].reshape(-1)
        assert np.allclose(got[value].reshape(-1), y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


def test_weights_of_the_dynamic_range_are_the_floats_that_they_stand_for() -> None:
    """Beside LiteRT on a file with these floats; on this one it quantises what layers read."""
    file = found("mlperf_kws_dscnn_float")
    model = tflm.unpacked(file.read_bytes())
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == 9:
            about = tensor.quantization
            codes = np.frombuffer(model.buffers[tensor.buffer].data, np.int8).reshape(tensor.shape)
            shape = [1] * codes.ndim
            shape[about.quantizedDimension] = -1
            real = codes * np.reshape(np.asarray(about.scale, np.float32), shape)
            buffer = tflm.schema().BufferT()
            buffer.data = np.frombuffer(real.astype(np.float32).tobytes(), np.uint8)
            tensor.type, tensor.quantization, tensor.buffer = 0, None, len(model.buffers)
            model.buffers.append(buffer)
    x = np.random.default_rng(3).normal(0, 9, (1, 49, 10, 1)).astype(np.float32)
    run = tflm.litert(tflm.packed(model), [x])[0]
    network = read_tflite(file)
    (logits,) = evaluate(network, {network.inputs[0].name: x}).values()
    (answers,) = (run[t] for t in model.subgraphs[0].outputs)
    logs = np.log(answers[0].astype(np.float64))
    assert np.allclose(logs - logs.mean(), logits[0] - logits[0].mean(), atol=1e-3)


def test_a_network_that_keeps_frames_is_one_over_a_window() -> None:
    """Frames one after the other, and all at once."""
    file = found("mww_okay_nabu_v1")
    network = read_tflite(file)
    steps = network.inputs[0].shape[0]
    frames = np.random.default_rng(5).integers(-128, 128, (steps, 40)).astype(np.int8)
    quant = network.inputs[0].quant
    assert quant is not None
    reals = (frames[None].astype(np.float32) - quant.zero_point) * quant.scale[0]
    got = evaluate(network, {network.inputs[0].name: reals}, arithmetic=Arithmetic.CODES)
    outputs = tflm.litert(file.read_bytes(), *[[x[None, None]] for x in frames])
    last = parse(file.read_bytes(), "")
    logit = next(op.outputs[0] for op in last.operators if op.kind == "FULLY_CONNECTED")
    codes = [int(out[logit.number][0, 0]) for out in outputs]
    want = (codes[-1] - logit.zeros[0]) * logit.scales[0]
    assert abs(float(next(iter(got.values()))[0, 0]) - want) <= 2.1 * logit.scales[0]
    assert len({*codes[-9:]}) > 3


def test_a_network_of_two_frames_a_call_is_one_over_nine(tmp_path: Path) -> None:
    data = tflite_files.streaming()
    network = read(data, tmp_path)
    assert network.inputs[0].shape == (9, 1, 3)
    rng = np.random.default_rng(8)
    frames = rng.integers(-128, 128, (6, 1, 2, 1, 3)).astype(np.int8)
    window = frames.reshape(12, 1, 3)[-9:]
    reals = (window[None] + np.float32(3)) * np.float32(0.02)
    got = evaluate(network, {network.inputs[0].name: reals}, arithmetic=Arithmetic.CODES)
    want = tflm.tflm(data, *[[x] for x in frames])
    codes = np.round(got[network.outputs[0]] / 0.1 + 2)
    assert np.abs(codes - want[-1][0]).max() <= 1
    values = runtime_values(tmp_path / "net.tflite", [{network.inputs[0].name: window}])
    assert np.array_equal(values[0][network.outputs[0].name], want[-1][0][0])


def test_what_is_kept_must_be_the_past(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looks back by another length|no fixed distance"):
        read(tflite_files.streaming((4, 2)), tmp_path)


def _dense(**changes: object) -> bytes:
    f = File(int8=True)
    w, b = f.weights((7, 192), 0, f.x)
    f.out(f.add("FULLY_CONNECTED", [f.x, w, b], f.tensor((1, 7)), f.options("FullyConnected")))
    model = tflm.unpacked(f.build())
    for path, value in changes.items():
        name, _, attribute = path.partition("__")
        tensor = model.subgraphs[0].tensors[{"x": 0, "w": 1, "b": 2, "y": 3}[name]]
        owner = tensor if hasattr(tensor, attribute) else tensor.quantization
        setattr(owner, attribute, value)
    return tflm.packed(model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x__shape": [2, 6, 8, 4]}, "takes 2 inputs at once"),
        ({"x__shapeSignature": [1, -1, 8, 4]}, "has an open shape [1, -1, 8, 4]"),
        ({"x__shape": [1, 1 << 30, 8, 4]}, "elements are taken"),
        ({"x__type": 7}, "computes in int16"),
        ({"x__type": 3}, "computes in uint8"),
        ({"x__scale": []}, "without a scale"),
        ({"x__scale": [0.0]}, "a scale that is not above 0"),
        ({"x__scale": [float("nan")]}, "a scale that is not above 0"),
        ({"x__zeroPoint": [300]}, "zero point 300"),
        ({"w__zeroPoint": [3] * 7}, "weights with a zero point"),
        ({"w__scale": [0.1] * 3, "w__zeroPoint": [0] * 3}, "3 scales for 7 outputs"),
        ({"w__shape": [7, 96]}, "has 1,344 bytes"),
        ({"w__buffer": 0}, "has weights that the file does not hold"),
        ({"w__buffer": 9}, "is in buffer 9 of 5"),
        ({"y__type": 0, "y__scale": [], "y__zeroPoint": []}, "reads codes and makes reals"),
        ({"y__shape": [1, 8]}, "makes [7], and the file says [1, 8]"),
        ({"b__shape": [1, 1, 1, 1, 1, 1, 1, 1, 7]}, "has 9 axes"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"net\.tflite") as e:
        read(_dense(**changes), tmp_path)
    assert words in str(e.value)


@pytest.mark.parametrize("kind", sorted(pointwise._CURVES.keys() | {"GELU"}))
def test_a_curve_of_codes_has_a_kernel_or_is_refused(kind: str, tmp_path: Path) -> None:
    f = File(int8=True)
    y = f.add(kind, [f.x], f.tensor((1, 6, 8, 4)))
    w, b = f.weights((7, 192), 0, y)
    f.out(f.add("FULLY_CONNECTED", [y, w, b], f.tensor((1, 7)), f.options("FullyConnected")))
    if kind in {"LOGISTIC", "TANH", "HARD_SWISH", "ELU"}:
        assert lower(simplify(read(f.build(), tmp_path))).graph.nodes
        return
    with pytest.raises(InputError, match="in int8 that is read in float only"):
        read(f.build(), tmp_path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    f = File(int8=False)
    w, b = f.weights((7, 192), 0, f.x)
    assert w.values is not None
    w.values[3, 5] = np.nan
    f.out(f.add("FULLY_CONNECTED", [f.x, w, b], f.tensor((1, 7)), f.options("FullyConnected")))
    with pytest.raises(InputError, match="holds NaN or infinity"):
        read(f.build(), tmp_path)


def test_a_file_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    data = _dense()
    for length in [*range(0, len(data) - 1, 37), len(data) - 1]:
        with pytest.raises(InputError, match=r"net\.tflite"):
            read(data[:length], tmp_path)


def test_any_changed_byte_ends_in_a_network_or_a_refusal(tmp_path: Path) -> None:
    data = tflite_files.everything(int8=True).build()
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            # tables stand before and between the numbers: aim at offsets
            at = int(rng.integers(0, len(data)))
            changed[at] = int(rng.choice([0, 1, 127, 128, 255, changed[at] ^ 4]))
        try:
            read(bytes(changed), tmp_path)
        except InputError:
            refused += 1
    assert refused > 20


def test_numbers_that_are_named_again_and_again_are_counted(tmp_path: Path) -> None:
    """A file of 300 kB with 2^27 parameters, and constants that grow."""
    f = File(int8=False)
    y = f.add("RESHAPE", [f.x, integers(1, 192)], f.tensor((1, 192)), f.options("Reshape"))
    w = f.numbers((192, 192))
    for _ in range(4000):
        y = f.add("FULLY_CONNECTED", [y, w, None], f.tensor((1, 192)), f.options("FullyConnected"))
    f.out(y)
    with pytest.raises(InputError, match="has more than 67,108,864 parameters and elements"):
        read(f.build(), tmp_path)
    f = File(int8=False)
    y = f.numbers((1, 64))
    for i in range(21):
        y = f.add(
            "CONCATENATION", [y, y], f.tensor((1, 128 << i)), f.options("Concatenation", axis=1)
        )
    f.out(f.add("ADD", [f.x, y], f.tensor(y.shape), f.options("Add")))
    with pytest.raises(InputError, match="has more than 67,108,864 parameters and elements"):
        read(f.build(), tmp_path)


def test_one_of_several_signatures_is_chosen(tmp_path: Path) -> None:
    model = tflm.unpacked(_dense())
    again = tflm.unpacked(_dense(y__shape=[1, 7])).subgraphs[0]
    again.tensors[3].name = b"second"
    model.subgraphs.append(again)
    s = tflm.schema()
    model.signatureDefs = []
    for key, number in ((b"infer", 0), (b"train", 1)):
        made = s.SignatureDefT()
        made.signatureKey, made.subgraphIndex = key, number
        model.signatureDefs.append(made)
    file = tmp_path / "net.tflite"
    file.write_bytes(tflm.packed(model))
    with pytest.raises(InputError, match="has the signatures infer, train; convert it with one"):
        read_tflite(file)
    assert read_tflite(file, "train").outputs[0].name == "second"
    with pytest.raises(InputError, match="no signature 'other'; it has infer, train"):
        read_tflite(file, "other")


def test_other_files_are_no_networks(tmp_path: Path) -> None:
    for content in (
        b"",
        b"\x89PNG\r\n",
        b"\x1c\0\0\0TFL3",
        b"\xff" * 40,
        b"\x08\0\0\0TFL3" + b"\0" * 60,
    ):
        with pytest.raises(InputError, match=r"net\.tflite"):
            read(content, tmp_path)
    empty = Tensor((1, 4), dtype="float32")
    with pytest.raises(InputError, match="computes nothing"):
        read(tflm.build([], [empty], [empty]), tmp_path)


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
def test_the_values_that_the_runtime_computes_are_had_by_name(int8: bool, tmp_path: Path) -> None:
    f = tflite_files.everything(int8)
    data = f.build()
    network = read(data, tmp_path)
    given, _ = tflite_files.feed(f)
    feeds = [{network.inputs[0].name: x[0]} for x in (given, given[:, ::-1])]
    found = runtime_values(tmp_path / "net.tflite", feeds)
    first = network.outputs[0].name
    assert not np.array_equal(found[0][first], found[1][first])
    run = tflm.litert(data, [given], [given[:, ::-1]])
    for got, want in zip(found, run, strict=True):
        for value, tensor in zip(network.outputs, parse(data, "").outputs, strict=True):
            assert got[value.name].shape == value.shape
            error = np.abs(got[value.name] - want[tensor.number].reshape(value.shape)).max()
            assert error <= int8  # the runtime of int8 files is another one than of the test


def test_a_runtime_that_fails_is_told(tmp_path: Path) -> None:
    f = File(int8=True)
    f.out(f.add("ADD", [f.x, f.numbers((4,))], f.tensor(tflite_files.SHAPE), f.options("Add")))
    network = read(f.build(), tmp_path)
    feed = {network.inputs[0].name: np.zeros(tflite_files.SHAPE[1:], np.int8)}
    with pytest.raises(InputError, match=r"net\.tflite: TFLM takes longer than 0"):
        runtime_values(tmp_path / "net.tflite", [feed], seconds=0.001)
