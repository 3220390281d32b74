"""What is kept beside parameters in 8 and 16 bits, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import linked

from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.ir import Affine, Array, Builder, DType, RowCodes, TensorType
from kilograd.learn.recipe import compile_recipe
from kilograd.ops import Accumulate, Adam, ElementRule, Momentum
from kilograd.quant import decode, encode, row_exponents
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe
from kilograd.targets import HostProgram

BITS = pytest.mark.parametrize("bits", [8, 16])


def wild(rng: np.random.Generator, rows: int = 4, length: int = 6) -> Array:
    """Floats of many sizes."""
    x = rng.normal(size=(rows, length)) * 10.0 ** rng.integers(-30, 30, (rows, length))
    return np.asarray(x.astype(np.float32))


# ---- codes ----


@BITS
def test_a_code_is_off_by_less_than_itself_and_right_in_the_mean(bits: int) -> None:
    x, kind = wild(np.random.default_rng(1)), RowCodes((4, 6), 0, bits)
    unit = np.ldexp(1.0, row_exponents(x, bits))[:, None]
    most = np.abs(x).max(axis=1, keepdims=True)
    assert (most <= unit * (2 ** (bits - 1) - 1)).all(), "the largest fits"
    assert (most > unit * (2 ** (bits - 1) - 1) / 2).all(), "and would not with half of it"
    seeds = 400
    got = [decode(encode(x, kind, np.array([s, 3]), 5), kind) for s in range(seeds)]
    errors = (np.array(got, np.float64) - x) / unit
    assert np.abs(errors).max() < 1
    assert (np.abs(errors.mean(axis=0)) < 5 * 0.5 / np.sqrt(seeds)).all()


@BITS
@pytest.mark.parametrize("shape", [(3, 2, 2, 5), (3, 3, 7), (6,), (1, 1)])
def test_what_codes_can_say_they_say(bits: int, shape: tuple[int, ...]) -> None:
    kind = RowCodes(shape, len(shape) - 1 if len(shape) > 1 else None, bits)
    rng, limit = np.random.default_rng(2), 2 ** (bits - 1) - 1
    whole = rng.integers(-limit, limit + 1, (kind.rows, kind.length))
    whole[:, 0] = limit
    x = np.ldexp(whole.astype(np.float32), rng.integers(-126, 100, (kind.rows, 1)))
    stored = encode(x, kind, np.array([0, 0]), 0)
    assert stored.nbytes == kind.tensor.nbytes == x.size * bits // 8 + kind.rows
    assert (decode(stored, kind) == x).all()


@BITS
def test_any_bytes_are_finite_and_zeros_are_zero(bits: int) -> None:
    kind = RowCodes((256, 4), 0, bits)
    stored = np.random.default_rng(3).integers(0, 256, kind.tensor.nbytes, np.uint8)
    stored[-256:] = np.arange(256)
    assert np.isfinite(decode(stored, kind)).all()
    assert not decode(np.zeros_like(stored), kind).any()
    zeros = np.zeros((256, 4), np.float32)
    assert not encode(zeros, kind, np.array([1, 2]), 3).any()


# ---- sums, in C ----

WEIGHT = TensorType((3, 4), DType.I8, Affine((0.01, 0.02, 0.03), axis=0))
BIAS = TensorType((5,), DType.I32, Affine((0.01,) * 5, axis=0, unit=0.1))


def summing(param: TensorType, bits: int) -> tuple[HostProgram, RowCodes]:
    """A program that adds a gradient to the sum of a parameter."""
    b, rule = Builder(), Accumulate(3, state_bits=bits)
    kind = rule.sum_type(param)
    codes = kind.quant
    assert isinstance(codes, RowCodes)
    total = b.param("sum", np.zeros(kind.shape, np.uint8), codes)
    given = [
        b.input("g", TensorType(param.shape, DType.F32)),
        b.input("share", TensorType((1,), DType.F32)),
        b.input("clock", TensorType((2,), DType.I32)),
    ]
    return linked({"run": b.graph(b(rule, total, *given))}), codes


def added(host: HostProgram, codes: RowCodes, gradients: Array, seed: int) -> Array:
    """The sum of gradients, each with a share of one half."""
    host.reset()
    share = np.array([0.5], np.float32)
    for i, g in enumerate(gradients):
        host.call("run", g=g, share=share, clock=np.array([seed, i], np.int32))
    return np.array(decode(host.state["sum"], codes), np.float64)


@BITS
@pytest.mark.parametrize("param", [WEIGHT, BIAS], ids=["weight", "bias"])
def test_a_sum_is_right_in_the_mean(bits: int, param: TensorType) -> None:
    """Of gradients of which most are below one code: nearest rounding would lose them."""
    host, codes = summing(param, bits)
    rng, count, seeds = np.random.default_rng(4), 40, 200
    g = 1e-3 * (1 + rng.random((count, *param.shape)))
    g[0] = rng.choice([-1, 1], param.shape)
    g = g.astype(np.float32)
    exact = 0.5 * g.astype(np.float64).sum(axis=0).reshape(codes.rows, codes.length)
    errors = np.array([added(host, codes, g, s) - exact for s in range(seeds)])
    unit = np.ldexp(1.0, 1 - (bits - 1))  # sums stay below 1
    assert np.abs(errors).max() < count * unit
    deviation = 0.5 * unit * np.sqrt(count)
    assert errors.std(axis=0).max() < deviation
    assert np.abs(errors.mean(axis=0)).max() < 5 * deviation / np.sqrt(seeds)


@BITS
def test_a_bias_has_one_exponent_and_a_filter_one_for_each_channel(bits: int) -> None:
    depthwise = TensorType((3, 3, 20), DType.I8, Affine((0.1,) * 20, axis=2))
    rule = Accumulate(0, state_bits=bits)
    assert rule.sum_type(BIAS).nbytes == 5 * bits // 8 + 1
    assert rule.sum_type(depthwise).nbytes == 180 * bits // 8 + 20


# ---- rules, in C ----


def learned(rule: ElementRule, gradients: Array, rate: float, seed: int = 0) -> Array:
    """Weights in float32 after each step."""
    b = Builder()
    w = b.param("w", np.zeros(gradients.shape[1:], np.float32))
    states = []
    for i, kind in enumerate(rule.state_types(w.type)):
        codes = kind.quant if isinstance(kind.quant, RowCodes) else None
        states.append(b.param(f"s{i}", np.zeros(kind.shape, kind.dtype.numpy), codes))
    given = [
        b.input("g", w.type),
        b.input("lr", TensorType((1,), DType.F32)),
        b.input("clock", TensorType((2,), DType.I32)),
    ]
    host = linked({"run": b.graph(b(rule, w, given[0], *states, *given[1:]))})
    out, lr = [], np.array([rate], np.float32)
    for t, g in enumerate(gradients):
        host.call("run", g=g, lr=lr, clock=np.array([seed, t], np.int32))
        out.append(host.state["w"].copy())
    return np.array(out, np.float64)


def noisy(steps: int, shape: tuple[int, ...] = (3, 40)) -> Array:
    """Gradients around a mean, of sizes that differ a thousandfold within a row."""
    rng = np.random.default_rng(6)
    size = 10.0 ** rng.uniform(-3, 0, shape)
    return np.asarray((size * (0.3 + rng.normal(size=(steps, *shape)))).astype(np.float32))


@pytest.mark.parametrize(("bits", "near"), [(16, 2e-3), (8, 0.2)])
def test_momentum_in_codes_goes_where_floats_go(bits: int, near: float) -> None:
    g = noisy(200)
    floats, codes = (learned(Momentum(1, state_bits=b), g, 0.01) for b in (32, bits))
    assert np.abs(codes - floats).max() < near * np.abs(floats).max()


@pytest.mark.parametrize(("bits", "near"), [(16, 0.1), (8, 1.0)])
def test_adam_in_codes_goes_where_floats_go(bits: int, near: float) -> None:
    """With 8 bits, a thousandth of the largest is less than a code: it moves, but not as far."""
    g = noisy(200)
    floats, codes = (learned(Adam(1, state_bits=b), g, 0.01) for b in (32, bits))
    assert np.abs(codes - floats).max() < near * np.abs(floats).max()
    size = np.abs(g).max(axis=0)
    large = size > 0.2 * size.max(axis=1, keepdims=True)
    assert np.abs(codes - floats)[:, large].max() < 0.2 * np.abs(floats).max()


def test_eight_bits_do_not_explode() -> None:
    """A second moment that is rounded to zero must not be divided by."""
    g = noisy(50, (2, 30))
    g[:, :, 1:] *= 1e-4  # far below a code of the largest
    moved = np.abs(np.diff(learned(Adam(1, state_bits=8), g, 0.01), axis=0, prepend=0))
    assert moved.max() < 10 * 0.01


# ---- programs ----

MODEL = load_model("digits")


def ram(**options: object) -> tuple[int, int]:
    """Bytes of a program's state, and of what it keeps beside parameters."""
    program = compile_recipe(MODEL, Recipe("last:3", 5, **options), Budget()).program  # type: ignore[arg-type]
    return program.sram_bytes, sum(
        s.value.nbytes for s in program.state if s.name.endswith((".sum", ".state0", ".state1"))
    )


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"optimizer": OptimizerKind.MOMENTUM}, 1),
        ({"optimizer": OptimizerKind.ADAM}, 2),
        ({"accumulate": 4}, 1),
        ({"accumulate": 4, "optimizer": OptimizerKind.ADAM}, 3),
    ],
    ids=["momentum", "adam", "sums", "adam and sums"],
)
def test_bits_are_bytes_of_ram(options: dict[str, object], numbers: int) -> None:
    plain, nothing = ram()
    learned = compile_recipe(MODEL, Recipe("last:3", 5), Budget()).learned_parameters
    assert nothing == 0
    found = {bits: ram(**options, state_bits=bits) for bits in (32, 16, 8)}
    assert found[32][1] == 4 * numbers * learned
    for bits in (16, 8):
        sram, beside = found[bits]
        assert 0 < beside - bits // 8 * numbers * learned < 0.1 * numbers * learned, "exponents"
        assert sram - plain <= beside + 4 * numbers * 6 + 16, "and what aligns them"


def test_rowrms_keeps_floats_whatever_the_bits() -> None:
    assert len({ram(optimizer=OptimizerKind.ROWRMS, state_bits=bits) for bits in (32, 16, 8)}) == 1


def test_a_budget_that_momentum_breaks_says_what_needs_less() -> None:
    def least(**options: object) -> int:
        recipe = Recipe("last:3", 5, HeadKind.LINEAR, **options)  # type: ignore[arg-type]
        return compile_recipe(MODEL, recipe, Budget()).program.sram_bytes

    momentum = OptimizerKind.MOMENTUM
    sgd, coded = least(), least(optimizer=momentum, state_bits=8)
    recipe = Recipe("last:3", 5, HeadKind.LINEAR, momentum)
    with pytest.raises(InputError) as e:
        compile_recipe(MODEL, recipe, Budget(coded + 3))
    need = least(optimizer=momentum)
    assert f"the smallest sram that fits is {need}; with state_bits 8 it is {coded}" in str(e.value)
    assert str(e.value).endswith(f"; with optimizer sgd it is {sgd}")
    with pytest.raises(InputError, match=f"fits is {coded}; with optimizer sgd it is {sgd}$"):
        compile_recipe(
            MODEL, Recipe("last:3", 5, HeadKind.LINEAR, momentum, state_bits=8), Budget(sgd)
        )
    with pytest.raises(InputError, match=f"fits is {sgd}$"):
        compile_recipe(MODEL, Recipe("last:3", 5, HeadKind.LINEAR), Budget(sgd - 4))
