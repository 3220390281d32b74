"""Integer and float32 arithmetic, defined once; `runtime/include/kg_math.h` mirrors it."""

from kilograd.quant.codes import decode, encode, row_exponents, units
from kilograd.quant.fixed import (
    ZERO_EXPONENT,
    bit_length,
    fixed_point,
    fractions,
    normalise,
    requantise,
    round_to_odd,
)
from kilograd.quant.float32 import (
    FLOAT_MAX,
    exp32,
    finite,
    ieee754,
    log32,
    pow2,
    power,
    running_sum,
)
from kilograd.quant.rounding import Rounding, requantise_tflite, rounded_down, tflite_multiplier
from kilograd.quant.stochastic import hash32, stochastic_round

__all__ = [
    "FLOAT_MAX",
    "ZERO_EXPONENT",
    "Rounding",
    "bit_length",
    "decode",
    "encode",
    "exp32",
    "finite",
    "fixed_point",
    "fractions",
    "hash32",
    "ieee754",
    "log32",
    "normalise",
    "pow2",
    "power",
    "requantise",
    "requantise_tflite",
    "round_to_odd",
    "rounded_down",
    "row_exponents",
    "running_sum",
    "stochastic_round",
    "tflite_multiplier",
    "units",
]
