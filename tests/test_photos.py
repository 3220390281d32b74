"""Folders as people have them: telephones' formats, litter, and what cannot be meant."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_model, write_pictures
from helpers import Run
from PIL import Image, features

import kilograd
from kilograd.data import load_dataset, prepare
from kilograd.errors import InputError
from kilograd.frontend import Preprocess

SEEN = Preprocess.square(size=16, resize=18, channels=3)


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """A red corner on grey: it shows how an image is turned."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[: height // 2, : width // 2] = (230, 20, 20)
    return Image.fromarray(pixels)


def write(folder: Path, name: str, image: Image.Image | None = None, **how: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(folder / name, **how)
    return folder / name


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for i in range(3):
            write(tmp_path / "pets" / name, f"{i}.jpg")
    return tmp_path / "pets"


# ---- formats ----


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_needs_nothing_else(pets: Path) -> None:
    write(pets / "cat", "a.avif")
    dataset = load_dataset(pets)
    at = dataset.image_names.index("cat/a.avif")
    found = prepare(dataset.image(at), SEEN).astype(int)
    assert np.abs(found - prepare(picture(), SEEN)).mean() < 6


def test_heic_is_read_with_its_package(pets: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="not here: pip install pillow-heif")
    heif.register_heif_opener()
    write(pets / "cat", "a.HEIC", format="HEIF")
    dataset = load_dataset(pets)
    at = dataset.image_names.index("cat/a.HEIC")
    found = prepare(dataset.image(at), SEEN).astype(int)
    assert np.abs(found - prepare(picture(), SEEN)).mean() < 6


def test_heic_without_the_package_is_named_and_counted(
    pets: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("a.heic", "b.HEIC"):
        (pets / "cat" / name).write_bytes(b"\0\0\0\x1cftypheic" + bytes(100))
    dataset = load_dataset(pets)
    assert dataset.skipped == ("cat/a.heic", "cat/b.HEIC")
    assert len(dataset) == 6
    write_model(tmp_path / "small", seed=3)
    kilograd.adapt(pets, tmp_path / "small", iterations=0)
    assert "2 of 8 images unreadable and skipped: cat/a.heic, cat/b.HEIC" in caplog.text
    assert "2 of them are HEIC or AVIF: pip install pillow-heif" in caplog.text


def test_an_avif_that_is_none_is_skipped(pets: Path) -> None:
    for kind in (b"avif", b"heic", b"mif1", b"none"):
        (pets / "cat" / f"{kind.decode()}.avif").write_bytes(b"\0\0\0\x1cftyp" + kind + bytes(40))
    assert len(load_dataset(pets).skipped) == 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_seen_upright(tmp_path: Path, orientation: int) -> None:
    """The corner is where the camera saw it, however the sensor was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: None,
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }[orientation]  # what undoes it, as the standard has it: 6 is stored turned to the left
    stored = picture() if turned is None else picture().transpose(Image.Transpose(turned))
    file = write(tmp_path, "turned.png", stored, exif=exif.tobytes())
    seen = prepare(Image.open(file), SEEN)
    plain = prepare(picture(), SEEN)
    assert np.array_equal(seen, plain)


@pytest.mark.parametrize("mode", ["CMYK", "P", "L", "LA", "RGBA", "1", "I;16"])
def test_modes_of_photos(tmp_path: Path, mode: str) -> None:
    grey = np.linspace(0, 255, 60 * 40).reshape(40, 60).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    file = write(tmp_path, "a.tif" if mode in {"CMYK", "I;16"} else "a.png", image)
    found = prepare(Image.open(file), SEEN).astype(int)
    wanted = prepare(Image.fromarray(grey).convert("RGB"), SEEN)
    assert np.abs(found - wanted).mean() < (40 if mode == "1" else 3)


def test_several_pictures_in_one_file(pets: Path) -> None:
    other = Image.new("RGB", (60, 40), "blue")
    write(pets / "cat", "burst.mpo", picture(), format="MPO", save_all=True, append_images=[other])
    write(pets / "cat", "moving.gif", picture(), save_all=True, append_images=[other])
    write(pets / "cat", "moving.webp", picture(), save_all=True, append_images=[other])
    dataset = load_dataset(pets)
    assert dataset.skipped == ()
    for name in ("burst.mpo", "moving.gif", "moving.webp"):
        found = prepare(dataset.image(dataset.image_names.index(f"cat/{name}")), SEEN).astype(int)
        assert np.abs(found - prepare(picture(), SEEN)).mean() < 12, name


# ---- folders ----


def test_litter_is_passed_over(pets: Path) -> None:
    for name in ("__MACOSX", ".git", "@eaDir", "System Volume Information"):
        write(pets / name, "a.jpg")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.jpg", "notes.txt"):
        (pets / name).write_bytes(b"x")
        (pets / "cat" / name).write_bytes(b"x")
    dataset = load_dataset(pets)
    assert (dataset.classes, len(dataset), dataset.skipped) == (("cat", "dog"), 6, ())


def test_empty_folders_are_passed_over(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pets / "empty").mkdir()
    (pets / "papers").mkdir()
    (pets / "papers" / "a.pdf").write_bytes(b"x")
    write(pets, "loose.jpg")
    assert load_dataset(pets).classes == ("cat", "dog")
    assert "2 folders without images passed over: empty, papers" in caplog.text
    assert "1 images beside the class folders passed over" in caplog.text


def test_images_without_class_folders(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "pets", f"{i}.jpg")
    with pytest.raises(
        InputError, match=r"pets: holds 3 images and no class folders; make a folder"
    ):
        load_dataset(tmp_path / "pets")


def test_classes_one_folder_deeper(pets: Path) -> None:
    outer = pets.parent / "unpacked"
    outer.mkdir()
    pets.rename(outer / "pets")
    with pytest.raises(InputError, match=r"that holds the others; give .*unpacked/pets$"):
        load_dataset(outer)


def test_folders_that_lead_in_circles(pets: Path) -> None:
    (pets / "cat" / "round").symlink_to(pets, target_is_directory=True)
    (pets / "cat" / "self.jpg").symlink_to(pets / "cat" / "self.jpg")
    assert len(load_dataset(pets)) == 6


@pytest.mark.parametrize("name", ["--help", "-v", "[red]cat[bold]", "Ⅻ 猫", "a;rm -rf", "$HOME"])
def test_a_class_named_like_something_else(pets: Path, tmp_path: Path, run: Run, name: str) -> None:
    (pets / "cat").rename(pets / name)
    write_model(tmp_path / "small", seed=3)
    words = ("--model", tmp_path / "small", "--iterations", 1, "--json", "--out", tmp_path / "run")
    done = run("adapt", pets, *words)
    assert done.code == 0, done.err
    assert name in json.loads((tmp_path / "run" / "result.json").read_text("utf-8"))["classes"]


def test_a_class_whose_name_breaks_lines_is_refused(pets: Path) -> None:
    (pets / "cat").rename(pets / "c\nat")
    with pytest.raises(InputError, match=r"holds the character '\\n'; rename it without"):
        load_dataset(pets)


def test_data_and_model_swapped(pets: Path, tmp_path: Path, run: Run) -> None:
    model = write_model(tmp_path / "small", seed=3)
    error = run("adapt", model, "--model", pets).error
    assert "graph.json" in error
    error = run("adapt", model, "--model", model).error
    assert error.startswith(f"{model}: is a network (it holds graph.json), and no images; give it")


@pytest.mark.parametrize("method", ["last", "full", "tinytrain", "knapsack"])
def test_bytes_where_kilobytes_were_meant(
    pets: Path, tmp_path: Path, run: Run, method: str
) -> None:
    model = write_model(tmp_path / "small", seed=3)
    words = ("--model", model, "--method", method, "--sram", 256)
    assert "256 bytes hold no program; did you mean 256K?" in run("adapt", pets, *words).error


@pytest.mark.parametrize("inside", ["pets/out", "link/out", "pets/cat/out"])
def test_out_inside_data_is_refused(
    pets: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(pets, target_is_directory=True)
    write_model(tmp_path / "small", seed=3)
    error = run("adapt", pets, "--model", "small", "--out", inside).error
    assert "lies in" in error
    assert "would be taken for data" in error
    assert not (tmp_path / inside).exists()


def test_a_broken_image_is_not_fatal_but_all_are(pets: Path) -> None:
    data = io.BytesIO()
    picture().save(data, "JPEG")
    for file in pets.rglob("*.jpg"):
        file.write_bytes(data.getvalue()[:200])
    with pytest.raises(
        InputError, match=r"no image in it can be read \(6 tried, the first is cat/"
    ):
        load_dataset(pets)
    write_pictures(pets / "more", count=1)
    assert len(load_dataset(pets).skipped) == 6
