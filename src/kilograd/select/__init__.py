"""What learns: one strategy a file, each (Evidence, Budget) -> Selection."""

from kilograd.select.methods import EXAMPLES, METHODS, runs_code, strategy
from kilograd.select.one_layer import OneLayer
from kilograd.select.plan_file import learn_of, parts_of, plan_file, write_plan
from kilograd.select.selection import (
    Budget,
    Demand,
    Evidence,
    Inspect,
    Parameter,
    RamError,
    Reason,
    Selection,
    Strategy,
    bias,
    weight,
)
from kilograd.select.sparse_update import ARCHITECTURES, PLANS, UpdatePlan, published_plans

__all__ = [
    "ARCHITECTURES",
    "EXAMPLES",
    "METHODS",
    "PLANS",
    "Budget",
    "Demand",
    "Evidence",
    "Inspect",
    "OneLayer",
    "Parameter",
    "RamError",
    "Reason",
    "Selection",
    "Strategy",
    "UpdatePlan",
    "bias",
    "learn_of",
    "parts_of",
    "plan_file",
    "published_plans",
    "runs_code",
    "strategy",
    "weight",
    "write_plan",
]
