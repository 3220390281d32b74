"""The tool that trains the bundled network for pictures, and that network."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import Run
from PIL import Image

import kilograd
from kilograd.frontend import load_model, load_model_folder
from kilograd.ir import Param
from kilograd.ops import Conv, Depthwise

TOOLS = Path(__file__).parents[1] / "tools"
FOLDER = Path(kilograd.__file__).parent / "models" / "pocket"


def test_the_bundled_network_is_small() -> None:
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) <= 500_000
    model = load_model("pocket")
    assert model.preprocess.size == 64
    assert model.graph.outputs[0].type.shape == (1, 1, 160)
    assert _macs(model.graph.nodes) < 22_450_000 / 2  # half of MCUNet's at 128 pixels


def test_the_folder_names_data_and_licences() -> None:
    described = json.loads((FOLDER / "graph.json").read_text())["provenance"]
    text = json.dumps(described)
    for name in ("Caltech-101", "Quick, Draw!", "CC BY 4.0", "TrashNet", "MIT HAN Lab"):
        assert name in text
    assert described["spdx"] == "Apache-2.0"
    assert "accordion" in described["training_classes"]


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    pytest.importorskip("torch", reason="PyTorch is not here: pip install torch")
    pytest.importorskip("tensorboard", reason="TensorBoard is not here: pip install tensorboard")
    pytest.importorskip("pyarrow", reason="pyarrow is not here: pip install pyarrow")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        spec = importlib.util.spec_from_file_location(
            "pretrain_pocket", TOOLS / "pretrain_pocket.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)  # its records look themselves up
        spec.loader.exec_module(module)
        # So small that a step takes no time.
        for name, value in {"SHARD": 180, "PART": 12, "BATCH": 45, "SHOWN": 1, "FINE": 2}.items():
            patch.setattr(module, name, value)
        yield module


def test_the_architecture_is_that_of_the_bundled_network(tool: ModuleType) -> None:
    ours, bundled = tool.architecture(), load_model("pocket")
    assert ours.layers == bundled.layers
    assert ours.preprocess == bundled.preprocess
    for n in ours.graph.nodes:
        other = bundled.graph[n.name]
        assert [x.name for x in n.inputs] == [x.name for x in other.inputs]
        assert (n.type.shape, n.type.dtype) == (other.type.shape, other.type.dtype)
        assert getattr(n.op, "window", None) == getattr(other.op, "window", None)


def test_pictures_are_made_of_their_number(
    tool: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHARD", "PART"):
        monkeypatch.setattr(tool, name, 24)
    made = [tool.Maker(data, (_mean,))(k) for k in (0, 0, 1)]
    images = [m["images"].numpy() for m in made]
    assert images[0].shape == (24, 64, 64, 3)
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()
    # Each picture has something on it.
    assert (images[0].reshape(24, -1).std(axis=1) > 1).sum() >= 20


def test_classes_to_choose_by_are_not_learned(tool: ModuleType, data: Path) -> None:
    pictures = sys.modules["pocket_pictures"]
    assert pictures.labelled(data, held_out=True).classes == ("held",)
    assert pictures.labelled(data, held_out=False).classes == ("learned",)
    # The held class is red, the other one green.
    source = pictures.read_sources(data).photos[0].images
    assert source.shape == (20, 3, 32, 32)
    assert source[:, 0].max() < 100 < source[:, 1].min()


def test_made_maps_are_shades(tool: ModuleType) -> None:
    import torch

    pictures = sys.modules["pocket_pictures"]
    for make in (*pictures._MAPS, pictures.outlines):
        x = make(6, torch.Generator().manual_seed(1))
        assert x.shape == (6, 1, pictures.SIDE, pictures.SIDE)
        assert 0 <= x.min() < x.max() <= 1


def test_targets_are_principal_components(tool: ModuleType) -> None:
    """A stretched or moved teacher is the same teacher; angles are those of all components."""
    import torch

    rng = torch.Generator().manual_seed(2)
    few = torch.randn(300, 200, generator=rng) @ torch.randn(200, 200, generator=rng)
    moved = torch.cat([3 * few[:, :120] + 7, few[:, 120:]], dim=1)
    a, b = (tool.Target.fit(x, (120, 80))(x) for x in (few, moved))
    assert a.shape == (300, tool.WIDTH)
    np.testing.assert_allclose(a.norm(dim=1), 1, rtol=1e-5)
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-3)


def test_orthogonal_keeps_directions(tool: ModuleType) -> None:
    import torch

    x = torch.randn(12, 30, generator=torch.Generator().manual_seed(3))
    for given in (x, x.T):
        made = tool.orthogonal(given).numpy()
        u, _, vt = np.linalg.svd(given.numpy(), full_matrices=False)
        inner = u.T @ made @ vt.T
        assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.02
        assert 0.6 < np.diag(inner).min() <= np.diag(inner).max() < 1.3


def test_interrupted_training_ends_with_the_same_bits(tool: ModuleType, tmp_path: Path) -> None:
    """Steps with small images, with large ones, and across the end of a shard."""
    whole, parts = (_trained(tool, tmp_path / name, steps) for name, steps in _WAYS)
    assert whole.step == parts.step == 5
    for name, value in whole.network.state_dict().items():
        assert (value == parts.network.state_dict()[name]).all(), name
    first = tool.Student().network.state_dict()
    assert any((value != first[name]).any() for name, value in whole.network.state_dict().items())


def test_the_network_that_is_written_learns(
    tool: ModuleType, tmp_path: Path, run: Run, data: Path
) -> None:
    """Hardly trained: only what is written and read matters here."""
    student = _trained(tool, tmp_path, (1,))
    known = sys.modules["pocket_pictures"].labelled(data, held_out=False)
    two = kilograd.data.Dataset(
        "two", ("a", "b"), known.images, known.image_names, np.arange(len(known)) % 2
    )
    model, network = tool.classified(student, two)
    codes = (_shard(0)["images"].numpy().astype(np.int16) - 128).astype(np.int8)
    graph = tool.int8_graph(network, codes)
    tool.write(tool.replace(model, graph=graph, training_classes=two.classes), tmp_path / "mine")
    written = load_model_folder(tmp_path / "mine")
    assert written.training_classes == ("a", "b")
    done = run("plan", "--model", tmp_path / "mine", "--method", "last:3", "--ways", 5)
    assert done.code == 0, done.err


_WAYS = (("whole", (5,)), ("parts", (2, 4, 5)))


def _trained(tool: ModuleType, folder: Path, stops: tuple[int, ...]) -> Any:
    for until in stops:
        student = tool.Student()
        shards = tool.Shards(folder / "shards", _shard)
        tool.follow(student, shards, (200,), folder, tool.warm, until, lambda network: 0.0)
    return student


def _shard(number: int) -> dict[str, Any]:
    import torch

    rng = torch.Generator().manual_seed(number)
    images = torch.randint(256, (180, 64, 64, 3), generator=rng, dtype=torch.uint8)
    return {"images": images, "features": torch.randn(180, 200, generator=rng).half()}


def _mean(images: Any) -> tuple[Any]:
    return (images.float().mean(dim=(1, 2)),)


def _macs(nodes: Any) -> int:
    total = 0
    for n in nodes:
        if isinstance(n.op, Conv | Depthwise):
            h, w, _ = n.type.shape
            assert isinstance(n.inputs[1].op, Param)
            total += h * w * int(np.prod(n.inputs[1].type.shape))
    return total


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny sets under the names that the tool reads."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("data")
    names = ("trashnet", "sign_digits", "bccd_cells", "omniglot", "fashion_mnist", "quickdraw3")
    rng = np.random.default_rng(4)

    def image(colour: tuple[int, int, int]) -> bytes:
        pixels = np.array(colour, np.int64) + rng.integers(-20, 20, (32, 32, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    def table(kinds: list[tuple[str, tuple[int, int, int]]], **more: list[str]) -> Any:
        columns = {
            "image": [image(colour) for _, colour in kinds],
            "label": [sorted({k for k, _ in kinds}).index(kind) for kind, _ in kinds],
            "class_name": [kind for kind, _ in kinds],
        }
        return pa.table(columns | more)

    green, red = ("learned", (40, 200, 40)), ("held", (200, 40, 40))
    split = ["train"] * 15 + ["test"] * 10 + ["val"] * 5
    kinds = [green] * 15 + [red] * 10 + [green] * 5
    pq.write_table(table(kinds, class_split=split), folder / "caltech101.parquet")
    for name in names:
        pq.write_table(
            table([("a", (120, 90, 60)), ("b", (30, 60, 90))] * 4), folder / f"{name}.parquet"
        )
    return folder
