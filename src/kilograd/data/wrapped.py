"""Sets of images or arrays that another library holds."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, SupportsIndex, cast

import numpy as np
from PIL import Image

from kilograd.data.arrays import check_sample
from kilograd.data.dataset import Dataset
from kilograd.data.listed import Listed, assemble, class_names
from kilograd.data.pixels import Sample, checked, holds_image
from kilograd.errors import InputError
from kilograd.ir import Array


class Pairs(Protocol):
    """A data set of torchvision or Hugging Face, or a list: item i is a sample and its label."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


def wrap_dataset(name: str, classes: Sequence[str], pairs: Pairs) -> Dataset:
    """Use a set that another library holds: torchvision's, Hugging Face's `datasets`, or a list.

    `pairs[i]` is sample i and its label: a pair, or a mapping with the keys `image` and `label`.
    An image is Pillow's, or uint8 [h, w] or [h, w, 3]; other samples are arrays of one shape, of
    one to three axes. The label is an index into `classes`.
    `wrap_dataset("pets", pets.classes, pets)` for torchvision, made without a transform;
    `wrap_dataset("beans", beans.features["label"].names, beans)` for Hugging Face, after renaming
    the columns to `image` and `label`.

    Every item is fetched once here, for its label and to see whether it can be decoded, and again
    when its image is asked for; no image is kept. Those that cannot be fetched are in `skipped`.

    Raises `InputError` if a class name repeats, the set has no length, an item is something else,
    a label is no such index, arrays differ in shape or hold NaN, or no image can be decoded.

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
    wrap = _Wrapper(name, classes, pairs)
    listed = [wrap(index) for index in range(count)]
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
        f"{name}: item {index} must be a sample and a label, as a pair or under the keys 'image' "
        f"and 'label'"
    )


class _Wrapper:
    """Looks at items one by one, and remembers what shape arrays have."""

    def __init__(self, name: str, classes: Sequence[str], pairs: Pairs) -> None:
        self._name, self._classes, self._pairs = name, classes, pairs
        self._first: tuple[str, tuple[int, ...]] | None = None

    def __call__(self, index: int) -> Listed:
        called, name = f"item {index}", self._name
        try:
            sample, label = _item(name, self._pairs, index)
            if isinstance(sample, Image.Image):
                checked(sample)
        except InputError:
            raise
        except Exception:  # noqa: BLE001
            # As in `readable`: the library decodes, and a decoder may raise anything.
            return Listed(called, None, 0, split=None)
        try:
            number = operator.index(cast("SupportsIndex", label))
        except TypeError as error:
            raise InputError(
                f"{name}: the label of item {index} is {label!r}; it must be an index into the "
                "classes"
            ) from error
        if not 0 <= number < len(self._classes):
            raise InputError(
                f"{name}: item {index} has label {number}, of {len(self._classes)} classes"
            )
        found = _as_sample(name, index, sample)
        if isinstance(found, np.ndarray) and not holds_image(found):
            self._check(called, found)
        return Listed(called, partial(_item_sample, name, self._pairs, index), number, split=None)

    def _check(self, called: str, array: Array) -> None:
        try:
            check_sample(array)
        except InputError as e:
            raise InputError(f"{self._name}: {called} {e}") from e
        first, shape = self._first or (called, array.shape)
        self._first = first, shape
        if array.shape != shape:
            raise InputError(
                f"{self._name}: {called} has the shape {list(array.shape)}, and {first} has "
                f"{list(shape)}; make all samples alike"
            )


def _item_sample(name: str, pairs: Pairs, index: int) -> Sample:
    image, _ = _item(name, pairs, index)
    return _as_sample(name, index, image)


def _as_sample(name: str, index: int, sample: object) -> Sample:
    if isinstance(sample, Image.Image):
        return sample
    if hasattr(sample, "__array__"):  # NumPy's, or a tensor of PyTorch
        return np.asarray(sample)
    raise InputError(
        f"{name}: item {index} holds {type(sample).__name__}; a sample is an image of Pillow, a "
        "uint8 array [h, w] or [h, w, 3], or an array of numbers"
    )
