"""Pools against TensorFlow Lite Micro, exact fractions and PyTorch."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import tflm
from tflm import Operator, Tensor, constant

from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    Builder,
    DType,
    Op,
    ShapeError,
    TensorType,
    interpret,
)
from kilograd.ops import AvgPool, MaxPool, Mean, MeanPool, Window
from kilograd.quant import Rounding


def computed(op: Op, x: Array, quant: Affine) -> Array:
    """Return what the reference of an op makes of a map [h, w, c]."""
    b = Builder()
    y = b(op, b.input("x", TensorType(x.shape, DType.I8, quant)), name="y")
    out = interpret(b.graph(y), {"x": x})["y"]
    assert isinstance(out, np.ndarray)
    return out


def strided(stride: int, pad: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Window:
    """Return a window with one stride both ways."""
    return Window((stride, stride), pad)


def maps(shape: tuple[int, ...], seed: int = 0) -> list[Array]:
    """Return random maps, and some of few codes, whose means are often just between two."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(low, high, shape).astype(np.int8)
        for low, high in ((-128, 128), (-3, 4), (-2, 1), (120, 128), (-128, -120), (0, 2))
    ]


def in_tflm(
    kind: str, options: Any, xs: list[Array], quant: Affine, ops: list[Op], rest: list[list[Tensor]]
) -> list[list[Array]]:
    """Return what TFLM makes of maps, for the operators that `ops` stand for, all on one input."""
    x = Tensor((1, *xs[0].shape), quant.scale, quant.zero_point)
    kinds = [op.infer(TensorType(xs[0].shape, DType.I8, quant)) for op in ops]
    outs = [Tensor((1, *k.shape), k.affine.scale, k.affine.zero_point) for k in kinds]
    operators = [
        Operator(kind, [x, *more], [out], options) for more, out in zip(rest, outs, strict=True)
    ]
    data = tflm.build(operators, [x], outs)
    return [[y[0] for y in found] for found in tflm.tflm(data, *[[x[None]] for x in xs])]


#: height, width, kernel, stride, SAME padding
GEOMETRIES = (
    ((6, 7), (2, 2), 2, False),
    ((7, 6), (3, 3), 2, True),
    ((5, 8), (3, 2), 1, True),
    ((4, 4), (4, 4), 1, False),
    ((9, 4), (5, 3), 3, True),
)


def window_of(size: tuple[int, int], kernel: tuple[int, int], stride: int, *, same: bool) -> Window:
    """Return the window that TFLite has for a padding by name."""
    if not same:
        return strided(stride)
    total = [
        max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(size, kernel, strict=True)
    ]
    sides = [(t // 2, t - t // 2) for t in total]
    return strided(stride, (*sides[0], *sides[1]))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_pools_are_those_of_tflm(kind: str, geometry: Any) -> None:
    size, kernel, stride, same = geometry
    window = window_of(size, kernel, stride, same=same)
    quant = Affine((0.047,), -9)
    s = tflm.schema()
    options = s.Pool2DOptionsT()
    options.filterHeight, options.filterWidth = kernel
    options.strideH = options.strideW = stride
    options.padding = s.Padding.SAME if same else s.Padding.VALID
    mean = MeanPool(kernel, window, quant, rounding=Rounding.TFLITE)
    op = mean if kind == "AVERAGE_POOL_2D" else MaxPool(kernel, window)
    xs = maps((*size, 5))
    for x, (y,) in zip(xs, in_tflm(kind, options, xs, quant, [op], [[]]), strict=True):
        np.testing.assert_array_equal(computed(op, x, quant), y)
        if op == mean and kernel == size:
            np.testing.assert_array_equal(computed(AvgPool(Rounding.TFLITE), x, quant), y)


def test_clamped_pools_are_those_of_tflm() -> None:
    quant = Affine((0.05,), -7)
    s = tflm.schema()
    options = s.Pool2DOptionsT()
    options.filterHeight = options.filterWidth = options.strideH = options.strideW = 2
    options.padding = s.Padding.VALID
    options.fusedActivationFunction = s.ActivationFunctionType.RELU6
    op = MeanPool((2, 2), strided(2), quant, limits=(-7, 113), rounding=Rounding.TFLITE)
    xs = maps((6, 6, 3))
    found = in_tflm("AVERAGE_POOL_2D", options, xs, quant, [op], [[]])
    for x, (y,) in zip(xs, found, strict=True):
        np.testing.assert_array_equal(computed(op, x, quant), y)


@pytest.mark.parametrize("size", [(7, 7), (3, 5), (16, 8), (1, 6)])
def test_means_are_those_of_tflm(size: tuple[int, int]) -> None:
    """Of scales that stay, shrink and grow, by up to a thousand."""
    quant, xs = Affine((float(np.float32(0.037)),), -9), maps((*size, 5))
    options = tflm.schema().ReducerOptionsT()
    options.keepDims = True
    scales = [float(np.float32(0.037 / r)) for r in (1.0, 0.3, 0.87, 1.6, 3.7, 90.0, 1e-3)]
    ops: list[Op] = []
    along = []
    for axes in ((0, 1), (0,), (1,)):
        ops += [Mean(Affine((scale,), 4), Rounding.TFLITE, axes) for scale in scales]
        along += [[constant(np.array([a + 1 for a in axes], np.int32))]] * len(scales)
    for x, ys in zip(xs, in_tflm("MEAN", options, xs, quant, ops, along), strict=True):
        for op, y in zip(ops, ys, strict=True):
            np.testing.assert_array_equal(computed(op, x, quant), y, err_msg=str(op))


def half_even(x: Fraction) -> int:
    return round(x)  # Python's own rounding of fractions: half to even


@pytest.mark.parametrize("ratio", [1.0, 0.5, 2.0, 0.25])
def test_means_to_the_nearest_are_exact(ratio: float) -> None:
    """By fractions; scales whose ratio is a power of two leave nothing else to round."""
    window, quant, out = strided(2, (1, 0, 0, 1)), Affine((0.5,), 3), Affine((0.5 / ratio,), -6)
    for x in maps((5, 6, 2)):
        y = computed(MeanPool((3, 2), window, out), x, quant)
        for (oy, ox, c), code in np.ndenumerate(y):
            rows, columns = (
                [i for i in range(2 * o - p, 2 * o - p + k) if 0 <= i < n]
                for o, p, k, n in ((oy, 1, 3, 5), (ox, 0, 2, 6))
            )
            reals = [Fraction(int(x[i, j, c]) - 3) for i in rows for j in columns]
            want = half_even(sum(reals) * Fraction(ratio) / len(reals)) - 6
            assert code == min(max(want, -128), 127)


def gradient_of(op: Op, x: Array, dy: Array, quant: Affine) -> Array:
    """Return the gradient of a map in reals, for one of the result in reals."""
    b = Builder()
    xs = b.input("x", TensorType(x.shape, DType.I8, quant))
    y = b(op, xs)
    d = b.input("dy", TensorType(y.type.shape, DType.I16, BlockExponent(15)))
    (dx,) = op.vjp(b, y, d)
    assert dx is not None
    given = Block(np.rint(dy * 2.0**20).astype(np.int16), -20)
    out = interpret(b.graph(dx), {"x": x, "dy": given})[dx.name]
    assert isinstance(out, Block)
    return out.real()


@pytest.mark.parametrize(
    "geometry", [g for g in GEOMETRIES if not g[3]] + [((7, 7), (3, 3), 2, True)]
)
def test_gradients_of_pools_are_those_of_torch(geometry: Any) -> None:
    """Ties too: the first of the largest takes all, as in PyTorch."""
    torch = pytest.importorskip("torch")
    size, kernel, stride, same = geometry
    window = strided(stride, (1, 1, 1, 1) if same else (0, 0, 0, 0))
    quant, rng = Affine((0.05,), -3), np.random.default_rng(4)
    for x in maps((*size, 4), 2):
        image = (
            torch.tensor((x.astype(np.float64) + 3) * 0.05).permute(2, 0, 1)[None].requires_grad_()
        )
        wide = Affine((0.4,), 5)  # so that nothing is clamped
        for op, pool in (
            (MaxPool(kernel, window), torch.nn.functional.max_pool2d),
            (MeanPool(kernel, window, wide), torch.nn.functional.avg_pool2d),
        ):
            options = {} if isinstance(op, MaxPool) else {"count_include_pad": False}
            y = pool(image, kernel, stride, int(same), **options)
            dy = rng.uniform(-0.03, 0.03, y.shape)
            (want,) = torch.autograd.grad(y, image, torch.tensor(dy))
            got = gradient_of(op, x, dy[0].transpose(1, 2, 0), quant)
            np.testing.assert_allclose(got, want[0].permute(1, 2, 0).numpy(), atol=2.0**-17)


def test_a_place_that_sees_only_padding_is_refused() -> None:
    x = TensorType((4, 4, 2), DType.I8, Affine((0.1,)))
    for op in (
        MaxPool((2, 2), Window(pad=(2, 0, 0, 0))),
        MeanPool((1, 1), Window(pad=(0, 0, 1, 0)), x.affine),
    ):
        with pytest.raises(ShapeError, match="sees only padding"):
            op.infer(x)
    with pytest.raises(ShapeError, match="keeps the scale"):
        MeanPool((2, 2), Window(), replace(x.affine, zero_point=1), rounding=Rounding.TFLITE).infer(
            x
        )
