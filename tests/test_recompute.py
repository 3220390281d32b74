"""Layers that run again for the backward pass: the same bits, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from helpers import assert_same, call, linked, model_path, needs_shared, small_network, step_feeds
from hypothesis import assume, given, settings
from test_passes import WAYS
from test_stream import TASKS, tasks, wide_front

from kilograd.emit import link
from kilograd.frontend import load_model_folder
from kilograd.ir import Graph
from kilograd.memory import lower_bound
from kilograd.ops import Conv, Sgd
from kilograd.passes import LinearHead, Part, Training, entries, store


def peak(graph: Graph) -> int:
    return lower_bound(store(graph).buffers)


def everything(graph: Graph) -> Training:
    learn = {p.name: Part() for p in graph.params()}
    return Training(LinearHead(WAYS), Sgd(0), learn)


def check(graph: Graph, training: Training, steps: int = 4) -> tuple[Graph, Graph]:
    """Assert that both programs learn the same; return their steps, plain and with second runs."""
    programs = [entries(graph, replace(training, recompute=again)) for again in (False, True)]
    hosts = [linked(p) for p in programs]
    rng = np.random.default_rng(0)
    for t in range(steps):
        for name in ("step", "apply"):
            if name in programs[0]:
                feeds = step_feeds(rng, programs[0][name], WAYS, t, 0.05)
                found = [call(host, name, feeds, noise=t) for host in hosts]
                assert_same(found[1], found[0], f"{name} {t}")
    plain, again = (p["step"] for p in programs)
    assert peak(again) <= peak(plain)
    forward = programs[0]["infer"].macs()
    assert plain.macs() <= again.macs() <= plain.macs() + forward
    return plain, again


@settings(max_examples=10)
@given(tasks())
def test_any_program_learns_the_same(task: tuple[Graph, Training]) -> None:
    graph, training = task
    assume("step" in entries(graph, training))
    check(graph, training)


@pytest.mark.parametrize("name", TASKS)
def test_with_streams_and_rows(name: str) -> None:
    check(wide_front(), TASKS[name])


@pytest.mark.parametrize("make", [small_network, wide_front])
def test_layers_run_again_where_everything_learns(make: Callable[[], Graph]) -> None:
    graph = make()
    plain, again = check(graph, everything(graph))
    runs = [n.name for n in again.nodes if n.name.endswith(".again")]
    assert runs
    assert peak(again) < peak(plain)
    assert again.macs() > plain.macs()
    kept = {n.name.removesuffix(".again") for n in again.nodes if isinstance(n.op, Conv)}
    assert kept == {n.name for n in plain.nodes if isinstance(n.op, Conv)}


def test_no_layer_runs_again_where_nothing_large_waits() -> None:
    """Two layers learn, and the peak is in the forward pass."""
    _, again = check(wide_front(), TASKS["linear"])
    assert not [n.name for n in again.nodes if n.name.endswith(".again")]


@needs_shared
@pytest.mark.parametrize(
    ("name", "most"),
    [("mcunet-5fps", 930_000), ("mbv2-w0.35", 875_000), ("proxyless-w0.3", 700_000)],
)
def test_every_layer_of_a_published_network_learns_in_less_than_a_megabyte(
    name: str, most: int
) -> None:
    graph = load_model_folder(model_path(name)).graph
    training = Training(LinearHead(10), Sgd(0), {p.name: Part() for p in graph.params()})
    assert link(entries(graph, replace(training, recompute=True))).sram_bytes < most
