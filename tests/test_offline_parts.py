"""Who learns from what, and how it is shown: the parts of offline training without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import write_model, write_pictures
from PIL import Image

from kilograd.cli import main
from kilograd.data import Augment, Dataset, prepare, shared_classes, wrap_dataset
from kilograd.errors import InputError
from kilograd.frontend import Preprocess
from kilograd.offline.parts import Parts, divide_classes, divide_images, prepared
from kilograd.offline.settings import Views
from kilograd.offline.views import _box, random_view

SMALL = Preprocess.square(size=16, resize=18, channels=3)


def shades(labels: Sequence[int], split: Sequence[str] | None = None) -> Dataset:
    """Image i is a square of shade i; class c is called "class c"."""
    classes = [f"class {c}" for c in range(max(labels) + 1)]
    pairs = [(np.full((20, 20), i, np.uint8), c) for i, c in enumerate(labels)]
    made = wrap_dataset("shades", classes, pairs)
    return replace(made, groups=None, split=None if split is None else tuple(split))


def content(part: Dataset) -> dict[int, str]:
    """Which images a part has, by shade, and what it calls them."""
    shade = (int(np.asarray(part.image(i))[0, 0]) for i in range(len(part)))
    return {s: part.classes[part.labels[i]] for i, s in enumerate(shade)}


def truth(labels: Sequence[int]) -> dict[int, str]:
    return {i: f"class {c}" for i, c in enumerate(labels)}


def check(parts: Parts, labels: Sequence[int]) -> None:
    """No image is learned and tested on, and every one has its own label."""
    mine, rest = content(parts.learn), content(parts.choose) | content(parts.report)
    assert not mine.keys() & rest.keys()
    assert (mine | rest).items() <= truth(labels).items()


# ---- parts ----


def test_splits_of_images_are_kept() -> None:
    labels = [0, 1, 0, 1, 0, 1, 2]
    split = ["train", "train", "val", "val", "test", "test", "test"]
    parts = divide_images(shades(labels, split))
    check(parts, labels)
    assert [list(content(p)) for p in (parts.learn, parts.choose, parts.report)] == [
        [0, 1],
        [2, 3],
        [4, 5],  # class 2 was never learned
    ]
    assert parts.report.classes == parts.learn.classes == ("class 0", "class 1")


@pytest.mark.parametrize("only", ["val", "test"])
def test_one_split_beside_train_serves_for_both(only: str) -> None:
    parts = divide_images(shades([0, 1, 0, 1], ["train", "train", only, only]))
    assert content(parts.choose) == content(parts.report) == {2: "class 0", 3: "class 1"}


def test_without_splits_a_fifth_of_each_class_is_held_out() -> None:
    labels = [0] * 10 + [1] * 15
    parts = divide_images(shades(labels))
    check(parts, labels)
    assert Counter(content(parts.report).values()) == {"class 0": 2, "class 1": 3}
    assert len(parts.learn) == 20


def test_splits_of_classes_leave_the_train_classes_to_classify() -> None:
    labels = [0] * 10 + [1] * 10 + [2] * 5
    parts = divide_images(shades(labels, ["train"] * 20 + ["test"] * 5))
    check(parts, labels)
    assert parts.learn.classes == ("class 0", "class 1")
    assert (len(parts.learn), len(parts.report)) == (16, 4)


def test_too_few_images_to_hold_any_out() -> None:
    with pytest.raises(InputError, match="shades: needs images"):
        divide_images(shades([0, 1, 0, 1]))


def test_classes_by_split() -> None:
    labels = [c for c in range(6) for _ in range(3)]
    split = [("train", "train", "train", "val", "val", "test")[c] for c in labels]
    parts = divide_classes(shades(labels, split), ways=2, shots=1)
    check(parts, labels)
    assert parts.learn.classes == ("class 0", "class 1", "class 2")
    assert parts.choose.classes == ("class 3", "class 4")


@pytest.mark.parametrize("split", [None, "images"])
def test_without_classes_to_validate_with_every_fifth_is_held_out(split: str | None) -> None:
    labels = [c for c in range(10) for _ in range(4)]
    names = None if split is None else ["train", "train", "val", "test"] * 10
    parts = divide_classes(shades(labels, names), ways=2, shots=1)
    check(parts, labels)
    assert parts.choose.classes == ("class 4", "class 9")
    assert len(parts.learn.classes) == 8


def test_another_set_to_validate_with() -> None:
    labels = [c for c in range(4) for _ in range(3)]
    other = shades([0, 0, 1, 1], ["train", "test"] * 2)
    parts = divide_classes(shades(labels), ways=2, shots=1, other=other)
    assert len(parts.learn) == 12
    assert content(parts.choose) == truth([0, 0, 1, 1])


def test_no_class_left_to_validate_with() -> None:
    with pytest.raises(InputError, match=r"0 classes to validate with .* needs 2"):
        divide_classes(shades([0, 0, 1, 1, 2, 2]), ways=2, shots=1)


def test_too_few_classes_for_an_episode() -> None:
    labels = [c for c in range(10) for _ in range(4)]
    with pytest.raises(InputError, match=r"2 classes to validate with .* needs 3"):
        divide_classes(shades(labels), ways=3, shots=1)
    with pytest.raises(InputError, match=r"0 classes to learn from have more than 4 images"):
        divide_classes(shades(labels), ways=2, shots=4)


def test_images_to_calibrate_with_are_spread_over_the_set() -> None:
    dataset = shades([0] * 50 + [1] * 50)
    chosen = prepared(dataset, SMALL, 5)[:, 0, 0, 0].astype(int) + 128
    assert chosen.tolist() == [0, 24, 49, 74, 99]
    assert len(prepared(dataset, SMALL, 200)) == 100


# ---- views ----


def halves(width: int = 40, height: int = 30) -> Image.Image:
    """Dark to the left, bright to the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 200
    return Image.fromarray(pixels)


def seen(views: Views, count: int = 60) -> list[bool]:
    """In how many views it is still darker to the left."""
    out = []
    for i in range(count):
        x = random_view(halves(), SMALL, views, views.rng(i)).astype(float)
        out.append(bool(x[:, :4].mean() < x[:, -4:].mean()))
    return out


def test_views_are_mirrored_half_of_the_time_where_they_may_be() -> None:
    assert all(seen(Views(Augment.NOFLIP, crop=0.9)))
    assert 15 < sum(seen(Views(Augment.FULL, crop=0.9))) < 45


def test_no_views_is_the_image_itself() -> None:
    views = Views(Augment.NONE)
    got = random_view(halves(), SMALL, views, views.rng(0))
    assert (got == prepare(halves(), SMALL)).all()


def test_a_place_in_training_has_its_own_view_every_time() -> None:
    views = Views(seed=3)
    a, b, c, d = (
        random_view(halves(), SMALL, v, v.rng(1, step)).tobytes()
        for v, step in ((views, 5), (views, 5), (views, 6), (Views(seed=4), 5))
    )
    assert a == b
    assert len({a, c, d}) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_network_input(channels: int) -> None:
    views = Views()
    got = random_view(halves(), Preprocess.square(12, 14, channels), views, views.rng(0))
    assert got.shape == (12, 12, channels)
    assert got.dtype == np.int8


def test_crops_lie_in_the_image_and_are_as_large_as_asked() -> None:
    areas = []
    for seed in range(300):
        left, top, right, bottom = _box((60, 40), np.random.default_rng(seed), 0.3, 1.0)
        assert 0 <= left < right <= 60
        assert 0 <= top < bottom <= 40
        assert 0.74 < (right - left) / (bottom - top) < 1.34
        areas.append((right - left) * (bottom - top) / 2400)
    assert 0.3 <= min(areas) < 0.35
    # Wider crops than 4 : 3 do not exist, so the whole of a 3 : 2 image is never seen.
    assert 0.8 < max(areas) <= 8 / 9


def test_of_an_image_too_long_for_any_crop_the_middle_is_seen() -> None:
    assert _box((1000, 10), np.random.default_rng(0), 1.0, 1.0) == (495, 0, 505, 10)


@pytest.mark.parametrize(("name", "value"), [("crop", 0.0), ("crop", 1.1), ("seed", -1)])
def test_senseless_views_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        Views(**{name: value})  # type: ignore[arg-type]


# ---- classes seen before ----


def test_classes_are_the_same_whatever_their_case() -> None:
    assert shared_classes(["Dog", "cat"], ["DOG", "cats", "Cat"]) == ("DOG", "Cat")
    assert shared_classes(["03 stop", "n02085620 Chihuahua"], ["stop", "chihuahua"]) == (
        "stop",
        "chihuahua",
    )
    assert shared_classes(["0", "1", "10"], ["1", "2"]) == ("1",), "numbers are names as well"
    assert shared_classes([], ["a"]) == ()


@pytest.mark.parametrize("command", ["adapt", "evaluate"])
def test_classes_that_a_network_has_seen_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    file = write_model(tmp_path / "small") / "graph.json"
    seen = {"provenance": {"training_classes": ["Red", "zebra"]}}
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | seen), "utf-8")
    discs, out = write_pictures(tmp_path / "discs", count=4), tmp_path / "out"
    words = {
        "adapt": [discs, "--model", file.parent, "--method", "none"],
        "evaluate": ["--data", discs, "--models", file.parent, "--methods", "none", "--out", out],
    }[command]
    words += ["--ways", 2, "--shots", 1, "--queries", 2]
    words += ["--episodes", 1] if command == "evaluate" else []
    monkeypatch.setattr(sys, "argv", ["kilograd", command, *map(str, words)])
    main()
    assert "small was trained on classes of discs, 1: red\n" in capsys.readouterr().err


# ---- PyTorch stays out ----


def test_the_command_line_does_not_import_pytorch() -> None:
    code = "import sys, kilograd.cli; print([m for m in sys.modules if m.startswith('torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
