"""What learns, as a file: parameters of an architecture, and which channels of each.

    {"network": "digits",
     "architecture": "6642e4c7...",
     "learn": {"blocks.1.pw1.weight": {"axis": 0, "index": [0, 3]}, "blocks.1.pw2.bias": "all"},
     "head": true}

`architecture` says of which networks the plan is (`ir.architecture`); without it, of those of the
name.  `axis` is counted in the compiler's layout: weights [out, kh, kw, in], depthwise [kh, kw, c].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct

from kilograd import limits
from kilograd.errors import InputError, option
from kilograd.ir import Graph, TensorType, architecture
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
        _check_network(path, plan, evidence)
        return Selection(parts_of(plan.learn, evidence, str(path)), plan.head)

    return strategy


def _check_network(path: Path, plan: _Plan, evidence: Evidence) -> None:
    """Raise `InputError` for a plan of another architecture; or name, in a file that says none."""
    mine = architecture(evidence.graph)
    advice = f"give {option('model')} {plan.network[:80]}, or a plan of {evidence.name}"
    if plan.architecture is None and plan.network != evidence.name:
        raise InputError(
            f"{path}: a plan of network {plan.network[:80]!r}, not of {evidence.name!r}; {advice}; "
            f'or, if they have the same layers, add "architecture": "{mine}" to the file'
        )
    if plan.architecture not in {None, mine}:
        raise InputError(
            f"{path}: a plan of network {plan.network[:80]!r}, which has other layers than "
            f"{evidence.name!r}; {advice}"
        )


def parts_of(learn: Mapping[str, object], evidence: Evidence, where: str) -> dict[Parameter, Part]:
    """Return what learns, as `learn` of a file says it.

    Raises `InputError`, which begins with `where`, for a parameter or a channel that the network
    does not have.
    """
    known = {str(p): p for p in (*weights(evidence.layers), *biases(evidence.layers))}
    parts: dict[Parameter, Part] = {}
    for name, channels in learn.items():
        if name not in known:
            raise InputError(
                f"{where}: {name:.99}: {evidence.name} has no such parameter; a layer is called "
                f"as in {weight(evidence.layers[-1])} or {bias(evidence.layers[-1])}"
            )
        try:
            axes = evidence.axes(known[name].layer)
            parts[known[name]] = _part(channels, evidence.graph[name].type, axes)
        except BadEntryError as e:
            raise InputError(f"{where}: {name}: {e}") from e
    return parts


def write_plan(path: Path, network: str, graph: Graph, selection: Selection) -> None:
    """Write a selection so that `plan_file` reads it back, one parameter a line.

    `graph` is that of the network, and `network` its name.

    Raises `InputError` if the file cannot be written, or could not say what the selection is.
    """
    write_file(path, plan_text(path, network, graph, selection), "save_plan")


def plan_text(path: Path, network: str, graph: Graph, selection: Selection) -> str:
    """Return what a plan file says of a selection.

    Raises `InputError`, with the name of the file, where no file could say it.
    """
    if selection.graph is not None:
        raise InputError(
            f"{path}: a plan file cannot hold modules that a method adds to {network}; give the "
            f"method itself to {option('method')}"
        )
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(channels)}"
        for name, channels in learn_of(selection).items()
    )
    learn = f"{{\n{lines}\n }}" if lines else "{}"
    return (
        f'{{\n "network": {json.dumps(network)},\n "architecture": "{architecture(graph)}",\n'
        f' "learn": {learn},\n "head": {json.dumps(selection.head)}\n}}\n'
    )


_AXES = {0: "output channels", 2: "channels", 3: "input channels"}


class BadEntryError(Exception):
    """What is wrong with the channels of a parameter, and the fix."""


class _Plan(Struct, frozen=True, forbid_unknown_fields=True):
    network: str
    learn: dict[str, Any]
    head: bool
    architecture: str | None = None


def _read(path: Path) -> _Plan:
    if not there(path):
        raise InputError(
            f"{option('method')} {path}: cannot be read (No such file); check the path"
        )
    plan = read_json(path, dict[str, Any], limits.PLAN_BYTES)
    fields = {"network", "learn", "head"}
    if plan.keys() - {"architecture"} != fields:
        raise InputError(
            f"{path}: a plan has the fields network, learn, head, and may have architecture; this "
            f"has {', '.join(plan) or 'none'}"
        )
    return typed(plan, _Plan, str(path))


def learn_of(selection: Selection) -> dict[str, object]:
    """Return what learns as a file says it; `parts_of` reads it."""
    return {name: _channels(part) for name, part in selection.by_name.items()}


def _channels(part: Part) -> object:
    return "all" if part.index is None else {"axis": part.axis, "index": list(part.index)}


def check_part(part: Part, kind: TensorType, axes: tuple[int, ...]) -> None:
    """Raise `BadEntryError` for a part that the parameter does not have, or not along `axes`."""
    _part(_channels(part), kind, axes)


def _part(channels: object, kind: TensorType, axes: tuple[int, ...]) -> Part:
    """Check one entry of `learn` against the parameter it is for."""
    if channels == "all":
        return Part()
    if not isinstance(channels, dict) or channels.keys() != {"axis", "index"}:
        raise BadEntryError('must be "all", or {"axis": A, "index": [...]}')
    if len(kind.shape) == 1:
        raise BadEntryError('a bias learns whole; give "all"')
    axis, index = channels["axis"], channels["index"]
    if type(axis) is not int or axis not in axes:
        meaning = " or ".join(f"{a} ({_AXES[a]})" for a in axes)
        raise BadEntryError(f"axis {axis!s:.20}: must be {meaning}")
    # True is an int to Python, not to the reader of the file.
    if not isinstance(index, list) or not index or not all(type(i) is int for i in index):
        raise BadEntryError("index must be a list of channels, at least one")
    size = kind.shape[axis]
    if wrong := [i for i in index if not 0 <= i < size]:
        raise BadEntryError(f"index {wrong[0]!s:.20}: axis {axis} has the channels 0..{size - 1}")
    if wrong := [b for a, b in pairwise(index) if b <= a]:
        raise BadEntryError(
            f"index {wrong[0]!s:.20}: channels must be in increasing order, each once"
        )
    return Part(axis, tuple(index))
