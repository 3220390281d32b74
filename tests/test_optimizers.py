"""Optimisers, against those of PyTorch and loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import linked

from kilograd.ir import Array, Builder, DType, TensorType
from kilograd.ops import Adam, Momentum, Sgd, Update
from kilograd.targets import HostProgram

SHAPE, STEPS, RATE = (3, 5), 12, 0.05
RULES = [Sgd(0), Momentum(0), Adam(0), Momentum(0, decay=0.5)]
EACH = pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{type(r).__name__} {vars(r)}")


def program(rule: Update) -> HostProgram:
    """A step of float32 weights along a gradient that is given, as C."""
    b = Builder()
    w = b.param("w", np.zeros(SHAPE, np.float32))
    states = [
        b.param(f"state{i}", np.zeros(kind.shape, np.float32))
        for i, kind in enumerate(rule.state_types(w.type))
    ]
    given = [
        b.input(name, TensorType(shape, dtype))
        for name, shape, dtype in (
            ("g", SHAPE, DType.F32),
            ("lr", (1,), DType.F32),
            ("clock", (2,), DType.I32),
        )
    ]
    return linked({"run": b.graph(b(rule, w, given[0], *states, *given[1:]))})


def gradients() -> Array:
    """Of a few sizes, and one that stays at zero."""
    rng = np.random.default_rng(3)
    g = rng.normal(size=(STEPS, *SHAPE)) * [1e-3, 0.1, 1, 30, 0]
    return np.asarray(g.astype(np.float32))


def learned(rule: Update) -> Array:
    """The weights after each step of the C program."""
    host, out = program(rule), []
    for t, g in enumerate(gradients()):
        clock = np.array([7, t], np.int32)
        host.call("run", g=g, lr=np.array([RATE], np.float32), clock=clock)
        out.append(host.state["w"].copy())
    return np.array(out)


def in_float64(rule: Update) -> Array:
    """The same, written down once more."""
    w, m, v = (np.zeros(SHAPE) for _ in range(3))
    out = []
    for t, g in enumerate(gradients().astype(np.float64), start=1):
        match rule:
            case Adam():
                m = 0.9 * m + 0.1 * g
                v = 0.999 * v + 0.001 * g**2
                w = w - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            case Momentum():
                m = rule.decay * m + g
                w = w - RATE * m
            case _:
                w = w - RATE * g
        out.append(w)
    return np.array(out)


@EACH
def test_a_rule_is_what_it_is_called(rule: Update) -> None:
    np.testing.assert_allclose(learned(rule), in_float64(rule), rtol=2e-5, atol=1e-6)


@EACH
def test_a_rule_is_that_of_pytorch(rule: Update) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    w = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    match rule:
        case Adam():
            theirs = torch.optim.Adam([w], lr=RATE)
        case Momentum():
            theirs = torch.optim.SGD([w], lr=RATE, momentum=rule.decay)
        case _:
            theirs = torch.optim.SGD([w], lr=RATE)
    out = []
    for g in gradients():
        w.grad = torch.from_numpy(g.astype(np.float64))
        theirs.step()
        out.append(w.detach().numpy().copy())
    np.testing.assert_allclose(learned(rule), np.array(out), rtol=2e-5, atol=1e-6)
