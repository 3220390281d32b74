"""The int8 head: a linear classifier in the arithmetic of layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import write_model

from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.ir import Array, Node
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.select import Budget
from kilograd.settings import HeadKind, Recipe
from kilograd.targets import HostProgram, build_host

WAYS, LABEL = 5, 2
LOWEST, HIGHEST = -16.0, 127 / 8
"""Logits."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small", seed=3)))


@pytest.fixture(scope="module")
def head(model: Model) -> HostProgram:
    return build_host(compiled(model, HeadKind.INT8).program)


def compiled(model: Model, head: HeadKind, method: str = "head", ways: int = WAYS) -> Compiled:
    return compile_recipe(model, Recipe(method, ways, head), Budget())


def features(model: Model, image: Array) -> Array:
    """Return the features in real units, float64, by way of the sums that are prototypes."""
    plain = build_host(compile_recipe(model, Recipe("none", 1), Budget()).program)
    plain.call("enrol", image=image, label=np.zeros(1, np.int32))
    return plain.state["head.prototypes"][0].astype(np.float64)


def codes(head: HostProgram, rng: np.random.Generator, width: int) -> None:
    head.state["head.weight"][...] = rng.integers(-width, width + 1, (WAYS, 1, 1, _size(head)))
    head.state["head.bias"][...] = rng.integers(-60_000, 60_001, WAYS)


def _size(head: HostProgram) -> int:
    return head.state["head.weight"].shape[-1]


def reals(head: HostProgram) -> tuple[Array, Array]:
    """Return weights and biases in real units, by the scales that their types state."""
    kinds = {n.name: n.type for n in _nodes(head)}
    found = []
    for name in ("head.weight", "head.bias"):
        quant = kinds[name].affine
        found.append(head.state[name].astype(np.float64) * quant.scale[0] * quant.unit)
    return found[0].reshape(WAYS, -1), found[1]


def _nodes(head: HostProgram) -> tuple[Node, ...]:
    return head.program.entries["step"].graph.nodes


def image(rng: np.random.Generator) -> Array:
    return rng.integers(-128, 128, (16, 16, 3)).astype(np.int8)


@pytest.mark.parametrize("width", [1, 12, 127])
def test_logits_are_those_of_the_real_classifier(
    model: Model, head: HostProgram, width: int
) -> None:
    """To half a code; what is beyond the range is at its end."""
    rng = np.random.default_rng(width)
    beyond = 0
    for _ in range(10):
        codes(head, rng, width)
        x = image(rng)
        weights, biases = reals(head)
        wanted = weights @ features(model, x) + biases
        beyond += int((np.abs(wanted) > -LOWEST).sum())
        found = head.call("infer", image=x)["logits"]
        assert np.abs(found - np.clip(wanted, LOWEST, HIGHEST)).max() <= 1 / 16 + 1e-6
    assert (beyond > 0) == (width == 127)


def test_a_step_is_that_of_the_real_classifier(model: Model, head: HostProgram) -> None:
    """Within a code for each seed, and on average: -lr (softmax - onehot) times the features."""
    rng, rate, seeds = np.random.default_rng(1), 0.05, 300
    codes(head, rng, 5)
    start = {name: head.state[name].copy() for name in ("head.weight", "head.bias")}
    x = image(rng)
    inside = head.call("infer", image=x)["logits"].astype(np.float64)
    assert (np.abs(inside) < HIGHEST).all()
    share = np.exp(inside) / np.exp(inside).sum() - np.eye(WAYS)[LABEL]
    real = (np.outer(share, features(model, x)), share)
    total = [np.zeros(x.shape) for x in real]
    for seed in range(seeds):
        for name, value in start.items():
            head.state[name][...] = value
        head.call(
            "step",
            image=x,
            label=np.array([LABEL], np.int32),
            lr=np.array([rate], np.float32),
            clock=np.array([seed, 0], np.int32),
        )
        for i, (name, gradient) in enumerate(zip(start, real, strict=True)):
            before = start[name].astype(np.float64).reshape(gradient.shape)
            step = head.state[name].reshape(gradient.shape) - before
            wanted = -rate * gradient / _unit(head, name)
            assert np.abs(step - wanted).max() < 1.001
            total[i] += step - wanted
    for off in total:
        assert np.abs(off / seeds).max() < 5 * 0.5 / np.sqrt(seeds)


def _unit(head: HostProgram, name: str) -> float:
    (kind,) = {n.type for n in _nodes(head) if n.name == name}
    return kind.affine.scale[0] * kind.affine.unit


def test_a_logit_at_an_end_has_no_gradient(model: Model, head: HostProgram) -> None:
    x = image(np.random.default_rng(2))
    head.state["head.weight"][...] = 0
    head.state["head.bias"][...] = [1 << 20, -(1 << 20), 0, 0, 0]
    assert head.call("infer", image=x)["logits"].tolist() == [HIGHEST, LOWEST, 0, 0, 0]
    before = head.state["head.bias"].copy()
    one = np.ones(1, np.float32)
    head.call("step", image=x, label=np.array([LABEL]), lr=one, clock=np.zeros(2, np.int32))
    moved = head.state["head.bias"] - before
    assert moved[:2].tolist() == [0, 0]
    assert moved[LABEL] > 0


def test_it_takes_a_quarter_of_the_state(model: Model) -> None:
    """One byte for each weight, four for each bias."""
    for ways in (10, 100):
        sizes = {
            head: compiled(model, head, ways=ways).program.state_bytes
            for head in (HeadKind.LINEAR, HeadKind.INT8)
        }
        size = model.graph.outputs[0].type.size
        assert sizes[HeadKind.LINEAR] - sizes[HeadKind.INT8] == 3 * ways * size


def test_as_a_linear_head_it_needs_a_method_that_trains_it(model: Model) -> None:
    with pytest.raises(InputError, match=r"^head int8: method none does not train it"):
        compiled(model, HeadKind.INT8, "none")
    with pytest.raises(InputError, match=r"^prototype_gradients: a linear head has no prototypes"):
        compile_recipe(
            model,
            Recipe("last", 4, HeadKind.INT8, accumulate=9, prototype_gradients=True),
            Budget(),
        )


def test_scales_are_those_of_the_features(tmp_path: Path, model: Model) -> None:
    """A code of a weight times one of a feature is 2^-12 logits in every network."""
    other = load_model(str(write_model(tmp_path / "other", seed=8)))
    for network in (model, other):
        unit = network.graph.outputs[0].type.affine.scale[0]
        program = build_host(compiled(network, HeadKind.INT8).program)
        assert _unit(program, "head.weight") * unit == pytest.approx(2.0**-12, rel=1e-12)
        assert _unit(program, "head.bias") == pytest.approx(2.0**-12, rel=1e-12)
