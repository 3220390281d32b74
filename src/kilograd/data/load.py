"""Labelled image sets from folders and Parquet files, and how an image becomes network input.

Images stay encoded and are decoded when asked for, so that a set of photographs costs its size on
disk and not its size in pixels. Every image is decoded once while loading all the same: a broken
one must be named before training starts, not found in the middle of it.
"""

import csv
import io
import math
import operator
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, SupportsIndex, TypeVar, cast

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from PIL import Image

from kilograd import limits
from kilograd.data import pixels
from kilograd.data.pixels import Source, checked, readable
from kilograd.errors import InputError, shown
from kilograd.names import distinct, label
from kilograd.reading import (
    decoded,
    leads_inside,
    parse_json,
    read_json,
    read_text,
    relative,
    there,
)

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
)

_SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}

_T = TypeVar("_T")

_LAYOUT = "give a folder with one sub-folder of images per class, or a .parquet file"


class Pairs(Protocol):
    """A data set of torchvision or Hugging Face, or a list: item i is an image and its label."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> object: ...


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled set of n images, each decoded when it is asked for.

    Make one with `load_dataset` or `wrap_dataset`. Compared by identity: two sets are the same
    only if they are one.

    `name`: folder name, or file name without `.parquet`.
    `classes`: class names without repeats; a label is an index into it.
    `images`: encoded bytes, the file to read them from, or a function that fetches the image [n].
    `image_names`: what messages call the images: a path inside the folder, or a Parquet row [n].
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


def load_dataset(path: str | Path) -> Dataset:
    """Load a folder of class folders, a Parquet file, miniImageNet, or a set of Meta-Dataset.

    A folder: each sub-folder is a class, and its images are all files in it with a suffix of
    `IMAGE_SUFFIXES`, sub-folders included. Hidden files and folders, what systems leave behind
    (`__MACOSX`), and files with other suffixes are passed over. A class folder behind a link that
    leads out is refused; an image behind such a link is left out like one that is damaged. If the
    sub-folders are called train, val and test (or train alone), they are splits and the class
    folders lie inside them.

    A Parquet file (needs `pip install kilograd[parquet]`): column `image` (encoded bytes, or a
    struct of `bytes` and `path` as Hugging Face writes it), with `label` (a number or a name),
    `class_name`, or both, and optionally `split`. Class names come from the list in the file
    metadata (key `dataset`, or Hugging Face's own), else from the columns.

    miniImageNet: a folder with `images` and any of `train.csv`, `val.csv` and `test.csv` (columns
    `filename` and `label`). An image lies in `images`, or there in a folder named by its label.

    Meta-Dataset as HDF5 (needs `pip install kilograd[h5]`): a folder with `dataset_spec.json` and,
    for class number c, a file `c.h5`, in which `j/image` is image j, uint8 [h, w, 3] or [h, w].
    Flat specifications, and those with two levels (Omniglot), whose upper level makes groups.
    Shape and type of every image are looked at, its pixels are not.

    Images that cannot be decoded are left out and named in `Dataset.skipped`: report them.
    Order, and so every index, depends on the names alone and not on the file system.

    Raises `InputError` if the path is missing, is neither, cannot be read, or holds no class, no
    image, or a class folder without an image; if a list of images contradicts itself; or if pyarrow
    or h5py is needed and not installed.
    """
    path = Path(path)
    if not there(path):
        raise InputError(f"{path}: no such file or folder; {_LAYOUT}")
    if (path / _SPECIFICATION).is_file():
        return _load_meta_dataset(path)
    if (path / "images").is_dir() and any((path / name).is_file() for name in _LISTS):
        return _load_lists(path)
    if path.is_dir():
        return _load_folder(path)
    if path.suffix.lower() != ".parquet":
        raise InputError(f"{path}: neither a folder nor a .parquet file; {_LAYOUT}")
    return _load_parquet(path)


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
    classes = _class_names(classes, name)
    try:
        count = len(pairs)
    except TypeError as error:
        raise InputError(
            f"{name}: {type(pairs).__name__} has no length; give a set whose items can be counted"
        ) from error
    listed = [_wrapped(name, classes, pairs, index) for index in range(count)]
    if all(one.source is None for one in listed):
        raise InputError(f"{name}: none of its {count} items can be fetched; see whether [0] can")
    return _assemble(name, Path(name), classes, listed)


@dataclass(frozen=True)
class _Listed:
    """An image as listed, before anyone has tried to decode it."""

    name: str
    source: Source | None
    """None if the file lists the image but does not hold it."""
    label: int
    split: str | None


def _class_names(names: Iterable[str], where: object) -> tuple[str, ...]:
    """Return the names of classes in Unicode's form C; `InputError` where two are the same."""
    found = tuple(label(name, f"{where}: the name of a class") for name in names)
    if len(found) > limits.CLASSES:
        raise InputError(f"{where}: has {len(found):,} classes; {limits.CLASSES:,} are the most")
    return distinct(found, str(where), "classes")


def _check_count(count: int, where: object) -> None:
    if count > limits.IMAGES:
        raise InputError(f"{where}: has more images than {limits.IMAGES:,}, the most of a set")


def _assemble(name: str, where: Path, classes: Sequence[str], listed: Sequence[_Listed]) -> Dataset:
    """Keep the images that can be decoded, name the others."""
    name = label(name, f"{where}: the name of the set")
    kept: list[_Listed] = []
    sources: list[Source] = []
    skipped: list[str] = []
    for one in listed:
        # A function was tried by whoever made it.
        if one.source is not None and (callable(one.source) or readable(one.source)):
            kept.append(one)
            sources.append(one.source)
        else:
            skipped.append(shown(one.name))
    if not kept:
        first = f", the first is {skipped[0]}" if skipped else ""
        raise InputError(
            f"{where}: no image in it can be read ({len(listed)} tried{first}); {_LAYOUT}"
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


def _groups(classes: Sequence[str]) -> tuple[str, ...] | None:
    groups = tuple(name.rpartition("/")[0] for name in classes)
    if not all(groups) or min(Counter(groups).values()) < 2:
        return None
    return groups


# -- folders --------------------------------------------------------------------------------------


def _load_folder(root: Path) -> Dataset:
    folders = _sub_folders(root, root)
    if not folders:
        held = "it holds no class folders" if _entries(root) else "it is empty"
        raise InputError(f"{root}: {held}; {_LAYOUT}")
    # Folders called train and test are splits: taken for classes they would give a set that
    # trains without complaint and learns to tell the training photographs from the test ones.
    is_split = {name.lower() for name in folders} <= _SPLITS.keys()
    if is_split and any(_sub_folders(folder, root) for folder in folders.values()):
        return _load_split_folders(root, folders)
    images = _Folder(root)
    listed = [
        image
        for number, folder in enumerate(folders.values())
        for image in images.listed(folder, number, None)
    ]
    return _assemble(_name(root), root, tuple(folders), listed)


def _load_split_folders(root: Path, splits: Mapping[str, Path]) -> Dataset:
    for folder in splits.values():
        if any(file.suffix.lower() in IMAGE_SUFFIXES for file in _entries(folder)):
            raise InputError(
                f"{folder}: holds images outside class folders; move each into its class folder"
            )
    inner = {split: _sub_folders(folder, root) for split, folder in splits.items()}
    classes = sorted({name for folders in inner.values() for name in folders})
    number = {name: i for i, name in enumerate(classes)}
    images = _Folder(root)
    listed = [
        image
        for split, folders in inner.items()
        for name, folder in folders.items()
        for image in images.listed(folder, number[name], _SPLITS[split.lower()])
    ]
    return _assemble(_name(root), root, classes, listed)


def _name(root: Path) -> str:
    return root.resolve().name or str(root)


_LITTER = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
"""What systems and archives leave beside the data; hidden files are more of it."""


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _LITTER


def _entries(folder: Path) -> list[Path]:
    """List what is in a folder and is no litter, sorted by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if _is_data(entry.name))
    except OSError as error:
        raise _unreadable_folder(error) from error


def _sub_folders(folder: Path, root: Path) -> dict[str, Path]:
    """Return the folders in a folder by their names in form C, sorted by those."""
    found = [entry for entry in _entries(folder) if entry.is_dir()]
    for entry in found:
        if not leads_inside(root, entry):
            raise InputError(
                f"{entry}: is a link that leads out of {root}; put a copy of the folder there"
            )
    names = _class_names((entry.name for entry in found), folder)
    return dict(sorted(zip(names, found, strict=True)))


class _Folder:
    """Lists the images of a set, and counts them while it does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0

    def listed(self, folder: Path, number: int, split: str | None) -> list[_Listed]:
        """List the images of a class folder, its sub-folders included, sorted by path."""
        files = sorted(self._files(folder))
        if not files:
            raise InputError(
                f"{folder}: a class folder without images; put some in, move it elsewhere, or "
                f"{_LAYOUT}"
            )
        return [
            _Listed(file.relative_to(self._root).as_posix(), self._source(file), number, split)
            for file in files
        ]

    def _files(self, folder: Path) -> Iterator[Path]:
        for file in _walk(folder):
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                self._count += 1
                _check_count(self._count, self._root)
                yield file

    def _source(self, file: Path) -> Path | None:
        return None if file.is_symlink() and not leads_inside(self._root, file) else file


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        # os.walk passes over a folder that it may not open, and the class would silently shrink.
        raise _unreadable_folder(error) from error

    # Links to folders are not followed: one that points upwards would never end.
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = filter(_is_data, folders)
        yield from (Path(parent, name) for name in files if _is_data(name))


def _unreadable_folder(error: OSError) -> InputError:
    return InputError(f"{error.filename}: cannot be listed ({error.strerror}); check its rights")


# -- Parquet --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """The columns of a Parquet file that matter here, as Python values, one per row."""

    images: list[object]
    labels: list[object] | None
    class_names: list[object] | None
    splits: list[object] | None
    declared: tuple[str, ...] | None
    """The class list of the file metadata."""


def _load_parquet(path: Path) -> Dataset:
    columns = _read_columns(path)
    if not columns.images:
        raise InputError(f"{path}: the file has no rows; {_LAYOUT}")
    classes, labels = _classes_and_labels(path, columns)
    listed = []
    for row, (value, number) in enumerate(zip(columns.images, labels, strict=True)):
        name, data = _parquet_image(path, row, value)
        split = None if columns.splits is None else _split(path, row, columns.splits[row])
        listed.append(_Listed(name, data, number, split))
    return _assemble(path.stem, path, classes, listed)


def _read_columns(path: Path) -> _Columns:
    try:
        # Not at the top: pyarrow is larger than everything else together, and only this needs it.
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(
            f"{path}: reading Parquet files needs pyarrow; pip install 'kilograd[parquet]'"
        ) from error
    if not path.is_file():
        raise InputError(f"{path}: is no regular file; {_LAYOUT}")
    try:
        with parquet.ParquetFile(path) as file:
            wanted = _wanted_columns(path, file)
            found = _read_rows(path, file, wanted)
            metadata = file.schema_arrow.metadata or {}
    except (OSError, ArrowException, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as Parquet ({reason}); {_LAYOUT}") from error
    return _Columns(
        images=found["image"],
        labels=found.get("label"),
        class_names=found.get("class_name"),
        splits=found.get("split"),
        declared=_declared_classes(path, metadata),
    )


def _wanted_columns(path: Path, file: Any) -> list[str]:  # noqa: ANN401 pyarrow is untyped here
    """Return the columns to read, after a look at names, types and sizes in the file's footer."""
    from pyarrow import types

    schema, about = file.schema_arrow, file.metadata
    present = tuple(cast("list[str]", schema.names))
    if "image" not in present or not {"label", "class_name"} & set(present):
        raise InputError(
            f"{path}: needs a column 'image' and a column 'label' or 'class_name'; "
            f"it has {', '.join(present) or 'none'}"
        )
    _check_count(about.num_rows, path)
    wanted: list[str] = [n for n in ("image", "label", "class_name", "split") if n in present]
    for name in wanted:
        if present.count(name) > 1:
            raise InputError(f"{path}: has {present.count(name)} columns {name!r}; keep one")
        kind = schema.field(name).type
        if name != "image" and types.is_nested(kind):
            raise InputError(f"{path}: column {name!r} holds {kind}; write text or integers")
    # Of the groups, not of their columns: a look at a damaged column ends the process (pyarrow 26).
    # This is what the file says; `_read_rows` counts what comes.
    size = sum(about.row_group(g).total_byte_size for g in range(about.num_row_groups))
    _check_unpacked(size, path)
    return wanted


def _check_unpacked(size: int, path: Path) -> None:
    if size > limits.PARQUET_BYTES:
        raise InputError(
            f"{path}: holds {size:,} bytes when unpacked; {limits.PARQUET_BYTES:,} are the most"
        )


_ROWS = 4
"""Rows unpacked at once: as many images of the largest size are half a gigabyte."""


def _read_rows(
    path: Path,
    file: Any,  # noqa: ANN401 pyarrow is untyped here
    wanted: Sequence[str],
) -> dict[str, list[object]]:
    """Return columns as Python values, read a few rows at a time and counted as they come."""
    found: dict[str, list[object]] = {name: [] for name in wanted}
    values = _Values(path)
    for group in range(file.num_row_groups):
        # Group by group: a batch would else be filled up from the next ones.
        for batch in file.iter_batches(
            batch_size=_ROWS, row_groups=[group], columns=wanted, use_threads=False
        ):
            values.count(batch.nbytes)
            for name in wanted:
                found[name] += values.of(batch.column(name))
    return found


class _Values:
    """Turns arrays of a Parquet file into Python values; what is said twice is in memory once.

    A file of a kilobyte can say of 300 rows that each holds the same megabyte, and another can
    say in its footer that it holds a byte.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[bytes | str, bytes | str] = {}
        self._size = 0

    def count(self, size: int) -> None:
        """Refuse the file if it is more than the limit with so many bytes more."""
        self._size += size
        _check_unpacked(self._size, self._path)

    def of(self, array: Any) -> list[object]:  # noqa: ANN401 pyarrow is untyped here
        """Return an array as Python values; `None` for one larger than an image may be."""
        from pyarrow import types

        if types.is_dictionary(array.type):
            array.validate(full=True)  # a damaged index may be negative, or too large
            array = array.dictionary_decode()
        if types.is_struct(array.type):
            names = [field_.name for field_ in array.type]
            parts = zip(*map(self.of, array.flatten()), strict=True)
            present = array.is_valid().to_pylist()
            return [
                dict(zip(names, row, strict=True)) if here else None
                for row, here in zip(parts, present, strict=True)
            ]
        return [self._value(scalar) for scalar in array]

    def _value(self, scalar: Any) -> object:  # noqa: ANN401 pyarrow is untyped here
        buffer = scalar.as_buffer() if hasattr(scalar, "as_buffer") else None
        if buffer is not None and buffer.size > limits.IMAGE_BYTES:
            return None
        value = scalar.as_py()
        return self._known.setdefault(value, value) if isinstance(value, bytes | str) else value


def _declared_classes(path: Path, metadata: Mapping[bytes, bytes]) -> tuple[str, ...] | None:
    names: list[Any] | None = None
    match _json(metadata.get(b"dataset")), _json(metadata.get(b"huggingface")):
        case {"classes": [*listed]}, _:
            names = listed
        case _, {"info": {"features": {"label": {"names": [*listed]}}}}:
            names = listed
    if names is None:
        return None
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: the class list in its metadata must be names without repeats")
    return _class_names(names, f"{path}: the class list in its metadata")


def _json(text: bytes | None) -> object:
    try:
        return parse_json(decoded(text or b"null", ""), object, "")
    except InputError:
        # Somebody else's metadata under the same key: the columns alone must do.
        return None


def _classes_and_labels(path: Path, columns: _Columns) -> tuple[tuple[str, ...], list[int]]:
    """Return the class names and the label of each row as an index into them."""
    for column, values in (("label", columns.labels), ("class_name", columns.class_names)):
        if values is not None and None in values:
            raise InputError(
                f"{path}: row {values.index(None)} has no {column}; fill it in or remove the row"
            )
    names = None if columns.class_names is None else _strings(path, columns.class_names)
    if columns.labels is None or any(isinstance(label, str) for label in columns.labels):
        names = names if columns.labels is None else _strings(path, columns.labels)
        return _indexed(sorted(set(names or ())), names or ())
    numbers = _integers(path, columns.labels)
    if columns.declared is not None:
        classes = dict(enumerate(columns.declared))
        _check_range(path, numbers, len(classes))
    elif names is not None:
        classes = dict(zip(numbers, names, strict=True))
    else:
        classes = {number: str(number) for number in numbers}
    for row, (number, name) in enumerate(zip(numbers, names or (), strict=False)):
        if classes[number] != name:
            raise InputError(
                f"{path}: row {row} has class_name {name!r}, but label {number} is "
                f"{classes[number]!r} elsewhere; correct one of the two columns"
            )
    ordered = [classes[number] for number in sorted(classes)]
    if len(set(ordered)) != len(ordered):
        raise InputError(f"{path}: two labels share one class_name; give each label its own")
    _class_names(ordered, path)
    return _indexed(ordered, [classes[number] for number in numbers])


def _indexed(classes: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    index = {name: label for label, name in enumerate(classes)}
    return tuple(classes), [index[name] for name in names]


def _strings(path: Path, values: Sequence[object]) -> list[str]:
    """Return class names in form C."""
    strings = [value for value in values if isinstance(value, str)]
    if len(strings) != len(values):
        raise InputError(
            f"{path}: a class name is not text; write class names as text, or labels as integers"
        )
    known = list(dict.fromkeys(strings))
    names = dict(zip(known, _class_names(known, path), strict=True))
    return [names[value] for value in strings]


def _integers(path: Path, values: Sequence[object]) -> list[int]:
    integers = [value for value in values if type(value) is int]
    if len(integers) != len(values):
        raise InputError(
            f"{path}: a label is neither an integer nor text; write labels as one of the two"
        )
    return integers


def _check_range(path: Path, labels: Sequence[int], classes: int) -> None:
    for row, number in enumerate(labels):
        if not 0 <= number < classes:
            raise InputError(
                f"{path}: row {row} has label {number}, but the class list has {classes} names"
            )


def _parquet_image(path: Path, row: int, value: object) -> tuple[str, bytes | None]:
    match value:
        case bytes():
            return f"row {row}", value
        case {"bytes": bytes() | None as data, **rest}:
            inner = rest.get("path")
            return f"row {row} ({str(inner)[:80]})" if inner else f"row {row}", data
        case None:
            return f"row {row}", None
    raise InputError(
        f"{path}: column 'image' must hold encoded image bytes; row {row} is no such thing"
    )


def _split(path: Path, row: int, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}: row {row} has no split; fill the column in or remove it")
    return _SPLITS.get(value.lower()) or label(value, f"{path}: the split of row {row}")


# -- miniImageNet ---------------------------------------------------------------------------------

_LISTS = {f"{split}.csv": split for split in ("train", "val", "test")}


def _load_lists(root: Path) -> Dataset:
    rows = [
        (split, filename, folder)
        for name, split in _LISTS.items()
        if (root / name).is_file()
        for filename, folder in _read_list(root / name)
    ]
    most = Counter(filename for _, filename, _ in rows).most_common(1)
    if most and most[0][1] > 1:
        raise InputError(
            f"{root}: the lists name {most[0][0]} {most[0][1]} times; an image may be listed once"
        )
    _check_count(len(rows), root)
    folders = sorted({folder for _, _, folder in rows})
    names = dict(zip(folders, _class_names(folders, root), strict=True))
    classes = sorted(names.values())
    number = {name: i for i, name in enumerate(classes)}
    listed = [
        _Listed(filename, _listed_file(root, filename, folder), number[names[folder]], split)
        for split, filename, folder in rows
    ]
    return _assemble(_name(root), root, classes, listed)


def _read_list(path: Path) -> list[tuple[str, str]]:
    """Return filename and label of each row."""
    text = read_text(path, limits.LIST_BYTES)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(reader)
        columns = reader.fieldnames or ()
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error
    if not {"filename", "label"} <= set(columns):
        raise InputError(
            f"{path}: needs the columns 'filename' and 'label'; "
            f"its first line has {', '.join(columns) or 'none'}"
        )
    for number, row in enumerate(rows, start=1):
        if not (row["filename"] and row["label"]):
            raise InputError(f"{path}: row {number} has no filename or no label; fill it in")
        if len(row["filename"]) > limits.PATH_LENGTH:
            raise InputError(
                f"{path}: row {number} has a filename of {len(row['filename'])} characters; "
                f"{limits.PATH_LENGTH} are the most"
            )
    return [(row["filename"], row["label"]) for row in rows]


def _listed_file(root: Path, filename: str, folder: str) -> Path | None:
    """Return the file of an image; `None` where there is none, or a link leads out of the set."""
    for name in (filename, f"{folder}/{filename}"):
        file = root / "images" / relative(name, f"{root}: filename")
        if there(file) and file.is_file():
            return file if leads_inside(root, file) else None
    return None


# -- Meta-Dataset ---------------------------------------------------------------------------------

_SPECIFICATION = "dataset_spec.json"


def _load_meta_dataset(root: Path) -> Dataset:
    try:
        # As large as pyarrow, and needed as seldom.
        import h5py
    except ImportError as error:
        raise InputError(
            f"{root}: reading HDF5 files needs h5py; pip install 'kilograd[h5]'"
        ) from error
    name, classes = _read_specification(root / _SPECIFICATION)
    listed = []
    for number, one in enumerate(classes):
        path = root / f"{number}.h5"
        if not (path.is_file() and leads_inside(root, path)):
            raise InputError(
                f"{path}: the images of class {one.name!r} cannot be read as HDF5 (no such file in "
                f"{root}); {_SPECIFICATION} needs one file for each class"
            )
        try:
            with h5py.File(path, "r") as file:
                there_ = set(file)
                for j in range(one.images):
                    key = f"{j}/image"
                    held = str(j) in there_ and _record(file, key) is not None
                    source = partial(_stored, path, key) if held else None
                    listed.append(_Listed(f"{path.name}/{j}", source, number, one.split))
        except Exception as error:
            # As in `readable`: for damaged data the library may raise anything (KeyError seen).
            raise InputError(
                f"{path}: the images of class {one.name!r} cannot be read as HDF5 ({error}); "
                f"{_SPECIFICATION} needs one file for each class"
            ) from error
    return _assemble(name, root, [one.name for one in classes], listed)


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
    names = _class_names((f"{u}{name}" for u, name in zip(upper, own, strict=True)), path)
    counts = [_entry(path, "images_per_class", found.images_per_class, c) for c in range(len(held))]
    _check_count(sum(counts), path)
    return found.name, list(map(_SpecifiedClass, names, held, counts))


def _entry(path: Path, field_: str, table: Mapping[str, _T], number: int) -> _T:
    """Return what a field says of a class or a group of classes."""
    if str(number) not in table:
        raise InputError(
            f"{path}: {field_} says nothing of number {number}; give the specification "
            f"that was made with the files"
        )
    return table[str(number)]


def _holds(record: Any) -> bool:  # noqa: ANN401
    """Tell whether an array, or a record of an HDF5 file, is an image."""
    shape: tuple[int, ...] = getattr(record, "shape", ()) or ()
    dtype = getattr(record, "dtype", None)
    grey_or_colour = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    few = grey_or_colour and shape[0] * shape[1] <= limits.PIXELS
    return dtype == np.uint8 and few and min(shape) > 0


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
        if not (isinstance(held, h5py.Dataset) and _holds(held)):
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


# -- other libraries ------------------------------------------------------------------------------


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


def _wrapped(name: str, classes: Sequence[str], pairs: Pairs, index: int) -> _Listed:
    called = f"item {index}"
    try:
        image, label = _item(name, pairs, index)
        if isinstance(image, Image.Image):
            checked(image)
    except InputError:
        raise
    except Exception:  # noqa: BLE001
        # As in `readable`: the library decodes, and a decoder may raise anything.
        return _Listed(called, None, 0, split=None)
    try:
        number = operator.index(cast("SupportsIndex", label))
    except TypeError as error:
        raise InputError(
            f"{name}: the label of item {index} is {label!r}; it must be an index into the classes"
        ) from error
    if not 0 <= number < len(classes):
        raise InputError(f"{name}: item {index} has label {number}, of {len(classes)} classes")
    _as_image(name, index, image)
    return _Listed(called, partial(_item_image, name, pairs, index), number, split=None)


def _item_image(name: str, pairs: Pairs, index: int) -> Image.Image:
    image, _ = _item(name, pairs, index)
    return _as_image(name, index, image)


def _as_image(name: str, index: int, image: object) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and _holds(image):
        return Image.fromarray(image)
    raise InputError(
        f"{name}: the image of item {index} is of type {type(image).__name__}; it must be an image "
        f"of Pillow or a uint8 array [h, w] or [h, w, 3], so leave out what transforms it"
    )
