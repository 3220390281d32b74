"""Integer and float32 arithmetic, defined once; `runtime/include/kg_math.h` mirrors it."""

from kilograd.quant.fixed import (
    ZERO_EXPONENT,
    bit_length,
    fixed_point,
    fractions,
    normalise,
    requantise,
    round_to_odd,
)
from kilograd.quant.float32 import exp32, log32, pow2, power, running_sum
from kilograd.quant.stochastic import hash32, stochastic_round

__all__ = [
    "ZERO_EXPONENT",
    "bit_length",
    "exp32",
    "fixed_point",
    "fractions",
    "hash32",
    "log32",
    "normalise",
    "pow2",
    "power",
    "requantise",
    "round_to_odd",
    "running_sum",
    "stochastic_round",
]
