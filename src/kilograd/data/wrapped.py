"""Image sets that another library holds."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, SupportsIndex, cast

import numpy as np
from PIL import Image

from kilograd.data.dataset import Dataset
from kilograd.data.listed import Listed, assemble, class_names
from kilograd.data.pixels import checked, holds_image
from kilograd.errors import InputError


class Pairs(Protocol):
    """A data set of torchvision or Hugging Face, or a list: item i is an image and its label."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


def wrap_dataset(name: str, classes: Sequence[str], pairs: Pairs) -> Dataset:
    """Use a set that another library holds: torchvision's, Hugging Face's `datasets`, or a list.

    `pairs[i]` is image i and its label: a pair, or a mapping with the keys `image` and `label`.
    The image is Pillow's, or uint8 [h, w] or [h, w, 3]; the label is an index into `classes`.
    `wrap_dataset("pets", pets.classes, pets)` for torchvision, made without a transform;
    `wrap_dataset("beans", beans.features["label"].names, beans)` for Hugging Face, after renaming
    the columns to `image` and `label`.

    Every item is fetched once here, for its label and to see whether it can be decoded, and again
    when its image is asked for; no image is kept. Those that cannot be fetched are in `skipped`.

    Raises `InputError` if a class name repeats, the set has no length, an item is something else,
    a label is no such index, or no image can be decoded.

    >>> images = [np.full((8, 8), shade, np.uint8) for shade in (0, 255)]
    >>> shades = wrap_dataset("shades", ["black", "white"], list(zip(images, [0, 1])))
    >>> shades.labels, shades.image(1).getpixel((0, 0))
    (array([0, 1]), 255)
    """
    classes = class_names(classes, name)
    try:
        count = len(pairs)
    except TypeError as error:
        raise InputError(
            f"{name}: {type(pairs).__name__} has no length; give a set whose items can be counted"
        ) from error
    listed = [_wrapped(name, classes, pairs, index) for index in range(count)]
    if all(one.source is None for one in listed):
        raise InputError(f"{name}: none of its {count} items can be fetched; see whether [0] can")
    return assemble(name, Path(name), classes, listed)


def _item(name: str, pairs: Pairs, index: int) -> tuple[object, object]:
    """Fetch image and label."""
    match pairs[index]:
        case {"image": image, "label": label}:
            return image, label
        case (image, label):
            return image, label
    raise InputError(
        f"{name}: item {index} must be an image and a label, as a pair or under the keys 'image' "
        f"and 'label'"
    )


def _wrapped(name: str, classes: Sequence[str], pairs: Pairs, index: int) -> Listed:
    called = f"item {index}"
    try:
        image, label = _item(name, pairs, index)
        if isinstance(image, Image.Image):
            checked(image)
    except InputError:
        raise
    except Exception:  # noqa: BLE001
        # As in `readable`: the library decodes, and a decoder may raise anything.
        return Listed(called, None, 0, split=None)
    try:
        number = operator.index(cast("SupportsIndex", label))
    except TypeError as error:
        raise InputError(
            f"{name}: the label of item {index} is {label!r}; it must be an index into the classes"
        ) from error
    if not 0 <= number < len(classes):
        raise InputError(f"{name}: item {index} has label {number}, of {len(classes)} classes")
    _as_image(name, index, image)
    return Listed(called, partial(_item_image, name, pairs, index), number, split=None)


def _item_image(name: str, pairs: Pairs, index: int) -> Image.Image:
    image, _ = _item(name, pairs, index)
    return _as_image(name, index, image)


def _as_image(name: str, index: int, image: object) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and holds_image(image):
        return Image.fromarray(image)
    raise InputError(
        f"{name}: the image of item {index} is of type {type(image).__name__}; it must be an image "
        f"of Pillow or a uint8 array [h, w] or [h, w, 3], so leave out what transforms it"
    )
