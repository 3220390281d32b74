"""Whose a network is: what its model folder says of licence and origin, to travel with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from kilograd import limits
from kilograd.frontend.model_folder import Model
from kilograd.frontend.published import LICENSE
from kilograd.reading import read_bytes, read_json, typed

_TEXT_BYTES = 1 << 16
_TEXTS = 8
_LINE = 1000
_NAME = re.compile(
    r"(LICENSE|LICENCE|COPYING|NOTICE)[A-Za-z0-9._-]{0,80}", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True)
class Attribution:
    """What must be said where a network is passed on.

    `facts` are lines, by what they are; nothing in them ends a line.  `texts` are licences and
    notices by the names of their files, which are names everywhere.
    """

    facts: Mapping[str, str]
    texts: Mapping[str, str]


class _Provenance(Struct, frozen=True):
    spdx: str | None = None
    copyright: str | None = None
    source_repository: str | None = None
    source_commit: str | None = None
    source_file: str | None = None
    paper: str | None = None
    training_data: str | None = None
    targets: str | None = None
    changes: str | None = None


_FACTS = {
    "spdx": "Licence",
    "copyright": "Copyright",
    "source_repository": "Source",
    "source_commit": "Commit",
    "source_file": "File",
    "paper": "Paper",
    "training_data": "Trained on",
    "targets": "Trained to give",
    "changes": "Changes",
}


def attribution(model: Model) -> Attribution:
    """Read whose a network is.

    The text of the MIT licence is written where a network has it and brings no text.  Raises
    `InputError` for fields that are no text, and for files that cannot be read.
    """
    file = model.path / "graph.json"
    found = read_json(file, dict[str, Any], limits.GRAPH_BYTES).get("provenance", {})
    said = typed(found, _Provenance, f"{file}: provenance")
    facts = {
        name: _plain(value[:_LINE])
        for field, name in _FACTS.items()
        if (value := getattr(said, field))
    }
    texts = {p.name: _text(p) for p in _files(model.path)}
    if not texts and said.spdx == "MIT" and "Copyright" in facts:
        head, _, terms = LICENSE.split("\n\n", 2)
        texts["LICENSE"] = f"{head}\n\n{facts['Copyright']}\n\n{terms}"
    return Attribution(facts, texts)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the licences in a folder: files of its own, and not what leads elsewhere."""
    names = sorted(p.name for p in folder.iterdir() if _NAME.fullmatch(p.name))
    paths = (folder / name for name in names[:_TEXTS])
    return (p for p in paths if p.is_file() and not p.is_symlink())


def _text(file: Path) -> str:
    lines = read_bytes(file, _TEXT_BYTES).decode("utf-8", "replace").splitlines()
    return "".join(f"{_plain(line)}\n" for line in lines)


def _plain(line: str) -> str:
    """Return a line without what cannot be seen."""
    return "".join(c if c.isprintable() else " " for c in line)
