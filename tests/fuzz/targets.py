"""All targets, by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from fuzz import archives, arrays, flatbuffers, images, learned, networks, programs, records
from fuzz.case import Target


def _onnx() -> tuple[type[Target], ...]:
    if not importlib.util.find_spec("onnx"):
        return ()
    from fuzz.onnx_nets import Onnx

    return (Onnx,)


def _torch() -> tuple[type[Target], ...]:
    if not importlib.util.find_spec("torch"):
        return ()
    from fuzz.exported import Exported

    return records.Checkpoint, Exported


KINDS: tuple[type[Target], ...] = (
    networks.Folder,
    networks.Geometry,
    networks.Compiled,
    archives.Archive,
    programs.Device,
    programs.Kept,
    learned.Adapted,
    records.Plan,
    records.Analysis,
    records.Searched,
    records.Training,
    records.Episodes,
    records.Results,
    records.Options,
    images.Tree,
    images.Pixels,
    images.Lists,
    images.Table,
    images.Meta,
    arrays.Arrayed,
    *((flatbuffers.Lite,) if importlib.util.find_spec("ai_edge_litert") else ()),
    *_torch(),
    *_onnx(),
)


def made(home: Path, names: Sequence[str] = ()) -> list[Target]:
    """Return targets, all or those named, with seeds in a folder."""
    return [kind(home) for kind in KINDS if not names or kind.__name__.lower() in names]
