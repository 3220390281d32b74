"""Memory to look at: a picture of the plan, and what each part of the compiler saves."""

from kilograd.report.ablation import Variant, ablation, without
from kilograd.report.page import page

__all__ = ["Variant", "ablation", "page", "without"]
