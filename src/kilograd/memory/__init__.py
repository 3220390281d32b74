"""Static memory planning: buffers to offsets.  Knows no graph."""

from kilograd.memory.bounds import lower_bound
from kilograd.memory.buffer import STAMP_BYTES, Buffer, Plan, Planner, aligned
from kilograd.memory.exact import exact
from kilograd.memory.greedy import greedy
from kilograd.memory.place import place
from kilograd.memory.validate import PlanError, validate

__all__ = [
    "STAMP_BYTES",
    "Buffer",
    "Plan",
    "PlanError",
    "Planner",
    "aligned",
    "exact",
    "greedy",
    "lower_bound",
    "place",
    "validate",
]
