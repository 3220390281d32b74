"""Things to look at: memory plans, what saves memory, what learns and why, and what it gains."""

from kilograd.report.ablation import Variant, ablation, without
from kilograd.report.choice import choice
from kilograd.report.comparison import (
    Bar,
    Estimate,
    Panel,
    Price,
    Section,
    comparison,
    comparison_table,
)
from kilograd.report.contribution import Role, contribution_page, mean_gain, roles
from kilograd.report.frontier import frontier, gap, steps
from kilograd.report.learning import learning
from kilograd.report.mistakes import Mistake, mistakes
from kilograd.report.page import page

__all__ = [
    "Bar",
    "Estimate",
    "Mistake",
    "Panel",
    "Price",
    "Role",
    "Section",
    "Variant",
    "ablation",
    "choice",
    "comparison",
    "comparison_table",
    "contribution_page",
    "frontier",
    "gap",
    "learning",
    "mean_gain",
    "mistakes",
    "page",
    "roles",
    "steps",
    "without",
]
