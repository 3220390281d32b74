"""Static memory planning: buffers to offsets.  Knows no graph."""

from kilograd.plan.bounds import lower_bound
from kilograd.plan.buffer import STAMP_BYTES, Buffer, Plan, Planner, aligned
from kilograd.plan.exact import exact
from kilograd.plan.greedy import greedy
from kilograd.plan.place import place
from kilograd.plan.validate import PlanError, validate

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
