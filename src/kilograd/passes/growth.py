"""What methods make of blocks of a network, said so that it can be made again."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kilograd.ir import Graph, fingerprint
from kilograd.passes.expansions import grouped, low_rank
from kilograd.passes.lite_residual import Block, lite_residual, mobile_blocks


class GrowthKind(enum.StrEnum):
    """By which pass."""

    LITE = "lite"
    LORA = "lora"
    GROUPED = "grouped"


@dataclass(frozen=True)
class Growth:
    """A pass, and the names of the blocks that it changes.

    `number`: the rank of an update, or how many groups; 0 for modules beside blocks.
    """

    kind: GrowthKind
    blocks: tuple[str, ...]
    number: int = 0

    def fits(self, block: Block) -> bool:
        """Say whether the pass can change a block."""
        match self.kind:
            case GrowthKind.LITE:
                return self.number == 0 and block.takes_module
            case GrowthKind.LORA:
                return 1 <= self.number <= block.largest_rank
            case GrowthKind.GROUPED:
                return 1 < self.number <= (most := block.most_groups) and most % self.number == 0

    def grown(self, graph: Graph) -> Graph:
        """Return the network with its blocks changed; each must fit."""
        blocks = [b for b in mobile_blocks(graph) if b.name in self.blocks]
        match self.kind:
            case GrowthKind.LITE:
                return lite_residual(graph, blocks)[0]
            case GrowthKind.LORA:
                return low_rank(graph, blocks, self.number)
            case GrowthKind.GROUPED:
                return grouped(graph, blocks, self.number)


def growth_of(graph: Graph, grown: Graph) -> Growth | None:
    """Return what makes `grown` of a network; `None`: nothing that is known here."""
    channels = {n.name: n.type.shape[-1] for n in grown.nodes}
    for kind in GrowthKind:
        blocks = [b for b in mobile_blocks(graph) if _mark(kind, b) in channels]
        if not blocks:
            continue
        own, whole = channels[_mark(kind, blocks[0])], blocks[0].layers[0].type.shape[2]
        number = {GrowthKind.LITE: 0, GrowthKind.LORA: own, GrowthKind.GROUPED: whole // own}[kind]
        growth = Growth(kind, tuple(b.name for b in blocks), number)
        if fingerprint(growth.grown(graph)) == fingerprint(grown):
            return growth
    return None


def _mark(kind: GrowthKind, block: Block) -> str:
    """Return the name of a tensor that only a changed block has."""
    match kind:
        case GrowthKind.LITE:
            return f"{block.name}.lite.add"
        case GrowthKind.LORA:
            return f"{block.layers[0].name}.lora"
        case GrowthKind.GROUPED:
            return f"{block.layers[0].name}.grouped.0"
