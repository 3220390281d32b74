"""The channels with most information that a budget takes, whatever their layers.

For each layer that may be the earliest, the gradients that must be handed on to it are a fixed
cost; what is left of both budgets is filled with channels, each with a gain, bytes and MACs: a
knapsack with two limits.  It is solved by greedy orders, one for each exchange rate of bytes and
MACs, and bounded by the relaxation of the same rates.

How far off: of up to 10 items it gets 99.8 % of the best sum on average and 91 % at worst, by brute
force; of 3,000, the size of a network, more than 99 % of its bound (tests/test_strategies.py).  An
exact solver would close that, but the sum of Fisher information is itself a guess: the choice is
no better than that of `tinytrain` (docs/results/studies/strategies.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kilograd.errors import InputError, option
from kilograd.ir import Array
from kilograd.passes import Part
from kilograd.select.cost import WEIGHT_BYTES, backward_memory
from kilograd.select.greedy import (
    INSPECTED,
    Candidate,
    channels_at,
    least_macs,
    limits,
    over_memory,
    reason,
    too_small,
)
from kilograd.select.selection import (
    Budget,
    Demand,
    Evidence,
    Parameter,
    Selection,
    best_first,
    filters,
    weight,
)

ChannelGains = Mapping[str, Array]
"""What it is worth that a channel learns: [channels] for each layer, not negative."""

_RATES = 33  # exchange rates of bytes and MACs that are tried
_TRIES = 8  # times that a choice which the compiler refuses is made smaller


@dataclass(frozen=True)
class Packing:
    """Which items were taken, what they are worth, and what no choice can exceed."""

    taken: Array
    value: float
    bound: float


def pack(values: Array, costs: Array, room: Array) -> Packing:
    """Fill two rooms at once with items: values [n], costs [n, 2], room [2], infinite is no limit.

    At each exchange rate items are taken by what they are worth for their price; ties go to the
    lower one.  The bound is the least, over the rates, that fractions of items would be worth.
    """
    count = len(values)
    fits = np.flatnonzero((costs <= room).all(axis=1) & (room >= 0).all())
    values, costs = values[fits], costs[fits]
    shares = np.divide(costs, room, out=np.zeros_like(costs), where=costs > 0)
    best, bound = fits[:0], float(values.sum())
    for rate in np.linspace(0, 1, _RATES):
        price = shares @ np.array([1 - rate, rate])
        worth = np.divide(values, price, out=np.full(len(values), math.inf), where=price > 0)
        order = np.argsort(-worth, kind="stable")
        bound = min(bound, _relaxed(values[order], price[order]))
        taken = _taken(costs, room, order)
        if values[taken].sum() > values[best].sum():
            best = taken
    chosen = np.zeros(count, bool)
    chosen[fits[best]] = True
    return Packing(chosen, float(values[best].sum()), bound)


def _relaxed(values: Array, price: Array) -> float:
    """Return what items are worth, best first, until their prices add up to 1."""
    before = np.cumsum(price) - price
    part = np.divide(1 - before, price, out=np.ones(len(price)), where=price > 0)
    return float((values * np.clip(part, 0, 1)).sum())


def _taken(costs: Array, room: Array, order: Array) -> Array:
    """Return the items that are taken in order, passing over those that no longer fit."""
    taken = []
    left = room.astype(np.float64)
    while len(order):
        order = order[(costs[order] <= left).all(axis=1)]
        fits = (np.cumsum(costs[order], axis=0) <= left).all(axis=1)
        count = len(order) if fits.all() else int(np.argmin(fits))
        taken.append(order[:count])
        left = left - costs[order[:count]].sum(axis=0)
        order = order[count:]
    return np.concatenate(taken) if taken else order


@dataclass(frozen=True)
class Knapsack:
    """Channels by Fisher information, of the last `inspected` convolutions.

    `depthwise`: depthwise layers may learn too.  `rounding`: information counts in proportion to
    the step that an int8 weight would take, where that is less than one code: what rounds away
    teaches nothing.
    """

    depthwise: bool = True
    rounding: bool = False
    inspected: int = INSPECTED

    def __call__(self, evidence: Evidence, budget: Budget) -> Selection:
        """Choose.  Raises `InputError` without images, or where not one channel fits."""
        layers = tuple(
            x
            for x in evidence.layers[-self.inspected :]
            if self.depthwise or not evidence.depthwise(x)
        )
        if not layers:
            raise InputError(
                f"{option('method')} pointwise-knapsack: the last {self.inspected} convolutions of "
                f"{evidence.name} are depthwise; use knapsack"
            )
        fisher = evidence.fisher(layers)
        gains: ChannelGains = fisher
        if self.rounding:
            steps = evidence.steps(layers)
            gains = {x: fisher[x] * np.minimum(steps[x], 1) for x in layers}
        candidates = [
            Candidate(x, best_first(gains[x]), float(fisher[x].sum()), float(gains[x].sum()))
            for x in layers
        ]
        within = limits(evidence, budget)
        chosen = _Search(evidence, within, candidates, gains).best()
        reasons = []
        for c in candidates:
            count = chosen.get(c.layer, 0)
            why = "" if count else _why(evidence, within, candidates, chosen, c)
            reasons.append(reason(evidence, c, count, why))
        learn = _learn(evidence, candidates, chosen)
        return Selection(learn, reasons=tuple(reasons), within=within)


class _Search:
    """Every earliest layer, the most promising first."""

    def __init__(
        self,
        evidence: Evidence,
        budget: Budget,
        candidates: Sequence[Candidate],
        gains: ChannelGains,
    ) -> None:
        self.evidence, self.budget, self.candidates = evidence, budget, candidates
        share = 1.0 if budget.channels is None else budget.channels
        tops = [c.order[: channels_at(share, len(c.order))] for c in candidates]
        self.layer = np.repeat(np.arange(len(tops)), [len(t) for t in tops])
        self.values = np.concatenate(
            [gains[c.layer][list(t)] for c, t in zip(candidates, tops, strict=True)]
        ).astype(np.float64)
        counts = np.array([len(c.order) for c in candidates])
        whole = [(evidence.weights(c.layer).size, evidence.macs(c.layer)) for c in candidates]
        self.costs = (np.array(whole) / counts[:, None])[self.layer]

    def best(self) -> dict[str, int]:
        """Return how many channels of each layer learn, best first.

        A layer is tried only while its bound is above what was found: most are never compiled.
        """
        floor = self._floor()
        rooms = {i: self._room(i, floor) for i in range(len(self.candidates))}
        bounds = {i: self._pack(self.layer >= i, room).bound for i, room in rooms.items()}
        found: dict[str, int] = {}
        value = 0.0
        for i in sorted(bounds, key=lambda i: (-bounds[i], i)):
            if bounds[i] <= value:
                break
            chosen, gain = self._fitted(i, rooms[i])
            if gain > value:
                found, value = chosen, gain
        if not found:
            smallest = [{c.layer: 1} for c in self.candidates]
            selections = [
                Selection(_learn(self.evidence, self.candidates, one)) for one in smallest
            ]
            raise too_small(self.evidence, self.budget, selections)
        return found

    def _floor(self) -> Demand:
        """Return bytes and MACs that a program needs whatever learns, the head's for one."""
        thin = {self.candidates[-1].layer: 1}
        cost, learn = self._cost(thin), _learn(self.evidence, self.candidates, thin)
        macs = least_macs(self.evidence, learn)
        return Demand(cost.sram - int(self.costs[-1, 0]), cost.backward_macs - macs)

    def _room(self, first: int, floor: Demand) -> Array:
        """Return bytes and MACs that are left if `first` is the earliest layer that learns."""
        thin = _learn(self.evidence, self.candidates, {self.candidates[first].layer: 1})
        handed = least_macs(self.evidence, thin) - self.costs[self.layer == first][0, 1]
        sram, compute = self.budget.sram, self.budget.compute
        return np.array(
            [
                min(math.inf if sram is None else sram - floor.sram, self._weights(first, thin)),
                math.inf if compute is None else compute - handed - floor.backward_macs,
            ]
        )

    def _weights(self, first: int, thin: Mapping[Parameter, Part]) -> float:
        """Return how many weights the memory that TinyTrain counts has room for."""
        limit = self.budget.backward_memory
        if limit is None:
            return math.inf
        own = self.costs[self.layer == first][0, 0]
        return own + (limit - backward_memory(self.evidence, Selection(thin))) // WEIGHT_BYTES

    def _fitted(self, first: int, room: Array) -> tuple[dict[str, int], float]:
        """Pack, and make room smaller until the compiler admits the choice.

        What else learns costs (states, sums) is found out by asking about one channel of each
        layer chosen: the rest grows in proportion.  If even that is too much, maps kept for the
        backward pass are: the layer that is worth least goes.
        """
        room, members = room.copy(), self.layer >= first
        for _ in range(_TRIES):
            packed = self._pack(members, room)
            counts = np.bincount(self.layer[packed.taken], minlength=len(self.candidates))
            chosen = {c.layer: int(n) for c, n in zip(self.candidates, counts, strict=True) if n}
            if not chosen:
                break
            over = self._over_memory(chosen)
            if over > 0:
                room[0] = self.costs[packed.taken, 0].sum() - over / WEIGHT_BYTES
                continue
            cost = self._cost(chosen)
            if self.budget.admits(cost):
                return chosen, packed.value
            if self.budget.compute is not None and cost.backward_macs > self.budget.compute:
                used = self.costs[packed.taken, 1].sum()
                room[1] = used - (cost.backward_macs - self.budget.compute)
            if self.budget.sram is not None and cost.sram > self.budget.sram:
                thin = self._cost(dict.fromkeys(chosen, 1)).sram
                members &= counts[self.layer] > 0
                if thin > self.budget.sram:
                    worth = np.bincount(self.layer[packed.taken], self.values[packed.taken])
                    worst = min(np.flatnonzero(counts), key=lambda i: worth[i])
                    members &= self.layer != worst
                else:
                    used = self.costs[packed.taken, 0].sum()
                    least = sum(self.costs[self.layer == i][0, 0] for i in np.flatnonzero(counts))
                    share = (self.budget.sram - thin) / (cost.sram - thin)
                    room[0] = min(least + (used - least) * share, used - 1)
        return {}, 0.0

    def _over_memory(self, chosen: Mapping[str, int]) -> int:
        selection = Selection(_learn(self.evidence, self.candidates, chosen))
        return over_memory(self.evidence, self.budget, selection)

    def _pack(self, members: Array, room: Array) -> Packing:
        where = np.flatnonzero(members)
        packed = pack(self.values[where], self.costs[where], room)
        taken = np.zeros(len(self.values), bool)
        taken[where[packed.taken]] = True
        return Packing(taken, packed.value, packed.bound)

    def _cost(self, chosen: Mapping[str, int]) -> Demand:
        return self.evidence.cost(Selection(_learn(self.evidence, self.candidates, chosen)))


def _learn(
    evidence: Evidence, candidates: Sequence[Candidate], chosen: Mapping[str, int]
) -> dict[Parameter, Part]:
    """Return the parts that learn: of each layer chosen, so many of its best channels."""
    return {
        weight(c.layer): filters(evidence, c.layer, c.order[: chosen[c.layer]])
        for c in candidates
        if c.layer in chosen
    }


def _why(
    evidence: Evidence,
    budget: Budget,
    candidates: Sequence[Candidate],
    chosen: Mapping[str, int],
    c: Candidate,
) -> str:
    """Say why nothing of a layer learns."""
    macs = least_macs(evidence, _learn(evidence, candidates, {c.layer: 1}))
    if budget.compute is not None and macs > budget.compute:
        return f"compute: {macs:,} of {budget.compute:,} MACs for one channel"
    thin = Selection(_learn(evidence, candidates, {c.layer: 1}))
    if over_memory(evidence, budget, thin):
        need, limit = backward_memory(evidence, thin), budget.backward_memory
        return f"backward memory: {need:,} of {limit:,} bytes for one channel"
    if evidence.layers.index(c.layer) < min(map(evidence.layers.index, chosen)):
        return "handing gradients on to it costs more than it gains"
    return "others gain more for what they cost"
