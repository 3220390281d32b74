"""Where training was: files that are whole or not there, and known to be undamaged."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kilograd.errors import InputError, option
from kilograd.limits import CHECKPOINT_BYTES
from kilograd.output import write_file
from kilograd.reading import read_bytes

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
        raise InputError(
            f"{option('out')} {folder.parent}: no checkpoint can be written ({e})"
        ) from e


def load_checkpoint(
    folder: Path, say: Callable[[str], None], check: Callable[[State], None] = lambda state: None
) -> State | None:
    """Return the newest state that is undamaged, on the CPU; None if there is none.

    `say` is told of damaged ones.  `check` raises for a state that is whole, but of something else.
    """
    for file in _checkpoints(folder):
        try:
            content = read_bytes(file, CHECKPOINT_BYTES)
            data, digest = content[:-_DIGEST], content[-_DIGEST:]
            if hashlib.sha256(data).digest() != digest:
                raise ValueError("its checksum is another")  # noqa: TRY301
            state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            check(state)
        except Exception as e:  # noqa: BLE001 a damaged file may raise anything
            say(f"checkpoint {file} is damaged ({e}); going back to the one before it")
            continue
        return state
    return None


def check_like(found: object, wanted: object, where: str = "state") -> None:
    """Raise a ValueError where a state has not the keys, kinds and shapes of another.

    Lists are of finite numbers, and may be of any length.
    """
    match wanted:
        case Mapping():
            if not isinstance(found, Mapping) or found.keys() != wanted.keys():
                raise ValueError(f"{where} has other fields")
            for key in wanted:
                check_like(found[key], wanted[key], f"{where}.{key}")
            return
        case list():
            fits = isinstance(found, list) and all(map(_is_number, found))
        case float():
            fits = _is_number(found)
        case torch.Tensor():
            fits = isinstance(found, torch.Tensor) and (
                (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            )
        case _:
            fits = type(found) is type(wanted)
    if not fits:
        raise ValueError(f"{where} is of another kind or shape")


def _is_number(found: object) -> bool:
    return isinstance(found, float) and math.isfinite(found)


def check_momentum(found: object, optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError where the state of an optimiser is not one that this one can go on with.

    Momentum is there, of the shape of its parameter, or not yet.
    """
    own = optimizer.state_dict()
    if not isinstance(found, Mapping) or found.keys() != own.keys():
        raise ValueError("the optimiser has other fields")
    groups = found["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        raise ValueError("the optimiser has other groups")
    for group, wanted in zip(groups, own["param_groups"], strict=True):
        if not isinstance(group, Mapping) or {**group, "lr": 0} != {**wanted, "lr": 0}:
            raise ValueError("the optimiser has other parameters")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(found["state"], Mapping):
        raise ValueError("the optimiser has no momentum")  # noqa: TRY004 as all of them
    for number, kept in found["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise ValueError("the optimiser has other parameters")
        if not isinstance(kept, Mapping) or kept.keys() - {"momentum_buffer"}:
            raise ValueError("the optimiser keeps other things")
        momentum = kept.get("momentum_buffer")
        if momentum is not None:
            check_like(momentum, parameters[number].detach().cpu(), f"momentum {number}")


def _checkpoints(folder: Path) -> list[Path]:
    """Return the files, the newest first."""
    return sorted(folder.glob("step-*.pt"), reverse=True)
