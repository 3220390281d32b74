"""Sets of Meta-Dataset: a specification in JSON, and a file of HDF5 for each class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from PIL import Image

from kilograd import limits
from kilograd.data.dataset import Dataset
from kilograd.data.listed import Listed, Look, assemble, check_count, class_names, look_once
from kilograd.data.pixels import as_image, holds_image
from kilograd.errors import InputError
from kilograd.extras import Extra
from kilograd.reading import leads_inside, read_json

SPECIFICATION = "dataset_spec.json"

_T = TypeVar("_T")


def load_meta_dataset(root: Path, look: Look = look_once) -> Dataset:
    """Load a folder with a specification; `InputError` as `load_dataset` says."""
    Extra.H5.need(f"{root}: reading HDF5 files")
    name, classes = _read_specification(root / SPECIFICATION)
    listed = [
        image
        for number, one in enumerate(classes)
        for image in _images_of_class(root / f"{number}.h5", number, one)
    ]
    return assemble(name, root, [one.name for one in classes], listed, look)


def _images_of_class(path: Path, number: int, one: _SpecifiedClass) -> list[Listed]:
    import h5py

    if not (path.is_file() and leads_inside(path.parent, path)):
        raise _unreadable(path, one, f"no such file in {path.parent}")
    listed = []
    try:
        with h5py.File(path, "r") as file:
            held = set(file)
            for j in range(one.images):
                key = f"{j}/image"
                found = str(j) in held and _record(file, key) is not None
                source = partial(_stored, path, key) if found else None
                listed.append(Listed(f"{path.name}/{j}", source, number, one.split))
    except Exception as error:
        # As in `readable`: for damaged data the library may raise anything (KeyError seen).
        raise _unreadable(path, one, error) from error
    return listed


def _unreadable(path: Path, one: _SpecifiedClass, reason: object) -> InputError:
    return InputError(
        f"{path}: the images of class {one.name!r} cannot be read as HDF5 ({reason}); "
        f"{SPECIFICATION} needs one file for each class"
    )


@dataclass(frozen=True)
class _SpecifiedClass:
    name: str
    split: str
    images: int


_Count = Annotated[int, Meta(ge=0, le=limits.IMAGES)]


_Name = str | int


class _Splits(Struct, frozen=True):
    """How many classes, or groups of classes, each split has; numbered in this order."""

    TRAIN: Annotated[int, Meta(ge=0, le=limits.CLASSES)]
    VALID: Annotated[int, Meta(ge=0, le=limits.CLASSES)]
    TEST: Annotated[int, Meta(ge=0, le=limits.CLASSES)]

    def each(self) -> list[str]:
        """Return the split of each of them."""
        counts = {"train": self.TRAIN, "val": self.VALID, "test": self.TEST}
        return [split for split, count in counts.items() for _ in range(count)]


class _Specification(Struct, frozen=True):
    name: str
    class_names: dict[str, _Name]
    images_per_class: dict[str, _Count]
    classes_per_split: _Splits | None = None
    superclasses_per_split: _Splits | None = None
    classes_per_superclass: dict[str, _Count] = {}
    superclass_names: dict[str, _Name] = {}


def _read_specification(path: Path) -> tuple[str, list[_SpecifiedClass]]:
    """Return the name of the set, and its classes by number."""
    found = read_json(path, _Specification, limits.RECORD_BYTES)
    if found.classes_per_split is not None:
        held = [("", split) for split in found.classes_per_split.each()]
    elif found.superclasses_per_split is not None:
        held = _classes_of_groups(path, found, found.superclasses_per_split.each())
    else:
        raise InputError(
            f"{path}: neither classes_per_split nor superclasses_per_split is in it; "
            f"other specifications (ImageNet's tree) are not supported"
        )
    own = _numbered(path, "class_names", found.class_names, len(held))
    names = class_names((f"{g}{name}" for (g, _), name in zip(held, own, strict=True)), path)
    counts = _numbered(path, "images_per_class", found.images_per_class, len(held))
    check_count(sum(counts), path)
    return found.name, list(map(_SpecifiedClass, names, (split for _, split in held), counts))


def _classes_of_groups(
    path: Path, found: _Specification, splits: Sequence[str]
) -> list[tuple[str, str]]:
    """Return what comes before the name of each class, and its split, from those of its group."""
    sizes = _numbered(path, "classes_per_superclass", found.classes_per_superclass, len(splits))
    if sum(sizes) > limits.CLASSES:
        raise InputError(f"{path}: has {sum(sizes):,} classes; {limits.CLASSES:,} are the most")
    names = _numbered(path, "superclass_names", found.superclass_names, len(splits))
    groups = zip(names, splits, sizes, strict=True)
    return [(f"{name}/", split) for name, split, size in groups for _ in range(size)]


def _numbered(path: Path, field: str, table: Mapping[str, _T], count: int) -> list[_T]:
    """Return what a field says of the classes, or the groups of classes, 0 to `count` - 1."""
    for number in range(count):
        if str(number) not in table:
            raise InputError(
                f"{path}: {field} says nothing of number {number}; give the specification "
                f"that was made with the files"
            )
    return [table[str(number)] for number in range(count)]


def _record(file: Any, key: str) -> Any:  # noqa: ANN401
    """Return a record that is an image in the file itself, and `None` where it is anything else.

    Other files are not opened: no external or symbolic links, no virtual data sets, no storage
    outside.  A chunk, which is unpacked whole, may not be larger than the largest image either.
    """
    import h5py

    group, name = key.split("/")
    try:
        held = file
        for part in (group, name):
            if not isinstance(held.get(part, getlink=True), h5py.HardLink):
                return None
            held = held[part]
        if not (isinstance(held, h5py.Dataset) and holds_image(held)):
            return None
        outside = held.external or held.is_virtual
        small = math.prod(held.chunks or ()) <= 3 * limits.PIXELS
    except Exception:  # noqa: BLE001
        # As in `readable`: a library decodes, and may raise anything for damaged data.
        return None
    return held if small and not outside else None


def _stored(path: Path, key: str) -> Image.Image:
    import h5py

    with h5py.File(path, "r") as file:
        record = _record(file, key)
        if record is None:
            raise ValueError(f"{key} is no image")
        return as_image(record[()])
