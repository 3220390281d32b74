"""The question, the limits and the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kilograd.ir import Graph
from kilograd.passes import Part


@dataclass(frozen=True)
class Evidence:
    """What a strategy may look at: the network, and its convolutions in execution order."""

    name: str
    graph: Graph
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """What the program may cost; `None` is no limit.  The compiler is the judge."""

    sram: int | None = None


@dataclass(frozen=True)
class Selection:
    """Which parameters of the network learn, and which part of each; and whether the head does."""

    learn: Mapping[str, Part] = field(default_factory=dict)
    head: bool = True


Strategy = Callable[[Evidence, Budget], Selection]


def biases(layers: tuple[str, ...]) -> dict[str, Part]:
    """Select all biases of some layers."""
    return {f"{layer}.bias": Part() for layer in layers}


def weights(layers: tuple[str, ...]) -> dict[str, Part]:
    """Select all weights of some layers."""
    return {f"{layer}.weight": Part() for layer in layers}


def widest_inputs(evidence: Evidence, layer: str, count: int) -> Part:
    """Select the `count` input channels with the largest weight norm ("magnitude+").

    A depthwise layer has one input channel a filter.  Norms are of real weights; ties go to the
    lower channel.
    """
    node = evidence.graph[f"{layer}.weight"]
    quant = node.type.affine
    real = np.moveaxis(evidence.graph.data[node.name].astype(np.float64), quant.axis or 0, -1)
    real = np.moveaxis(real * np.array(quant.scale), -1, quant.axis or 0)
    axis = real.ndim - 1
    energy = (real**2).sum(axis=tuple(range(axis)))
    chosen = np.argsort(-energy, kind="stable")[:count]
    return Part(axis, tuple(sorted(chosen.tolist())))
