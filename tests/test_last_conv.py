"""Training the last convolution of TinyTrain's networks: `tools/train_last_conv.py`."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from folders import write_pictures

from kilograd.emit import link
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.ir import Array, fingerprint
from kilograd.passes import EntryPoint
from kilograd.targets import build_host

torch = pytest.importorskip("torch", reason="needs pip install torch")

SCRIPT = Path(__file__).parents[1] / "tools" / "train_last_conv.py"
CHANNELS = 12


@pytest.fixture(scope="module")
def tool() -> SimpleNamespace:
    if not SCRIPT.is_file():
        pytest.skip("the tools are not here")
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_the_integers_compute_what_was_trained(tool: SimpleNamespace) -> None:
    """A head with normalisation, against its own float32 on the maps of the int8 program."""
    model = load_model("digits")
    node = tool.last_map(model)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    head = tool.Head(node.type.shape[2], CHANNELS, 5)
    codes = rng.integers(-128, 128, (200, *node.type.shape), np.int8)
    labels = np.arange(200) % 5
    maps = tool.real(model, tool.Maps(codes, labels))
    tool.train(head, maps, torch.from_numpy(labels), epochs=2, rate=0.05, seed=0)
    grown = tool.with_trained(model, head, maps)
    assert grown.layers == (*model.layers, "last_conv")
    host = build_host(link({EntryPoint.INFER: grown.graph}))
    seen = build_host(link({EntryPoint.INFER: tool.up_to(model, node)}))
    for _ in range(5):
        image = rng.integers(-128, 128, (16, 16, 1), np.int8)
        features, logits = host.call(EntryPoint.INFER, image=image).values()
        (own,) = seen.call(EntryPoint.INFER, image=image).values()
        x = tool.real(model, tool.Maps(np.array(own)[None], labels[:1]))
        with torch.no_grad():
            wanted = head.maps(x).mean((2, 3))[0].numpy(), head(x)[0].numpy()
        for node_out, got, want in zip(
            grown.graph.outputs, (features, logits), wanted, strict=True
        ):
            near(node_out.type.affine, np.array(got).ravel(), want)


def near(quant: object, codes: Array, want: Array) -> None:
    """Two codes are left for rounding weights, maps and what comes of them."""
    scale, zero = quant.scale[0], quant.zero_point  # type: ignore[attr-defined]
    assert np.abs((codes.astype(float) - zero) * scale - want).max() <= 2 * scale


def test_a_tenth_of_each_class_is_held_out(tool: SimpleNamespace) -> None:
    labels = np.repeat([0, 1, 2], [30, 25, 9])
    data = SimpleNamespace(name="some", classes=("a", "b", "c"), labels=labels, split=None)
    learn, held = tool.split(data, 20)
    assert np.bincount(labels[learn], minlength=3).tolist() == [18, 18, 9]
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 2, 0]
    assert not set(learn) & set(held)
    data.split = ("train",) * 30 + ("test",) * 34
    learn, _ = tool.split(data, 20)
    assert set(labels[learn]) == {0}


def test_it_writes_a_network(
    tool: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_pictures(tmp_path / "data", ("red", "blue"), 20)
    out = tmp_path / "grown"
    tool.main("digits", CHANNELS, pictures, out, images=20, epochs=2)
    grown = load_model(str(out))
    assert grown.layers[-1] == "last_conv"
    assert grown.training_classes[-2:] == ("blue", "red")
    assert grown.graph.outputs[0].type.shape == (1, 1, CHANNELS)
    assert "of 4 images held out" in capsys.readouterr().out
    first = fingerprint(grown.graph)
    for seed, same in ((0, True), (1, False)):
        tool.main("digits", CHANNELS, pictures, out, images=20, epochs=2, seed=seed)
        assert (fingerprint(load_model(str(out)).graph) == first) == same
    few = write_pictures(tmp_path / "few", ("red", "blue"), 5)
    with pytest.raises(InputError, match="no class has 10 images"):
        tool.main("digits", CHANNELS, few, tmp_path / "none")
    assert not (tmp_path / "none").exists()
