"""All images of all classes: which are there to learn from, and which to be tested on."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from kilograd import limits
from kilograd.data.bounds import at_most
from kilograd.data.chance import generator
from kilograd.data.dataset import Dataset
from kilograd.data.episode import Episode
from kilograd.errors import InputError, option

DEFAULT_TEST = 0.25
"""The share of each class that is tested on if nobody asks for another."""

_Chosen = NDArray[np.bool_]


def sample_whole(dataset: Dataset, *, test: float | None, seed: int, least: int = 2) -> Episode:
    """Return the task of a whole set: every class, every image, in the order of the set.

    If the set has splits that divide the images of its classes, they say what is for what: test,
    or val where there is no test, is tested on.  Otherwise a share `test` of each class is, by
    default a quarter, but no more than leave one to learn from, and at least one of two images.
    Which ones depends on their names and the seed, so that few change sides where images join.

    A class without an image to learn from is left out; one without an image to be tested on is not.

    `least`: how many classes there must be.

    Raises `InputError` for a share outside 0 ... 1, a share beside splits, fewer classes, and
    where nothing is left to be tested on.
    """
    generator(seed)
    learn, tested = sides(dataset, test, seed)
    kept = np.unique(dataset.labels[learn])
    if len(kept) < least:
        raise InputError(
            f"{dataset.name}: {len(kept)} of {len(dataset.classes)} classes "
            f"{'has' if len(kept) == 1 else 'have'} an image to learn from; a network tells "
            "classes apart, and needs two or more: add a folder of other images"
        )
    at_most(limits.WAYS, f"{dataset.name}: classes", len(kept))
    support, query = (np.flatnonzero(x & np.isin(dataset.labels, kept)) for x in (learn, tested))
    if not len(query):
        raise InputError(
            f"{dataset.name}: each class has one image, so that none is left to be tested on; "
            "add a second one to a class or more"
        )
    way = {int(label): i for i, label in enumerate(kept)}
    return Episode(
        dataset=dataset.name,
        classes=tuple(dataset.classes[label] for label in kept),
        support=tuple(map(int, _by_class(dataset, support))),
        support_labels=_ways(dataset, support, way),
        query=tuple(map(int, _by_class(dataset, query))),
        query_labels=_ways(dataset, query, way),
        seed=seed,
    )


def sides(dataset: Dataset, test: float | None, seed: int) -> tuple[_Chosen, _Chosen]:
    """Tell of each image whether it is to learn from, and whether it is to be tested on."""
    if test is not None and not 0 < test < 1:
        raise InputError(
            f"{option('test')} {test}: must be a share between 0 and 1, as 0.25 for a quarter"
        )
    if (own := _own_split(dataset)) is not None:
        if test is not None:
            raise InputError(
                f"{option('test')} {test}: {dataset.name} has a split of its own, which says what "
                "is tested on; leave the option away"
            )
        return own
    tested = np.zeros(len(dataset), np.bool_)
    for images in _each_class(dataset):
        count = round(len(images) * (DEFAULT_TEST if test is None else test))
        count = max(min(1, len(images) - 1), min(count, len(images) - 1))
        drawn = sorted(images, key=lambda i: _lot(dataset.image_names[i], seed))
        tested[drawn[:count]] = True
    return ~tested, tested


def _own_split(dataset: Dataset) -> tuple[_Chosen, _Chosen] | None:
    """Return what the splits of a set say; `None` where they do not divide images of a class."""
    if dataset.split is None:
        return None
    split = np.array(dataset.split)
    tested = split == ("test" if "test" in dataset.split else "val")
    learn = np.isin(split, ("train", "val")) & ~tested
    both = np.intersect1d(dataset.labels[learn], dataset.labels[tested])
    return (learn, tested) if len(both) else None


def _each_class(dataset: Dataset) -> list[NDArray[np.int64]]:
    """Return the images of each class that has some."""
    order = np.argsort(dataset.labels, kind="stable")
    ends = np.cumsum(np.bincount(dataset.labels, minlength=len(dataset.classes)))
    return [part for part in np.split(order, ends[:-1]) if len(part)]


def _lot(name: str, seed: int) -> bytes:
    """Return what an image draws: the same for a name and a seed, whatever else is in the set."""
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogatepass")).digest()


def _by_class(dataset: Dataset, images: NDArray[np.int64]) -> NDArray[np.int64]:
    return images[np.argsort(dataset.labels[images], kind="stable")]


def _ways(dataset: Dataset, images: NDArray[np.int64], way: dict[int, int]) -> tuple[int, ...]:
    return tuple(way[label] for label in dataset.labels[_by_class(dataset, images)].tolist())
