"""What was learned in codes goes back into the module that it is from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilograd.errors import InputError
from kilograd.frontend.torch_export import (
    Program,
    intermediates,
    program_from,
    read_program,
    save_state_dict,
    state_dict,
    translated,
)
from kilograd.ir import Array
from kilograd.layers.evaluate import Arithmetic, evaluate, real
from kilograd.layers.evaluate import computed as steps
from kilograd.layers.learned import Learned
from kilograd.layers.network import Convolution, Dense, Network, Tensor
from kilograd.layers.quantise import quantise
from kilograd.layers.simplify import simplify

pytest.importorskip("torch", reason="PyTorch is not here: pip install torch")

import torch
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SHAPE = (3, 8, 10)
Weighted = Convolution | Dense


class Small(nn.Module):  # type: ignore[misc]
    """What folds: batch norm behind and before, constants on the input, a flattened map."""

    def __init__(self, classes: int = 5, *, bias: bool = True) -> None:
        super().__init__()
        self.register_buffer("times", torch.rand(1, 3, 1, 1) + 1)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.depth = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8))
        self.group = nn.Conv2d(8, 4, 1, groups=2)
        self.before = nn.BatchNorm2d(4)
        self.point = nn.Conv2d(4, 6, 1)
        self.hidden = nn.Linear(6 * 20, 7)
        self.head = nn.Linear(7, classes, bias=bias)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.running_mean, -1, 1)
                nn.init.uniform_(norm.running_var, 0.5, 2)
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.first(x * self.times))
        x = torch.relu(self.depth(x)) + x
        x = torch.relu(self.point(self.before(torch.relu(self.group(x)))))
        return self.head(torch.relu(self.hidden(torch.flatten(x, 1))))


def module(classes: int = 5, *, bias: bool = True) -> Any:
    torch.manual_seed(3)
    return Small(classes, bias=bias).eval()


def program(of: Any) -> Program:
    return program_from(of, torch.zeros(1, *SHAPE))


def images(n: int) -> Array:
    return np.random.default_rng(0).normal(size=(n, *SHAPE)).astype(np.float32)


def last(x: Array) -> Array:
    """Return a batch in the axis order of a simplified network."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def coded(net: Program) -> Network:
    """Return the network in codes, with codes that learning has moved."""
    network = quantise(simplify(translated(net)), {"x": last(images(40))}).network
    rng = np.random.default_rng(1)

    def moved(op: Weighted) -> Weighted:
        step = rng.integers(-3, 4, op.weight.values.shape)
        codes = np.clip(op.weight.values + step, -127, 127).astype(np.int8)
        assert op.bias is not None
        bias = (op.bias.values + rng.integers(-99, 99, op.bias.values.shape)).astype(np.int32)
        return replace(
            op, weight=replace(op.weight, values=codes), bias=replace(op.bias, values=bias)
        )

    layers = tuple(
        replace(x, op=moved(x.op)) if isinstance(x.op, Convolution | Dense) else x
        for x in network.layers
    )
    return replace(network, layers=layers)


def weighted(network: Network) -> dict[str, Weighted]:
    return {x.name: x.op for x in network.layers if isinstance(x.op, Convolution | Dense)}


def learned(network: Network) -> dict[str, Learned]:
    return {name: Learned(op.weight, op.bias) for name, op in weighted(network).items()}


def loaded(of: Any, state: dict[str, Array]) -> Any:
    of.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return of


def computed(of: Any, x: Array) -> Array:
    with torch.no_grad():
        return np.array(of(torch.from_numpy(x)))


def test_the_module_has_the_weights_of_the_codes() -> None:
    net = program(module())
    codes = coded(net)
    state = state_dict(net, learned(codes))
    assert state.keys() == module().state_dict().keys()
    again = weighted(simplify(translated(program(loaded(module(), state)))))
    for name, op in weighted(codes).items():
        found = again[name]
        assert op.bias is not None
        assert found.bias is not None
        np.testing.assert_allclose(found.weight.values, real(op.weight), rtol=1e-6)
        assert op.weight.quant is not None
        scale = np.array(op.weight.quant.scale).reshape(-1, *(1,) * (op.weight.values.ndim - 1))
        np.testing.assert_array_equal(np.rint(found.weight.values / scale), op.weight.values)
        assert op.bias.quant is not None
        unit = op.bias.quant.unit * np.array(op.bias.quant.scale)
        assert np.abs(found.bias.values / unit - op.bias.values).max() < 0.1


def test_weights_without_batch_norm_are_codes_times_scale() -> None:
    net = program(module())
    codes = weighted(coded(net))
    state = state_dict(net, {n: Learned(x.weight, x.bias) for n, x in codes.items()})
    np.testing.assert_array_equal(state["head.weight"], real(codes["head_"].weight))
    point = real(codes["head_"].bias) if codes["head_"].bias else None
    np.testing.assert_array_equal(state["head.bias"], point)
    group = real(codes["group"].weight).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(state["group.weight"], group)
    assert state["first.1.num_batches_tracked"].dtype == np.int64


def test_the_module_computes_what_the_codes_stand_for() -> None:
    net = program(module())
    codes = coded(net)
    x = images(60)
    y = computed(loaded(module(), state_dict(net, learned(codes))), x)
    reals = evaluate(codes, {"x": last(x)})[codes.outputs[0]]
    np.testing.assert_allclose(y, reals, rtol=1e-4, atol=1e-5)
    moved = computed(module(), x)
    assert np.abs(moved - y).max() > 50 * np.abs(reals - y).max()


def test_the_module_is_as_near_to_the_codes_as_their_rounding() -> None:
    net = program(module())
    network = coded(net)
    x = images(60)
    of_module = program(loaded(module(), state_dict(net, learned(network))))
    wanted = {v.name: y for v, y in intermediates(of_module, {"x": x}).items()}
    logits = network.outputs[0]
    apart = {}
    for value, y in steps(network, {"x": last(x)}, Arithmetic.CODES):
        if value.name in wanted and value.quant is not None:
            z = wanted[value.name]
            z = z if z.ndim == 2 else last(z)
            low, high = ((c - value.quant.zero_point) * value.quant.scale[0] for c in (-128, 127))
            apart[value] = np.abs(np.clip(z, low, high) - y) / value.quant.scale[0]
            if value == logits:
                cosine = (y * z).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(z, axis=1)
    assert len(apart) >= 6
    assert all(d.mean() < 1 for d in apart.values())
    assert all(d.max() < 8 for d in apart.values())
    assert cosine.min() > 0.999


def test_a_head_may_have_other_classes() -> None:
    net = program(module())
    ops = learned(quantise(simplify(translated(net)), {"x": last(images(40))}).network)
    rng = np.random.default_rng(2)
    weight = Tensor(rng.normal(size=(3, 7)).astype(np.float32), None, "head.weight")
    bias = Tensor(rng.normal(size=3).astype(np.float32))
    state = state_dict(net, {**ops, "head_": Learned(weight, bias)})
    np.testing.assert_array_equal(state["head.weight"], weight.values)
    np.testing.assert_array_equal(state["head.bias"], bias.values)
    loaded(module(3), state)
    other = Tensor(rng.normal(size=(3, 9)).astype(np.float32), None, "first.0.weight")
    with pytest.raises(InputError, match="only a classifier"):
        state_dict(net, {"first.0": Learned(other, bias)})


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_state_dict_is_written(tmp_path: Path, ending: str) -> None:
    net = program(module())
    state = state_dict(net, learned(coded(net)))
    file = tmp_path / f"learned{ending}"
    save_state_dict(file, state)
    if ending == ".pt":
        found = torch.load(file, weights_only=True)
    else:
        from safetensors.torch import load_file

        found = load_file(file)
    other = module()
    other.load_state_dict(found)
    np.testing.assert_array_equal(
        computed(other, images(2)), computed(loaded(module(), state), images(2))
    )
    with pytest.raises(InputError, match="name it"):
        save_state_dict(tmp_path / "learned.bin", state)


def test_a_file_can_take_it_too(tmp_path: Path) -> None:
    exported = torch.export.export(module(), (torch.zeros(1, *SHAPE),))
    torch.export.save(exported, tmp_path / "net.pt2")
    net = read_program(tmp_path / "net.pt2")
    state = state_dict(net, learned(coded(net)))
    wanted = state_dict(program(module()), learned(coded(program(module()))))
    for name, x in state.items():
        np.testing.assert_array_equal(x, wanted[name])


def test_what_the_module_cannot_hold_is_refused() -> None:
    net = program(module(bias=False))
    with pytest.raises(InputError, match=r"head\.weight: the layer has learned a bias"):
        state_dict(net, learned(coded(net)))
    ops = learned(coded(program(module())))
    with pytest.raises(InputError, match="points: has no weights of its own there"):
        state_dict(net, {"points": ops["point"]})
    dead = module()
    with torch.no_grad():
        dead.first[1].weight[2] = 0
    with pytest.raises(InputError, match="multiplies by zero"):
        state_dict(program(dead), {"first.0": ops["first.0"]})


class Branches(nn.Module):  # type: ignore[misc]
    """As RepVGG trains: three by three, one by one, and the map itself, with batch norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1, bias=False), nn.BatchNorm2d(3))
        self.b = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
        self.c = nn.BatchNorm2d(3)
        for norm in (self.a[1], self.b[1], self.c):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.a(x) + self.b(x) + self.c(x))


def test_the_largest_of_merged_branches_takes_what_was_learned() -> None:
    torch.manual_seed(4)
    net = program_from(Branches().eval(), torch.zeros(1, *SHAPE))
    ((name, old),) = weighted(simplify(translated(net))).items()
    assert name == "a.0"
    rng = np.random.default_rng(5)
    w = rng.normal(size=old.weight.values.shape).astype(np.float32)
    b = rng.normal(size=3).astype(np.float32)
    state = state_dict(net, {name: Learned(Tensor(w), Tensor(b))})
    changed = {k for k, v in state.items() if not np.array_equal(v, net.state[k])}
    assert changed == {"a.0.weight", "a.1.bias"}
    after = program_from(loaded(Branches().eval(), state), torch.zeros(1, *SHAPE))
    (found,) = weighted(simplify(translated(after))).values()
    np.testing.assert_allclose(found.weight.values, w, rtol=1e-5, atol=1e-6)
    assert found.bias is not None
    np.testing.assert_allclose(found.bias.values, b, rtol=1e-5, atol=1e-6)


def test_weights_of_two_layers_are_refused() -> None:
    class Twice(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3, 1, 1)

        def forward(self, x: Any) -> Any:
            return self.a(torch.relu(self.a(x)))

    net = program_from(Twice().eval(), torch.zeros(1, *SHAPE))
    with pytest.raises(InputError, match="weights are those of several layers"):
        state_dict(net, learned(simplify(translated(net))))
