"""Published networks, fetched from their authors into the user's folder of networks.

The file must have the checksum that is noted here before anything in it is read; then it is read as
plain data (`pickled`), and becomes a model folder, whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import save

from kilograd import limits
from kilograd.errors import InputError, option
from kilograd.frontend.find import meant, own_models
from kilograd.frontend.model_folder import load_model_folder
from kilograd.frontend.pickled import read_archive
from kilograd.frontend.published import (
    FILES,
    FOLDER,
    LICENSE,
    LICENSE_FILE,
    PUBLISHED,
    Published,
)
from kilograd.frontend.sanitise import sanitised
from kilograd.frontend.tiny_training import read_network
from kilograd.ir import Array, fingerprint
from kilograd.output import filled_folder
from kilograd.progress import Progress, silent
from kilograd.reading import read_bytes, there

_log = logging.getLogger(__name__)

_PUBLISHED, _SANITISED = "model.safetensors", "model-sanitised.safetensors"
_FILES = {"graph.json", LICENSE_FILE, _PUBLISHED, _SANITISED}


def pull(name: str, source: Path | None = None, progress: Progress = silent) -> Path:
    """Fetch a published network, and return its folder; one that is there already stays.

    `source`: its file, or a folder in which it lies, in place of the network.

    Raises `InputError` for a name that is none of them, for a file that cannot be had or is another
    one, and where the folder cannot be written or holds something else.
    """
    if name not in PUBLISHED:
        raise InputError(f"{name}: cannot be pulled; {meant(name, PUBLISHED)}")
    network = PUBLISHED[name]
    folder = own_models() / name
    if _is_there(folder, network):
        _log.info("%s is there already, in %s", name, folder)
        return folder
    try:
        with filled_folder(folder) as new:
            data = _fetched(network, progress) if source is None else _at_hand(network, source)
            write_network(new, network, data)
    except OSError as e:
        raise InputError(
            f"{folder}: cannot be written ({e.strerror or e}); set KILOGRAD_MODELS to a folder of "
            "your own where there is room"
        ) from e
    return folder


def _is_there(folder: Path, network: Published) -> bool:
    """Tell whether a network is there whole; `InputError` for something that is not ours."""
    try:
        found = load_model_folder(folder)
    except InputError:
        if there(folder) and _foreign(folder):
            raise InputError(
                f"{folder}: holds something else than {network.name}; move it, or set "
                "KILOGRAD_MODELS to another folder"
            ) from None
        return False
    if fingerprint(found.graph) != network.fingerprint:
        raise InputError(
            f"{folder}: is another network than the published {network.name}; rename it, or set "
            "KILOGRAD_MODELS to another folder"
        )
    return True


def _foreign(folder: Path) -> bool:
    """Tell whether anything lies at a place but files as `pull` writes them."""
    try:
        return not {p.name for p in folder.iterdir()} <= _FILES
    except OSError:
        return True


def _fetched(network: Published, progress: Progress) -> bytes:
    from kilograd.frontend.fetch import fetch

    url = f"{FILES}/{network.file}"
    try:
        data = fetch(url, limits.PULLED_BYTES, progress)
        _check(data, network, url)
    except InputError as e:
        raise InputError(
            f"{e}; fetch it in another way and give its place with {option('from_')} (its sha256 "
            f"must be {network.sha256})"
        ) from e
    return data


def _at_hand(network: Published, source: Path) -> bytes:
    """Return the file itself, or that of a folder: beside others, or in a checkout."""
    places = [source]
    if source.is_dir():
        places = [source / network.file, source / FOLDER / network.file]
    found = next((place for place in places if there(place)), None)
    if found is None:
        raise InputError(
            f"{source}: holds no {network.file}; give that file, a folder in which it lies, or a "
            "checkout of tiny-training"
        )
    data = read_bytes(found, limits.PULLED_BYTES)
    _check(data, network, str(found))
    return data


def _check(data: bytes, network: Published, where: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != network.sha256:
        raise InputError(
            f"{where}: is not the published {network.file}: its sha256 is {found}, not "
            f"{network.sha256}"
        )


def write_network(folder: Path, network: Published, data: bytes) -> None:
    """Write a model folder for the content of a file of tiny-training.

    Raises `InputError` for what is no such file, `OSError` where the disk refuses.
    """
    found = read_network(
        read_archive(data, network.file), network.name, network.title, network.file
    )
    description = found.description(
        {"int8": _PUBLISHED, "int8_sanitised": _SANITISED}, network.provenance()
    )
    better = sanitised(description, found.tensors)
    files: Mapping[str, Mapping[str, Array]] = {_PUBLISHED: found.tensors, _SANITISED: better}
    for name, tensors in files.items():
        (folder / name).write_bytes(save(dict(tensors)))
    (folder / LICENSE_FILE).write_text(LICENSE, encoding="utf-8")
    (folder / "graph.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    if fingerprint(load_model_folder(folder).graph) != network.fingerprint:
        raise RuntimeError(f"{network.name} is not the network that it was: a defect of kilograd")
