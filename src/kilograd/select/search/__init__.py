"""Plans of what learns, by the sum of what their parts bring, within a budget."""

from kilograd.select.search.evolution import Evolution
from kilograd.select.search.exact import exact
from kilograd.select.search.footprint import Footprint, Lower, footprint
from kilograd.select.search.found import Found, Front, Published
from kilograd.select.search.genome import Genome, selection
from kilograd.select.search.problem import (
    UNLIMITED,
    Answer,
    Limits,
    Problem,
    Solver,
    helpful,
    problem,
    shrunk,
)
from kilograd.select.search.sampling import Sampling

__all__ = [
    "UNLIMITED",
    "Answer",
    "Evolution",
    "Footprint",
    "Found",
    "Front",
    "Genome",
    "Limits",
    "Lower",
    "Problem",
    "Published",
    "Sampling",
    "Solver",
    "exact",
    "footprint",
    "helpful",
    "problem",
    "selection",
    "shrunk",
]
