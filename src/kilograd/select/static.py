"""Plans that look at no image: TinyTrain's rule as if all layers mattered alike.

The rule's divisor alone ranks layers; it spans three orders of magnitude in MCUNet.  Channels are
those with the largest weights, or any.
"""

from __future__ import annotations

from kilograd.select.greedy import INSPECTED, Candidate, fill, limits, ratios
from kilograd.select.selection import (
    Budget,
    Evidence,
    Selection,
    Strategy,
)
from kilograd.select.tinytrain import Criterion, Order, at_random, by_norm, layer_scores


def static_l2(evidence: Evidence, budget: Budget) -> Selection:
    """Channels by the norm of their weights, in real units."""
    return _static(evidence, budget, by_norm)


def static_random(seed: int) -> Strategy:
    """Return the strategy that draws channels at random, the same for the same seed."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        return _static(evidence, budget, at_random(seed))

    return strategy


def _static(evidence: Evidence, budget: Budget, order: Order) -> Selection:
    alike = dict.fromkeys(evidence.layers[-INSPECTED:], 1.0)
    scores = layer_scores(evidence, alike, Criterion.PER_COST)
    ranked = sorted(scores, key=lambda x: -scores[x])
    candidates = [Candidate(x, order(evidence, x), score=scores[x]) for x in ranked]
    return fill(evidence, limits(evidence, budget), candidates, ratios(budget))
