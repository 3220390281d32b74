"""An independent check of plans: quadratic, and shares nothing with any planner."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from kilograd.memory.buffer import ALIGN, Buffer, Plan


class Flaw(enum.Enum):
    """What can be wrong with a plan."""

    MISSING = "a buffer has no place"
    MISALIGNED = "an offset is no multiple of the alignment"
    OUTSIDE = "a buffer begins before 0 or ends behind the peak"
    OVERLAP = "two buffers that are in use at once share bytes"
    IMPOSSIBLE = "the peak is below the bound"


class PlanError(ValueError):
    """A plan is unsound: a planner is wrong, not the user.  `flaw` is the first that was found."""

    def __init__(self, flaw: Flaw, where: str) -> None:
        super().__init__(f"{flaw.value}: {where}")
        self.flaw = flaw


def validate(buffers: Sequence[Buffer], plan: Plan) -> Plan:
    """Return the plan; raise `PlanError` unless it has none of the flaws there are."""
    if plan.bound > plan.peak:
        raise PlanError(Flaw.IMPOSSIBLE, f"{plan.peak} bytes, at least {plan.bound}")
    for i, a in enumerate(buffers):
        if a.name not in plan.offsets:
            raise PlanError(Flaw.MISSING, f"{a}")
        at = plan.offsets[a.name]
        if at % ALIGN:
            raise PlanError(Flaw.MISALIGNED, f"{a} at {at}")
        if at < 0 or at + a.size > plan.peak:
            raise PlanError(Flaw.OUTSIDE, f"{a} at {at}, of {plan.peak}")
        for b in buffers[:i]:
            apart = a.last <= b.first or b.last <= a.first
            other = plan.offsets[b.name]
            if not apart and at < other + b.size and other < at + a.size:
                raise PlanError(Flaw.OVERLAP, f"{a} at {at} and {b} at {other}")
    return plan
