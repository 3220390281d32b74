"""What each part of a network brings when it alone learns: the contribution analysis, as a file.

Two kinds of parts (MCUNetV3): the biases of the last k convolutions, and the weights of one
convolution, of a share of its input channels, those with the largest norm.  A gain is accuracy
after learning less that of the head alone, on the same episodes.

    {"network": "digits", "fingerprint": "5e1f...", "settings": {"--seed": 0},
     "layers": ["stem", "blocks.0.pw1"],
     "gains": [{"data": null, "episodes": 16, "head": 0.71,
                "biases": [{"mean": 0.01, "half_width": 0.005}, ...],
                "weights": {"blocks.0.pw1": {"0.125": {"mean": 0.02, "half_width": 0.01}, ...}}},
               ...]}

`gains` begins with all episodes together; each data set follows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kilograd.errors import InputError
from kilograd.ir import Graph
from kilograd.select.selection import Budget, Evidence, Selection, Strategy, widest_inputs

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
    `settings`: how it learned, by option.  `sets`: the data sets; what they have together is
    `overall`.
    """

    network: str
    fingerprint: str
    layers: tuple[str, ...]
    settings: Mapping[str, str | float | bool | None]
    overall: Gains
    sets: tuple[Gains, ...]

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
        return {
            "network": self.network,
            "fingerprint": self.fingerprint,
            "settings": dict(self.settings),
            "layers": list(self.layers),
            "gains": [_written(gains) for gains in (self.overall, *self.sets)],
        }

    def check(self, name: str, graph: Graph, path: Path) -> None:
        """Raise `InputError` where this was measured on another network than `name`."""
        if self.fingerprint == fingerprint(graph):
            return
        if self.network == name:
            raise InputError(
                f"{path}: measured on another network called {name!r}, with other layers or "
                f"weights; run kilograd contribution on this one"
            )
        raise InputError(
            f"{path}: measured on network {self.network!r}, not on {name!r}; give --model "
            f"{self.network}, or run kilograd contribution on {name}"
        )


def choices(evidence: Evidence) -> Iterator[Choice]:
    """Yield the layers and shares that can learn: those of at least one channel.

    A layer of three input channels, as the stem, has the shares 1/2 and 1 only.
    """
    for layer in evidence.layers:
        channels = evidence.weights(layer).shape[-1]
        yield from ((layer, share) for share in SHARES if int(channels * share))


def layer_weights(number: int, share: float) -> Strategy:
    """Weights of one convolution learn, numbered from 0: of its widest input channels."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        if number >= len(evidence.layers):
            raise InputError(
                f"--method weights:{number}: {evidence.name} has {len(evidence.layers)} "
                f"convolutions, numbered from 0 to {len(evidence.layers) - 1}"
            )
        layer = evidence.layers[number]
        channels = evidence.weights(layer).shape[-1]
        if not 1 <= int(channels * share) <= channels:
            raise InputError(
                f"--method weights:{number}: {share:g} of the {channels} input channels of {layer} "
                f"cannot learn; give a share from {1 / channels:.3g} to 1"
            )
        return Selection({f"{layer}.weight": widest_inputs(evidence, layer, int(channels * share))})

    return strategy


def fingerprint(graph: Graph) -> str:
    """Return what tells a network from others: of its operators and its parameters' values."""
    sha = hashlib.sha256()
    for node in graph.nodes:
        sha.update(repr((node.name, node.op, node.type, [x.name for x in node.inputs])).encode())
    for name, value in sorted(graph.data.items()):
        sha.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return sha.hexdigest()


def read_contribution(path: Path) -> Contribution:
    """Read what `kilograd contribution` wrote.

    Raises `InputError` if the file cannot be read, is no JSON, or no contribution analysis.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); check the path") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: not JSON ({e}); run kilograd contribution again") from e
    try:
        return _contribution(found)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InputError(
            f"{path}: is no contribution analysis, or a damaged one ({type(e).__name__}: {e}); "
            f"run kilograd contribution again"
        ) from e


def _written(gains: Gains) -> dict[str, object]:
    weights: dict[str, dict[str, object]] = {}
    for (layer, share), gain in gains.weights.items():
        weights.setdefault(layer, {})[str(share)] = vars(gain)
    return {
        "data": gains.data,
        "episodes": gains.episodes,
        "head": gains.head,
        "biases": [vars(gain) for gain in gains.biases],
        "weights": weights,
    }


def _contribution(found: Any) -> Contribution:  # noqa: ANN401 what a file holds may be anything
    layers = tuple(_checked(layer, str) for layer in found["layers"])
    overall, *sets = (_gains(gains, layers) for gains in found["gains"])
    return Contribution(
        _checked(found["network"], str),
        _checked(found["fingerprint"], str),
        layers,
        MappingProxyType(_checked(found["settings"], dict)),
        overall,
        tuple(sets),
    )


def _gains(found: Any, layers: tuple[str, ...]) -> Gains:  # noqa: ANN401
    biases = tuple(map(_gain, found["biases"]))
    weights = {
        (layer, float(share)): _gain(gain)
        for layer, shares in found["weights"].items()
        for share, gain in shares.items()
    }
    if len(biases) != len(layers):
        raise ValueError(f"{len(layers)} layers, and gains of {len(biases)} biases")
    if strange := [x for x in weights if x[0] not in layers or x[1] not in SHARES]:
        raise ValueError(f"weights of {strange[0]}: no such layer, or no such share")
    data = found["data"]
    return Gains(
        None if data is None else _checked(data, str),
        _checked(found["episodes"], int),
        _number(found["head"]),
        biases,
        MappingProxyType(weights),
    )


def _gain(found: Any) -> Gain:  # noqa: ANN401
    return Gain(_number(found["mean"]), _number(found["half_width"]))


def _number(found: object) -> float:
    number = float(_checked(found, int, float))
    if not math.isfinite(number):
        raise ValueError(f"{number}: must be a finite number")
    return number


def _checked(found: Any, *kinds: type) -> Any:  # noqa: ANN401
    """Return what was found; raise a TypeError where it is something else."""
    if type(found) not in kinds:
        raise TypeError(f"{found!r} where {kinds[-1].__name__} should stand")
    return found
