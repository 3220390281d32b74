"""Streams: the integers of layer by layer, from fewer bytes, and only where that is allowed."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    Network,
    Unit,
    assert_same,
    call,
    difference,
    image,
    linked,
    model_path,
    needs_gcc,
    needs_shared,
    network,
    same_bits,
    step_feeds,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SAMPLES, STREAMS, Sample, cases
from test_ops import check_kernel, failures
from test_passes import WAYS, programs, units
from test_passes import Case as TrainingCase
from test_planted_bugs import CBug, plant
from test_sanitizers import NATIVE, SANITIZED, check_clean, training_calls

from kilograd import ops
from kilograd.emit import Program, link
from kilograd.frontend import load_model_folder
from kilograd.ir import Affine, Graph, Node, Param, ShapeError, Value, interpret, verify
from kilograd.memory import lower_bound
from kilograd.ops import Add, Conv, Depthwise, MaxPool, MeanPool, Sgd, Stream, Window
from kilograd.ops.stream import INPUT
from kilograd.passes import (
    Head,
    LinearHead,
    Part,
    PrototypeHead,
    Training,
    choose_streams,
    entries,
    store,
    stream,
)
from kilograd.select import Budget, Evidence, strategy
from kilograd.targets.toolchain import Compiler

SAMPLED = [s for s in SAMPLES if isinstance(s.op, Stream)]
NAMES = [f"{name}{limits}" for name in STREAMS for limits in ("", ", with limits")]
each_stream = pytest.mark.parametrize("sample", SAMPLED, ids=NAMES)
STAGES = Conv | Depthwise | Add | MaxPool | MeanPool
Chains = tuple[tuple[str, ...], ...]

# ---- what a stream keeps ----


def op_of(node: Node) -> Stream:
    """Narrow the op of a node to a stream."""
    assert isinstance(node.op, Stream)
    return node.op


def rows_seen(n: Node, row: int) -> list[int]:
    """The rows of its input that one row of a layer reads, tap by tap."""
    if isinstance(n.op, Add):
        return [row]
    assert isinstance(n.op, Conv | Depthwise | MaxPool | MeanPool)
    window = n.op.window
    if isinstance(n.op, MaxPool | MeanPool):
        taps = range(n.op.size[0])
    else:
        filters = n.inputs[1].type.shape
        taps = range(filters[0] if isinstance(n.op, Depthwise) else filters[1])
    places = [row * window.stride[0] - window.pad[0] + tap for tap in taps]
    return [p for p in places if 0 <= p < n.inputs[0].type.shape[0]]


class NoRoomError(AssertionError):
    """A row had to be stored, and every stored row was still wanted."""


def simulate(node: Node, rows: Sequence[int], input_rows: int) -> list[int]:
    """Run a stream on row numbers, in buffers of so many rows; return how often each stage ran.

    The rows of the input come one by one, too, into a buffer of `input_rows`.

    A row is dropped only when a newer one needs its place and no stage will read it again.
    Raises where there is no such row, and asserts that whatever is read is there.
    """
    op, nodes = op_of(node), op_of(node).unrolled(node)
    last = len(nodes) - 1
    done = {INPUT: 0, **dict.fromkeys(range(len(nodes)), 0)}
    room = {INPUT: input_rows, **dict(enumerate(rows))}
    heights = {
        INPUT: node.inputs[0].type.shape[0],
        **{i: n.type.shape[0] for i, n in enumerate(nodes)},
    }
    kept: dict[int, list[int]] = {i: [] for i in done}

    def wanted_later(i: int) -> int:
        """The lowest row of a stage that a row still to be computed will read."""
        seen = [
            row
            for j, stage in enumerate(op.stages)
            if i in stage.sources
            for k in range(done[j], nodes[j].type.shape[0])
            for row in rows_seen(nodes[j], k)
        ]
        return min(seen, default=heights[i])

    def produce(i: int) -> None:
        sources = () if i == INPUT else op.stages[i].sources
        needed = [] if i == INPUT else rows_seen(nodes[i], done[i])
        for s in sources:
            while needed and done[s] <= needed[-1]:
                produce(s)
        for s in sources:
            assert set(needed) <= set(kept[s]), f"stage {i} misses rows of {s}"
        if i != last:
            while len(kept[i]) >= room[i] and kept[i] and kept[i][0] < wanted_later(i):
                kept[i].pop(0)
            if len(kept[i]) >= room[i]:
                raise NoRoomError(f"stage {i} keeps {kept[i]}")
            kept[i].append(done[i])
        done[i] += 1

    while done[last] < heights[last]:
        produce(last)
    return [done[i] for i in range(len(nodes))]


def check_capacities(node: Node) -> None:
    """Assert that the rows a stream keeps are enough, and that none of them is idle."""
    op = op_of(node)
    rows, input_rows = op.capacities(node), op.input_rows(node)
    done = simulate(node, rows, input_rows)
    with pytest.raises(NoRoomError):
        simulate(node, rows, input_rows - 1)
    heights = [n.type.shape[0] for n in op.unrolled(node)]
    assert done[-1] == heights[-1]
    assert all(d <= h for d, h in zip(done, heights, strict=True))
    assert rows[-1] == 0 or not any(len(op.stages) - 1 in s.sources for s in op.stages)
    for i in range(len(rows) - 1):
        if rows[i]:
            with pytest.raises(NoRoomError):
                simulate(node, [*rows[:i], rows[i] - 1, *rows[i + 1 :]], input_rows)


@each_stream
def test_a_stream_keeps_the_rows_it_needs_and_no_more(sample: Sample) -> None:
    check_capacities(sample.node())


def test_a_window_of_k_rows_keeps_k_rows() -> None:
    """By hand: 3x3 stem, 3x3 depthwise, pointwise, sum with the stem's map."""
    sample = SAMPLED[NAMES.index("a stem and a bottleneck")]
    assert op_of(sample.node()).capacities(sample.node())[:3] == (3, 1, 1)


@each_stream
def test_scratch_is_rows_counters_and_one_row_of_work(sample: Sample) -> None:
    node = sample.node()
    op, nodes = op_of(node), op_of(node).unrolled(node)
    rows = op.capacities(node)
    sizes = [n.type.shape[1] * n.type.shape[2] for n in nodes]
    buffers = sum(-(-r * size // 4) * 4 for r, size in zip(rows, sizes, strict=True))
    work = max(n.op.kernel(n).scratch for n in nodes)
    assert op.kernel(node).scratch == 4 * len(nodes) + buffers + work


@each_stream
def test_a_stream_means_its_layers_one_after_the_other(sample: Sample) -> None:
    graph = sample.graph()
    (node,) = graph.outputs
    nodes = op_of(node).unrolled(node)
    assert nodes[-1].type == node.type
    assert node.op.macs(node) == sum(n.op.macs(n) for n in nodes)
    plain = verify(Graph((*graph.nodes[:-1], *nodes), (nodes[-1],), graph.data))
    for case in cases(sample):
        want = interpret(plain, case.feeds)[nodes[-1].name]
        assert same_bits(case.want[node.name], want)


def test_a_stream_takes_the_parameters_of_its_layers_and_no_more() -> None:
    sample = SAMPLED[0]
    for types in (sample.types[:-1], (*sample.types, *sample.types[-2:]), sample.types[:1]):
        with pytest.raises((ShapeError, ValueError)):
            sample.op.infer(*types)
    with pytest.raises(ShapeError, match="needs a stage"):
        Stream(()).infer(sample.types[0])


# ---- bugs that must die ----

C_BUGS = [
    CBug(
        "every row is padded like the first",
        "src/kg_stream.c",
        "(int16_t)(begin - (row * g->stride_h - g->pad_top))",
        "(int16_t)(begin - begin + g->pad_top)",
    ),
    CBug(
        "only the last reader counts",
        "src/kg_stream.c",
        "kg_min(wanted, begin_of(reader, s->at[j].done))",
        "kg_min(at->done, begin_of(reader, s->at[j].done))",
    ),
    CBug(
        "a layer does not wait for its last row",
        "src/kg_stream.c",
        "s->at[source].done < end)",
        "s->at[source].done < kg_max(1, end - 1))",
    ),
    CBug(
        "a sum adds a map to itself",
        "src/kg_stream.c",
        "kg_add(y, x, rows_of(s, stage->source[1], begin)",
        "kg_add(y, x, rows_of(s, stage->source[0], begin)",
    ),
    CBug(
        "rows move but keep their number",
        "src/kg_stream.c",
        "at->first = (int16_t)wanted;",
        "at->first = (int16_t)(wanted - (wanted > at->first));",
    ),
]


@needs_gcc
@pytest.mark.parametrize("bug", C_BUGS, ids=lambda b: b.name)
def test_a_bug_in_c_dies(bug: CBug, tmp_path: Path) -> None:
    assert next(failures(plant(tmp_path, bug), SAMPLED), None) is not None


@needs_gcc
def test_a_buffer_that_is_a_row_short_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SAMPLED[0]
    sound = Stream.capacities

    def short(self: Stream, node: Node) -> tuple[int, ...]:
        return tuple(max(0, rows - (i == 0)) for i, rows in enumerate(sound(self, node)))

    monkeypatch.setattr(Stream, "capacities", short)
    with pytest.raises(NoRoomError):
        check_capacities(sample.node())
    host = linked({sample.name: sample.graph()})
    case = cases(sample)[0]
    with pytest.raises(AssertionError, match="elements differ"):
        check_kernel(host, sample, (), case)


# ---- any chain of a network ----


def legal_chains(graph: Graph) -> list[tuple[Node, ...]]:
    """Every run of two layers or more that reads one map and whose inner maps nobody else reads."""
    layers = [n for n in graph.nodes if isinstance(n.op, STAGES)]
    runs = [layers[i:j] for i, j in itertools.combinations(range(len(layers) + 1), 2)]
    return [tuple(run) for run in runs if len(run) > 1 and not list(faults(graph, run))]


def faults(graph: Graph, chain: Sequence[Node]) -> Iterator[str]:
    """Say what keeps layers from being one stream."""
    maps = {x for n in chain for x in n.inputs if not isinstance(x.op, Param)} - {*chain}
    if len(maps) != 1:
        yield f"reads {len(maps)} maps"
    users = graph.users()
    for n in chain[:-1]:
        if n in graph.outputs or not users[n] or not {*users[n]} <= {*chain}:
            yield f"{n.name} is read elsewhere"


@functools.cache
def front(seed: int, blocks: tuple[Unit, ...], stem: int, size: int) -> Graph:
    return network(seed, blocks, size, stem)


@st.composite
def fronts(draw: st.DrawFn) -> TrainingCase:
    """A network whose first maps are large; of its last layers, some parts learn."""
    blocks = draw(st.lists(units, min_size=1, max_size=3))
    blocks = [replace(u, middle=3 * u.middle) for u in blocks]
    blocks[0] = replace(blocks[0], groups=0)  # which can be streamed
    stem = draw(st.integers(1, 6))
    if draw(st.booleans()):
        blocks[0] = replace(blocks[0], out=stem, stride=1, residual=True)
    return TrainingCase(draw(st.integers(0, 99)), tuple(blocks), stem)


sizes = st.sampled_from([9, 14, 19, 24])


@settings(max_examples=10)
@given(case=fronts(), size=sizes, picks=st.randoms(use_true_random=False))
def test_any_chain_streamed_gives_the_same_features(
    case: TrainingCase, size: int, picks: np.random.Generator
) -> None:
    """All of a network's chains as entry points of one program, in numpy and in C."""
    graph = front(case.seed, case.units, case.stem, size)
    chains = legal_chains(graph)
    assert chains
    chosen: list[tuple[Node, ...]] = picks.sample(chains, min(5, len(chains)))  # type: ignore[attr-defined]
    chosen.append(max(chains, key=len))
    graphs = {"plain": graph}
    for i, chain in enumerate(chosen):
        g = verify(stream(graph, [tuple(n.name for n in chain)]))
        (node,) = (n for n in g.nodes if isinstance(n.op, Stream))
        assert len(op_of(node).stages) == len(chain)
        assert not {n.name for n in chain[:-1]} & {n.name for n in g.nodes}
        check_capacities(node)
        graphs[f"streamed{i}"] = g
    host = linked(graphs)
    rng = np.random.default_rng(case.seed)
    for noise in range(3):
        feeds: dict[str, Value] = {"image": image(rng, size)}
        if noise == 2:
            feeds = {"image": rng.choice(np.array([-128, 127], np.int8), (size, size, 3))}
        want = interpret(graph, feeds)
        for name, g in graphs.items():
            assert_same(interpret(g, feeds), want, name)
            assert_same(call(host, name, feeds, noise), want, f"{name} in C")


def test_every_layer_can_be_a_stage() -> None:
    """The longest chain of a network is the network up to its pool."""
    graph = front(0, (Unit(6, 4), Unit(9, 5, kernel=5, stride=2)), 4, 9)
    longest = max(legal_chains(graph), key=len)
    assert [n.name for n in longest] == [
        n.name for n in graph.nodes if isinstance(n.op, Conv | Depthwise | Add)
    ]


# ---- which chains are chosen ----


def learned_names(graph: Graph) -> frozenset[str]:
    return frozenset(p.name for p in graph.written())


def check_chains(graph: Graph, learned: frozenset[str], chains: Chains) -> None:
    """Assert that chains are disjoint, learn nothing, and that nobody reads what is inside them."""
    named = {n.name: n for n in graph.nodes}
    flat = [name for chain in chains for name in chain]
    assert len(set(flat)) == len(flat), f"{flat} overlap"
    for names in chains:
        chain = [named[name] for name in names]
        assert len(chain) > 1, f"{names} is one layer"
        for n in chain:
            assert isinstance(n.op, STAGES)
            for p in n.inputs[1:] if isinstance(n.op, Conv | Depthwise) else ():
                assert isinstance(p.op, Param), f"{n.name} reads {p.name}, which is no constant"
                assert p.name not in learned, f"{n.name} learns {p.name}"
        assert not list(faults(graph, chain)), f"{names}: {list(faults(graph, chain))}"


def both(graph: Graph, training: Training) -> tuple[dict[str, Graph], dict[str, Graph]]:
    """The entry points of a program, whole maps and streamed."""
    return entries(graph, replace(training, stream=False)), entries(graph, training)


def largest(graphs: Mapping[str, Graph]) -> int:
    return max(lower_bound(store(g).buffers) for g in graphs.values())


def check_choice(graph: Graph, training: Training) -> Chains:
    """Assert that a program's streams are legal and that no entry point needs more for them."""
    plain, streamed = both(graph, training)
    step = plain.get("step", plain["infer"])
    learned = frozenset().union(*(learned_names(g) for g in plain.values()))
    chains = choose_streams(step, learned)
    check_chains(step, learned, chains)
    for name, g in streamed.items():
        own = [n for n in g.nodes if isinstance(n.op, Stream)]
        assert len(own) == (len(chains) if name not in {"forget", "apply"} else 0)
        assert g.macs() == plain[name].macs()
        for node in own:
            check_capacities(node)
    assert largest(streamed) <= largest(plain)
    return chains


def learn_last(draw: st.DrawFn, graph: Graph) -> dict[str, Part]:
    params = [p.name for p in graph.params()]
    tail = params[draw(st.integers(len(params) // 2, len(params))) :]
    return {name: Part() for name in tail if draw(st.booleans())}


HEADS: tuple[Head, ...] = (LinearHead(WAYS), PrototypeHead(WAYS))


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Graph, Training]:
    case, size = draw(fronts()), draw(sizes)
    graph = front(case.seed, case.units, case.stem, size)
    learn = learn_last(draw, graph)
    head = draw(st.sampled_from(HEADS))
    accumulate = draw(st.booleans())
    return graph, Training(head, Sgd(0), learn, accumulate=accumulate)


@settings(max_examples=100)
@given(tasks())
def test_streams_are_legal_and_never_cost_memory(task: tuple[Graph, Training]) -> None:
    check_choice(*task)


@settings(max_examples=50)
@given(programs())
def test_streams_of_programs_that_learn_anywhere_are_legal(case: TrainingCase) -> None:
    check_choice(case.network, case.training)


def wide_front(size: int = 32) -> Graph:
    return front(1, (Unit(24, 4), Unit(18, 8, stride=2), Unit(16, 8)), 4, size)


def test_a_wide_front_is_streamed_and_the_peak_falls() -> None:
    training = Training(LinearHead(WAYS), Sgd(0), {"b2.pw2.weight": Part()})
    plain, streamed = both(wide_front(), training)
    assert check_choice(wide_front(), training)
    assert largest(streamed) < 0.8 * largest(plain)


def test_a_network_that_learns_everywhere_streams_nothing() -> None:
    graph = wide_front()
    learn = {p.name: Part() for p in graph.params()}
    assert check_choice(graph, Training(LinearHead(WAYS), Sgd(0), learn)) == ()


def same_width(adds: int, stem: int) -> Graph:
    """Pointwise layers that keep their width, and a sum over each: whole, a sum works in place."""
    net = Network(np.random.default_rng(0), 16)
    x = net.image
    if stem:
        x = net.layer("stem", x, Window(), (stem, 1, 1, 3), relu=True)
    c = x.type.shape[2]
    for i in range(adds):
        y = net.layer(f"c{i}", x, Window(), (c, 1, 1, c), relu=False)
        x = net._run(net.b(Add(Affine((0.05,), 3)), x, y, name=f"a{i}"))
    return net.graph(x)


@pytest.mark.parametrize("stem", [0, 3, 6])
@pytest.mark.parametrize("adds", [1, 2, 3])
def test_sums_that_work_in_place_are_counted_so(adds: int, stem: int) -> None:
    check_choice(same_width(adds, stem), Training(LinearHead(WAYS), Sgd(0)))


def test_a_second_image_is_no_part_of_a_stream() -> None:
    """A sum of what the front computes and what another input gives."""
    net = Network(np.random.default_rng(0), 16)
    x = net.layer("stem", net.image, Window(), (12, 1, 1, 3), relu=True)
    x = net.layer("narrow", x, Window(), (3, 1, 1, 12), relu=False)
    other = net.b.input("other", x.type)
    y = net.b(Add(x.type.affine), x, other, name="both")
    y = net.b(ops.AvgPool(), y, name="pool")
    training = Training(LinearHead(WAYS), Sgd(0))
    check_choice(net.b.graph(y), training)


def named(graph: Graph, *names: str) -> list[Node]:
    return [graph[name] for name in names]


@pytest.mark.parametrize("end", ["b0.dw", "b0.pw2"])
def test_a_cut_across_a_skip_dies(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map of the stem is read by a sum behind the cut."""
    training = Training(LinearHead(WAYS), Sgd(0), stream=False)
    step = entries(wide_front(), training)["step"]
    module = importlib.import_module("kilograd.passes.stream")
    check_chains(step, frozenset(), choose_streams(step, frozenset()))
    monkeypatch.setattr(module, "_cuts", lambda g, _: named(g, "image", end))
    chains = choose_streams(step, frozenset())
    assert chains
    with pytest.raises(AssertionError, match="stem is read elsewhere"):
        check_chains(step, frozenset(), chains)


def test_a_chain_over_a_map_that_the_backward_pass_reads_dies() -> None:
    """Behind the first layer that learns, the clip mask of a frozen layer reads its map."""
    training = Training(LinearHead(WAYS), Sgd(0), {"b0.dw.bias": Part()}, stream=False)
    step = entries(wide_front(), training)["step"]
    learned = learned_names(step)
    readers = {type(u.op) for u in step.users()[step["b1.pw1"]]}
    assert ops.ClipMask in readers
    with pytest.raises(AssertionError, match=r"b1\.pw1 is read elsewhere"):
        check_chains(step, learned, (("b1.pw1", "b1.dw"),))
    check_chains(step, learned, choose_streams(step, learned))


def test_a_chain_that_learns_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = {"b0.dw.bias": Part()}
    training = Training(LinearHead(WAYS), Sgd(0), learn, stream=False)
    step = entries(wide_front(), training)["step"]
    for names in (("b0.pw1", "b0.dw"), ("b0.dw", "b0.pw2")):
        with pytest.raises(AssertionError, match=r"learns b0\.dw\.bias"):
            check_chains(step, learned_names(step), (names,))
    check_chains(step, learned_names(step), choose_streams(step, learned_names(step)))


# ---- whole programs ----


def calls(graphs: Mapping[str, Graph]) -> list[str]:
    order = ["infer", "enrol", "enrol", "step", "step", "step", "apply", "infer", "step", "apply"]
    return [name for name in [*order, "infer"] if name in graphs]


def check_program(graph: Graph, training: Training, seed: int = 0) -> None:
    """Assert that whole maps in numpy, streams in numpy, and streams in C never differ."""
    plain, streamed = both(graph, training)
    host = linked(streamed)
    rng = np.random.default_rng(seed)
    state: dict[str, Value] = {s.name: s.value for s in host.program.state}
    again = dict(state)
    for t, name in enumerate(calls(plain)):
        feeds = step_feeds(rng, plain[name], WAYS, t, 0.05)
        own = {k: v for k, v in state.items() if k in plain[name].data}
        want = interpret(plain[name], {**feeds, **own})
        assert_same(interpret(streamed[name], {**feeds, **own}), want, f"call {t} ({name})")
        got = call(host, name, feeds, noise=t)
        if got:
            assert_same(got, want, f"call {t} ({name}) in C")
        again.update({k: v for k, v in want.items() if k in state})
        state = dict(again)
        for key, value in state.items():
            found = host.state[key].copy()
            assert same_bits(found, value), f"call {t}, {key}: {difference(found, value)}"


@settings(max_examples=12)
@given(tasks())
def test_a_streamed_program_trains_to_the_same_bits(task: tuple[Graph, Training]) -> None:
    check_program(*task)


TASKS = {
    "linear": Training(LinearHead(WAYS), Sgd(0), {"b2.pw2.weight": Part(), "b1.pw2.bias": Part()}),
    "proto-summed": Training(
        PrototypeHead(WAYS), ops.RowRms(0), {"b2.dw.weight": Part(2, (0, 3))}, accumulate=True
    ),
}
TASKS |= {f"{name}-rows": replace(task, rows=True) for name, task in TASKS.items()}


@pytest.mark.parametrize("name", TASKS)
def test_a_wide_front_trains_to_the_same_bits(name: str) -> None:
    assert check_choice(wide_front(), TASKS[name])
    check_program(wide_front(), TASKS[name])


@needs_gcc
@pytest.mark.parametrize("checked", [SANITIZED, NATIVE], ids=["portable", "native"])
@pytest.mark.parametrize("name", TASKS)
def test_a_streamed_program_is_clean_under_sanitizers(
    tmp_path: Path, name: str, checked: Compiler
) -> None:
    graphs = entries(wide_front(), TASKS[name])
    assert any(isinstance(n.op, Stream) for n in graphs["infer"].nodes)
    check_clean(tmp_path, link(graphs), training_calls(graphs, 5, rounds=1), checked)


# ---- published networks ----

ARENA = {"mcunet-5fps": 82_000, "mbv2-w0.35": 73_500, "proxyless-w0.3": 82_000}
"""Bytes that the published 49 KB plan may take, prototype head, ten classes."""


def published(name: str) -> tuple[Program, dict[str, Graph], dict[str, Graph]]:
    model = load_model_folder(model_path(name))
    evidence = Evidence(model.name, model.graph, model.layers)
    learn = strategy("sparse-49kb")(evidence, Budget()).by_name
    training = Training(PrototypeHead(10), Sgd(0), learn)
    plain, streamed = both(model.graph, training)
    return link(streamed), plain, streamed


@needs_shared
@pytest.mark.parametrize("name", ARENA)
def test_a_published_plan_trains_to_the_same_bits_in_half_the_arena(name: str) -> None:
    program, plain, streamed = published(name)
    assert program.arena_bytes <= ARENA[name]
    assert 1.5 * program.arena_bytes < link(plain).arena_bytes
    learned = learned_names(plain["step"])
    check_chains(plain["step"], learned, choose_streams(plain["step"], learned))
    # one program with both, which share frozen weights and the state
    host = linked({**streamed, **{f"whole_{k}": v for k, v in plain.items()}})
    order = ["enrol"] * 3 + ["step"] * 5 + ["infer"]
    found = []
    for prefix in ("", "whole_"):
        host.reset()
        rng = np.random.default_rng(3)
        outputs = [
            call(host, f"{prefix}{entry}", step_feeds(rng, plain[entry], 10, t, 0.05), noise=t)
            for t, entry in enumerate(order)
        ]
        found.append((outputs, {k: v.copy() for k, v in host.state.items()}))
    (streamed_out, streamed_state), (plain_out, plain_state) = found
    for t, (got, want) in enumerate(zip(streamed_out, plain_out, strict=True)):
        assert_same(got, want, f"call {t} ({order[t]})")
    assert_same(streamed_state, plain_state, "the state after five steps")
    first = {s.name: s.value for s in program.state}
    moved = [k for k, v in streamed_state.items() if not np.array_equal(v, first[k])]
    assert len(moved) > 0.8 * len(first)  # or equality would say little
