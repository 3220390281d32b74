"""Labelled image sets from files: which reader reads what.

Images stay encoded and are decoded when asked for, so that a set of photographs costs its size on
disk and not its size in pixels. Every image is decoded once while loading all the same: a broken
one must be named before training starts, not found in the middle of it.
"""

from __future__ import annotations

from pathlib import Path

from kilograd.data.dataset import Dataset
from kilograd.data.folders import load_folder
from kilograd.data.listed import LAYOUT, Listed, Look, assemble, look_once
from kilograd.data.lists import LISTS, load_lists
from kilograd.data.meta_dataset import SPECIFICATION, load_meta_dataset
from kilograd.data.npz import NPZ_SUFFIX, load_npz
from kilograd.data.parquet import load_parquet
from kilograd.data.pictures import picture_files
from kilograd.errors import InputError, option
from kilograd.frontend import is_model
from kilograd.reading import file_there, there


def load_dataset(path: str | Path, look: Look = look_once) -> Dataset:
    """Load class folders, a Parquet or .npz file, miniImageNet, or a set of Meta-Dataset.

    A folder: each sub-folder is a class, and its images are all files in it with a suffix of
    `folders.IMAGE_SUFFIXES`, sub-folders included; where the whole folder has none, its arrays
    (.npy). Hidden files and folders, what systems leave behind (`__MACOSX`), and files with other
    suffixes are passed over. A class folder behind a link that leads out is refused; an image
    behind such a link is left out like one that is damaged. If the sub-folders are called train,
    val and test (or train alone), they are splits and the class folders lie inside them.

    A Parquet file (needs pyarrow): column `image` (encoded bytes, or a
    struct of `bytes` and `path` as Hugging Face writes it), with `label` (a number or a name),
    `class_name`, or both, and optionally `split`. Class names come from the list in the file
    metadata (key `dataset`, or Hugging Face's own), else from the columns.  Column `image` (or
    `sample`) may hold lists of numbers instead, nested up to three deep, and column `shape` says
    what shape flat ones have.

    A .npz file: `x` (samples, [n, ...]) and `y` (labels: n integers or names), and optionally
    `classes` (names by number) and `split` (n names).

    Arrays have one shape and no NaN; int8 is codes, all others are real numbers.

    miniImageNet: a folder with `images` and any of `train.csv`, `val.csv` and `test.csv` (columns
    `filename` and `label`). An image lies in `images`, or there in a folder named by its label.

    Meta-Dataset as HDF5 (needs h5py): a folder with `dataset_spec.json` and,
    for class number c, a file `c.h5`, in which `j/image` is image j, uint8 [h, w, 3] or [h, w].
    Flat specifications, and those with two levels (Omniglot), whose upper level makes groups.
    Shape and type of every image are looked at, its pixels are not.

    `look` tells whether an image can be read; it is asked once for each, in order.
    Images that cannot be decoded are left out and named in `Dataset.skipped`: report them.
    Order, and so every index, depends on the names alone and not on the file system.

    Raises `InputError` if the path is missing, is neither, cannot be read, or holds no class, no
    image, or a class folder without an image; if an array is no sample, or not like the others; if
    a list of images contradicts itself; or if pyarrow
    or h5py is needed and not installed.
    """
    path = Path(path)
    if not there(path) and is_model(str(path)):
        raise InputError(
            f"{path}: is a network, not data; give it as {option('model')} {path}, and in its "
            f"place {LAYOUT}"
        )
    if not there(path):
        raise InputError(f"{path}: no such file or folder; {LAYOUT}")
    if file_there(path / "graph.json"):
        raise InputError(
            f"{path}: is a network (it holds graph.json), and no images; give it as "
            f"{option('model')}, and {LAYOUT}"
        )
    if file_there(path / SPECIFICATION):
        return load_meta_dataset(path, look)
    if any(file_there(path / name) for name in LISTS) and (path / "images").is_dir():
        return load_lists(path, look)
    if path.is_dir():
        return load_folder(path, look)
    if path.suffix.lower() == NPZ_SUFFIX:
        return load_npz(path, look)
    if path.suffix.lower() != ".parquet":
        raise InputError(f"{path}: neither a folder nor a .parquet or .npz file; {LAYOUT}")
    return load_parquet(path, look)


def load_samples(path: str | Path) -> Dataset:
    """Load samples whose labels do not matter: as `load_dataset`, or a folder of files alone.

    Such a folder holds images, or arrays (.npy), and no other folder.
    """
    path = Path(path)
    if not (path.is_dir() and _holds_files_alone(path)):
        return load_dataset(path)
    files = picture_files([path])
    listed = [Listed(file.name, file, 0, None) for file in files]
    return assemble(path.resolve().name, path, ("samples",), listed)


def _holds_files_alone(folder: Path) -> bool:
    """Tell whether a folder holds files and no folders that are seen."""
    try:
        entries = [e for e in folder.iterdir() if not e.name.startswith(".")]
    except OSError:  # what reads it says so
        return False
    special = {SPECIFICATION, *LISTS, "graph.json"}
    return bool(entries) and all(e.is_file() and e.name not in special for e in entries)
