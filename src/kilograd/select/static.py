"""Plans that look at no image: TinyTrain's rule as if all layers mattered alike.

The rule's divisor spans three orders of magnitude in MCUNet, so that potentials rarely change which
layers it picks; left to choose is which channels learn: those with the largest weights, or any.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kilograd.select.greedy import INSPECTED, Candidate, fill, limits, ratios
from kilograd.select.selection import (
    Budget,
    Evidence,
    Selection,
    Strategy,
    best_first,
    output_energies,
)
from kilograd.select.tinytrain import Criterion, layer_scores

Order = Callable[[Evidence, str], tuple[int, ...]]


def static_l2(evidence: Evidence, budget: Budget) -> Selection:
    """Channels by the norm of their weights, in real units."""
    return _static(evidence, budget, lambda e, layer: best_first(output_energies(e, layer)))


def static_random(seed: int) -> Strategy:
    """Return the strategy that draws channels at random, the same for the same seed."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        rng = np.random.default_rng(seed)
        return _static(evidence, budget, lambda e, x: best_first(rng.random(e.channels(x))))

    return strategy


def _static(evidence: Evidence, budget: Budget, order: Order) -> Selection:
    alike = dict.fromkeys(evidence.layers[-INSPECTED:], 1.0)
    scores = layer_scores(evidence, alike, Criterion.PER_COST)
    ranked = sorted(scores, key=lambda x: -scores[x])
    candidates = [Candidate(x, order(evidence, x), score=scores[x]) for x in ranked]
    return fill(evidence, limits(evidence, budget), candidates, ratios(budget))
