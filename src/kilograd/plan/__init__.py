"""Static memory planning: buffers to offsets.  Knows no graph."""

from kilograd.plan.bounds import lower_bound
from kilograd.plan.buffer import Buffer, Plan, Planner, aligned
from kilograd.plan.exact import exact
from kilograd.plan.greedy import greedy
from kilograd.plan.validate import PlanError, validate

__all__ = [
    "Buffer",
    "Plan",
    "PlanError",
    "Planner",
    "aligned",
    "exact",
    "greedy",
    "lower_bound",
    "validate",
]
