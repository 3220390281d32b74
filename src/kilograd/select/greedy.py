"""As many layers as a budget takes, best first: Algorithm 1 of TinyTrain, for any order.

How far off: nothing is proved.  At 15 % of the work the choice is 4.0 points better than random
layers and as good as `knapsack`; within 64 KiB of RAM random layers are 2.6 points better than it,
and a plan chosen once, by `pointwise-knapsack`, 2.7 (docs/results/studies/strategies.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kilograd.errors import InputError, option
from kilograd.passes import Part
from kilograd.select.cost import backward_memory
from kilograd.select.selection import (
    Budget,
    Demand,
    Evidence,
    Parameter,
    RamError,
    Reason,
    Selection,
    biases,
    filters,
    weight,
)

INSPECTED = 18
"""The last convolutions, of which a strategy chooses: six blocks of three (TinyTrain)."""

COMPUTE = 0.15
"""The share of a full backward pass that may be used where nobody limits work (TinyTrain)."""

MEMORY = 1 << 20
"""The bytes of RAM that `tinytrain` may use where nobody limits memory (TinyTrain: about 1 MB)."""

RATIO = 0.25
"""The share of a layer's channels that learns if nobody says.

TinyTrain has one of 1, 1/2, 1/4, 1/8.  In a prototype a quarter was 1.7 +- 2.2 points better
than a half at equal cost (MCUNet, 32 episodes), as more layers fit.
"""


@dataclass(frozen=True)
class Candidate:
    """A layer that may learn, and its output channels from best to worst.

    `potential` and `score` are for the reader of the result, as in `Reason`.
    """

    layer: str
    order: tuple[int, ...]
    potential: float | None = None
    score: float | None = None


def limits(
    evidence: Evidence, budget: Budget, share: float = COMPUTE, memory: int | None = None
) -> Budget:
    """Return the budget, with `share` of a full backward pass where work is not limited.

    And with `memory` bytes of RAM where no memory is.  A limit of one does not lift the other:
    TinyTrain keeps both.
    """
    if budget.compute is None:
        budget = replace(budget, compute=max(1, int(share * evidence.full_backward())))
    if budget.sram is None and budget.backward_memory is None:
        return replace(budget, sram=memory)
    return budget


def ratios(budget: Budget, otherwise: tuple[float, ...] = (RATIO,)) -> tuple[float, ...]:
    """Return the shares of a layer's channels to try: the budget's own where it has one."""
    return otherwise if budget.channels is None else (budget.channels,)


def least_macs(evidence: Evidence, learn: Mapping[Parameter, Part]) -> int:
    """Return the multiply-accumulates that no backward pass can do without.

    Each layer behind the earliest that learns hands on its gradient; each that learns computes the
    gradient of the weights that do.  The head comes on top, and layers that are run again.
    """
    learning = {parameter.layer for parameter in learn}
    first = min(evidence.layers.index(layer) for layer in learning)
    total = sum(map(evidence.macs, evidence.layers[first + 1 :]))
    for layer in learning:
        part = learn.get(weight(layer))
        if part is not None:
            size = evidence.weights(layer).shape[part.axis]
            count = size if part.index is None else len(part.index)
            total += evidence.macs(layer) * count // size
    return total


def fill(
    evidence: Evidence,
    budget: Budget,
    candidates: Sequence[Candidate],
    shares: Sequence[float],
    *,
    skip: bool = True,
    bias: bool = False,
) -> Selection:
    """Take each candidate at the first of `shares` that the budget admits beside those before it.

    One that does not fit is skipped, or ends the search.  `bias`: biases of these layers learn too.

    Raises `InputError` where the budget admits not even one layer.
    """
    fit = _Fit(evidence, budget)
    reasons: dict[str, Reason] = {}
    for c in candidates:
        why = "a layer before it did not fit"
        count = 0
        if skip or not any(r.chosen == 0 for r in reasons.values()):
            for ratio in shares:
                count = channels_at(ratio, len(c.order))
                why = fit.add(_learn(evidence, c, count, bias=bias))
                if not why:
                    break
        chosen = 0 if why else count
        reasons[c.layer] = reason(evidence, c, chosen, why)
    if not fit.learn:
        smallest = [
            Selection(_learn(evidence, c, channels_at(min(shares), len(c.order)), bias=bias))
            for c in candidates
        ]
        raise too_small(evidence, budget, smallest)
    ordered = tuple(reasons[x] for x in evidence.layers if x in reasons)
    return Selection(fit.learn, reasons=ordered, within=budget)


def channels_at(ratio: float, channels: int) -> int:
    """Return how many channels a ratio means: rounded down, but at least one."""
    return max(1, int(ratio * channels))


def reason(evidence: Evidence, c: Candidate, chosen: int, why: str) -> Reason:
    """Describe what became of a candidate."""
    weights, macs = evidence.weights(c.layer).size, evidence.macs(c.layer)
    return Reason(c.layer, c.potential, weights, macs, c.score, chosen, len(c.order), why)


def too_small(evidence: Evidence, budget: Budget, smallest: Sequence[Selection]) -> InputError:
    """Return the error for a budget that admits none of `smallest`: it names the one nearest.

    Where RAM is what lacks, it is a `RamError`.
    """
    free = replace(budget, sram=None)
    nearest, cost = min(
        ((s, evidence.cost(s)) for s in smallest),
        key=lambda c: (
            not free.admits(c[1]),
            over_memory(evidence, budget, c[0]),
            c[1].sram if free.admits(c[1]) else c[1].backward_macs,
        ),
    )
    needs = {"sram": cost.sram, "compute": cost.backward_macs}
    if budget.backward_memory is not None:
        needs["backward_memory"] = backward_memory(evidence, nearest)
    kept = {name: x for name in needs if (x := getattr(budget, name)) is not None}
    exceeded = {name: x for name, x in kept.items() if needs[name] > x} or kept
    given = ", ".join(f"{option(name)} {limit}" for name, limit in exceeded.items())
    (first, part), *_ = nearest.learn.items()
    count = evidence.channels(first.layer) if part.index is None else len(part.index)
    *most, last = (f"{option(name)} {need}" for name, need in needs.items())
    message = (
        f"{given}: too small for any layer of {evidence.name} to learn; the smallest choice of "
        f"this method, {count} channel{'s' if count > 1 else ''} of {first}, needs "
        f"{', '.join(most)} and {last}"
    )
    if budget.sram is not None and cost.sram > budget.sram:
        return RamError(message, cost.sram)
    return InputError(message)


def over_memory(evidence: Evidence, budget: Budget, selection: Selection) -> int:
    """Return by how much a selection is over the memory that TinyTrain counts; at least 0."""
    if budget.backward_memory is None:
        return 0
    return max(0, backward_memory(evidence, selection) - budget.backward_memory)


def _learn(evidence: Evidence, c: Candidate, count: int, *, bias: bool) -> dict[Parameter, Part]:
    part = filters(evidence, c.layer, c.order[:count])
    return {weight(c.layer): part} | (biases((c.layer,)) if bias else {})


class _Fit:
    """What has been taken so far, and what it costs."""

    def __init__(self, evidence: Evidence, budget: Budget) -> None:
        self.evidence, self.budget = evidence, budget
        self.learn: dict[Parameter, Part] = {}
        self.cost = Demand(0, 0)

    def add(self, more: Mapping[Parameter, Part]) -> str:
        """Take more if that fits; else say what it would be over.

        The compiler is asked only about what it may admit: it is slow, and no program needs fewer
        multiply-accumulates than `least_macs`, or less memory than a smaller one and its weights.
        """
        learn = {**self.learn, **more}
        macs, limit = least_macs(self.evidence, learn), self.budget.compute
        if limit is not None and macs > limit:
            return f"compute: {macs:,} of {limit:,} MACs"
        sram, limit = self.cost.sram + self._bytes(more), self.budget.sram
        if limit is not None and sram > limit:
            return f"sram: at least {sram:,} of {limit:,} bytes"
        limit = self.budget.backward_memory
        if limit is not None and (need := backward_memory(self.evidence, Selection(learn))) > limit:
            return f"backward memory: {need:,} of {limit:,} bytes"
        cost = self.evidence.cost(Selection(learn))
        if self.budget.sram is not None and cost.sram > self.budget.sram:
            return f"sram: {cost.sram:,} of {self.budget.sram:,} bytes"
        if self.budget.compute is not None and cost.backward_macs > self.budget.compute:
            return f"compute: {cost.backward_macs:,} of {self.budget.compute:,} MACs"
        self.learn, self.cost = learn, cost
        return ""

    def _bytes(self, more: Mapping[Parameter, Part]) -> int:
        total = 0
        for parameter, part in more.items():
            kind = self.evidence.node(parameter).type
            share = kind.shape[part.axis] if part.index is None else len(part.index)
            total += kind.nbytes // kind.shape[part.axis] * share
        return total
