"""The way back: what was learned, as a state dict of the module that a network is from.

The weights of a simplified network are those of the module, each at another place and times a
number: batch norm is folded in, axes are moved.  Its biases are an affine function of the module's.
Places and numbers are found by folding once more, with one number and with numbers that count; so
whatever simplification does is undone, and no pass needs an inverse.  Of branches that are merged
the one with most weights takes what was learned, and the others stay.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
from kilograd.layers.network import Convolution, Dense, Network
from kilograd.layers.simplify import simplify
from kilograd.output import write_file

Weighted = Convolution | Dense
_DIGIT = 1 << 12
"""Places are counted in two digits: float32 holds both exactly, and what stands beside them."""


def state_dict(program: Program, learned: Mapping[str, Learned]) -> dict[str, Array]:
    """Return the module's state dict with other numbers in some layers.

    `learned`: by the names and in the shapes of layers of the simplified network; reals or codes.
    What is folded into a layer is taken out of it again, so that a module with this state dict,
    exported and simplified, has these numbers.  A classifier may have another number of rows.

    Raises `InputError` for a layer that is none of the module's or shares its weights, and where
    the module has nothing that its weight or bias can be written to.
    """
    network = translated(program)
    if network.quantised:
        raise InputError(
            f"{program.file}: keeps codes for weights; give the float module, or its program"
        )
    named = _origins(network)
    layers = _folded(program)
    for name in learned:
        if name not in layers or name not in named:
            raise InputError(
                f"{program.file}: {name}: has no weights of its own there: it is of another "
                f"network, or its weights are those of several layers; let it not learn"
            )
    places = {name: _Place(named[name], _bias_name(program, named[name])) for name in learned}
    weights = _weights(program, learned, places)
    return {**program.state, **weights, **_biases(program, learned, places, weights)}


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


@dataclass(frozen=True)
class _Place:
    """What the module calls a layer's weight and bias; None where it has no bias."""

    weight: str
    bias: str | None


def _origins(network: Network) -> dict[str, str]:
    """Map layers as they are in the module to their weights, of those that no other has."""
    found = {
        x.name: x.op.weight.origin for x in network.layers if isinstance(x.op, Convolution | Dense)
    }
    uses = Counter(found.values())
    return {name: origin for name, origin in found.items() if origin and uses[origin] == 1}


def _folded(program: Program) -> dict[str, Weighted]:
    """Return the layers of the simplified network.  One of branches is called as the largest."""
    layers = simplify(translated(program)).layers
    return {x.name: x.op for x in layers if isinstance(x.op, Convolution | Dense)}


def _with(program: Program, arrays: Mapping[str, Array]) -> Program:
    """Return a program with other numbers, by their names in the module."""
    stored = {n: replace(s, array=arrays.get(s.origin, s.array)) for n, s in program.stored.items()}
    return replace(program, stored=stored)


# -- weights ---------------------------------------------------------------------------------------


def _weights(
    program: Program, learned: Mapping[str, Learned], places: Mapping[str, _Place]
) -> dict[str, Array]:
    """Return the module's weights, by name, that fold to those learned."""
    old = {place.weight: program.state[place.weight] for place in places.values()}
    count = {origin: np.arange(a.size).reshape(a.shape) for origin, a in old.items()}
    # Of branches only one changes: what the others make of its layer is there without it, too.
    rest, *probes = (
        _folded(_with(program, probe))
        for probe in (
            {origin: np.zeros_like(i) for origin, i in count.items()},
            {origin: np.full_like(i, _DIGIT) for origin, i in count.items()},
            {origin: i // _DIGIT for origin, i in count.items()},
            {origin: i % _DIGIT for origin, i in count.items()},
        )
    )
    out = {}
    for name, new in learned.items():
        origin = places[name].weight
        where = f"{program.file}: {origin}"
        constant = _rows(rest[name], old[origin])
        times, high, low = (_rows(f[name], old[origin]) - constant for f in probes)
        times /= _DIGIT
        divisor = np.where(times == 0, 1, times)
        place = np.rint(high / divisor) * _DIGIT + np.rint(low / divisor)
        folding = _FoldingOf(constant, times, place.astype(np.int64))
        out[origin] = _unfolded(new, old[origin], folding, where)
    return out


def _rows(op: Weighted, old: Array) -> Array:
    return op.weight.values.astype(np.float64).reshape(len(old), -1)


@dataclass(frozen=True, eq=False)
class _FoldingOf:
    """What becomes of a module's weights, [out, n] each: constant + times * weight[place]."""

    constant: Array
    times: Array
    place: Array


def _unfolded(new: Learned, old: Array, folding: _FoldingOf, where: str) -> Array:
    """Return a module's weights that fold to new ones."""
    w = real(new.weight, np.float64).reshape(len(new.weight.values), -1)
    if w.shape != folding.times.shape:
        return _other_rows(w, old, folding, where)
    w = w - folding.constant
    read = folding.times != 0
    place = folding.place[read]
    ends = (place.min(initial=0), place.max(initial=0))
    if ends[0] < 0 or ends[1] >= old.size or np.bincount(place).max(initial=0) > 1:
        raise InputError(f"{where}: cannot be taken out of what it is merged with")
    if np.any(np.abs(w[~read]) > _NOTHING * np.abs(w).max(initial=0)):
        raise InputError(
            f"{where}: a weight has learned that the module multiplies by zero, or that a branch "
            f"with fewer weights gives; let it not learn"
        )
    out = old.astype(np.float32).reshape(-1)
    out[place] = w[read] / folding.times[read]
    return _finite(out.reshape(old.shape), where)


def _other_rows(w: Array, old: Array, folding: _FoldingOf, where: str) -> Array:
    """Return the weights of a classifier with another number of classes."""
    times, place, n = folding.times, folding.place, folding.times.shape[1]
    within = place - n * np.arange(len(place))[:, None]
    alike = not np.any(times != times[0]) and not np.any(within != within[0])
    if w.shape[1] != n or not alike or 0 in times or folding.constant.any():
        raise InputError(
            f"{where}: has shape {list(old.shape)} there, and another number of filters or inputs "
            f"here; only a classifier, without batch norm behind it, may have other rows"
        )
    new = np.empty(w.shape, np.float32)
    new[:, within[0]] = w / times[0]
    return _finite(new.reshape(len(w), *old.shape[1:]), where)


# -- biases ----------------------------------------------------------------------------------------


def _biases(
    program: Program,
    learned: Mapping[str, Learned],
    places: Mapping[str, _Place],
    weights: Mapping[str, Array],
) -> dict[str, Array]:
    """Return the module's biases, by name, that fold to those learned behind the weights given."""
    same = {k: v for k, v in weights.items() if v.shape == program.state[k].shape}
    names = [place.bias for place in places.values() if place.bias is not None]
    constants, ones = (
        _folded(_with(program, {**same, **_filled(program, names, value)})) for value in (0, 1)
    )
    out = {}
    for layer, new in learned.items():
        constant, name = _bias(constants[layer]), places[layer].bias
        wanted, where = _bias(new), f"{program.file}: {places[layer].weight}"
        if name is None:
            if wanted.shape != constant.shape or np.any(np.abs(wanted - constant) > _NOTHING):
                raise InputError(
                    f"{where}: the layer has learned a bias, and the module has none there; make "
                    f"it with bias=True"
                )
            continue
        slope = _bias(ones[layer]) - constant
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


def _filled(program: Program, names: Iterable[str], value: float) -> dict[str, Array]:
    return {n: np.full(program.state[n].shape, value, np.float32) for n in names}


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
