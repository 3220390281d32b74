"""The published SparseUpdate plans: last-k biases, and input channels of some layers.

Numbers are from the compilation scripts of tiny-training (MIT licence), read as facts: layers
are numbered in execution order, a ratio is of a layer's input channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kilograd.errors import InputError, option
from kilograd.ir import Graph, architecture
from kilograd.select.selection import (
    Budget,
    Evidence,
    Selection,
    Strategy,
    biases,
    weight,
    widest_inputs,
)


@dataclass(frozen=True)
class UpdatePlan:
    """Biases of the last `k` convolutions, and `ratio` of the input channels of each `layer`."""

    k: int
    layers: tuple[int, ...]
    ratios: tuple[float, ...]


_1, _2, _4, _8 = 1.0, 0.5, 0.25, 0.125
_MBV2 = (27, 30, 33, 36, 39, 42, 45, 48)
_PROXYLESS = (36, 39, 42, 45, 48, 51, 54, 57)

#: By network and published label.  Layers printed with ratio 0 are left out: only biases learn.
PLANS = {
    "mcunet-5fps": {
        "49kb": UpdatePlan(20, (24, 27, 30), (_4, _2, _2)),
        "74kb": UpdatePlan(21, (21, 24, 27, 30), (_1, _1, _2, _1)),
        "99kb": UpdatePlan(22, (21, 24, 27, 30, 36, 39), (_1, _1, _1, _1, _8, _4)),
        "124kb": UpdatePlan(24, (21, 24, 27, 30, 33, 39), (_4, _1, _1, _1, _2, _2)),
        "148kb": UpdatePlan(23, (21, 24, 27, 30, 36, 39), (_1, _1, _1, _1, _1, _2)),
    },
    "mbv2-w0.35": {
        "49kb": UpdatePlan(16, (36, 39, 41, 42, 45, 48, 49), (_1, _1, _4, _8, _8, _8, _8)),
        "73kb": UpdatePlan(20, (32, 33, 36, 39, 41, 42, 45, 48), (_8, _2, _2, _1, _4, _8, _8, _1)),
        "99kb": UpdatePlan(25, _MBV2, (_1, _1, _1, _1, _1, _8, _2, _1)),
        "123kb": UpdatePlan(31, _MBV2, (_1, _1, _1, _1, _1, _2, _1, _1)),
        "138kb": UpdatePlan(34, _MBV2, (_1,) * 8),
    },
    "proxyless-w0.3": {
        "49kb": UpdatePlan(21, (39, 42, 45, 51, 54, 57), (_4, _1, _1, _8, _4, _4)),
        "74kb": UpdatePlan(28, (33, 36, 39, 42, 45, 51, 54, 57), (_2, _4, _1, _1, _1, _2, _4, _2)),
        "98kb": UpdatePlan(25, _PROXYLESS, (_1, _2, _1, _1, _4, _2, _1, _1)),
        "120kb": UpdatePlan(32, _PROXYLESS, (_1, _1, _1, _1, _2, _1, _1, _1)),
        "148kb": UpdatePlan(45, _PROXYLESS, (_1,) * 8),
    },
}


#: The networks that the plans are of, by architecture: whatever their weights and image size.
ARCHITECTURES = {
    "396d99fbdf1e15d7dbff995cd18944a8e3381f782f68da34b2926c2a2b849866": "mcunet-5fps",
    "2e98505df5681f7d1aaf04948dc62a7121e45e1d0cbbae73705cc4b840d89549": "mbv2-w0.35",
    "81dc5d27e1ea3e4630662af738695358e1a6639891de017a38529c2848f55a91": "proxyless-w0.3",
}


def published_plans(graph: Graph) -> Mapping[str, UpdatePlan]:
    """Return the plans that were published for a network's architecture, by label."""
    return PLANS.get(ARCHITECTURES.get(architecture(graph), ""), {})


def sparse_update(label: str) -> Strategy:
    """Return the strategy that follows a published plan of the network at hand."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        plans = published_plans(evidence.graph)
        if not plans:
            raise InputError(
                f"{option('method')} sparse-{label}: no plan was published for the layers of "
                f"{evidence.name}; there are plans for {', '.join(PLANS)} and networks with the "
                "same layers"
            )
        if label not in plans:
            known = ", ".join(f"sparse-{x}" for x in plans)
            raise InputError(
                f"{option('method')} sparse-{label}: the plans for {evidence.name} are {known}"
            )
        return _followed(evidence, plans[label])

    return strategy


def within_100kb(evidence: Evidence, budget: Budget) -> Selection:
    """Follow the largest published plan of the network at hand within 100 KB of analytic memory.

    That is the budget of both papers' comparisons; labels are whole KB, cut off.
    """
    labels = [x for x in published_plans(evidence.graph) if int(x.removesuffix("kb")) < 100]
    return sparse_update(labels[-1] if labels else "100kb")(evidence, budget)


def _followed(evidence: Evidence, plan: UpdatePlan) -> Selection:
    learn = biases(evidence.layers[-plan.k :])
    for i, ratio in zip(plan.layers, plan.ratios, strict=True):
        layer = evidence.layers[i]
        channels = evidence.inputs(layer)
        learn[weight(layer)] = widest_inputs(evidence, layer, int(channels * ratio))
    return Selection(learn)
