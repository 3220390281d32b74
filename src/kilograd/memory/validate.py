"""An independent check of plans: quadratic, and shares nothing with any planner."""

from __future__ import annotations

from collections.abc import Sequence

from kilograd.memory.buffer import ALIGN, Buffer, Plan


class PlanError(ValueError):
    """A plan is unsound: a planner is wrong, not the user."""


def validate(buffers: Sequence[Buffer], plan: Plan) -> Plan:
    """Raise `PlanError` unless every buffer has its place and no two that meet overlap."""
    if plan.bound > plan.peak:
        raise PlanError(f"a plan of {plan.peak} bytes contradicts its bound of {plan.bound}")
    for i, a in enumerate(buffers):
        at = plan.offsets[a.name]
        if at % ALIGN or at < 0 or at + a.size > plan.peak:
            raise PlanError(f"{a} does not fit at {at} below {plan.peak}")
        for b in buffers[i + 1 :]:
            apart = a.last <= b.first or b.last <= a.first
            other = plan.offsets[b.name]
            if not apart and at < other + b.size and other < at + a.size:
                raise PlanError(f"{a} at {at} and {b} at {other} overlap")
    return plan
