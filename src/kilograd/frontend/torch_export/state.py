"""The way back: what was learned, as a state dict of the module that a network is from.

The weights of a simplified network are those of the module, each at another place and times a
number: batch norm is folded in, axes are moved.  Its biases are an affine function of the module's.
Places and numbers are found by folding once more, with ones and with numbers that count; so
whatever simplification does is undone, and no pass needs an inverse.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from kilograd.errors import InputError, option
from kilograd.extras import Extra
from kilograd.frontend.torch_export.program import Call, Program, Ref
from kilograd.frontend.torch_export.translate import translated
from kilograd.ir import Array
from kilograd.layers.evaluate import real
from kilograd.layers.learned import Learned
from kilograd.layers.network import Convolution, Dense
from kilograd.layers.simplify import simplify
from kilograd.output import write_file

Weighted = Convolution | Dense
_DIGIT = 1 << 12
"""Places are counted in two digits, as float32 holds both exactly."""


def state_dict(program: Program, learned: Mapping[str, Learned]) -> dict[str, Array]:
    """Return the module's state dict with other numbers in some layers.

    `learned`: by the names and in the shapes of layers of the simplified network; reals or codes.
    What is folded into a layer is taken out of it again, so that a module with this state dict,
    exported and simplified, has these numbers.  A classifier may have another number of rows.

    Raises `InputError` for a layer that is none of the module's or was merged from several, and
    where the module has nothing that its bias can be written to.
    """
    where = program.file
    if translated(program).quantised:
        raise InputError(f"{where}: keeps codes for weights; give the float module, or its program")
    layers, folded = {x.name: x.op for x in simplify(translated(program)).layers}, _folded(program)
    new: dict[str, Learned] = {}
    for name, numbers in learned.items():
        op = layers.get(name)
        if not isinstance(op, Convolution | Dense) or op.weight.origin not in folded:
            raise InputError(
                f"{where}: {name}: is no layer of it alone: its branches were merged, its weights "
                f"are those of another, or it is of another network; let it not learn, or merge "
                f"the branches before the export"
            )
        new[op.weight.origin] = numbers
    weights = _weights(program, new)
    return {**program.state, **weights, **_biases(program, new, weights)}


def save_state_dict(path: Path, state: Mapping[str, Array]) -> None:
    """Write a state dict: `.safetensors`, or `.pt` as torch.save writes it, of plain tensors.

    Raises `InputError` for another ending, and where the system refuses.
    """
    arrays = {k: np.ascontiguousarray(v).reshape(v.shape) for k, v in state.items()}
    match path.suffix:
        case ".safetensors":
            data = save(arrays)
        case ".pt" | ".pth":
            torch = Extra.TORCH.load("torch", f"a file {path.suffix}")
            buffer = io.BytesIO()
            torch.save({k: torch.from_numpy(v.copy()) for k, v in arrays.items()}, buffer)
            data = buffer.getvalue()
        case _:
            raise InputError(f"{option('out')} {path}: name it .safetensors or .pt")
    try:
        write_file(path, data)
    except OSError as e:
        raise InputError(f"{option('out')} {path}: cannot be written ({e.strerror})") from e


def _folded(program: Program) -> dict[str, Weighted]:
    """Return the layers of the simplified network by the names of their weights, used once."""
    found: dict[str, list[Weighted]] = {}
    for layer in simplify(translated(program)).layers:
        if isinstance(layer.op, Convolution | Dense) and layer.op.weight.origin:
            found.setdefault(layer.op.weight.origin, []).append(layer.op)
    return {origin: ops[0] for origin, ops in found.items() if len(ops) == 1}


def _with(program: Program, arrays: Mapping[str, Array]) -> Program:
    """Return a program with other numbers, by their names in the module."""
    stored = {n: replace(s, array=arrays.get(s.origin, s.array)) for n, s in program.stored.items()}
    return replace(program, stored=stored)


# -- weights ---------------------------------------------------------------------------------------


def _weights(program: Program, ops: Mapping[str, Learned]) -> dict[str, Array]:
    """Return the module's weights, by name, that fold to others."""
    old = {origin: program.state[origin] for origin in ops}
    count = {origin: np.arange(a.size).reshape(a.shape) for origin, a in old.items()}
    ones, high, low = (
        _folded(_with(program, probe))
        for probe in (
            {origin: np.ones_like(i) for origin, i in count.items()},
            {origin: i // _DIGIT for origin, i in count.items()},
            {origin: i % _DIGIT for origin, i in count.items()},
        )
    )
    out = {}
    for origin, op in ops.items():
        times, *digits = (
            f[origin].weight.values.astype(np.float64).reshape(len(old[origin]), -1)
            for f in (ones, high, low)
        )
        divisor = np.where(times == 0, 1, times)
        upper, lower = (np.rint(d / divisor).astype(np.int64) for d in digits)
        where = f"{program.file}: {origin}"
        out[origin] = _unfolded(op, old[origin], times, upper * _DIGIT + lower, where)
    return out


def _unfolded(op: Learned, old: Array, times: Array, place: Array, where: str) -> Array:
    """Return a module's weights.

    `times`, `place` [out, n]: by what each is multiplied that stands there when folded, and where
    it is in the module.
    """
    w = real(op.weight, np.float64).reshape(len(op.weight.values), -1)
    if w.shape != times.shape:
        return _other_rows(w, old, times, place, where)
    if np.any(w[times == 0]):
        raise InputError(
            f"{where}: a channel that the module multiplies by zero has learned; let it not learn"
        )
    new = old.astype(np.float32).reshape(-1)
    read = times != 0
    new[place[read]] = w[read] / times[read]
    return _finite(new.reshape(old.shape), where)


def _other_rows(w: Array, old: Array, times: Array, place: Array, where: str) -> Array:
    """Return the weights of a classifier with another number of classes."""
    n = times.shape[1]
    within = place - n * np.arange(len(place))[:, None]
    if w.shape[1] != n or np.any(times != times[0]) or np.any(within != within[0]) or 0 in times:
        raise InputError(
            f"{where}: has shape {list(old.shape)} there, and another number of filters or inputs "
            f"here; only a classifier, without batch norm behind it, may have other rows"
        )
    new = np.empty(w.shape, np.float32)
    new[:, within[0]] = w / times[0]
    return _finite(new.reshape(len(w), *old.shape[1:]), where)


# -- biases ----------------------------------------------------------------------------------------


def _biases(
    program: Program, ops: Mapping[str, Learned], weights: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the module's biases, by name, that fold to others behind the weights given."""
    names = {origin: _bias_name(program, origin) for origin in ops}
    same = {k: v for k, v in weights.items() if v.shape == program.state[k].shape}
    constants, ones = (
        _folded(_with(program, {**same, **_filled(program, names.values(), value)}))
        for value in (0, 1)
    )
    out = {}
    for origin, op in ops.items():
        constant, name = _bias(constants[origin]), names[origin]
        wanted, where = _bias(op), f"{program.file}: {origin}"
        if name is None:
            if wanted.shape != constant.shape or np.any(np.abs(wanted - constant) > _NOTHING):
                raise InputError(
                    f"{where}: the layer has learned a bias, and the module has none there; make "
                    f"it with bias=True"
                )
            continue
        slope = _bias(ones[origin]) - constant
        if wanted.shape != constant.shape:
            if np.any(slope != 1) or np.any(constant != 0):
                raise InputError(f"{where}: its bias is more than the module's; keep its classes")
            slope, constant = np.ones(len(wanted)), np.zeros(len(wanted))
        if not np.all(slope):
            raise InputError(f"{where}: the module multiplies {name!r} by zero; let it not learn")
        out[name] = _finite(((wanted - constant) / slope).astype(np.float32), where)
    return out


_NOTHING = 1e-6


def _bias(op: Weighted | Learned) -> Array:
    return np.zeros(len(op.weight.values)) if op.bias is None else real(op.bias, np.float64)


def _filled(program: Program, names: Iterable[str | None], value: float) -> dict[str, Array]:
    return {n: np.full(program.state[n].shape, value, np.float32) for n in names if n is not None}


def _bias_name(program: Program, weight: str) -> str | None:
    """Return what a layer's bias is written to: that of batch norm behind it, or its own."""
    for call in program.calls:
        if _origin(program, call, "weight") == weight:
            users = [c for c in program.calls if call.outputs[0] in c.refs()]
            norm = users[0] if len(users) == 1 and users[0].operator == "batch_norm" else call
            return _origin(program, norm, "bias") or _origin(program, call, "bias")
    return None


def _origin(program: Program, call: Call, argument: str) -> str | None:
    """Return what the module calls the numbers of an argument."""
    found = call.get(argument)
    stored = program.stored.get(found.name) if isinstance(found, Ref) else None
    return stored.origin if stored and stored.origin in program.state else None


def _finite(x: Array, where: str) -> Array:
    if not np.isfinite(x).all():
        raise InputError(f"{where}: is so small in the module that what was learned has no float32")
    return x
