"""The question, the limits and the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kilograd.errors import InputError
from kilograd.ir import Array, Graph
from kilograd.passes import Part

Inspect = Callable[[tuple[str, ...]], Mapping[str, Array]]
"""Runs the support through the network: the Fisher information of each channel of some layers."""


@dataclass(frozen=True)
class Cost:
    """What a selection costs as a program: bytes of RAM, and multiply-accumulates of one backward
    pass, weight gradients included.
    """

    sram: int
    backward_macs: int


@dataclass(frozen=True)
class Evidence:
    """What a strategy may look at.

    The network, its convolutions in execution order, what the compiler says a selection costs, and
    the images to learn from, where there are any.
    """

    name: str
    graph: Graph
    layers: tuple[str, ...]
    cost: Callable[[Selection], Cost] = lambda selection: Cost(0, 0)
    inspect: Inspect | None = None

    def fisher(self, layers: tuple[str, ...]) -> Mapping[str, Array]:
        """Return float32 [channels] for each layer: the mean over the support (TinyTrain, eq. 2).

        Raises `InputError` where there are no images.
        """
        if self.inspect is None:
            raise InputError(
                "--method: this one looks at images to learn from; use kilograd adapt, or write its "
                "choice to a plan file and give that"
            )
        return self.inspect(layers)

    def macs(self, layer: str) -> int:
        """Return the multiply-accumulates of a layer's forward pass."""
        node = self.graph[layer]
        return node.op.macs(node)


@dataclass(frozen=True)
class Budget:
    """What the program may cost; `None` is no limit.  The compiler is the judge.

    `sram`: bytes of RAM.  `compute`: backward MACs of a sample.  `channels`: the share of a layer's
    channels that learns, in (0, 1].
    """

    sram: int | None = None
    compute: int | None = None
    channels: float | None = None

    def admits(self, cost: Cost) -> bool:
        """Say whether a program of that cost is within the budget."""
        return (self.sram is None or cost.sram <= self.sram) and (
            self.compute is None or cost.backward_macs <= self.compute
        )


@dataclass(frozen=True)
class Selection:
    """Which parameters of the network learn, and which part of each; and whether the head does.

    `graph`: the network with what the strategy adds to it; `None`: as it is.
    """

    learn: Mapping[str, Part] = field(default_factory=dict)
    head: bool = True
    graph: Graph | None = None


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
