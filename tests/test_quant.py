"""Arithmetic: against exact fractions, against `math`, against C, and by statistics."""

from __future__ import annotations

import ctypes
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers import COMPILERS
from hypothesis import given
from hypothesis import strategies as st

from kilograd.ir import Affine, Array, Builder, DType, TensorType, interpret
from kilograd.ops import Sgd
from kilograd.ops.update import BIAS_LIMIT
from kilograd.quant import (
    ZERO_EXPONENT,
    bit_length,
    exp32,
    fixed_point,
    hash32,
    log32,
    normalise,
    pow2,
    power,
    requantise,
    requantise_tflite,
    round_to_odd,
    running_sum,
    stochastic_round,
    tflite_multiplier,
)
from kilograd.targets.toolchain import Compiler, runtime_folder

int64s = st.integers(-(1 << 40), 1 << 40)
int32s = st.integers(-(1 << 31), (1 << 31) - 1)

# ---- fixed point ----


def gemmlowp(acc: int, multiplier: int, shift: int) -> int:
    """Scale as TensorFlow Lite documents it: whole numbers, and int32 where it says so."""
    exponent = 31 - shift
    product = acc * 2 ** max(exponent, 0) * multiplier
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = math.trunc(Fraction(product + nudge, 2**31))
    half = Fraction(1, 2) if high >= 0 else Fraction(-1, 2)
    return math.trunc(Fraction(high, 2 ** max(-exponent, 0)) + half)


@given(int32s, st.integers(1 << 30, (1 << 31) - 1), st.integers(1, 62))
def test_rounding_as_tflite_is_rounding_as_gemmlowp(acc: int, multiplier: int, shift: int) -> None:
    got = requantise_tflite(np.array([acc], np.int64), multiplier, shift)
    assert got.tolist() == [gemmlowp(acc, multiplier, shift)]


@given(st.integers(-6, 6), st.integers(31, 36))
def test_rounding_twice_meets_ties(acc: int, shift: int) -> None:
    got = requantise_tflite(np.array([acc], np.int64), 1 << 30, shift)
    assert got.tolist() == [gemmlowp(acc, 1 << 30, shift)]


@given(st.floats(2.0**-32, 2.0**30))
def test_a_multiplier_as_tflite_makes_it_is_that_of_exact_halves(real: float) -> None:
    multiplier, shift = tflite_multiplier(real)
    scaled = Fraction(real) * Fraction(2) ** shift
    if multiplier == 1 << 30 and scaled < 1 << 30:  # rounded up to the next power of two
        multiplier, scaled = 1 << 31, scaled * 2
    assert multiplier == math.floor(scaled + Fraction(1, 2))


@given(st.floats(1e-12, 1e6))
def test_a_multiplier_is_31_bits_wide_and_close(x: float) -> None:
    multiplier, shift = fixed_point(x)
    assert 1 << 30 <= multiplier < 1 << 31
    assert abs(Fraction(multiplier, 1) / Fraction(2) ** shift - Fraction(x)) <= Fraction(x) / 2**30


def test_a_multiplier_just_below_a_power_of_two_stays_31_bits_wide() -> None:
    multiplier, shift = fixed_point(math.nextafter(1.0, 0.0))
    assert (multiplier, shift) == (1 << 30, 30)


@given(int32s, st.integers(1 << 30, (1 << 31) - 1), st.integers(31, 45))
def test_requantisation_rounds_half_up_and_never_truncates(
    acc: int, multiplier: int, shift: int
) -> None:
    exact = Fraction(acc * multiplier, 1 << shift)
    got = int(requantise(np.array([acc], np.int64), multiplier, shift)[0])
    assert got == math.floor(exact + Fraction(1, 2))


# ---- rounding to odd ----


@given(int64s, st.integers(0, 20), st.integers(0, 20))
def test_rounding_to_odd_twice_is_rounding_once(x: int, a: int, b: int) -> None:
    value = np.array([x], np.int64)
    assert round_to_odd(round_to_odd(value, a), b) == round_to_odd(value, a + b)


@given(int64s, st.integers(0, 30))
def test_rounding_to_odd_takes_a_neighbour_and_the_odd_one(x: int, shift: int) -> None:
    got = int(round_to_odd(np.array([x], np.int64), shift)[0])
    exact = Fraction(x, 1 << shift)
    assert abs(got - exact) < 1
    assert got == exact or got % 2 == 1


@given(int64s, st.integers(0, 30))
def test_rounding_to_odd_is_symmetric(x: int, shift: int) -> None:
    pair = round_to_odd(np.array([x, -x], np.int64), shift)
    assert pair[0] == -pair[1]


@pytest.mark.parametrize("shift", range(9))
def test_rounding_to_odd_is_unbiased_over_a_period(shift: int) -> None:
    x = np.arange(-(2 << shift), 2 << shift)
    assert ((round_to_odd(x, shift) << shift) - x).sum() == 0


# ---- blocks ----


@given(st.lists(int64s, min_size=1, max_size=8), st.integers(-50, 50), st.integers(4, 15))
def test_a_normalised_block_uses_every_bit_and_stays_within_a_unit(
    xs: list[int], exponent: int, bits: int
) -> None:
    x = np.array(xs, np.int64)
    block = normalise(x, exponent, bits)
    if not x.any():
        assert not block.mantissa.any()
        assert block.exponent == ZERO_EXPONENT
        return
    assert bit_length(block.mantissa.astype(np.int64)) == bits
    unit = Fraction(2) ** (block.exponent - exponent)
    for mantissa, exact in zip(block.mantissa.tolist(), xs, strict=True):
        assert abs(mantissa * unit - exact) < max(unit, 1)
        assert (mantissa > 0) - (mantissa < 0) == (exact > 0) - (exact < 0), "a sign was lost"


@given(st.lists(int32s, min_size=1, max_size=9))
def test_bit_length_is_that_of_the_largest_magnitude(xs: list[int]) -> None:
    assert bit_length(np.array(xs, np.int64)) == max(abs(x) for x in xs).bit_length()


# ---- float32 ----


def ulps(got: Array, want: Array) -> float:
    """The largest error in units of the last place of the right answer."""
    unit = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    return float((np.abs(got.astype(np.float64) - want) / unit).max())


def test_exp_is_within_three_units_of_the_last_place() -> None:
    x = np.linspace(-87, 0, 200_001).astype(np.float32)
    assert ulps(exp32(x), np.exp(x.astype(np.float64))) <= 3


def test_exp_ends() -> None:
    assert exp32(np.array([0.0, -0.0], np.float32)).tolist() == [1, 1]
    assert exp32(np.array([-87.1, -1000, -np.inf], np.float32)).tolist() == [0, 0, 0]


def test_log_is_within_three_units_of_the_last_place() -> None:
    rng = np.random.default_rng(0)
    wide = np.exp(rng.uniform(-87, 88, 20_000)).astype(np.float32)
    x = np.concatenate([wide, np.linspace(0.4, 2.5, 20_001).astype(np.float32)])
    got = np.array([log32(v) for v in x])
    assert ulps(got, np.log(x.astype(np.float64))) <= 3


@pytest.mark.parametrize("exponent", [-1000, -127, -126, -1, 0, 1, 127, 128, 1000])
def test_pow2_flushes_below_and_stops_above_the_normal_numbers(exponent: int) -> None:
    want = 0.0 if exponent < -126 else 2.0 ** min(exponent, 127)
    assert float(pow2(exponent)) == want


@given(st.floats(0.5, 0.9999), st.integers(0, 5000))
def test_power_is_close(base: float, exponent: int) -> None:
    base32 = float(np.float32(base))
    assert float(power(base, exponent)) == pytest.approx(
        base32**exponent, rel=(exponent + 2) * 2.0**-23, abs=1e-36
    )


def test_a_running_sum_adds_the_first_element_first() -> None:
    x = np.array([1e8, 1, -1e8, 1], np.float32)
    assert running_sum(x) == np.float32(1)
    assert running_sum(x[::-1].copy()) == np.float32(0)
    assert running_sum(np.zeros((2, 0), np.float32)).tolist() == [0, 0]


# ---- the same bits in C ----

C_SOURCE = """
#include "kg_math.h"
void run_exp(const float *x, float *y, int n) { for (int i = 0; i < n; i++) y[i] = kg_exp(x[i]); }
void run_log(const float *x, float *y, int n) { for (int i = 0; i < n; i++) y[i] = kg_log(x[i]); }
void run_sqrt(const float *x, float *y, int n) { for (int i = 0; i < n; i++) y[i] = kg_sqrt(x[i]); }
void run_pow2(const int32_t *x, float *y, int n) {
    for (int i = 0; i < n; i++) y[i] = kg_pow2(x[i]);
}
void run_power(const float *x, const uint32_t *e, float *y, int n) {
    for (int i = 0; i < n; i++) y[i] = kg_power(x[i], e[i]);
}
void run_round(const float *x, const int32_t *key, int32_t *y, int n) {
    const uint32_t k = kg_hash((uint32_t)key[0] ^ kg_hash((uint32_t)key[1])
                               ^ kg_hash((uint32_t)key[2] + 1));
    for (int i = 0; i < n; i++) y[i] = kg_stochastic_round(x[i], kg_hash((uint32_t)i ^ k));
}
void run_hash(const uint32_t *x, uint32_t *y, int n) {
    for (int i = 0; i < n; i++) y[i] = kg_hash(x[i]);
}
void run_odd(const int32_t *x, const int32_t *s, int32_t *y, int n) {
    for (int i = 0; i < n; i++) y[i] = kg_round_to_odd(x[i], s[i]);
}
void run_requantise(const int32_t *x, const int32_t *m, const int32_t *s, int64_t *y, int n) {
    for (int i = 0; i < n; i++) y[i] = kg_requantise(x[i], (kg_factor){m[i], s[i]});
}
void run_bits(const int32_t *x, int32_t *y, int n) {
    for (int i = 0; i < n; i++) y[i] = kg_bit_length(kg_magnitude(x[i]));
}
"""


@pytest.fixture(scope="module", params=COMPILERS)
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    compiler: Compiler = request.param
    folder: Path = tmp_path_factory.mktemp("math")
    (folder / "run.c").write_text(C_SOURCE, encoding="utf-8")
    runtime = runtime_folder()
    files = ["run.c", str(runtime / "src" / "kg_math.c")]
    compiler.compile(folder, "-shared", "-fPIC", f"-I{runtime / 'include'}", *files, "-o", "run.so")
    return ctypes.CDLL(str(folder / "run.so"))


def apply(library: ctypes.CDLL, name: str, dtype: type, *xs: Array) -> Array:
    """Run one of the functions above over arrays."""
    out: Array = np.empty(xs[0].size, dtype)
    getattr(library, f"run_{name}")(*(x.ctypes for x in xs), out.ctypes, out.size)
    return out


def assert_bits(got: Array, want: Array) -> None:
    assert got.dtype == want.dtype
    assert got.tobytes() == want.tobytes(), f"{np.argwhere(got != want)[:5].tolist()} differ"


def test_c_exp_equals_python(library: ctypes.CDLL) -> None:
    ends = [0.0, -0.0, -1e-40, -1e-8, -86.99999, -87, -87.00001, -1e9, -np.inf, np.nan]
    x = np.concatenate([np.linspace(-90, 0, 300_001), ends]).astype(np.float32)
    assert_bits(apply(library, "exp", np.float32, x), exp32(x).astype(np.float32))


def test_c_log_equals_python(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(1)
    near = 1 + np.arange(-40, 40) * 2.0**-24
    edges = [1.17549435e-38, 3.4028235e38, 0.70710677, 0.70710678, 0.7071068, 1.4142135, 2, 10]
    x = np.concatenate([np.exp(rng.uniform(-87, 88, 20_000)), near, edges]).astype(np.float32)
    assert_bits(apply(library, "log", np.float32, x), np.array([log32(v) for v in x], np.float32))


def test_c_sqrt_equals_numpy(library: ctypes.CDLL) -> None:
    x = np.exp(np.random.default_rng(2).uniform(-100, 88, 100_000)).astype(np.float32)
    assert_bits(apply(library, "sqrt", np.float32, x), np.sqrt(x))


def test_c_pow2_equals_python(library: ctypes.CDLL) -> None:
    x = np.arange(-1100, 1100, dtype=np.int32)
    assert_bits(apply(library, "pow2", np.float32, x), np.array([pow2(int(e)) for e in x]))


def test_c_power_equals_python(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(3)
    x = rng.choice(np.array([0, 0.5, 0.9, 0.999, 0.99999, 1], np.float32), 3000)
    ends = [1 << 31, (1 << 32) - 1]  # -2^31 and -1, were they signed
    some = [0, 1, 2, 3, 7, 100, 1023, 65_536, 2_000_000_000, *ends]
    e = rng.choice(np.array(some, np.uint32), 3000)
    want = np.array([power(float(b), int(n)) for b, n in zip(x, e, strict=True)])
    assert_bits(apply(library, "power", np.float32, x, e), want)


def test_c_hash_equals_python(library: ctypes.CDLL) -> None:
    x = np.random.default_rng(4).integers(0, 1 << 32, 10_000).astype(np.uint32)
    assert_bits(apply(library, "hash", np.uint32, x), hash32(x))


@pytest.mark.parametrize(
    "key", [(0, 0, 0), (7, 3, 2), (-5, 100_000, 41), (-(1 << 31), (1 << 31) - 1, 0)], ids=str
)
def test_c_stochastic_rounding_equals_python(
    library: ctypes.CDLL, key: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(5)
    small = rng.normal(0, 1, 50_000)
    wide = rng.normal(0, 1, 20_000) * 10.0 ** rng.integers(-12, 12, 20_000)
    edges = [0.0, -0.0, 0.5, -0.5, 1, -1, 2.0**30, -(2.0**30), 2.0**30 - 64, 64 - 2.0**30]
    x = np.concatenate([small, wide.clip(-(2.0**30), 2.0**30), edges]).astype(np.float32)
    got = apply(library, "round", np.int32, x, np.array(key, np.int32))
    assert_bits(got, stochastic_round(x, *key).astype(np.int32))


def test_c_integers_equal_python(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(6)
    ends = np.array([0, 1, -1, (1 << 31) - 1, -(1 << 31), 1 << 30, 255, -256], np.int32)
    x = np.concatenate([rng.integers(-(1 << 31), 1 << 31, 5000).astype(np.int32), ends])
    shift = rng.integers(0, 32, x.size).astype(np.int32)
    wide = x.astype(np.int64)
    odd = [round_to_odd(wide[i : i + 1], int(s)) for i, s in enumerate(shift)]
    want = np.concatenate(odd).astype(np.int32)
    assert_bits(apply(library, "odd", np.int32, x, shift), want)
    multiplier = rng.integers(1 << 30, 1 << 31, x.size).astype(np.int32)
    by = rng.integers(1, 60, x.size).astype(np.int32)
    got = apply(library, "requantise", np.int64, x, multiplier, by)
    assert_bits(got, requantise(x, multiplier, by))
    bits = np.array([bit_length(np.array([v], np.int64)) for v in x], np.int32)
    assert_bits(apply(library, "bits", np.int32, x), bits)


# ---- stochastic rounding ----

N = 200_000


@pytest.mark.parametrize("whole", [0, 3, -3, 100_000, -100_000])
@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3, 0.5, -0.2, -0.001])
def test_stochastic_rounding_is_unbiased(fraction: float, whole: int) -> None:
    x = np.full(N, whole + fraction, np.float32)
    exact = float(x[0])
    got = stochastic_round(x, seed=1, step=2, salt=3)
    assert set(got.tolist()) <= {math.floor(exact), math.floor(exact) + 1}
    p = exact - math.floor(exact)
    assert abs(got.mean() - exact) <= 4 * math.sqrt(p * (1 - p) / N)


@given(st.integers(-1000, 1000), st.integers(0, 1 << 30), st.integers(0, 1 << 30))
def test_integers_are_left_alone(value: int, seed: int, step: int) -> None:
    x = np.full(64, value, np.float32)
    assert (stochastic_round(x, seed, step, 0) == value).all()


@pytest.mark.parametrize("other", [(2, 5, 0), (1, 6, 0), (1, 5, 1)], ids=["seed", "step", "tensor"])
def test_seeds_steps_and_tensors_draw_independently(other: tuple[int, int, int]) -> None:
    x = np.full(N, 0.5, np.float32)
    a, b = stochastic_round(x, 1, 5, 0) - 0.5, stochastic_round(x, *other) - 0.5
    assert abs((a * b).mean()) < 4 * 0.25 / math.sqrt(N)


def test_neighbouring_elements_and_steps_draw_independently() -> None:
    x = np.full(2000, 0.5, np.float32)
    rows = np.array([stochastic_round(x, 1, step, 0) for step in range(100)]) - 0.5
    for a, b in ((rows[:, 1:], rows[:, :-1]), (rows[1:], rows[:-1])):
        assert abs((a * b).mean()) < 4 * 0.25 / math.sqrt(a.size)


def test_an_element_is_rounded_alike_whatever_the_others_are() -> None:
    """No draw depends on an earlier one: kernels may go in any order."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 3, (2, 1000)).astype(np.float32)
    y[::7] = x[::7]
    assert (stochastic_round(x, 1, 2, 3)[::7] == stochastic_round(y, 1, 2, 3)[::7]).all()


# ---- updates of stored integers ----


def descend(dtype: DType, scale: float, start: Array, step: Array, times: int) -> Array:
    """Take `times` steps of SGD, each of `step` codes."""
    b = Builder()
    w = b.param("w", start, Affine((scale,), axis=0))
    g = b.input("g", TensorType(start.shape, DType.F32))
    lr, clock = (
        b.input("lr", TensorType((1,), DType.F32)),
        b.input("clock", TensorType((2,), DType.I32)),
    )
    graph = b.graph(b(Sgd(0), w, g, lr, clock))
    assert w.type.dtype is dtype
    value = start
    for t in range(times):
        feeds = {
            "w": value,
            "g": (-step * scale).astype(np.float32),
            "lr": np.ones(1, np.float32),
            "clock": np.array([3, t], np.int32),
        }
        out = interpret(graph, feeds)["w"]
        assert isinstance(out, np.ndarray)
        value = out
    return value


@pytest.mark.parametrize("step", [0.01, -0.01])
@pytest.mark.parametrize("dtype", [DType.I8, DType.I32])
def test_a_hundredth_of_a_code_a_thousand_times_is_ten_codes(dtype: DType, step: float) -> None:
    """Round-to-nearest would leave every weight where it is; truncation would move it one way."""
    start = np.full(2000, 20, dtype.numpy)
    moved = descend(dtype, 0.02, start, np.full(2000, step), 1000) - 20.0
    spread = math.sqrt(1000 * 0.01 * 0.99)
    assert abs(moved.mean() - 1000 * step) < 4 * spread / math.sqrt(moved.size)
    assert moved.std() == pytest.approx(spread, rel=0.1)


def test_tiny_gradients_of_either_sign_do_not_shrink_weights() -> None:
    """The released engine moved 100 % of the weights that moved toward zero."""
    start = np.repeat(np.array([-50, 50], np.int8), 5000)
    step = np.tile(np.array([-0.004, 0.004]), 5000)
    moved = descend(DType.I8, 0.02, start, step, 100).astype(np.int64) - start
    outward = (np.sign(moved) == np.sign(start))[moved != 0].mean()
    assert abs(outward - 0.5) < 4 * 0.5 / math.sqrt((moved != 0).sum())


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_saturate_at_127_and_never_wrap(sign: int) -> None:
    start = np.array([0, 126, -127, 100 * sign], np.int8)
    step = np.array([300, 1e12, 50_000, 27.5]) * sign
    end = descend(DType.I8, 0.02, start, step, 3)
    assert end.tolist() == [127 * sign] * 4


@pytest.mark.parametrize("sign", [1, -1])
def test_biases_saturate_where_no_accumulator_can_wrap(sign: int) -> None:
    start = np.array([0, BIAS_LIMIT, -BIAS_LIMIT], np.int32)
    end = descend(DType.I32, 1e-3, start, np.full(3, 1e15 * sign), 3)
    assert end.tolist() == [BIAS_LIMIT * sign] * 3
