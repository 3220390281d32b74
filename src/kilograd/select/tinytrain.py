"""TinyTrain: layers by Fisher potential over cost, channels by Fisher information.

Kwon et al., ICML 2024: equations 2 and 3, Algorithm 1.  Its code was never published; what the
paper leaves open is a field of `TinyTrain`, and its default is our reading of the tables.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kilograd.select.greedy import (
    COMPUTE,
    INSPECTED,
    MEMORY,
    RATIO,
    Candidate,
    fill,
    limits,
    ratios,
)
from kilograd.select.selection import Budget, Evidence, Selection, best_first, output_energies


class Criterion(enum.StrEnum):
    """What layers are ranked by: potential P, alone or over weights W and MACs M."""

    POTENTIAL = "P"
    PER_WEIGHT = "P/W"
    PER_MAC = "P/M"
    PER_COST = "P/(W*M)"

    def score(self, potential: float, weights: float, macs: float) -> float:
        """Rank a layer; `weights` and `macs` are shares of the most of any layer (eq. 3)."""
        match self:
            case Criterion.POTENTIAL:
                return potential
            case Criterion.PER_WEIGHT:
                return potential / weights
            case Criterion.PER_MAC:
                return potential / macs
            case Criterion.PER_COST:
                return potential / (weights * macs)


Order = Callable[[Evidence, str], tuple[int, ...]]
"""Ranks the output channels of a layer, best first."""


def by_fisher(evidence: Evidence, layer: str) -> tuple[int, ...]:
    """Rank channels by the Fisher information that the images to learn from give them."""
    return best_first(evidence.fisher((layer,))[layer])


def by_norm(evidence: Evidence, layer: str) -> tuple[int, ...]:
    """Rank channels by the norm of their real weights."""
    return best_first(output_energies(evidence, layer))


def at_random(seed: int) -> Order:
    """Return what ranks channels at random: the same for the same seed, layer by layer."""

    def order(evidence: Evidence, layer: str) -> tuple[int, ...]:
        rng = np.random.default_rng([seed, evidence.layers.index(layer)])
        return best_first(rng.random(evidence.channels(layer)))

    return order


@dataclass(frozen=True)
class TinyTrain:
    """Layers by `criterion`, as many as fit; of each, the channels with most information.

    `inspected`: the last convolutions, of which to choose.  `ratios`: shares of a layer's channels
    to try, largest first; a budget's own share takes their place.  `compute`: the share of a full
    backward pass where work is not limited.  `memory`: bytes of RAM where no memory is.  `skip`: a
    layer that does not fit is passed over, and does not end the search.  `bias`: biases of these
    layers learn too.  `order`: how else channels are ranked, to compare with (figures 4 and 6b).
    """

    criterion: Criterion = Criterion.PER_COST
    inspected: int = INSPECTED
    ratios: tuple[float, ...] = (RATIO,)
    compute: float = COMPUTE
    memory: int = MEMORY
    skip: bool = True
    bias: bool = False
    order: Order | None = None

    def __call__(self, evidence: Evidence, budget: Budget) -> Selection:
        """Choose.  Raises `InputError` without images, or where not one layer fits."""
        layers = evidence.layers[-self.inspected :]
        fisher = evidence.fisher(layers)
        potentials = {x: float(fisher[x].sum(dtype="float64")) for x in layers}
        scores = layer_scores(evidence, potentials, self.criterion)
        ranked = sorted(layers, key=lambda x: -scores[x])
        candidates = [
            Candidate(
                x,
                self.order(evidence, x) if self.order else best_first(fisher[x]),
                potentials[x],
                scores[x],
            )
            for x in ranked
        ]
        shares = ratios(budget, self.ratios)
        within = limits(evidence, budget, self.compute, self.memory)
        return fill(evidence, within, candidates, shares, skip=self.skip, bias=self.bias)


def layer_scores(
    evidence: Evidence, potentials: dict[str, float], criterion: Criterion
) -> dict[str, float]:
    """Return the score of each layer that has a potential.

    Weights and MACs are shares of the most that any layer of the network has, inspected or not,
    as equation 3 says.  Other maxima would multiply every score by the same number.
    """
    weights = {x: evidence.weights(x).size for x in evidence.layers}
    macs = {x: evidence.macs(x) for x in evidence.layers}
    most_weights, most_macs = max(weights.values()), max(macs.values())
    return {
        x: criterion.score(p, weights[x] / most_weights, macs[x] / most_macs)
        for x, p in potentials.items()
    }
