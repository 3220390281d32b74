"""Data sets and image preparation: what is read, what is refused, what the pixels become."""

import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kilograd.errors import InputError
from kilograd.frontend import Preprocess
from kilograd.learn.data import Dataset, load_dataset, prepare

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
    path: Path, columns: dict[str, list[Any]], metadata: dict[str, str] | None = None
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
        ({"image": [b"x"] * 2, "label": [0, None]}, None, "row 1 has no label"),
        ({"image": [b"x"], "class_name": [None]}, None, "row 0 has no class_name"),
        ({"image": [b"x"], "label": [0.5]}, None, "neither an integer nor text"),
        ({"image": [b"x"], "class_name": [5]}, None, "a class name is not text"),
        ({"image": [b"x"], "label": [0], "split": [None]}, None, "row 0 has no split"),
        ({"image": [b"x"], "label": [2]}, {"classes": ["a", "b"]}, "label 2, but .* has 2 names"),
        ({"image": [b"x"], "label": [-1]}, {"classes": ["a", "b"]}, "row 0 has label -1"),
        ({"image": [b"x"], "label": [0]}, {"classes": ["a", "a"]}, "without repeats"),
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
