"""Networks whose inputs are not square images: shapes, arrays, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import windows
from PIL import Image

from kilograd.data import prepare
from kilograd.errors import InputError
from kilograd.frontend import (
    Arrays,
    Images,
    Model,
    Normalised,
    Preprocess,
    load_model_folder,
    resized,
    save_model,
)
from kilograd.ir import Affine
from kilograd.layers.network import Taken

IMAGENET = Normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), Affine((0.0187,), -14))


def taken(shape: tuple[int, ...], order: tuple[int, ...]) -> Preprocess:
    """An input that is had from samples of a shape."""
    return Preprocess(1, 4, 6, Arrays(Affine((1.0,)), Taken(shape, order)))


# ---- what a network says of its input ----


@pytest.mark.parametrize(
    "network",
    [
        windows.of_arrays(),
        windows.of_arrays((30, 1, 40)),
        windows.model(
            Preprocess(1, 20, 6, Arrays(windows.MIDDLE, Taken((6, 20), (1, 0)))), windows.MIDDLE
        ),
        windows.of_images(),
        windows.model(Preprocess(9, 16, 3, Images(12, IMAGENET)), IMAGENET.affine),
    ],
    ids=["arrays", "sequences", "channels first", "oblong", "normalised"],
)
def test_a_folder_says_what_its_input_is(network: Model, tmp_path: Path) -> None:
    save_model(network, tmp_path)
    found = load_model_folder(tmp_path)
    assert found.preprocess == network.preprocess
    assert found.fingerprint == network.fingerprint


def test_other_pixels_are_another_network() -> None:
    plain = windows.model(Preprocess(9, 16, 3, Images(12)), IMAGENET.affine)
    other = replace(plain, preprocess=Preprocess(9, 16, 3, Images(12, IMAGENET)))
    assert len({plain.fingerprint, other.fingerprint}) == 2


@pytest.mark.parametrize(
    ("preprocess", "words"),
    [
        (lambda: Preprocess(0, 10, 1, Images(10)), "size 0"),
        (lambda: Preprocess(8, 10, 1, Images(7)), "at most resize 7"),
        (lambda: Preprocess(8, 2049, 1, Images(8)), "2049 pixels are too many"),
        (lambda: Preprocess(8, 16, 1, Images(1030)), "2060 pixels are too many"),
        (lambda: Preprocess(8, 10, 2, Images(8)), "channels is 2"),
        (lambda: Preprocess(8, 0, 2, Arrays(Affine((1.0,)))), "8x0x2"),
        (lambda: Preprocess(40000, 1, 1, Arrays(Affine((1.0,)))), "40000x1x1"),
        (lambda: Preprocess(30000, 30000, 9, Arrays(Affine((1.0,)))), "more than"),
        (lambda: Preprocess(8, 8, 1, Images(8, IMAGENET)), "3 means"),
        (lambda: taken((6, 4), (0, 0)), r"\[0, 0\] is no order of the axes of \[6, 4\]"),
        (lambda: taken((6, 5), (0, 1)), r"samples of \[6, 5\] have other numbers than 1x4x6"),
        (lambda: taken((-6, -4), (0, 1)), "have other numbers"),
        (lambda: replace(IMAGENET, mean=(float("nan"),) * 3), "mean"),
        (lambda: replace(IMAGENET, std=(0.0,) * 3), "std"),
    ],
)
def test_an_input_that_cannot_be_is_refused(preprocess: type, words: str) -> None:
    with pytest.raises(InputError, match=words):
        preprocess()


# ---- images ----


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (200, 21), (21, 200), (7, 5)])
def test_an_oblong_input_is_the_middle_of_an_image(width: int, height: int) -> None:
    """Of a ramp: the middle pixel is in the middle, and a pixel is as wide as it is high."""
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([x * 255 / width, y * 255 / height, 0 * x], axis=-1).astype(np.uint8)
    found = prepare(Image.fromarray(ramp), Preprocess(12, 20, 3, Images(12))).astype(int) + 128
    assert found.shape == (12, 20, 3)
    across, down = found[..., 0].mean(), found[..., 1].mean()
    assert abs(across - 127) < 255 / width + 2
    assert abs(down - 127) < 255 / height + 2
    if width > 20:
        factor = max(12 / height, 20 / width)
        step = np.diff(found[6, 2:-2, 0]).mean()
        assert step == pytest.approx(255 / width / factor, rel=0.15)


def test_normalised_pixels_are_what_torchvision_and_onnx_make_of_them() -> None:
    """`Normalize` and `QuantizeLinear`, in float64."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 3)).astype(np.uint8)
    found = prepare(Image.fromarray(pixels), Preprocess(9, 16, 3, Images(9, IMAGENET)))
    reals = (pixels / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    wanted = np.clip(np.rint(reals / 0.0187) - 14, -128, 127)
    assert np.array_equal(found, wanted)


def test_usual_pixels_said_as_normalised_are_the_same() -> None:
    usual = Normalised((0.0,), (1.0,), windows.UNIT)
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    said, unsaid = (Preprocess(16, 16, 1, Images(16, n)) for n in (usual, None))
    assert np.array_equal(prepare(grey, said), prepare(grey, unsaid))


def test_an_oblong_network_takes_another_size_by_height_and_width() -> None:
    network = windows.of_images(12, 20)
    other = resized(network, "24x40")
    assert other.preprocess == Preprocess(24, 40, 3, Images(28))
    assert resized(other, "12x20").preprocess == network.preprocess
    with pytest.raises(InputError, match=r"^size 16: squares.*12x20"):
        resized(network, 16)
    with pytest.raises(InputError, match=r"^size 0x20: there are no pixels.*12x20"):
        resized(network, "0x20")
    with pytest.raises(InputError, match=r"^size 12x20x3: not a whole number"):
        resized(network, "12x20x3")


def test_arrays_have_one_size() -> None:
    with pytest.raises(InputError, match=r"^size 16: windows takes arrays of 12x5x2"):
        resized(windows.of_arrays(), 16)


# ---- arrays ----


def test_reals_become_codes_as_onnx_says() -> None:
    """Half to even and saturated, with a division in float32."""
    arrays = Arrays(Affine((0.5847,), 83))
    reals = np.concatenate([np.linspace(-200, 50, 5001), [1e30, -1e300, 0.0]])
    steps = np.rint((reals.clip(-1e9, 1e9).astype(np.float32)) / np.float32(0.5847))
    assert np.array_equal(arrays.codes(reals), np.clip(steps + 83, -128, 127))
