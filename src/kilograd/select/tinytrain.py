"""TinyTrain: layers by Fisher potential over cost, channels by Fisher information.

Kwon et al., ICML 2024: equations 2 and 3, Algorithm 1.  Its code was never published; what the
paper leaves open is a field of `TinyTrain`, and its default is our reading of the tables.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kilograd.select.greedy import COMPUTE, INSPECTED, RATIO, Candidate, fill, limits, ratios
from kilograd.select.selection import Budget, Evidence, Selection, best_first


class Criterion(enum.StrEnum):
    """What layers are ranked by: potential P, alone or over weights W and MACs M."""

    POTENTIAL = "P"
    PER_WEIGHT = "P/W"
    PER_MAC = "P/M"
    PER_COST = "P/(W*M)"

    def score(self, potential: float, weights: float, macs: float) -> float:
        """Rank a layer; `weights` and `macs` are shares of the largest layer's (eq. 3)."""
        match self:
            case Criterion.POTENTIAL:
                return potential
            case Criterion.PER_WEIGHT:
                return potential / weights
            case Criterion.PER_MAC:
                return potential / macs
            case Criterion.PER_COST:
                return potential / (weights * macs)


@dataclass(frozen=True)
class TinyTrain:
    """Layers by `criterion`, as many as fit; of each, the channels with most information.

    `inspected`: the last convolutions, of which to choose.  `ratios`: shares of a layer's channels
    to try, largest first; a budget's own share takes their place.  `compute`: the share of a full
    backward pass where no budget is set.  `skip`: a layer that does not fit is passed over, and
    does not end the search.  `bias`: biases of these layers learn too.
    """

    criterion: Criterion = Criterion.PER_COST
    inspected: int = INSPECTED
    ratios: tuple[float, ...] = (RATIO,)
    compute: float = COMPUTE
    skip: bool = True
    bias: bool = False

    def __call__(self, evidence: Evidence, budget: Budget) -> Selection:
        """Choose.  Raises `InputError` without images, or where not one layer fits."""
        layers = evidence.layers[-self.inspected :]
        fisher = evidence.fisher(layers)
        potentials = {x: float(fisher[x].sum(dtype="float64")) for x in layers}
        scores = layer_scores(evidence, potentials, self.criterion)
        ranked = sorted(layers, key=lambda x: -scores[x])
        candidates = [Candidate(x, best_first(fisher[x]), potentials[x], scores[x]) for x in ranked]
        shares = ratios(budget, self.ratios)
        within = limits(evidence, budget, self.compute)
        return fill(evidence, within, candidates, shares, skip=self.skip, bias=self.bias)


def layer_scores(
    evidence: Evidence, potentials: dict[str, float], criterion: Criterion
) -> dict[str, float]:
    """Return the score of each layer that has a potential."""
    weights = {x: evidence.weights(x).size for x in potentials}
    macs = {x: evidence.macs(x) for x in potentials}
    most_weights, most_macs = max(weights.values()), max(macs.values())
    return {
        x: criterion.score(p, weights[x] / most_weights, macs[x] / most_macs)
        for x, p in potentials.items()
    }
