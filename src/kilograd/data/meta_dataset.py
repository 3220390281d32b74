"""Sets of Meta-Dataset: a specification in JSON, and a file of HDF5 for each class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct
from PIL import Image

from kilograd import limits
from kilograd.data.dataset import Dataset
from kilograd.data.listed import Listed, assemble, check_count, class_names
from kilograd.data.pixels import holds_image
from kilograd.errors import InputError
from kilograd.reading import leads_inside, read_json

SPECIFICATION = "dataset_spec.json"

_T = TypeVar("_T")


def load_meta_dataset(root: Path) -> Dataset:
    """Load a folder with a specification; `InputError` as `load_dataset` says."""
    try:
        # As large as pyarrow, and needed as seldom.
        import h5py
    except ImportError as error:
        raise InputError(
            f"{root}: reading HDF5 files needs h5py; pip install 'kilograd[h5]'"
        ) from error
    name, classes = _read_specification(root / SPECIFICATION)
    listed = []
    for number, one in enumerate(classes):
        path = root / f"{number}.h5"
        if not (path.is_file() and leads_inside(root, path)):
            raise InputError(
                f"{path}: the images of class {one.name!r} cannot be read as HDF5 (no such file in "
                f"{root}); {SPECIFICATION} needs one file for each class"
            )
        try:
            with h5py.File(path, "r") as file:
                there_ = set(file)
                for j in range(one.images):
                    key = f"{j}/image"
                    held = str(j) in there_ and _record(file, key) is not None
                    source = partial(_stored, path, key) if held else None
                    listed.append(Listed(f"{path.name}/{j}", source, number, one.split))
        except Exception as error:
            # As in `readable`: for damaged data the library may raise anything (KeyError seen).
            raise InputError(
                f"{path}: the images of class {one.name!r} cannot be read as HDF5 ({error}); "
                f"{SPECIFICATION} needs one file for each class"
            ) from error
    return assemble(name, root, [one.name for one in classes], listed)


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
        held = found.classes_per_split.each()
        upper = [""] * len(held)
    elif found.superclasses_per_split is not None:
        groups = found.superclasses_per_split.each()
        sizes = [
            _entry(path, "classes_per_superclass", found.classes_per_superclass, g)
            for g in range(len(groups))
        ]
        if sum(sizes) > limits.CLASSES:
            raise InputError(f"{path}: has {sum(sizes):,} classes; {limits.CLASSES:,} are the most")
        above = [
            _entry(path, "superclass_names", found.superclass_names, g) for g in range(len(groups))
        ]
        held = [split for split, size in zip(groups, sizes, strict=True) for _ in range(size)]
        upper = [f"{name}/" for name, size in zip(above, sizes, strict=True) for _ in range(size)]
    else:
        raise InputError(
            f"{path}: neither classes_per_split nor superclasses_per_split is in it; "
            f"other specifications (ImageNet's tree) are not supported"
        )
    own = [_entry(path, "class_names", found.class_names, c) for c in range(len(held))]
    names = class_names((f"{u}{name}" for u, name in zip(upper, own, strict=True)), path)
    counts = [_entry(path, "images_per_class", found.images_per_class, c) for c in range(len(held))]
    check_count(sum(counts), path)
    return found.name, list(map(_SpecifiedClass, names, held, counts))


def _entry(path: Path, field_: str, table: Mapping[str, _T], number: int) -> _T:
    """Return what a field says of a class or a group of classes."""
    if str(number) not in table:
        raise InputError(
            f"{path}: {field_} says nothing of number {number}; give the specification "
            f"that was made with the files"
        )
    return table[str(number)]


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
        return Image.fromarray(record[()])
