"""The weights of one convolution learn, of a share of its channels: the parts of an analysis.

MCUNetV3 takes the widest input channels; TinyTrain output channels, by Fisher information, and
compares them with those of the largest norm and with random ones (figures 4, 9 and 10).
"""

from __future__ import annotations

from kilograd.errors import InputError, option
from kilograd.select.selection import (
    Budget,
    Evidence,
    Selection,
    Strategy,
    filters,
    weight,
    widest_inputs,
)
from kilograd.select.tinytrain import Order


def input_channels(number: int, share: float) -> Strategy:
    """Weights of one convolution learn, numbered from 0: of its widest input channels."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        layer = _layer(evidence, number)
        count = _count(number, layer, share, evidence.weights(layer).shape[-1], "input")
        return Selection({weight(layer): widest_inputs(evidence, layer, count)})

    return strategy


def output_channels(number: int, share: float, order: Order) -> Strategy:
    """Weights of one convolution learn, numbered from 0: of the output channels ranked first."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        layer = _layer(evidence, number)
        count = _count(number, layer, share, evidence.channels(layer), "output")
        return Selection({weight(layer): filters(evidence, layer, order(evidence, layer)[:count])})

    return strategy


def _layer(evidence: Evidence, number: int) -> str:
    if number >= len(evidence.layers):
        raise InputError(
            f"{option('method')} weights:{number}: {evidence.name} has {len(evidence.layers)} "
            f"convolutions, numbered from 0 to {len(evidence.layers) - 1}"
        )
    return evidence.layers[number]


def _count(number: int, layer: str, share: float, channels: int, kind: str) -> int:
    """Return how many channels a share is, rounded down."""
    if not 1 <= int(channels * share) <= channels:
        raise InputError(
            f"{option('method')} weights:{number}: {share:g} of the {channels} {kind} channels "
            f"of {layer} cannot learn; give a share from {1 / channels:.3g} to 1"
        )
    return int(channels * share)
