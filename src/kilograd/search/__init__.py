"""Update plans by the sum of what their parts bring, within a budget."""

from kilograd.search.contribution import (
    SHARES,
    Choice,
    Contribution,
    Effort,
    Gain,
    Gains,
    choices,
    read_contribution,
)
from kilograd.search.evolution import Evolution
from kilograd.search.exact import exact
from kilograd.search.footprint import Footprint, Lower, counted, footprint
from kilograd.search.found import Found, Front, Published
from kilograd.search.genome import Genome, selection
from kilograd.search.problem import (
    UNLIMITED,
    Answer,
    Limits,
    Problem,
    Solver,
    helpful,
    problem,
    shrunk,
)
from kilograd.search.sampling import Sampling

__all__ = [
    "SHARES",
    "UNLIMITED",
    "Answer",
    "Choice",
    "Contribution",
    "Effort",
    "Evolution",
    "Footprint",
    "Found",
    "Front",
    "Gain",
    "Gains",
    "Genome",
    "Limits",
    "Lower",
    "Problem",
    "Published",
    "Sampling",
    "Solver",
    "choices",
    "counted",
    "exact",
    "footprint",
    "helpful",
    "problem",
    "read_contribution",
    "selection",
    "shrunk",
]
