"""Things to look at: memory plans, what saves memory, what learns and why, methods compared."""

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
from kilograd.report.frontier import frontier, gap, steps
from kilograd.report.page import page

__all__ = [
    "Bar",
    "Estimate",
    "Panel",
    "Price",
    "Section",
    "Variant",
    "ablation",
    "choice",
    "comparison",
    "comparison_table",
    "frontier",
    "gap",
    "page",
    "steps",
    "without",
]
