"""Random views of photographs for long training: crops of any size, other colours, mirrored."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilograd.data import Augment, prepare, upright
from kilograd.frontend import Preprocess
from kilograd.offline.settings import Views

_ASPECT = 4 / 3  # width to height of a crop, at most; and the inverse
_COLOUR = 0.4  # brightness, contrast and saturation change by this factor either way
_TRIES = 10


def random_view(
    image: Image.Image, preprocess: Preprocess, views: Views, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Return a view of an image as network input, int8 [size, size, channels]."""
    augment = views.augment
    if augment is Augment.NONE:
        return prepare(image, preprocess)
    image = upright(image, preprocess.channels)
    side = preprocess.size
    box = _box(image.size, rng, views.crop)
    small = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    x = np.asarray(small, np.float32).reshape(side, side, -1)
    if augment is Augment.FULL and rng.random() < 0.5:
        x = x[:, ::-1]
    x = x * rng.uniform(1 - _COLOUR, 1 + _COLOUR)
    mean = x.mean()
    x = (x - mean) * rng.uniform(1 - _COLOUR, 1 + _COLOUR) + mean
    grey = x.mean(axis=2, keepdims=True)
    x = (x - grey) * rng.uniform(1 - _COLOUR, 1 + _COLOUR) + grey
    return (np.clip(np.rint(x), 0, 255) - 128).astype(np.int8)


def _box(
    size: tuple[int, int], rng: np.random.Generator, smallest: float
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a crop; the square in the middle if none fits."""
    width, height = size
    for _ in range(_TRIES):
        area = width * height * rng.uniform(smallest, 1)
        aspect = math.exp(rng.uniform(-math.log(_ASPECT), math.log(_ASPECT)))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
