"""Where training was: files that are whole or not there, and known to be undamaged."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kilograd.errors import InputError
from kilograd.output import write_file

State = Mapping[str, Any]
"""Numbers, text, tensors, and lists and dicts of them."""

_KEPT = 2
_DIGEST = hashlib.sha256().digest_size


def save_checkpoint(folder: Path, step: int, state: State) -> None:
    """Write the state after `step` steps, and drop all but this and the one before it.

    Raises `InputError` if the disk refuses.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f"step-{step:09}.pt", data + hashlib.sha256(data).digest())
        for old in _checkpoints(folder)[_KEPT:]:
            old.unlink()
    except OSError as e:
        raise InputError(f"--out {folder.parent}: no checkpoint can be written ({e})") from e


def load_checkpoint(folder: Path, say: Callable[[str], None]) -> State | None:
    """Return the newest state that is undamaged, on the CPU; None if there is none.

    `say` is told of damaged ones.
    """
    for file in _checkpoints(folder):
        try:
            content = file.read_bytes()
            data, digest = content[:-_DIGEST], content[-_DIGEST:]
            if hashlib.sha256(data).digest() != digest:
                raise ValueError("its checksum is another")  # noqa: TRY301
            state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as e:  # noqa: BLE001 a damaged file may raise anything
            say(f"checkpoint {file} is damaged ({e}); going back to the one before it")
            continue
        return state
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Return the files, the newest first."""
    return sorted(folder.glob("step-*.pt"), reverse=True)
