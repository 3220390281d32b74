"""Data sets and image preparation: what is read, what is refused, what the pixels become."""

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from kilograd import limits
from kilograd.data import Dataset, load_dataset, prepare, upright
from kilograd.data.parquet import _Values
from kilograd.data.pixels import decoded, readable
from kilograd.errors import InputError
from kilograd.frontend import Preprocess

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared")) / "data"
SHARED_FILES = sorted(SHARED.glob("*.parquet"))


def encode(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def photo(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """Not a photograph, but incompressible like one, so that truncation hits pixel data."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write(path: Path, data: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(photo()) if data is None else data)
    return path


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


@pytest.mark.parametrize(
    ("suffix", "format_"),
    [
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("jpeg", "JPEG"),
        ("bmp", "BMP"),
        ("gif", "GIF"),
        ("webp", "WEBP"),
        ("tif", "TIFF"),
        ("tiff", "TIFF"),
        ("ppm", "PPM"),
    ],
)
def test_every_suffix_is_read(tmp_path: Path, suffix: str, format_: str) -> None:
    write(tmp_path / "a" / f"1.{suffix}", encode(photo(), format_))
    assert len(load_dataset(tmp_path)) == 1


def test_a_wrong_suffix_does_not_matter_if_the_content_is_an_image(tmp_path: Path) -> None:
    write(tmp_path / "a" / "really_a_jpeg.png", encode(photo(), "JPEG"))
    assert load_dataset(tmp_path).image(0).format == "JPEG"


def truncated(format_: str, **options: Any) -> bytes:
    data = encode(photo(width=200, height=150), format_, **options)
    return data[: len(data) * 2 // 3]


UNREADABLE = {
    "empty.png": b"",
    "text.png": b"This is no image.\n",
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "truncated.png": truncated("PNG"),
    "truncated.jpg": truncated("JPEG"),
    "truncated_progressive.jpg": truncated("JPEG", progressive=True),
    "truncated.bmp": truncated("BMP"),
    "truncated.webp": truncated("WEBP"),
    "other_format.png": encode(photo(), "PCX"),
    "float.tiff": encode(Image.new("F", (4, 4)), "TIFF"),
}


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    for name, data in UNREADABLE.items():
        write(tmp_path / "a" / name, data)
    write(tmp_path / "a" / "good.png")
    write(tmp_path / "b" / "good.png")
    dataset = load_dataset(tmp_path)
    assert dataset.skipped == tuple(f"a/{name}" for name in sorted(UNREADABLE))
    assert dataset.image_names == ("a/good.png", "b/good.png")
    assert dataset.labels.tolist() == [0, 1]


def png_with(*chunks: tuple[bytes, bytes], palette: bool = False) -> bytes:
    """Return a PNG of 20 x 20 pixels with more chunks before its pixels."""
    kind, bytes_per_pixel = (3, 1) if palette else (2, 3)
    header = struct.pack(">IIBBBBB", 20, 20, 8, kind, 0, 0, 0)
    pixels = zlib.compress(bytes(20 * (1 + 20 * bytes_per_pixel)))
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")):
        out += struct.pack(">I", len(data)) + name + data
        out += struct.pack(">I", zlib.crc32(name + data))
    return out


def jpeg_with(segments: bytes) -> bytes:
    """Return a JPEG with more segments after its start."""
    data = encode(photo(), "JPEG")
    return data[:2] + segments + data[2:]


def progressive(side: int, scans: int) -> bytes:
    """Return a grey JPEG with one scan of the means and more of all else, a few bytes each."""

    def segment(marker: int, data: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data

    out = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64))
    out += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    for table, symbol in ((0, 0), (0x10, 0xE0)):  # the second: 2^14 blocks or more without change
        out += segment(0xC4, bytes([table, 1, *[0] * 15, symbol]))
    blocks = (side // 8) ** 2
    out += segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8 + 1)
    runs = "0" + "1" * 14
    bits = runs * -(-blocks // ((1 << 15) - 1))
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return out + (segment(0xDA, b"\1\1\0\1\x3f\0") + data) * (scans - 1) + b"\xff\xd9"


def oriented(kind: int, count: int) -> bytes:
    """Return an EXIF block whose orientation has an odd type or count."""
    entry = struct.pack("<HHII", 0x112, kind, count, 8)
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)


RAW = b"Raw profile type exif\0"
DAMAGED_EXIF = {
    "garbage.jpg": encode(photo(), "JPEG", exif=b"Exif\0\0XX*\0\x08\0\0\0more", dpi=(72, 72)),
    "short.jpg": encode(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08", dpi=(72, 72)),
    "long_tag.jpg": encode(photo(), "JPEG", exif=oriented(3, 100_000), dpi=(72, 72)),
    "empty_tag.jpg": encode(photo(), "JPEG", exif=oriented(3, 0), dpi=(72, 72)),
    "text_tag.jpg": encode(photo(), "JPEG", exif=oriented(2, 4), dpi=(72, 72)),
    "garbage.webp": encode(photo(), "WEBP", exif=b"Exif\0\0XX*\0\x08\0\0\0more"),
    "garbage.png": png_with((b"eXIf", b"XXXXXXXXXXXX")),
    "short.png": png_with((b"eXIf", b"II*\0")),
    "big_tiff.png": png_with((b"eXIf", b"II+\0\x08\0\0\0")),
    "raw.png": png_with((b"tEXt", RAW + b"\nexif\n  10\nzzzz")),
    "raw_nothing.png": png_with((b"tEXt", RAW + b"nothing")),
    "raw_short.png": png_with((b"zTXt", RAW + b"\0" + zlib.compress(b"\nexif\n 4\n49492a"))),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", DAMAGED_EXIF)
def test_images_with_a_damaged_exif_block_are_used_as_they_lie(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "a" / name, DAMAGED_EXIF[name])
    dataset = load_dataset(tmp_path)
    assert dataset.skipped == ()
    with Image.open(file) as image:
        expected = image.convert("RGB")
    assert (np.asarray(upright(dataset.image(0), 3)) == np.asarray(expected)).all()


PALETTE = (b"PLTE", bytes(6))
UNUSABLE = {
    "palette.png": png_with(PALETTE, (b"tRNS", bytes(2000)), palette=True),
    "segments.jpg": jpeg_with(b"\xff\xe1\0\x0aExif\0\0xx" * 1024),
    "scans.jpg": progressive(16, 101),
    "scans_behind_fill_bytes.jpg": progressive(16, 101).replace(b"\xff\xda", b"\xff\xff\xda"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_images_that_cannot_be_used_are_left_out_and_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a" / name, UNUSABLE[name])
    file = write(tmp_path / "a" / "whole.png")
    dataset = load_dataset(tmp_path)
    assert dataset.skipped == (f"a/{name}",)
    file.write_bytes(UNUSABLE[name])
    with pytest.raises(InputError, match=r"image a/whole\.png .* cannot now"):
        dataset.image(0)


def test_scans_of_a_jpeg_are_counted() -> None:
    """What looks like one in a comment, or behind the end, is none."""
    most = progressive(16, 100)
    assert readable(most)
    assert not readable(progressive(16, 101))
    looks = b"\xff\xda" * 200
    assert readable(most + looks)
    assert readable(jpeg_with(b"\xff\xfe" + struct.pack(">H", len(looks) + 2) + looks))


def test_jpeg_of_very_many_scans_is_refused_at_once() -> None:
    """Half a megabyte took 15 seconds each time it was decoded."""
    data = progressive(1024, 30_000)
    start = time.perf_counter()
    assert not readable(data)
    assert time.perf_counter() - start < 0.5


@settings(deadline=None)
@given(
    format_=st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"]),
    damage=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_image_is_skipped_or_can_be_prepared(
    format_: str, damage: list[tuple[int, int]]
) -> None:
    """What load accepts, prepare can use, whatever the damage; and nothing else is raised."""
    data = bytearray(encode(photo(width=9, height=7), format_))
    for position, value in damage:
        data[position % len(data)] = value
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # A damaged size may ask for a picture of 100 megapixels, which is legal, and slow.
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
        write(Path(folder, "a", "damaged.png"), bytes(data))
        write(Path(folder, "a", "good.png"))
        dataset = load_dataset(folder)
        for index in range(len(dataset)):
            assert prepare(dataset.image(index), Preprocess(8, 9, 3)).shape == (8, 8, 3)
        assert len(dataset) + len(dataset.skipped) == 2


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
    with pytest.raises(InputError, match=r"neither a folder nor a \.parquet file"):
        load_dataset(write(tmp_path / "photos.zip"))


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is empty"):
        load_dataset(tmp_path)


def test_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    with pytest.raises(InputError, match="it holds no class folders"):
        load_dataset(tmp_path)


def test_class_folder_without_images_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.png")
    write(tmp_path / "dog" / "notes.txt", b"soon")
    with pytest.raises(InputError, match="dog: a class folder without images"):
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


# -- Parquet --------------------------------------------------------------------------------------


def write_parquet(
    path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None
) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table(columns)
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    return path


def images(n: int) -> list[bytes]:
    return [encode(photo(seed)) for seed in range(n)]


def test_parquet_with_every_column_and_metadata(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "pets.parquet",
        {
            "image": images(4),
            "label": [2, 0, 2, 0],
            "class_name": ["dog", "cat", "dog", "cat"],
            "split": ["Train", "validation", "test", "extra"],
            "source": ["w", "x", "y", "z"],
        },
        {"dataset": json.dumps({"classes": ["cat", "cow", "dog"]})},
    )
    dataset = load_dataset(path)
    assert dataset.name == "pets"
    assert dataset.classes == ("cat", "cow", "dog")
    assert dataset.labels.tolist() == [2, 0, 2, 0]
    assert dataset.split == ("train", "val", "test", "extra")
    assert dataset.skipped == ()
    np.testing.assert_array_equal(np.asarray(dataset.image(3)), np.asarray(photo(3)))


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": ["no", "yes"]}}
    path = write_parquet(
        tmp_path / "hf.parquet",
        {
            "image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images(3))],
            "label": [1, 0, 1],
        },
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    dataset = load_dataset(path)
    assert dataset.classes == ("no", "yes")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.image_names == ("row 0 (0.png)", "row 1 (1.png)", "row 2 (2.png)")


@pytest.mark.parametrize(
    ("columns", "classes", "labels"),
    [
        ({"class_name": ["b", "a", "b"]}, ("a", "b"), [1, 0, 1]),
        ({"label": ["b", "a", "b"]}, ("a", "b"), [1, 0, 1]),
        ({"label": [10, 9, 10]}, ("9", "10"), [1, 0, 1]),
        ({"label": [7, 3, 7], "class_name": ["a", "b", "a"]}, ("b", "a"), [1, 0, 1]),
    ],
)
def test_classes_from_the_columns_alone(
    tmp_path: Path, columns: dict[str, list[Any]], classes: tuple[str, ...], labels: list[int]
) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", {"image": images(3), **columns}, {"dataset": "no JSON"}
    )
    dataset = load_dataset(path)
    assert (dataset.classes, dataset.labels.tolist()) == (classes, labels)


def test_unreadable_rows_are_left_out_and_named(tmp_path: Path) -> None:
    good = images(1)[0]
    path = write_parquet(
        tmp_path / "x.parquet",
        {
            "image": [
                {"bytes": truncated("JPEG"), "path": "a.jpg"},
                {"bytes": good, "path": None},
                {"bytes": None, "path": "elsewhere.jpg"},
                None,
            ],
            "label": [0, 1, 0, 1],
            "split": ["train", "test", "train", "test"],
        },
    )
    dataset = load_dataset(path)
    assert dataset.skipped == ("row 0 (a.jpg)", "row 2 (elsewhere.jpg)", "row 3")
    assert dataset.image_names == ("row 1",)
    assert (dataset.labels.tolist(), dataset.split) == ([1], ("test",))


@pytest.mark.parametrize(
    ("classes", "groups"),
    [
        (["x/1", "x/2", "y/1", "y/2"], ("x", "x", "y", "y")),
        (["x/1/a", "x/1/b"], ("x/1", "x/1")),
        (["x/1", "x/2", "y/1"], None),
        (["x/1", "x/2", "y"], None),
        (["/1", "/2"], None),
    ],
)
def test_groups_come_from_class_names(
    tmp_path: Path, classes: list[str], groups: tuple[str, ...] | None
) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", {"image": images(len(classes)), "class_name": classes}
    )
    assert load_dataset(path).groups == groups


@pytest.mark.parametrize(
    ("columns", "metadata", "message"),
    [
        ({"image": [b"x"]}, None, "needs a column 'image' .* it has image$"),
        ({"label": [0]}, None, "needs a column 'image' .* it has label$"),
        ({"image": [], "label": []}, None, "the file has no rows"),
        ({"image": [b"x"], "label": [0]}, None, r"no image in it can be read \(1 tried"),
        ({"image": ["x"], "label": [0]}, None, "must hold encoded image bytes; row 0"),
        ({"image": [{"path": "x"}], "label": [0]}, None, "must hold encoded image bytes"),
        ({"image": [b"x"], "label": [[1]]}, None, "column 'label' holds list"),
        ({"image": [b"x"], "class_name": ["a\x1b"]}, None, r"holds the character '\\x1b'"),
        ({"image": [b"x"], "label": [0], "split": ["\u202e"]}, None, r"the split of row 0"),
        ({"image": [b"x"] * 2, "label": ["\u00e9", "e\u0301"]}, None, "two classes are called"),
        ({"image": [b"x"] * 2, "label": [0, None]}, None, "row 1 has no label"),
        ({"image": [b"x"], "class_name": [None]}, None, "row 0 has no class_name"),
        ({"image": [b"x"], "label": [0.5]}, None, "neither an integer nor text"),
        ({"image": [b"x"], "class_name": [5]}, None, "a class name is not text"),
        ({"image": [b"x"], "label": [0], "split": [None]}, None, "row 0 has no split"),
        ({"image": [b"x"], "label": [2]}, {"classes": ["a", "b"]}, "label 2, but .* has 2 names"),
        ({"image": [b"x"], "label": [-1]}, {"classes": ["a", "b"]}, "row 0 has label -1"),
        ({"image": [b"x"], "label": [0]}, {"classes": ["a", "a"]}, "two classes"),
        ({"image": [b"x"], "label": [0]}, {"classes": [1]}, "without repeats"),
        (
            {"image": [b"x"], "label": [1], "class_name": ["a"]},
            {"classes": ["a", "b"]},
            "row 0 has class_name 'a', but label 1 is 'b'",
        ),
        (
            {"image": [b"x"] * 2, "label": [1, 1], "class_name": ["a", "b"]},
            None,
            "is 'b' elsewhere",
        ),
        ({"image": [b"x"] * 2, "label": [0, 1], "class_name": ["a", "a"]}, None, "share one"),
    ],
)
def test_unusable_parquet_is_refused(
    tmp_path: Path, columns: dict[str, list[Any]], metadata: dict[str, Any] | None, message: str
) -> None:
    encoded = None if metadata is None else {"dataset": json.dumps(metadata)}
    path = write_parquet(tmp_path / "x.parquet", columns, encoded)
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_that_says_the_same_megabyte_of_every_row(tmp_path: Path) -> None:
    """2 KB on the disk, 1 GB for a reader that unpacks each row."""
    arrow = pytest.importorskip("pyarrow")
    image = images(1)[0] + bytes(1 << 20)
    for column in (
        arrow.DictionaryArray.from_arrays(arrow.array([0] * 1000), arrow.array([image])),
        arrow.array([{"bytes": image, "path": "a" * 1000}]).take(arrow.array([0] * 1000)),
    ):
        path = write_parquet(tmp_path / "x.parquet", {"image": column, "label": [0] * len(column)})
        held = resident_mb()
        dataset = load_dataset(path)
        assert len(dataset) == len(column)
        assert resident_mb() - held < 300


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_parquet_of_more_rows_than_the_limit_is_not_read(tmp_path: Path) -> None:
    """102 KB took more than a minute."""
    arrow = pytest.importorskip("pyarrow")
    count = 3 * 10**6
    column = arrow.nulls(count, arrow.binary())
    path = write_parquet(tmp_path / "x.parquet", {"image": column, "label": np.zeros(count, int)})
    start = time.perf_counter()
    with pytest.raises(InputError, match="more images than 2,097,152"):
        load_dataset(path)
    assert time.perf_counter() - start < 2


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for twice in ("label", "image"):
        names = ["image", "label", twice]
        columns = {"image": images(1), "label": [0]}
        table = arrow.table([arrow.array(columns[n]) for n in names], names=names)
        parquet.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(InputError, match=f"has 2 columns '{twice}'"):
            load_dataset(tmp_path / "x.parquet")


@pytest.mark.parametrize("column", ["class_name", "label", "split", "path"])
def test_parquet_with_text_that_is_no_utf8(tmp_path: Path, column: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    bad = arrow.array([b"a\xff"]).view(arrow.string())
    columns = {"image": arrow.array(images(1)), "label": arrow.array([0])}
    if column == "path":
        fields = [columns["image"], bad]
        columns["image"] = arrow.StructArray.from_arrays(fields, names=["bytes", "path"])
    else:
        columns[column] = bad
    path = write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        load_dataset(path)


def test_parquet_that_ended_the_process() -> None:
    """A byte of its footer is damaged: pyarrow 26 aborts where that column is looked at."""
    pytest.importorskip("pyarrow")
    path = Path(__file__).parent / "damaged" / "histogram.parquet"
    command = "from kilograd.data import load_dataset; import sys; load_dataset(sys.argv[1])"
    words = [sys.executable, "-c", command, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "InputError" in done.stderr.splitlines()[-1]
    assert done.returncode == 1


@pytest.mark.parametrize("index", [5, -1])
def test_parquet_whose_rows_name_values_that_are_not_there(index: int) -> None:
    arrow = pytest.importorskip("pyarrow")
    indices = arrow.array([0, index], arrow.int32())
    column = arrow.DictionaryArray.from_arrays(indices, arrow.array([b"a"]), safe=False)
    with pytest.raises(arrow.ArrowInvalid, match="out of bounds"):
        _Values(Path("x.parquet")).of(column)


def with_lying_footer(path: Path, rows: int, size: int) -> Path:
    """Write rows that are groups of their own, and a footer that says of each: one byte."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [encode(photo()) + bytes([i]) + bytes(size) for i in range(rows)]
    table = arrow.table({"image": arrow.array(images, arrow.large_binary()), "label": ["a"] * rows})
    options = {"compression": "zstd", "row_group_size": 1, "use_dictionary": False}
    parquet.write_table(table, path, write_statistics=False, store_schema=False, **options)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:]
    about = parquet.ParquetFile(path).metadata
    for said in {about.row_group(g).total_byte_size for g in range(rows)}:
        number = varint(2 * said)
        footer = footer.replace(number, bytes([0x82, *[0x80] * (len(number) - 2), 0]))
    path.write_bytes(data[:start] + footer)
    about = parquet.ParquetFile(path).metadata
    assert [about.row_group(g).total_byte_size for g in range(rows)] == [1] * rows
    return path


def varint(value: int) -> bytes:
    out = []
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


LOADED = """
import resource, sys
import pyarrow.parquet
from kilograd.data import load_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_dataset(sys.argv[1])
except Exception as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_of_a_parquet_file_whose_footer_lies(tmp_path: Path) -> None:
    """38 KB took 3.8 GB."""
    path = with_lying_footer(tmp_path / "x.parquet", 6, 200_000_000)
    words = [sys.executable, "-c", LOADED, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    error, used = done.stdout.splitlines()
    assert "no image in it can be read (6 tried, the first is row 0)" in error
    assert int(used) < 1_000_000  # KB


def test_what_comes_of_a_parquet_file_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_lying_footer(tmp_path / "x.parquet", 6, 100_000)
    assert len(load_dataset(path)) == 6
    monkeypatch.setattr(limits, "PARQUET_BYTES", 300_000)
    with pytest.raises(InputError, match=r"x\.parquet: holds 3.* bytes .* 300,000 are the most"):
        load_dataset(path)


def test_an_image_in_parquet_is_no_larger_than_one_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = encode(photo()), encode(photo(width=9, height=9))
    monkeypatch.setattr(limits, "IMAGE_BYTES", len(large) - 1)
    path = write_parquet(tmp_path / "x.parquet", {"image": [large, small], "label": [0, 1]})
    dataset = load_dataset(path)
    assert (dataset.skipped, dataset.image_names) == (("row 0",), ("row 1",))


@pytest.mark.parametrize("keep", [0, 4, 200, -100])
def test_damaged_parquet_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"image": images(3), "label": [0, 1, 0]})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        load_dataset(path)


def test_missing_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'kilograd\[parquet\]'"):
        load_dataset(write(tmp_path / "x.parquet"))


# -- prepare --------------------------------------------------------------------------------------

EXACT = Preprocess(size=8, resize=8, channels=3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16"]
)
def test_every_mode_becomes_int8(mode: str, channels: int) -> None:
    prepared = prepare(Image.new(mode, (50, 40)), Preprocess(20, 24, channels))
    assert prepared.dtype == np.int8
    assert prepared.shape == (20, 20, channels)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (Image.new("RGB", (8, 8), (1, 2, 3)), (1, 2, 3)),
        (Image.new("CMYK", (8, 8), (255, 0, 0, 0)), (0, 255, 255)),
        (Image.new("I;16", (8, 8), 257 * 200), (200, 200, 200)),
        (Image.new("I;16", (8, 8), 65535), (255, 255, 255)),
        (Image.new("I", (8, 8), 257 * 200), (200, 200, 200)),
        (Image.new("I", (8, 8), 100_000), (255, 255, 255)),
        (Image.new("I", (8, 8), -5), (0, 0, 0)),
        (Image.new("RGBA", (8, 8), (9, 8, 7, 255)), (9, 8, 7)),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("LA", (8, 8), (0, 0)), (255, 255, 255)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_plain_colours(image: Image.Image, pixel: tuple[int, int, int]) -> None:
    expected = np.broadcast_to(np.array(pixel) - 128, (8, 8, 3))
    np.testing.assert_array_equal(prepare(image, EXACT), expected)


def test_palette_and_key_colour_transparency_are_on_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    opaque = Image.open(io.BytesIO(encode(palette)))
    clear = Image.open(io.BytesIO(encode(palette, transparency=1)))
    key = Image.open(
        io.BytesIO(encode(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3)))
    )
    assert (opaque.mode, clear.mode, key.mode) == ("P", "P", "RGB")
    assert prepare(opaque, EXACT)[0, 0].tolist() == [40 - 128, 50 - 128, 60 - 128]
    assert (prepare(clear, EXACT) == 127).all()
    assert (prepare(key, EXACT) == 127).all()


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "PPM"])
def test_16_bit_files_keep_their_shades(format_: str) -> None:
    """Pillow's own conversion would clip at 255 of 65,535 and make nearly everything white."""
    shades = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    # As "I" for PPM: what Pillow 10 can write, and what it opens a 16-bit PGM as.
    stored = shades.astype(np.int32) if format_ == "PPM" else shades
    image = Image.open(io.BytesIO(encode(Image.fromarray(stored), format_)))
    expected = np.round(shades / 257).astype(np.int64) - 128
    prepared = prepare(image, Preprocess(8, 8, 1))[:, :, 0]
    np.testing.assert_array_equal(prepared, expected)


def test_pixels_without_resizing_are_the_file_minus_128() -> None:
    image = photo(width=8, height=8)
    expected = np.asarray(image).astype(np.int64) - 128
    np.testing.assert_array_equal(prepare(image, EXACT), expected)
    assert prepare(image, EXACT).min() < 0 < prepare(image, EXACT).max()


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(13, 8, 2, 0), (8, 13, 0, 2), (11, 8, 2, 0), (8, 9, 0, 0)]
)
def test_the_crop_is_the_centre(width: int, height: int, left: int, top: int) -> None:
    """Halves round to even, as in torchvision: 5/2 and 3/2 both give 2, 1/2 gives 0."""
    image = photo(width=width, height=height)
    expected = np.asarray(image).astype(np.int64)[top : top + 8, left : left + 8] - 128
    np.testing.assert_array_equal(prepare(image, EXACT), expected)


@pytest.mark.parametrize(
    ("width", "height"), [(20, 10), (10, 20), (32, 20), (320, 200), (147, 147)]
)
def test_the_shorter_side_is_resized(width: int, height: int) -> None:
    """Each pixel shows what is at its centre, on an image whose brightness is a slope."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    image = Image.fromarray((100 + 100 * x + 50 * y).astype(np.uint8))
    prepared = prepare(image, Preprocess(size=10, resize=10, channels=1))[:, :, 0]
    short = min(width, height)
    from_centre = (np.arange(10) - 4.5) * short / 10
    expected = 175 + 100 * from_centre[None, :] / width + 50 * from_centre[:, None] / height - 128
    # 1 for rounding down above, 1 for the resize, and the rest for half a pixel, in a small one.
    np.testing.assert_allclose(prepared[1:-1, 1:-1], expected[1:-1, 1:-1], atol=2 + 50 / short)


def test_downscaling_is_antialiased() -> None:
    """A fine chequerboard becomes grey; taking every n-th pixel would leave black or white."""
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    prepared = prepare(Image.fromarray(board), Preprocess(size=16, resize=16, channels=1))
    assert np.abs(prepared[1:-1, 1:-1].astype(int)).max() <= 2


def test_exif_rotation_is_applied() -> None:
    upright = Image.new("L", (16, 16), 0)
    upright.paste(255, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    image = Image.open(io.BytesIO(encode(stored, "JPEG", quality=100, exif=exif)))
    preprocess = Preprocess(size=16, resize=16, channels=1)
    assert not np.array_equal(prepare(stored, preprocess), prepare(upright, preprocess))
    np.testing.assert_allclose(prepare(image, preprocess), prepare(upright, preprocess), atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_every_orientation_in_strips(
    monkeypatch: pytest.MonkeyPatch, orientation: int, mode: str
) -> None:
    """As Pillow turns the whole; strips of 3 rows, of an image of 20."""
    monkeypatch.setattr("kilograd.data.pixels._STRIP", 3 * 31)
    grey = np.random.default_rng(1).integers(0, 256, (20, 31))
    image = Image.fromarray(
        (grey * 257).astype(np.uint16) if mode == "I;16" else grey.astype(np.uint8)
    )
    if mode != "I;16":
        image = image.convert(mode)
    image.getexif()[0x0112] = orientation
    turned = Image.fromarray(grey.astype(np.uint8))
    turned.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned))
    for channels in (1, 3):
        found = np.asarray(upright(image, channels)).reshape(*expected.shape, channels)
        np.testing.assert_array_equal(found, np.repeat(expected[:, :, None], channels, axis=2))


MEASURE = """
import resource, sys
from pathlib import Path
from kilograd.data import load_dataset, prepare
from kilograd.frontend import Preprocess
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = prepare(load_dataset(Path(sys.argv[1])).image(0), Preprocess(128, 147, 3))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("mode", ["LA", "I;16", "RGBA"])
def test_the_largest_image_takes_less_than_600_mb(tmp_path: Path, mode: str) -> None:
    """A PNG of 0.3 MB took 3 GB."""
    file = write(tmp_path / "a" / "1.png", b"")
    Image.new(mode, (8192, 8192)).save(file, compress_level=1)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 600_000  # KB


@pytest.mark.parametrize("size", [(8193, 8192), (1 << 17, 1 << 10), (13_000, 13_000)])
def test_larger_images_are_not_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    """By their headers: there are no pixels behind them here."""
    header = struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100)))):
        png += struct.pack(">I", len(data)) + kind + data
        png += struct.pack(">I", zlib.crc32(kind + data))
    write(tmp_path / "a" / "1.png", png)
    write(tmp_path / "a" / "2.png")
    assert load_dataset(tmp_path).skipped == ("a/1.png",)
    with pytest.raises(ValueError, match="67,108,864 are the most"):
        decoded(png)


def test_resized_images_have_a_limit() -> None:
    """32 times as long as wide, at the largest size of a network: 512 MB without a limit."""
    image = Image.new("L", (6400, 200), 77)
    start = time.perf_counter()
    for picture in (image, image.transpose(Image.Transpose.ROTATE_90)):
        assert (prepare(picture, Preprocess(2000, 2048, 1)) == 77 - 128).all()
    assert time.perf_counter() - start < 5


def test_very_long_images_cost_neither_time_nor_memory() -> None:
    row = Image.new("L", (60_000, 1), 10)
    row.paste(200, (29_000, 0, 31_000, 1))
    start = time.perf_counter()
    for image in (row, row.transpose(Image.Transpose.ROTATE_90)):
        assert (prepare(image, Preprocess(128, 147, 1)) == 72).all()
    assert time.perf_counter() - start < 5


def test_prepare_leaves_the_image_alone() -> None:
    image = photo()
    before = image.tobytes()
    prepare(image, Preprocess(8, 12, 1))
    assert (image.tobytes(), image.mode, image.size) == (before, "RGB", (40, 30))


@pytest.mark.parametrize(
    ("size", "resize", "channels", "message"),
    [(0, 8, 3, "size 0"), (9, 8, 3, "size 9"), (8, 8, 4, "channels is 4"), (8, 8, 2, "channels")],
)
def test_bad_preprocess_is_refused(size: int, resize: int, channels: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess(size, resize, channels)


@settings(deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 20),
    margin=st.integers(0, 9),
)
def test_any_size_fits(width: int, height: int, size: int, margin: int) -> None:
    prepared = prepare(
        Image.new("RGB", (width, height), (3, 2, 1)), Preprocess(size, size + margin, 3)
    )
    assert prepared.shape == (size, size, 3)
    # Nothing from outside the image, where a crop would give black.
    assert (prepared == np.array([3 - 128, 2 - 128, 1 - 128])).all()


# -- the stored image sets ------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED_FILES, reason=f"no *.parquet in {SHARED}; set KILOGRAD_SHARED")
@pytest.mark.parametrize("path", SHARED_FILES, ids=lambda path: path.stem)
def test_shared_sets_load_completely_and_fast(path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    start = time.perf_counter()
    dataset = load_dataset(path)
    assert time.perf_counter() - start < 15
    file = parquet.ParquetFile(path)
    assert len(dataset) == file.metadata.num_rows
    assert dataset.skipped == ()
    assert dataset.split is not None
    assert set(dataset.split) <= {"train", "val", "test"}
    assert min(Counter(dataset.labels.tolist()).values()) >= 19
    names = file.read(columns=["class_name"])["class_name"].to_pylist()
    assert [dataset.classes[label] for label in dataset.labels] == names
    grouped = {"omniglot": 50, "pacs": 4}.get(dataset.name)
    assert (dataset.groups and len(set(dataset.groups))) == grouped
    assert prepare(dataset.image(0), Preprocess(128, 147, 3)).std() > 5
