"""An imported network beside the runtime that its file is for, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kilograd.errors import InputError
from kilograd.frontend.files import read_network
from kilograd.frontend.runtimes import runtime_of, runtime_values
from kilograd.ir import Array, Block, interpret
from kilograd.layers.evaluate import codes, dequantised, evaluate
from kilograd.layers.lower import lower
from kilograd.layers.network import Layout, Network, Taken, Value
from kilograd.layers.simplify import simplify

SAMPLES = 4
_CLOSE = 1e-4
"""Of the largest number of a layer: what floats may differ by, added up in another order."""


@dataclass(frozen=True)
class Difference:
    """One layer, over all samples: `differ` of `count` numbers are not those of the runtime.

    `largest`: codes that the worst one is off; of a float network, a share of the largest number.
    """

    name: str
    count: int
    differ: int
    largest: float


@dataclass(frozen=True)
class Checked:
    """An imported file beside its own runtime; `unseen`: what the runtime has no value of."""

    runtime: str
    quantised: bool
    layers: tuple[Difference, ...]
    unseen: tuple[str, ...]

    @property
    def differing(self) -> tuple[Difference, ...]:
        """The layers in which a number differs, in the order of execution."""
        return tuple(x for x in self.layers if x.differ)

    @property
    def exact(self) -> bool:
        """Whether no number differs."""
        return not self.differing


def check(path: Path, samples: int = SAMPLES, seed: int = 0) -> Checked:
    """Compare what is imported from a file with what its runtime computes, for random inputs.

    Codes must be the same; numbers of float networks may differ by 1e-4 of a layer's largest.

    Raises `InputError` where the runtime is missing or refuses the file.
    """
    network = read_network(path)
    plain = simplify(network)
    x = _inputs(network, plain, samples, seed)
    theirs = runtime_values(path, network, x)
    values = _codes(plain, x) if plain.quantised else _reals(plain, x)
    ours = {v: y for v, y in values.items() if v not in plain.inputs}
    layers = tuple(_compared(network.layout, theirs, ours, quantised=plain.quantised))
    if not layers:
        raise InputError(f"{path}: its runtime shows nothing that an imported layer computes too")
    seen = {x.name for x in layers}
    unseen = tuple(v.name for v in ours if v.name not in seen)
    return Checked(runtime_of(path, plain), plain.quantised, layers, unseen)


def _inputs(network: Network, plain: Network, samples: int, seed: int) -> Array:
    """Return random inputs as the file takes them."""
    (given,), (wanted,) = network.inputs, plain.inputs
    rng = np.random.default_rng(seed)
    shape = (samples, *given.shape)
    if wanted.quant is None:
        return rng.normal(size=shape).astype(np.float32)
    drawn = rng.integers(-128, 128, shape, np.int8)
    if given.quant is not None:
        return drawn
    return dequantised(drawn, wanted.quant).astype(np.float32)


def _taken(plain: Network, x: Array) -> Array:
    """Return inputs of the file as the imported network takes them."""
    (wanted,) = plain.inputs
    (taken,) = plain.taken or (Taken(x.shape[1:], tuple(range(x.ndim - 1))),)
    moved = x.reshape(-1, *taken.shape).transpose(0, *(a + 1 for a in taken.order))
    return np.ascontiguousarray(moved).reshape(-1, *wanted.shape)


def _codes(plain: Network, x: Array) -> dict[Value, Array]:
    """Return the codes of every value, [n, ...]."""
    (image,) = plain.inputs
    given = _taken(plain, x)
    if given.dtype != np.int8 and image.quant is not None:
        given = codes(given, image.quant)
    lowered = lower(plain)
    there = {v: n for v, n in lowered.nodes.items() if n in set(lowered.graph.nodes)}
    graph = replace(lowered.graph, outputs=tuple(there.values()))
    rows = [interpret(graph, {"image": one.reshape(graph.inputs()[0].type.shape)}) for one in given]
    found = {}
    for v, n in there.items():
        ys = [row[n.name] for row in rows if not isinstance(row[n.name], Block)]
        found[v] = np.stack([np.asarray(y) for y in ys])
    return found


def _reals(plain: Network, x: Array) -> dict[Value, Array]:
    """Return the reals of every value, [n, ...]."""
    (image,) = plain.inputs
    return evaluate(plain, {image.name: _taken(plain, x)}, list(plain.values()))


def _compared(
    layout: Layout, theirs: Mapping[str, Array], ours: Mapping[Value, Array], *, quantised: bool
) -> Iterator[Difference]:
    """Yield what differs of each value that both have."""
    for v, y in ours.items():
        if v.name not in theirs or theirs[v.name].size != y.size:
            continue
        other = _as_ours(theirs[v.name], layout).reshape(len(y), -1).astype(np.float64)
        apart = np.abs(other - y.reshape(len(y), -1).astype(np.float64))
        scale = 1.0 if quantised else max(float(np.abs(other).max()), 1e-30)
        least = 0.5 if quantised else _CLOSE * scale
        yield Difference(
            v.name, apart.size, int((apart > least).sum()), float(apart.max(initial=0)) / scale
        )


def _as_ours(y: Array, layout: Layout) -> Array:
    """Return a value of the runtime, [n, ...], with channels last."""
    if layout is Layout.CHANNELS_FIRST and y.ndim > 2 and math.prod(y.shape[2:]) > 1:
        return np.moveaxis(y, 1, -1)
    return y
