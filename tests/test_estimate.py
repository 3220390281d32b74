"""The model of time: what it predicts, and what the emulator counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from devices import needs_emulator
from samples import activation, bias, weight

from kilograd.boards import BOARDS, find_board
from kilograd.emit import link
from kilograd.frontend import load_model
from kilograd.ir import Affine, Builder
from kilograd.learn.recipe import compile_recipe
from kilograd.ops import Conv, Window
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe
from kilograd.targets import CORTEX_M33, estimated, measure, seconds
from kilograd.targets.estimate import ERROR, RATES, Work, instructions, work


def test_every_kind_of_work_has_a_rate() -> None:
    assert set(RATES) == set(Work)
    assert all(rate > 0 for rate in RATES.values())


@needs_emulator
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("none", {}),
        ("last:3", {"optimizer": OptimizerKind.ROWRMS}),
        ("last:6", {"rows": True}),
        ("full", {"head": HeadKind.LINEAR, "optimizer": OptimizerKind.ADAM}),
    ],
)
def test_the_model_is_as_far_off_as_it_says(method: str, options: dict[str, Any]) -> None:
    """On a processor, ways and methods that it was not fitted on."""
    made = compile_recipe(load_model("digits"), Recipe(method, 7, **options), Budget()).program
    found = measure(made, CORTEX_M33, steps=3)
    counts = {"infer": found.instructions_forward, "step": found.instructions_step}
    for entry, count in counts.items():
        if count is not None:
            assert abs(instructions(made.entries[entry].graph) / count - 1) < ERROR, entry


def test_work_is_what_the_graph_has() -> None:
    made = compile_recipe(load_model("digits"), Recipe("last:3", 5), Budget()).program
    graph = made.entries["step"].graph
    macs = [k for k in Work if k.name.endswith("_MACS") or k is Work.DEPTHWISE_DX_TAPS]
    counted = sum(work(graph).get(k, 0.0) for k in macs)
    # an ordinary convolution is counted by its results
    others = sum(
        n.op.macs(n) for n in load_model("digits").graph.nodes if n.type.size and _is_stem(n)
    )
    assert counted + others == pytest.approx(graph.macs(), rel=0.02)


def _is_stem(n: Any) -> bool:
    return type(n.op).__name__ == "Conv" and n.inputs[1].type.shape[1] > 1


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)
def test_time_is_a_range_around_its_middle(board: Any) -> None:
    sure, unsure = seconds(10_000_000, board), seconds(10_000_000, board, ERROR)
    assert unsure.low < sure.low < sure.about < sure.high < unsure.high
    assert sure.low >= 10 / board.mhz, "one instruction a cycle"
    assert sure.about == unsure.about


def test_what_is_not_called_takes_no_time() -> None:
    made = compile_recipe(load_model("digits"), Recipe("none", 5), Budget()).program
    board = find_board("pico-2")
    assert estimated(made, "step", board) is None
    assert estimated(made, "infer", board) is not None


@needs_emulator
@pytest.mark.parametrize(("side", "channels", "out"), [(14, 16, 16), (8, 64, 64), (9, 24, 40)])
def test_convolutions_behind_the_first_layer_are_estimated(
    side: int, channels: int, out: int
) -> None:
    b, rng = Builder(), np.random.default_rng(side)
    x = b.input("x", activation(side, side, channels))
    w = b.param(
        "w", rng.integers(-90, 90, (out, 3, 3, channels)).astype(np.int8), weight(out).affine
    )
    shift = b.param("b", rng.integers(-90, 90, out).astype(np.int32), bias(out).affine)
    y = b(Conv(Window.same(3), Affine((0.04 * 1.6 * 3 * channels**0.5,), 5)), x, w, shift, name="y")
    device = CORTEX_M33.build(link({"run": b.graph(y)}))
    device.call("run", x=rng.integers(-128, 128, x.type.shape).astype(np.int8))
    assert device.instructions is not None
    assert abs(instructions(b.graph(y)) / device.instructions - 1) < ERROR
