"""What a search may choose, as numbers (MCUNetV3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kilograd.passes import Part
from kilograd.select.selection import Evidence, Selection, biases, weight, widest_inputs


@dataclass(frozen=True)
class Genome:
    """Biases of the last `k` convolutions learn, and of each convolution's weights a share.

    `shares` has one entry for each convolution in execution order: the share of its input channels,
    those with the largest norm; 0 is none.  Only the last `k` may have one.
    """

    k: int
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise a ValueError where weights learn before the first bias."""
        if not 0 <= self.k <= len(self.shares) or any(self.shares[: len(self.shares) - self.k]):
            raise ValueError(f"weights may learn in the last {self.k} convolutions only: {self}")


def selection(evidence: Evidence, genome: Genome) -> Selection:
    """Return what a genome lets learn; a share is rounded down to whole channels."""
    layers: Sequence[str] = evidence.layers
    learn = biases(tuple(layers[len(layers) - genome.k :]))
    for layer, share in zip(layers, genome.shares, strict=True):
        if share:
            channels = evidence.inputs(layer)
            part = widest_inputs(evidence, layer, int(channels * share))
            learn[weight(layer)] = Part() if share == 1 else part
    return Selection(learn)
