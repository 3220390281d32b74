"""Frames of a camera become images: compared with a mean over pixels in numpy."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from applications import from_565, mean_of_touched, middle
from helpers import ASSERTING, clang, gcc, needs_gcc
from PIL import Image

from kilograd.data import prepare
from kilograd.frontend import Images, Preprocess
from kilograd.ir import Array
from kilograd.targets.toolchain import find_compiler, runtime_folder

FORMATS = ("KG_GREY", "KG_RGB", "KG_BGR", "KG_RGB565", "KG_RGB565_SWAPPED")


class Frame(ctypes.Structure):
    """`kg_frame`."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        *(
            (name, ctypes.c_int32)
            for name in (
                *("width", "height", "format", "left", "top", "side", "size", "channels", "wide"),
            )
        ),
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("frame")
    runtime = runtime_folder()
    files = (str(runtime / "src" / "kg_frame.c"), f"-I{runtime / 'include'}")
    find_compiler().compile(folder, "-fPIC", "-shared", ASSERTING, *files, "-o", "frame.so")
    return ctypes.CDLL(str(folder / "frame.so"))


def stored(name: str, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Bytes of a frame in a format, and the colours that they stand for, [h, w, 3]."""
    rng = np.random.default_rng(len(name))
    if name == "KG_GREY":
        data = rng.integers(0, 256, (*shape, 1)).astype(np.uint8)
        return data, np.repeat(data, 3, axis=2)
    if name in {"KG_RGB", "KG_BGR"}:
        data = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        return data, data if name == "KG_RGB" else data[..., ::-1]
    pixels = rng.integers(0, 1 << 16, shape).astype("<u2" if name == "KG_RGB565" else ">u2")
    return pixels.view(np.uint8), from_565(pixels.astype(np.uint16))


def image(library: ctypes.CDLL, frame: Frame) -> Array:
    wide = frame.wide or frame.size
    out = np.full((frame.size + 1, wide, frame.channels), 77, np.int8)
    for row in range(frame.size):
        to = out[row].ctypes.data_as(ctypes.c_void_p)
        library.kg_frame_row(ctypes.byref(frame), row, to)
    assert (out[frame.size] == 77).all()
    return out[: frame.size]


def grey(colours: Array) -> Array:
    """As bright as they look."""
    red, green, blue = np.moveaxis(colours.astype(np.float64), 2, 0)
    return np.round(0.299 * red + 0.587 * green + 0.114 * blue)[..., None].astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("shape", "square", "size"),
    [
        ((24, 32), (0, 4, 24), 8),
        ((30, 20), (3, 1, 17), 5),
        ((9, 7), (2, 0, 7), 16),
        ((5, 5), (4, 4, 1), 3),
        ((40, 64), (1, 20, 39), 39),
    ],
    ids=str,
)
def test_an_image_is_the_mean_of_what_it_touches(
    library: ctypes.CDLL,
    name: str,
    channels: int,
    shape: tuple[int, int],
    square: tuple[int, int, int],
    size: int,
) -> None:
    data, colours = stored(name, shape)
    top, left, side = square
    at = data.ctypes.data_as(ctypes.c_void_p)
    place = (shape[1], shape[0], FORMATS.index(name), left, top, side, size, channels)
    pixels = grey(colours) if channels == 1 else colours
    expected = mean_of_touched(pixels, (top, left), (side, side), (size, size))
    found = image(library, Frame(at, *place))
    # the integers of a grey may be one off where the real number is half way
    assert np.abs(found.astype(int) - expected).max() <= (channels == 1)
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("resize", [16, 18, 24])
def test_the_middle_is_what_photos_were_cut_to(library: ctypes.CDLL, resize: int) -> None:
    """Nearly what `prepare` makes, which weighs pixels by how far they are."""
    y, x = np.mgrid[:96, :120]
    waves = (127 + 100 * np.sin(x / 15) * np.cos(y / 11)).astype(np.uint8)
    colours = np.stack([waves, waves[::-1], waves[:, ::-1]], -1)
    frame = Frame(colours.ctypes.data_as(ctypes.c_void_p), 120, 96, 1, 0, 0, 0, 16, 3)
    library.kg_frame_middle(ctypes.byref(frame), resize)
    found = image(library, frame)
    preprocess = Preprocess.square(16, resize, 3)
    assert np.array_equal(found, middle(colours, preprocess))
    wanted = prepare(Image.fromarray(colours), preprocess).astype(int)
    assert np.abs(found - wanted).mean() < 5


@pytest.mark.parametrize("resize", [12, 14, 20])
@pytest.mark.parametrize(("high", "wide"), [(12, 20), (20, 12), (12, 31)])
@pytest.mark.parametrize("frame_size", [(96, 120), (120, 40), (50, 200)])
def test_the_middle_of_an_oblong_image(
    library: ctypes.CDLL, high: int, wide: int, frame_size: tuple[int, int], resize: int
) -> None:
    y, x = np.mgrid[: frame_size[0], : frame_size[1]]
    waves = (127 + 100 * np.sin(x / 30) * np.cos(y / 25)).astype(np.uint8)
    colours = np.stack([waves, waves[::-1], waves[:, ::-1]], -1)
    at = colours.ctypes.data_as(ctypes.c_void_p)
    frame = Frame(at, frame_size[1], frame_size[0], 1, 0, 0, 0, high, 3, wide)
    library.kg_frame_middle(ctypes.byref(frame), resize)
    found = image(library, frame)
    preprocess = Preprocess(high, wide, 3, Images(resize))
    assert np.array_equal(found, middle(colours, preprocess))
    wanted = prepare(Image.fromarray(colours), preprocess).astype(int)
    assert np.abs(found - wanted).mean() < 6


@needs_gcc
def test_the_header_is_c_plus_plus_and_compiles_strictly(tmp_path: Path) -> None:
    runtime = runtime_folder()
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Werror")
    include = f"-I{runtime / 'include'}"
    for compiler in (gcc("-O2", *strict), clang("-O2", *strict)):
        compiler.compile(tmp_path, include, "-c", str(runtime / "src" / "kg_frame.c"))
