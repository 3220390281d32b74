"""Exported projects of what was learned: their examples recognise images, and forget nothing."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from applications import application, from_565, mean, shuffled, thousandths
from helpers import Run, linked, quick_build, small_network
from PIL import Image
from test_driver import KINDS, TRACE, Kind, Traced, learned_by_driver, run_example, write_example

import kilograd
from kilograd import InputError
from kilograd.data import Dataset
from kilograd.emit.application import Application
from kilograd.emit.pictures import Pictures, drawn, stored
from kilograd.frontend import Preprocess
from kilograd.ir import Array
from kilograd.learn.own_pictures import own_pictures
from kilograd.passes import entries
from kilograd.targets import Driver, HostProgram

NAMES = ("cat", "dog", "\u00e9t\u00e9")
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="no cc")


def learned_before(kind: Kind) -> HostProgram:
    """A program that starts with what was learned in two passes."""
    host = linked(entries(small_network(), kind.training))
    learned_by_driver(Driver(host), kind.group)
    slots = (replace(s, value=host.state[s.name].copy()) for s in host.program.state)
    return quick_build(replace(host.program, state=tuple(slots)))


def pictures_of(size: int, channels: int, support: tuple[int, ...]) -> Pictures:
    """Noise for each class to test on, and for labels to learn from."""
    rng, tests = np.random.default_rng(3), (0, 0, 1, 1, 2, 2)
    frames = rng.integers(0, 256, (len(tests) + len(support), size, size, channels), np.uint8)
    frames = np.broadcast_to(frames, (*frames.shape[:3], 3))
    return Pictures(NAMES, frames[len(tests) :], support, frames[: len(tests)], tests, own=True)


def said_of_learned(app: Application, runner: Any, state: Array) -> list[str]:
    """What the example prints: a test, passes without enrolment, more prototypes, a test."""
    driver, pictures, lines = Driver(runner), app.pictures, list[str]()
    channels = app.preprocess.channels
    support, tests = (
        [(x[..., :channels].astype(np.int16) - 128).astype(np.int8) for x in frames]
        for frames in (pictures.support, pictures.tests)
    )
    marks = [np.array([label], np.int32) for label in pictures.support_labels]
    trains = "step" in app.program.entries and len(set(pictures.support_labels)) == app.ways
    trains &= "enrol_grad" not in app.program.entries
    enrols = "enrol" in app.program.entries and bool(marks)

    def test(when: str) -> None:
        right = 0
        for x, label in zip(tests, pictures.test_labels, strict=True):
            found = int(driver.infer(x).argmax())
            right += found == label
            wrong = f"  {NAMES[label]} is taken for {NAMES[found]}"
            lines.append(f"  {NAMES[label]}: right" if found == label else wrong)
        lines.append(f"accuracy {when} training: {right} of {len(tests)}")

    test("before")
    size = min(app.group, len(support)) if "apply" in app.program.entries else 1
    orders, updates = shuffled(len(support)), 0
    for turn in range(app.passes if trains else 0):
        order, losses = next(orders), list[float]()
        rate = np.float32(app.rate) * np.float32(app.passes - turn) / np.float32(app.passes)
        for first in range(0, len(support), size):
            group = order[first : first + size]
            losses += driver.update(
                ((driver.show(support[i]), marks[i]) for i in group),
                share=float(np.float32(1) / np.float32(len(group))),
                rate=float(rate),
                clock=(1, updates),
                seen=turn * len(support) + first,
            )
            updates += 1
        lines.append(f"pass {turn + 1}: loss {thousandths(mean(losses))}")
    for x, label in zip(support, marks, strict=True) if enrols else ():
        runner.call("enrol", **driver.show(x), label=label)
    if trains or enrols:
        test("after")
    digest = 2166136261
    for byte in state.tolist():
        digest = (digest ^ byte) * 16777619 % 2**32
    return [*lines, f"state: {digest}"]


@needs_cc
@pytest.mark.parametrize("support", [(0, 1, 2, 2), (0, 2)], ids=["every class", "some classes"])
@pytest.mark.parametrize(
    "kind",
    ["sgd", "rows", "linear", "nothing learns", "accumulate", "prefix by rows", "exact prefix"],
)
def test_an_example_recognises_and_goes_on_as_this_machine(
    kind: str, support: tuple[int, ...], tmp_path: Path
) -> None:
    """Call by call: predictions first, losses, the state; and nothing is forgotten."""
    host = learned_before(KINDS[kind])
    app = application(host.program)
    pictures = pictures_of(app.preprocess.height, app.preprocess.channels, support)
    app = replace(app, classes=NAMES, pictures=pictures)
    if not (app.trains or app.enrols):
        app = replace(app, pictures=pictures.tests_only)
    write_example(app, tmp_path)
    macros = "\n".join(
        f"#define model_{e}(...) TRACED({e}, __VA_ARGS__)" for e in host.program.entries
    )
    (tmp_path / "trace.c").write_text(TRACE.format(macros=macros), encoding="utf-8")
    printed = run_example(tmp_path, "trace.c").stdout.splitlines()
    runner = Traced(host)
    expected = said_of_learned(app, runner, host._state[: app.program.state_bytes])
    assert [line for line in printed if not line.startswith("call ")] == expected
    assert [line for line in printed if line.startswith("call ")] == runner.lines
    assert "call forget" not in printed


@needs_cc
@pytest.mark.parametrize("kind", ["sgd", "prefix by rows", "linear"])
def test_an_example_without_images_only_looks(kind: str, tmp_path: Path) -> None:
    """It says that its pictures are drawn, what they are taken for, and leaves the state alone."""
    host = learned_before(KINDS[kind])
    app = application(host.program, classes=NAMES)
    write_example(app, tmp_path)
    strict = ("-Wall", "-Wextra", "-Werror", "-I.", "-Iruntime/include", "-fsyntax-only")
    subprocess.run(["cc", *strict, "example.c"], cwd=tmp_path, check=True)
    first, *lines, state = run_example(tmp_path, "example.c").stdout.splitlines()
    assert "drawn" in first
    assert "--data" in first
    frames = app.pictures.tests[..., : app.preprocess.channels]
    assert len(lines) == len(frames)
    known = "|".join(NAMES)
    assert all(re.fullmatch(rf"  (disc|ring|cross) is taken for ({known})", x) for x in lines)
    digest = 2166136261
    for byte in host._state[: app.program.state_bytes].tolist():
        digest = (digest ^ byte) * 16777619 % 2**32
    assert state == f"state: {digest}"


# ---- the command ----


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "photos"
    kilograd.pictures(folder, each=16)
    return folder


@pytest.fixture(scope="module")
def learned(photos: Path) -> Path:
    out = photos.parent / "learned"
    kilograd.adapt(photos, "digits", "last:3", iterations=3, out=out)
    return out


def held_back(learned: Path, photos: Path) -> list[Path]:
    """The first three images of each class that nothing was learned from."""
    episode = json.loads((learned / "episode.json").read_text("utf-8"))
    files = [p for name in episode["classes"] for p in sorted((photos / name).iterdir())]
    query = [files[i] for i in episode["query"]]
    return [
        p for name in episode["classes"] for p in [q for q in query if q.parent.name == name][:3]
    ]


@needs_cc
def test_a_project_recognises_the_users_own_images(
    run: Run, photos: Path, learned: Path, tmp_path: Path
) -> None:
    """From the command to ./example: it says of each image what `kilograd predict` says."""
    project = tmp_path / "project"
    done = run("export", "--adapted", learned, "--data", photos, "--out", project)
    assert done.code == 0, done.err
    subprocess.run(["make", "CFLAGS=-O1"], cwd=project, check=True, capture_output=True)
    printed = subprocess.run([project / "example"], check=True, capture_output=True, text=True)
    lines = printed.stdout.splitlines()
    files = held_back(learned, photos)
    found = [one.nearest for one in kilograd.predict(learned, files)]
    own = [p.parent.name for p in files]
    assert lines[: len(files)] == [
        f"  {a}: right" if a == b else f"  {a} is taken for {b}"
        for a, b in zip(own, found, strict=True)
    ]
    right = sum(a == b for a, b in zip(own, found, strict=True))
    assert lines[len(files)] == f"accuracy before training: {right} of {len(files)}"
    assert "accuracy after training" in lines[-2]
    page = (project / "README.md").read_text("utf-8")
    assert f"They are {len(files)} of yours" in page
    assert "model_forget" not in (project / "example.c").read_text("utf-8")


def test_classes_that_were_not_learned_are_left_out(
    photos: Path, learned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    shutil.copytree(photos / "car", other / "car")
    shutil.copytree(photos / "duck", other / "unicorn")
    with caplog.at_level(logging.WARNING, "kilograd"):
        kilograd.export(tmp_path / "project", adapted=learned, data=other)
    assert "not learned, and left out: unicorn" in caplog.text
    text = (tmp_path / "project" / "images.h").read_text("ascii")
    way = kilograd.load_adapted(learned).classes.index("car")
    assert f"tests_label[TESTS] = {{{way}, {way}, {way}}};" in text
    assert "train()" not in (tmp_path / "project" / "example.c").read_text("utf-8")
    assert "Layers do not learn" in (tmp_path / "project" / "README.md").read_text("utf-8")


def test_data_that_cannot_be_used(run: Run, photos: Path, learned: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "project")
    assert "needs --adapted" in run("export", "--data", photos, *out).error
    adapted = ("export", "--adapted", learned)
    inside = photos / "project"
    assert "would be taken for data" in run(*adapted, "--data", photos, "--out", inside).error
    shutil.copytree(photos / "car", tmp_path / "other" / "unicorn")
    shutil.copytree(photos / "car", tmp_path / "other" / "dragon")
    said = run(*adapted, "--data", tmp_path / "other", *out).error
    assert "no class in it was learned" in said
    assert run(*adapted, "--data", tmp_path / "nowhere", *out).code == 2
    turned = run("export", "--adapted", photos, "--data", learned, *out).error
    assert f"{learned} was; give that first" in turned
    assert not (tmp_path / "project").exists()


# ---- which images ----


def many(classes: int, each: int) -> Dataset:
    """Images of one colour: that of an image's number."""
    count = classes * each
    return Dataset(
        "many",
        tuple(f"c{i}" for i in range(classes)),
        tuple(partial(Image.new, "RGB", (4, 4), (i, 0, 0)) for i in range(count)),
        tuple(map(str, range(count))),
        np.repeat(np.arange(classes), each),
    )


def test_tests_are_of_those_held_back_and_learning_takes_the_rest() -> None:
    dataset = many(3, 6)
    asked = [0, 3, 4, 5, 6, 12, 13, 14, 15, 16, 17]  # of c1 only one
    found = own_pictures(("c2", "c0", "c1"), Preprocess.square(4, 4, 3), dataset, asked)
    assert found.names == ("c2", "c0", "c1")
    assert found.tests[:, 0, 0, 0].tolist() == [12, 13, 14, 0, 3, 4, 6]
    assert found.test_labels == (0, 0, 0, 1, 1, 1, 2)
    assert found.support[:, 3, 3, 0].tolist() == [15, 16, 5, 1, 7, 8]
    assert found.support_labels == (0, 0, 1, 1, 2, 2)
    assert found.every_class


@pytest.mark.parametrize(
    ("images", "tests", "support"), [(60, 30, 20), (40, 20, 20), (20, 10, 10), (7, 3, 3), (1, 1, 0)]
)
def test_there_are_as_many_images_as_fit(images: int, tests: int, support: int) -> None:
    """Of ten classes at most; with too little room of fewer."""
    dataset, size = many(12, 5), 4 * 4 * 3
    names = dataset.classes
    found = own_pictures(names, Preprocess.square(4, 4, 3), dataset, range(60), images * size + 7)
    assert (len(found.tests), len(found.support)) == (tests, support)
    assert not found.every_class


def test_no_room_for_an_image() -> None:
    with pytest.raises(InputError, match="data many: an image takes 48 bytes of flash, and 47"):
        own_pictures(("c0",), Preprocess.square(4, 4, 3), many(1, 2), [0], 47)


def test_own_images_lose_nothing_and_drawn_ones_are_16_bits() -> None:
    frames = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
    assert stored(frames, "KG_RGB").ravel().tolist() == list(range(54))
    tests = drawn(2).tests
    back = from_565(stored(tests, "KG_RGB565_SWAPPED").view(">u2"))
    assert np.abs(back.reshape(tests.shape).astype(int) - tests).max() < 8
