"""What was learned goes back into the file that the network is from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_files
import pytest
from helpers import Run
from PIL import Image

from kilograd.data import load_dataset
from kilograd.data.toys import write_toys
from kilograd.frontend import Preprocess
from kilograd.learn.adapted import load_adapted

SIZE = 32
QUICK = ("--method", "last:1", "--iterations", 20, "--shots", 4, "--queries", 4, "--ways", 3)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with drawn pictures."""
    monkeypatch.chdir(tmp_path)
    write_toys(tmp_path / "toys", each=10)
    return tmp_path


def images() -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return the pictures as a module takes them, float32 [n, 3, h, w], and their names."""
    toys = load_dataset(Path("toys"))
    pixels = Preprocess.square(SIZE, SIZE, 3)
    rows = [toys.prepared(i, pixels).astype(np.float32) + 128 for i in range(len(toys))]
    return np.stack(rows).transpose(0, 3, 1, 2) / 255, list(toys.image_names)


def module(classes: int) -> Any:
    torch = pytest.importorskip("torch", reason="modules of PyTorch need torch")
    torch.manual_seed(1)
    nn = torch.nn
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )
    made.train()
    with torch.no_grad():
        for _ in range(20):
            made(torch.rand(16, 3, SIZE, SIZE))
    return made.eval()


def exported(file: str) -> None:
    torch = pytest.importorskip("torch", reason="modules of PyTorch need torch")
    program = torch.export.export(module(7), (torch.zeros(1, 3, SIZE, SIZE),))
    torch.export.save(program, file)


def learned(run: Run, file: str) -> None:
    done = run("import", file, "--data", "toys", "--out", "net")
    assert done.code == 0, done.err
    done = run("adapt", "toys", "--model", "net/", *QUICK, "--head", "linear", "--out", "learned")
    assert done.code == 0, done.err


def test_a_module_takes_what_was_learned(run: Run, here: Path) -> None:
    torch = pytest.importorskip("torch", reason="modules of PyTorch need torch")
    exported("net.pt2")
    learned(run, "net.pt2")
    done = run("merge", "learned", "--into", "net.pt2", "--out", "new.pt", "--json")
    assert len(done.json["layers"]) == 2, done.err
    new = module(3)
    new.load_state_dict(torch.load("new.pt", weights_only=True))
    x, names = images()
    with torch.no_grad():
        chosen = new(torch.from_numpy(x)).argmax(1).tolist()
    classes = load_adapted(Path("learned")).classes
    found = run("predict", "learned", "toys", "--threshold", 0, "--json").json["images"]
    said = {Path(row["image"]).name: row["nearest"] for row in found}
    same = [said[Path(n).name] == classes[c] for n, c in zip(names, chosen, strict=True)]
    assert np.mean(same) > 0.9


def test_another_file_is_refused(run: Run, here: Path) -> None:
    exported("net.pt2")
    learned(run, "net.pt2")
    Path("other.pt2").write_bytes(Path("net.pt2").read_bytes() + b"\0")
    error = run("merge", "learned", "--into", "other.pt2", "--out", "new.pt").error
    assert "other.pt2" in error
    assert "imported from" in error
    assert "name it" in run("merge", "learned", "--into", "net.pt2", "--out", "new.onnx").error
    assert not Path("new.pt").exists()


def test_a_network_of_ours_has_no_file(run: Run, here: Path) -> None:
    done = run("adapt", "toys", "--model", "digits", *QUICK, "--out", "learned")
    assert done.code == 0, done.err
    Image.new("L", (2, 2)).save("net.onnx", format="PNG")
    error = run("merge", "learned", "--into", "net.onnx", "--out", "new.onnx").error
    assert "was not imported" in error


def float_file(folder: Path) -> str:
    """Write a float network of ONNX with 7 classes."""
    node, rng = onnx_files.node, np.random.default_rng(2)

    def weights(*shape: int) -> np.ndarray[Any, Any]:
        return rng.normal(0, shape[1] ** -0.5 / 2, shape).astype(np.float32)

    constants = {"w1": weights(8, 3, 3, 3), "w2": weights(16, 8, 3, 3), "w3": weights(7, 16)}
    constants |= {"b2": weights(16, 1)[:, 0], "b3": weights(7, 1)[:, 0]}
    nodes = [
        node("Conv", "x w1", "a", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w2 b2", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "c", "d"),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "f"),
        node("Gemm", "f w3 b3", "y", transB=1),
    ]
    made = onnx_files.model(nodes, [1, 3, SIZE, SIZE], constants)
    return onnx_files.saved(made, folder).name


def agreement(run: Run, file: str) -> float:
    """Return how often a file of ONNX chooses what `predict` says."""
    x, names = images()
    classes = load_adapted(Path("learned")).classes
    found = run("predict", "learned", "toys", "--threshold", 0, "--json").json["images"]
    said = {Path(row["image"]).name: row["nearest"] for row in found}
    chosen = [onnx_files.run(Path(file), one[None])[0].argmax() for one in x]
    return float(
        np.mean([said[Path(n).name] == classes[c] for n, c in zip(names, chosen, strict=True)])
    )


def test_a_float_file_of_onnx_takes_it(run: Run, here: Path) -> None:
    file = float_file(here)
    learned(run, file)
    done = run("merge", "learned", "--into", file, "--out", "new.onnx", "--data", "toys", "--json")
    share = agreement(run, "new.onnx")
    assert share > 0.9
    same, count = done.json["agreement"]
    assert same / count == pytest.approx(share, abs=0.05)
    again = run("merge", "learned", "--into", file, "--out", "new.onnx")
    assert "exists" in again.error


def test_prototypes_become_a_dense_layer(run: Run, here: Path) -> None:
    file = float_file(here)
    run("import", file, "--data", "toys", "--out", "net")
    done = run("adapt", "toys", "--model", "net/", *QUICK, "--head", "proto", "--out", "learned")
    assert done.code == 0, done.err
    assert run("merge", "learned", "--into", file, "--out", "new.onnx").code == 0
    assert agreement(run, "new.onnx") > 0.9
