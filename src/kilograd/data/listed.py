"""What every reader hands over: images as listed, and what they make together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kilograd import limits
from kilograd.data.arrays import check_alike, is_stored_array, unpacked
from kilograd.data.dataset import Dataset
from kilograd.data.pixels import Source, readable
from kilograd.errors import InputError, shown
from kilograd.extras import Extra
from kilograd.ir import Array
from kilograd.names import distinct, label
from kilograd.reading import read_bytes

SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
"""What the splits of a set are called, and what they are called here."""

LAYOUT = (
    "give a folder with one sub-folder of images per class (or of .npy arrays), a .parquet or an "
    ".npz file"
)


@dataclass(frozen=True)
class Listed:
    """An image as listed, before anyone has tried to decode it."""

    name: str
    source: Source | None
    """None if the file lists the image but does not hold it."""
    label: int
    split: str | None


def class_names(names: Iterable[str], where: object) -> tuple[str, ...]:
    """Return the names of classes in Unicode's form C; `InputError` where two are the same."""
    found = tuple(label(name, f"{where}: the name of a class") for name in names)
    if len(found) > limits.CLASSES:
        raise InputError(f"{where}: has {len(found):,} classes; {limits.CLASSES:,} are the most")
    return distinct(found, str(where), "classes")


def check_count(count: int, where: object) -> None:
    """Raise `InputError` for more images than a set may have."""
    if count > limits.IMAGES:
        raise InputError(f"{where}: has more images than {limits.IMAGES:,}, the most of a set")


Look = Callable[[Listed, int, int], bool]
"""Looks at an image, number so much of so many, and tells whether it can be read."""


def look_once(one: Listed, at: int, of: int) -> bool:
    """Tell whether an image can be decoded; a function was tried by whoever made it."""
    source = one.source
    return source is not None and (callable(source) or is_stored_array(source) or readable(source))


def assemble(
    name: str,
    where: Path,
    classes: Sequence[str],
    listed: Sequence[Listed],
    look: Look = look_once,
) -> Dataset:
    """Keep the images that can be decoded, name the others."""
    name = label(name, f"{where}: the name of the set")
    _check_arrays(where, listed)
    kept: list[Listed] = []
    sources: list[Source] = []
    skipped: list[str] = []
    for at, one in enumerate(listed):
        if look(one, at, len(listed)) and one.source is not None:
            kept.append(one)
            sources.append(one.source)
        else:
            skipped.append(shown(one.name))
    if not kept:
        first = f", the first is {skipped[0]}" if skipped else ""
        raise InputError(
            f"{where}: no image in it can be read ({len(listed)} tried{first}); "
            f"{what_reads(skipped) or LAYOUT}"
        )
    split = tuple(one.split for one in kept if one.split is not None)
    return Dataset(
        name=name,
        classes=tuple(classes),
        images=tuple(sources),
        image_names=tuple(shown(one.name) for one in kept),
        labels=np.array([one.label for one in kept], dtype=np.int64),
        split=split or None,
        groups=_groups(classes),
        skipped=tuple(skipped),
    )


def _check_arrays(where: Path, listed: Sequence[Listed]) -> None:
    """Raise `InputError` for arrays that are no samples, that differ in shape, or beside images."""
    arrays = [one for one in listed if is_stored_array(one.source)]
    others = [one for one in listed if one.source is not None and not is_stored_array(one.source)]
    if arrays and others:
        raise InputError(
            f"{where}: holds arrays, as {arrays[0].name}, and images, as {others[0].name}; keep "
            "one kind"
        )
    check_alike((f"{where}: sample {one.name}", partial(_array, one)) for one in arrays)


def _array(one: Listed) -> Array:
    data = (
        read_bytes(one.source, limits.IMAGE_BYTES) if isinstance(one.source, Path) else one.source
    )
    assert isinstance(data, bytes)  # noqa: S101 as `is_stored_array` said
    return unpacked(data)


def _groups(classes: Sequence[str]) -> tuple[str, ...] | None:
    groups = tuple(name.rpartition("/")[0] for name in classes)
    if not all(groups) or min(Counter(groups).values()) < 2:
        return None
    return groups


def folder_name(root: Path) -> str:
    """Return what to call the set in a folder."""
    return root.resolve().name or str(root)


def what_reads(skipped: Sequence[str]) -> str | None:
    """Return how images of phones among those that could not be read become readable."""
    phone = sum(name.lower().endswith((".heic", ".heif", ".avif")) for name in skipped)
    if not phone or not Extra.HEIC.missing:
        return None
    return f"{phone} of them are HEIC or AVIF: {Extra.HEIC.install}"
