"""The weights of one convolution learn, of a share of its channels: the parts of an analysis.

MCUNetV3 takes the widest input channels; TinyTrain output channels, by Fisher information, and
compares them with those of the largest norm and with random ones (figures 4, 9 and 10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

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
from kilograd.select.tinytrain import Order, at_random, by_fisher, by_norm

ORDERS: Mapping[str, Order] = {"fisher": by_fisher, "l2": by_norm}
"""How output channels are ranked, by the name that a method ends in; `random:SEED` is another."""

RANDOM = "random"

WHOLE = "[0-9]{1,9}"
_SHARE = rf"{WHOLE}|[0-9]{{0,9}}\.{WHOLE}|{WHOLE}/[1-9][0-9]{{0,8}}"
_METHOD = re.compile(
    rf"weights:(?P<number>{WHOLE}):(?P<share>{_SHARE})"
    rf"(?::(?P<order>{'|'.join(ORDERS)})|:(?P<random>{RANDOM}):(?P<seed>{WHOLE}))?"
)


@dataclass(frozen=True)
class OneLayer:
    """What weights:LAYER:SHARE and its kin say.

    `order`: how output channels are chosen, by name; empty where the widest input channels are.
    """

    number: int
    share: Fraction
    order: str = ""
    seed: int = 0

    @classmethod
    def of(cls, method: str) -> OneLayer | None:
        """Return what a method says, if it is one of these."""
        parts = _METHOD.fullmatch(method)
        if parts is None:
            return None
        order = parts["order"] or parts["random"] or ""
        return cls(int(parts["number"]), Fraction(parts["share"]), order, int(parts["seed"] or 0))

    @property
    def strategy(self) -> Strategy:
        """Return what chooses so."""
        if not self.order:
            return input_channels(self.number, self.share)
        order = at_random(self.seed) if self.order == RANDOM else ORDERS[self.order]
        return output_channels(self.number, self.share, order)


def input_channels(number: int, share: Fraction) -> Strategy:
    """Weights of one convolution learn, numbered from 0: of its widest input channels."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        layer = _layer(evidence, number)
        count = _count(number, layer, share, evidence.inputs(layer), "input")
        return Selection({weight(layer): widest_inputs(evidence, layer, count)})

    return strategy


def output_channels(number: int, share: Fraction, order: Order) -> Strategy:
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


def _count(number: int, layer: str, share: Fraction, channels: int, kind: str) -> int:
    """Return how many channels a share is, rounded down."""
    if not 1 <= int(channels * share) <= channels:
        raise InputError(
            f"{option('method')} weights:{number}: {float(share):g} of the {channels} {kind} "
            f"channels of {layer} cannot learn; give a share from {Fraction(1, channels)} to 1"
        )
    return int(channels * share)
