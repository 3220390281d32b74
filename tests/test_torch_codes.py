"""Programs in codes, as PT2E's quantisers write them, compute the same codes here."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kilograd.errors import InputError
from kilograd.frontend.torch_export import (
    intermediates,
    network_of,
    program_from,
    state_dict,
    translated,
)
from kilograd.ir import Array
from kilograd.layers.evaluate import Arithmetic, codes, dequantised, evaluate
from kilograd.layers.network import Clamp, Convolution, Dense, Value
from kilograd.layers.simplify import simplify

pytest.importorskip("torch", reason="PyTorch is not here: pip install torch")
pytest.importorskip("torch.ao.quantization.fx._decomposed", reason="PyTorch has no such library")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 as its users call it

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SHAPE = (3, 12, 16)


def coded(x: Any, scale: float, zero: int = 0, dtype: Any = torch.int8, least: int = -128) -> Any:
    """What a quantiser puts around each value."""
    given = (scale, zero, least, least + 255, dtype)
    library = torch.ops.quantized_decomposed
    return library.dequantize_per_tensor(library.quantize_per_tensor(x, *given), *given)


class Frozen(nn.Module):  # type: ignore[misc]
    """A layer's weight in codes, one scale an output channel; the bias stays float."""

    def __init__(self, layer: Any, axis: int = 0, zero: int = 0) -> None:
        super().__init__()
        w = layer.weight.detach()
        scales = w.abs().amax(tuple(range(1, w.ndim))) / 127
        along = scales.reshape(-1, *(1,) * (w.ndim - 1))
        self.register_buffer("codes", torch.round(w / along).to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.full(scales.shape, zero))
        self.axis, self.bias = axis, nn.Parameter(layer.bias.detach())

    def forward(self) -> Any:
        given = (self.scales, self.zeros, self.axis, -127, 127, torch.int8)
        return torch.ops.quantized_decomposed.dequantize_per_channel(self.codes, *given)


class Quantised(nn.Module):  # type: ignore[misc]
    """Both ways of ReLU, a sum, pools, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = Frozen(nn.Conv2d(3, 8, 3))
        self.b = Frozen(nn.Conv2d(8, 8, 3, groups=8))
        self.c = Frozen(nn.Linear(8, 5))

    def forward(self, x: Any) -> Any:
        x = coded(F.conv2d(coded(x, 0.0313, 4), self.a(), self.a.bias, (2, 1), 1), 0.0247, -20)
        x = coded(F.hardtanh(x, 0, 2), 0.0247, -20)
        x = coded(F.max_pool2d(x, 2), 0.0247, -20)
        y = coded(F.relu(F.conv2d(x, self.b(), self.b.bias, 1, 1, 1, 8)), 0.0061, -128)
        x = coded(x + y, 0.0219, -128)
        x = coded(F.adaptive_avg_pool2d(x, 1), 0.0103, -128)
        return coded(F.linear(torch.flatten(x, 1), self.c(), self.c.bias), 0.0097, 10)


def test_the_codes_are_those_of_pytorch() -> None:
    program = program_from(Quantised().eval(), torch.zeros(1, *SHAPE))
    network = translated(program)
    assert network.quantised
    x = {"x": np.random.default_rng(0).normal(size=(20, *SHAPE)).astype(np.float32)}
    wanted = intermediates(program, x)
    compared = 0
    for layer in network.layers:  # each of what PyTorch has made of those before
        if layer.output in wanted and all(v in wanted for v in layer.inputs):
            one = replace(network, inputs=layer.inputs, outputs=(layer.output,), layers=(layer,))
            given = {v.name: reals(wanted[v], v) for v in layer.inputs}
            y = evaluate(one, given, arithmetic=Arithmetic.CODES)[layer.output]
            assert layer.output.quant is not None
            assert wanted[layer.output].dtype == np.int8
            apart = np.abs(codes(y, layer.output.quant).astype(int) - wanted[layer.output])
            assert apart.max() <= 1  # the bias is rounded to codes
            assert (apart > 0).mean() < 0.01
            compared += 1
    assert compared == len(network.layers)


def reals(x: Array, value: Value) -> Array:
    return x if value.quant is None else dequantised(x, value.quant).astype(np.float32)


def test_weights_keep_their_codes_and_biases_get_some() -> None:
    module = Quantised().eval()
    plain = simplify(network_of(module, torch.zeros(1, *SHAPE)))
    ops = [x.op for x in plain.layers if isinstance(x.op, Convolution | Dense)]
    for op, layer in zip(ops, (module.a, module.b, module.c), strict=True):
        w = layer.codes.numpy()
        w = w.transpose(0, 2, 3, 1) if w.ndim == 4 else w
        np.testing.assert_array_equal(op.weight.values, w)
        assert op.weight.quant is not None
        assert op.weight.quant.scale == tuple(map(float, layer.scales))
        assert op.bias is not None
        assert op.bias.quant is not None
        unit = op.bias.quant.unit * np.array(op.bias.quant.scale)
        np.testing.assert_allclose(op.bias.values * unit, layer.bias.detach(), atol=unit.max())
    assert not any(isinstance(x.op, Clamp) for x in plain.layers)
    assert [op.clamp for op in ops] == [(0, 2), (0, np.inf), (-np.inf, np.inf)]
    assert plain.inputs[0].quant is not None
    assert all(x.output.quant is not None for x in plain.layers)


def test_learned_weights_go_into_the_float_module() -> None:
    program = program_from(Quantised().eval(), torch.zeros(1, *SHAPE))
    with pytest.raises(InputError, match="give the float module"):
        state_dict(program, {})


class Of(nn.Module):  # type: ignore[misc]
    def __init__(self, f: Any, a: Any) -> None:
        super().__init__()
        self.f, self.a = f, a

    def forward(self, x: Any) -> Any:
        return self.f(self.a, x)


def between(a: Any, x: Any) -> Any:
    y = F.conv2d(coded(x, 0.1), a(), a.bias)
    return coded(torch.tanh(torch.sigmoid(y)), 0.1)


def twice(a: Any, x: Any) -> Any:
    y = a(x)
    return coded(y, 0.1) + torch.tanh(y)


@pytest.mark.parametrize(
    ("f", "a", "said"),
    [
        (lambda a, x: coded(x, 0.1, 128, torch.uint8, 0), nn.ReLU(), "int8 from -128 to 127"),
        (lambda a, x: coded(a(coded(x, 0.1)), 0.1), nn.Conv2d(3, 4, 1), "its weights have none"),
        (
            lambda a, x: coded(F.conv2d(x, a(), a.bias), 0.1),
            Frozen(nn.Conv2d(3, 4, 1)),
            "what it reads has none",
        ),
        (
            lambda a, x: coded(F.conv2d(coded(x, 0.1), a(), a.bias), 0.1),
            Frozen(nn.Conv2d(3, 4, 1), zero=3),
            "zero points",
        ),
        (
            lambda a, x: coded(F.conv2d(coded(x, 0.1), a(), a.bias), 0.1),
            Frozen(nn.Conv2d(3, 3, 1), axis=1),
            "not of outputs",
        ),
        (between, Frozen(nn.Conv2d(3, 4, 1)), "Convolution .* computes in float between codes"),
        (
            twice,
            nn.Sigmoid(),
            "read in float as well",
        ),
    ],
)
def test_other_codes_are_refused(f: Any, a: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        network_of(Of(f, a).eval(), torch.zeros(1, *SHAPE))
