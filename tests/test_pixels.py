"""Images that are read or left out, and what their pixels become."""

import io
import struct
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import kilobytes
from pictures import encode, photo, png, truncated, write
from PIL import Image, ImageOps

from kilograd.data import load_dataset, prepare, upright
from kilograd.data.pixels import decoded, readable
from kilograd.errors import InputError
from kilograd.frontend import Preprocess

# -- reading ---------------------------------------------------------------------------------------


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
    pixels = zlib.compress(bytes(20 * (1 + 20 * bytes_per_pixel)))
    return png(20, 20, kind, *chunks, (b"IDAT", pixels), (b"IEND", b""))


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
            assert prepare(dataset.image(index), Preprocess.square(8, 9, 3)).shape == (8, 8, 3)
        assert len(dataset) + len(dataset.skipped) == 2


# -- prepare --------------------------------------------------------------------------------------

EXACT = Preprocess.square(size=8, resize=8, channels=3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16"]
)
def test_every_mode_becomes_int8(mode: str, channels: int) -> None:
    prepared = prepare(Image.new(mode, (50, 40)), Preprocess.square(20, 24, channels))
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
    prepared = prepare(image, Preprocess.square(8, 8, 1))[:, :, 0]
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
    prepared = prepare(image, Preprocess.square(size=10, resize=10, channels=1))[:, :, 0]
    short = min(width, height)
    from_centre = (np.arange(10) - 4.5) * short / 10
    expected = 175 + 100 * from_centre[None, :] / width + 50 * from_centre[:, None] / height - 128
    # 1 for rounding down above, 1 for the resize, and the rest for half a pixel, in a small one.
    np.testing.assert_allclose(prepared[1:-1, 1:-1], expected[1:-1, 1:-1], atol=2 + 50 / short)


def test_downscaling_is_antialiased() -> None:
    """A fine chequerboard becomes grey; taking every n-th pixel would leave black or white."""
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    prepared = prepare(Image.fromarray(board), Preprocess.square(size=16, resize=16, channels=1))
    assert np.abs(prepared[1:-1, 1:-1].astype(int)).max() <= 2


def test_exif_rotation_is_applied() -> None:
    upright = Image.new("L", (16, 16), 0)
    upright.paste(255, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    image = Image.open(io.BytesIO(encode(stored, "JPEG", quality=100, exif=exif)))
    preprocess = Preprocess.square(size=16, resize=16, channels=1)
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


@pytest.mark.parametrize("mode", ["LA", "I;16", "RGBA"])
def test_the_largest_image_takes_less_than_600_mb(tmp_path: Path, mode: str) -> None:
    """A PNG of 0.3 MB took 3 GB."""
    file = write(tmp_path / "a" / "1.png", b"")
    Image.new(mode, (8192, 8192)).save(file, compress_level=1)
    imports = "from kilograd.data import load_dataset, prepare; "
    imports += "from kilograd.frontend import Preprocess"
    statement = "prepare(load_dataset(path).image(0), Preprocess.square(128, 147, 3))"
    assert kilobytes(imports, statement, tmp_path) < 600_000


@pytest.mark.parametrize("size", [(8193, 8192), (1 << 17, 1 << 10), (13_000, 13_000)])
def test_larger_images_are_not_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    """By their headers: there are no pixels behind them here."""
    data = png(*size, 6, (b"IDAT", zlib.compress(bytes(100))))
    write(tmp_path / "a" / "1.png", data)
    write(tmp_path / "a" / "2.png")
    assert load_dataset(tmp_path).skipped == ("a/1.png",)
    with pytest.raises(ValueError, match="67,108,864 are the most"):
        decoded(data)


def test_resized_images_have_a_limit() -> None:
    """32 times as long as wide, at the largest size of a network: 512 MB without a limit."""
    image = Image.new("L", (6400, 200), 77)
    start = time.perf_counter()
    for picture in (image, image.transpose(Image.Transpose.ROTATE_90)):
        assert (prepare(picture, Preprocess.square(2000, 2048, 1)) == 77 - 128).all()
    assert time.perf_counter() - start < 5


def test_very_long_images_cost_neither_time_nor_memory() -> None:
    row = Image.new("L", (60_000, 1), 10)
    row.paste(200, (29_000, 0, 31_000, 1))
    start = time.perf_counter()
    for image in (row, row.transpose(Image.Transpose.ROTATE_90)):
        assert (prepare(image, Preprocess.square(128, 147, 1)) == 72).all()
    assert time.perf_counter() - start < 5


def test_prepare_leaves_the_image_alone() -> None:
    image = photo()
    before = image.tobytes()
    prepare(image, Preprocess.square(8, 12, 1))
    assert (image.tobytes(), image.mode, image.size) == (before, "RGB", (40, 30))


@pytest.mark.parametrize(
    ("size", "resize", "channels", "message"),
    [(0, 8, 3, "size 0"), (9, 8, 3, "size 9"), (8, 8, 4, "channels is 4"), (8, 8, 2, "channels")],
)
def test_bad_preprocess_is_refused(size: int, resize: int, channels: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess.square(size, resize, channels)


@settings(deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 20),
    margin=st.integers(0, 9),
)
def test_any_size_fits(width: int, height: int, size: int, margin: int) -> None:
    prepared = prepare(
        Image.new("RGB", (width, height), (3, 2, 1)), Preprocess.square(size, size + margin, 3)
    )
    assert prepared.shape == (size, size, 3)
    # Nothing from outside the image, where a crop would give black.
    assert (prepared == np.array([3 - 128, 2 - 128, 1 - 128])).all()
