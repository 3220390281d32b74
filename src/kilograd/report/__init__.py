"""Memory to look at, and choices: the plan as a picture, what saves memory, what learns and why."""

from kilograd.report.ablation import Variant, ablation, without
from kilograd.report.choice import choice
from kilograd.report.page import page

__all__ = ["Variant", "ablation", "choice", "page", "without"]
