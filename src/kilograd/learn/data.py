"""Labelled image sets from folders and Parquet files, and how an image becomes network input.

Images stay encoded and are decoded when asked for, so that a set of photographs costs its size on
disk and not its size in pixels. Every image is decoded once while loading all the same: a broken
one must be named before training starts, not found in the middle of it.
"""

import csv
import io
import json
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kilograd.errors import InputError
from kilograd.frontend import Preprocess

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
)

# Pillow guesses the format from the content. Naming the formats keeps a file called .png away from
# decoders nobody expects here, such as EPS, which starts Ghostscript.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

# What `prepare` can turn into 8 bits per channel. Float images ("F") are left out: nothing in the
# file says which value is white.
_GREY_AND_COLOUR = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
)
_16_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_MODES = frozenset(_GREY_AND_COLOUR + _16_BITS)

_SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}

_LAYOUT = "give a folder with one sub-folder of images per class, or a .parquet file"

Source = bytes | Path | Callable[[], Image.Image]
"""An image before it is decoded: encoded, in a file, or in what another library holds."""


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
            image = _opened(self.images[index])
            image.load()
        except Exception as error:
            # As in `_readable`: a decoder may raise anything.
            raise InputError(
                f"{self.name}: image {self.image_names[index]} could be read when the set was "
                f"loaded and cannot now ({error}); put it back and start again"
            ) from error
        return image


def prepare(image: Image.Image, preprocess: Preprocess) -> NDArray[np.int8]:
    """Turn an image of any mode and size into network input: int8 [size, size, channels].

    Rotated as its EXIF tag says, made RGB or grey, shorter side resized (bilinear, antialiased),
    centre-cropped, then `pixel - 128` for pixels 0..255. Rounds sizes and offsets as torchvision's
    `Resize` and `CenterCrop` do, because the networks were trained behind those.

    >>> grey = Image.new("L", (6, 4), color=200)
    >>> prepare(grey, Preprocess(size=2, resize=4, channels=1))[:, :, 0]
    array([[72, 72],
           [72, 72]], dtype=int8)
    """
    image = _shorter_side(upright(image, preprocess.channels), preprocess.resize)
    left = round((image.width - preprocess.size) / 2)
    top = round((image.height - preprocess.size) / 2)
    image = image.crop((left, top, left + preprocess.size, top + preprocess.size))
    pixels = np.asarray(image, dtype=np.int16).reshape(preprocess.size, preprocess.size, -1)
    return (pixels - 128).astype(np.int8)


def upright(image: Image.Image, channels: int) -> Image.Image:
    """Rotate an image as its EXIF tag says, and make it RGB (3 channels) or grey (1), 8 bits each.

    Of an image more than 32 times as long as wide only the middle is left.
    """
    return _without_far_ends(_to_8_bits(ImageOps.exif_transpose(image), channels))


def load_dataset(path: str | Path) -> Dataset:
    """Load a folder of class folders, a Parquet file, miniImageNet, or a set of Meta-Dataset.

    A folder: each sub-folder is a class, and its images are all files in it with a suffix of
    `IMAGE_SUFFIXES`, sub-folders included. Hidden files and folders, and files with other
    suffixes, are passed over. If the sub-folders are called train, val and test (or train alone),
    they are splits and the class folders lie inside them.

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
    if (path / _SPECIFICATION).is_file():
        return _load_meta_dataset(path)
    if (path / "images").is_dir() and any((path / name).is_file() for name in _LISTS):
        return _load_lists(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; {_LAYOUT}")
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
    if len(set(classes)) != len(classes):
        raise InputError(f"{name}: a class name repeats; give each class its own")
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


def _assemble(name: str, where: Path, classes: Sequence[str], listed: Sequence[_Listed]) -> Dataset:
    """Keep the images that can be decoded, name the others."""
    kept: list[_Listed] = []
    sources: list[Source] = []
    skipped: list[str] = []
    for one in listed:
        # A function was tried by whoever made it.
        if one.source is not None and (callable(one.source) or _readable(one.source)):
            kept.append(one)
            sources.append(one.source)
        else:
            skipped.append(one.name)
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
        image_names=tuple(one.name for one in kept),
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
    folders = _sub_folders(root)
    if not folders:
        held = "it holds no class folders" if _entries(root) else "it is empty"
        raise InputError(f"{root}: {held}; {_LAYOUT}")
    # Folders called train and test are splits: taken for classes they would give a set that
    # trains without complaint and learns to tell the training photographs from the test ones.
    is_split = {folder.name.lower() for folder in folders} <= _SPLITS.keys()
    if is_split and any(_sub_folders(folder) for folder in folders):
        return _load_split_folders(root, folders)
    classes = [folder.name for folder in folders]
    listed = [
        _Listed(file.relative_to(root).as_posix(), file, label, split=None)
        for label, folder in enumerate(folders)
        for file in _image_files(folder)
    ]
    return _assemble(_name(root), root, classes, listed)


def _load_split_folders(root: Path, splits: Sequence[Path]) -> Dataset:
    for folder in splits:
        if any(file.suffix.lower() in IMAGE_SUFFIXES for file in _entries(folder)):
            raise InputError(
                f"{folder}: holds images outside class folders; move each into its class folder"
            )
    classes = sorted({folder.name for split in splits for folder in _sub_folders(split)})
    label_of = {name: label for label, name in enumerate(classes)}
    listed = [
        _Listed(
            file.relative_to(root).as_posix(),
            file,
            label_of[folder.name],
            _SPLITS[split.name.lower()],
        )
        for split in splits
        for folder in _sub_folders(split)
        for file in _image_files(folder)
    ]
    return _assemble(_name(root), root, classes, listed)


def _name(root: Path) -> str:
    return root.resolve().name or str(root)


def _entries(folder: Path) -> list[Path]:
    """List what is in a folder and not hidden, sorted by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise _unreadable_folder(error) from error


def _sub_folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _image_files(folder: Path) -> list[Path]:
    """List the images of a class folder, those in its sub-folders included, sorted by path."""
    files = sorted(
        file for file in _walk(folder) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    if not files:
        raise InputError(
            f"{folder}: a class folder without images; put some in, move it elsewhere, or {_LAYOUT}"
        )
    return files


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        # os.walk passes over a folder that it may not open, and the class would silently shrink.
        raise _unreadable_folder(error) from error

    # Links to folders are not followed: one that points upwards would never end.
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


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
    for row, (value, label) in enumerate(zip(columns.images, labels, strict=True)):
        name, data = _parquet_image(path, row, value)
        split = None if columns.splits is None else _split(path, row, columns.splits[row])
        listed.append(_Listed(name, data, label, split))
    return _assemble(path.stem, path, classes, listed)


def _read_columns(path: Path) -> _Columns:
    try:
        # Not at the top: pyarrow is larger than everything else together, and only this needs it.
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(
            f"{path}: reading Parquet files needs pyarrow; pip install 'kilograd[parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            present = tuple(cast("list[str]", schema.names))
            if "image" not in present or not {"label", "class_name"} & set(present):
                raise InputError(
                    f"{path}: needs a column 'image' and a column 'label' or 'class_name'; "
                    f"it has {', '.join(present) or 'none'}"
                )
            wanted = ("image", "label", "class_name", "split")
            table = file.read(columns=[name for name in wanted if name in present])
    except (OSError, ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as Parquet ({reason}); {_LAYOUT}") from error

    def column(name: str) -> list[object] | None:
        return cast("list[object]", table[name].to_pylist()) if name in present else None

    return _Columns(
        images=column("image") or [],
        labels=column("label"),
        class_names=column("class_name"),
        splits=column("split"),
        declared=_declared_classes(path, schema.metadata or {}),
    )


def _declared_classes(path: Path, metadata: Mapping[bytes, bytes]) -> tuple[str, ...] | None:
    names: list[Any] | None = None
    match _json(metadata.get(b"dataset")), _json(metadata.get(b"huggingface")):
        case {"classes": [*listed]}, _:
            names = listed
        case _, {"info": {"features": {"label": {"names": [*listed]}}}}:
            names = listed
    if names is None:
        return None
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise InputError(f"{path}: the class list in its metadata must be names without repeats")
    return tuple(names)


def _json(text: bytes | None) -> object:
    try:
        return cast("object", json.loads(text or b"null"))
    except (ValueError, RecursionError):
        # Somebody else's metadata under the same key: the columns alone must do.
        return None


def _classes_and_labels(path: Path, columns: _Columns) -> tuple[tuple[str, ...], list[int]]:
    """Return the class names and the label of each row as an index into them."""
    for name, values in (("label", columns.labels), ("class_name", columns.class_names)):
        if values is not None and None in values:
            raise InputError(
                f"{path}: row {values.index(None)} has no {name}; fill it in or remove the row"
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
    return _indexed(ordered, [classes[number] for number in numbers])


def _indexed(classes: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    index = {name: label for label, name in enumerate(classes)}
    return tuple(classes), [index[name] for name in names]


def _strings(path: Path, values: Sequence[object]) -> list[str]:
    strings = [value for value in values if isinstance(value, str)]
    if len(strings) != len(values):
        raise InputError(
            f"{path}: a class name is not text; write class names as text, or labels as integers"
        )
    return strings


def _integers(path: Path, values: Sequence[object]) -> list[int]:
    integers = [value for value in values if isinstance(value, int)]
    if len(integers) != len(values):
        raise InputError(
            f"{path}: a label is neither an integer nor text; write labels as one of the two"
        )
    return integers


def _check_range(path: Path, labels: Sequence[int], classes: int) -> None:
    for row, label in enumerate(labels):
        if not 0 <= label < classes:
            raise InputError(
                f"{path}: row {row} has label {label}, but the class list has {classes} names"
            )


def _parquet_image(path: Path, row: int, value: object) -> tuple[str, bytes | None]:
    match value:
        case bytes():
            return f"row {row}", value
        case {"bytes": bytes() | None as data, **rest}:
            inner = rest.get("path")
            return f"row {row} ({inner})" if inner else f"row {row}", data
        case None:
            return f"row {row}", None
    raise InputError(
        f"{path}: column 'image' must hold encoded image bytes; row {row} is no such thing"
    )


def _split(path: Path, row: int, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}: row {row} has no split; fill the column in or remove it")
    return _SPLITS.get(value.lower(), value)


# -- miniImageNet ---------------------------------------------------------------------------------

_LISTS = {f"{split}.csv": split for split in ("train", "val", "test")}


def _load_lists(root: Path) -> Dataset:
    rows = [
        (split, filename, label)
        for name, split in _LISTS.items()
        if (root / name).is_file()
        for filename, label in _read_list(root / name)
    ]
    most = Counter(filename for _, filename, _ in rows).most_common(1)
    if most and most[0][1] > 1:
        raise InputError(
            f"{root}: the lists name {most[0][0]} {most[0][1]} times; an image may be listed once"
        )
    classes = sorted({label for _, _, label in rows})
    label_of = {name: label for label, name in enumerate(classes)}
    listed = [
        _Listed(filename, _listed_file(root / "images", filename, label), label_of[label], split)
        for split, filename, label in rows
    ]
    return _assemble(_name(root), root, classes, listed)


def _read_list(path: Path) -> list[tuple[str, str]]:
    """Return filename and label of each row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            columns = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error
    if not {"filename", "label"} <= set(columns):
        raise InputError(
            f"{path}: needs the columns 'filename' and 'label'; "
            f"its first line has {', '.join(columns) or 'none'}"
        )
    for number, row in enumerate(rows, start=1):
        if not (row["filename"] and row["label"]):
            raise InputError(f"{path}: row {number} has no filename or no label; fill it in")
    return [(row["filename"], row["label"]) for row in rows]


def _listed_file(images: Path, filename: str, label: str) -> Path | None:
    for file in (images / filename, images / label / filename):
        if file.is_file():
            return file
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
    for label, one in enumerate(classes):
        path = root / f"{label}.h5"
        try:
            with h5py.File(path, "r") as file:
                for j in range(one.images):
                    key = f"{j}/image"
                    source = partial(_stored, path, key) if _holds(file.get(key)) else None
                    listed.append(_Listed(f"{path.name}/{j}", source, label, one.split))
        except (OSError, RuntimeError) as error:
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


def _read_specification(path: Path) -> tuple[str, list[_SpecifiedClass]]:
    """Return the name of the set, and its classes by number."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    try:
        match value:
            case {"classes_per_split": dict(splits)}:
                names = [str(value["class_names"][str(c)]) for c in range(sum(splits.values()))]
                held = [split for split in _SPLIT_ORDER for _ in range(splits[split])]
            case {"superclasses_per_split": dict(splits), "classes_per_superclass": dict(sizes)}:
                above = [str(a) for a in range(sum(splits.values()))]
                groups = [split for split in _SPLIT_ORDER for _ in range(splits[split])]
                held = [g for a, g in zip(above, groups, strict=True) for _ in range(sizes[a])]
                upper = [f"{value['superclass_names'][a]}/" for a in above for _ in range(sizes[a])]
                names = [f"{u}{value['class_names'][str(c)]}" for c, u in enumerate(upper)]
            case _:
                raise InputError(
                    f"{path}: neither classes_per_split nor superclasses_per_split is in it; "
                    f"other specifications (ImageNet's tree) are not supported"
                )
        counts = [operator.index(value["images_per_class"][str(c)]) for c in range(len(names))]
        name = str(value["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: no specification of Meta-Dataset ({type(error).__name__}: {error}); "
            f"give the one that was made with the files"
        ) from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: two classes are called {twice[0]!r}; give each its own name")
    return name, [
        _SpecifiedClass(name, _SPLITS[split.lower()], count)
        for name, split, count in zip(names, held, counts, strict=True)
    ]


# Classes are numbered in this order.
_SPLIT_ORDER = ("TRAIN", "VALID", "TEST")


def _holds(record: Any) -> bool:  # noqa: ANN401
    """Tell whether a record of an HDF5 file is an image."""
    shape: tuple[int, ...] = getattr(record, "shape", ())
    dtype = getattr(record, "dtype", None)
    grey_or_colour = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    return dtype == np.uint8 and grey_or_colour and min(shape) > 0


def _stored(path: Path, key: str) -> Image.Image:
    import h5py

    with h5py.File(path, "r") as file:
        return Image.fromarray(file[key][()])


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
            image.load()
    except InputError:
        raise
    except Exception:  # noqa: BLE001
        # As in `_readable`: the library decodes, and a decoder may raise anything.
        return _Listed(called, None, 0, split=None)
    try:
        number = operator.index(cast("SupportsIndex", label))
    except TypeError as error:
        raise InputError(
            f"{name}: the label of item {index} is {label!r}; it must be an index into the classes"
        ) from error
    if not 0 <= number < len(classes):
        raise InputError(f"{name}: item {index} has label {number}, of {len(classes)} classes")
    if _as_image(name, index, image).mode not in _MODES:
        return _Listed(called, None, number, split=None)
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


# -- decoding -------------------------------------------------------------------------------------


def _opened(source: Source) -> Image.Image:
    """Read the header, or fetch the image; raises whatever the decoder or the library does."""
    if isinstance(source, Path):
        source = source.read_bytes()
    if isinstance(source, bytes):
        image: Image.Image = Image.open(io.BytesIO(source), formats=_FORMATS)
    else:
        image = source()
    if image.mode not in _MODES:
        raise ValueError(f"pixels of mode {image.mode} have no defined range")
    return image


def _readable(source: bytes | Path) -> bool:
    """Decode once; `Image.verify` would not notice a truncated JPEG."""
    try:
        image = _opened(source)
        # For a JPEG: grey at an eighth of the size. Reads all of the data at a fraction of the
        # time; other formats take no notice.
        image.draft("L", (1, 1))
        image.load()
    except Exception:  # noqa: BLE001
        # Pillow promises no exception type for damaged data (OSError, SyntaxError, ValueError,
        # struct.error, DecompressionBombError, ... seen), and one picture must not end the load.
        return False
    return True


def _to_8_bits(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in _16_BITS:
        # Pillow clips 16 bits to 8 (everything brighter than 255 of 65,535 turns white), so they
        # are scaled here. "I" has 32 bits, but what Pillow opens as "I" are 16-bit PGM and PNG.
        wide = np.asarray(image).astype(np.int32).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        # On white, as pages show it. The colour stored under transparent pixels is mostly black:
        # dropping alpha, or black behind it, makes dark drawings vanish.
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut a very long image down to the middle.

    Only the middle square is used, and one row of 60,000 pixels, a file of a few hundred bytes,
    would otherwise be resized to gigabytes. The cut is far outside the crop for any photograph.
    """
    limit = 32 * min(image.size)
    left = max(0, (image.width - limit) // 2)
    top = max(0, (image.height - limit) // 2)
    return image.crop((left, top, image.width - left, image.height - top))


def _shorter_side(image: Image.Image, length: int) -> Image.Image:
    short, long = min(image.size), max(image.size)
    other = int(length * long / short)
    size = (length, other) if image.width <= image.height else (other, length)
    return image.resize(size, Image.Resampling.BILINEAR)
