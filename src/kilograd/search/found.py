"""What a search hands back."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Front(enum.StrEnum):
    """Which limit goes up from plan to plan."""

    SRAM = "sram"
    COMPUTE = "compute"


@dataclass(frozen=True)
class Found:
    """A plan: a file, what it costs, and what it should gain.

    `sram_limit`, `compute_limit`: what it was to cost at most, in bytes and backward MACs; `front`
    says which of them goes up where there are several plans.  `sram_bytes`, `backward_macs`: those
    of the compiled program.  `predicted_sram_bytes`: what was held against the limit: the sum of
    the program's parts, or bytes by the formulas of a paper.  `predicted_gain`: the sum of
    contributions, in accuracy; `gain_bound`: what no plan within the limits can promise, where that
    is known.
    `k`: the last convolutions of which biases learn; `weights`: the share of the input channels of
    a layer of which weights learn.  `programs`: how many were compiled until one was within limits.
    """

    plan: str
    front: Front | None
    sram_limit: int | None
    compute_limit: int | None
    sram_bytes: int
    predicted_sram_bytes: int
    backward_macs: int
    predicted_gain: float
    gain_bound: float | None
    k: int
    weights: Mapping[str, float]
    programs: int


@dataclass(frozen=True)
class Published:
    """A published plan in the same terms; `predicted_gain` is the sum of its contributions."""

    method: str
    sram_bytes: int
    backward_macs: int
    predicted_gain: float
