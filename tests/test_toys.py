"""Pictures of toys: the same each time, each of its kind; no folder of a user's is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import Run
from PIL import Image

import kilograd
from kilograd.data import load_dataset
from kilograd.data.toys import SIZE, TOYS, Part, draw_toy, load_toys
from kilograd.errors import InputError


@pytest.mark.parametrize(
    "part",
    [pytest.param(p, id=f"{t}-{i}") for t, parts in TOYS.items() for i, p in enumerate(parts)],
)
def test_every_part_is_seen_and_is_not_all(part: Part) -> None:
    """A polygon whose corners go the other way round would be nowhere."""
    at = np.linspace(-1, 1, 101)
    inside = part.outline(*np.meshgrid(at, at)) < 0
    assert 0.002 < inside.mean() < 0.5


def test_a_folder_of_pictures(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "photos"
    done = run("pictures", "--out", out, "--each", 3)
    assert done.code == 0
    assert done.out == f"Written to {out}: 3 pictures of each of {', '.join(TOYS)}\n"
    found = load_dataset(out)
    assert found.classes == tuple(TOYS)
    assert np.bincount(found.labels).tolist() == [3] * len(TOYS)
    assert {found.image(i).size for i in range(len(found))} == {(SIZE, SIZE)}
    assert {found.image(i).mode for i in range(len(found))} == {"RGB"}


def test_a_seed_gives_the_same_pictures(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert kilograd.pictures(tmp_path / name, each=2, seed=seed) == tuple(TOYS)
    a, b, c = ([p.read_bytes() for p in sorted((tmp_path / name).rglob("*.png"))] for name in "abc")
    assert a == b
    assert not set(a) & set(c)
    assert load_toys(2, 3).images == tuple(a)


def test_colours_do_not_tell_what_it_is() -> None:
    """The mean colour of each class is that of all, within what so many pictures vary."""
    rng = np.random.default_rng(0)
    means = np.array(
        [[np.asarray(draw_toy(toy, rng, 24)).mean((0, 1)) for _ in range(60)] for toy in TOYS]
    )
    spread = means.std((0, 1)) / np.sqrt(60)
    assert (np.abs(means.mean(1) - means.mean((0, 1))) < 4 * spread).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--each", 0), "--each: 0 is too small; give 1 or more"),
        (("--each", 10**9), "--each: 1000000000 is too large; give 349525 or less"),
        (("--seed", -1), "--seed: -1 is too small; give 0 or more"),
        (("--out", "--each"), "--out --each: begins like an option; give another name"),
    ],
)
def test_options_that_cannot_be(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("pictures", "--out", tmp_path / "new", *words).error == message
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_the_users_is_replaced(run: Run, tmp_path: Path) -> None:
    own = tmp_path / "photos" / "cat" / "1.png"
    own.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(own)
    before = own.read_bytes()
    error = run("pictures", "--out", tmp_path / "photos").error
    assert error.endswith("photos: holds something else; choose another folder")
    assert own.read_bytes() == before
    (tmp_path / "file").write_text("mine")
    assert run("pictures", "--out", tmp_path / "file").error.endswith(
        "is a file; choose another folder"
    )
    with pytest.raises(InputError, match="out 7: give a path"):
        kilograd.pictures(7)  # type: ignore[arg-type]
