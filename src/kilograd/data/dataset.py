"""The record of a labelled image set."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilograd.data import pixels
from kilograd.data.pixels import Sample, Source
from kilograd.errors import InputError
from kilograd.frontend import Preprocess


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled set of n samples, images or arrays, each decoded when it is asked for.

    Make one with `load_dataset` or `wrap_dataset`. Compared by identity: two sets are the same
    only if they are one.

    `name`: folder name, or file name without `.parquet`.
    `classes`: class names without repeats; a label is an index into it.
    `images`: encoded bytes, the file to read them from, or a function that fetches the sample [n].
    `image_names`: what messages call the samples: a path inside the folder, or a Parquet row [n].
    `labels`: int64, read-only [n].
    `split`: "train", "val", "test" or a name of the file's own, per image [n]; None without splits.
    `groups`: the group of each class [len(classes)], or None. Class names of the form
        "group/class" (an alphabet and its characters, a domain and its objects) make groups, if
        every name has the form and every group has two classes or more.
    `skipped`: names of the images left out because they cannot be decoded.

    Raises `InputError` if a length or a label does not fit.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[Source, ...] = field(repr=False)
    image_names: tuple[str, ...] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    split: tuple[str, ...] | None = field(default=None, repr=False)
    groups: tuple[str, ...] | None = field(default=None, repr=False)
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that what is parallel has one length, and make the labels read-only."""
        per_image = {len(self.images), len(self.image_names), self.labels.size}
        if self.split is not None:
            per_image.add(len(self.split))
        if len(per_image) != 1:
            raise InputError(
                f"{self.name}: images, names, labels and split differ in length: {per_image}"
            )
        if self.groups is not None and len(self.groups) != len(self.classes):
            raise InputError(
                f"{self.name}: {len(self.groups)} groups for {len(self.classes)} classes"
            )
        if self.labels.size and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise InputError(f"{self.name}: a label is outside 0..{len(self.classes) - 1}")
        labels = np.array(self.labels, dtype=np.int64)
        labels.flags.writeable = False
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """Decode image `index` in its own mode and size, not yet rotated by its EXIF tag.

        Raises `InputError` as `sample` does, and for an array that is no image.
        """
        sample = self.sample(index)
        if isinstance(sample, Image.Image):
            return sample
        if not pixels.holds_image(sample):
            raise InputError(f"{self.name}: sample {self.image_names[index]} is no image")
        return pixels.as_image(sample)

    def prepared(self, index: int, preprocess: Preprocess) -> NDArray[np.int8]:
        """Return sample `index` as network input, int8 [height, width, channels].

        Raises `InputError` as `sample` does, and for a sample that is none of the network's.
        """
        sample = self.sample(index)
        try:
            return pixels.prepare(sample, preprocess)
        except InputError as e:
            raise InputError(f"{self.name}: sample {self.image_names[index]} {e}") from e

    def sample(self, index: int) -> Sample:
        """Decode sample `index`: an image, or an array of numbers.

        Raises `InputError` if its file is gone or has changed since the set was loaded.
        """
        try:
            return pixels.decoded(self.images[index])
        except Exception as error:
            # As in `readable`: a decoder may raise anything.
            raise InputError(
                f"{self.name}: image {self.image_names[index]} could be read when the set was "
                f"loaded and cannot now ({error}); put it back and start again"
            ) from error
