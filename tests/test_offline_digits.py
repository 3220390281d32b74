"""The tool that trains a network like the bundled one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import Run
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="PyTorch is not here: pip install torch")
pytest.importorskip("tensorboard", reason="TensorBoard is not here: pip install tensorboard")
pytest.importorskip("sklearn", reason="scikit-learn is not here: pip install scikit-learn")

from kilograd.data import Dataset  # noqa: E402 behind the lines that may skip
from kilograd.frontend import load_model, load_model_folder  # noqa: E402
from kilograd.layers.raised import clamp  # noqa: E402
from kilograd.ops import Add, Conv, Depthwise  # noqa: E402

TOOL = Path(__file__).parents[1] / "tools" / "pretrain_digits.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_digits", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pictures(tool: ModuleType) -> Dataset:
    found = tool.pictures()
    assert isinstance(found, Dataset)
    return found


def test_the_architecture_is_that_of_the_bundled_network(tool: ModuleType) -> None:
    ours, bundled = tool.architecture(), load_model("digits")
    assert ours.layers == bundled.layers
    assert ours.preprocess == bundled.preprocess
    for n in ours.graph.nodes:
        other = bundled.graph[n.name]
        assert [x.name for x in n.inputs] == [x.name for x in other.inputs]
        assert (n.type.shape, n.type.dtype) == (other.type.shape, other.type.dtype)
        assert type(n.op) is type(other.op)
        assert getattr(n.op, "window", None) == getattr(other.op, "window", None)
        if isinstance(n.op, Conv | Depthwise | Add):
            assert clamp(n.op) == clamp(other.op), n.name


def test_what_is_tested_on_is_not_learned(pictures: Dataset) -> None:
    assert len(pictures.classes) == 40
    assert pictures.split is not None
    test = np.array(pictures.split) == "test"
    assert (test.sum(), (~test).sum()) == (8 * 183, 8 * 718 * 4)
    seen, tried = ({i.tobytes() for i in _images(pictures, rows)} for rows in (~test, test))
    assert not seen & tried


def test_classes_are_orientations(pictures: Dataset) -> None:
    """Turned and mirrored by numpy here."""
    test = np.array(pictures.split) == "test"
    by_class = {c: _images(pictures, test & (pictures.labels == c)) for c in range(40)}
    for digit in range(5):
        upright = by_class[8 * digit]
        for k in range(8):
            seen = upright if k < 4 else upright[:, :, ::-1]
            assert (by_class[8 * digit + k] == np.rot90(seen, k, axes=(1, 2))).all()


def test_the_tool_makes_a_network_that_learns(
    tool: ModuleType,
    tmp_path: Path,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Untrained: only what is written and read matters here."""
    monkeypatch.setattr(tool, "COPIES", 1)
    threads = torch.get_num_threads()
    tool.main(tmp_path / "mine", epochs=0)
    torch.set_num_threads(threads)
    assert "on digits 5 to 9" in capsys.readouterr().out
    model = load_model_folder(tmp_path / "mine")
    assert model.training_classes == ("0", "1", "2", "3", "4")
    assert [o.type.shape for o in model.graph.outputs] == [(1, 1, 64), (1, 1, 5)]
    done = run("plan", "--model", tmp_path / "mine", "--method", "last:6", "--ways", 5)
    assert done.code == 0, done.err


def _images(dataset: Dataset, rows: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(dataset.image(int(i))) for i in np.flatnonzero(rows)])
