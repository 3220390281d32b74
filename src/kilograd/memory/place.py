"""Plans in which names decide nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kilograd.memory.buffer import Buffer, Plan, Planner
from kilograd.memory.validate import validate


def place(buffers: Sequence[Buffer], planner: Planner) -> Plan:
    """Return a sound plan; a planner that looks at names sees the order of the buffers.

    Raises `PlanError` where the planner is wrong.
    """
    names = [f"{i:08}" for i in range(len(buffers))]
    plan = planner([replace(b, name=name) for b, name in zip(buffers, names, strict=True)])
    offsets = {b.name: plan.offsets[name] for b, name in zip(buffers, names, strict=True)}
    return validate(buffers, replace(plan, offsets=offsets))
