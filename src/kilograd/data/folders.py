"""Folders of class folders of images or arrays, with folders of splits around them or not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kilograd.data.arrays import SUFFIX
from kilograd.data.dataset import Dataset
from kilograd.data.listed import (
    LAYOUT,
    SPLITS,
    Listed,
    Look,
    assemble,
    check_count,
    class_names,
    folder_name,
    look_once,
)
from kilograd.errors import InputError
from kilograd.reading import leads_inside

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".mpo"}
    | {".heic", ".heif", ".avif"}
)

ARRAY_SUFFIXES = frozenset({SUFFIX})

_LITTER = {
    *("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
"""What systems and archives leave beside the data; hidden files are more of it."""

_log = logging.getLogger(__name__)
_NAMED = 8


def load_folder(root: Path, look: Look = look_once) -> Dataset:
    """Load a folder of class folders; `InputError` as `load_dataset` says."""
    folders = _sub_folders(root, root)
    images = _Folder(root)
    if not folders:
        raise _no_classes(images)
    # Folders called train and test are splits: taken for classes they would give a set that
    # trains without complaint and learns to tell the training photographs from the test ones.
    is_split = {name.lower() for name in folders} <= SPLITS.keys()
    if is_split and any(_sub_folders(folder, root) for folder in folders.values()):
        return _load_split_folders(images, folders, look)
    _check_depth(images, folders)
    if loose := images.among(_entries(root)):
        _log.warning(
            "%s: %d %s beside the class folders passed over", root, len(loose), images.called
        )
    files = {name: found for name, folder in folders.items() if (found := images.files(folder))}
    if empty := [name for name in folders if name not in files]:
        _log.warning(
            "%s: %d folders without images passed over: %s", root, len(empty), _some(empty)
        )
    if not files:
        raise InputError(f"{root}: none of its {len(folders)} folders holds an image; {LAYOUT}")
    listed = [
        image for number, own in enumerate(files.values()) for image in images.listed(own, number)
    ]
    return assemble(folder_name(root), root, tuple(files), listed, look)


def _no_classes(images: _Folder) -> InputError:
    root, entries = images.root, _entries(images.root)
    if loose := images.among(entries):
        return InputError(
            f"{root}: holds {len(loose)} {images.called} and no class folders; make a folder for "
            f"each class and move its {images.called} there, as {root / 'cat' / loose[0].name}"
        )
    held = "it holds no class folders" if entries else "it is empty"
    return InputError(f"{root}: {held}; {LAYOUT}")


def _check_depth(images: _Folder, folders: Mapping[str, Path]) -> None:
    """Raise `InputError` where the classes lie one folder deeper, as archives unpack."""
    if len(folders) == 1:
        (inner,) = folders.values()
        if not images.among(_entries(inner)) and len(_sub_folders(inner, images.root)) > 1:
            raise InputError(
                f"{images.root}: holds one folder, and that holds the others; give {inner}"
            )


def _load_split_folders(images: _Folder, splits: Mapping[str, Path], look: Look) -> Dataset:
    root = images.root
    for folder in splits.values():
        if images.among(_entries(folder)):
            raise InputError(
                f"{folder}: holds {images.called} outside class folders; move each into its class "
                "folder"
            )
    inner = {split: _sub_folders(folder, root) for split, folder in splits.items()}
    classes = sorted({name for folders in inner.values() for name in folders})
    number = {name: i for i, name in enumerate(classes)}
    listed = [
        image
        for split, folders in inner.items()
        for name, folder in folders.items()
        for image in images.listed(images.files(folder), number[name], SPLITS[split.lower()])
    ]
    return assemble(folder_name(root), root, classes, listed, look)


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _LITTER


def _entries(folder: Path) -> list[Path]:
    """List what is in a folder and is no litter, sorted by name."""
    try:
        found = sorted(entry for entry in folder.iterdir() if _is_data(entry.name))
    except OSError as error:
        raise _unreadable_folder(error) from error
    _check_rights(folder)
    return found


def _sub_folders(folder: Path, root: Path) -> dict[str, Path]:
    """Return the folders in a folder by their names in form C, sorted by those."""
    found = [entry for entry in _entries(folder) if entry.is_dir()]
    for entry in found:
        if not leads_inside(root, entry):
            raise InputError(
                f"{entry}: is a link that leads out of {root}; put a copy of the folder there"
            )
    names = class_names((entry.name for entry in found), folder)
    return dict(sorted(zip(names, found, strict=True)))


class _Folder:
    """Lists the samples of a set, and counts them while it does.

    They are images, if there is one; arrays beside these are passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0
        self._suffixes = next(
            (IMAGE_SUFFIXES for file in walk(root) if file.suffix.lower() in IMAGE_SUFFIXES),
            ARRAY_SUFFIXES,
        )

    @property
    def called(self) -> str:
        """What the samples are, for people."""
        return "arrays" if self._suffixes is ARRAY_SUFFIXES else "images"

    def among(self, entries: Iterable[Path]) -> list[Path]:
        """Return those of some files that are samples."""
        return list(self._among(entries))

    def _among(self, entries: Iterable[Path]) -> Iterator[Path]:
        return (e for e in entries if e.suffix.lower() in self._suffixes and e.is_file())

    def files(self, folder: Path) -> list[Path]:
        """Return the images of a class folder, its sub-folders included, sorted by path."""
        return sorted(self._files(folder))

    def listed(self, files: Iterable[Path], number: int, split: str | None = None) -> list[Listed]:
        """Return the images of a class as listed."""
        return [
            Listed(file.relative_to(self.root).as_posix(), self._source(file), number, split)
            for file in files
        ]

    def _files(self, folder: Path) -> Iterator[Path]:
        for file in self._among(walk(folder)):
            self._count += 1
            check_count(self._count, self.root)
            yield file

    def _source(self, file: Path) -> Path | None:
        return None if file.is_symlink() and not leads_inside(self.root, file) else file


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in those below it that are no litter, in no order.

    Raises `InputError` for a folder that cannot be listed.
    """

    def fail(error: OSError) -> None:
        # os.walk passes over a folder that it may not open, and the class would silently shrink.
        raise _unreadable_folder(error) from error

    # Links to folders are not followed: one that points upwards would never end.
    for parent, folders, files in os.walk(folder, onerror=fail):
        _check_rights(parent)
        folders[:] = filter(_is_data, folders)
        yield from (Path(parent, name) for name in files if _is_data(name))


def _check_rights(folder: str | Path) -> None:
    """Raise `InputError` for a folder whose names can be read, and what they name cannot."""
    if not os.access(folder, os.X_OK):
        raise InputError(f"{folder}: cannot be entered (Permission denied); check its rights")


def _unreadable_folder(error: OSError) -> InputError:
    return InputError(f"{error.filename}: cannot be listed ({error.strerror}); check its rights")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
