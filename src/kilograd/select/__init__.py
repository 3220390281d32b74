"""What learns: one strategy a file, each (Evidence, Budget) -> Selection; and what that costs."""

from kilograd.select.contribution import (
    SHARES,
    Contribution,
    Gain,
    Gains,
    choices,
    fingerprint,
    read_contribution,
)
from kilograd.select.methods import METHODS, strategy
from kilograd.select.plan_file import plan_file, write_plan
from kilograd.select.selection import (
    Budget,
    Demand,
    Evidence,
    Inspect,
    Reason,
    Selection,
    Strategy,
)
from kilograd.select.sparse_update import PLANS, UpdatePlan

__all__ = [
    "METHODS",
    "PLANS",
    "SHARES",
    "Budget",
    "Contribution",
    "Demand",
    "Evidence",
    "Gain",
    "Gains",
    "Inspect",
    "Reason",
    "Selection",
    "Strategy",
    "UpdatePlan",
    "choices",
    "fingerprint",
    "plan_file",
    "read_contribution",
    "strategy",
    "write_plan",
]
