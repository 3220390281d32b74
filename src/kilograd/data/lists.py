"""Image sets with lists of their files, as miniImageNet is kept."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from kilograd import limits
from kilograd.data.dataset import Dataset
from kilograd.data.listed import (
    Listed,
    Look,
    assemble,
    check_count,
    class_names,
    folder_name,
    look_once,
)
from kilograd.errors import InputError
from kilograd.reading import leads_inside, read_text, relative, there

LISTS = {f"{split}.csv": split for split in ("train", "val", "test")}


def load_lists(root: Path, look: Look = look_once) -> Dataset:
    """Load the images that the lists of a folder name; `InputError` as `load_dataset` says."""
    rows = [
        (split, filename, folder)
        for name, split in LISTS.items()
        if (root / name).is_file()
        for filename, folder in _read_list(root / name)
    ]
    most = Counter(filename for _, filename, _ in rows).most_common(1)
    if most and most[0][1] > 1:
        raise InputError(
            f"{root}: the lists name {most[0][0]} {most[0][1]} times; an image may be listed once"
        )
    check_count(len(rows), root)
    folders = sorted({folder for _, _, folder in rows})
    names = dict(zip(folders, class_names(folders, root), strict=True))
    classes = sorted(names.values())
    number = {name: i for i, name in enumerate(classes)}
    listed = [
        Listed(filename, _listed_file(root, filename, folder), number[names[folder]], split)
        for split, filename, folder in rows
    ]
    return assemble(folder_name(root), root, classes, listed, look)


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
