"""Where networks are found by name."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import kilograd
from kilograd.errors import InputError, option
from kilograd.frontend.files import is_network_file, model_of_file, sizes_of_file
from kilograd.frontend.model_folder import Model, load_model_folder
from kilograd.frontend.published import PUBLISHED
from kilograd.frontend.resize import resized
from kilograd.reading import there

_log = logging.getLogger(__name__)

USUAL_MODELS = ("mcunet-5fps", "pocket", "digits")
"""The first of these that is there is taken where nobody names a network."""

_USUAL_SIZES = {"mcunet-5fps": 96}
"""At which image size: as accurate as at its own 128, for less RAM and two thirds of the work
(docs/results/studies/image-size.md).
"""
_PULL = f"kilograd pull {USUAL_MODELS[0]}"


@dataclass(frozen=True)
class Found:
    """A model folder, and by which of the places it was found."""

    name: str
    path: Path
    origin: str


def model_places() -> tuple[tuple[str, Path], ...]:
    """Return the places that are searched, in order: what is bundled, and the user's own."""
    return (("bundled", Path(kilograd.__file__).parent / "models"), ("yours", own_models()))


def own_models() -> Path:
    """Return the folder of the user's networks: $KILOGRAD_MODELS, or one in the user's cache."""
    if folder := os.environ.get("KILOGRAD_MODELS"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base, "kilograd", "models")


def available_models() -> tuple[Found, ...]:
    """Return every model folder that can be named, each name once.  Hidden folders are none."""
    found: dict[str, Found] = {}
    for origin, place in model_places():
        for folder in _folders(place):
            if there(folder / "graph.json"):
                found.setdefault(folder.name, Found(folder.name, folder, origin))
    return tuple(found.values())


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(entry for entry in place.iterdir() if not entry.name.startswith((".", "__")))
    except OSError:  # not there, or not for us to read
        return []


def usual_model() -> str:
    """Return the name of the network that is taken where nobody names one."""
    there_are = {found.name for found in available_models()}
    return next((name for name in USUAL_MODELS if name in there_are), USUAL_MODELS[-1])


def load_model(name: str | Path | Model | None = None, size: int | str | None = None) -> Model:
    """Load a network by name or by the path of its folder or file; the usual one where none is.

    A model is taken as it is.

    `size`: the side of its images in pixels, where it shall not be the network's own; the usual
    network may have a usual size.

    Raises `InputError` that lists the names there are and the places searched, and as `resized`.
    """
    if name is None:
        name = usual_model()
        better = "" if name == USUAL_MODELS[0] else f"; for photos, {_PULL} is better"
        size = size if size is not None else _USUAL_SIZES.get(name)
        pixels = "" if size is None else f" at {size}x{size} pixels"
        _log.info("network: %s%s, as none was named%s", name, pixels, better)
    model = name if isinstance(name, Model) else _load(str(name))
    return model if size is None else resized(model, size)


def load_sizes(name: str | Path | Model | None = None, size: int | str | None = None) -> Model:
    """Load a network as `load_model` does, to look at what it needs and not at its answers.

    A file that computes in float needs no data for that.
    """
    file = None if name is None or isinstance(name, Model) else Path(name)
    if file is not None and is_network_file(file):
        name = sizes_of_file(file)
    return load_model(name, size)


def _load(name: str) -> Model:
    path = Path(name)
    if is_network_file(path):
        return model_of_file(path)
    if there(path / "graph.json") or "/" in name:
        return load_model_folder(path)
    models = available_models()
    for m in models:
        if m.name == name:
            return load_model_folder(m.path)
    if there(path) and path.is_dir():
        return load_model_folder(path)  # says what is missing
    raise InputError(f"{option('model')} {name!r}: {_missing(name, [m.name for m in models])}")


def _missing(name: str, names: Sequence[str]) -> str:
    """Say how else a network may be had that is called like none there is."""
    if name in PUBLISHED:
        return f"is not here yet; kilograd pull {name} fetches it from its authors"
    places = ", ".join(f"{origin} ({place})" for origin, place in model_places())
    absent = [n for n in PUBLISHED if n not in names]
    fetched = f"; kilograd pull fetches {', '.join(absent)}" if absent else ""
    return (
        f"no such model; {meant(name, names, absent)} in {places}{fetched}; or give the path of a "
        "model folder"
    )


def is_model(name: str) -> bool:
    """Tell whether a network is called so: one that is here, or could be fetched."""
    return name in PUBLISHED or any(found.name == name for found in available_models())


def meant(name: str, names: Collection[str], others: Collection[str] = ()) -> str:
    """Say which names there are, and which of these and of others is spelled nearly so.

    >>> meant("digit", ["digits", "pocket"])
    'did you mean digits? There are digits, pocket'
    """
    near = difflib.get_close_matches(name, [*names, *others], 1)
    known = f"here are {', '.join(names) or 'none'}"
    return f"did you mean {near[0]}? T{known}" if near else f"t{known}"
