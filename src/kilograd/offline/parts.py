"""Which images and classes are for what: to learn from, to choose by, to report on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilograd.data import Dataset, usable_classes
from kilograd.errors import InputError
from kilograd.frontend import Preprocess

_HELD_OUT = 5  # every fifth image or class, where a set has no splits

CALIBRATION = 256
"""Images, at most, whose activations say how wide the int8 ranges are."""


@dataclass(frozen=True)
class Parts:
    """A data set in three parts; the last two may be the same.

    `learn`: what training sees.
    `choose`: what the best of all epochs is chosen by.
    `report`: what the final figures are from.
    """

    learn: Dataset
    choose: Dataset
    report: Dataset


def divide_images(dataset: Dataset) -> Parts:
    """Divide the images of every class: for learning to classify.

    By the splits of the set, where they divide images: train, val, test; one of the last two may
    be missing and is then replaced by the other.  Else every fifth image of a class is held out
    for both, among those of the train classes if the splits divide the classes.

    Raises `InputError` if nothing is left for a part.
    """
    learn = _in_split(dataset, "train")
    classes = [c for i, c in enumerate(dataset.classes) if (dataset.labels[learn] == i).any()]
    known = np.isin(np.array(dataset.classes)[dataset.labels], classes)
    held = [keep for name in ("val", "test") if (keep := _in_split(dataset, name) & known).any()]
    if dataset.split is None or not held:
        last = np.zeros(len(dataset), np.bool_)
        for label in np.unique(dataset.labels[learn]):
            last[np.flatnonzero(learn & (dataset.labels == label))[_HELD_OUT - 1 :: _HELD_OUT]] = 1
        learn, held = learn & ~last, [last]
    parts = [_only(dataset, keep, classes) for keep in (learn, held[0], held[-1])]
    if not all(map(len, parts)):
        raise InputError(
            f"{dataset.name}: needs images to learn from and others to test on; "
            f"give at least {_HELD_OUT} images a class, or splits"
        )
    return Parts(*parts)


def divide_classes(dataset: Dataset, ways: int, shots: int, other: Dataset | None = None) -> Parts:
    """Divide the classes: for learning to learn.

    By the splits of the set, where they divide classes: train and val (test, without val).  Else
    every fifth class is held out.  With another set `other` no class is: it has those to choose by.

    Raises `InputError` if there are fewer than `ways` classes with more than `shots` images in a
    part.
    """
    labels = range(len(dataset.classes))
    of_split = {
        name: {int(c) for c in dataset.labels[_in_split(dataset, name)]}
        for name in ("train", "val", "test")
    }
    learn = of_split["train"]
    choose = of_split["val"] or of_split["test"]
    if dataset.split is None or not choose or learn & choose:
        learn, choose = set(labels), set()
        if other is None:
            choose = set(labels[_HELD_OUT - 1 :: _HELD_OUT])
            learn -= choose
    first = _of_classes(dataset, learn)
    second = _of_classes(dataset, choose) if other is None else _of_classes(other, None)
    for part, role in ((first, "learn from"), (second, "validate with")):
        count = len(usable_classes(part, shots))
        if count < ways:
            raise InputError(
                f"{part.name}: {count} classes to {role} have more than {shots} images, "
                f"and an episode needs {ways}; use fewer ways or shots, or a larger set"
            )
    return Parts(first, second, second)


def prepared(dataset: Dataset, preprocess: Preprocess, most: int | None = None) -> NDArray[np.int8]:
    """Decode the images of a set, or `most` of them evenly spaced: int8 [n, h, w, c]."""
    chosen: Iterable[int] = range(len(dataset))
    if most is not None and most < len(dataset):
        chosen = np.linspace(0, len(dataset) - 1, most).astype(int).tolist()
    return np.stack([dataset.prepared(i, preprocess) for i in chosen])


def _in_split(dataset: Dataset, name: str) -> NDArray[np.bool_]:
    """Tell which images are in a split; without splits all are for training."""
    if dataset.split is None:
        return np.full(len(dataset), name == "train")
    return np.array(dataset.split) == name


def _of_classes(dataset: Dataset, labels: set[int] | None) -> Dataset:
    """Return the images of some classes, or of all; splits are gone."""
    chosen = range(len(dataset.classes)) if labels is None else sorted(labels)
    keep = np.isin(dataset.labels, list(chosen))
    return _only(dataset, keep, [dataset.classes[c] for c in chosen])


def _only(dataset: Dataset, keep: NDArray[np.bool_], classes: list[str]) -> Dataset:
    """Return some images of a set, as a set of these classes without splits."""
    place = {name: i for i, name in enumerate(classes)}
    index = np.flatnonzero(keep)
    group = dict(zip(dataset.classes, dataset.groups or (), strict=False))
    return Dataset(
        name=dataset.name,
        classes=tuple(classes),
        images=tuple(dataset.images[i] for i in index),
        image_names=tuple(dataset.image_names[i] for i in index),
        labels=np.array([place[dataset.classes[dataset.labels[i]]] for i in index], np.int64),
        groups=tuple(group[name] for name in classes) if group else None,
    )
