"""Static memory planning: buffers to offsets.  Knows no graph."""

from kilograd.memory.bounds import lower_bound
from kilograd.memory.buffer import STAMP_BYTES, Buffer, Bytes, Plan, Planner, Step, aligned
from kilograd.memory.exact import exact
from kilograd.memory.greedy import greedy
from kilograd.memory.place import place
from kilograd.memory.validate import Flaw, PlanError, validate

__all__ = [
    "STAMP_BYTES",
    "Buffer",
    "Bytes",
    "Flaw",
    "Plan",
    "PlanError",
    "Planner",
    "Step",
    "aligned",
    "exact",
    "greedy",
    "lower_bound",
    "place",
    "validate",
]
