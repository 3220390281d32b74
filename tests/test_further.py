"""Learning goes on: more images, classes in another order, a new one, one less; nothing is lost."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_class, write_model, write_pictures
from helpers import Done, Run

import kilograd
from kilograd import InputError, Outcome
from kilograd.ir import Array

HEADS = pytest.mark.parametrize("head", ["proto", "linear", "int8"])
OLD = ("blue", "green", "red")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four colours, and one that is in nobody's list."""
    folder = write_pictures(tmp_path_factory.mktemp("pictures") / "discs", count=8)
    write_class(folder / "white", np.random.default_rng(4), (235, 235, 235), 8)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> dict[str, Path]:
    """What heads have learned of three classes."""
    home = tmp_path_factory.mktemp("learned")
    model = write_model(home / "small", seed=3)
    options: dict[str, Any] = {"lr": 0.05, "iterations": 4, "augment": "none", "optimizer": "sgd"}
    for head in ("proto", "linear", "int8"):
        data = some(photos, home / f"data of {head}", *OLD)
        kilograd.adapt(data, model, "last:3", out=home / head, head=head, **options)
    shutil.rmtree(model)
    return {head: home / head for head in ("proto", "linear", "int8")}


def some(photos: Path, to: Path, *names: str) -> Path:
    """Copy some classes; "a=b" calls a b."""
    for name in names:
        old, _, new = name.partition("=")
        shutil.copytree(photos / old, to / (new or old))
    return to


def weights(outcome: Outcome | kilograd.Adapted) -> dict[str, Array]:
    return {k: v for k, v in outcome.tensors.items() if not k.startswith("head.")}


def same(a: dict[str, Array], b: dict[str, Array]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def row(learned: Outcome | kilograd.Adapted, name: str, table: str = "head.prototypes") -> Array:
    adapted = learned.adapted if isinstance(learned, Outcome) else learned
    return adapted.tensors[table][adapted.classes.index(name)]


# ---- a class more ----


def test_a_class_is_added_from_its_images_alone(
    run: Run, tmp_path: Path, photos: Path, folders: dict[str, Path]
) -> None:
    """The others keep their prototypes and what is said of their images; weights stay."""
    before = kilograd.load_adapted(folders["proto"])
    data = some(photos, tmp_path / "data", "yellow")
    out = tmp_path / "out"
    done = run("adapt", data, "--from", folders["proto"], "--out", out)
    assert done.code == 0
    assert "no image of blue, green, red: their prototypes are kept" in done.err
    assert "nothing was learned" not in done.out
    after = kilograd.load_adapted(out)
    assert after.classes == (*OLD, "yellow")
    assert same(weights(after), weights(before))
    for name in OLD:
        assert np.array_equal(row(after, name), row(before, name))
    # what the network makes of the new images is the new prototype, as if all were learned at once
    alone = kilograd.adapt(
        some(photos, tmp_path / "all", *OLD, "yellow"), start=before, iterations=0
    )
    assert np.array_equal(row(after, "yellow"), row(alone, "yellow"))
    said = kilograd.predict(out, photos / "yellow", threshold=0)
    assert {p.nearest for p in said} == {"yellow"}
    old = kilograd.predict(folders["proto"], [photos / c for c in OLD], threshold=0)
    new = kilograd.predict(out, [photos / c for c in OLD], threshold=0)
    changed = [(a, b) for a, b in zip(old, new, strict=True) if a.nearest != b.nearest]
    assert all(b.nearest == "yellow" for _, b in changed), "or it is what it was"
    assert after.threshold is not None
    assert before.threshold is not None
    assert after.threshold <= before.threshold


@HEADS
def test_all_classes_with_images_learn_on(
    tmp_path: Path, photos: Path, folders: dict[str, Path], head: str
) -> None:
    """In any order; the new one comes last, and what was learned is where it begins."""
    before = kilograd.load_adapted(folders[head])
    data = some(photos, tmp_path / "data", "white=a first", *reversed(OLD))
    options: dict[str, Any] = {"lr": 0.05 if head == "proto" else 0.2, "augment": "none"}
    outcome = kilograd.adapt(data, start=folders[head], iterations=15, **options)
    assert outcome.adapted.classes == (*OLD, "a first")
    assert not same(weights(outcome), weights(before))
    still = kilograd.adapt(data, start=before, iterations=0)
    assert same(weights(still), weights(before))
    if head != "proto":
        for name in OLD:
            for table in ("head.weight", "head.bias"):
                assert np.array_equal(row(still, name, table), row(before, name, table))
        assert not row(still, "a first", "head.weight").any()
        assert row(outcome, "a first", "head.weight").any()
    right = [
        p.nearest == name
        for name, folder in (*((c, c) for c in OLD), ("a first", "white"))
        for p in kilograd.predict(outcome, photos / folder, threshold=0)
    ]
    assert np.mean(right) >= 0.75, "chance is 0.25"
    assert len(outcome.losses) == 15 * len(outcome.episode.support)


def test_the_same_classes_go_on_as_one_run_would(
    tmp_path: Path, photos: Path, folders: dict[str, Path]
) -> None:
    """With nothing new, what is said before learning is what was said after it."""
    before = kilograd.load_adapted(folders["proto"])
    data = some(photos, tmp_path / "data of proto", *OLD)
    outcome = kilograd.adapt(data, start=folders["proto"], iterations=0)
    assert outcome.adapted.classes == before.classes
    assert same(dict(outcome.tensors), dict(before.tensors)), "the same images enrolled anew"
    assert outcome.threshold == before.threshold


# ---- a class less ----


@HEADS
def test_a_class_is_forgotten(
    run: Run, tmp_path: Path, photos: Path, folders: dict[str, Path], head: str
) -> None:
    before = kilograd.load_adapted(folders[head])
    data = some(photos, tmp_path / "data", "blue", "red")
    out = tmp_path / "out"
    words = ("--from", folders[head], "--forget", "green", "--iterations", 0, "--out", out)
    assert run("adapt", data, *words).code == 0
    after = kilograd.load_adapted(out)
    assert after.classes == ("blue", "red")
    assert same(weights(after), weights(before))
    for table in ("head.weight", "head.bias") if head != "proto" else ():
        for name in after.classes:
            assert np.array_equal(row(after, name, table), row(before, name, table))
    assert {p.nearest for p in kilograd.predict(out, photos, threshold=0)} <= {"blue", "red"}
    result = json.loads((out / "result.json").read_text("utf-8"))
    assert result["classes"] == ["blue", "red"]


def test_one_class_is_left(
    run: Run, tmp_path: Path, photos: Path, folders: dict[str, Path]
) -> None:
    """No rate and no number of passes would change a weight: nobody is told to try them."""
    data = some(photos, tmp_path / "data", "red")
    gone = (x for name in OLD if name != "red" for x in ("--forget", name))
    out = tmp_path / "my red; one"
    done = run("adapt", data, "--from", folders["proto"], *gone, "--out", out)
    assert (done.code, "--lr" in done.out) == (0, False), done.err
    said = done.out.splitlines()
    assert said[-1].startswith("nothing was learned: there is one class")
    _, _, command = said[-2].partition("Use it: kilograd ")
    assert shlex.split(command) == ["predict", str(out), "IMAGES"]
    assert run(*shlex.split(command)[:-1], data).code == 0


def test_a_class_is_exchanged(tmp_path: Path, photos: Path, folders: dict[str, Path]) -> None:
    data = some(photos, tmp_path / "data", "yellow")
    outcome = kilograd.adapt(data, start=folders["proto"], forget=["blue", "green"])
    assert outcome.adapted.classes == ("red", "yellow")
    assert np.array_equal(row(outcome, "red"), row(kilograd.load_adapted(folders["proto"]), "red"))


def test_again_and_again(tmp_path: Path, photos: Path, folders: dict[str, Path]) -> None:
    """A folder replaces the one it came from; what it stands on comes along."""
    out = tmp_path / "out"
    shutil.copytree(folders["proto"], out)
    for name in ("yellow", "white"):
        data = some(photos, tmp_path / name, name)
        kilograd.adapt(data, start=out, out=out, force=True)
    after = kilograd.load_adapted(out)
    assert after.classes == (*OLD, "yellow", "white")
    assert kilograd.plan(adapted=out).recipe.ways == 5
    first = kilograd.load_adapted(folders["proto"])
    assert np.array_equal(row(after, "green"), row(first, "green"))


# ---- what cannot be ----

BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "passes without images": (
        "yellow",
        {"iterations": 3},
        "iterations 3: no image of blue, green, red is given, whose prototypes would not fit",
    ),
    "a class that is not there": (
        "yellow",
        {"forget": ["pink"]},
        "forget pink: no such class; there are blue, green, red",
    ),
    "a class that is given": (
        "red",
        {"forget": ["red"]},
        "forget red: the data holds images of it",
    ),
    "another method": ("red", {"method": "full"}, "has learned with last:3; leave this out"),
    "another head": ("red", {"head": "linear"}, "has learned with proto"),
    "another network": ("red", {"model": "digits"}, "the network and what learns in it are"),
    "shots": ("red", {"shots": 3}, "shots: nothing is drawn where learning goes on"),
    "a plan": ("red", {"save_plan": "a.json"}, "save_plan: has no use where learning goes on"),
    "an episode": ("red", {"episode": "fixed"}, "episode: has no use where"),
    "no option": ("red", {"speed": 3}, "speed: no such option"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be(tmp_path: Path, photos: Path, folders: dict[str, Path], bad: str) -> None:
    name, options, said = BAD[bad]
    data = some(photos, tmp_path / "data", name)
    with pytest.raises(InputError, match=said):
        kilograd.adapt(data, start=folders["proto"], out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_classifier_needs_images_of_all(
    tmp_path: Path, photos: Path, folders: dict[str, Path]
) -> None:
    data = some(photos, tmp_path / "data", "yellow")
    with pytest.raises(InputError, match="no image of blue, green, red is given, and a classifier"):
        kilograd.adapt(data, start=folders["linear"])


def test_on_the_command_line(
    run: Run, tmp_path: Path, photos: Path, folders: dict[str, Path]
) -> None:
    data = some(photos, tmp_path / "data", "red", "blue")
    done = run("adapt", data, "--forget", "red")
    assert "--forget: there is nothing to forget without a start" in done.error
    done = run("adapt", data, "--from", folders["proto"], "--forget", "pink")
    assert "--forget pink: no such class; there are blue, green, red" in done.error
    said = run("adapt", folders["proto"], "--from", data).error
    assert f"{data}: holds no result.json; give a folder that kilograd adapt --out wrote" in said


# ---- limits hold here as well ----


def test_what_is_over_its_ram_is_refused(
    run: Run, tmp_path: Path, photos: Path, folders: dict[str, Path]
) -> None:
    data = some(photos, tmp_path / "data", *OLD)
    out = tmp_path / "out"
    failed = run("adapt", data, "--from", folders["int8"], "--sram", "2K", "--out", out)
    assert failed.code == 2
    assert not out.exists()
    need = failed.err.split()[-1]
    done = run("adapt", data, "--from", folders["int8"], "--sram", need, "--json")
    assert done.code == 0
    assert json.loads(done.out)["sram_bytes"] == int(need)
    odd = run("adapt", data, "--from", folders["int8"], "--sram", "much")
    assert odd.code == 2
    assert "--sram 'much'" in odd.err


def test_views_are_kept_within_bytes(
    run: Run, tmp_path: Path, photos: Path, folders: dict[str, Path]
) -> None:
    data = some(photos, tmp_path / "data", *OLD)

    def on(place: Path, *options: object) -> Done:
        return run("adapt", data, "--from", place, "--iterations", 3, "--json", *options)

    few = on(folders["proto"], "--cache-bytes", "1K")
    assert few.code == 2
    least = int(few.err.split()[-1])
    out = tmp_path / "out"
    done = on(folders["proto"], "--cache-bytes", least, "--out", out)
    assert json.loads(done.out)["cache_bytes"] == least
    again = on(out, "--cache-bytes", 2 * least)
    assert least < json.loads(again.out)["cache_bytes"] <= 2 * least


def test_a_cache_that_saves_nothing_is_refused(run: Run, tmp_path: Path, photos: Path) -> None:
    data = some(photos, tmp_path / "data", *OLD)
    model = write_model(tmp_path / "small", seed=3)
    whole = kilograd.adapt(data, model, "full", iterations=0)
    with pytest.raises(InputError, match="no work can be kept"):
        kilograd.adapt(data, start=whole, cache=2, iterations=1)
