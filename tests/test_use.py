"""What was learned is used: it says what it said, refuses what it does not know, and is tested."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import CLASSES, contents, listing, write_class, write_model, write_pictures
from helpers import Run

import kilograd
from kilograd import InputError, Outcome
from kilograd.cli.use import as_csv
from kilograd.data import load_dataset
from kilograd.data.pictures import picture_files
from kilograd.frontend import load_model
from kilograd.learn.adapt import load_task
from kilograd.learn.confidence import confidences, threshold
from kilograd.learn.recipe import compile_recipe
from kilograd.learn.samples import Samples
from kilograd.learn.training import enrol, load_samples
from kilograd.passes import LinearHead, PrototypeHead
from kilograd.select import Budget
from kilograd.settings import Recipe
from kilograd.targets import Driver, build_host
from kilograd.use import Prediction, predictions

HEADS = pytest.mark.parametrize("head", ["proto", "linear", "int8"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small", seed=3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "discs", count=8)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other pictures of the same classes, and of one that is not learned."""
    folder = write_pictures(tmp_path_factory.mktemp("pictures") / "more", count=3, seed=9)
    write_class(folder / "white", np.random.default_rng(4), (235, 235, 235), 3)
    return folder


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, model: Path, photos: Path
) -> dict[str, tuple[Path, Outcome]]:
    """What heads learned: the folder, and the outcome."""
    found = {}
    for head in ("proto", "linear", "int8"):
        out = tmp_path_factory.mktemp("learned") / head
        options: dict[str, Any] = {"lr": 0.05, "iterations": 6, "augment": "none"}
        outcome = kilograd.adapt(
            photos, model, "last:3", out=out, head=head, optimizer="sgd", **options
        )
        found[head] = out, outcome
    return found


# ---- it says what it said ----


@HEADS
def test_predictions_are_those_of_adapt(
    folders: dict[str, tuple[Path, Outcome]], photos: Path, head: str
) -> None:
    out, outcome = folders[head]
    files = [photos / name for name in outcome.tested.images]
    wanted = [outcome.episode.classes[way] for way in outcome.predictions]
    for learned in (out, str(out), outcome, kilograd.load_adapted(out)):
        found = kilograd.predict(learned, files, threshold=0)
        assert [p.label for p in found] == [p.nearest for p in found] == wanted
        assert [p.image for p in found] == list(map(str, files))


@HEADS
def test_the_confidence_is_that_of_the_program(
    folders: dict[str, tuple[Path, Outcome]], photos: Path, head: str
) -> None:
    out, outcome = folders[head]
    adapted = kilograd.load_adapted(out)
    started = build_host(adapted.program)  # as it is flashed
    preprocess = adapted.compiled.model.preprocess
    task = load_task(load_dataset(photos), outcome.episode, preprocess)
    found = kilograd.predict(out, [photos / name for name in outcome.tested.images])
    for image, one in zip(task.query.images, found, strict=True):
        logits = Driver(started).infer(image).astype(np.float64)
        sure = logits.max() / 10
        if head != "proto":
            sure = np.exp(logits.max()) / np.exp(logits).sum()
        assert one.confidence == pytest.approx(sure, rel=1e-6)
        assert one.nearest == adapted.classes[int(logits.argmax())]


def test_confidences_of_logits() -> None:
    logits = np.array([[10, 5], [-3, -4], [0, 0]], np.float32)
    assert confidences(logits, PrototypeHead(2)).tolist() == [1, 0, 0]
    soft = confidences(logits, LinearHead(2))
    assert soft == pytest.approx([1 / (1 + np.exp(-5)), 1 / (1 + np.exp(-1)), 0.5])
    assert confidences(np.array([[1e30, -1e30]], np.float32), LinearHead(2)) == [1]


# ---- unknown ----


def left_out(adapted: kilograd.Adapted, support: Samples) -> tuple[list[float], list[float]]:
    """Ask the program: all but one image enrolled, the one looked at with and without its class."""
    host, known, unknown = adapted.host(), [], []
    for i, image in enumerate(support.images):
        rest = np.arange(len(support.labels)) != i
        enrol(host, Samples(support.images[rest], support.labels[rest]))
        logits = Driver(host).infer(image)
        known.append(float(logits.max()) / 10)
        unknown.append(float(np.delete(logits, support.labels[i]).max()) / 10)
    return known, unknown


def test_the_threshold_is_chosen_on_the_support(
    folders: dict[str, tuple[Path, Outcome]], photos: Path
) -> None:
    out, outcome = folders["proto"]
    adapted = kilograd.load_adapted(out)
    support = load_task(
        load_dataset(photos), outcome.episode, adapted.compiled.model.preprocess
    ).support
    known, unknown = left_out(adapted, support)
    wanted = min(np.quantile(known, 0.1), (np.median(known) + np.median(unknown)) / 2)
    assert adapted.threshold == pytest.approx(wanted, abs=1e-4)
    assert outcome.threshold == adapted.threshold
    host = adapted.host()
    before = {k: v.copy() for k, v in host.state.items()}
    threshold(host, adapted.compiled.training.head, support)
    assert all(np.array_equal(host.state[k], v) for k, v in before.items()), "left as it was"


@HEADS
def test_thresholds_of_few_images(
    folders: dict[str, tuple[Path, Outcome]], photos: Path, head: str
) -> None:
    """One image of each class; one class; one image of one class."""
    adapted = kilograd.load_adapted(folders[head][0])
    dataset = load_dataset(photos)
    support = load_task(
        dataset, folders[head][1].episode, adapted.compiled.model.preprocess
    ).support
    first = [int(np.flatnonzero(support.labels == way)[0]) for way in range(len(CLASSES))]
    singles = Samples(support.images[first], support.labels[first])
    host = adapted.host()
    enrol(host, singles)
    found = threshold(host, adapted.compiled.training.head, singles)
    assert found is not None
    assert 0 <= found <= 1
    if head == "proto":
        _, unknown = left_out(adapted, singles)
        assert found == pytest.approx(np.median(unknown), abs=1e-4)


def test_one_class_has_a_threshold_if_it_has_two_images(model: Path, photos: Path) -> None:
    network, dataset = load_model(str(model)), load_dataset(photos)
    compiled = compile_recipe(network, Recipe("none", ways=1), Budget())
    host = build_host(compiled.program)
    for count, said in ((3, True), (1, False)):
        red = load_samples(dataset, tuple(range(count)), (0,) * count, network.preprocess)
        enrol(host, red)
        assert (threshold(host, compiled.training.head, red) is not None) is said


def test_a_threshold_may_be_given(folders: dict[str, tuple[Path, Outcome]], photos: Path) -> None:
    out = folders["proto"][0]
    sure = [p.confidence for p in kilograd.predict(out, photos, threshold=0)]
    middle = float(np.median(sure))
    for least in (0, middle, 1):
        found = kilograd.predict(out, photos, threshold=least)
        assert [p.label is not None for p in found] == [s >= least for s in sure]
        assert all(p.label in {None, p.nearest} for p in found)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"threshold .*: must be in 0 \.\.\. 1"):
            kilograd.predict(out, photos, threshold=wrong)


# ---- on the command line ----


def test_the_command(
    run: Run, tmp_path: Path, folders: dict[str, tuple[Path, Outcome]], more: Path
) -> None:
    out, table = folders["proto"][0], tmp_path / "said.csv"
    done = run("predict", out, more / "red", more / "green" / "0.png", "--csv", table)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["confidence", "class", "image"]
    files = [*(more / "red" / f"{i}.png" for i in range(3)), more / "green" / "0.png"]
    assert [line.split()[-1] for line in lines[1:5]] == list(map(str, files))
    assert lines[5].startswith("4 images: ")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = kilograd.predict(out, files)
    assert [(r["image"], r["label"] or None, r["nearest"]) for r in rows] == [
        (p.image, p.label, p.nearest) for p in found
    ]
    assert [float(r["confidence"]) for r in rows] == [p.confidence for p in found]
    said = run("predict", out, *files, "--json").json
    assert said["classes"] == list(CLASSES)
    assert said["threshold"] == folders["proto"][1].threshold
    assert said["images"] == [vars(p) for p in found]
    assert run("predict", out, *files, "--csv", table).code == 2, "it is there"
    assert run("predict", out, *files, "--csv", table, "--force").code == 0


def test_broken_pictures_are_named_and_counted(
    run: Run, tmp_path: Path, folders: dict[str, tuple[Path, Outcome]], photos: Path
) -> None:
    some = tmp_path / "some"
    shutil.copytree(photos / "red", some / "deep" / "er")
    (some / "half.png").write_bytes((photos / "red" / "0.png").read_bytes()[:99])
    (some / "no.jpg").write_text("no picture")
    (some / "notes.txt").write_text("passed over")
    (some / ".hidden.png").write_text("passed over")
    done = run("predict", folders["proto"][0], some)
    assert done.code == 0
    assert "8 images: " in done.out
    assert "2 of 10 images cannot be read: " in done.err
    assert "half.png (" in done.err
    assert "no.jpg (" in done.err
    shutil.rmtree(some / "deep")
    done = run("predict", folders["proto"][0], some, "--json")
    assert (done.code, done.out) == (2, "")
    assert "no image can be read, 2 tried; the first: " in done.error


def test_what_is_no_image_is_said_alike_each_time(
    tmp_path: Path, folders: dict[str, tuple[Path, Outcome]], caplog: pytest.LogCaptureFixture
) -> None:
    """Pillow names an object by its address in memory."""
    for name in ("empty.png", "text.jpg", "noise.heic"):
        (tmp_path / name).write_bytes(b"" if name == "empty.png" else b"no picture")
    with pytest.raises(InputError, match=r"holds no image of a format that is read here\)$"):
        kilograd.predict(folders["proto"][0], tmp_path)
    assert "0x" not in caplog.text


@pytest.mark.parametrize("name", ["=cmd|' -C calc'!A0", "+1", "-2", "@SUM(A1)", "--help", "a=b"])
def test_no_cell_is_a_formula(name: str) -> None:
    """Names come from a folder that somebody else may have written; a spreadsheet computes them."""
    table = as_csv([Prediction(f"{name}/1.png", name, 0.5, name)])
    (row,) = csv.DictReader(table.splitlines())
    safe = name if name == "a=b" else f"'{name}"
    assert row == {"image": f"{safe}/1.png", "label": safe, "confidence": "0.5", "nearest": safe}


def test_values_of_another_kind(
    folders: dict[str, tuple[Path, Outcome]], photos: Path, model: Path
) -> None:
    """What is no path and no number is named, as everywhere."""
    out: Any = folders["proto"][0]
    high: Any = "high"
    calls: dict[str, Callable[[Any], object]] = {
        "images": lambda odd: kilograd.predict(out, odd),
        "adapted": lambda odd: kilograd.predict(odd, photos),
        "data": lambda odd: kilograd.test(out, odd),
        "folder": kilograd.load_adapted,
        "threshold": lambda odd: kilograd.predict(out, photos, threshold=odd or high),
    }
    for name, call in calls.items():
        for odd in (None, 3, [2.5]):
            with pytest.raises(InputError, match=f"^{name} "):
                call(odd)
    with pytest.raises(InputError, match=r"^adapted 3: give a path"):
        kilograd.adapt(photos, start=3)  # type: ignore[arg-type]
    assert len(kilograd.predict(out, (photos / "red").glob("*.png"))) == 8  # type: ignore[arg-type]


BAD = {
    "no images": (("OUT", "EMPTY"), "EMPTY: holds no image"),
    "not there": (("OUT", "PHOTOS/nowhere.png"), "nowhere.png: no such file or folder"),
    "no results": (("PHOTOS", "PHOTOS"), "PHOTOS: holds no result.json; give a folder that"),
    "a file": (("PHOTOS/red/0.png", "PHOTOS"), "0.png: holds no result.json"),
    "swapped": (("PHOTOS", "OUT"), "PHOTOS: was not written by kilograd adapt, but OUT was"),
    "its own folder": (("OUT", "OUT"), "OUT: holds no image"),
    "a network": (("MODEL", "PHOTOS"), "MODEL: is a network that has not learned"),
    "a table in the way": (("OUT", "PHOTOS", "--csv", "EMPTY"), "--csv EMPTY: must end in .csv"),
    "no confidence": (("OUT", "PHOTOS", "--threshold", "2"), "--threshold 2.0: must be in"),
    "no image at all": (("OUT",), "Missing argument"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_used(
    run: Run,
    tmp_path: Path,
    folders: dict[str, tuple[Path, Outcome]],
    photos: Path,
    model: Path,
    bad: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "OUT": folders["proto"][0],
        "PHOTOS": photos,
        "MODEL": model,
        "EMPTY": tmp_path / "empty",
    }
    words, said = BAD[bad]

    def put(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, str(place))
        return text

    done = run("predict", *map(put, words))
    assert (done.code, done.out) == (2, "")
    assert put(said) in done.error
    assert listing(tmp_path) == ["empty"]


def test_an_image_called_like_an_option(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folders: dict[str, tuple[Path, Outcome]],
    photos: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("--json", "--json.png", "=cmd|'!A0", "a,b\n.png"):
        shutil.copy(photos / "red" / "0.png", tmp_path / name)
    out = folders["proto"][0]
    done = run("predict", out, "--", "--json", "--json.png")
    assert "2 images: " in done.out
    done = run("predict", out, ".", "--csv", "out.csv")
    assert [line.split()[-1] for line in done.out.splitlines()[1:3]] == [
        "--json.png",
        "a,b\\n.png",
    ]
    with Path("out.csv").open(newline="", encoding="utf-8") as file:
        assert [r["image"] for r in csv.DictReader(file)] == ["'--json.png", "a,b\\n.png"]


def test_images_come_one_by_one(
    tmp_path: Path, folders: dict[str, tuple[Path, Outcome]], photos: Path
) -> None:
    """Of 100,000 images, none waits for the others."""
    some = shutil.copytree(photos, tmp_path / "some")
    each = predictions(folders["proto"][0], [some])
    first = next(each)
    shutil.rmtree(some / "yellow")
    rest = list(each)
    assert first.image == str(some / "blue" / "0.png")
    assert len(rest) == 3 * 8 - 1
    assert len(picture_files([some, some / "red"])) == 3 * 8, "each once"


# ---- a test ----


@HEADS
def test_labels_are_names(
    tmp_path: Path, folders: dict[str, tuple[Path, Outcome]], more: Path, head: str
) -> None:
    """Classes in another order, some of them absent: the names say what is right."""
    out = folders[head][0]
    some = tmp_path / "some"
    for name in ("yellow", "blue", "white"):
        shutil.copytree(more / name, some / name)
    write_class(some / "0 first", np.random.default_rng(1), (9, 9, 9), 2)
    found = kilograd.test(out, some)
    said = {p.image: p for p in kilograd.predict(out, some, threshold=0)}
    right = {
        name: sum(said[str(f)].nearest == name for f in (some / name).iterdir())
        for name in ("yellow", "blue")
    }
    assert {k: v.right for k, v in found.answers.by_class.items()} == right
    assert found.answers.share.tested == 6
    assert set(found.strangers) == {"white", "0 first"}
    least = found.threshold
    for name, share in found.strangers.items():
        files = [str(f) for f in (some / name).iterdir()]
        assert share.tested == len(files)
        assert share.right == sum(said[f].confidence < least for f in files)
    kept = sum(p.confidence >= least for f, p in said.items() if Path(f).parent.name in right)
    assert (found.kept.right, found.kept.tested) == (kept, 6)


def test_test_command(run: Run, folders: dict[str, tuple[Path, Outcome]], more: Path) -> None:
    out = folders["proto"][0]
    found, said = kilograd.test(out, more), run("test", out, more, "--json").json
    share = found.answers.share
    assert (said["accuracy"], said["accuracy_low"], said["tested"]) == (
        *(share.accuracy, share.low, 12),
    )
    assert said["by_class"].keys() == set(CLASSES)
    assert said["strangers"].keys() == {"white"}
    done = run("test", out, more)
    assert f"accuracy  {100 * share.accuracy:.1f} % (95 % interval" in done.out
    assert f"not learned: white; {found.strangers['white'].right} of 3 images" in done.out
    for wrong in found.answers.wrong[:5]:
        assert f"wrong: {wrong.image} is {wrong.label}, taken for {wrong.said}" in done.out


def test_what_was_learned_from_is_no_test(
    run: Run, folders: dict[str, tuple[Path, Outcome]], photos: Path
) -> None:
    out, outcome = folders["proto"]
    done = run("test", out, photos)
    count = len(outcome.episode.support)
    assert f"{count} of 32 images were learned from, and are left out" in done.err
    found = kilograd.test(out, photos)
    assert found.answers.share == outcome.tested.share
    assert sorted(found.answers.images) == sorted(outcome.tested.images)


def test_only_the_split_for_tests_is_asked(
    tmp_path: Path, folders: dict[str, tuple[Path, Outcome]], more: Path
) -> None:
    shutil.copytree(more, tmp_path / "split" / "train")
    shutil.copytree(more / "red", tmp_path / "split" / "test" / "red")
    found = kilograd.test(folders["proto"][0], tmp_path / "split")
    assert {name.split("/")[0] for name in found.answers.images} == {"test"}
    assert found.answers.share.tested == 3


def test_a_folder_that_changed_is_said(
    run: Run, tmp_path: Path, folders: dict[str, tuple[Path, Outcome]], photos: Path
) -> None:
    """Which images were learned from is known by their number, and one more shifts them."""
    shutil.copytree(photos, tmp_path / photos.name)
    shutil.copy(photos / "red" / "0.png", tmp_path / photos.name / "red" / "more.png")
    done = run("test", folders["proto"][0], tmp_path / photos.name)
    assert "discs is not as it was when it was learned from" in done.err
    assert "of 33 images" in done.out
    assert "not as it was" not in run("test", folders["proto"][0], photos).err


def test_tests_that_cannot_be(
    run: Run, tmp_path: Path, folders: dict[str, tuple[Path, Outcome]], more: Path, photos: Path
) -> None:
    out = folders["proto"][0]
    shutil.copytree(more / "white", tmp_path / "strange" / "white")
    done = run("test", out, tmp_path / "strange")
    assert done.code == 2
    assert "no class in it was learned; it has white, and there are blue, green" in done.error
    assert "no class folders" in run("test", out, more / "red").error
    assert f"but {out} was; give that first" in run("test", photos, out).error


def test_nothing_is_written(folders: dict[str, tuple[Path, Outcome]], more: Path) -> None:
    before = contents(folders["proto"][0])
    kilograd.predict(folders["proto"][0], more)
    kilograd.test(folders["proto"][0], more)
    assert contents(folders["proto"][0]) == before
    assert json.loads(before["result.json"])["adapted"]["threshold"] == (
        folders["proto"][1].threshold
    )
