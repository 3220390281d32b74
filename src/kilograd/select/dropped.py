"""What Lin et al. (2022) tried in place of weights, and dropped (supplement, section G).

Both are about the expansion of late blocks, the first 1x1 convolution, which contributes most.
They are here to be measured: docs/results/studies/dropped.md.
"""

from __future__ import annotations

import math

from kilograd.errors import InputError, option
from kilograd.passes import Block, Growth, GrowthKind, Part, mobile_blocks
from kilograd.select.greedy import over_memory, too_small
from kilograd.select.selection import (
    Budget,
    Evidence,
    Selection,
    Strategy,
    bias,
    biases,
    weight,
    weights,
)

RANK = 4
"""Of an update where neither a rank nor a limit is given."""


def lora(k: int, rank: int | None = None) -> Strategy:
    """Low-rank updates of the expansions of the last k blocks, and their biases.

    `rank`: where there is none, the largest that the budget admits.
    """

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        method = f"lora:{k}" if rank is None else f"lora:{k}:{rank}"
        blocks = _last(evidence, k, method)
        if odd := [b for b in blocks if b.begin.type.affine.zero_point == -128]:
            raise InputError(
                f"{option('method')} {method}: the input of {_layer(odd[0])} of {evidence.name} "
                "ends in a ReLU, so no map of it can be below zero; choose another method"
            )
        most = min(b.largest_rank for b in blocks)
        if rank is not None and not 1 <= rank <= most:
            raise InputError(
                f"{option('method')} {method}: {rank} is no rank of an update here; give one from "
                f"1 to {most}, the fewest channels that such a layer of {evidence.name} reads or "
                "makes"
            )
        free = budget.sram is budget.compute is budget.backward_memory is None
        if rank is not None or free:
            return _updates(evidence, blocks, min(RANK, most) if rank is None else rank)
        return _largest(evidence, budget, blocks, most)

    return strategy


def grouped(k: int, groups: int) -> Strategy:
    """The expansions of the last k blocks learn whole, cut into groups; 1: as they are."""

    def strategy(evidence: Evidence, budget: Budget) -> Selection:
        method = f"grouped:{k}:{groups}"
        blocks = _last(evidence, k, method)
        layers = tuple(_layer(b) for b in blocks)
        if groups == 1:
            return Selection({**weights(layers), **biases(layers)})
        growth = Growth(GrowthKind.GROUPED, tuple(b.name for b in blocks), groups)
        if odd := [b for b in blocks if not growth.fits(b)]:
            most = math.gcd(*(b.most_groups for b in blocks))
            fit = ", ".join(str(n) for n in range(1, most + 1) if most % n == 0)
            raise InputError(
                f"{option('method')} {method}: {groups} groups do not divide the channels of "
                f"{_layer(odd[-1])} of {evidence.name}; give one of {fit}"
            )
        parts = tuple(f"{x}.grouped.{i}" for x in layers for i in range(groups))
        learn = {**weights(parts), **biases(parts)}
        return Selection(learn, graph=growth.grown(evidence.graph))

    return strategy


def _largest(evidence: Evidence, budget: Budget, blocks: tuple[Block, ...], most: int) -> Selection:
    """Return the updates of the largest rank that the budget admits."""
    least = _updates(evidence, blocks, 1)
    if not _admitted(evidence, budget, least):
        raise too_small(evidence, budget, [least])

    admitted, beyond = 1, most + 1
    while beyond - admitted > 1:
        rank = (admitted + beyond) // 2
        if _admitted(evidence, budget, _updates(evidence, blocks, rank)):
            admitted = rank
        else:
            beyond = rank
    return _updates(evidence, blocks, admitted)


def _admitted(evidence: Evidence, budget: Budget, selection: Selection) -> bool:
    over = over_memory(evidence, budget, selection)
    return not over and budget.admits(evidence.cost(selection))


def _updates(evidence: Evidence, blocks: tuple[Block, ...], rank: int) -> Selection:
    growth = Growth(GrowthKind.LORA, tuple(b.name for b in blocks), rank)
    learn = {}
    for block in blocks:
        layer, read = _layer(block), block.begin.type.shape[2]
        learn[weight(layer)] = Part(3, tuple(range(read, read + rank)))
        learn[bias(layer)] = learn[weight(f"{layer}.lora")] = Part()
    return Selection(learn, graph=growth.grown(evidence.graph))


def _last(evidence: Evidence, k: int, method: str) -> tuple[Block, ...]:
    blocks = tuple(b for b in mobile_blocks(evidence.graph) if b.expansion)
    if not 1 <= k <= len(blocks):
        raise InputError(
            f"{option('method')} {method}: {evidence.name} has {len(blocks)} blocks that begin "
            f"with a 1x1 convolution, {k} cannot learn"
        )
    return blocks[-k:]


def _layer(block: Block) -> str:
    """Return the name of a block's expansion."""
    return block.layers[0].name
