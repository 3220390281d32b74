"""Strategies that choose: by hand, by brute force, by published numbers, and within budgets."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
from folders import LAYERS, write_model, write_pictures
from helpers import SHARED, Network, Unit, call, image, linked, model_path, needs_shared

from kilograd.data import Augment, load_dataset, sample_episode
from kilograd.emit import Program
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.ir import (
    Affine,
    Array,
    Block,
    BlockExponent,
    Builder,
    DType,
    Graph,
    Role,
    TensorType,
    Value,
    interpret,
)
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, _linked, _training, compile_recipe
from kilograd.learn.samples import Samples
from kilograd.learn.training import load_samples
from kilograd.ops import FisherSum, Window
from kilograd.passes import Part, Training
from kilograd.select import (
    EXAMPLES,
    Budget,
    Demand,
    Evidence,
    Inspect,
    Parameter,
    Reason,
    Selection,
    strategy,
    write_plan,
)
from kilograd.select.greedy import INSPECTED, least_macs
from kilograd.select.knapsack import Knapsack, pack
from kilograd.select.selection import best_first, filters, output_energies, weight
from kilograd.select.tinytrain import Criterion, TinyTrain
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Schedule

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")

FREE = 10**12
"""More MACs than any backward pass takes: no limit of work."""


@functools.cache
def published(name: str) -> Model:
    return load_model(str(model_path(name)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small")))


def invented(graph: Graph, seed: int = 0) -> Inspect:
    """Fisher information that spans orders of magnitude between layers and within them."""

    def draw(layers: tuple[str, ...], salt: int) -> dict[str, Array]:
        out = {}
        for i, x in enumerate(layers):
            rng = np.random.default_rng([seed, i, salt])
            values = rng.lognormal(rng.normal(-6, 1.5), 1, graph[x].type.shape[2])
            out[x] = values.astype(np.float32)
        return out

    return Inspect(lambda layers: draw(layers, 0), lambda layers: draw(layers, 1))


def counted(model: Model, learn: Mapping[str, Part]) -> int:
    """How many scalars learn."""
    total = 0
    for name, part in learn.items():
        shape = model.graph[name].type.shape
        share = shape[part.axis] if part.index is None else len(part.index)
        total += int(np.prod(shape)) // shape[part.axis] * share
    return total


def on_paper(model: Model, inspect: Inspect | None) -> Evidence:
    """Evidence with the papers' cost: updated weights, and MACs as in TinyTrain's table 2."""
    plain = Evidence(model.name, model.graph, model.layers)

    def cost(selection: Selection) -> Demand:
        return Demand(counted(model, selection.by_name), least_macs(plain, selection.learn))

    return replace(plain, cost=cost, inspect=inspect)


def asked(method: str, budget: Budget, *, images: bool = True) -> object:
    """What a method selects of the digits network, or why it does not."""
    model = load_model("digits")
    inspect = invented(model.graph) if images else None
    try:
        return strategy(method)(on_paper(model, inspect), budget).learn
    except InputError as error:
        return str(error)


#: Strategies that heed a budget; the others select what their names say, whatever it costs.
#: (lora:K does too, but chooses a rank and no channels: tests/test_expansions.py.)
CHOOSING = tuple(
    m
    for m in EXAMPLES
    if not m.startswith("lora:") and asked(m, Budget(sram=100)) != asked(m, Budget())
)
#: Those that look at images.
LOOKING = tuple(m for m in CHOOSING if "looks at images" in str(asked(m, Budget(), images=False)))


def test_the_strategies_that_choose_are_found() -> None:
    assert {"tinytrain", "knapsack", "tinytrain-random:1"} < set(LOOKING) < set(CHOOSING)
    assert {"static-l2", "random-layers:1"} <= set(CHOOSING) - set(LOOKING)
    assert {"none", "full", "last:3", "sparse-49kb"} <= set(EXAMPLES) - set(CHOOSING)


def layers_of(selection: Selection) -> set[str]:
    return {parameter.layer for parameter in selection.learn}


# ---- the rule, by hand ----

#: Of the small network, by hand: weights, pixels of the output, MACs.
SIZES = {
    "stem": (27 * 8, 64),
    "b0.pw1": (8 * 16, 64),
    "b0.dw": (9 * 16, 64),
    "b0.pw2": (16 * 8, 64),
    "b1.pw1": (8 * 24, 64),
    "b1.dw": (25 * 24, 16),
    "b1.pw2": (24 * 12, 16),
}
MACS = {k: w * p for k, (w, p) in SIZES.items()}


def fixed(values: Mapping[str, list[float]], model: Model) -> Inspect:
    """Fisher information that is given; none where nothing is said."""

    def fisher(layers: tuple[str, ...]) -> dict[str, Array]:
        zeros = {x: np.zeros(model.graph[x].type.shape[2], np.float32) for x in layers}
        for x in layers:
            given = values.get(x, [])
            zeros[x][: len(given)] = given
        return zeros

    return Inspect(fisher, fisher)


def test_information_is_equation_2() -> None:
    """One sample, two pixels, two channels; reals 1, -1 and 0, 1.5, gradients 1, 2 and 3, -4."""
    b = Builder()
    sums = b.param("sums", np.array([1.0, 2.0], np.float32))
    maps = b.input("maps", TensorType((2, 1, 2), DType.I8, Affine((0.5,), 1)))
    gradient = b.input("gradient", TensorType((2, 1, 2), DType.I16, BlockExponent(15)))
    graph = b.graph(b(FisherSum(), sums, maps, gradient))
    feeds: dict[str, Value] = {
        "maps": np.array([[[3, -1]], [[1, 4]]], np.int8),
        "gradient": Block(np.array([[[2, 4]], [[6, -8]]], np.int16), -1),
        "sums": np.array([1.0, 2.0], np.float32),
    }
    by_hand = [1 + (1 * 1 + 0 * 3) ** 2 / 2, 2 + (-1 * 2 + 1.5 * -4) ** 2 / 2]
    assert np.asarray(interpret(graph, feeds)["sums"]).tolist() == by_hand == [1.5, 34]
    assert (
        np.asarray(call(linked({"inspect": graph}), "inspect", feeds)["sums"]).tolist() == by_hand
    )


def test_scores_are_equation_3(small: Model) -> None:
    given = {"b0.pw1": [1.0, 0.5], "b1.dw": [0.0, 4.0, 2.0], "b1.pw2": [3.0], "stem": [8.0]}
    potentials = {k: sum(v) for k, v in given.items()}
    evidence = on_paper(small, fixed(given, small))
    for criterion in Criterion:
        selection = TinyTrain(criterion)(evidence, Budget(sram=10**9, compute=FREE))
        assert [r.layer for r in selection.reasons] == list(LAYERS)
        for r in selection.reasons:
            assert (r.weights, r.macs) == (SIZES[r.layer][0], MACS[r.layer])
            potential = potentials.get(r.layer, 0.0)
            over_weights = SIZES[r.layer][0] / (25 * 24)  # b1.dw has the most weights
            over_macs = MACS[r.layer] / MACS["stem"]  # and the stem the most MACs
            by_hand = {
                "P": potential,
                "P/W": potential / over_weights,
                "P/M": potential / over_macs,
                "P/(W*M)": potential / (over_weights * over_macs),
            }
            assert r.potential == pytest.approx(potential)
            assert r.score == pytest.approx(by_hand[criterion])


def test_a_layer_that_does_not_fit_is_passed_over(small: Model) -> None:
    given = {"b0.pw1": [9.0] * 16, "b1.pw2": [1.0, 2.0, 5.0, 4.0], "b1.dw": [1.0] * 24}
    evidence = on_paper(small, fixed(given, small))
    room = 6 * 25 + 3 * 24  # a quarter of b1.dw and of b1.pw2
    chosen = TinyTrain(Criterion.POTENTIAL)(evidence, Budget(sram=room, compute=MACS["b1.pw2"] * 2))
    assert chosen.by_name == {
        "b1.dw.weight": Part(2, (0, 1, 2, 3, 4, 5)),  # ties go to the lower channel
        "b1.pw2.weight": Part(0, (1, 2, 3)),
    }
    why = {r.layer: (r.chosen, r.why) for r in chosen.reasons}
    behind = sum(MACS[x] for x in LAYERS[LAYERS.index("b0.pw1") + 1 :])
    needed = behind + MACS["b0.pw1"] // 4
    assert why["b0.pw1"] == (0, f"compute: {needed:,} of {MACS['b1.pw2'] * 2:,} MACs")
    assert why["b1.dw"] == (6, "")
    assert why["b1.pw2"] == (3, "")
    stopped = TinyTrain(Criterion.POTENTIAL, skip=False)
    with pytest.raises(InputError, match="too small for any layer"):
        stopped(evidence, Budget(sram=room, compute=MACS["b1.pw2"] * 2))
    one = replace(stopped, inspected=2)(evidence, Budget(sram=room - 1))
    assert layers_of(one) == {"b1.dw"}


def test_memory_is_named_where_it_is_what_lacks(small: Model) -> None:
    given = {"b1.dw": [1.0] * 24, "b1.pw2": [0.5]}
    chosen = TinyTrain()(on_paper(small, fixed(given, small)), Budget(sram=150))
    assert layers_of(chosen) == {"b1.dw"}
    (reason,) = (r for r in chosen.reasons if r.layer == "b1.pw2")
    assert reason.why == "sram: at least 222 of 150 bytes"


def test_shares_are_tried_largest_first_and_the_budget_has_the_last_word(small: Model) -> None:
    evidence = on_paper(small, fixed({"b1.dw": [1.0] * 24}, small))
    several = TinyTrain(ratios=(1, 0.5, 0.25, 0.125), inspected=2)

    def channels(selection: Selection) -> dict[str, int]:
        return {r.layer: r.chosen for r in selection.reasons}

    assert channels(several(evidence, Budget(sram=25 * 24))) == {"b1.dw": 24, "b1.pw2": 0}
    assert channels(several(evidence, Budget(sram=25 * 24 - 1))) == {"b1.dw": 12, "b1.pw2": 12}
    assert several(evidence, Budget(sram=25 * 24)).by_name == {"b1.dw.weight": Part()}
    given = several(evidence, Budget(sram=10**6, channels=0.1))
    assert channels(given) == {"b1.dw": 2, "b1.pw2": 1}
    assert channels(several(evidence, Budget(sram=10**6, channels=1e-9))) == {
        "b1.dw": 1,
        "b1.pw2": 1,
    }


def test_biases_only_where_asked_for(small: Model) -> None:
    evidence = on_paper(small, invented(small.graph))
    plain, more = (TinyTrain(bias=b)(evidence, Budget(sram=10**6)) for b in (False, True))
    assert {parameter.role for parameter in plain.learn} == {Role.WEIGHT}
    assert {f"{x}.bias" for x in layers_of(plain)} == more.by_name.keys() - plain.by_name.keys()


def test_work_is_limited_to_15_percent_unless_it_is_given(small: Model) -> None:
    """Also where RAM is limited, which does not lift the other limit."""
    evidence = on_paper(small, invented(small.graph))
    limit = int(0.15 * 2 * sum(MACS.values()))
    assert evidence.full_backward() == 2 * sum(MACS.values())
    for method in CHOOSING:
        free, limited = (strategy(method)(evidence, b) for b in (Budget(), Budget(compute=limit)))
        assert free == limited, method
        assert free.learn
        assert strategy(method)(evidence, Budget(sram=10**9)) == free, method
        assert strategy(method)(evidence, Budget(sram=10**9, compute=FREE)) != free, method


def test_memory_is_limited_to_1_mb_unless_it_is_given(small: Model) -> None:
    """As TinyTrain has it; a network that needs more says how much."""
    evidence = on_paper(small, invented(small.graph))
    chosen = strategy("tinytrain")(evidence, Budget())
    assert chosen.within is not None
    assert chosen.within.sram == 1 << 20
    large = replace(evidence, cost=lambda s: replace(evidence.cost(s), sram=1_300_000))
    with pytest.raises(InputError, match=r"^sram 1048576: too small .* needs sram 1300000 and"):
        strategy("tinytrain")(large, Budget())
    for given in (Budget(sram=2_000_000), Budget(backward_memory=10**6)):
        assert strategy("tinytrain")(large, given).learn == chosen.learn


# ---- the knapsack ----


def brute_force(values: Array, costs: Array, room: Array) -> float:
    best = 0.0
    for taken in itertools.product((False, True), repeat=len(values)):
        chosen = np.array(taken)
        if (costs[chosen].sum(axis=0) <= room).all():
            best = max(best, float(values[chosen].sum()))
    return best


def test_packing_against_brute_force() -> None:
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(120):
        n = int(rng.integers(1, 11))
        values = rng.lognormal(0, 1, n)
        costs = rng.integers(1, 60, (n, 2)).astype(float)
        room = costs.sum(axis=0) * rng.uniform(0, 1.1, 2)
        room[rng.random(2) < 0.15] = np.inf
        packed = pack(values, costs, room)
        best = brute_force(values, costs, room)
        assert (costs[packed.taken].sum(axis=0) <= room).all()
        assert packed.value == pytest.approx(values[packed.taken].sum())
        assert packed.value <= best * (1 + 1e-12)
        assert packed.bound >= best * (1 - 1e-12)
        if np.isinf(room).any() and packed.taken.all():
            assert packed.bound == pytest.approx(best)
        shares.append(packed.value / best if best else 1.0)
    print(f"\nof the optimum: mean {np.mean(shares):.4f}, worst {min(shares):.3f}")
    assert np.mean(shares) > 0.99
    assert min(shares) > 0.85


def test_packing_of_many_is_nearly_proved_optimal() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        n = 3000
        values = rng.lognormal(0, 1.5, n)
        size = rng.choice([9, 25, 48, 240, 576], n)
        costs = np.stack([size, size * rng.choice([16, 64], n)], axis=1).astype(float)
        room = costs.sum(axis=0) * rng.uniform(0.02, 0.6, 2)
        packed = pack(values, costs, room)
        assert packed.bound >= packed.value > 0.99 * packed.bound


@pytest.mark.parametrize("room", [(-1, 5), (5, -1), (0, 0), (0, np.inf)])
def test_no_room_no_items(room: tuple[float, float]) -> None:
    packed = pack(np.ones(3), np.full((3, 2), 1.0), np.array(room))
    assert not packed.taken.any()
    assert packed.value == 0


@pytest.mark.parametrize("seed", range(4))
def test_earliest_layer_and_channels_against_brute_force(small: Model, seed: int) -> None:
    """Of the last three layers, any number of the best channels of each: all 25 * 25 * 13."""
    inspect = invented(small.graph, seed)
    evidence = on_paper(small, inspect)
    last = LAYERS[-3:]
    # one budget without the earliest layers, one that takes parts of all
    for budget in (Budget(sram=190, compute=9000), Budget(sram=400, compute=20000)):
        sums = {k: np.cumsum(-np.sort(-v.astype(float))) for k, v in inspect.fisher(last).items()}
        best = 0.0
        for counts in itertools.product(*(range(len(sums[x]) + 1) for x in last)):
            taken = {x: n for x, n in zip(last, counts, strict=True) if n}
            weights = sum(SIZES[x][0] // len(sums[x]) * n for x, n in taken.items())
            first = min((last.index(x) for x in taken), default=0)
            macs = sum(MACS[x] for x in last[first + 1 :])
            macs += sum(MACS[x] * n // len(sums[x]) for x, n in taken.items())
            if budget.admits(Demand(weights, macs)):
                best = max(best, sum(sums[x][n - 1] for x, n in taken.items()))
        chosen = Knapsack(inspected=3)(evidence, budget)
        value = sum(
            inspect.fisher(last)[n.layer][list(p.index)].sum()
            if p.index is not None
            else inspect.fisher(last)[n.layer].sum()
            for n, p in chosen.learn.items()
        )
        assert budget.admits(evidence.cost(chosen))
        assert 0.98 * best < value <= best * (1 + 1e-6)


def test_pointwise_leaves_depthwise_layers_alone(small: Model) -> None:
    evidence = on_paper(small, invented(small.graph))
    chosen = strategy("pointwise-knapsack")(evidence, Budget(sram=300))
    assert not [x for x in layers_of(chosen) if x.endswith(".dw")]
    assert not [r for r in chosen.reasons if r.layer.endswith(".dw")]
    assert [x for x in layers_of(strategy("knapsack")(evidence, Budget())) if x.endswith(".dw")]


def test_what_rounds_away_counts_for_less(small: Model) -> None:
    """Equal information; the step of half the channels is a thousandth of a code."""
    count = 12
    steps = np.where(np.arange(count) % 2, 3.0, 1e-3)
    inspect = Inspect(
        lambda layers: {x: np.ones(count, np.float32) for x in layers},
        lambda layers: dict.fromkeys(layers, steps),
    )
    evidence = on_paper(small, inspect)
    half = Budget(sram=6 * 24)
    assert Knapsack(inspected=1)(evidence, half).by_name == {
        "b1.pw2.weight": Part(0, (0, 1, 2, 3, 4, 5))
    }
    rounding = Knapsack(inspected=1, rounding=True)(evidence, half)
    assert rounding.by_name == {"b1.pw2.weight": Part(0, (1, 3, 5, 7, 9, 11))}
    (reason,) = rounding.reasons
    assert reason.potential == 12
    assert reason.score == pytest.approx(6 + 6e-3), "steps above one code count as one"


@pytest.mark.parametrize("method", LOOKING)
def test_images_that_say_nothing(small: Model, method: str) -> None:
    with pytest.raises(InputError, match="no channel of small matters to the images given"):
        strategy(method)(on_paper(small, fixed({}, small)), Budget())


# ---- plans that look at no image ----


def test_static_channels(small: Model) -> None:
    evidence = on_paper(small, None)
    budget = Budget(sram=10**6, compute=FREE)
    norm = strategy("static-l2")(evidence, budget)
    weight = small.graph["b1.dw.weight"]
    real = small.graph.data[weight.name] * np.array(weight.type.affine.scale)
    norms = np.linalg.norm(real.reshape(25, 24), axis=0)
    part = norm.by_name["b1.dw.weight"]
    assert part.axis == 2
    assert part.index is not None
    rest = sorted(set(range(24)) - set(part.index))
    assert norms[list(part.index)].min() >= norms[rest].max()
    drawn = [strategy(f"static-random:{seed}")(evidence, budget) for seed in (0, 1, 1)]
    assert {frozenset(layers_of(s)) for s in (norm, *drawn)} == {frozenset(layers_of(norm))}
    assert drawn[1] == drawn[2]
    assert drawn[0] != drawn[1] != norm


def test_other_channels_of_the_same_layers(small: Model) -> None:
    evidence = on_paper(small, invented(small.graph))
    budget = Budget(sram=400, compute=FREE)
    methods = ("tinytrain", "tinytrain-l2", "tinytrain-random:0", "tinytrain-random:1")
    found = [strategy(m)(evidence, budget) for m in methods]
    assert len({tuple(r.chosen for r in s.reasons) for s in found}) == 1
    assert len({tuple(s.learn.items()) for s in found}) == len(methods)
    assert strategy("tinytrain-random:1")(evidence, budget) == found[-1]
    full = strategy("static-l2")(evidence, Budget(sram=10**6, compute=FREE)).learn
    for name, part in found[1].learn.items():
        assert part == full[name], "the largest, as static-l2 has them"


def test_random_layers_are_random(small: Model) -> None:
    evidence = on_paper(small, None)
    found = [strategy(f"random-layers:{seed}")(evidence, Budget()) for seed in range(12)]
    again = [strategy(f"random-layers:{seed}")(evidence, Budget()) for seed in range(12)]
    assert found == again
    assert len({frozenset(layers_of(s)) for s in found}) > 2


# ---- published numbers ----

#: Weights and MACs of MCUNet's last 18 convolutions, from a reading of the published networks
#: (spec/algorithms.md, appendix).
MCUNET = (
    *((6912, 442368), (1296, 82944), (6912, 442368)),
    *((9216, 589824), (1728, 110592), (9216, 589824)),
    *((11520, 737280), (11760, 188160), (23040, 368640)),
    *((36864, 589824), (9600, 153600), (36864, 589824)),
    *((36864, 589824), (9600, 153600), (36864, 589824)),
    *((55296, 884736), (5184, 82944), (92160, 1474560)),
)


@needs_shared
def test_inspected_layers_are_the_table_of_the_spec() -> None:
    model = published("mcunet-5fps")
    chosen = strategy("tinytrain")(on_paper(model, invented(model.graph)), Budget())
    assert [r.layer for r in chosen.reasons] == list(model.layers[-INSPECTED:])
    assert [(r.weights, r.macs) for r in chosen.reasons] == list(MCUNET)
    products = [r.weights * r.macs for r in chosen.reasons]
    assert (min(products), max(products)) == (products[1], products[17])  # L25 dw, L41 pw2
    assert max(products) / min(products) == pytest.approx(1264, abs=1)


@needs_shared
@pytest.mark.parametrize(
    ("network", "layer", "product"), [("mbv2-w0.35", 40, 4.8e7), ("proxyless-w0.3", None, 3.7e8)]
)
def test_smallest_divisor(network: str, layer: int | None, product: float) -> None:
    model = published(network)
    chosen = strategy("tinytrain")(on_paper(model, invented(model.graph)), Budget())
    smallest = min(chosen.reasons, key=lambda r: r.weights * r.macs)
    assert smallest.weights * smallest.macs == pytest.approx(product, rel=0.02)
    assert layer is None or smallest.layer == model.layers[layer]


@needs_shared
def test_compute_is_counted_as_in_the_paper() -> None:
    """TinyTrain, table 2: 15 % of twice the forward pass; LastLayer; SparseUpdate."""
    full = {"mcunet-5fps": 22453504, "mbv2-w0.35": 17449728, "proxyless-w0.3": 19209728}
    mix = {"mbv2-w0.35": 112 * 448 * 16, "proxyless-w0.3": 96 * 384 * 16}  # not in our folders
    for name, macs in full.items():
        assert on_paper(published(name), None).full_backward() == 2 * (macs - mix.get(name, 0))
    mcunet = on_paper(published("mcunet-5fps"), None)
    assert int(0.15 * mcunet.full_backward()) == pytest.approx(6.74e6, rel=1e-3)
    assert least_macs(mcunet, strategy("last")(mcunet, Budget()).learn) == 1474560
    sparse = strategy("sparse-99kb")(mcunet, Budget()).learn
    weights = {k: v for k, v in sparse.items() if k.role is Role.WEIGHT}
    assert least_macs(mcunet, weights) == pytest.approx(11.88e6, abs=5e3)
    assert counted(published("mcunet-5fps"), Selection(weights).by_name) == 52480


@needs_shared
def test_the_compiler_counts_the_same(tmp_path: Path) -> None:
    model = published("mcunet-5fps")
    chosen = strategy("tinytrain")(on_paper(model, invented(model.graph)), Budget())
    write_plan(tmp_path / "plan.json", model.name, model.graph, chosen)
    program = compiled(model, str(tmp_path / "plan.json"), Budget(), None).program
    backward = program.macs("step") - program.macs("infer")
    assert backward - least_macs(on_paper(model, None), chosen.learn) == 10 * 160, "the head's"


@functools.cache
def support(model: str, data: str, count: int = 25) -> Samples:
    assert SHARED is not None
    dataset = load_dataset(SHARED / "data" / f"{data}.parquet")
    episode = sample_episode(dataset, ways=5, shots=count // 5, queries=1, seed=1)
    return load_samples(
        dataset, episode.support, episode.support_labels, published(model).preprocess
    )


#: The layers that TinyTrain's rule took in every episode of an independent prototype, in float,
#: with room for 18,432 weights and 6.736 M MACs (spec/ladder.md, 1b).
PROTOTYPE = {1.0: {31, 40}, 0.5: {31, 34, 37, 40}, 0.25: {30, 31, 32, 34, 37, 40}}


@needs_shared
@pytest.mark.parametrize("ratio", PROTOTYPE)
@pytest.mark.parametrize("data", ["flowers89", "gtsrb"])
def test_the_rule_takes_the_layers_that_a_prototype_took(data: str, ratio: float) -> None:
    model = published("mcunet-5fps")
    budget = Budget(sram=18432, compute=6736051, channels=ratio)
    inspect = inspector(model, support(model.name, data), Schedule())
    chosen = strategy("tinytrain")(on_paper(model, inspect), budget)
    assert {model.layers.index(x) for x in layers_of(chosen)} == PROTOTYPE[ratio]


# ---- what the images say ----


@needs_shared
def test_inspection_is_a_mean_over_the_support() -> None:
    """Against float64: Fisher information, and the size of a step in codes of each filter."""
    model = published("mcunet-5fps")
    samples = support(model.name, "flowers89", 10)
    schedule = Schedule(lr=0.01, augment=Augment.NONE)
    inspect = inspector(model, samples, schedule)
    layers = (model.layers[31], model.layers[36], model.layers[41])
    network = oracle.Network(model_path(model.name))
    codes = [network.run(x) for x in samples.images]
    prototypes = np.zeros((5, 160))
    for label, found in zip(samples.labels, codes, strict=True):
        prototypes[label] += network.features(found)
    head = oracle.Cosine(prototypes)
    fisher = {x: np.zeros(model.graph[x].type.shape[2]) for x in layers}
    squares = {k: np.zeros_like(v) for k, v in fisher.items()}
    for label, found in zip(samples.labels, codes, strict=True):
        features = network.features(found)
        _, d_logits = oracle.cross_entropy(head.logits(features), int(label))
        d_features = head.gradient(features, d_logits)
        gates, gradients = network.fisher(found, d_features), network.backward(found, d_features)
        for x in layers:
            fisher[x] += gates[x] / len(codes)
            squares[x] += (gradients[f"{x}.weight"] ** 2).mean(axis=(1, 2, 3)) / len(codes)
    for x in layers:
        scale = network.layers[x].weight_scale
        assert np.corrcoef(inspect.fisher(layers)[x], fisher[x])[0, 1] > 0.98
        assert inspect.fisher(layers)[x].sum() == pytest.approx(fisher[x].sum(), rel=0.1)
        steps = 0.01 * np.sqrt(squares[x]) / scale
        assert inspect.steps(layers)[x] == pytest.approx(steps, rel=0.05, abs=0.02 * steps.max())


def test_the_same_images_say_the_same(small: Model, tmp_path: Path) -> None:
    dataset = load_dataset(write_pictures(tmp_path / "discs"))
    episode = sample_episode(dataset, ways=3, shots=3, queries=1, seed=0)
    samples = load_samples(dataset, episode.support, episode.support_labels, small.preprocess)
    last = small.layers[-2:]
    one, same, other = (inspector(small, samples, Schedule(seed=s)) for s in (4, 4, 5))
    for x in last:
        assert np.array_equal(one.fisher(last)[x], same.fisher(last)[x])
        assert np.array_equal(one.steps(last)[x], same.steps(last)[x])
        assert not np.array_equal(one.fisher(last)[x], other.fisher(last)[x])
    chosen = [compiled(small, "tinytrain", Budget(), i).selection for i in (one, same)]
    assert chosen[0] == chosen[1]
    assert chosen[0].reasons == chosen[1].reasons


# ---- budgets, with the compiler as the judge ----


def compiled(
    model: Model,
    method: str,
    budget: Budget,
    inspect: Inspect | None,
    optimizer: OptimizerKind = OptimizerKind.SGD,
) -> Compiled:
    return compile_recipe(model, Recipe(method, 10, None, optimizer), budget, inspect)


@needs_shared
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", [m for m in CHOOSING if not m.startswith("tinytrain:")])
def test_every_program_fits(network: str, method: str) -> None:
    model = published(network)
    compute = int(0.15 * on_paper(model, None).full_backward())
    budget = Budget(sram=112 << 10, compute=compute)
    made = compiled(model, method, budget, invented(model.graph))
    program = made.program
    assert program.sram_bytes <= 112 << 10
    assert program.macs("step") - program.macs("infer") <= compute
    assert made.learned_parameters == counted(model, made.selection.by_name) > 1000
    inspected = model.layers[-INSPECTED:]
    for parameter, part in made.selection.learn.items():
        assert (parameter.layer in inspected, parameter.role) == (True, Role.WEIGHT)
        depthwise = len(model.graph[str(parameter)].type.shape) == 3
        assert part.index is None or part.axis == (2 if depthwise else 0), "output channels"


@pytest.mark.parametrize("optimizer", OptimizerKind)
@pytest.mark.parametrize("method", CHOOSING)
def test_memory_is_used_but_not_exceeded(
    small: Model, method: str, optimizer: OptimizerKind
) -> None:
    """Whatever the optimiser keeps: nearly the smallest, and a bit more than half-way to full."""
    inspect = invented(small.graph, 2)
    full = compiled(
        small, method, Budget(sram=10**6, compute=FREE), inspect, optimizer
    ).program.sram_bytes
    with pytest.raises(InputError, match="too small for any layer of small to learn") as caught:
        compiled(small, method, Budget(sram=100, compute=FREE), inspect, optimizer)
    least = int(str(caught.value).split("needs sram ")[1].split()[0])
    for limit in (least, (least + full) // 2, full):
        made = compiled(small, method, Budget(sram=limit, compute=FREE), inspect, optimizer)
        assert made.program.sram_bytes <= limit
        assert made.learned_parameters > 0
    assert made.program.sram_bytes == full
    with pytest.raises(InputError, match="too small for any layer of small to learn"):
        compiled(small, method, Budget(sram=least - 1, compute=FREE), inspect, optimizer)


@pytest.mark.parametrize("method", CHOOSING)
def test_smallest_compute_is_named_and_is_enough(small: Model, method: str) -> None:
    inspect = invented(small.graph, 2)
    with pytest.raises(InputError, match=r"compute 1: too small .* and compute \d+$") as caught:
        compiled(small, method, Budget(compute=1), inspect)
    least = int(str(caught.value).rpartition(" ")[2])
    program = compiled(small, method, Budget(compute=least), inspect).program
    assert program.macs("step") - program.macs("infer") <= least
    with pytest.raises(InputError, match=f"compute {least - 1}: too small"):
        compiled(small, method, Budget(compute=least - 1), inspect)
    both = Budget(sram=100, compute=10**9)
    with pytest.raises(InputError, match=r"^sram 100: too small for any"):
        compiled(small, method, both, inspect)


@pytest.mark.parametrize("method", CHOOSING)
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_share_of_channels_is_kept(small: Model, method: str, share: float) -> None:
    budget = Budget(sram=1 << 20, compute=FREE, channels=share)
    made = compiled(small, method, budget, invented(small.graph))
    assert all(r.chosen <= max(1, share * r.channels) for r in made.selection.reasons)
    assert max(r.chosen / max(1, int(share * r.channels)) for r in made.selection.reasons) == 1


def test_limits_hold_for_fixed_methods_too(small: Model) -> None:
    with pytest.raises(InputError, match=r"^channels 0.5: method last on small learns 12 of 12"):
        compiled(small, "last", Budget(channels=0.5), None)
    compiled(small, "last", Budget(channels=1), None)
    compiled(small, "bias:2", Budget(channels=0.5), None)
    with pytest.raises(InputError, match=r"^compute 10: method last .* fits is (\d+)$") as caught:
        compiled(small, "last", Budget(compute=10), None)
    least = int(str(caught.value).rpartition(" ")[2])
    compiled(small, "last", Budget(compute=least), None)
    compiled(small, "none", Budget(compute=1), None)


@pytest.mark.parametrize("compute", [0, -1])
def test_compute_that_makes_no_sense(compute: int) -> None:
    with pytest.raises(InputError, match=f"compute {compute}: must be positive"):
        Budget(compute=compute)


@pytest.mark.parametrize("channels", [0.0, -0.25, 1.0001, float("nan"), float("inf")])
def test_shares_that_make_no_sense(channels: float) -> None:
    with pytest.raises(InputError, match=r"channels .*: must be more than 0 and at most 1"):
        Budget(channels=channels)


@pytest.mark.parametrize("method", LOOKING)
def test_without_images(small: Model, method: str) -> None:
    with pytest.raises(InputError, match=r"looks at images to learn from; .*save_plan FILE.json"):
        compiled(small, method, Budget(), None)


# ---- unusual networks ----


def odd(model: Model, kind: str) -> Model:
    """A network that lacks something."""
    net = Network(np.random.default_rng(3), 8)
    x = net.image
    match kind:
        case "single":
            x = net.layer("only", x, Window.same(3), (8, 3, 3, 3), relu=True)
        case "no depthwise":
            for i in range(3):
                x = net.layer(f"c{i}", x, Window.same(3), (6, 3, 3, x.type.shape[2]), relu=i == 0)
        case "no residual":
            x = net.unit("b0", x, Unit(8, 6))
            x = net.unit("b1", x, Unit(8, 6, residual=False))
        case "only depthwise":
            for i in range(2):
                x = net.layer(f"d{i}", x, Window.same(3), (3, 3, 3), relu=True)
    graph = net.graph(x)
    layers = tuple(n.removesuffix(".weight") for n in graph.data if n.endswith(".weight"))
    return replace(model, name=kind, graph=graph, layers=layers)


@pytest.mark.parametrize("kind", ["single", "no depthwise", "no residual", "only depthwise"])
@pytest.mark.parametrize("method", CHOOSING)
def test_unusual_networks(small: Model, method: str, kind: str) -> None:
    model = odd(small, kind)
    inspect = invented(model.graph)
    budget = Budget(sram=1 << 20, compute=FREE, channels=0.5)
    if (method, kind) == ("pointwise-knapsack", "only depthwise"):
        with pytest.raises(InputError, match="of only depthwise are depthwise; use knapsack"):
            compiled(model, method, budget, inspect)
        return
    made = compiled(model, method, budget, inspect)
    assert made.learned_parameters > 0
    rng = np.random.default_rng(0)
    images = np.stack([image(rng, 8) for _ in range(4)])
    real = inspector(model, Samples(images, np.array([0, 1, 0, 1], np.int32)), Schedule())
    assert compiled(model, method, budget, real).learned_parameters > 0


# ---- to a file and back ----


@pytest.mark.parametrize("method", CHOOSING)
def test_a_choice_becomes_a_plan(small: Model, tmp_path: Path, method: str) -> None:
    made = compiled(
        small, method, Budget(sram=1 << 20, compute=FREE, channels=0.5), invented(small.graph)
    )
    file = tmp_path / "plan.json"
    write_plan(file, small.name, small.graph, made.selection)
    again = compiled(small, str(file), Budget(), None)
    assert again.selection == made.selection
    assert again.program.sram_bytes == made.program.sram_bytes
    linear = compile_recipe(small, Recipe(str(file), 3, HeadKind.LINEAR), Budget())
    assert linear.training.train_head


def test_reasons_count_what_learns(small: Model) -> None:
    for method in CHOOSING:
        made = compiled(small, method, Budget(sram=1 << 20, compute=FREE), invented(small.graph))
        names = {weight(r.layer): r for r in made.selection.reasons if r.chosen}
        assert names.keys() == made.selection.learn.keys()
        for name, part in made.selection.learn.items():
            r: Reason = names[name]
            assert r.chosen == (r.channels if part.index is None else len(part.index))
            assert not r.why
        assert all(r.why for r in made.selection.reasons if not r.chosen)


# ---- prices ----

#: Every part of the compiler that a selection passes through.
KINDS = (
    Recipe("none", 3),
    Recipe("none", 3, optimizer=OptimizerKind.ROWRMS, rows=True),
    Recipe("none", 3, HeadKind.LINEAR, OptimizerKind.ADAM, recompute=True),
    Recipe("none", 3, accumulate=4),
    Recipe("none", 3, cache=2),
)


def program_of(model: Model, recipe: Recipe, selection: Selection) -> Program:
    return _linked(model, recipe, _training(model, recipe, selection))


def demanded(program: Program) -> tuple[int, ...]:
    """What a program costs, entry by entry."""
    each = [e.plan.peak for e in program.entries.values()]
    return (program.sram_bytes, program.state_bytes, program.macs("step"), *each)


def some_channels(
    rng: np.random.Generator, graph: Graph, parts: Mapping[Parameter, tuple[int, int]]
) -> dict[Parameter, Part]:
    """Draw channels for given axes and counts."""
    sizes = {p: graph[str(p)].type.shape[axis] for p, (axis, _) in parts.items()}
    return {
        p: Part(axis, tuple(sorted(rng.choice(sizes[p], n, replace=False))))
        for p, (axis, n) in parts.items()
    }


@pytest.mark.parametrize("recipe", KINDS, ids=str)
def test_which_channels_learn_changes_neither_bytes_nor_work(small: Model, recipe: Recipe) -> None:
    rng = np.random.default_rng(5)
    for _ in range(3):
        shapes = {x: small.graph[f"{x}.weight"].type.shape for x in LAYERS}
        axes = {x: 2 if len(s) == 3 else int(rng.choice((0, 3))) for x, s in shapes.items()}
        parts = {weight(x): (axes[x], int(rng.integers(1, shapes[x][axes[x]]))) for x in LAYERS[2:]}
        first = {name: Part(axis, tuple(range(n))) for name, (axis, n) in parts.items()}
        found = {
            demanded(program_of(small, recipe, Selection(learn, recipe.head is not None)))
            for learn in (first, *(some_channels(rng, small.graph, parts) for _ in range(4)))
        }
        assert len(found) == 1, f"{parts}: {found}"


@needs_shared
@pytest.mark.parametrize("name", NETWORKS)
def test_which_channels_of_published_networks_learn_does_not_matter(name: str) -> None:
    """Neither those with the largest weights, of which sums may overflow first, nor others."""
    model = published(name)
    recipe = Recipe("none", 5, optimizer=OptimizerKind.ROWRMS)
    layers = model.layers[-9:]
    shapes = {x: model.graph[f"{x}.weight"].type.shape for x in layers}
    axes = {x: 2 if len(shapes[x]) == 3 else 0 for x in layers}
    counts = {weight(x): (axes[x], shapes[x][axes[x]] // 4) for x in layers}
    plain = Evidence(model.name, model.graph, model.layers)
    best = {x: best_first(output_energies(plain, x)) for x in layers}
    loudest = {
        name: filters(plain, x, best[x][:n])
        for x, (name, (_, n)) in zip(layers, counts.items(), strict=True)
    }
    rng = np.random.default_rng(1)
    choices = [loudest, *(some_channels(rng, model.graph, counts) for _ in range(3))]
    found = {demanded(program_of(model, recipe, Selection(c, head=False))) for c in choices}
    assert len(found) == 1


def test_a_known_price_is_not_asked_for_again(small: Model) -> None:
    inspect = invented(small.graph)
    prices: dict[Hashable, Demand] = {}
    recipe, budget = Recipe("tinytrain", 3), Budget(sram=12_000)
    first = compile_recipe(small, recipe, budget, inspect, prices)
    known = dict(prices)
    assert known
    with pytest.MonkeyPatch.context() as patch:
        seen: list[Recipe] = []

        def noted(model: Model, recipe: Recipe, training: Training) -> Program:
            seen.append(recipe)
            return _linked(model, recipe, training)

        patch.setattr("kilograd.learn.recipe._linked", noted)
        # as many channels of the same layers, others of them
        other = replace(recipe, method="tinytrain-random:3")
        second = compile_recipe(small, other, budget, inspect, prices)
        assert seen == [other], "what was chosen, and nothing else"
        assert prices == known
        assert second.selection.learn != first.selection.learn
        assert second.program.sram_bytes == first.program.sram_bytes
        # what else a recipe says makes another price
        compile_recipe(small, replace(recipe, accumulate=2), Budget(sram=20_000), inspect, prices)
        assert len(prices) > len(known)
