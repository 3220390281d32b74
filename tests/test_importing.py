"""A network of another tool comes in with one command, and is used like ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_files
import pytest
from helpers import Run
from onnx_files import node

import kilograd
from kilograd.checking import check
from kilograd.data.toys import write_toys
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.frontend.files import read_network

MEAN, STD = "0.5", "0.25"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toys(here: Path) -> Path:
    write_toys(here / "toys", each=8)
    return here / "toys"


def classifier(folder: Path, size: int = 32, seed: int = 0) -> Path:
    """Write a float network of ONNX: two convolutions, a mean, a dense layer of 3 classes."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, shape[1] ** -0.5 / 2, shape).astype(np.float32)

    constants = {
        "w1": weights(8, 3, 3, 3),
        "w2": weights(16, 8, 3, 3),
        "w3": weights(3, 16),
        "b3": weights(3, 1)[:, 0],
    }
    nodes = [
        node("Conv", "x w1", "a", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w2", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "c", "d"),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "f"),
        node("Gemm", "f w3 b3", "g", transB=1),
        node("Softmax", "g", "y"),
    ]
    made = onnx_files.model(nodes, [1, 3, size, size], constants)
    return onnx_files.saved(made, folder)


def test_a_float_network_comes_in_and_learns(run: Run, here: Path, toys: Path) -> None:
    file = classifier(here)
    done = run("import", file, "--data", toys, "--out", "net", "--mean", MEAN, "--std", STD)
    assert done.code == 0, done.err
    assert "--model net" in done.out
    assert "images 32x32x3, (pixel / 255 - 0.5,0.5,0.5) / 0.25,0.25,0.25" in done.out
    model = load_model("net/")
    assert [n.type.shape for n in model.graph.outputs] == [(1, 1, 16), (1, 1, 3)]
    assert model.source == read_network(file).source
    quick = ("--method", "last:1", "--iterations", 1, "--shots", 2, "--queries", 2)
    learned = run("adapt", toys, "--model", "net/", *quick, "--json")
    assert 0 <= learned.json["accuracy_after"] <= 1


def dense(folder: Path) -> Path:
    """Write a float network of ONNX of dense layers alone: 2 x 6 numbers, 3 classes."""
    rng = np.random.default_rng(0)
    constants = {"w1": rng.normal(size=(8, 12)), "w2": rng.normal(size=(3, 8))}
    nodes = [
        node("Flatten", "x", "a"),
        node("Gemm", "a w1", "b", transB=1),
        node("Relu", "b", "c"),
        node("Gemm", "c w2", "y", transB=1),
    ]
    single = {k: v.astype(np.float32) for k, v in constants.items()}
    return onnx_files.saved(onnx_files.model(nodes, [1, 2, 6], single), folder)


@pytest.mark.parametrize("shape", [(12,), (2, 6)])
def test_a_float_network_of_dense_layers_comes_in(
    run: Run, here: Path, shape: tuple[int, ...]
) -> None:
    file = dense(here)
    samples = np.random.default_rng(1).normal(size=(30, *shape)).astype(np.float32)
    np.savez("data.npz", x=samples, y=np.arange(30) % 3)
    done = run("import", file, "--data", "data.npz", "--out", "net")
    assert done.code == 0, done.err
    done = run("quantize", file, "--data", "data.npz", "--test", "data.npz", "--out", "q", "--json")
    assert done.json["accuracy"]["agreement"] > 0.9
    learned = run("adapt", "data.npz", "--model", "net/", "--method", "last:1", "--json")
    assert learned.code == 0, learned.err


def test_a_float_network_needs_data(run: Run, here: Path, toys: Path) -> None:
    file = classifier(here)
    error = run("import", file, "--out", "net").error
    assert "--data" in error
    assert not (here / "net").exists()
    assert "--std" in run("import", file, "--data", toys, "--out", "first").out
    assert "kilograd import" in run("export", "--model", file, "--out", "project").error
    planned = run("plan", "--model", file, "--json")
    assert run("import", file, "--data", toys, "--out", "net").code == 0
    assert planned.json == run("plan", "--model", "net/", "--json").json
    assert "learns" in run("models", "show", file).out


def test_quantising_says_what_each_layer_loses(run: Run, here: Path, toys: Path) -> None:
    labelled = sorted(p.name for p in toys.iterdir())[:3]
    for name in labelled:
        (here / "three" / name).mkdir(parents=True)
        for file in (toys / name).iterdir():
            (here / "three" / name / file.name).write_bytes(file.read_bytes())
    file, common = classifier(here), ("--data", toys, "--mean", MEAN, "--std", STD)
    done = run("quantize", file, *common, "--out", "net", "--test", "three")
    assert done.code == 0, done.err
    assert "are right in float and" in done.out
    found = run("quantize", file, *common, "--out", "again", "--test", "three", "--json").json
    assert [x["name"] for x in found["report"]["layers"]][-1] == "n_g"
    assert found["accuracy"]["count"] == 24
    assert found["accuracy"]["agreement"] > 0.8
    again = run("quantize", file, *common, "--out", "other", "--calibration", "mse", "--json").json
    assert again["accuracy"] is None
    assert all(x["sqnr"] > 15 for x in again["report"]["layers"])
    many = run("quantize", file, *common, "--out", "many", "--test", toys).error
    assert "gives 3 numbers" in many
    assert not (here / "many").exists()


def test_what_is_no_network_is_refused_by_its_name(run: Run, here: Path) -> None:
    for name in ("net.pth", "net.h5", "net.txt"):
        (here / name).write_bytes(b"0")
        assert name in run("import", name, "--out", "net").error
    assert "no such file" in run("import", "gone.onnx", "--out", "net").error


def test_layers_are_shown(run: Run) -> None:
    shown = run("models", "show", "digits")
    assert "learns" in shown.out
    found = run("models", "show", "digits", "--json").json
    model = load_model("digits")
    assert sum(x["macs"] for x in found["layers"]) == model.graph.macs()
    learn = [x["name"] for x in found["layers"] if x["learns"] == "yes"]
    assert learn == list(model.layers)
    assert "which one" in run("models", "show").error


def test_numbers_of_pixels_must_fit(run: Run, here: Path, toys: Path) -> None:
    file, common = classifier(here), ("--data", toys, "--out", "net")
    assert "--mean 1,2" in run("import", file, *common, "--mean", "1,2").error
    assert "--mean x" in run("import", file, *common, "--mean", "x").error
    assert "--std" in run("import", file, *common, "--std", "0").error
    error = run("import", file, *common, "--input", "array", "--mean", "0").error
    assert "--mean" in error
    assert not (here / "net").exists()


def test_every_layer_is_compared_with_the_runtime(run: Run, here: Path, toys: Path) -> None:
    pytest.importorskip("onnxruntime", reason="what is right is asked of onnxruntime")
    file = classifier(here)
    done = run("import", file, "--data", toys, "--out", "net", "--check", "--json")
    checked = done.json["checked"]
    assert checked["runtime"] == "ONNX Runtime"
    assert len(checked["layers"]) >= 4
    assert not any(x["differ"] for x in checked["layers"])


def test_an_input_in_another_order_is_no_difference(here: Path) -> None:
    torch = pytest.importorskip("torch", reason="modules of PyTorch need torch")
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    program = torch.export.export(module, (torch.zeros(1, 2, 6),))
    torch.export.save(program, "net.pt2")
    assert check(Path("net.pt2")).exact


def test_another_network_differs_from_the_runtime(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="what is right is asked of onnxruntime")
    other = read_network(classifier(here, seed=1))
    file = classifier(here)
    monkeypatch.setattr("kilograd.checking.read_network", lambda _: other)
    assert len(check(file).differing) >= 4


def test_python_takes_a_network_as_it_is(here: Path, toys: Path) -> None:
    model = kilograd.from_onnx(classifier(here), toys, calibration="mse")
    outcome = kilograd.adapt("toys", model, "last:1", iterations=1, shots=2, out="learned")
    assert outcome.compiled.network is model
    again = kilograd.load_adapted("learned").compiled.network
    assert (again.fingerprint, again.source) == (model.fingerprint, model.source)
    with pytest.raises(InputError, match=r"ends in \.tflite"):
        kilograd.from_tflite("net.onnx")


def test_samples_need_no_classes(run: Run, here: Path, toys: Path) -> None:
    file = classifier(here)
    (here / "flat").mkdir()
    for i, picture in enumerate(sorted(toys.rglob("*.png"))[::3]):
        picture.rename(here / "flat" / f"{i}.png")
    assert run("import", file, "--data", "flat", "--out", "net").code == 0
    (here / "empty").mkdir()
    assert "empty" in run("import", file, "--data", "empty", "--out", "other").error


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--count", 0, "--count 0: must be at least 1"),
        ("--count", -3, "--count -3: must be at least 1"),
        ("--percentile", "nan", "--percentile nan: must be above 50"),
        ("--percentile", 50, "--percentile 50: must be above 50"),
        ("--resize", 0, "--resize 0: must be at least 32"),
        ("--resize", 31, "--resize 31: must be at least 32"),
    ],
)
def test_an_option_out_of_range_is_named(
    option: str, value: object, words: str, run: Run, here: Path, toys: Path
) -> None:
    done = run("import", classifier(here), "--data", toys, "--out", "net", option, value)
    assert (done.code, words in done.error) == (2, True), done
    assert not (here / "net").exists()


@pytest.mark.parametrize("size", [1e36, 1e300])
def test_numbers_beyond_float32_are_refused_without_warnings(
    size: float, run: Run, here: Path
) -> None:
    x = np.random.default_rng(0).normal(0, size, (8, 32, 32, 3))
    np.savez("far.npz", x=x, y=np.arange(8))
    done = run("import", classifier(here), "--data", "far.npz", "--out", "net", "--input", "array")
    assert done.code == 2
    assert "Warning" not in done.err


def test_a_check_that_cannot_be_made_says_what_is_there(
    run: Run, here: Path, toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: Path) -> None:
        raise InputError("pip install onnxruntime")

    monkeypatch.setattr("kilograd.cli.networks.check", missing)
    done = run("import", classifier(here), "--data", toys, "--out", "net", "--check")
    assert "pip install onnxruntime; the network itself is written to net" in done.error
    assert load_model("net").layers


@pytest.mark.parametrize(("channels", "advised"), [(3, True), (4, False)])
def test_images_for_arrays_are_refused_with_advice_that_works(
    channels: int, advised: bool, run: Run, here: Path, toys: Path
) -> None:
    nodes = [node("GlobalAveragePool", "x", "e"), node("Flatten", "e", "f")]
    w = np.random.default_rng(0).normal(size=(2, channels)).astype(np.float32)
    nodes.append(node("Gemm", "f w b", "y", transB=1))
    constants = {"w": w, "b": np.zeros(2, np.float32)}
    file = onnx_files.saved(onnx_files.model(nodes, [1, channels, 9, 12], constants), here)
    given = ["import", file, "--data", toys, "--out", "net"]
    error = run(*given).error
    assert "the network takes arrays of" in error
    assert ("--input image" in error) == advised
    assert run(*given, "--input", "image").code == (0 if advised else 2)
