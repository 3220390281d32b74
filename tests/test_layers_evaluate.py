"""What networks of layers compute, against PyTorch and against slow formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kilograd.ir import Affine, Array
from kilograd.layers.evaluate import Arithmetic, evaluate
from kilograd.layers.network import (
    ChannelScale,
    Clamp,
    Concat,
    Constant,
    Convolution,
    Curve,
    CurveKind,
    Dense,
    Gather,
    Layer,
    Layout,
    Mean,
    Network,
    Operation,
    Pad,
    Pool,
    PoolKind,
    Product,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Source,
    Sum,
    Tensor,
    Transpose,
    Value,
)
from kilograd.quant.curves import curve, slope

FIRST, LAST = Layout.CHANNELS_FIRST, Layout.CHANNELS_LAST
rng = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return rng.normal(size=shape)


def one(op: Operation, *xs: Array, shape: tuple[int, ...], layout: Layout = FIRST) -> Array:
    """What a layer makes of batches."""
    inputs = tuple(Value(f"x{i}", x.shape[1:]) for i, x in enumerate(xs))
    y = Value("y", shape)
    net = Network("n", layout, inputs, (y,), (Layer("l", op, inputs, y),), Source("test"))
    got = evaluate(net, {v.name: x for v, x in zip(inputs, xs, strict=True)})[y]
    assert got.shape == (len(xs[0]), *shape)
    return got


def close(got: Array, right: object) -> None:
    np.testing.assert_allclose(got, np.asarray(right), rtol=1e-10, atol=1e-10)


CONVOLUTIONS = {
    "plain": (4, 6, 3, 1, 1, (0, 0), 1),
    "padded": (4, 6, 3, 1, 1, (1, 1), 1),
    "strides": (3, 5, 3, (2, 1), 1, (1, 0), 1),
    "dilated": (3, 5, 3, 1, (2, 1), (2, 1), 1),
    "flat kernel": (3, 5, (1, 4), 1, 1, (0, 2), 1),
    "depthwise": (4, 4, 3, 2, 1, (1, 1), 4),
    "multiplier": (3, 6, 3, 1, 1, (1, 1), 3),
    "groups": (6, 4, 3, 1, 1, (1, 1), 2),
    "pointwise": (5, 7, 1, 1, 1, (0, 0), 1),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("layout", Layout)
def test_convolutions(case: str, layout: Layout) -> None:
    torch = pytest.importorskip("torch")
    ins, outs, kernel, stride, dilation, pad, groups = CONVOLUTIONS[case]
    x = torch.randn(2, ins, 9, 8, dtype=torch.float64)
    module = torch.nn.Conv2d(ins, outs, kernel, stride, pad, dilation, groups).double()
    right = module(x).detach().numpy()
    top, left = pad
    op = Convolution(
        Tensor(module.weight.detach().numpy().transpose(0, 2, 3, 1)),
        Tensor(module.bias.detach().numpy()),
        module.stride,
        (top, top, left, left),
        module.dilation,
        groups,
    )
    if layout is FIRST:
        close(one(op, x.numpy(), shape=right.shape[1:]), right)
    else:
        right = right.transpose(0, 2, 3, 1)
        close(one(op, x.permute(0, 2, 3, 1).numpy(), shape=right.shape[1:], layout=LAST), right)


def test_a_convolution_over_one_axis() -> None:
    torch = pytest.importorskip("torch")
    x, w = torch.randn(2, 3, 11, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    right = torch.nn.functional.conv1d(x, w, stride=2).numpy()
    op = Convolution(Tensor(w.permute(0, 2, 1)[:, None].numpy()), stride=(1, 2))
    close(one(op, x.numpy(), shape=right.shape[1:]), right)


def test_uneven_padding_and_a_clamp() -> None:
    torch = pytest.importorskip("torch")
    x, w = torch.randn(2, 3, 6, 6, dtype=torch.float64), torch.randn(4, 3, 3, 3).double()
    padded = torch.nn.functional.pad(x, (0, 1, 2, 3))
    right = torch.nn.functional.conv2d(padded, w, stride=2).clamp(0, 1).numpy()
    op = Convolution(
        Tensor(w.permute(0, 2, 3, 1).numpy()), stride=(2, 2), pad=(2, 3, 0, 1), clamp=(0, 1)
    )
    close(one(op, x.numpy(), shape=right.shape[1:]), right)


@pytest.mark.parametrize("count_pad", [False, True])
def test_mean_pools(count_pad: bool) -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    right = torch.nn.functional.avg_pool2d(x, (3, 2), (2, 1), (1, 1), count_include_pad=count_pad)
    op = Pool(PoolKind.MEAN, (3, 2), (2, 1), (1, 1, 1, 1), count_pad=count_pad)
    close(one(op, x.numpy(), shape=right.shape[1:]), right.numpy())


def test_largest_pools() -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64) - 5
    right = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    op = Pool(PoolKind.MAX, (3, 3), (2, 2), (1, 1, 1, 1))
    close(one(op, x.numpy(), shape=right.shape[1:]), right.numpy())


CURVES = {
    CurveKind.SIGMOID: "sigmoid",
    CurveKind.TANH: "tanh",
    CurveKind.SILU: "silu",
    CurveKind.HARD_SIGMOID: "hardsigmoid",
    CurveKind.HARD_SWISH: "hardswish",
    CurveKind.GELU: "gelu",
    CurveKind.GELU_TANH: "gelu",
    CurveKind.LEAKY: "leaky_relu",
    CurveKind.ELU: "elu",
    CurveKind.SOFTPLUS: "softplus",
    CurveKind.MISH: "mish",
}


@pytest.mark.parametrize("kind", CurveKind)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_curves_and_their_slopes(kind: CurveKind, dtype: type) -> None:
    torch = pytest.importorskip("torch")
    x = torch.linspace(-7, 7, 254, dtype=torch.float64, requires_grad=True)
    functional = torch.nn.functional
    extra: dict[str, object] = {}
    match kind:
        case CurveKind.GELU_TANH:
            extra = {"approximate": "tanh"}
        case CurveKind.LEAKY:
            extra = {"negative_slope": 0.2}
        case CurveKind.ELU:
            extra = {"alpha": 0.2}
        case CurveKind.SQRT:
            x = (x.detach().abs() + 0.1).requires_grad_()
    name = CURVES.get(kind)
    y = getattr(torch, kind.value)(x) if name is None else getattr(functional, name)(x, **extra)
    (right,) = torch.autograd.grad(y.sum(), x)
    op, points = Curve(kind, 0.2), x.detach().numpy().astype(dtype)
    got, steep = curve(op, points), slope(op, points)
    assert got.dtype == steep.dtype == dtype
    tolerance = 1e-5 if dtype is np.float32 else 1e-9
    np.testing.assert_allclose(got, y.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(steep, right.numpy(), rtol=tolerance, atol=5 * tolerance)


def test_curves_far_out_are_finite() -> None:
    x = np.array([-1e4, -100, 100, 1e4], np.float32)
    for kind in set(CurveKind) - {CurveKind.EXP}:
        with np.errstate(all="raise", under="ignore"):
            op = Curve(kind, 0.1)
            assert np.isfinite(curve(op, x)).all(), kind
            assert np.isfinite(slope(op, x)).all(), kind


def test_sums_and_products_broadcast_behind_the_batch() -> None:
    x, y = normal(2, 3, 4, 5), normal(2, 3, 1, 1)
    close(one(Product(), x, y, shape=(3, 4, 5)), x * y)
    close(one(Sum((0, 2)), x, y, shape=(3, 4, 5)), np.clip(x + y, 0, 2))
    row = normal(2, 5)
    close(one(Sum(), x, row, shape=(3, 4, 5)), x + row[:, None, None])


def test_constants_have_no_batch() -> None:
    x, value, y = Value("x", (3, 4, 5)), Value("c", (4, 5)), Value("y", (3, 4, 5))
    numbers = normal(4, 5)
    layers = (
        Layer("c", Constant(Tensor(numbers)), (), value),
        Layer("s", Sum(), (x, value), y),
    )
    net = Network("n", FIRST, (x,), (y,), layers, Source("test"))
    data = normal(3, 3, 4, 5)
    close(evaluate(net, {"x": data})[y], data + numbers)


@pytest.mark.parametrize("layout", Layout)
def test_channels_are_scaled(layout: Layout) -> None:
    x, factor, offset = normal(2, 3, 3, 3), normal(3), normal(3)
    right = x * factor + offset
    got = one(ChannelScale(factor, offset), x, shape=(3, 3, 3), layout=layout)
    if layout is FIRST:
        right = (x.transpose(0, 2, 3, 1) * factor + offset).transpose(0, 3, 1, 2)
    close(got, right)


def test_what_moves_elements() -> None:
    x = normal(2, 3, 4, 6)
    close(one(Reshape(), x, shape=(12, 6)), x.reshape(2, 12, 6))
    close(one(Transpose((2, 0, 1)), x, shape=(6, 3, 4)), np.moveaxis(x, 3, 1))
    close(one(Slice(2, 1, 2, 3), x, shape=(3, 4, 2)), x[..., 1::3])
    close(one(Slice(0, 2, 3, -1), x, shape=(3, 4, 6)), x[:, ::-1])
    close(one(Gather(1, (3, 0, 0)), x, shape=(3, 3, 6)), x[:, :, [3, 0, 0]])
    close(one(Concat(0), x, x[:, :1], shape=(4, 4, 6)), np.concatenate([x, x[:, :1]], 1))
    sides = ((0, 1), (2, 0), (0, 0))
    right = np.pad(x, ((0, 0), *sides), constant_values=7)
    close(one(Pad(sides, 7), x, shape=(4, 6, 6)), right)
    close(one(Resize((2, 3)), x, shape=(3, 8, 18)), np.kron(x, np.ones((2, 3))))
    close(one(Mean((1, 2)), x, shape=(3,)), x.mean((2, 3)))
    close(one(Mean((0,)), x, shape=(1, 4, 6)), x.mean(1, keepdims=True))
    close(one(Clamp((-1, math.inf)), x, shape=(3, 4, 6)), np.maximum(x, -1))


def test_dense_layers_take_vectors_and_rows() -> None:
    w, b = normal(4, 6), normal(4)
    op = Dense(Tensor(w), Tensor(b), clamp=(0, math.inf))
    for x in (normal(5, 6), normal(5, 3, 6)):
        right = np.maximum(np.einsum("...i,oi->...o", x, w) + b, 0)
        close(one(op, x, shape=(*x.shape[1:-1], 4)), right)


def test_softmax_of_large_numbers() -> None:
    x = np.array([[1000.0, 1000.0, 0.0]])
    close(one(Softmax(), x, shape=(3,)), [[0.5, 0.5, 0]])


def test_codes_are_rounded_only_where_asked() -> None:
    quant = Affine((0.5,), -3)
    x, y = Value("x", (4,), quant), Value("y", (4,), quant)
    w = Tensor(np.diag([3, 2, 4, 8]).astype(np.int8), Affine((0.25, 0.5, 0.5, 0.5), axis=0))
    net = Network("n", LAST, (x,), (y,), (Layer("d", Dense(w), (x,), y),), Source("test"))
    data = np.array([[0.6, 0.2, -0.3, 1000]])
    close(evaluate(net, {"x": data})[y], data @ np.diag([0.75, 1, 2, 4]))
    got = evaluate(net, {"x": data}, (x, y), Arithmetic.CODES)
    close(got[x], [[0.5, 0, -0.5, 65]])  # codes -2, -3, -4, and 127 at most
    close(got[y], [[0.5, 0, -1, 65]])  # 0.375 is nearer to 0.5 than to 0


def test_a_batch_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, op = normal(5, 3, 6, 6), Convolution(Tensor(normal(4, 3, 3, 3)))
    whole = one(op, x, shape=(4, 4, 4))
    monkeypatch.setattr("kilograd.layers.evaluate._PATCHES", 900)
    close(one(op, x, shape=(4, 4, 4)), whole)
