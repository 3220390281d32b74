"""Networks of arrays and of oblong images, from the command line: learned, used, measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import windows
from helpers import Run
from PIL import Image

import kilograd
from kilograd.data import Augment, prepare
from kilograd.emit import link
from kilograd.frontend import load_model_folder, save_model
from kilograd.importing import from_torch
from kilograd.ir import Array
from kilograd.report.mistakes import sketch
from kilograd.targets import build_host

CLASSES = ("fall", "run", "still", "walk")


def waves(count: int) -> tuple[Array, Array]:
    """Windows of 12 moments of 5 sensors on 2 places, waves of as many kinds as classes."""
    rng, way = np.random.default_rng(0), np.arange(count) % len(CLASSES)
    moment = np.arange(12).reshape(-1, 1, 1)
    phase = rng.uniform(0, 0.7, (count, 1, 1, 1))
    x = 2 * np.sin(2 * np.pi * (way.reshape(-1, 1, 1, 1) + 1) * moment / 12 + phase)
    return (x + rng.normal(0, 0.5, (count, 12, 5, 2))).astype(np.float32), way


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with networks, `windows` and `oblong`, and data for both."""
    root = tmp_path_factory.mktemp("arrays")
    for network in (windows.of_arrays(), windows.of_images()):
        (root / network.name).mkdir()
        save_model(network, root / network.name)
    x, way = waves(48)
    np.savez(root / "w.npz", x=x, y=way, classes=np.array(CLASSES))
    rng = np.random.default_rng(1)
    for i, one in enumerate(x):
        folder = root / "w" / CLASSES[way[i]]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{i:02}.npy", one)
        picture = rng.integers(0, 256, (24, 40, 3)).astype(np.uint8)
        picture[..., way[i] % 3] //= np.uint8(2 + way[i])
        (root / "pictures" / CLASSES[way[i]]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / "pictures" / CLASSES[way[i]] / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def learned(place: Path) -> kilograd.Outcome:
    """Windows that were learned."""
    return kilograd.adapt(place / "w.npz", place / "windows", "last:2", out=place / "learned")


def test_arrays_are_learned_without_views(learned: kilograd.Outcome) -> None:
    assert learned.schedule.augment is Augment.NONE
    assert learned.summary.accuracy_after > 0.8
    assert learned.before.images[0].startswith("x[")


def test_a_folder_of_arrays_is_the_same_data(place: Path) -> None:
    one, other = (
        kilograd.adapt(data, place / "windows", "none", test=0.5)
        for data in (place / "w.npz", place / "w")
    )
    assert one.tested.classes == other.tested.classes == CLASSES
    assert one.summary.accuracy_before == pytest.approx(other.summary.accuracy_before, abs=0.2)


def test_arrays_are_recognised(place: Path, learned: kilograd.Outcome, run: Run) -> None:
    assert learned.summary.ways == 4
    done = run("predict", place / "learned", place / "w.npz", "--threshold", 0, "--json")
    rows = json.loads(done.out)["images"]
    assert [r["image"] for r in rows[:2]] == [f"{place / 'w.npz'} x[{i}]" for i in range(2)]
    _, way = waves(48)
    right = [r["label"] == CLASSES[k] for r, k in zip(rows, way, strict=True)]
    assert np.mean(right) > 0.8
    files = run("predict", place / "learned", place / "w" / "run", "--threshold", 0, "--json")
    said = {Path(r["image"]).name: r["confidence"] for r in json.loads(files.out)["images"]}
    assert said == {f"{i:02}.npy": rows[i]["confidence"] for i in range(48) if way[i] == 1}
    tested = json.loads(run("test", place / "learned", place / "w.npz", "--json").out)
    assert tested["tested"] == 12


def test_one_bad_sample_among_good_ones_is_named(
    place: Path, learned: kilograd.Outcome, run: Run, tmp_path: Path
) -> None:
    assert learned.summary.ways == 4
    x, _ = waves(3)
    x[1, 2, 3, 1] = np.inf
    np.savez(tmp_path / "some.npz", samples=x)
    done = run("predict", place / "learned", tmp_path / "some.npz")
    assert "2 images" in done.out
    assert "some.npz samples[1] (number 27 of 120 is inf" in done.err


def test_a_network_of_another_shape_is_refused_before_it_learns(place: Path, run: Run) -> None:
    save = windows.of_arrays((30, 1, 40), "sequences")
    (place / "sequences").mkdir()
    save_model(save, place / "sequences")
    error = run("adapt", place / "w.npz", "--model", place / "sequences").error
    assert "w.npz: sample x[0] has the shape [12, 5, 2], and the network takes [30, 1, 40]" in error
    error = run("adapt", place / "pictures", "--model", place / "windows").error
    assert "pictures: sample fall/00.png is an image, and the network takes arrays" in error
    error = run("adapt", place / "w", "--model", place / "oblong").error
    assert "w: sample fall/00.npy is an array of float32" in error


@pytest.mark.parametrize("name", ["windows", "oblong"])
def test_programs_of_other_inputs_are_planned_and_run(place: Path, run: Run, name: str) -> None:
    options = ("--model", place / name, "--method", "last:2")
    rows = run("plan", *options, "--rows", "--json").json["sram_bytes"]
    assert rows < run("plan", *options, "--json").json["sram_bytes"] + 300
    assert "MACs" in run("cost", *options).out


def test_oblong_images_are_learned(place: Path) -> None:
    outcome = kilograd.adapt(place / "pictures", place / "oblong", "last:2", iterations=3)
    assert outcome.schedule.augment is Augment.FULL
    assert outcome.summary.accuracy_after > 0.5


def test_tasks_of_arrays_are_compared(place: Path, tmp_path: Path) -> None:
    found = kilograd.evaluate(
        place / "w.npz",
        tmp_path / "out",
        models=[place / "windows"],
        methods=["none", "last:2"],
        episodes=2,
        ways=3,
        shots=3,
        queries=3,
        iterations=2,
    )
    assert found is not None


def test_arrays_are_trained_on_offline(place: Path, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "trained"
    done = run(
        *("pretrain", place / "w.npz", "--model", place / "windows", "--out", out),
        *("--epochs", 1, "--device", "cpu"),
    )
    assert done.code == 0
    assert load_model_folder(out).preprocess == windows.of_arrays().preprocess
    done = run(
        *("metatrain", place / "w", "--model", place / "windows", "--out", tmp_path / "meta"),
        *("--epochs", 1, "--steps", 1, "--ways", 2, "--shots", 1, "--queries", 1),
        *("--validation", place / "w.npz", "--validation-episodes", 2, "--device", "cpu"),
    )
    assert done.code == 0


def test_a_module_of_pytorch_takes_arrays_in_its_own_order(tmp_path: Path) -> None:
    """Channels first, as Conv1d has them; PyTorch's answers, in codes, are ours."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv1d(6, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool1d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    ).eval()
    x = np.random.default_rng(0).normal(size=(32, 6, 20)).astype(np.float32)
    np.savez(tmp_path / "w.npz", x=x, y=np.arange(32) % 4)
    found = from_torch(module, torch.zeros(1, 6, 20), tmp_path / "w.npz")
    save_model(found, tmp_path)
    network = load_model_folder(tmp_path)
    assert network.preprocess.shape in {(1, 20, 6), (20, 1, 6)}
    codes = [prepare(one, network.preprocess) for one in x]
    host = build_host(link({"infer": network.graph}))
    logits = network.graph.outputs[-1].type.affine
    ours = np.stack([list(host.call("infer", image=one).values())[-1].reshape(-1) for one in codes])
    real = logits.scale[0] * (ours.astype(np.float64) - logits.zero_point)
    theirs = module(torch.from_numpy(x)).detach().numpy()
    assert np.abs(real - theirs).max() < 0.1 * np.abs(theirs).max()
    assert np.corrcoef(real.ravel(), theirs.ravel())[0, 1] > 0.99


def test_wrong_arrays_are_drawn(place: Path, tmp_path: Path) -> None:
    """Of noise most answers are wrong; what a page shows is what was measured."""
    x = np.random.default_rng(5).normal(size=(48, 12, 5, 2)).astype(np.float32)
    np.savez(tmp_path / "noise.npz", x=x, y=np.array([f"<{i % 4}>" for i in range(48)]))
    out = tmp_path / "out"
    outcome = kilograd.adapt(tmp_path / "noise.npz", place / "windows", "none", out=out)
    page = (out / "wrong.html").read_text("utf-8")
    wrong = outcome.tested.wrong
    assert page.count("<svg") == len(wrong) > 3
    assert f"{len(wrong)} of 12 test samples are wrong" in page
    first = wrong[0]
    steps = np.rint(x[int(first.image[2:-1])] / 0.05).clip(-132, 123)
    assert f"{first.image}: {steps.min() * 0.05:.4g} to {steps.max() * 0.05:.4g}" in page
    assert "&lt;0&gt;" in page
    assert "<0>" not in page


@pytest.mark.parametrize(
    ("shape", "lines", "cells"),
    [((12, 5, 1), 5, 0), ((1, 200, 6), 6, 0), ((49, 10, 1), 0, 490), ((300, 100, 1), 0, 4096)],
)
def test_an_array_is_drawn_as_lines_or_in_shades(
    shape: tuple[int, int, int], lines: int, cells: int
) -> None:
    drawn = sketch(np.random.default_rng(0).normal(size=shape))
    ET.fromstring(drawn)  # noqa: S314 our own
    assert drawn.count("<path") == lines
    assert 0.8 * cells <= drawn.count("<rect") <= cells


def test_an_array_of_one_number_everywhere_is_drawn() -> None:
    assert sketch(np.zeros((4, 3, 1))).count("<path") == 3
    assert "nan" not in sketch(np.full((20, 20, 1), 2.5))


def test_a_line_goes_where_the_numbers_go() -> None:
    (path,) = re.findall(r'd="M(.*?)"', sketch(np.array([0.0, 1.0, 0.5]).reshape(3, 1, 1)))
    points = [tuple(map(float, p.split())) for p in path.split("L")]
    assert points == [(4.0, 116.0), (150.0, 4.0), (296.0, 60.0)]
