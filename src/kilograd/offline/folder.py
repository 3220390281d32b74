"""What a folder of training holds: its settings, and in the end the network and its figures."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kilograd import limits
from kilograd.data import Dataset
from kilograd.errors import field_of, flag, option
from kilograd.frontend import Model, save_model
from kilograd.names import identifier
from kilograd.options import values
from kilograd.output import Provenance, claim, make_folder, write_file
from kilograd.reading import read_json

SETTINGS = "training.json"
"""The file that tells a folder of training: what it was begun with."""
RESULT = "result.json"
"""The figures."""


@dataclass(frozen=True)
class Epoch:
    """An epoch that is over: its mean loss, and the score after it."""

    loss: float
    score: float


@dataclass(frozen=True)
class History:
    """How training went: the score at the start, every epoch, and which was best; 0: the start."""

    start: float
    epochs: tuple[Epoch, ...]
    best: int


@dataclass(frozen=True)
class Accuracy:
    """Of the float network and of the int8 program, in 0 ... 1, on the same images."""

    float32: float
    int8: float


@dataclass(frozen=True)
class Finished:
    """What came of training; the network is in the folder.

    `before`: None where the network did not have this task before.
    `learned`, `reported`: images that were learned, and that `before` and `after` are from.
    `cosine_scale`: what meta-training has learned to multiply cosines by; `None` where none did.
    """

    name: str
    classes: int
    learned: int
    reported: int
    before: Accuracy | None
    after: Accuracy
    history: History
    seconds: float
    cosine_scale: float | None = None


def agree(out: Path, model: Model, sets: tuple[Dataset, ...], how: object) -> None:
    """Note what training in `out` was begun with, or see that it is the same now.

    `how`: a record of options.

    Raises `InputError` for a folder whose name no network can have, that holds something else, or
    was begun with other settings: the message names one that differs.
    """
    size = str(model.preprocess.size)
    now = {
        "--size": size,
        "--model": f"{model.name} ({model.fingerprint[:12]})",
        "data": "; ".join(f"{d.name}, {len(d)} images, {len(d.classes)} classes" for d in sets),
        **{flag(k): str(v) for k, v in values(how).items()},
    }
    identifier(
        out.resolve().name, f"{option('out')} {out}: the folder's name, which will be the network's"
    )
    if claim(out, SETTINGS, _provenance(now), functools.partial(_begun, size)) is None:
        make_folder(out, SETTINGS)
        write_file(out / SETTINGS, json.dumps(now, indent=1) + "\n")


def finish(out: Path, model: Model, finished: Finished) -> None:
    """Write the network and the figures; `InputError` if the disk refuses."""
    save_model(replace(model, name=finished.name), out)
    write_file(out / RESULT, json.dumps(asdict(finished), indent=1) + "\n")


def _begun(size: str, file: Path) -> tuple[dict[str, str], Provenance]:
    """Return what a folder was begun with: at this size, where it does not say."""
    begun = read_json(file, dict[str, str], limits.RECORD_BYTES)
    return begun, _provenance({"--size": size, **begun})


def _provenance(stored: Mapping[str, str]) -> Provenance:
    """Return what is stored as text, under names of options as they are typed."""
    plain = {"None": None, "False": False, "True": True}
    return Provenance(
        {
            option(known) if (known := field_of(k)) else k: plain.get(v, v)
            for k, v in stored.items()
        },
        {},
    )
