"""Folders of images, and the record of a set: what is read, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encode, photo, truncated, write

from kilograd.data import Dataset, load_dataset
from kilograd.data.pictures import picture_files
from kilograd.errors import InputError

# -- folders --------------------------------------------------------------------------------------


def test_classes_are_the_sub_folders_and_order_is_by_name(tmp_path: Path) -> None:
    write(tmp_path / "pets" / "dog" / "b.png")
    write(tmp_path / "pets" / "dog" / "a.JPG", encode(photo(), "JPEG"))
    write(tmp_path / "pets" / "dog" / "puppies" / "c.png")
    write(tmp_path / "pets" / "cat" / "z.webp", encode(photo(), "WEBP"))
    dataset = load_dataset(str(tmp_path / "pets"))
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "dog")
    assert dataset.image_names == ("cat/z.webp", "dog/a.JPG", "dog/b.png", "dog/puppies/c.png")
    assert dataset.labels.tolist() == [0, 1, 1, 1]
    assert dataset.labels.dtype == np.int64
    assert (dataset.split, dataset.groups, dataset.skipped) == (None, None, ())
    assert len(dataset) == 4
    assert dataset.image(2).size == (40, 30)


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png")
    write(tmp_path / "a" / "notes.txt", b"text")
    write(tmp_path / "a" / "._1.png", b"a resource fork, as macOS leaves behind")
    write(tmp_path / "a" / ".thumbnails" / "1.png")
    write(tmp_path / ".git" / "1.png")
    write(tmp_path / "README.md", b"text")
    (tmp_path / "a" / "folder.png").mkdir()
    dataset = load_dataset(tmp_path)
    assert dataset.image_names == ("a/1.png",)
    assert dataset.skipped == ()


@pytest.mark.parametrize(
    "litter", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"]
)
def test_what_systems_leave_behind_is_passed_over(tmp_path: Path, litter: str) -> None:
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "more"):
        write(folder / litter / "cat" / "._1.png", b"")
        write(folder / litter / "2.png", b"")
    write(tmp_path / "a" / "1.png")
    write(tmp_path / "a" / ".DS_Store", b"")
    write(tmp_path / "a" / "Thumbs.db", b"")
    dataset = load_dataset(tmp_path)
    assert (dataset.classes, dataset.image_names, dataset.skipped) == (("a",), ("a/1.png",), ())


def test_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "pets", tmp_path / "elsewhere"
    write(outside / "1.png")
    write(root / "a" / "1.png")
    (root / "a" / "2.png").symlink_to(outside / "1.png")
    (root / "a" / "3.png").symlink_to("1.png")
    (root / "a" / "4.png").symlink_to("4.png")
    (root / "a" / "more").symlink_to(outside)
    dataset = load_dataset(root)
    assert dataset.image_names == ("a/1.png", "a/3.png")
    assert dataset.skipped == ("a/2.png",)
    (root / "b").symlink_to(outside)
    with pytest.raises(InputError, match=r"pets/b: is a link that leads out of .*pets"):
        load_dataset(root)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "all").symlink_to(".")
    (tmp_path / "self").symlink_to("self")
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("a", "all")
    assert dataset.image_names == ("a/1.png", "all/a/1.png")


@pytest.mark.parametrize("inner", ["", "a", "a/more"])
def test_a_folder_that_may_be_listed_and_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    """Its names can be read, what they name cannot: the class must not shrink."""
    for name in ("a/1.png", "a/more/2.png", "b/1.png"):
        write(tmp_path / name)
    shut = tmp_path / inner
    if os.geteuid():
        shut.chmod(0o444)
    else:  # root may enter whatever there is
        monkeypatch.setattr(os, "access", lambda folder, _: Path(folder) != shut)
    try:
        with pytest.raises(InputError, match=rf"^{shut}: cannot be .*; check its rights$"):
            load_dataset(tmp_path)
        if inner:
            with pytest.raises(InputError, match=rf"^{shut}: cannot be .*; check its rights$"):
                picture_files([tmp_path])
    finally:
        shut.chmod(0o755)


def test_pipes_called_like_images_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    dataset = load_dataset(tmp_path)
    assert (dataset.image_names, dataset.skipped) == (("a/1.png",), ())
    (tmp_path / "a" / "1.png").unlink()
    os.mkfifo(tmp_path / "a" / "1.png")
    with pytest.raises(InputError, match="cannot now"):
        dataset.image(0)


@pytest.mark.parametrize(
    "name", ["a\x1b[2J", "\u202ea", "a\nb", " a", "a" * 201, "\udcff"], ids=ascii
)
def test_class_folders_have_names_that_people_can_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / "ok" / "1.png")
    write(tmp_path / name / "1.png")
    with pytest.raises(InputError, match="the name of a class") as caught:
        load_dataset(tmp_path)
    assert str(caught.value).isprintable()


def test_images_may_be_called_anything_and_are_shown_escaped(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1\x1b[2J.png")
    write(tmp_path / "a" / "2\udcff.png")
    write(tmp_path / "a" / "3\u202e.png", b"")
    dataset = load_dataset(tmp_path)
    assert dataset.image_names == (r"a/1\x1b[2J.png", r"a/2\udcff.png")
    assert dataset.skipped == (r"a/3\u202e.png",)
    assert dataset.image(1).size == (40, 30)


def test_names_are_compared_in_one_form(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    write(tmp_path / "train" / composed / "1.png")
    write(tmp_path / "test" / apart / "2.png")
    write(tmp_path / "test" / "tea" / "3.png")
    assert load_dataset(tmp_path).classes == (composed, "tea")
    write(tmp_path / "test" / composed / "2.png")
    with pytest.raises(InputError, match=r"test: two classes are called"):
        load_dataset(tmp_path)


def test_paths_that_the_system_cannot_have(tmp_path: Path) -> None:
    for path in (tmp_path / ("a" * 300), tmp_path / "a\0b"):
        with pytest.raises(InputError, match="no such file or folder"):
            load_dataset(path)


def test_folder_of_more_images_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        write(tmp_path / f"c{i % 2}" / f"{i}.png", b"")
    monkeypatch.setattr("kilograd.limits.IMAGES", 3)
    with pytest.raises(InputError, match="more images than 3"):
        load_dataset(tmp_path)


def test_folders_named_as_splits_are_splits(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat" / "1.png")
    write(tmp_path / "train" / "dog" / "2.png")
    write(tmp_path / "valid" / "dog" / "3.png")
    write(tmp_path / "Test" / "cat" / "4.png")
    dataset = load_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.image_names == (
        "Test/cat/4.png",
        "train/cat/1.png",
        "train/dog/2.png",
        "valid/dog/3.png",
    )
    assert dataset.split == ("test", "train", "train", "val")
    assert dataset.labels.tolist() == [0, 0, 1, 1]


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    write(tmp_path / "train" / "1.png")
    write(tmp_path / "test" / "2.png")
    dataset = load_dataset(tmp_path)
    assert (dataset.classes, dataset.split) == (("test", "train"), None)


def test_split_folder_with_loose_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train" / "cat" / "1.png")
    write(tmp_path / "test" / "2.png")
    with pytest.raises(InputError, match="test: holds images outside class folders"):
        load_dataset(tmp_path)


def test_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        load_dataset(tmp_path / "nowhere")


def test_other_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither a folder nor a \.parquet or \.npz file"):
        load_dataset(write(tmp_path / "photos.zip"))


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is empty"):
        load_dataset(tmp_path)


def test_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    with pytest.raises(
        InputError, match="holds 1 images and no class folders; make a folder for each"
    ):
        load_dataset(tmp_path)


def test_class_folder_without_images_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.png")
    write(tmp_path / "dog" / "notes.txt", b"soon")
    assert load_dataset(tmp_path).classes == ("cat",)
    (tmp_path / "cat" / "1.png").unlink()
    with pytest.raises(InputError, match="none of its 2 folders holds an image"):
        load_dataset(tmp_path)


def test_folder_of_unreadable_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.png", b"")
    write(tmp_path / "dog" / "2.png", b"")
    with pytest.raises(InputError, match=r"no image in it can be read \(2 tried, the first is cat"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("closed", ["", "cat", "cat/more"])
def test_folder_that_cannot_be_listed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """By a patch, not by rights: root, as in a container, may open everything."""
    write(tmp_path / "cat" / "more" / "1.png")

    def refuse(real: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def listing(path: Any = ".") -> Any:
            if Path(path) == tmp_path / closed:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return listing

    monkeypatch.setattr(os, "scandir", refuse(os.scandir))
    monkeypatch.setattr(os, "listdir", refuse(os.listdir))
    with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\)"):
        load_dataset(tmp_path)


def test_image_that_vanished_or_changed_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a" / "1.png")
    dataset = load_dataset(tmp_path)
    file.write_bytes(truncated("PNG"))
    with pytest.raises(InputError, match=r"image a/1\.png .* cannot now"):
        dataset.image(0)
    file.unlink()
    with pytest.raises(InputError, match=r"image a/1\.png .* cannot now"):
        dataset.image(0)
    with pytest.raises(IndexError):
        dataset.image(1)


# -- Dataset --------------------------------------------------------------------------------------


def tiny(**changes: Any) -> Dataset:
    fields: dict[str, Any] = {
        "name": "tiny",
        "classes": ("a", "b"),
        "images": (b"", b""),
        "image_names": ("0", "1"),
        "labels": np.array([0, 1]),
    }
    return Dataset(**{**fields, **changes})


def test_labels_are_a_read_only_copy() -> None:
    labels = np.array([0, 1], dtype=np.int64)
    dataset = tiny(labels=labels)
    labels[0] = 1
    assert dataset.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        dataset.labels[0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([0])}, "differ in length"),
        ({"split": ("train",)}, "differ in length"),
        ({"groups": ("g",)}, "1 groups for 2 classes"),
        ({"labels": np.array([0, 2])}, r"outside 0\.\.1"),
        ({"labels": np.array([0, -1])}, r"outside 0\.\.1"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(**changes)
