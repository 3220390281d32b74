"""Random views of photographs for long training: crops of any size, other colours, mirrored."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilograd.data import Augment, Dataset, prepare, upright
from kilograd.data.pixels import codes
from kilograd.frontend import Arrays, Images, Preprocess
from kilograd.offline.settings import Views

_ASPECT = 4 / 3  # width to height of a crop, over that of the input, at most; and the inverse
_COLOUR = 0.4  # brightness, contrast and saturation change by this factor either way
_TRIES = 10


def view_of(
    dataset: Dataset, index: int, preprocess: Preprocess, views: Views, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Return a view of a sample; an array is shown as it is."""
    if isinstance(preprocess.samples, Arrays):
        return dataset.prepared(index, preprocess)
    return random_view(dataset.image(index), preprocess, views, rng)


def random_view(
    image: Image.Image, preprocess: Preprocess, views: Views, rng: np.random.Generator
) -> NDArray[np.int8]:
    """Return a view of an image as network input, int8 [height, width, channels]."""
    augment = views.augment
    images = preprocess.samples
    if augment is Augment.NONE or not isinstance(images, Images):
        return prepare(image, preprocess)
    image = upright(image, preprocess.channels)
    height, width, channels = preprocess.shape
    box = _box(image.size, rng, views.crop, width / height)
    small = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    x = np.asarray(small, np.float32).reshape(height, width, channels)
    if augment is Augment.FULL and rng.random() < 0.5:
        x = x[:, ::-1]
    x = x * rng.uniform(1 - _COLOUR, 1 + _COLOUR)
    mean = x.mean()
    x = (x - mean) * rng.uniform(1 - _COLOUR, 1 + _COLOUR) + mean
    grey = x.mean(axis=2, keepdims=True)
    x = (x - grey) * rng.uniform(1 - _COLOUR, 1 + _COLOUR) + grey
    return codes(np.clip(np.rint(x), 0, 255).astype(np.uint8), images)


def _box(
    size: tuple[int, int], rng: np.random.Generator, smallest: float, shape: float
) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a crop; the largest in the middle if none fits.

    `shape`: width to height of the input.
    """
    width, height = size
    for _ in range(_TRIES):
        area = width * height * rng.uniform(smallest, 1)
        aspect = shape * math.exp(rng.uniform(-math.log(_ASPECT), math.log(_ASPECT)))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * shape), min(height, width / shape)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h
