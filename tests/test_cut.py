"""A network cut in front of what learns: prefix and suffix do what the whole network does."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    Network,
    Unit,
    assert_same,
    call,
    image,
    linked,
    model_path,
    needs_shared,
    network,
    step_feeds,
)
from hypothesis import assume, given, settings
from test_passes import WAYS, programs
from test_passes import Case as TrainingCase
from test_stream import tasks

from kilograd.frontend import load_model_folder
from kilograd.ir import Affine, Graph, Input, Node, Value, interpret
from kilograd.ops import Add, Sgd, Window
from kilograd.passes import LinearHead, Part, PrototypeHead, Training, cut, entries
from kilograd.passes.training import learning
from kilograd.select import PLANS, Budget, Evidence, strategy

BLOCKS = network(0, (Unit(12, 6), Unit(18, 6), Unit(24, 6)), 16)
"""Three blocks with a residual each: inside, maps are wide; between, 384 bytes of 8x8x6."""


def latent_of(*learned: str) -> dict[str, int]:
    """Return the latent of `BLOCKS` by name, in bytes."""
    prefix, suffix = parts_of(BLOCKS, learned)
    assert [n.name for n in prefix.outputs] == [n.name for n in suffix.inputs()]
    return {n.name: n.type.nbytes for n in prefix.outputs}


def parts_of(graph: Graph, names: Collection[str]) -> tuple[Graph, Graph]:
    """Cut a graph that can be cut."""
    parts = cut(graph, names)
    assert parts
    return parts


def check(graph: Graph, training: Training, steps: int = 3) -> None:
    """Assert that a program with a cut learns what one without does, bit for bit."""
    plain = entries(graph, training)
    parts = entries(graph, replace(training, cache=True))
    whole, cached = linked(plain), linked(parts)
    rng = np.random.default_rng(0)
    for t in range(steps):
        for name in ("enrol", "step", "apply", "infer"):
            if name not in plain:
                continue
            feeds = step_feeds(rng, plain[name], WAYS, t, 0.05)
            there = {k: v for k, v in feeds.items() if k != "image"}
            if name in {"enrol", "step"}:
                there |= call(cached, "prefix", {"image": feeds["image"]}, noise=t)
            else:
                there = feeds
            found = call(cached, name, there, noise=t + 1)
            assert_same(found, call(whole, name, feeds, noise=t + 2), f"{name} {t}")
    assert cached.state.keys() == whole.state.keys()
    for name, value in whole.state.items():
        assert np.array_equal(cached.state[name], value), name
    forward = plain["infer"].macs() - (parts["infer"].macs() - parts["prefix"].macs())
    assert parts["prefix"].macs() == forward
    if "step" in plain:
        assert parts["step"].macs() == plain["step"].macs() - parts["prefix"].macs()


@settings(max_examples=10)
@given(tasks())
def test_any_program_learns_the_same(task: tuple[Graph, Training]) -> None:
    check(*task)


@settings(max_examples=10)
@given(programs())
def test_wherever_it_learns(case: TrainingCase) -> None:
    assume("prefix" in entries(case.network, replace(case.training, cache=True)))
    check(case.network, case.training)


@settings(max_examples=40)
@given(tasks())
def test_suffix_after_prefix_is_the_network(task: tuple[Graph, Training]) -> None:
    graph, names = learning(*task)
    prefix, suffix = parts_of(graph, names)
    size = graph.inputs()[0].type.shape[0]
    feeds: dict[str, Value] = {"image": image(np.random.default_rng(1), size)}
    assert_same(interpret(suffix, interpret(prefix, feeds)), interpret(graph, feeds))
    assert not {n.name for n in prefix.params()} & set(names), "the prefix is frozen"
    assert prefix.macs() + suffix.macs() == graph.macs(), "nothing is computed twice"


@settings(max_examples=40)
@given(tasks())
def test_no_cut_has_a_lower_product(task: tuple[Graph, Training]) -> None:
    """Slow and obvious: cut behind every node in turn."""
    graph, names = learning(*task)

    def depends(n: Node) -> bool:
        return n.name in names or any(depends(x) for x in n.inputs)

    maps = [n for n in graph.nodes if n.inputs and not depends(n)]
    products = []
    for i in range(1, len(maps) + 1):
        before = set(maps[:i]) | set(graph.inputs())
        behind = [n for n in graph.nodes if n.inputs and n not in before]
        read = {x for n in behind for x in n.inputs if x in before}
        read |= before & set(graph.outputs)
        if not any(isinstance(x.op, Input) for x in read):
            work = sum(n.op.macs(n) for n in behind)
            products.append(work * sum(x.type.nbytes for x in read))
    prefix, suffix = parts_of(graph, names)
    assert suffix.macs() * sum(n.type.nbytes for n in prefix.outputs) == min(products)


def test_where_it_is_cut() -> None:
    assert latent_of("b2.pw1.weight") == {"b1.add": 384}
    # what is wide is rather computed again than kept
    assert latent_of("b2.pw2.bias") == {"b1.add": 384}
    assert latent_of("b1.pw1.weight") == {"stem": 256}, "narrower than the first block"
    assert latent_of() == {"pool": 6}, "nothing learns: features are all that is kept"


def test_a_latent_of_two_tensors() -> None:
    """A residual may cross the cut, where the map inside the block is narrow."""
    net = Network(np.random.default_rng(0), 16)
    x = net.layer("stem", net.image, *_pointwise(3, 16))
    y = net.layer("in", x, Window(pad=(1, 1, 1, 1)), (1, 3, 3, 16), relu=False)
    z = net.layer("out", y, *_pointwise(1, 16))
    total = net._run(net.b(Add(Affine((0.05,), 0)), x, z, name="add"))
    graph = net.graph(net.layer("last", total, *_pointwise(16, 64)))
    prefix, suffix = parts_of(graph, {"out.weight"})
    assert [n.name for n in prefix.outputs] == ["stem", "in"]
    assert [n.name for n in suffix.inputs()] == ["stem", "in"]
    check(graph, Training(PrototypeHead(WAYS), Sgd(0), {"out.weight": Part()}))


def _pointwise(fan: int, channels: int) -> tuple[Window, tuple[int, ...], bool]:
    return Window(), (channels, 1, 1, fan), False


def test_what_learns_from_the_first_layer_on_is_not_cut() -> None:
    assert cut(BLOCKS, {"stem.bias"}) is None
    training = Training(LinearHead(WAYS), Sgd(0), {"stem.bias": Part()}, cache=True)
    assert entries(BLOCKS, training).keys() == {"infer", "step"}


@pytest.mark.parametrize("rows", [False, True])
def test_memory_falls_where_the_front_sets_the_peak(rows: bool) -> None:
    """Nothing of the front is in the arena of a step any more."""
    training = Training(LinearHead(WAYS), Sgd(0), {"b2.pw2.weight": Part()}, rows=rows)
    plain, parts = (
        linked(entries(BLOCKS, replace(training, cache=c))).program for c in (False, True)
    )
    assert parts.entries["step"].plan.peak <= plain.entries["step"].plan.peak
    assert bool(parts.entries["prefix"].rows) == rows
    assert not parts.entries["step"].rows


@needs_shared
@pytest.mark.parametrize("model", ["mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"])
def test_published_plans(model: str) -> None:
    found = load_model_folder(model_path(model))
    evidence = Evidence(found.name, found.graph, found.layers)
    for label in PLANS[found.name]:
        learn = strategy(f"sparse-{label}")(evidence, Budget()).by_name
        prefix, suffix = parts_of(*learning(found.graph, Training(PrototypeHead(2), Sgd(0), learn)))
        assert sum(n.type.nbytes for n in prefix.outputs) <= 4 << 10
        assert 0.3 < prefix.macs() / (prefix.macs() + suffix.macs()) < 0.9
