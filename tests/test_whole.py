"""All images of all classes: what is learned from, what is tested on, and what is said of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from folders import write_model, write_pictures
from helpers import Done, Run
from hypothesis import given, settings
from hypothesis import strategies as st

import kilograd
from kilograd.data import Dataset, sample_whole
from kilograd.errors import InputError
from kilograd.intervals import wilson
from kilograd.learn.answers import Answers


def dataset_of(
    counts: list[int], split: tuple[str, ...] | None = None, prefix: str = "image"
) -> Dataset:
    """A set with so many images of each class; nobody decodes them."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return Dataset(
        name="made",
        classes=tuple(f"class {i}" for i in range(len(counts))),
        images=(b"",) * len(labels),
        image_names=tuple(f"{prefix} {i}" for i in range(len(labels))),
        labels=labels,
        split=split,
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=8), st.floats(0.01, 0.99), st.integers(0))
def test_every_image_is_on_one_side(counts: list[int], share: float, seed: int) -> None:
    dataset, seed = dataset_of(counts), seed % 2**31
    if sum(n > 0 for n in counts) < 2 or max(counts) < 2:
        with pytest.raises(InputError):
            sample_whole(dataset, test=share, seed=seed)
        return
    episode = sample_whole(dataset, test=share, seed=seed)
    assert sorted(episode.support + episode.query) == list(range(len(dataset)))
    assert episode.classes == tuple(f"class {i}" for i, n in enumerate(counts) if n)
    for images, ways in (
        (episode.support, episode.support_labels),
        (episode.query, episode.query_labels),
    ):
        names = [dataset.classes[dataset.labels[i]] for i in images]
        assert names == [episode.classes[way] for way in ways]
    tested = Counter(episode.query_labels)
    for way, n in enumerate(n for n in counts if n):
        assert tested[way] == (0 if n == 1 else min(max(round(n * share), 1), n - 1))
    assert episode == sample_whole(dataset, test=share, seed=seed)


def test_an_image_that_joins_moves_few_to_the_other_side() -> None:
    before = sample_whole(dataset_of([40, 1]), test=None, seed=3)
    after = sample_whole(dataset_of([41, 1]), test=None, seed=3)
    assert len(set(before.query) ^ set(after.query)) <= 2
    assert sample_whole(dataset_of([40, 1]), test=None, seed=4).query != before.query
    assert len(before.query) == 10


@pytest.mark.parametrize("evaluated", ["test", "val"])
def test_a_split_of_its_own_says_what_is_tested(evaluated: str) -> None:
    split = ("train", evaluated, "train", "extra", "train")
    episode = sample_whole(dataset_of([2, 2, 1], split), test=None, seed=0)
    assert episode.classes == ("class 0", "class 1", "class 2")
    assert (episode.support, episode.query) == ((0, 2, 4), (1,))
    with pytest.raises(InputError, match=r"^test 0\.3: made has a split of its own"):
        sample_whole(dataset_of([2, 2, 1], split), test=0.3, seed=0)


def test_val_is_learned_where_there_is_a_test() -> None:
    split = ("train", "val", "test", "train", "val", "test")
    episode = sample_whole(dataset_of([3, 3], split), test=None, seed=0)
    assert (episode.support, episode.query) == ((0, 1, 3, 4), (2, 5))


def test_a_class_without_an_image_to_learn_from_is_left_out() -> None:
    split = ("train", "test", "train", "test", "test")
    episode = sample_whole(dataset_of([2, 2, 1], split), test=None, seed=0)
    assert (episode.classes, episode.query) == (("class 0", "class 1"), (1, 3))


def test_splits_that_divide_classes_are_ignored() -> None:
    split = ("train",) * 4 + ("test",) * 4
    assert len(sample_whole(dataset_of([4, 4], split), test=None, seed=0).query) == 2


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan"), float("inf")])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(InputError, match=r"^test .*: must be a share between 0 and 1"):
        sample_whole(dataset_of([4, 4]), test=share, seed=0)


# ---- the test ----


def test_answers_are_counted_by_class() -> None:
    answers = Answers(("a", "b", "c"), ("1", "2", "3", "4"), (0, 0, 0, 1), (0, 2, 2, 1))
    assert answers.to_json() == {
        "by_class": {
            "a": {"right": 1, "tested": 3, "accuracy": 1 / 3},
            "b": {"right": 1, "tested": 1, "accuracy": 1.0},
        },
        "confusion": {"a": {"c": 2, "a": 1}, "b": {"b": 1}},
        "wrong": [
            {"image": "2", "label": "a", "said": "c"},
            {"image": "3", "label": "a", "said": "c"},
        ],
    }


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (3, 10), (81, 263), (1, 1)])
def test_wilson_bounds_are_where_the_score_test_turns(right: int, count: int) -> None:
    """The bounds solve (right/count - p)^2 = z^2 p (1 - p) / count."""
    low, high = wilson(right, count)
    assert 0 <= low < high <= 1
    for p in (low, high):
        score = (right / count - p) ** 2 - 1.959963985**2 * p * (1 - p) / count
        assert abs(score) < 1e-9


# ---- the command ----


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "small", seed=3)
    write_pictures(home / "discs")
    return home


@pytest.fixture
def adapt(run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def adapt(*words: object, data: object = None) -> Done:
        quick = ("--model", home / "small", "--iterations", 1)
        return run("adapt", data or home / "discs", *quick, *words)

    return adapt


def test_adapt_takes_every_image(adapt: Run, home: Path) -> None:
    found = adapt("--json", "--out", "run").json
    assert (found["ways"], found["shots"], found["queries"], found["tested"]) == (4, 6, 2, 8)
    result = json.loads(Path("run/result.json").read_text())
    assert found["accuracy_after_low"] <= found["accuracy_after"] <= found["accuracy_after_high"]
    wrong = {w["image"]: w for w in result["wrong"]}
    assert sum(s["right"] for s in result["by_class"].values()) == 8 - len(wrong)
    for name, w in wrong.items():
        assert (home / "discs" / name).is_file()
        assert name.split("/")[0] == w["label"] != w["said"]
    outcome = kilograd.adapt(home / "discs", home / "small", iterations=1)
    assert list(outcome.predictions) == result["predictions"]
    assert adapt("--test", "0.5", "--json").json["queries"] == 4
    assert adapt("--episode", "all", "--json").json["queries"] == 2


def test_wrong_images_are_named(adapt: Run) -> None:
    done = adapt("--out", "run")
    result = json.loads(Path("run/result.json").read_text())
    for w in result["wrong"][:5]:
        assert f"wrong: {w['image']} is {w['label']}, taken for {w['said']}" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--test 0.3 --shots 2", "--test 0.3: an episode fixed does not take all images"),
        ("--episode all --ways 2", "--ways 2: --episode all takes all; give one of the two"),
        ("--test 0", "--test 0.0: must be a share between 0 and 1"),
    ],
)
def test_options_that_contradict(adapt: Run, words: str, message: str) -> None:
    assert adapt(*words.split()).error.startswith(message)


def pictures(folder: Path, counts: dict[str, int]) -> Path:
    """Write so many pictures of each class."""
    if not (folder.parent / "many").exists():
        write_pictures(folder.parent / "many", count=9)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i, file in enumerate(sorted((folder.parent / "many" / "red").iterdir())[:count]):
            (folder / name / f"{i}.png").write_bytes(file.read_bytes())
    return folder


def test_unequal_classes_and_one_image(adapt: Run, tmp_path: Path) -> None:
    done = adapt("--json", data=pictures(tmp_path / "pets", {"cat": 9, "dog": 2, "fish": 1}))
    assert (done.json["ways"], done.json["shots"], done.json["max_shots"]) == (3, 1, 7)
    assert (done.json["queries"], done.json["max_queries"], done.json["tested"]) == (0, 2, 3)
    assert "1 of 3 classes learned and not tested, no image left for it: fish" in done.err


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 1, "dog": 1}, "pets: each class has one image, so that none is left"),
        ({"cat": 2}, "pets: 1 of 1 classes has an image to learn from; a network tells classes"),
    ],
)
def test_two_images_in_all(
    adapt: Run, tmp_path: Path, counts: dict[str, int], message: str
) -> None:
    assert adapt(data=pictures(tmp_path / "pets", counts)).error.startswith(message)


def test_own_folders_of_train_and_test(adapt: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "train", {"cat": 3, "dog": 4})
    pictures(tmp_path / "test", {"cat": 2, "dog": 1})
    folder = tmp_path / "pets"
    folder.mkdir()
    for part in ("train", "test"):
        (tmp_path / part).rename(folder / part)
    found = adapt("--json", data=folder).json
    assert [found[k] for k in ("shots", "max_shots", "queries", "tested")] == [3, 4, 1, 3]
