"""Integer and float32 arithmetic, defined once; `runtime/include/kg_math.h` mirrors it."""

from kilograd.quant.codes import decode, encode, row_exponents, units
from kilograd.quant.curves import Curve, CurveKind
from kilograd.quant.fixed import (
    ZERO_EXPONENT,
    bit_length,
    fixed_point,
    fractions,
    normalise,
    requantise,
    round_to_odd,
    signed_fractions,
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
from kilograd.quant.tables import curve_codes, curve_slopes

__all__ = [
    "FLOAT_MAX",
    "ZERO_EXPONENT",
    "Curve",
    "CurveKind",
    "Rounding",
    "bit_length",
    "curve_codes",
    "curve_slopes",
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
    "signed_fractions",
    "stochastic_round",
    "tflite_multiplier",
    "units",
]
