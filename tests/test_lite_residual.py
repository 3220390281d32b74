"""Lite residual modules (TinyTL): nothing changes at first, gradients are right, they learn."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    Unit,
    assert_same,
    call,
    conv64,
    environment,
    linked,
    model_path,
    needs_shared,
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
from kilograd.learn.training import adapted_tensors, enrol, fit, load_samples
from kilograd.ops import Adam, Add, Conv, CrossEntropy, Sgd, Window
from kilograd.passes import (
    Block,
    LinearHead,
    Part,
    PrototypeHead,
    Training,
    entries,
    lite_residual,
    mobile_blocks,
)
from kilograd.select import Budget, strategy, write_plan
from kilograd.select.selection import Evidence, Selection
from kilograd.settings import Recipe, Schedule
from kilograd.targets import CORTEX_M7, build_host, measure

WAYS = 3
#: A residual, a stride, an odd number of channels; maps of 8x8, then 4x4.
UNITS = (Unit(12, 8), Unit(15, 9, stride=2), Unit(14, 9, kernel=5), Unit(12, 6))


def plain() -> Graph:
    return network(4, UNITS, size=16, stem=8)


def grown(k: int, *, awake: bool = False) -> tuple[Graph, tuple[str, ...]]:
    """The small network with modules beside its last k blocks, and the parameters of these.

    `awake`: none is zero or dead.
    """
    graph, layers = lite_residual(plain(), mobile_blocks(plain())[-k:])
    names = tuple(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))
    if not awake:
        return graph, names
    rng = np.random.default_rng(11)
    changed = {
        name: rng.integers(-60, 61, graph.data[name].shape).astype(np.int8)
        for name in names
        if name.endswith("out.weight")
    }
    for name in names:
        if name.endswith("bias"):
            kind = graph[name].type
            unit = kind.affine.unit * np.array(kind.affine.scale)
            reals = rng.uniform(0, 20 * kind.affine.unit, kind.shape)
            changed[name] = (reals / unit).round().astype(np.int32)
    return replace(graph, data={**graph.data, **changed}), names


def codes(value: Value) -> Array:
    assert isinstance(value, np.ndarray)
    return value


# ---- which blocks there are ----


def test_blocks_are_found() -> None:
    blocks = mobile_blocks(plain())
    assert [b.name for b in blocks] == ["b0", "b1", "b2", "b3"]
    assert [b.begin.name for b in blocks] == ["stem", "b0.add", "b1.pw2", "b2.add"]
    assert [b.end.name for b in blocks] == ["b0.add", "b1.pw2", "b2.add", "b3.pw2"]
    assert [b.stride for b in blocks] == [(1, 1), (2, 2), (1, 1), (1, 1)]
    assert [[n.name for n in b.layers] for b in blocks] == [
        [f"{b.name}.{kind}" for kind in ("pw1", "dw", "pw2")] for b in blocks
    ]


@needs_shared
@pytest.mark.parametrize(
    ("name", "count"), [("mcunet-5fps", 14), ("mbv2-w0.35", 17), ("proxyless-w0.3", 20)]
)
def test_blocks_of_published_networks(name: str, count: int) -> None:
    """Every convolution but the first belongs to one block, and all blocks take a module."""
    model = load_model(str(model_path(name)))
    blocks = mobile_blocks(model.graph)
    assert len(blocks) == count
    assert tuple(n.name for b in blocks for n in b.layers) == model.layers[1:]
    assert all(b.takes_module for b in blocks)
    assert len(blocks[0].layers) == 2, "the first one does not expand"


# ---- nothing changes at first ----


def same_outputs(before: Graph, after: Graph, images: list[Array]) -> None:
    for x in images:
        want, got = interpret(before, {"image": x}), interpret(after, {"image": x})
        for old, new in zip(before.outputs, after.outputs, strict=True):
            np.testing.assert_array_equal(codes(got[new.name]), codes(want[old.name]))


def noise(graph: Graph, count: int = 5) -> list[Array]:
    rng = np.random.default_rng(0)
    (image,) = graph.inputs()
    return [rng.integers(-128, 128, image.type.shape).astype(np.int8) for _ in range(count)]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_network_computes_what_it_did(k: int) -> None:
    same_outputs(plain(), grown(k)[0], noise(plain()))


def test_and_no_longer_once_weights_move() -> None:
    """Or the test above could not fail."""
    with pytest.raises(AssertionError):
        same_outputs(plain(), grown(4, awake=True)[0], noise(plain()))


@needs_shared
@pytest.mark.parametrize("name", ["mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"])
def test_published_programs_compute_what_they_did(name: str) -> None:
    """Compiled C, from the image to the logits of a head that has seen three classes."""
    model = load_model(str(model_path(name)))
    hosts = [
        build_host(compile_recipe(model, Recipe(method, WAYS), Budget()).program)
        for method in ("none", "tinytl")
    ]
    for label, x in enumerate(noise(model.graph, WAYS)):
        for host in hosts:
            host.call("enrol", image=x, label=np.array([label], np.int32))
    for x in noise(model.graph, 2):
        plain_logits, grown_logits = (host.call("infer", image=x)["logits"] for host in hosts)
        assert plain_logits.tobytes() == grown_logits.tobytes()
        assert plain_logits.any()


def test_a_module_does_not_depend_on_the_others() -> None:
    one, names = grown(1)
    every, more = grown(4)
    assert set(names) < set(more)
    for name in names:
        assert one[name].type == every[name].type
        np.testing.assert_array_equal(one.data[name], every.data[name])
    assert more[:6] == tuple(
        f"b0.lite.{part}.{kind}"
        for part in ("group0", "group1", "out")
        for kind in ("weight", "bias")
    )


# ---- what a module computes ----


def module64(graph: Graph, block: Block, x: Array, y: Array) -> Array:
    """Return block output + module in float64, from the description in the paper."""

    def value(name: str) -> Array:
        node = graph[f"{block.name}.lite.{name}"]
        return real(graph.data[node.name], node.type)

    h, w, c = x.shape
    pooled = x.reshape(h // 2, 2, w // 2, 2, c).mean(axis=(1, 3))
    cut = c // 2
    kernel = value("group0.weight").shape[1]
    window = Window.same(kernel, block.stride[0])
    halves = [
        conv64(part, value(f"group{i}.weight"), window) + value(f"group{i}.bias")
        for i, part in enumerate((pooled[..., :cut], pooled[..., cut:]))
    ]
    middle = np.maximum(np.dstack(halves), 0)
    out = conv64(middle, value("out.weight"), Window()) + value("out.bias")
    return y + out.repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize("at", range(4))
def test_a_module_is_what_the_paper_says(at: int) -> None:
    graph, _ = grown(4, awake=True)
    block = mobile_blocks(plain())[at]
    begin = graph[block.begin.name if at == 0 else f"b{at - 1}.lite.add"]
    x = noise(plain())[0]
    env = environment(graph, {"image": x})
    y = graph[block.end.name]
    total = graph[f"{block.name}.lite.add"]
    exact = module64(graph, block, real(env[begin], begin.type), real(env[y], y.type))
    got = real(env[total], total.type)
    scale = total.type.affine.scale[0]
    inner = (np.abs(codes(env[total]).astype(int)) < 127) & (
        np.abs(codes(env[graph[f"{block.name}.lite.large"]]).astype(int)) < 127
    )
    assert inner.mean() > 0.5
    # the pool, the layers and the sum round to codes: a few of them at most, no trend
    assert np.abs(got - exact)[inner].max() < 3 * scale
    assert np.abs((got - exact)[inner].mean()) < 0.3 * scale


def test_kernels_are_odd_and_fit_the_map() -> None:
    for size, kernels in ((16, [3, 3, 1, 1]), (32, [5, 5, 3, 3])):
        graph = network(4, UNITS, size=size)
        made, _ = lite_residual(graph, mobile_blocks(graph))
        assert [made[f"b{i}.lite.group0.weight"].type.shape[1] for i in range(4)] == kernels


def test_random_weights_are_he_and_fit_int8() -> None:
    graph = network(4, (Unit(6, 64), Unit(6, 64)), size=16, stem=8)
    made, _ = lite_residual(graph, mobile_blocks(graph)[-1:])
    node = made["b1.lite.group1.weight"]
    w = real(made.data[node.name], node.type)
    fan = w[0].size
    assert w.std() == pytest.approx(np.sqrt(2 / fan), rel=0.03)
    assert np.abs(w.mean()) < 0.05 * w.std()
    assert (np.abs(made.data[node.name].astype(int)) == 127).mean() < 1e-3
    assert not made.data["b1.lite.out.weight"].any()
    other = made.data["b1.lite.group0.weight"]
    assert not np.array_equal(other, made.data[node.name])


# ---- gradients ----


def integer_gradients(
    net: Graph, names: tuple[str, ...], feeds: dict[str, Value]
) -> dict[str, Array]:
    learn = dict.fromkeys(names, Part())
    step = entries(net, Training(LinearHead(WAYS), Sgd(0), learn, accumulate=True))["step"]
    out = interpret(step, {**feeds, "share": np.ones(1, np.float32)})
    return {name: codes(out[f"{name}.sum"]).astype(np.float64) for name in learn}


def test_gradients_agree_with_forward_mode_in_float64() -> None:
    """Of all parameters, in modules and beside them."""
    net, names = grown(4, awake=True)
    rng = np.random.default_rng(2)
    b = Builder(net)
    logits = LinearHead(WAYS).logits(b, net.outputs[0])
    label = b.input("label", TensorType((1,), DType.I32))
    loss = b(CrossEntropy(), logits, label)
    forward = b.graph(loss)
    head = {
        p.name: (0.3 * rng.standard_normal(p.type.shape)).astype(np.float32)
        for p in forward.params()
        if p.name.startswith("head.")
    }
    feeds = {**step_feeds(rng, forward, WAYS, 0, 0.1), **head}
    env = environment(forward, feeds)
    every = tuple(p.name for p in net.params())
    assert set(names) < set(every)
    found = integer_gradients(net, every, feeds)
    for p in net.params():
        grad = found[p.name]
        length = float(np.linalg.norm(grad))
        assert length > 0, f"{p.name}: nothing to compare"
        for v in (grad / length, rng.standard_normal(grad.shape) / np.sqrt(grad.size)):
            slope = float(tangent(forward, env, {p: v})[loss][0])
            assert abs(float((grad * v).sum()) - slope) <= 1e-2 * length, p.name


def test_at_zero_only_the_last_layer_has_a_gradient() -> None:
    """Its weights are zero, so nothing gets past them; after a step it does."""
    net, names = grown(1)
    rng = np.random.default_rng(2)
    head = {"head.weight": rng.standard_normal((WAYS, 6)).astype(np.float32)}
    feeds = {**step_feeds(rng, net, WAYS, 0, 0.1), "label": np.zeros(1, np.int32), **head}
    found = integer_gradients(net, names, feeds)
    assert {name for name in names if found[name].any()} == {
        "b3.lite.out.weight",
        "b3.lite.out.bias",
    }


# ---- C ----


@pytest.mark.parametrize(
    ("training", "rate"),
    [
        (Training(PrototypeHead(WAYS), Sgd(0)), 50),
        (Training(LinearHead(WAYS), Adam(0), recompute=True), 0.5),
        (Training(LinearHead(WAYS), Sgd(0), accumulate=True, stream=False), 0.5),
    ],
    ids=["proto sgd", "linear adam recompute", "linear accumulated"],
)
def test_c_equals_the_reference_over_several_steps(training: Training, rate: float) -> None:
    net, names = grown(3, awake=True)
    graphs = entries(net, replace(training, learn=dict.fromkeys(names, Part())))
    host = linked(graphs)
    state: dict[str, Value] = {s.name: s.value for s in host.program.state}
    rng = np.random.default_rng(1)
    order = ["enrol"] * 4 * ("enrol" in graphs) + [
        "step",
        "step",
        "apply" if "apply" in graphs else "step",
        "infer",
    ] * 4
    for i, entry in enumerate(order):
        feeds = step_feeds(rng, graphs[entry], WAYS, i, rate)
        want = interpret(graphs[entry], {**feeds, **state})
        got = call(host, entry, {**feeds, **state}, noise=i)
        assert_same(got, want, f"call {i} ({entry})")
        state.update({k: v for k, v in want.items() if k in state})
    first = {s.name: s.value for s in host.program.state}
    still = [name for name in names if np.array_equal(codes(state[name]), first[name])]
    assert not still, "or equality above would say little"


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ziglang", "unicorn", "elftools", "capstone"))),
    reason="needs pip install ziglang unicorn pyelftools capstone",
)
def test_firmware_computes_the_same_bits() -> None:
    program = compile_recipe(load_model("digits"), Recipe("tinytl", 5), Budget()).program
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


def test_modules_alone_learn() -> None:
    """With every weight and bias of the network frozen, the loss of seen digits falls."""
    model, support = digits()
    compiled = compile_recipe(model, Recipe("tinytl:4", 5), Budget())
    learn = {name: part for name, part in compiled.training.learn.items() if ".lite." in name}
    assert len(learn) == 4 * 6
    training = replace(compiled.training, learn=learn)
    program = link(entries(compiled.model.graph, training))
    host = build_host(program)
    losses = fit(
        host, replace(compiled, program=program), support, Schedule(12, 0.01, Augment.NONE)
    )
    first, last = np.mean(losses[:25]), np.mean(losses[-25:])
    assert last < 0.6 * first
    moved = [
        name for name in learn if not np.array_equal(host.state[name], model_value(program, name))
    ]
    assert len(moved) == len(learn)


def model_value(program: object, name: str) -> Array:
    slots = program.state  # type: ignore[attr-defined]
    return next(s.value for s in slots if s.name == name)


def test_what_was_learned_can_be_put_back() -> None:
    """The network and the method make the modules, the saved tensors are what they hold."""
    model, support = digits()
    recipe = Recipe("tinytl:2", 5)
    compiled = compile_recipe(model, recipe, Budget())
    host = build_host(compiled.program)
    fit(host, compiled, support, Schedule(2, 0.01))
    enrol(host, support)
    saved = adapted_tensors(compiled, host)
    assert compiled.training.learn.keys() <= saved.keys()
    assert compiled.learned_parameters == sum(saved[name].size for name in compiled.training.learn)

    again = build_host(compile_recipe(model, recipe, Budget()).program)
    for name, value in saved.items():
        own = again.state[name]
        own[...] = value.transpose(0, 2, 3, 1) if own.ndim == 4 else value
    for x in support.images:
        want, got = (h.call("infer", image=x)["logits"] for h in (host, again))
        assert want.tobytes() == got.tobytes()


# ---- the method ----


def selection(graph: Graph, method: str) -> Selection:
    layers = tuple(n.name for n in graph.nodes if f"{n.name}.weight" in graph.data)
    return strategy(method)(Evidence("small", graph, layers), Budget())


def test_what_the_method_chooses() -> None:
    chosen = selection(plain(), "tinytl:2")
    _, modules = grown(2)
    beside = {f"b{i}.{kind}.bias" for i in (2, 3) for kind in ("pw1", "dw", "pw2")}
    assert set(chosen.by_name) == beside | set(modules)
    assert all(part == Part() for part in chosen.learn.values())
    assert chosen.graph is not None


def test_six_blocks_by_default() -> None:
    graph = load_model("digits").graph
    assert selection(graph, "tinytl").learn == selection(graph, "tinytl:6").learn
    assert selection(graph, "tinytl").learn != selection(graph, "tinytl:5").learn


@pytest.mark.parametrize(
    ("method", "size", "words"),
    [
        ("tinytl:0", 16, ["tinytl:0", "has 4 blocks"]),
        ("tinytl:5", 16, ["tinytl:5", "has 4 blocks"]),
        ("tinytl:4", 12, ["b3 of small", "i8[3,3,9]", "choose another method"]),
    ],
)
def test_blocks_that_cannot_have_a_module(method: str, size: int, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        selection(network(4, UNITS, size=size), method)
    for word in words:
        assert word in str(caught.value)


def test_the_blocks_behind_may_have_one() -> None:
    graph = network(4, (Unit(6, 4, stride=2), Unit(6, 4)), size=14)
    with pytest.raises(InputError, match=r"beside b0 of small: .*\[7,7,4\].*; give tinytl:1$"):
        selection(graph, "tinytl:2")
    assert selection(graph, "tinytl:1").graph


def test_a_plan_file_cannot_hold_modules(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    with pytest.raises(InputError, match="cannot hold modules"):
        write_plan(file, "small", plain(), selection(plain(), "tinytl:2"))
    assert not file.exists()


def test_costs_tell_modules_from_none() -> None:
    """The compiler is asked about the network with modules, not about the one without."""
    model = load_model("digits")
    with_modules = compile_recipe(model, Recipe("tinytl:2", 5), Budget()).program
    without = compile_recipe(model, Recipe("bias:6", 5), Budget()).program
    own = sum(s.value.nbytes for s in with_modules.state if ".lite." in s.name)
    assert with_modules.state_bytes - without.state_bytes == own


def test_a_streamed_image_reaches_modules_too() -> None:
    compiled = compile_recipe(load_model("digits"), Recipe("tinytl:2", 5, rows=True), Budget())
    assert compiled.program.entries["step"].rows


def test_a_sum_keeps_the_activation_of_its_block() -> None:
    units = tuple(replace(u, imported=True) for u in UNITS)
    graph = network(3, units, size=16)
    blocks = mobile_blocks(graph)
    grown, _ = lite_residual(graph, blocks)
    limits = {n.name: n.op.limits for n in grown.nodes if isinstance(n.op, Conv | Add)}
    assert [limits[f"{b.name}.lite.add"] for b in blocks] == [limits[b.end.name] for b in blocks]
    assert (-128, 127) not in [limits[b.end.name] for b in blocks]
