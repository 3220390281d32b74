"""Somebody's own network: from a file to firmware that learns, and to a file with new weights.

Of each format the file that comes out is read again: it has the codes that the device has, and its
own runtime computes with them what we say, to the bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflm
from helpers import SHARED, Run
from test_merging import SIZE, exported, float_file, here, images
from tflite_files import File

import kilograd
from kilograd.checking import check
from kilograd.data import load_dataset
from kilograd.ir import Array, interpret
from kilograd.learn.adapted import Adapted, load_adapted
from kilograd.merging import features_of, learned_graph

__all__ = ["here"]  # a fixture

QUICK = ("--method", "last:2", "--iterations", 10, "--shots", 4, "--queries", 4, "--ways", 3)
RESNET = (SHARED or Path("absent")) / "models-found" / "mlperf_resnet8_int8.tflite"


def firmware_learns(run: Run, file: str, *more: str) -> Adapted:
    """Import a file, learn, and run the same on a Cortex-M7 in an emulator, bit for bit."""
    done = run("import", file, "--out", "net", *more)
    assert done.code == 0, done.err
    done = run("adapt", "toys", "--model", "net/", *QUICK, "--head", "linear", "--out", "learned")
    assert done.code == 0, done.err
    pytest.importorskip("unicorn", reason="firmware is run by unicorn")
    device = run("run", "--adapted", "learned", "--target", "cortex-m7", "--steps", 2, "--json")
    assert device.json["bit_exact"] is True, device.err
    return load_adapted(Path("learned"))


def weights(model: Any) -> dict[str, Array]:
    return {n.name: model.graph.data[n.name] for n in model.graph.params()}


def same_codes(found: Adapted, new: str) -> None:
    """The new file has the learned codes, and its runtime computes as we do."""
    learned, read = learned_graph(found).data, weights(kilograd.from_file(new))
    trunk = [
        f"{name}.{part}" for name in found.compiled.model.layers for part in ("weight", "bias")
    ]
    for name in trunk:
        assert (read[name] == learned[name]).all(), name
    checked = check(Path(new))
    assert checked.exact, checked.differing
    # What the device makes of a picture is what the file's layers make of it.
    toys = load_dataset(Path("toys"))
    graph = kilograd.from_file(new).graph
    image = toys.prepared(0, found.compiled.model.preprocess)
    features, logits = graph.outputs[:2]
    computed = interpret(graph, {"image": image})
    assert (np.ravel(computed[features.name]) == features_of(found, toys)[0]).all()  # type: ignore[arg-type]
    assert logits.type.size == len(found.classes)


def int8_file(path: Path) -> None:
    """Write an int8 file of TFLite: two convolutions, a mean, a dense layer of 7 classes."""
    f = File(int8=True)
    f.x = tflm.Tensor((1, SIZE, SIZE, 3), (1.0,), -128)
    x = f.x
    for out, size in ((8, SIZE // 2), (16, SIZE // 4)):
        codes = f.rng.integers(-127, 128, (out, 3, 3, x.shape[3])).astype(np.int8)
        scales = [float(np.float32(v)) for v in f.rng.uniform(0.5, 1, out) / 3000]
        w = tflm.constant(codes, *scales, axis=0)
        units = [float(np.float32(s * x.scale[0])) for s in scales]
        b = tflm.constant(f.rng.integers(-200, 200, out).astype(np.int32), *units)
        made = f.options(
            "Conv2D", padding=0, strideH=2, strideW=2, fusedActivationFunction=1,
            dilationHFactor=1, dilationWFactor=1,
        )  # fmt: skip
        x = f.add("CONV_2D", [x, w, b], f.tensor((1, size, size, out), 0.08, -128), made)
    made = f.options("Reducer", keepDims=False)
    axes = tflm.constant(np.array([1, 2], np.int32))
    x = f.add("MEAN", [x, axes], f.tensor((1, 16), 0.03, -128), made)
    w = f.numbers((7, 16), 0.004)
    b = tflm.constant(
        np.zeros(7, np.int32), float(np.float32(np.float32(0.004) * np.float32(0.03)))
    )
    x = f.add("FULLY_CONNECTED", [x, w, b], f.tensor((1, 7), 0.05, 4), f.options("FullyConnected"))
    f.out(f.add("SOFTMAX", [x], f.tensor((1, 7), 1 / 256, -128), f.options("Softmax", beta=1.0)))
    path.write_bytes(f.build())


@pytest.mark.parametrize("source", ["built", "mlperf"])
def test_tflite(run: Run, here: Path, source: str) -> None:
    if source == "built":
        int8_file(here / "net.tflite")
    elif RESNET.exists():
        (here / "net.tflite").write_bytes(RESNET.read_bytes())
    else:
        pytest.skip("the files of MLPerf Tiny are not here")
    found = firmware_learns(run, "net.tflite", "--check")
    done = run("merge", "learned", "--into", "net.tflite", "--out", "new.tflite", "--data", "toys")
    assert done.code == 0, done.err
    same_codes(found, "new.tflite")


def test_onnx_with_codes(run: Run, here: Path) -> None:
    ort = pytest.importorskip(
        "onnxruntime.quantization", reason="QDQ files are made by onnxruntime"
    )
    x, _ = images()
    source = float_file(here)

    class Samples(ort.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.rows = iter(x[:20])

        def get_next(self) -> dict[str, Array] | None:
            row = next(self.rows, None)
            return None if row is None else {"x": row[None].astype(np.float32)}

    ort.quantize_static(
        source, "qdq.onnx", Samples(), per_channel=True,
        activation_type=ort.QuantType.QInt8, weight_type=ort.QuantType.QInt8,
    )  # fmt: skip
    found = firmware_learns(run, "qdq.onnx", "--check")
    done = run("merge", "learned", "--into", "qdq.onnx", "--out", "new.onnx", "--data", "toys")
    assert done.code == 0, done.err
    same_codes(found, "new.onnx")


def test_a_module_of_pytorch(run: Run, here: Path) -> None:
    torch = pytest.importorskip("torch", reason="modules of PyTorch need torch")
    exported("net.pt2")
    found = firmware_learns(run, "net.pt2", "--data", "toys", "--check")
    done = run("merge", "learned", "--into", "net.pt2", "--out", "new.pt")
    assert done.code == 0, done.err
    state = torch.load("new.pt", weights_only=True)
    # The second convolution: its batch norm taken out of the codes again.
    graph = learned_graph(found)
    name = found.compiled.model.layers[1]
    factor = state["4.weight"] / torch.sqrt(state["4.running_var"] + 1e-5)
    folded = (state["3.weight"] * factor[:, None, None, None]).permute(0, 2, 3, 1).numpy()
    scale = np.array(graph[f"{name}.weight"].type.affine.scale)[:, None, None, None]
    assert np.allclose(folded, graph.data[f"{name}.weight"] * scale, rtol=1e-4, atol=1e-6)
