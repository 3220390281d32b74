"""Tables, products and rescaling: exact functions, and what TensorFlow Lite Micro computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tflm

from kilograd.ir import Affine, Array, Builder, DType, Op, TensorType
from kilograd.ops import Product, Rescale, Table
from kilograd.quant import Curve, CurveKind, Rounding, curve_codes, curve_slopes

CODES = np.arange(-128, 128, dtype=np.int8)
ALPHA = float(np.float32(0.1))

#: What TFLM has a kernel of, and the only output that its kernel takes.
KERNELS: dict[CurveKind, tuple[str, Affine | None]] = {
    CurveKind.SIGMOID: ("LOGISTIC", Affine((1 / 256,), -128)),
    CurveKind.TANH: ("TANH", Affine((1 / 128,), 0)),
    CurveKind.HARD_SWISH: ("HARD_SWISH", None),
    CurveKind.LEAKY: ("LEAKY_RELU", None),
    CurveKind.ELU: ("ELU", None),
    CurveKind.ABS: ("ABS", None),
}


def quantisations(rng: np.random.Generator, count: int) -> Iterator[tuple[Affine, Affine]]:
    """Yield pairs, of scales far apart and of others."""
    for i in range(count):
        scale = float(np.float32(10 ** rng.uniform(-2.5, 0.3)))
        out = float(np.float32(scale * 10 ** rng.uniform(-0.7, 0.7))) if i % 4 else scale
        zeros = rng.integers(-128, 128, 2).tolist()
        yield Affine((scale,), zeros[0]), Affine((out,), zeros[1])


def in_tflm(name: str, pairs: list[tuple[Affine, Affine]], options: Any = None) -> list[Array]:
    """Return what an operator makes of all codes, for each pair of quantisations."""
    operators = [
        tflm.Operator(
            name,
            [tflm.Tensor((1, 256), x.scale, x.zero_point)],
            [tflm.Tensor((1, 256), y.scale, y.zero_point)],
            options,
        )
        for x, y in pairs
    ]
    inputs = [t for op in operators for t in op.inputs if t]
    data = tflm.build(operators, inputs, [t for op in operators for t in op.outputs])
    (made,) = tflm.tflm(data, [CODES.reshape(1, 256)] * len(pairs))
    return [y.ravel() for y in made]


@pytest.mark.parametrize("kind", KERNELS)
def test_tables_equal_those_of_tflm_for_all_codes(kind: CurveKind) -> None:
    name, out = KERNELS[kind]
    rng = np.random.default_rng(3)
    pairs = [(x, out or y) for x, y in quantisations(rng, 16)]
    options = None
    if kind is CurveKind.LEAKY:
        options = tflm.schema().LeakyReluOptionsT()
        options.alpha = ALPHA
    for (x, y), want in zip(pairs, in_tflm(name, pairs, options), strict=True):
        got = curve_codes(Curve(kind, ALPHA), x, y, Rounding.TFLITE)
        np.testing.assert_array_equal(got, want, f"{name} {x} {y}")


def test_what_tflm_has_no_kernel_of_is_said() -> None:
    one = Affine((1.0,))
    for kind in set(CurveKind) - KERNELS.keys():
        with pytest.raises(ValueError, match=f"no int8 kernel of {kind}"):
            curve_codes(Curve(kind), one, one, Rounding.TFLITE)


def test_rescaling_equals_that_of_tflm() -> None:
    pairs = list(quantisations(np.random.default_rng(4), 16))
    for name in ("QUANTIZE", "RELU"):
        for (x, y), want in zip(pairs, in_tflm(name, pairs), strict=True):
            limits = (y.zero_point, 127) if name == "RELU" else (-128, 127)
            op = Rescale(y, limits=limits, rounding=Rounding.TFLITE)
            np.testing.assert_array_equal(op.codes(x), want, f"{name} {x} {y}")


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 7), (3, 5, 1), (1, 1, 1)])
@pytest.mark.parametrize("relu", [False, True])
def test_products_equal_those_of_tflm(shape: tuple[int, ...], relu: bool) -> None:
    rng = np.random.default_rng(5)
    options = tflm.schema().MulOptionsT()
    options.fusedActivationFunction = int(relu)
    operators, feeds, wanted = [], [], []
    for (x, factor), (_, y) in zip(quantisations(rng, 4), quantisations(rng, 4), strict=True):
        scale = float(np.float32(x.scale[0] * factor.scale[0] * 10 ** rng.uniform(0.5, 2.5)))
        out = Affine((scale,), y.zero_point)
        tensors = [
            tflm.Tensor((1, *s), q.scale, q.zero_point)
            for s, q in (((3, 5, 7), x), (shape, factor), ((3, 5, 7), out))
        ]
        operators.append(tflm.Operator("MUL", tensors[:2], tensors[2:], options))
        pair = [rng.integers(-128, 128, t.shape).astype(np.int8) for t in tensors[:2]]
        limits = (out.zero_point, 127) if relu else (-128, 127)
        op = Product(out, limits=limits, rounding=Rounding.TFLITE)
        wanted.append(computed(op, [(pair[0][0], x), (pair[1][0], factor)]))
        feeds += pair
    inputs = [t for op in operators for t in op.inputs if t]
    data = tflm.build(operators, inputs, [op.outputs[0] for op in operators])
    (made,) = tflm.tflm(data, feeds)
    for got, want in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(got[0], want)


def computed(op: Op, inputs: list[tuple[Array, Affine]]) -> Array:
    """Return what the reference of an op makes of some maps."""
    b = Builder()
    nodes = [b.input(f"x{i}", TensorType(x.shape, DType.I8, q)) for i, (x, q) in enumerate(inputs)]
    y = op.reference(b(op, *nodes), *(x for x, _ in inputs))
    assert isinstance(y, np.ndarray)
    return y


EXACT: dict[CurveKind, Callable[[float], float]] = {
    CurveKind.SIGMOID: lambda x: 1 / (1 + math.exp(-x)),
    CurveKind.TANH: math.tanh,
    CurveKind.SILU: lambda x: x / (1 + math.exp(-x)),
    CurveKind.HARD_SIGMOID: lambda x: min(max(x + 3, 0), 6) / 6,
    CurveKind.HARD_SWISH: lambda x: x * min(max(x + 3, 0), 6) / 6,
    CurveKind.GELU: lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    CurveKind.LEAKY: lambda x: x if x > 0 else ALPHA * x,
    CurveKind.ELU: lambda x: x if x > 0 else ALPHA * math.expm1(x),
    CurveKind.NEG: lambda x: -x,
}


@pytest.mark.parametrize("kind", EXACT)
def test_tables_are_the_nearest_codes(kind: CurveKind) -> None:
    for x, y in quantisations(np.random.default_rng(6), 8):
        got = Table.of(Curve(kind, ALPHA), x, y).codes
        for code, out in zip(CODES.tolist(), got, strict=True):
            exact = EXACT[kind]((code - x.zero_point) * x.scale[0]) / y.scale[0] + y.zero_point
            assert abs(out - min(max(exact, -128), 127)) <= 0.5 + 1e-9


def test_where_a_table_clamps_it_has_no_slope() -> None:
    x, y = Affine((0.05,), 0), Affine((0.02,), -10)
    slopes = curve_slopes(Curve(CurveKind.NEG), x, y)
    exact = -CODES * 0.05 / 0.02 - 10
    assert ((slopes == -1) == ((exact > -128.5) & (exact < 127.5))).all()
    assert set(slopes.tolist()) == {0.0, -1.0}


def test_rescaling_far_apart_clamps_or_gives_zero() -> None:
    for scale, want in ((2.0**16, [3, 3, 3]), (2.0**-40, [-128, 3, 127])):
        codes = Rescale(Affine((scale,), 3)).codes(Affine((1.0,), 7))
        assert codes[[0, 128 + 7, 255]].tolist() == want
