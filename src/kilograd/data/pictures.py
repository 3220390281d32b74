"""Samples without labels: files of images or arrays, and folders of them at any depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kilograd.data.folders import ARRAY_SUFFIXES, IMAGE_SUFFIXES, walk
from kilograd.data.listed import check_count
from kilograd.data.npz import NPZ_SUFFIX, npz_samples
from kilograd.data.pixels import Sample, decoded, prepare
from kilograd.errors import InputError
from kilograd.frontend import Preprocess
from kilograd.reading import there


@dataclass(frozen=True)
class Picture:
    """A sample as network input, int8 [h, w, c]; `None`, and why, where it cannot be read."""

    name: str
    image: NDArray[np.int8] | None
    why: str = ""


def picture_files(places: Iterable[Path]) -> tuple[Path, ...]:
    """Return files as they are given, and the samples in folders, sorted by path; each once.

    Of a folder they are its images, or its arrays (.npy) if it holds no image.  Hidden files, what
    systems leave behind, and files with other suffixes are passed over in folders.  Raises
    `InputError` for a place that is not there, a folder without samples, and more of them than a
    set may have.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not there(place):
            raise InputError(f"{place}: no such file or folder; give images, or folders of them")
        files = _images(place) if place.is_dir() else [place]
        if not files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES | ARRAY_SUFFIXES))
            raise InputError(f"{place}: holds no image; give a folder of files {suffixes}")
        found.update(dict.fromkeys(files))
        check_count(len(found), place)
    if not found:
        raise InputError("no image is given; give images, or folders of them")
    return tuple(found)


def _images(folder: Path) -> list[Path]:
    files = sorted(file for file in walk(folder) if file.is_file())
    of_kind = (
        [f for f in files if f.suffix.lower() in x] for x in (IMAGE_SUFFIXES, ARRAY_SUFFIXES)
    )
    return next(filter(None, of_kind), [])


def read_pictures(file: Path, preprocess: Preprocess) -> Iterator[Picture]:
    """Decode the samples of a file one by one, as a network takes them: one, or those of a .npz."""
    if file.suffix.lower() != NPZ_SUFFIX:
        yield _picture(str(file), partial(decoded, file), preprocess)
        return
    try:
        name, samples = npz_samples(file)
    except InputError as e:
        yield Picture(str(file), None, str(e).removeprefix(f"{file}: "))
        return
    for row, sample in enumerate(samples):
        yield _picture(f"{file} {name}[{row}]", partial(np.asarray, sample), preprocess)


def _picture(name: str, fetch: Callable[[], Sample], preprocess: Preprocess) -> Picture:
    try:
        return Picture(name, prepare(fetch(), preprocess))
    except Exception as e:  # noqa: BLE001 as in `readable`: a decoder may raise anything
        return Picture(name, None, str(e).removeprefix(f"{name}: ") or type(e).__name__)
