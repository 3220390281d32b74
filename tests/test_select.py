"""What learns: every method by what it selects, the published plans by their published numbers."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import FEATURES, LAYERS, replace_tensors, write_model
from helpers import model_path, needs_shared
from safetensors.numpy import load_file

from kilograd.errors import InputError
from kilograd.frontend import Model, load_model, resized, with_classifier, with_last_conv
from kilograd.ir import architecture
from kilograd.learn.recipe import compile_recipe
from kilograd.passes import Part
from kilograd.select import (
    ARCHITECTURES,
    EXAMPLES,
    METHODS,
    PLANS,
    Budget,
    Evidence,
    Selection,
    UpdatePlan,
    strategy,
)
from kilograd.settings import HeadKind, Recipe

NETWORKS = {"mcunet-5fps": 42, "mbv2-w0.35": 51, "proxyless-w0.3": 60}

#: Network, label, convolutions whose biases learn, biases, weights, input channels by layer: what
#: an independent reading of the published scripts and weights gives (spec/tte.md, appendix A).
PUBLISHED = [
    ("mcunet-5fps", "49kb", 20, 4592, 12096, {24: 12, 27: 24, 30: 24}),
    ("mcunet-5fps", "74kb", 21, 4752, 29440, {21: 40, 24: 48, 27: 24, 30: 48}),
    ("mcunet-5fps", "99kb", 22, 4792, 52480, {21: 40, 24: 48, 27: 48, 30: 48, 36: 12, 39: 24}),
    ("mcunet-5fps", "124kb", 24, 5112, 75328, {21: 10, 24: 48, 27: 48, 30: 48, 33: 48, 39: 48}),
    ("mcunet-5fps", "148kb", 23, 4952, 98560, {21: 40, 24: 48, 27: 48, 30: 48, 36: 96, 39: 48}),
    ("mbv2-w0.35", "49kb", 16, 3128, 22410, {36: 32, 39: 32, 41: 48, 42: 7, 45: 7, 48: 7, 49: 42}),
    (
        "mbv2-w0.35",
        "73kb",
        20,
        3688,
        39072,
        {32: 18, 33: 16, 36: 16, 39: 32, 41: 48, 42: 7, 45: 7, 48: 56},
    ),
    (
        "mbv2-w0.35",
        "99kb",
        25,
        4168,
        55920,
        {27: 24, 30: 24, 33: 32, 36: 32, 39: 32, 42: 7, 45: 28, 48: 56},
    ),
    (
        "mbv2-w0.35",
        "123kb",
        31,
        4792,
        72384,
        {27: 24, 30: 24, 33: 32, 36: 32, 39: 32, 42: 28, 45: 56, 48: 56},
    ),
    (
        "mbv2-w0.35",
        "138kb",
        34,
        5000,
        81792,
        {27: 24, 30: 24, 33: 32, 36: 32, 39: 32, 42: 56, 45: 56, 48: 56},
    ),
    ("proxyless-w0.3", "49kb", 21, 3488, 20736, {39: 8, 42: 32, 45: 32, 51: 8, 54: 16, 57: 16}),
    (
        "proxyless-w0.3",
        "74kb",
        28,
        4056,
        36288,
        {33: 12, 36: 8, 39: 32, 42: 32, 45: 32, 51: 32, 54: 16, 57: 32},
    ),
    (
        "proxyless-w0.3",
        "98kb",
        25,
        3744,
        62976,
        {36: 32, 39: 16, 42: 32, 45: 32, 48: 16, 51: 32, 54: 64, 57: 64},
    ),
    (
        "proxyless-w0.3",
        "120kb",
        32,
        4296,
        76800,
        {36: 32, 39: 32, 42: 32, 45: 32, 48: 32, 51: 64, 54: 64, 57: 64},
    ),
    (
        "proxyless-w0.3",
        "148kb",
        45,
        4976,
        89088,
        {36: 32, 39: 32, 42: 32, 45: 32, 48: 64, 51: 64, 54: 64, 57: 64},
    ),
]


@functools.cache
def published(name: str) -> Model:
    return load_model(str(model_path(name)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small")))


def select(model: Model, method: str) -> Selection:
    return strategy(method)(Evidence(model.name, model.graph, model.layers), Budget())


def sizes(model: Model, selection: Selection) -> dict[str, int]:
    """How many scalars of each kind learn."""
    out = {"weight": 0, "bias": 0}
    for parameter, part in selection.learn.items():
        shape = model.graph[str(parameter)].type.shape
        kept = shape[part.axis] if part.index is None else len(part.index)
        out[parameter.role] += math.prod(shape) // shape[part.axis] * kept
    return out


# ---- methods of every network ----


def expected(model: Model, method: str) -> set[str]:
    """Which parameters a method names, all of each."""
    name, _, k = method.partition(":")
    layers = model.layers[-int(k) :] if k else model.layers
    weights, biases = ({f"{x}.{kind}" for x in layers} for kind in ("weight", "bias"))
    match name, k:
        case (("none" | "head"), ""):
            return set()
        case "last", "":
            return {f"{model.layers[-1]}.weight"}
        case "bias", _:
            return biases
    return weights | biases


def check(model: Model, method: str) -> None:
    selection = select(model, method)
    assert selection.by_name.keys() == expected(model, method)
    assert set(selection.learn.values()) <= {Part()}
    assert selection.head == (method != "none")
    tensors = load_file(model.path / "model-sanitised.safetensors")
    got = sizes(model, selection)
    for kind, count in got.items():
        assert count == sum(tensors[n].size for n in expected(model, method) if n.endswith(kind))


@needs_shared
@pytest.mark.parametrize("network", NETWORKS)
def test_methods_name_the_layers_they_say(network: str) -> None:
    model = published(network)
    count = NETWORKS[network]
    assert len(model.layers) == count
    for method in ("none", "head", "last", "full"):
        check(model, method)
    for k in (1, 7, count - 1, count):
        check(model, f"last:{k}")
        check(model, f"bias:{k}")
    assert select(model, f"last:{count}") == select(model, "full")
    backbone = {"mcunet-5fps": 463216, "mbv2-w0.35": 238688, "proxyless-w0.3": 320816}
    assert sizes(model, select(model, "full"))["weight"] == backbone[network]


@pytest.mark.parametrize(
    ("method", "weights", "biases"),
    [
        ("none", 0, 0),
        ("head", 0, 0),
        ("last", 24 * FEATURES, 0),
        ("last:1", 24 * FEATURES, FEATURES),
        ("last:2", 24 * FEATURES + 24 * 25, FEATURES + 24),
        ("bias:3", 0, FEATURES + 24 + 24),
        ("full", 27 * 8 + 8 * 16 + 9 * 16 + 16 * 8 + 8 * 24 + 25 * 24 + 24 * FEATURES, 108),
    ],
)
def test_how_much_learns(small: Model, method: str, weights: int, biases: int) -> None:
    assert small.layers == LAYERS
    assert sizes(small, select(small, method)) == {"weight": weights, "bias": biases}
    if method != "head":
        compiled = compile_recipe(small, Recipe(method, 4), Budget())
        assert compiled.learned_parameters == weights + biases
    if method != "none":
        compiled = compile_recipe(small, Recipe(method, 4, HeadKind.LINEAR), Budget())
        assert compiled.learned_parameters == weights + biases + 4 * FEATURES + 4


# ---- published plans ----


def test_plans_are_the_published_ones() -> None:
    listed = {(network, label) for network, plans in PLANS.items() for label in plans}
    assert listed == {(network, label) for network, label, *_ in PUBLISHED}


@needs_shared
@pytest.mark.parametrize(("network", "label", "k", "biases", "weights", "channels"), PUBLISHED)
def test_published_plan(
    network: str, label: str, k: int, biases: int, weights: int, channels: dict[int, int]
) -> None:
    model = published(network)
    selection = select(model, f"sparse-{label}")
    assert sizes(model, selection) == {"weight": weights, "bias": biases}
    learn = selection.by_name
    assert {n for n in learn if n.endswith(".bias")} == {f"{x}.bias" for x in model.layers[-k:]}
    assert all(learn.pop(f"{x}.bias") == Part() for x in model.layers[-k:])
    tensors = load_file(model.path / "model-sanitised.safetensors")
    assert learn.keys() == {f"{model.layers[i]}.weight" for i in channels}
    for i, count in channels.items():
        part = learn[f"{model.layers[i]}.weight"]
        real = tensors[f"{model.layers[i]}.weight"] * tensors[
            f"{model.layers[i]}.weight_scale"
        ].reshape(-1, 1, 1, 1).astype(np.float64)
        # a depthwise filter is of shape [1, kh, kw] and belongs to one input channel: its own
        norms = np.sqrt((real**2).sum(axis=(1, 2, 3) if real.shape[1] == 1 else (0, 2, 3)))
        assert part.index is not None
        assert len(set(part.index)) == len(part.index) == count
        assert part.axis == len(model.graph[f"{model.layers[i]}.weight"].type.shape) - 1
        rest = sorted(set(range(len(norms))) - set(part.index))
        assert norms[list(part.index)].min() >= norms[rest].max(initial=0)


@needs_shared
@pytest.mark.parametrize("network", NETWORKS)
def test_smallest_plan_compiles_and_counts_what_learns(network: str) -> None:
    weights, biases = next((w, b) for n, _, _, b, w, _ in PUBLISHED if n == network)
    compiled = compile_recipe(published(network), Recipe("sparse-49kb", 10), Budget())
    assert compiled.learned_parameters == weights + biases


@pytest.fixture
def plan_for_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Half of the input channels of a pointwise and a quarter of a depthwise layer."""
    monkeypatch.setitem(PLANS, "small", {"1kb": UpdatePlan(3, (4, 5), (0.5, 0.32))})
    folder = write_model(tmp_path_factory.mktemp("small") / "small")
    layers = architecture(load_model(str(folder)).graph)
    monkeypatch.setitem(ARCHITECTURES, layers, "small")


def test_channels_are_the_largest_by_real_norm(tmp_path: Path, plan_for_small: None) -> None:
    folder = write_model(tmp_path / "small")
    scale = np.ones(24, np.float32)
    scale[:12] = 1e-3  # the first twelve outputs of the pointwise layer count for nothing
    pointwise = np.zeros((24, 8, 1, 1), np.int8)
    pointwise[12:, :, 0, 0] = [[3, 9, 4, 7, 0, 8, 2, 0]] * 12
    pointwise[15, 7] = 40  # a large norm, but a small sum
    pointwise[:12, 4] = 127
    depthwise = np.full((24, 1, 5, 5), 50, np.int8)
    depthwise_scale = np.ones(24, np.float32)
    depthwise_scale[[20, 3, 11]] = 2
    depthwise_scale[[0, 1]] = 1.5
    replace_tensors(
        folder,
        {
            "b1.pw1.weight": pointwise,
            "b1.pw1.weight_scale": scale,
            "b1.dw.weight": depthwise,
            "b1.dw.weight_scale": depthwise_scale,
        },
    )
    learn = select(load_model(str(folder)), "sparse-1kb").by_name
    assert learn["b1.pw1.weight"] == Part(3, (1, 3, 5, 7))
    # int(24 * 0.32) channels; the two last are the lowest numbers of equals
    assert learn["b1.dw.weight"] == Part(2, (0, 1, 2, 3, 4, 11, 20)), "ties go to the lower channel"
    assert {n for n in learn if n.endswith("bias")} == {"b1.pw1.bias", "b1.dw.bias", "b1.pw2.bias"}


def test_partly_learned_layer_costs_its_part(small: Model, plan_for_small: None) -> None:
    compiled = compile_recipe(small, Recipe("sparse-1kb", 4), Budget())
    assert compiled.learned_parameters == 24 * 4 + 25 * 7 + 24 + 24 + FEATURES
    state = {s.name: s.value.shape for s in compiled.program.state}
    assert state["b1.pw1.weight.learned"] == (24, 1, 1, 4)
    assert state["b1.dw.weight.learned"] == (5, 5, 7)
    assert not {"b1.pw1.weight", "b1.dw.weight"} & state.keys()


# ---- refusals ----


def test_there_is_an_example_of_every_method() -> None:
    """All but the files; names agree up to what a number or a share stands for."""
    kinds = [m.partition(":")[0] for m in METHODS if not m.startswith("FILE.")]
    assert [e.partition(":")[0] for e in EXAMPLES] == [k.partition(" ")[0] for k in kinds]
    for method in EXAMPLES:
        assert callable(strategy(method))


@pytest.mark.parametrize(
    "method",
    [
        *("", ":", "lasst", "LAST", "last:", "last:x", "last:-1", "last:1.5", "last: 2", "none:"),
        *("full:3", "bias", "bias:", "head:1", "sparse", "sparse-49kb:2", "sparse-49kb:", "fisher"),
    ],
)
def test_unknown_method_lists_those_there_are(method: str) -> None:
    with pytest.raises(InputError) as caught:
        strategy(method)
    assert str(caught.value).startswith(f"method {method!r}: unknown; known are ")
    assert all(known in str(caught.value) for known in METHODS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["last", "bias"])
@pytest.mark.parametrize("k", [0, 8, 10**8])
def test_more_layers_than_there_are(small: Model, kind: str, k: int) -> None:
    with pytest.raises(InputError, match=rf"method.*small has 7 convolutions, {k} cannot learn"):
        select(small, f"{kind}:{k}")


def test_plan_of_another_network(small: Model) -> None:
    with pytest.raises(InputError) as caught:
        select(small, "sparse-49kb")
    message = str(caught.value)
    assert message.startswith("method sparse-49kb: no plan was published for the layers of small; ")
    assert all(network in message for network in NETWORKS)


@needs_shared
@pytest.mark.parametrize("network", NETWORKS)
def test_published_plans_follow_the_layers(network: str) -> None:
    """Another name, other weights, another size, another classifier: the plan is the same."""
    model = published(network)
    wanted = {n: p.index and len(p.index) for n, p in select(model, "sparse-49kb").by_name.items()}
    trained = {n: np.flip(v) for n, v in model.graph.data.items()}
    for other in (
        replace(model, name="mine"),
        replace(model, graph=replace(model.graph, data=trained)),
        resized(model, 96),
        with_classifier(model, 7),
    ):
        found = select(replace(other, name="mine"), "sparse-49kb").by_name
        assert {n: p.index and len(p.index) for n, p in found.items()} == wanted
    with pytest.raises(InputError, match="no plan was published for the layers of mcunet-5fps"):
        select(replace(with_last_conv(model, 40), name="mcunet-5fps"), "sparse-49kb")


@needs_shared
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("label", ["", "50kb", "49KB", "49kb "])
def test_unknown_plan_lists_those_of_the_network(network: str, label: str) -> None:
    with pytest.raises(InputError) as caught:
        select(published(network), f"sparse-{label}")
    named = {x for x in PLANS[network] if f"sparse-{x}" in str(caught.value)}
    assert named == PLANS[network].keys()
    labels = {"mcunet-5fps": "73kb", "mbv2-w0.35": "74kb", "proxyless-w0.3": "73kb"}
    with pytest.raises(InputError, match=f"the plans for {network} are sparse-49kb, "):
        select(published(network), f"sparse-{labels[network]}")


def test_head_and_method_must_go_together(small: Model) -> None:
    with pytest.raises(InputError, match="head linear: method none does not train it"):
        compile_recipe(small, Recipe("none", 4, HeadKind.LINEAR), Budget())
    with pytest.raises(InputError, match="head proto: prototypes do not learn by gradient"):
        compile_recipe(small, Recipe("head", 4, HeadKind.PROTO), Budget())
