"""The least that any other strategy must beat: random layers, and random channels of them."""

from __future__ import annotations

import numpy as np

from kilograd.select.greedy import INSPECTED, Candidate, fill, limits, ratios
from kilograd.select.selection import Budget, Evidence, Selection, Strategy, best_first


def random_layers(seed: int) -> Strategy:
    """Return the strategy that draws both, as many layers as fit; the same for the same seed."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        rng = np.random.default_rng(seed)
        layers = evidence.layers[-INSPECTED:]
        ranked = [layers[i] for i in best_first(rng.random(len(layers)))]
        candidates = [Candidate(x, best_first(rng.random(evidence.channels(x)))) for x in ranked]
        return fill(evidence, limits(evidence, budget), candidates, ratios(budget))

    return strategy
