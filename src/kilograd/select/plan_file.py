"""What learns, as a file: the parameters of one network, and which channels of each.

    {"network": "digits",
     "learn": {"blocks.1.pw1.weight": {"axis": 0, "index": [0, 3]}, "blocks.1.pw2.bias": "all"},
     "head": true}

`axis` is counted in the compiler's layout: weights [out, kh, kw, in], depthwise [kh, kw, c].
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct

from kilograd import limits
from kilograd.errors import InputError, option
from kilograd.ir import TensorType
from kilograd.output import write_file
from kilograd.passes import Part
from kilograd.reading import read_json, there, typed
from kilograd.select.selection import (
    Budget,
    Evidence,
    Parameter,
    Selection,
    Strategy,
    bias,
    biases,
    weight,
    weights,
)


def plan_file(path: Path) -> Strategy:
    """Return the strategy that a file describes.

    Raises `InputError` if the file cannot be read or is no plan; the strategy does so if the plan
    is of another network, or names a parameter or a channel that the network does not have.
    """
    plan = _read(path)

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        if plan.network != evidence.name:
            raise InputError(
                f"{path}: a plan of network {plan.network[:80]!r}, not of {evidence.name!r}; give "
                f"{option('model')} {plan.network[:80]}, or a plan of {evidence.name}"
            )
        known = {str(p): p for p in (*weights(evidence.layers), *biases(evidence.layers))}
        parts: dict[Parameter, Part] = {}
        for name, channels in plan.learn.items():
            if name not in known:
                raise InputError(
                    f"{path}: {name:.99}: {evidence.name} has no such parameter; a layer is called "
                    f"as in {weight(evidence.layers[-1])} or {bias(evidence.layers[-1])}"
                )
            try:
                parts[known[name]] = _part(channels, evidence.graph[name].type)
            except _BadEntryError as e:
                raise InputError(f"{path}: {name}: {e}") from e
        return Selection(parts, plan.head)

    return strategy


def write_plan(path: Path, network: str, selection: Selection) -> None:
    """Write a selection so that `plan_file` reads it back, one parameter a line.

    Raises `InputError` if the file cannot be written, or could not say what the selection is.
    """
    write_file(path, plan_text(path, network, selection), "save_plan")


def plan_text(path: Path, network: str, selection: Selection) -> str:
    """Return what a plan file says of a selection.

    Raises `InputError`, with the name of the file, where no file could say it.
    """
    if selection.graph is not None:
        raise InputError(
            f"{path}: a plan file cannot hold modules that a method adds to {network}; give the "
            f"method itself to {option('method')}"
        )
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(_channels(part))}"
        for name, part in selection.by_name.items()
    )
    learn = f"{{\n{lines}\n }}" if lines else "{}"
    return (
        f'{{\n "network": {json.dumps(network)},\n "learn": {learn},\n'
        f' "head": {json.dumps(selection.head)}\n}}\n'
    )


class _BadEntryError(Exception):
    """What is wrong with the channels of a parameter, and the fix."""


class _Plan(Struct, frozen=True, forbid_unknown_fields=True):
    network: str
    learn: dict[str, Any]
    head: bool


def _read(path: Path) -> _Plan:
    if not there(path):
        raise InputError(
            f"{option('method')} {path}: cannot be read (No such file); check the path"
        )
    plan = read_json(path, dict[str, Any], limits.PLAN_BYTES)
    fields = {"network", "learn", "head"}
    if plan.keys() != fields:
        raise InputError(
            f"{path}: a plan has exactly the fields network, learn, head; this has "
            f"{', '.join(plan) or 'none'}"
        )
    return typed(plan, _Plan, str(path))


def _channels(part: Part) -> object:
    return "all" if part.index is None else {"axis": part.axis, "index": list(part.index)}


def _part(channels: object, kind: TensorType) -> Part:
    """Check one entry of `learn` against the parameter it is for."""
    if channels == "all":
        return Part()
    if not isinstance(channels, dict) or channels.keys() != {"axis", "index"}:
        raise _BadEntryError('must be "all", or {"axis": A, "index": [...]}')
    if len(kind.shape) == 1:
        raise _BadEntryError('a bias learns whole; give "all"')
    axis, index = channels["axis"], channels["index"]
    # A filter of one channel is no channel of the gradient: only these are cut before it is made.
    known = {3: (2,), 4: (0, 3)}[len(kind.shape)]
    if type(axis) is not int or axis not in known:
        meaning = "2 (channels)" if known == (2,) else "0 (output channels) or 3 (input channels)"
        raise _BadEntryError(f"axis {axis!s:.20}: must be {meaning}")
    # True is an int to Python, not to the reader of the file.
    if not isinstance(index, list) or not index or not all(type(i) is int for i in index):
        raise _BadEntryError("index must be a list of channels, at least one")
    size = kind.shape[axis]
    if wrong := [i for i in index if not 0 <= i < size]:
        raise _BadEntryError(f"index {wrong[0]!s:.20}: axis {axis} has the channels 0..{size - 1}")
    if wrong := [b for a, b in pairwise(index) if b <= a]:
        raise _BadEntryError(
            f"index {wrong[0]!s:.20}: channels must be in increasing order, each once"
        )
    return Part(axis, tuple(index))
