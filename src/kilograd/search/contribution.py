"""What each part of a network brings when it alone learns: the contribution analysis, as a file.

Two kinds of parts (MCUNetV3): the biases of the last k convolutions, and the weights of one
convolution, of a share of its input channels, those with the largest norm.  A gain is accuracy
after learning less that of the head alone, on the same episodes.

    {"network": "digits", "fingerprint": "5e1f...", "architecture": "6642...", "size": 16,
     "settings": {"--seed": 0}, "layers": ["stem", "blocks.0.pw1"],
     "gains": [{"data": null, "episodes": 16, "head": 0.71,
                "biases": [{"mean": 0.01, "half_width": 0.005}, ...],
                "weights": {"blocks.0.pw1": {"0.125": {"mean": 0.02, "half_width": 0.01}, ...}}},
               ...],
     "efforts": {"blocks.0.pw1": {"0.125": {"parameters": 512, "macs": 131072}, ...}},
     "sha256": "9a3c..."}

`gains` begins with all episodes together; each data set follows.  `size`, of the images in pixels,
`efforts` and `sha256`, a checksum of the rest, may be absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct

from kilograd import limits
from kilograd.errors import InputError, option
from kilograd.ir import Graph, ShapeError, architecture, fingerprint
from kilograd.names import distinct, identifier, label
from kilograd.passes import resize
from kilograd.reading import read_json, require_checksum, typed, with_checksum
from kilograd.select.selection import Evidence

_Told = TypeVar("_Told")

SHARES = (0.125, 0.25, 0.5, 1.0)
"""The shares of a layer's input channels that are tried."""

Choice = tuple[str, float]
"""A layer, and the share of its input channels whose weights learn."""


@dataclass(frozen=True)
class Gain:
    """Accuracy gained, in -1 ... 1, and half the width of its 95 % interval over episodes."""

    mean: float
    half_width: float


@dataclass(frozen=True)
class Effort:
    """What it takes to learn a choice, beyond the head alone: scalars that are updated, and MACs of
    the compiled program's backward pass.
    """

    parameters: int
    macs: int


@dataclass(frozen=True)
class Gains:
    """What was found on some episodes: of the data set `data`, or of all (`None`).

    `head`: mean accuracy of the head alone.  `biases[k - 1]` is of the biases of the last k layers.
    `weights` lacks shares that are less than one channel.
    """

    data: str | None
    episodes: int
    head: float
    biases: tuple[Gain, ...]
    weights: Mapping[Choice, Gain]


@dataclass(frozen=True)
class Contribution:
    """What each choice brings to a network, over all episodes and for each data set.

    `fingerprint`: of the network that was measured.  `layers`: its convolutions in execution order.
    `size`: of the images in pixels; None where the file does not say.
    `settings`: how it learned, by option.  `sets`: the data sets; what they have together is
    `overall`.  `architecture`: of all networks that this is good for; without it, for one only.
    `efforts`: of the choices of weights; empty where the file does not say.
    """

    network: str
    fingerprint: str
    layers: tuple[str, ...]
    settings: Mapping[str, str | float | bool | None]
    overall: Gains
    sets: tuple[Gains, ...]
    size: int | None = None
    architecture: str | None = None
    efforts: Mapping[Choice, Effort] = field(default_factory=dict)

    @property
    def biases(self) -> tuple[Gain, ...]:
        """`biases[k - 1]`: of the biases of the last k layers, over all episodes."""
        return self.overall.biases

    @property
    def weights(self) -> Mapping[Choice, Gain]:
        """By layer and share, over all episodes."""
        return self.overall.weights

    def to_json(self) -> dict[str, object]:
        """Return what a file holds."""
        return with_checksum(
            {
                "network": self.network,
                "fingerprint": self.fingerprint,
                **({} if self.architecture is None else {"architecture": self.architecture}),
                **({} if self.size is None else {"size": self.size}),
                "settings": dict(self.settings),
                "layers": list(self.layers),
                "gains": [_written(gains) for gains in (self.overall, *self.sets)],
                **({"efforts": _by_layer(self.efforts)} if self.efforts else {}),
            }
        )

    def of(self, graph: Graph) -> bool:
        """Say whether this is good for a network, at whatever image size."""
        if self.architecture is not None:
            return self.architecture == architecture(graph)
        try:
            same = graph if self.size is None else resize(graph, self.size, self.size)
        except ShapeError:
            return False
        return self.fingerprint == fingerprint(same)

    def check(self, name: str, graph: Graph, layers: tuple[str, ...], path: Path) -> None:
        """Raise `InputError` where this is not good for the network `name`.

        The same network at another image size is no other.
        """
        if self.of(graph):
            known = set(choices(Evidence(name, graph, layers)))
            if self.layers != layers or any(
                set(gains.weights) != known for gains in (self.overall, *self.sets)
            ):
                raise InputError(
                    f"{path}: its layers or shares are not those of {name}, it is damaged; run "
                    f"kilograd contribution again"
                )
            return
        if self.network == name:
            raise InputError(
                f"{path}: measured on another network called {name!r}, with other layers or "
                f"weights; run kilograd contribution on this one"
            )
        raise InputError(
            f"{path}: measured on network {self.network!r}, not on {name!r}; give "
            f"{option('model')} {self.network}, or run kilograd contribution on {name}"
        )


def choices(evidence: Evidence) -> Iterator[Choice]:
    """Yield the layers and shares that can learn: those of at least one channel.

    A layer of three input channels, as the stem, has the shares 1/2 and 1 only.
    """
    for layer in evidence.layers:
        channels = evidence.inputs(layer)
        yield from ((layer, share) for share in SHARES if int(channels * share))


def read_contribution(path: Path) -> Contribution:
    """Read what `kilograd contribution` wrote.

    Raises `InputError` if the file cannot be read, is no JSON, no contribution analysis, or has a
    checksum that is not its own.
    """
    value = read_json(path, dict[str, Any], limits.CONTRIBUTION_BYTES)
    found = typed(value, _Analysis, f"{path}: no contribution analysis, or a damaged one")
    require_checksum(value, str(path))
    layers = distinct(
        (identifier(x, f"{path}: layers[{i}]") for i, x in enumerate(found.layers)),
        str(path),
        "layers",
    )
    efforts = {
        choice: Effort(effort.parameters, effort.macs)
        for choice, effort in _choices(found.efforts, layers, f"{path}: efforts")
    }
    overall, *sets = (_gains(g, layers, f"{path}: gains[{i}]") for i, g in enumerate(found.gains))
    names = [s.data for s in sets]
    if overall.data is not None or None in names:
        raise InputError(
            f"{path}: gains must begin with all data sets, called null, and name others"
        )
    distinct((str(name) for name in names), str(path), "data sets")
    network = identifier(found.network, f"{path}: network")
    settings = MappingProxyType(found.settings)
    return Contribution(
        network,
        found.fingerprint,
        layers,
        settings,
        overall,
        tuple(sets),
        found.size,
        found.architecture,
        MappingProxyType(efforts),
    )


_Share = Annotated[float, Meta(ge=0, le=1)]


class _Gain(Struct, frozen=True):
    mean: Annotated[float, Meta(ge=-1, le=1)]
    half_width: Annotated[float, Meta(ge=0, le=13)]  # of the gains -1 and 1 of two episodes


class _Effort(Struct, frozen=True):
    parameters: Annotated[int, Meta(ge=1, le=limits.MAP_ELEMENTS)]
    macs: Annotated[int, Meta(ge=0, le=1 << 50)]


class _Gains(Struct, frozen=True):
    data: str | None
    episodes: Annotated[int, Meta(ge=2, le=limits.EPISODES)]
    head: _Share
    biases: tuple[_Gain, ...]
    weights: dict[str, dict[str, _Gain]]


class _Analysis(Struct, frozen=True):
    network: str
    fingerprint: Annotated[str, Meta(max_length=64)]
    settings: Annotated[dict[str, str | int | float | bool | None], Meta(max_length=100)]
    layers: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.OPERATORS)]
    gains: Annotated[tuple[_Gains, ...], Meta(min_length=1, max_length=limits.CLASSES)]
    size: Annotated[int, Meta(ge=1, le=limits.RESIZE)] | None = None
    architecture: Annotated[str, Meta(max_length=64)] | None = None
    efforts: dict[str, dict[str, _Effort]] = {}


def _gains(found: _Gains, layers: tuple[str, ...], where: str) -> Gains:
    if len(found.biases) != len(layers):
        raise InputError(f"{where}: {len(layers)} layers, and gains of {len(found.biases)} biases")
    weights = {
        choice: Gain(gain.mean, gain.half_width)
        for choice, gain in _choices(found.weights, layers, f"{where}.weights")
    }
    return Gains(
        None if found.data is None else label(found.data, f"{where}.data"),
        found.episodes,
        found.head,
        tuple(Gain(gain.mean, gain.half_width) for gain in found.biases),
        MappingProxyType(weights),
    )


def _choices(
    found: Mapping[str, Mapping[str, _Told]], layers: tuple[str, ...], where: str
) -> Iterator[tuple[Choice, _Told]]:
    """Yield what is said of layers and shares; `InputError` where there is no such one."""
    shares = {str(share): share for share in SHARES}
    for layer, said in found.items():
        for share, value in said.items():
            if layer not in layers or share not in shares:
                raise InputError(
                    f"{where}: {layer[:80]!r}, {share[:20]!r}: no such layer, or no such "
                    f"share; there are {', '.join(shares)}"
                )
            yield (layer, shares[share]), value


def _written(gains: Gains) -> dict[str, object]:
    return {
        "data": gains.data,
        "episodes": gains.episodes,
        "head": gains.head,
        "biases": [vars(gain) for gain in gains.biases],
        "weights": _by_layer(gains.weights),
    }


def _by_layer(
    found: Mapping[Choice, Gain] | Mapping[Choice, Effort],
) -> dict[str, dict[str, object]]:
    """Return what a file says of choices: by layer, then by share."""
    said: dict[str, dict[str, object]] = {}
    for (layer, share), value in found.items():
        said.setdefault(layer, {})[str(share)] = vars(value)
    return said
