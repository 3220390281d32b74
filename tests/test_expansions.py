"""Low-rank updates and groups of expansions: what they compute, gradients, that they learn."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    Network,
    Unit,
    assert_same,
    call,
    conv64,
    environment,
    linked,
    network,
    real,
    step_feeds,
    tangent,
)

from kilograd.data import Augment, load_digits, sample_episode
from kilograd.emit import link
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.ir import Array, Builder, DType, Graph, TensorType, Value, interpret
from kilograd.learn.recipe import compile_recipe
from kilograd.learn.samples import Samples
from kilograd.learn.training import fit, load_samples
from kilograd.ops import Adam, ConvInputGrad, CrossEntropy, Sgd, Window
from kilograd.passes import (
    Growth,
    GrowthKind,
    LinearHead,
    PrototypeHead,
    Training,
    entries,
    grouped,
    growth_of,
    low_rank,
    merged,
    mobile_blocks,
)
from kilograd.select import Budget, strategy
from kilograd.select.selection import Evidence, Selection
from kilograd.settings import Recipe, Schedule
from kilograd.targets import CORTEX_M7, build_host, measure

WAYS = 3
#: A residual, a stride; all channels in twos, the last blocks' in sixteens.
UNITS = (Unit(12, 8), Unit(24, 16, stride=2), Unit(32, 16, kernel=5), Unit(32, 6))
METHODS = ("lora:3:2", "grouped:3:2", "grouped:2:4")


@functools.cache
def plain() -> Graph:
    return network(4, UNITS, size=16, stem=8)


def selection(graph: Graph, method: str, budget: Budget | None = None) -> Selection:
    layers = tuple(n.name for n in graph.nodes if f"{n.name}.weight" in graph.data)
    return strategy(method)(Evidence("small", graph, layers), budget or Budget())


def chosen(method: str) -> tuple[Graph, Selection]:
    """What a method makes of the small network, with updates that are not zero."""
    found = selection(plain(), method)
    assert found.graph
    rng = np.random.default_rng(11)
    data = dict(found.graph.data)
    for name, part in found.by_name.items():
        if part.index:
            data[name] = data[name].copy()
            data[name][..., list(part.index)] = rng.integers(-60, 61, (*data[name].shape[:3], 2))
    return replace(found.graph, data=data), found


def codes(value: Value) -> Array:
    assert isinstance(value, np.ndarray)
    return value


def noise(graph: Graph, count: int = 5) -> list[Array]:
    rng = np.random.default_rng(0)
    (image,) = graph.inputs()
    return [rng.integers(-128, 128, image.type.shape).astype(np.int8) for _ in range(count)]


def outputs(graph: Graph, images: list[Array]) -> list[Array]:
    return [codes(interpret(graph, {"image": x})[o.name]) for x in images for o in graph.outputs]


# ---- what they compute ----


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_an_update_changes_nothing_at_first(rank: int) -> None:
    grown = low_rank(plain(), mobile_blocks(plain())[1:], rank)
    assert sum(n.name.endswith(".lora") for n in grown.nodes) == 3
    images = noise(plain())
    for want, got in zip(outputs(plain(), images), outputs(grown, images), strict=True):
        np.testing.assert_array_equal(got, want)
    moved = outputs(chosen("lora:3:2")[0], images)
    assert any((a != b).any() for a, b in zip(moved, outputs(plain(), images), strict=True))


def test_an_update_is_a_product_added_before_the_clamp() -> None:
    grown, _ = chosen("lora:3:2")
    env = environment(grown, {"image": noise(grown)[0]})

    def value(name: str) -> Array:
        return real(grown.data[name], grown[name].type)

    clamped = 0
    for block in mobile_blocks(plain())[1:]:
        layer = block.layers[0].name
        x, y = grown[f"{layer}.lora.join"].inputs[0], grown[layer]
        both = value(f"{layer}.weight")
        assert both.shape[3] == x.type.shape[2] + 2
        a = value(f"{layer}.lora.weight")[:, 0, 0]
        whole = both[..., :-2] + (both[:, 0, 0, -2:] @ a)[:, None, None]
        exact = conv64(real(env[x], x.type), whole, Window()) + value(f"{layer}.bias")
        few = codes(env[grown[f"{layer}.lora"]])
        free = (np.abs(few.astype(int)) < 127).all(axis=2)
        assert free.mean() > 0.3
        scale = y.type.affine.scale[0]
        got = real(env[y], y.type)
        # the maps of A are rounded to codes of x, and what B makes of that is added up
        slack = 0.51 * scale + 0.5 * x.type.affine.scale[0] * np.abs(both[:, 0, 0, -2:]).sum(1)
        assert (np.abs(got - np.clip(exact, 0, 255 * scale))[free] <= slack).all()
        clamped += int((exact < -scale)[free].sum())
    assert clamped > 100, "or nothing is said of the clamp"


def test_what_is_merged_is_the_product() -> None:
    """In real units, against the two matrices."""
    grown, _ = chosen("lora:3:2")
    for block in mobile_blocks(plain())[1:]:
        layer = block.layers[0].name
        w, a = (grown[f"{layer}{x}.weight"] for x in ("", ".lora"))
        both, small = (real(grown.data[n.name], n.type) for n in (w, a))
        scale = np.array(w.type.affine.scale)[:, None]
        found = merged(grown, layer, grown.data)[:, 0, 0] * scale
        want = both[:, 0, 0, :-2] + both[:, 0, 0, -2:] @ small[:, 0, 0]
        np.testing.assert_allclose(found, want, rtol=1e-12)


def test_random_weights_hand_on_what_they_read() -> None:
    """The mean square of the maps of A is that of x, and a larger rank only adds maps."""
    graph = network(4, (Unit(64, 64), Unit(64, 64)), size=16, stem=64)
    one, more = (low_rank(graph, mobile_blocks(graph)[-1:], rank) for rank in (4, 16))
    name = "b1.pw1.lora.weight"
    np.testing.assert_array_equal(one.data[name], more.data[name][:4])
    w = real(more.data[name], more[name].type)
    assert w.std() == pytest.approx(1 / 8, rel=0.05)
    assert abs(w.mean()) < 0.1 * w.std()
    assert (np.abs(more.data[name].astype(int)) == 127).mean() < 1e-2


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_the_dense_layer_with_zeros_off_the_diagonal(groups: int) -> None:
    blocks = mobile_blocks(plain())
    data = dict(plain().data)
    for block in blocks:
        name = f"{block.layers[0].name}.weight"
        out, _, _, channels = data[name].shape
        own = np.kron(np.eye(groups), np.ones((out // groups, channels // groups)))
        data[name] = (data[name] * own[:, None, None]).astype(np.int8)
    grown = grouped(plain(), blocks, groups)
    sizes = [grown.data[n.name].size for n in grown.params() if ".grouped." in n.name]
    dense = [plain().data[f"{b.layers[0].name}.weight"].size for b in blocks]
    biases = sum(b.layers[0].type.shape[2] for b in blocks)
    assert sum(sizes) == sum(dense) // groups + biases
    images = noise(plain())
    want = outputs(replace(plain(), data=data), images)
    for a, b in zip(want, outputs(grown, images), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(want, outputs(plain(), images), strict=True))


def test_one_group_is_the_layer_as_it_is() -> None:
    found = selection(plain(), "grouped:2:1")
    assert found.graph is None
    assert set(found.by_name) == {f"b{i}.pw1.{kind}" for i in (2, 3) for kind in ("weight", "bias")}


# ---- gradients ----


@pytest.mark.parametrize("method", METHODS)
def test_gradients_agree_with_forward_mode_in_float64(method: str) -> None:
    """Of what learns, as it is cut for the program."""
    net, found = chosen(method)
    rng = np.random.default_rng(2)
    b = Builder(net)
    logits = LinearHead(WAYS).logits(b, net.outputs[0])
    loss = b(CrossEntropy(), logits, b.input("label", TensorType((1,), DType.I32)))
    forward = b.graph(loss)
    head = {
        p.name: (0.3 * rng.standard_normal(p.type.shape)).astype(np.float32)
        for p in forward.params()
        if p.name.startswith("head.")
    }
    feeds = {**step_feeds(rng, forward, WAYS, 0, 0.1), **head}
    env = environment(forward, feeds)
    training = Training(LinearHead(WAYS), Sgd(0), found.by_name, accumulate=True)
    out = interpret(entries(net, training)["step"], {**feeds, "share": np.ones(1, np.float32)})
    for name, part in found.by_name.items():
        whole = np.zeros(net[name].type.shape)
        where = ... if part.index is None else (..., list(part.index))
        grad = codes(out[f"{name}.sum" if part.index is None else f"{name}.learned.sum"])
        length = float(np.linalg.norm(grad))
        assert length > 0, f"{name}: nothing to compare"
        for v in (grad / length, rng.standard_normal(grad.shape) / np.sqrt(grad.size)):
            whole[where] = v
            slope = float(tangent(forward, env, {net[name]: whole})[loss][0])
            assert abs(float((grad * v).sum()) - slope) <= 1e-2 * length, name


def test_at_zero_only_what_is_added_has_a_gradient() -> None:
    """B is zero, so nothing gets past it to A; after a step it does."""
    found = selection(plain(), "lora:1:2")
    assert found.graph
    rng = np.random.default_rng(2)
    head = {"head.weight": rng.standard_normal((WAYS, 6)).astype(np.float32)}
    training = Training(LinearHead(WAYS), Sgd(0), found.by_name, accumulate=True)
    step = entries(found.graph, training)["step"]
    feeds = {**step_feeds(rng, step, WAYS, 0, 0.1), "label": np.zeros(1, np.int32), **head}
    out = interpret(step, {**feeds, "share": np.ones(1, np.float32)})
    assert codes(out["b3.pw1.weight.learned.sum"]).any()
    assert not codes(out["b3.pw1.lora.weight.sum"]).any()


def test_in_front_of_the_first_update_nothing_but_its_maps_has_a_gradient() -> None:
    """Of 16 + 2 channels that the layer reads, 2 learn."""
    found = selection(plain(), "lora:1:2")
    assert found.graph
    step = entries(found.graph, Training(PrototypeHead(WAYS), Sgd(0), found.by_name))["step"]
    assert found.graph["b3.pw1.lora.join"].type.shape == (4, 4, 18)
    made = [n.type.shape for n in step.nodes if isinstance(n.op, ConvInputGrad)]
    assert (4, 4, 2) in made
    assert (4, 4, 18) not in made


# ---- C ----


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("training", "rate"),
    [
        (Training(PrototypeHead(WAYS), Sgd(0)), 50),
        (Training(LinearHead(WAYS), Adam(0), recompute=True), 0.5),
    ],
    ids=["proto sgd", "linear adam recompute"],
)
def test_c_equals_the_reference_over_several_steps(
    method: str, training: Training, rate: float
) -> None:
    net, found = chosen(method)
    graphs = entries(net, replace(training, learn=found.by_name))
    host = linked(graphs)
    state: dict[str, Value] = {s.name: s.value for s in host.program.state}
    rng = np.random.default_rng(1)
    order = ["enrol"] * 4 * ("enrol" in graphs) + ["step", "step", "step", "infer"] * 4
    for i, entry in enumerate(order):
        feeds = step_feeds(rng, graphs[entry], WAYS, i, rate)
        want = interpret(graphs[entry], {**feeds, **state})
        got = call(host, entry, {**feeds, **state}, noise=i)
        assert_same(got, want, f"call {i} ({entry})")
        state.update({k: v for k, v in want.items() if k in state})
    first = {s.name: s.value for s in host.program.state}
    own = [n for n in first if ".pw1" in n]
    assert own
    assert not [n for n in own if np.array_equal(codes(state[n]), first[n])], "all have moved"


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ziglang", "unicorn", "elftools", "capstone"))),
    reason="needs pip install ziglang unicorn pyelftools capstone",
)
@pytest.mark.parametrize("method", ["lora:3:2", "grouped:3:2"])
def test_firmware_computes_the_same_bits(method: str) -> None:
    program = compile_recipe(load_model("digits"), Recipe(method, 5), Budget()).program
    found = measure(program, CORTEX_M7, steps=4)
    assert found.bit_exact
    assert 0 <= found.data_bss_bytes - program.sram_bytes < 16, "RAM that the plan does not know of"


# ---- learning ----


@functools.cache
def digits() -> tuple[Model, Samples]:
    dataset = load_digits((5, 6, 7, 8, 9))
    episode = sample_episode(dataset, ways=5, shots=5, queries=5, seed=0)
    model = load_model("digits")
    return model, load_samples(dataset, episode.support, episode.support_labels, model.preprocess)


@pytest.mark.parametrize(("method", "rate"), [("lora:4:2", 0.03), ("grouped:4:2", 0.01)])
def test_what_is_added_learns(method: str, rate: float) -> None:
    """With every bias frozen, the loss of seen digits falls."""
    model, support = digits()
    compiled = compile_recipe(model, Recipe(method, 5), Budget())
    weights = {n: p for n, p in compiled.training.learn.items() if not n.endswith(".bias")}
    training = replace(compiled.training, learn=weights)
    program = link(entries(compiled.model.graph, training))
    host = build_host(program)
    schedule = Schedule(12, rate, Augment.NONE)
    losses = fit(host, replace(compiled, program=program), support, schedule)
    assert np.mean(losses[-25:]) < 0.6 * np.mean(losses[:25])
    moved = [s.name for s in program.state if s.name.startswith("blocks.")]
    assert len(moved) == 8
    for slot in program.state:
        if slot.name in moved:
            assert not np.array_equal(host.state[slot.name], slot.value), slot.name


# ---- the methods ----


def test_what_the_methods_choose() -> None:
    updates = selection(plain(), "lora:2:2").by_name
    assert set(updates) == {
        f"b{i}.pw1.{kind}" for i in (2, 3) for kind in ("weight", "bias", "lora.weight")
    }
    assert updates["b3.pw1.weight"].index == (16, 17)
    groups = selection(plain(), "grouped:1:2").by_name
    kinds = ("weight", "bias")
    assert set(groups) == {f"b3.pw1.grouped.{i}.{kind}" for i in (0, 1) for kind in kinds}


@pytest.mark.parametrize(
    "limit",
    [{"sram": 13_000}, {"sram": 20_000}, {"compute": 500_000}, {"backward_memory": 200_000}],
)
def test_the_largest_rank_that_a_budget_admits(limit: dict[str, int]) -> None:
    """Against all of them, one by one."""
    model = load_model("digits")
    ranks = []
    for rank in range(1, 41):
        try:
            compile_recipe(model, Recipe(f"lora:2:{rank}", 5), Budget(**limit))
        except InputError:
            continue
        ranks.append(rank)
    assert 1 < len(ranks) < 40
    made = compile_recipe(model, Recipe("lora:2", 5), Budget(**limit))
    assert made.model.graph["blocks.6.pw1.lora"].type.shape[2] == max(ranks)


def test_a_budget_below_the_smallest_rank() -> None:
    model = load_model("digits")
    with pytest.raises(InputError, match=r"^sram 100: too small .* 1 channel of .* needs") as e:
        compile_recipe(model, Recipe("lora:2", 5), Budget(sram=100))
    least = int(str(e.value).split("needs sram ")[1].split()[0])
    assert (
        compile_recipe(model, Recipe("lora:2", 5), Budget(sram=least)).program.sram_bytes == least
    )


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("lora:0", "lora:0: small has 4 blocks that begin with a 1x1 convolution, 0 cannot"),
        ("lora:5:2", "lora:5:2: small has 4 blocks"),
        ("grouped:999999999:2", "small has 4 blocks"),
        ("lora:4:1", "lora:4:1: the input of b0.pw1 of small ends in a ReLU"),
        ("lora:2:0", "lora:2:0: 0 is no rank .* from 1 to 16, the fewest"),
        ("lora:2:17", "lora:2:17: 17 is no rank"),
        ("grouped:3:3", r"3 groups do not divide the channels of b3.pw1 of small; .* 1, 2, 4, 8$"),
        ("grouped:1:0", "grouped:1:0: 0 groups do not divide"),
        ("grouped:1:999999999", "999999999 groups do not divide"),
        ("lora", "unknown; known are"),
        ("lora:1:2:3", "unknown; known are"),
        ("grouped:2", "unknown; known are"),
        ("grouped:2:-2", "unknown; known are"),
    ],
)
def test_methods_that_do_not_fit(method: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        selection(plain(), method)


def test_networks_without_blocks_that_expand() -> None:
    net = Network(np.random.default_rng(3), 8)
    graph = net.graph(net.layer("only", net.image, Window.same(3), (8, 3, 3, 3), relu=True))
    for method in ("lora:1", "grouped:1:2"):
        with pytest.raises(InputError, match="has 0 blocks that begin with a 1x1 convolution"):
            selection(graph, method)


# ---- said so that it can be made again ----


@pytest.mark.parametrize(
    ("method", "growth"),
    [
        ("tinytl:2", Growth(GrowthKind.LITE, ("b2", "b3"))),
        ("lora:3:2", Growth(GrowthKind.LORA, ("b1", "b2", "b3"), 2)),
        ("grouped:1:8", Growth(GrowthKind.GROUPED, ("b3",), 8)),
    ],
)
def test_what_a_method_made_is_found(method: str, growth: Growth) -> None:
    grown = selection(plain(), method).graph
    assert grown
    assert growth_of(plain(), grown) == growth
    other = replace(grown, data={**grown.data, "b0.pw1.bias": grown.data["b0.pw1.bias"] + 1})
    assert growth_of(plain(), other) is None
    assert growth_of(plain(), plain()) is None
