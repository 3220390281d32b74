"""From encoded images to network input, with bounds on time and memory.

An image of 2^26 pixels, the largest that is opened, takes 256 MiB in Pillow where it has colours.
What is done to it is done in strips, so that there is one copy in 8 bits beside it and no third.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features

from kilograd import limits
from kilograd.data.arrays import fitted, is_stored_array, unpacked
from kilograd.errors import InputError
from kilograd.extras import Extra
from kilograd.frontend import Images, Preprocess
from kilograd.ir import Array
from kilograd.reading import read_bytes

Sample = Image.Image | Array
"""An image, or an array of numbers; one of uint8 may be either."""
Source = bytes | Path | Callable[[], Sample]
"""A sample before it is decoded: encoded, in a file, or in what another library holds."""

# Pillow guesses the format from the content. Naming the formats keeps a file called .png away from
# decoders nobody expects here, such as EPS, which starts Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

_CONTAINER = slice(4, 8)
_BRAND = slice(8, 12)
"""What tells a file of the kind of HEIC and AVIF, and which it is."""
_AVIF = {b"avif", b"avis"}

# What `prepare` can turn into 8 bits per channel. Float images ("F") are left out: nothing in the
# file says which value is white.
_GREY_AND_COLOUR = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
)
_16_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")
MODES = frozenset(_GREY_AND_COLOUR + _16_BITS)
"""The modes of Pillow that become network input."""

_STRIP = 1 << 20  # pixels that are converted at once
_RESIZED = 1 << 24  # pixels after resizing
_LONGEST = 32  # times the shorter side

_Turn = Image.Transpose
_TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
"""How to view an image, by the orientation in its EXIF tag."""
_SIDEWAYS = {_Turn.TRANSPOSE, _Turn.ROTATE_270, _Turn.TRANSVERSE, _Turn.ROTATE_90}
_FORWARDS = {None, _Turn.FLIP_LEFT_RIGHT, _Turn.TRANSPOSE, _Turn.ROTATE_90}
"""Those after which the first row is at the top or at the left."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker of JPEG that is neither a byte of the data nor the start of another stretch of it."""
_SCAN, _END, _LENGTH_FOLLOWS = b"\xff\xda", b"\xff\xd9", b"\xff\xc0"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings, which name lines of its source, from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def prepare(sample: Sample, preprocess: Preprocess) -> NDArray[np.int8]:
    """Turn a sample into network input: int8 [height, width, channels].

    An image may be of any mode and size: it is rotated as its EXIF tag says, made RGB or grey,
    resized (bilinear, antialiased) until it covers a box, centre-cropped, then pixels 0..255 become
    codes. Sizes and offsets are rounded as torchvision's `Resize` and `CenterCrop` do, because the
    networks were trained behind those. An array becomes codes as `arrays.fitted` says; one of uint8
    that looks like an image is one, to a network of images.

    Raises `InputError`, which does not say which sample it is, for one that does not fit.

    >>> grey = Image.new("L", (6, 4), color=200)
    >>> prepare(grey, Preprocess.square(size=2, resize=4, channels=1))[:, :, 0]
    array([[72, 72],
           [72, 72]], dtype=int8)
    """
    images = preprocess.samples
    if isinstance(sample, np.ndarray):
        if not (isinstance(images, Images) and holds_image(sample)):
            return fitted(sample, preprocess)
        sample = as_image(sample)
    if not isinstance(images, Images):
        raise InputError(
            f"is an image, and the network takes arrays of {preprocess.spelled}; give .npy files"
        )
    return codes(middle(sample, preprocess, images), images)


def middle(image: Image.Image, preprocess: Preprocess, images: Images) -> NDArray[np.uint8]:
    """Return the pixels [height, width, channels] of an image that become codes."""
    height, width, channels = preprocess.shape
    image = _covering(upright(image, channels), *preprocess.box(images))
    left = round((image.width - width) / 2)
    top = round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(height, width, channels)


def codes(pixels: NDArray[np.uint8], images: Images) -> NDArray[np.int8]:
    """Turn pixels [h, w, c] into codes."""
    if images.normalised is None:
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    return images.normalised.codes[pixels, np.arange(pixels.shape[2])]


@_quiet()
def upright(image: Image.Image, channels: int) -> Image.Image:
    """Rotate an image as its EXIF tag says, and make it RGB (3 channels) or grey (1), 8 bits each.

    Of an image more than 32 times as long as wide only the middle is left.
    """
    turn = _turn(image)
    image = _middle(image, (1, 1), _LONGEST)
    width, height = image.size
    size = (height, width) if turn in _SIDEWAYS else (width, height)
    out = Image.new("L" if channels == 1 else "RGB", size)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _to_8_bits(image.crop((0, top, width, bottom)), out.mode)
        at = top if turn in _FORWARDS else height - bottom
        if turn is not None:
            strip = strip.transpose(turn)
        out.paste(strip, (at, 0) if turn in _SIDEWAYS else (0, at))
    return out


def decoded(source: Source) -> Sample:
    """Decode a sample that `prepare` can use: an image in its own mode and size, or an array.

    Raises whatever the decoder or the library does, what `checked` does, and `InputError` for what
    is no array.
    """
    if callable(source):
        sample = source()
        return sample if isinstance(sample, np.ndarray) else checked(sample)
    data = read_bytes(source, limits.IMAGE_BYTES) if isinstance(source, Path) else source
    if is_stored_array(source) or is_stored_array(data):
        return unpacked(data)
    return checked(opened(data))


def readable(source: bytes | Path) -> bool:
    """Tell whether `decoded` can be used; takes a fraction of its time."""
    try:
        image = opened(source)
        # For a JPEG: grey at an eighth of the size. Reads all of the data; other formats take no
        # notice.
        image.draft("L", (1, 1))
        checked(image)
    except Exception:  # noqa: BLE001
        # Pillow promises no exception type for damaged data (OSError, SyntaxError, ValueError,
        # struct.error, DecompressionBombError, ... seen), and one picture must not end the load.
        return False
    return True


@_quiet()
def opened(source: bytes | Path) -> Image.Image:
    """Read the header of an image; raises whatever the decoder or the library does.

    Raises a ValueError for a JPEG of more scans or segments than the limits, and for what is of no
    format that is read.
    """
    if isinstance(source, Path):
        source = read_bytes(source, limits.IMAGE_BYTES)
    if source.startswith(b"\xff\xd8"):
        _check_markers(source)
    try:
        return Image.open(io.BytesIO(source), formats=_formats(source))
    except UnidentifiedImageError as e:  # its message names an object in memory
        raise ValueError("holds no image of a format that is read here") from e


def _formats(source: bytes) -> tuple[str, ...]:
    """Return the decoders that may open a source; `InputError` where a package is missing."""
    if source[_CONTAINER] != b"ftyp":
        return _FORMATS
    if source[_BRAND] in _AVIF and features.check("avif"):
        return ("AVIF",)
    what = "an image in AVIF" if source[_BRAND] in _AVIF else "an image in HEIC"
    Extra.HEIC.load("pillow_heif", what).register_heif_opener(thumbnails=False)
    return ("HEIF", "AVIF")


@_quiet()
def checked(image: Image.Image) -> Image.Image:
    """Decode an image, and see whether network input can be made of it.

    Raises a ValueError for pixels of no defined range, and for more of them than the limit; else
    whatever the decoder does. `Image.verify` would not notice a truncated JPEG.
    """
    if image.mode not in MODES:
        raise ValueError(f"pixels of mode {image.mode} have no defined range")
    if image.width * image.height > limits.PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels; {limits.PIXELS:,} are the most")
    image.load()
    if image.mode not in {"L", "RGB"} or image.has_transparency_data:
        # What may fail after this depends on palette and transparency: one row shows it.
        for channels in (1, 3):
            upright(image.crop((0, 0, image.width, 1)), channels)
    return image


def as_image(array: Array) -> Image.Image:
    """Return an array that `holds_image` as an image."""
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def holds_image(record: Any) -> bool:  # noqa: ANN401
    """Tell whether an array, or a record of an HDF5 file, is an image."""
    shape: tuple[int, ...] = getattr(record, "shape", ()) or ()
    dtype = getattr(record, "dtype", None)
    grey_or_colour = len(shape) == 2 or (len(shape) == 3 and shape[2] in {1, 3})
    few = grey_or_colour and shape[0] * shape[1] <= limits.PIXELS
    return dtype == np.uint8 and few and min(shape) > 0


def _check_markers(data: bytes) -> None:
    """Refuse a JPEG of more scans or segments than the limits.

    A scan of ten bytes goes over the whole picture, and Pillow copies all EXIF blocks for each
    one. Counted as libjpeg reads: a segment says how long it is, and what stands in it is no
    marker; nor is what stands behind the end.
    """
    segments = scans = 0
    at = 2
    while (found := _MARKER.search(data, at)) and found[0] != _END:
        segments += 1
        scans += found[0] == _SCAN
        if segments > limits.SEGMENTS or scans > limits.SCANS:
            raise ValueError(
                f"a JPEG of more than {limits.SCANS} scans or {limits.SEGMENTS:,} segments"
            )
        if scans == 1 and found[0] == _SCAN and data.count(_SCAN) <= limits.SCANS:
            return  # never too few, and much faster than to look for every marker
        at = found.end()
        if found[0] >= _LENGTH_FOLLOWS:
            at += int.from_bytes(data[at : at + 2], "big")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how to view an image; as it is where its EXIF block is damaged."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001
        # As in `readable`; the picture itself may be whole.
        return None


def _to_8_bits(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in _16_BITS:
        # Pillow clips 16 bits to 8 (everything brighter than 255 of 65,535 turns white), so they
        # are scaled here. "I" has 32 bits, but what Pillow opens as "I" are 16-bit PGM and PNG.
        wide = np.asarray(image).astype(np.int32).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        # On white, as pages show it. The colour stored under transparent pixels is mostly black:
        # dropping alpha, or black behind it, makes dark drawings vanish.
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


def _middle(image: Image.Image, box: tuple[int, int], times: int) -> Image.Image:
    """Cut an image more than so many times as long, or wide, as the box is down to the middle.

    `box`: height and width. Only the middle is used, and one row of 60,000 pixels, a file of a few
    hundred bytes, would otherwise be resized to gigabytes. The cut is far outside the crop for any
    photograph.
    """
    high, wide = box
    left = max(0, (image.width - max(1, times * image.height * wide // high)) // 2)
    top = max(0, (image.height - max(1, times * image.width * high // wide)) // 2)
    if not (left or top):
        return image
    return image.crop((left, top, image.width - left, image.height - top))


def _covering(image: Image.Image, high: int, wide: int) -> Image.Image:
    """Resize an image until it covers a box, and is as long or as wide as that."""
    image = _middle(image, (high, wide), max(2, min(_LONGEST, _RESIZED // (high * wide))))
    if image.width * high <= image.height * wide:
        size = (wide, int(wide * image.height / image.width))
    else:
        size = (int(high * image.width / image.height), high)
    return image.resize(size, Image.Resampling.BILINEAR)
