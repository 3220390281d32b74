"""Baselines that look at nothing but the order of the layers."""

from __future__ import annotations

from kilograd.errors import InputError, option
from kilograd.select.selection import (
    Budget,
    Evidence,
    Selection,
    Strategy,
    biases,
    weights,
)


def none(evidence: Evidence, budget: Budget) -> Selection:
    """Nothing learns by gradient: prototypes of the support alone."""
    return Selection(head=False)


def head(evidence: Evidence, budget: Budget) -> Selection:
    """Only the classifier learns."""
    return Selection()


def full(evidence: Evidence, budget: Budget) -> Selection:
    """Everything learns; may exceed any budget."""
    return Selection({**weights(evidence.layers), **biases(evidence.layers)})


def last(evidence: Evidence, budget: Budget) -> Selection:
    """The weights of the last convolution learn (TinyTrain's LastLayer)."""
    return Selection(weights(evidence.layers[-1:]))


def last_k(k: int) -> Strategy:
    """Weights and biases of the last k convolutions learn."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        layers = _last(evidence, k)
        return Selection({**weights(layers), **biases(layers)})

    return strategy


def bias_k(k: int) -> Strategy:
    """Biases of the last k convolutions learn."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        return Selection(biases(_last(evidence, k)))

    return strategy


def _last(evidence: Evidence, k: int) -> tuple[str, ...]:
    if not 1 <= k <= len(evidence.layers):
        raise InputError(
            f"{option('method')}: {evidence.name} has {len(evidence.layers)} convolutions, {k} "
            "cannot learn"
        )
    return evidence.layers[-k:]
