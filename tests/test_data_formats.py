"""Data sets as others keep them: miniImageNet's lists, Meta-Dataset's HDF5, and objects."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encode
from PIL import Image

from kilograd.data import (
    Dataset,
    check_episode,
    load_dataset,
    sample_episode,
    sample_meta_episode,
    wrap_dataset,
)
from kilograd.errors import InputError
from kilograd.frontend import Preprocess

Write = Callable[[Path], None]


def shade(dataset: Dataset, index: int) -> int:
    return int(np.asarray(dataset.image(index)).flat[0])


# -- miniImageNet ---------------------------------------------------------------------------------


def write_lists(root: Path, lists: dict[str, str]) -> Path:
    """Write the lists, and a picture for each file in them, its shade counted from 0."""
    (root / "images").mkdir(parents=True)
    names = [row.split(",")[0] for text in lists.values() for row in text.split("\n")[1:] if row]
    for i, name in enumerate(names):
        Image.new("L", (8, 8), i).save(root / "images" / name)
    for name, text in lists.items():
        (root / name).write_text(text)
    return root


LISTS = {
    "train.csv": "filename,label\na1.png,dog\nb1.png,cat\na2.png,dog\n",
    "test.csv": "filename,label\nc1.png,ant\nc2.png,ant\n",
}


def test_lists_give_classes_and_splits(tmp_path: Path) -> None:
    dataset = load_dataset(write_lists(tmp_path / "mini", LISTS))
    assert (dataset.name, dataset.classes) == ("mini", ("ant", "cat", "dog"))
    assert dataset.image_names == ("a1.png", "b1.png", "a2.png", "c1.png", "c2.png")
    assert dataset.labels.tolist() == [2, 1, 2, 0, 0]
    assert dataset.split == ("train",) * 3 + ("test",) * 2
    assert [shade(dataset, i) for i in range(5)] == [0, 1, 2, 3, 4]


def test_listed_images_may_lie_in_class_folders(tmp_path: Path) -> None:
    root = write_lists(tmp_path / "mini", LISTS)
    (root / "images" / "dog").mkdir()
    (root / "images" / "a1.png").rename(root / "images" / "dog" / "a1.png")
    dataset = load_dataset(root)
    assert (dataset.skipped, shade(dataset, 0)) == ((), 0)


def test_lists_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    """With a byte order mark in front, and carriage returns."""
    root = write_lists(tmp_path / "mini", LISTS)
    text = LISTS["train.csv"].replace("\n", "\r\n")
    (root / "train.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_dataset(root).classes == ("ant", "cat", "dog")


def test_listed_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    root = write_lists(tmp_path / "mini", LISTS)
    (root / "images" / "b1.png").unlink()
    (root / "images" / "c1.png").write_bytes(b"no image")
    dataset = load_dataset(root)
    assert dataset.skipped == ("b1.png", "c1.png")
    assert dataset.image_names == ("a1.png", "a2.png", "c2.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("val.csv", b"", r"val\.csv: needs the columns .* its first line has none"),
        ("val.csv", b"file,label\na,b\n", r"val\.csv: needs the columns .* has file, label"),
        ("val.csv", b"filename,label\nx.png\n", r"val\.csv: row 1 has no filename or no label"),
        ("val.csv", b"filename,label\n,dog\n", r"val\.csv: row 1 has no filename"),
        ("val.csv", b"filename,label\n\xff,dog\n", r"val\.csv: is no text in UTF-8"),
        ("val.csv", b"filename,label\n../a,dog\n", r"mini: filename: '\.\./a' must be the path"),
        ("val.csv", b"filename,label\n/etc/passwd,dog\n", "'/etc/passwd' must be the path"),
        ("val.csv", b"filename,label\na\0b,dog\n", "must be the path"),
        ("val.csv", b"filename,label\nz.png,..\n", "must be the path"),
        ("val.csv", b"filename,label\nz.png,a\x1b\n", r"holds the character '\\x1b'"),
        ("val.csv", b'filename,label\n"x,dog\n', r"val\.csv: cannot be read as CSV"),
        ("val.csv", b"filename,label\nc1.png,dog\n", r"mini: the lists name c1\.png 2 times"),
    ],
)
def test_unusable_lists_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    root = write_lists(tmp_path / "mini", LISTS)
    (root / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_dataset(root)


def test_lists_without_any_image(tmp_path: Path) -> None:
    root = write_lists(tmp_path / "mini", {"test.csv": "filename,label\n"})
    with pytest.raises(InputError, match=r"mini: no image in it can be read \(0 tried"):
        load_dataset(root)


# -- Meta-Dataset ---------------------------------------------------------------------------------

FLAT: dict[str, Any] = {
    "name": "birds",
    "classes_per_split": {"TRAIN": 2, "VALID": 1, "TEST": 1},
    "images_per_class": {"0": 2, "1": 1, "2": 3, "3": 2},
    "class_names": {"0": "owl", "1": "hen", "2": "kea", "3": 7},
    "path": "/elsewhere",
    "file_pattern": "{}.tfrecords",
}
TWO_LEVELS: dict[str, Any] = {
    "name": "omniglot",
    "superclasses_per_split": {"TRAIN": 1, "VALID": 0, "TEST": 1},
    "classes_per_superclass": {"0": 2, "1": 5},
    "superclass_names": {"0": "Greek", "1": "Latin"},
    "images_per_class": {str(c): 4 for c in range(7)},
    "class_names": {str(c): f"character{c}" for c in range(7)},
}


def write_meta_dataset(root: Path, specification: dict[str, Any]) -> Path:
    """Write image j of class c in shade 10 c + j."""
    h5py = pytest.importorskip("h5py")
    root.mkdir()
    (root / "dataset_spec.json").write_text(json.dumps(specification))
    for c, count in specification["images_per_class"].items():
        with h5py.File(root / f"{c}.h5", "w") as file:
            for j in range(count):
                file[f"{j}/image"] = np.full((9, 8, 3), 10 * int(c) + j, np.uint8)
                file[f"{j}/label"] = int(c)
    return root


def test_flat_meta_dataset(tmp_path: Path) -> None:
    dataset = load_dataset(write_meta_dataset(tmp_path / "cu_birds", FLAT))
    assert (dataset.name, dataset.classes) == ("birds", ("owl", "hen", "kea", "7"))
    assert dataset.labels.tolist() == [0, 0, 1, 2, 2, 2, 3, 3]
    assert dataset.split == ("train",) * 3 + ("val",) * 3 + ("test",) * 2
    assert (dataset.groups, dataset.skipped) == (None, ())
    assert dataset.image_names[4] == "2.h5/1"
    assert [shade(dataset, i) for i in range(8)] == [0, 1, 10, 20, 21, 22, 30, 31]
    assert dataset.image(0).size == (8, 9)


def test_meta_dataset_with_two_levels(tmp_path: Path) -> None:
    dataset = load_dataset(write_meta_dataset(tmp_path / "omniglot", TWO_LEVELS))
    assert dataset.groups == ("Greek",) * 2 + ("Latin",) * 5
    assert dataset.classes[1:3] == ("Greek/character1", "Latin/character2")
    assert dataset.split == ("train",) * 8 + ("test",) * 20
    episode = sample_meta_episode(dataset, seed=0)
    assert episode.classes == dataset.classes[2:]
    check_episode(episode, dataset)


def test_records_that_are_no_images_are_named(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    root = write_meta_dataset(tmp_path / "birds", FLAT)
    with h5py.File(root / "2.h5", "a") as file:
        del file["0"], file["1/image"], file["2/image"]
        file["1/image"] = np.zeros((4, 4, 3))
        file["2/image"] = np.zeros((4, 4), np.uint8)
    dataset = load_dataset(root)
    assert dataset.skipped == ("2.h5/0", "2.h5/1")
    assert dataset.image(3).mode == "L"


def test_meta_dataset_files_may_not_vanish_later(tmp_path: Path) -> None:
    root = write_meta_dataset(tmp_path / "birds", FLAT)
    dataset = load_dataset(root)
    (root / "0.h5").unlink()
    with pytest.raises(InputError, match=r"birds: image 0\.h5/0 could be read .* cannot now"):
        dataset.image(0)


def without(field: str) -> dict[str, Any]:
    return {k: v for k, v in FLAT.items() if k != field}


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ([], "expected object, got array"),
        (
            {k: v for k, v in FLAT.items() if not k.endswith("split")},
            "neither classes_per_split nor superclasses_per_split",
        ),
        (without("classes_per_split"), r"\(ImageNet's tree\) are not supported"),
        (without("class_names"), "field 'class_names' is missing"),
        (without("name"), "field 'name' is missing"),
        (FLAT | {"images_per_class": {"0": 2}}, "images_per_class says nothing of number 1"),
        (FLAT | {"images_per_class": dict.fromkeys("0123", "2")}, "images_per_class.*expected int"),
        (FLAT | {"images_per_class": dict.fromkeys("0123", 10**9)}, "expected int <= 2097152"),
        (FLAT | {"images_per_class": dict.fromkeys("0123", 2**20)}, "more images than 2,097,152"),
        (FLAT | {"images_per_class": dict.fromkeys("0123", -1)}, "expected int >= 0"),
        (FLAT | {"classes_per_split": {"TRAIN": 4}}, "field 'VALID' is missing"),
        (FLAT | {"classes_per_split": {"TRAIN": "x"}}, "classes_per_split.TRAIN: expected int"),
        (
            FLAT | {"classes_per_split": {"TRAIN": 10**9, "VALID": 0, "TEST": 0}},
            "classes_per_split.TRAIN: expected int <= 65536",
        ),
        (FLAT | {"class_names": dict.fromkeys("0123", "owl")}, "two classes are called 'owl'"),
        (FLAT | {"class_names": dict.fromkeys("0123", "\x1b")}, r"holds the character '\\x1b'"),
        (
            TWO_LEVELS | {"classes_per_superclass": {"0": 2}},
            "classes_per_superclass says nothing of number 1",
        ),
        (
            TWO_LEVELS | {"classes_per_superclass": {"0": 10**6, "1": 10**6}},
            "2,000,000 classes; 65,536 are the most",
        ),
        (
            TWO_LEVELS | {"superclasses_per_split": {"TRAIN": 10**9, "VALID": 0, "TEST": 1}},
            "superclasses_per_split.TRAIN: expected int <= 65536",
        ),
        (
            TWO_LEVELS
            | {"superclasses_per_split": {"TRAIN": 1, "VALID": 0, "TEST": 1, "MORE": 3}}
            | {"superclass_names": {"0": "Greek"}},
            "superclass_names says nothing of number 1",
        ),
    ],
)
def test_wrong_specifications_are_refused(
    tmp_path: Path, specification: object, message: str
) -> None:
    pytest.importorskip("h5py")
    (tmp_path / "dataset_spec.json").write_text(json.dumps(specification))
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "dataset_spec.json"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "1.h5").unlink(), r"1\.h5: the images of class 'hen' cannot be read"),
        (lambda root: (root / "1.h5").write_bytes(b"no"), r"1\.h5: the images of class 'hen'"),
        (lambda root: (root / "dataset_spec.json").write_text("{"), "cannot be read as JSON"),
        (lambda root: (root / "dataset_spec.json").write_bytes(b"\xff"), "is no text in UTF-8"),
    ],
)
def test_damaged_meta_dataset_is_refused(tmp_path: Path, spoil: Write, message: str) -> None:
    root = write_meta_dataset(tmp_path / "birds", FLAT)
    spoil(root)
    with pytest.raises(InputError, match=message):
        load_dataset(root)


def test_missing_h5py_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_spec.json").write_text(json.dumps(FLAT))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="needs h5py; pip install h5py"):
        load_dataset(tmp_path)


def test_nothing_outside_the_files_of_a_set_is_read(tmp_path: Path) -> None:
    """Links and storage may name any file, and virtual data sets any number of them."""
    h5py = pytest.importorskip("h5py")
    root = write_meta_dataset(tmp_path / "birds", FLAT | {"images_per_class": {"0": 8}})
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["image"] = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "raw").write_bytes(bytes(192))
    with h5py.File(root / "0.h5", "a") as file:
        for j in range(7):
            del file[f"{j}/image"]
        file["0/image"] = h5py.ExternalLink(tmp_path / "other.h5", "image")
        file["1/image"] = h5py.SoftLink("/7/image")
        raw = [(str(tmp_path / "raw"), 0, 192)]
        file.create_dataset("2/image", (8, 8, 3), np.uint8, external=raw)
        layout = h5py.VirtualLayout((8, 8, 3), np.uint8)
        layout[...] = h5py.VirtualSource(tmp_path / "other.h5", "image", (8, 8, 3))
        file["3"].create_virtual_dataset("image", layout)
        file.create_dataset("4/image", (60_000, 60_000), np.uint8, chunks=(64, 64))  # 3.6 GB
        much = {"maxshape": (None, None), "chunks": (1 << 14, 1 << 15)}  # unpacked as a whole
        file.create_dataset("5/image", (4, 4), np.uint8, compression="gzip", **much)
        file["6/image"] = h5py.Empty(np.uint8)
    specification = FLAT | {
        "classes_per_split": {"TRAIN": 1, "VALID": 0, "TEST": 0},
        "images_per_class": {"0": 8},
    }
    (root / "dataset_spec.json").write_text(json.dumps(specification))
    dataset = load_dataset(root)
    assert dataset.skipped == tuple(f"0.h5/{j}" for j in range(7))
    assert len(dataset) == 1


def test_records_that_become_links_later_are_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    root = write_meta_dataset(tmp_path / "birds", FLAT)
    dataset = load_dataset(root)
    with h5py.File(root / "0.h5", "a") as file:
        del file["0/image"]
        file["0/image"] = h5py.ExternalLink(root / "1.h5", "0/image")
    with pytest.raises(InputError, match=r"0\.h5/0 could be read .* cannot now"):
        dataset.image(0)


def test_files_of_classes_lie_in_the_folder_and_are_no_pipes(tmp_path: Path) -> None:
    root = write_meta_dataset(tmp_path / "birds", FLAT)
    (root / "1.h5").rename(tmp_path / "1.h5")
    (root / "1.h5").symlink_to(tmp_path / "1.h5")
    with pytest.raises(InputError, match=r"1\.h5: the images of class 'hen' cannot be read"):
        load_dataset(root)
    (root / "1.h5").unlink()
    os.mkfifo(root / "1.h5")
    with pytest.raises(InputError, match=r"1\.h5: the images of class 'hen' cannot be read"):
        load_dataset(root)


def test_listed_images_behind_links_that_lead_out_are_left_out(tmp_path: Path) -> None:
    root = write_lists(tmp_path / "mini", LISTS)
    (root / "images" / "a1.png").rename(tmp_path / "a1.png")
    (root / "images" / "a1.png").symlink_to(tmp_path / "a1.png")
    assert load_dataset(root).skipped == ("a1.png",)


# -- other libraries ------------------------------------------------------------------------------


class Lazy:
    """As torchvision's sets are: an image is decoded when its item is asked for."""

    def __init__(self, labels: list[Any], broken: tuple[int, ...] = ()) -> None:
        self.labels = labels
        self.fetched: list[int] = []
        self.broken = broken

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        self.fetched.append(index)
        data = encode(Image.new("RGB", (8, 6), (index, 0, 0)))
        # Pillow reads the header now and the pixels later: only those are missing here.
        cut = data[: len(data) - 30] if index in self.broken else data
        return Image.open(io.BytesIO(cut)), self.labels[index]


def test_pairs_of_another_library() -> None:
    pairs = Lazy([1, 0, np.int64(1), 0])
    dataset = wrap_dataset("pets", ["cat", "dog"], pairs)
    assert (dataset.name, dataset.classes, dataset.split) == ("pets", ("cat", "dog"), None)
    assert dataset.labels.tolist() == [1, 0, 1, 0]
    assert pairs.fetched == [0, 1, 2, 3]
    assert [shade(dataset, i) for i in (3, 0)] == [3, 0]
    assert pairs.fetched == [0, 1, 2, 3, 3, 0]
    check_episode(sample_episode(dataset, ways=2, shots=1, queries=1, seed=0), dataset)


def test_mappings_and_groups() -> None:
    items = [{"image": Image.new("L", (4, 4), i), "label": i // 2, "id": i} for i in range(8)]
    dataset = wrap_dataset("marks", ["x/1", "x/2", "y/1", "y/2"], items)
    assert dataset.groups == ("x", "x", "y", "y")
    assert [shade(dataset, i) for i in range(8)] == list(range(8))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_arrays_are_images(shape: tuple[int, ...]) -> None:
    images: list[NDArray[np.uint8]] = [np.full(shape, i, np.uint8) for i in (7, 9)]
    dataset = wrap_dataset("made", ["a", "b"], list(zip(images, (0, 1), strict=True)))
    assert dataset.image(1).size == (4, 5)
    assert shade(dataset, 1) == 9


def test_items_that_cannot_be_fetched_are_named() -> None:
    dataset = wrap_dataset("pets", ["cat", "dog"], Lazy([1, 0, 1, 0], broken=(1, 2)))
    assert dataset.skipped == ("item 1", "item 2")
    assert dataset.labels.tolist() == [1, 0]
    assert shade(dataset, 1) == 3
    with pytest.raises(InputError, match="pets: none of its 2 items can be fetched"):
        wrap_dataset("pets", ["cat"], Lazy([0, 0], broken=(0, 1)))
    floats = [(Image.new("F", (4, 4)), 0), (Image.new("L", (4, 4)), 0)]
    assert wrap_dataset("pets", ["cat"], floats).skipped == ("item 0",)
    palette = Image.new("P", (4, 4))
    palette.info["transparency"] = bytes(2000)
    unusable = [(palette, 0), (Image.new("L", (4, 4)), 0)]
    assert wrap_dataset("pets", ["cat"], unusable).skipped == ("item 0",)


PICTURE = Image.new("L", (4, 4))


@pytest.mark.parametrize(
    ("classes", "pairs", "message"),
    [
        (["a", "a"], [(PICTURE, 0)], "pets: two classes are called 'a'"),
        (["a"], [], "pets: none of its 0 items can be fetched"),
        (["a"], iter([(PICTURE, 0)]), "pets: list_iterator has no length"),
        (["a"], [PICTURE], "pets: item 0 must be a sample and a label"),
        (["a"], [{"img": PICTURE, "label": 0}], "pets: item 0 must be .* under the keys 'image'"),
        (["a"], [(PICTURE, 0), (PICTURE, 1)], "pets: item 1 has label 1, of 1 classes"),
        (["a"], [(PICTURE, -1)], "pets: item 0 has label -1, of 1 classes"),
        (["a"], [(PICTURE, "a")], "pets: the label of item 0 is 'a'; it must be an index"),
        (["a"], [(PICTURE, 0.0)], "pets: the label of item 0 is 0.0"),
        (["a"], [("cat.png", 0)], "pets: item 0 holds str; a sample is an image"),
        (["a"], [(np.zeros((3, 4, 4, 1)), 0)], r"pets: item 0 has the shape \[3, 4, 4, 1\]"),
        (["a"], [(np.full((3, 4), np.nan), 0)], "pets: item 0 number 0 of 12 is nan"),
        (["a"], [(np.array(["x"]), 0)], "pets: item 0 holds <U1, no real numbers"),
        (["a"], [(np.zeros(4), 0), (np.zeros(5), 0)], r"item 1 .* \[5\], and item 0 has \[4\]"),
    ],
)
def test_unusable_sets_are_refused(classes: list[str], pairs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrap_dataset("pets", classes, pairs)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_images_that_were_transformed_are_refused_by_a_network_of_images(kind: type) -> None:
    dataset = wrap_dataset("pets", ["a"], [(np.zeros((3, 4, 4), kind), 0)])
    with pytest.raises(InputError, match=r"sample item 0 is an array .* leave out what"):
        dataset.prepared(0, Preprocess.square(4, 4, 3))
