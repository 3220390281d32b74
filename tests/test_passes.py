"""Passes keep meaning: random networks, random parts that learn, and C beside the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from extras import Extra
from helpers import (
    SMALL_UNITS,
    Pool,
    Unit,
    assert_same,
    call,
    difference,
    environment,
    linked,
    model_path,
    needs_shared,
    network,
    places,
    real,
    same_bits,
    small_network,
    step_feeds,
    tangent,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import activation, bias, gradient, weight

from kilograd.frontend import load_model
from kilograd.ir import (
    Array,
    Block,
    BlockExponent,
    Builder,
    Graph,
    Input,
    Leaf,
    Node,
    Param,
    RowCodes,
    TensorType,
    Value,
    dead_code,
    interpret,
    verify,
)
from kilograd.memory import lower_bound
from kilograd.ops import (
    Adam,
    BlockAdd,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    Copy,
    CrossEntropy,
    DenseInputGrad,
    DepthwiseInputGrad,
    DepthwiseWeightGrad,
    GroupedInputGrad,
    GroupedWeightGrad,
    MaxPoolGrad,
    MeanPoolGrad,
    Momentum,
    Overlay,
    ProductSumGrad,
    RowRms,
    RowUpdate,
    ScaleChannels,
    Sgd,
    SumPixels,
    Take,
    Update,
    Upsample,
    UpsampleGrad,
    Window,
)
from kilograd.passes import (
    AccumulatorError,
    Head,
    LinearHead,
    Part,
    PrototypeHead,
    Training,
    accumulator_bounds,
    differentiate,
    entries,
    fuse_updates,
    narrow_gradients,
    push_takes,
    schedule,
    split,
    store,
)
from kilograd.passes.training import CLOCK, LABEL, RATE
from kilograd.quant import Rounding
from kilograd.select import PLANS, Budget, Evidence, strategy

WAYS = 4
INT32 = (1 << 31) - 1
LINEAR, SGD = LinearHead(WAYS), Sgd(0)

# ---- random programs ----


@dataclass(frozen=True)
class Case:
    """A network, what of it learns, and how: small enough to read when it fails."""

    seed: int
    units: tuple[Unit, ...]
    stem: int
    learn: Mapping[str, Part] = field(default_factory=dict)
    head: Head = LINEAR
    optimizer: Update = SGD
    train_head: bool = True
    accumulate: bool = False
    sum_bits: int = 32

    @property
    def network(self) -> Graph:
        """The network: the same one every time."""
        return network(self.seed, self.units, stem=self.stem)

    @property
    def training(self) -> Training:
        """What to make of it."""
        return Training(
            self.head,
            self.optimizer,
            self.learn,
            self.train_head,
            self.accumulate,
            sum_bits=self.sum_bits,
        )


RULES: tuple[Update, ...] = (
    Sgd(0),
    Momentum(0),
    RowRms(0),
    Adam(0),
    Momentum(0, state_bits=8),
    Adam(0, state_bits=16),
)
OPTIMIZERS = pytest.mark.parametrize("optimizer", RULES, ids=str)

units = st.builds(
    Unit,
    middle=st.integers(1, 9),
    out=st.integers(1, 6),
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 1, 2, (1, 2), (2, 1)]),
    residual=st.booleans(),
    groups=st.sampled_from([0, 0, 0, 1, 3]),
    pool=st.sampled_from([None, None, *Pool]),
    extra=st.sampled_from([None, None, None, *Extra]),
    imported=st.booleans(),
).map(lambda u: replace(u, middle=1 + u.middle % 3) if u.groups else u)  # 15 bits must do


@st.composite
def networks(draw: st.DrawFn) -> Case:
    """A stem and a few inverted bottlenecks; often an equal width, so that residuals occur."""
    blocks = draw(st.lists(units, min_size=1, max_size=3))
    stem = draw(st.integers(1, 6))
    if draw(st.booleans()):
        blocks = [replace(u, out=stem, stride=1, residual=True) for u in blocks]
    return Case(draw(st.integers(0, 1 << 16)), tuple(blocks), stem)


def part_of(draw: st.DrawFn, w: Node) -> Part:
    """All of a parameter, or a few of its slices on an axis that kernels can overlay."""
    if len(w.type.shape) == 1 or draw(st.booleans()):
        return Part()
    axis = draw(st.sampled_from([0, 3])) if len(w.type.shape) == 4 else 2
    if ".gc." in w.name:
        axis = 0
    n = w.type.shape[axis]
    index = draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n))
    return Part(axis, tuple(sorted(index)))


@st.composite
def programs(draw: st.DrawFn) -> Case:
    """A network, parts of it on either axis, biases, both heads, every optimiser."""
    case = draw(networks())
    learn = {p.name: part_of(draw, p) for p in case.network.params() if draw(st.booleans())}
    accumulate = draw(st.booleans())
    exact = PrototypeHead(WAYS, exact=accumulate)
    heads: tuple[Head, ...] = (LinearHead(WAYS), PrototypeHead(WAYS), exact)
    head = draw(st.sampled_from(heads))
    optimizer: Update = draw(st.sampled_from(RULES))
    if isinstance(head, PrototypeHead) and not learn:
        learn = {"stem.bias": Part()}
    train_head = draw(st.booleans()) or not learn
    return replace(
        case,
        learn=learn,
        head=head,
        optimizer=optimizer,
        train_head=train_head,
        accumulate=accumulate,
        sum_bits=draw(st.sampled_from([32, 16, 8])),
    )


def warm_head(rng: np.random.Generator, graph: Graph) -> dict[str, Value]:
    """Return a head that has seen something: at first all is zero, and so would gradients be."""
    return {
        p.name: np.abs(rng.standard_normal(p.type.shape)).astype(np.float32)
        for p in graph.params()
        if p.name in {"head.weight", "head.prototypes"}
    }


# ---- sparse is a part of dense ----


def check_sparse_is_part_of_dense(case: Case) -> None:
    """Assert that the gradients of a selection are that selection of the gradients."""
    everything = {p.name: Part() for p in case.network.params()}
    sparse = replace(case.training, accumulate=True, sum_bits=32)  # of codes, rows are rounded
    dense = replace(sparse, learn=everything)
    rng = np.random.default_rng(case.seed)
    states: list[dict[str, Value]] = []
    graphs = [entries(case.network, t)["step"] for t in (sparse, dense)]
    warm = warm_head(rng, graphs[1])
    feeds = [step_feeds(rng, graphs[1], WAYS, t, 0.1) for t in range(2)]
    for graph in graphs:
        state = {p.name: graph.data[p.name] for p in graph.params() if p.name.endswith(".sum")}
        values: dict[str, Value] = {**state, **warm}
        for feed in feeds:
            out = interpret(graph, {**feed, **values})
            values.update({k: out[k] for k in state})
        states.append(values)
    for name, part in case.training.learn.items():
        got = states[0].get(f"{name}.learned.sum", states[0].get(f"{name}.sum"))
        want = states[1][f"{name}.sum"]
        assert isinstance(got, np.ndarray)
        assert isinstance(want, np.ndarray)
        if part.index is not None:
            want = np.take(want, part.index, part.axis)
        assert same_bits(got, want), f"{name}: {difference(got, want)}"


@settings(max_examples=60)
@given(programs())
def test_a_sparse_step_is_the_dense_step_where_selected(case: Case) -> None:
    check_sparse_is_part_of_dense(case)


# ---- C beside the reference, over several steps ----


def check_c_equals_reference(case: Case, steps: int = 3, lr: float = 0.05) -> None:
    """Assert that a compiled program and its reference agree on every output and every state."""
    graphs = entries(case.network, case.training)
    host = linked(graphs)
    rng = np.random.default_rng(case.seed)
    state: dict[str, Value] = {s.name: s.value for s in host.program.state}
    plan = ["infer", *["enrol"] * 2 * ("enrol" in graphs), *["step"] * steps]
    plan += [*["enrol_grad"] * 2, "apply", "infer"]
    plan += ["forget", "enrol", "infer", "step", "step"]
    if isinstance(case.training.head, LinearHead) and case.training.train_head:
        warm = warm_head(rng, graphs["infer"])
        state.update(warm)
        for name, value in warm.items():
            assert isinstance(value, np.ndarray)
            host.state[name][...] = value
    for t, entry in enumerate(e for e in plan if e in graphs):
        graph = graphs[entry]
        feeds = step_feeds(rng, graph, WAYS, t, lr)
        own = {k: v for k, v in state.items() if k in graph.data}
        want = interpret(graph, {**feeds, **own})
        got = call(host, entry, feeds, noise=t)
        if graph.inputs():
            assert_same(got, want, f"call {t} ({entry})")
        state.update({k: v for k, v in want.items() if k in state})
        for name, value in state.items():
            assert same_bits(host.state[name].copy(), value), (
                f"after call {t} ({entry}), {name}: {difference(host.state[name], value)}"
            )


@settings(max_examples=25)
@given(programs())
def test_c_equals_the_reference_over_several_steps(case: Case) -> None:
    check_c_equals_reference(case)


LEARN = {
    "stem.weight": Part(),
    "stem.bias": Part(),
    "b0.pw1.weight": Part(0, (1, 4)),
    "b0.dw.weight": Part(2, (0, 2, 5)),
    "b0.dw.bias": Part(),
    "b0.pw2.weight": Part(3, (1, 2)),
    "b1.dw.weight": Part(),
    "b2.pw1.weight": Part(3, (0, 4)),
    "b2.pw2.weight": Part(0, (3,)),
    "b2.pw2.bias": Part(),
}


@pytest.mark.parametrize("accumulate", [False, True], ids=["each", "summed"])
@OPTIMIZERS
@pytest.mark.parametrize("head", [LinearHead(WAYS), PrototypeHead(WAYS)], ids=["linear", "proto"])
def test_twenty_steps_of_c_equal_twenty_of_the_reference(
    head: Head, optimizer: Update, accumulate: bool
) -> None:
    case = Case(1, SMALL_UNITS, 4, LEARN, head, optimizer, accumulate=accumulate)
    check_c_equals_reference(case, steps=20, lr=0.02)


# ---- passes keep meaning ----


def raw_step(case: Case) -> Graph:
    """The step of a program before any pass but `split` and `differentiate`."""
    net, learned = split(case.network, case.training.learn)
    b = Builder(dead_code(net))
    logits = case.training.head.logits(b, net.outputs[0])
    loss = b(CrossEntropy(), logits, b.input("label", LABEL), name="loss")
    wanted = {*learned.values(), *case.training.head.learned}
    grads = differentiate(b, loss, [n for n in b.nodes if n.name in wanted])
    rate, clock = b.input("lr", RATE), b.input("clock", CLOCK)
    updates = []
    for i, (p, g) in enumerate(grads.items()):
        rule = replace(case.training.optimizer, salt=i)
        states = []
        for k, kind in enumerate(rule.state_types(p.type)):
            codes = kind.quant if isinstance(kind.quant, RowCodes) else None
            zeros = np.zeros(kind.shape, kind.dtype.numpy)
            states.append(b.param(f"{p.name}.state{k}", zeros, codes))
        updates.append(b(rule, p, g, *states, rate, clock, name=f"{p.name}.step"))
    return b.graph(loss, logits, *updates)


def check_same_meaning(before: Graph, after: Graph, seed: int) -> None:
    """Assert that two graphs give the same outputs and the same new parameters."""
    verify(after)
    rng = np.random.default_rng(seed)
    feeds = {**step_feeds(rng, before, WAYS, 3, 0.1), **warm_head(rng, before)}
    want, got = interpret(before, feeds), interpret(after, feeds)
    assert got.keys() == want.keys()
    assert_same(got, want)


PASSES: dict[str, Callable[[Graph], Graph]] = {
    "dead_code": dead_code,
    "push_takes": push_takes,
    "fuse_updates": fuse_updates,
    "schedule": schedule,
    "narrow_gradients": lambda g: narrow_gradients(g, {p.name for p in g.written()}),
    "all": lambda g: schedule(
        narrow_gradients(fuse_updates(push_takes(g)), {p.name for p in g.written()})
    ),
}


@pytest.mark.parametrize("name", PASSES)
@settings(max_examples=20)
@given(case=programs())
def test_a_pass_keeps_meaning(name: str, case: Case) -> None:
    before = verify(raw_step(case))
    check_same_meaning(before, PASSES[name](before), case.seed)


WHOLE = ConvWeightGrad | DepthwiseWeightGrad | GroupedWeightGrad


@settings(max_examples=40)
@given(programs())
def test_pushed_takes_leave_no_gradient_whole(case: Case) -> None:
    """After `push_takes` only maps are cut, never a weight gradient; fused, none is left."""
    graph = push_takes(raw_step(case))
    for n in graph.nodes:
        if isinstance(n.op, Take):
            assert not isinstance(n.inputs[0].op, WHOLE | SumPixels)
    fused = fuse_updates(graph)
    assert not [n for n in fused.nodes if isinstance(n.op, WHOLE)]


@settings(max_examples=40)
@given(programs())
def test_schedules_need_no_more_memory_than_the_order_given(case: Case) -> None:
    graph = fuse_updates(push_takes(raw_step(case)))
    assert lower_bound(store(schedule(graph)).buffers) <= lower_bound(store(graph).buffers)
    assert sorted(n.name for n in schedule(graph).nodes) == sorted(n.name for n in graph.nodes)


@needs_shared
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("method", ["sparse-49kb", "full"])
def test_the_order_of_a_published_step_is_near_the_best(name: str, method: str) -> None:
    """No order needs less than its largest layer: what that reads, writes and works with."""
    model = load_model(str(model_path(name)))
    learn = strategy(method)(Evidence(name, model.graph, model.layers), Budget()).by_name
    training = Training(LinearHead(10), Sgd(0), learn, stream=False)
    step = entries(model.graph, training)["step"]

    def needs(n: Node) -> int:
        kept = [x.type.nbytes for x in {*n.reads()} if not isinstance(x.op, Param)]
        own = 0 if n.op.writes or n.op.overwrites else n.type.nbytes  # perhaps in place
        return sum(kept) + own + n.op.kernel(n).scratch

    called = [n for n in step.nodes if not isinstance(n.op, Leaf) and not n.op.view]
    least, peak = max(map(needs, called)), lower_bound(store(step).buffers)
    if method == "full":
        assert 0.25 < least / peak < 0.5
    else:
        assert least <= peak <= least + 16


@settings(max_examples=40)
@given(programs())
def test_a_buffer_is_shared_only_where_the_value_is_not_read_later(case: Case) -> None:
    """Replay the schedule on buffers: what a node reads must still be there."""
    for graph in entries(case.network, case.training).values():
        storage = store(graph)
        owner: dict[str, Node] = {}
        lives = {b.name: range(b.first, b.last) for b in storage.buffers}
        for i, n in enumerate(graph.nodes):
            for x in n.reads() if not n.op.view else ():
                if x in storage.tensor:
                    assert owner[storage.tensor[x]] is x, f"{n.name} reads {x.name} too late"
            names = {storage.tensor.get(n), storage.scratch.get(n)} - {None}
            assert all(i in lives[str(name)] for name in names)
            if n in storage.tensor and not n.op.view:
                owner[storage.tensor[n]] = n
        kept = [o for o in graph.outputs if o in storage.tensor]
        assert all(owner[storage.tensor[o]] is o.holder for o in kept)


def test_selecting_less_costs_less() -> None:
    net = small_network()
    everything = {p.name: Part() for p in net.params()}
    half = {"b2.pw1.weight": Part(0, (0, 2)), "b2.pw2.bias": Part()}
    costs = [
        entries(net, Training(LinearHead(WAYS), Sgd(0), learn))["step"].macs()
        for learn in (everything, LEARN, half, {})
    ]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 4


def test_the_backward_pass_stops_at_the_earliest_tensor_that_learns() -> None:
    learn = {"b2.pw2.weight": Part()}
    step = entries(small_network(), Training(LinearHead(WAYS), Sgd(0), learn))["step"]
    assert not [n for n in step.nodes if isinstance(n.op, ConvInputGrad | DepthwiseInputGrad)]
    assert not [
        n
        for n in step.nodes
        if isinstance(n.op, RowUpdate) and isinstance(n.op.grad, DepthwiseWeightGrad)
    ]


# ---- a value read twice ----


def forked() -> Graph:
    """A network with two residuals on top of each other."""
    return network(3, (Unit(7, 4), Unit(5, 4, kernel=5)))


def integer_gradients(net: Graph, feeds: Mapping[str, Value]) -> tuple[Graph, dict[str, Array]]:
    """Return the training step of all of `net` and its gradients, as the integers make them."""
    learn = {p.name: Part() for p in net.params()}
    step = entries(net, Training(LinearHead(WAYS), Sgd(0), learn, accumulate=True))["step"]
    out = interpret(step, {**feeds, "share": np.ones(1, np.float32)})
    sums = {}
    for name in learn:
        value = out[f"{name}.sum"]
        assert isinstance(value, np.ndarray)
        sums[name] = value.astype(np.float64)
    return step, sums


def check_gradients_by_tangents(net: Graph, seed: int) -> None:
    """Assert that reverse mode in integers agrees with forward mode in float64, per tensor."""
    rng = np.random.default_rng(seed)
    b = Builder(net)
    head = LinearHead(WAYS)
    logits = head.logits(b, net.outputs[0])
    loss = b(CrossEntropy(), logits, b.input("label", LABEL))
    forward = b.graph(loss)
    feeds = {**step_feeds(rng, forward, WAYS, 0, 0.1), **warm_head(rng, forward)}
    env = environment(forward, feeds)
    _, grads = integer_gradients(net, feeds)
    lengths = {name: float(np.linalg.norm(grad)) for name, grad in grads.items()}
    rounding = 1e-5 * max(lengths.values())  # what cancels leaves no more than that
    for p in net.params():
        grad, length = grads[p.name], lengths[p.name]
        for v in (grad / (length or 1), rng.standard_normal(grad.shape) / np.sqrt(grad.size)):
            slope = float(tangent(forward, env, {p: v})[loss][0])
            assert abs(float((grad * v).sum()) - slope) <= 1e-2 * length + rounding, p.name


def test_a_value_read_twice_gets_both_gradients() -> None:
    """The skip of a residual block and its branch both reach the block's input."""
    step, _ = integer_gradients(
        forked(),
        step_feeds(np.random.default_rng(0), forked(), WAYS, 0, 1.0)
        | {"label": np.zeros(1, np.int32)},
    )
    assert sum(isinstance(n.op, BlockAdd) for n in step.nodes) == 2
    check_gradients_by_tangents(forked(), 0)


@settings(max_examples=20)
@given(networks())
def test_integer_gradients_agree_with_forward_mode_in_float64(case: Case) -> None:
    check_gradients_by_tangents(case.network, case.seed)


# ---- no accumulator overflows ----


def widest(graph: Graph, w: Node, learned: frozenset[str]) -> Array:
    """The largest magnitude of every weight: frozen ones as they are, learned ones at the end."""
    if isinstance(w.op, Overlay):
        out = np.abs(graph.data[w.inputs[0].name].astype(np.int64))
        np.moveaxis(out, w.op.axis, 0)[list(w.op.index)] = 127
        return out
    if w.name in learned or isinstance(w.op, Copy):
        return np.full(w.type.shape, 127, np.int64)
    return np.abs(graph.data[w.name].astype(np.int64))


def steepest(x: Node) -> int:
    """The largest distance of a code from the zero point."""
    return max(abs(code - x.type.affine.zero_point) for code in (-128, 127))


def last_mantissa(dy: Node) -> int:
    """The largest mantissa that a gradient can have."""
    return (1 << dy.type.block.bits) - 1


def adversarial(graph: Graph, n: Node, learned: frozenset[str]) -> int:
    """The largest sum of a node over data that could come: all at the ends, all signs aligned.

    Plain int64 sums over the geometry, nothing shared with the pass.
    """
    match n.op:
        case (
            ConvInputGrad(window=window, shape=shape)
            | DepthwiseInputGrad(window=window, shape=shape)
            | GroupedInputGrad(window=window, shape=shape)
        ):
            dy, w = n.inputs
            magnitude = widest(graph, w, learned) * last_mantissa(dy)
            deep = isinstance(n.op, DepthwiseInputGrad)
            groups = n.op.groups if isinstance(n.op, GroupedInputGrad) else 1
            parts = [] if deep else [part.sum(axis=0) for part in np.split(magnitude, groups)]
            taps = magnitude if deep else np.concatenate(parts, axis=-1)
            sums = np.zeros((shape[0] + 32, shape[1] + 32, shape[2]), np.int64)
            for oy, ox, ky, kx in np.ndindex(*dy.type.shape[:2], *taps.shape[:2]):
                y = oy * window.stride[0] + ky - window.pad[0]
                x = ox * window.stride[1] + kx - window.pad[2]
                if 0 <= y < shape[0] and 0 <= x < shape[1]:
                    sums[y, x] += taps[ky, kx]
            return int(sums.max())
        case MaxPoolGrad(pool=pool, shape=shape):
            return _worst_pool(shape, pool.size, pool.window, lambda _: last_mantissa(n.inputs[0]))
        case MeanPoolGrad(size=size, window=window, shape=shape):
            top = last_mantissa(n.inputs[0]) << n.op.kernel(n).params.value("exponent") + 15
            return _worst_pool(shape, size, window, lambda pixels: top // pixels)
        case ProductSumGrad():
            dy, x = n.inputs
            return dy.type.size // n.type.size * steepest(x) * last_mantissa(dy)
        case UpsampleGrad(size=(down, across)):
            return down * across * last_mantissa(n.inputs[0])
        case SumPixels():
            (dy,) = n.inputs
            return dy.type.shape[0] * dy.type.shape[1] * last_mantissa(dy)
        case RowUpdate(
            grad=ConvWeightGrad(window=window, shape=shape)
            | GroupedWeightGrad(window=window, shape=shape)
        ):
            return _worst_dw(n.inputs[1], n.inputs[2], window, (shape[1], shape[2]))
        case RowUpdate(grad=DepthwiseWeightGrad(window=window, shape=shape)):
            return _worst_dw(n.inputs[1], n.inputs[2], window, (shape[0], shape[1]))
    return 0


def _worst_pool(
    shape: tuple[int, ...], size: tuple[int, int], window: Window, share: Callable[[int], int]
) -> int:
    """The most that a pixel can get of all places that see it, each so many pixels."""
    sums = np.zeros(shape, np.int64)
    for _, _, seen in places(shape, size, window):
        for pixel in seen.values():
            sums[pixel] += share(len(seen))
    return int(sums.max())


def _worst_dw(x: Node, dy: Node, window: Window, kernel: tuple[int, int]) -> int:
    h, w, _ = x.type.shape
    hits = np.zeros(kernel, np.int64)
    for oy, ox, ky, kx in np.ndindex(*dy.type.shape[:2], *kernel):
        y = oy * window.stride[0] + ky - window.pad[0]
        z = ox * window.stride[1] + kx - window.pad[2]
        hits[ky, kx] += 0 <= y < h and 0 <= z < w
    return int(hits.max()) * steepest(x) * last_mantissa(dy)


def check_no_overflow(graph: Graph, learned: frozenset[str]) -> None:
    """Assert that no data overflows an accumulator, and that the published bounds are bounds."""
    bounds = {b.node: b.worst for b in accumulator_bounds(graph, learned)}
    summed = 0
    for n in graph.nodes:
        worst = adversarial(graph, n, learned)
        assert worst <= INT32, f"{n.name} can reach {worst}"
        if worst:
            summed += 1
            assert worst <= bounds[n.name]
    assert summed


def large_program() -> dict[str, Graph]:
    """A program that learns all of a network on a large image."""
    net = network(5, (Unit(4, 3),), size=48, stem=3)
    learn = {p.name: Part() for p in net.params()}
    return entries(net, Training(PrototypeHead(WAYS), Sgd(0), learn))


def large_map() -> tuple[Graph, frozenset[str]]:
    """Its step, narrowed, and what it learns."""
    step = large_program()["step"]
    return step, frozenset(p.name for p in step.written())


def test_gradients_over_large_maps_are_narrowed_until_nothing_can_overflow() -> None:
    step, learned = large_map()
    check_no_overflow(step, learned)
    bits = {
        n.type.block.bits
        for n in step.nodes
        if isinstance(n.op, ConvInputGrad | DepthwiseInputGrad)
    }
    assert min(bits) < 15, "this network was meant to need narrowing"


def test_fifteen_bits_would_overflow_there() -> None:
    """The bound is not idle: with the mantissas as wide as they come, worst-case data overflows."""
    step, learned = large_map()
    wide: dict[Node, Node] = {}
    b = Builder()
    b.data.update(step.data)
    for n in step.nodes:
        op = replace(n.op, bits=15) if hasattr(n.op, "bits") else n.op  # type: ignore[type-var]
        inputs = tuple(wide[x] for x in n.inputs)
        leaf = isinstance(n.op, Param | Input)
        kind = n.type if leaf else op.infer(*(x.type for x in inputs))
        wide[n] = b.append(Node(op, inputs, kind, n.name))
    graph = b.graph(*(wide[o] for o in step.outputs))
    assert max(adversarial(graph, n, learned) for n in graph.nodes) > INT32
    with pytest.raises(AccumulatorError):
        accumulator_bounds(graph, learned)


@settings(max_examples=30)
@given(programs())
def test_no_data_overflows_the_sums_of_a_random_program(case: Case) -> None:
    step = entries(case.network, replace(case.training, accumulate=False))["step"]
    check = frozenset(p.name for p in step.written())
    bounds = {b.node: b.worst for b in accumulator_bounds(step, check)}
    for n in step.nodes:
        assert adversarial(step, n, check) <= min(INT32, bounds.get(n.name, 0))


@pytest.mark.parametrize(("side", "bits"), [(8, 15), (17, 14), (64, 11), (256, 7)])
def test_mantissas_are_as_wide_as_the_sum_allows(side: int, bits: int) -> None:
    """side² pixels of 255 each: 2**31 / (255 * side²) is the room for a mantissa."""
    b = Builder()
    x, w = (
        b.input("x", activation(side, side, 1, zero=-128)),
        b.param("w", np.ones((1, 1, 1, 1), np.int8)),
    )
    dy = b.input("dy", gradient(side, side, 1))
    summed = b(BlockAdd(), dy, dy)
    dw = b(ConvWeightGrad(Window(), w.type.shape), x, summed)
    narrow = narrow_gradients(b.graph(dw), ())
    assert narrow.outputs[0].inputs[1].type.block.bits == bits
    assert 255 * side**2 << bits <= INT32
    assert bits == 15 or 255 * side**2 << (bits + 1) > INT32


@pytest.mark.parametrize(("side", "bits"), [(8, 15), (64, 11)])
def test_a_factor_leaves_room_for_the_sum_over_its_map(side: int, bits: int) -> None:
    b = Builder()
    x, dy = b.input("x", activation(side, side, 1, zero=-128)), b.input("dy", gradient(1, 1, 1))
    wide = b(Upsample((side, side)), b(ScaleChannels((1.0,)), dy))
    total = b(ProductSumGrad((1, 1, 1)), wide, x)
    narrow = narrow_gradients(b.graph(total), ())
    assert narrow.outputs[0].inputs[0].type.block.bits == bits
    (bound,) = accumulator_bounds(narrow, ())
    assert bound.worst == 255 * side**2 << bits <= INT32


def test_a_sum_that_leaves_no_bits_is_refused() -> None:
    b = Builder()
    x, dy = (
        b.input("x", activation(1024, 1024, 1, zero=-128)),
        b.input("dy", gradient(1024, 1024, 1)),
    )
    dw = b(ConvWeightGrad(Window(), (1, 1, 1, 1)), x, b(BlockAdd(), dy, dy, name="wide"))
    with pytest.raises(AccumulatorError, match="wide"):
        narrow_gradients(b.graph(dw), ())


def test_what_is_a_gradient_does_not_depend_on_how_its_type_is_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TensorType, "__str__", lambda _: "f32[1]")
    test_mantissas_are_as_wide_as_the_sum_allows(64, 11)


def test_a_bias_out_of_proportion_is_refused_by_name() -> None:
    b = Builder()
    w = b.param("w", np.full((2, 1, 1, 4), 127, np.int8), weight(2, 1, 1, 4).affine)
    c = b.param("c", np.array([0, INT32 - 4 * 127 * 130 + 1], np.int32), bias(2).affine)
    y = b(
        Conv(Window(), activation(1).affine), b.input("x", activation(2, 2, 4)), w, c, name="layer"
    )
    with pytest.raises(AccumulatorError, match="'layer'"):
        accumulator_bounds(b.graph(y), ())
    b.data["c"] = b.data["c"] - np.array([0, 1], np.int32)
    (bound,) = accumulator_bounds(b.graph(y), ())
    assert (bound.node, bound.worst) == ("layer", INT32)


@pytest.mark.parametrize("rounding", Rounding)
def test_a_weight_of_a_file_may_begin_below_what_is_learned(rounding: Rounding) -> None:
    """-128, and codes up to 130 from the zero point; a bias that learns reaches 2^30."""
    b = Builder()
    w = b.param("w", np.array([[[[-128, 3]]]], np.int8), weight(1, 1, 1, 2).affine)
    c = b.param("c", np.zeros(1, np.int32), bias(1).affine)
    op = Conv(Window(), activation(1).affine, rounding=rounding)
    graph = b.graph(b(op, b.input("x", activation(2, 2, 2)), w, c))
    for learned, widest in (((), 128 + 3), (("w",), 128 + 127)):
        (bound,) = accumulator_bounds(graph, learned)
        assert bound.worst == widest * 130
    (bound,) = accumulator_bounds(graph, ("w", "c"))
    assert bound.worst == (128 + 127) * 130 + 2**30


# ---- verify ----


def broken_graphs() -> dict[str, tuple[Graph, str]]:
    """Graphs that are not well formed, with what `verify` must say."""
    b = Builder()
    x = b.input("x", gradient(2, 2, 3))
    y = b(BlockAdd(), x, x, name="y")
    z = b(BlockAdd(), y, x, name="z")
    w = b.param("w", np.zeros((2,), np.float32))
    g = b.input("g", TensorType((2,), w.type.dtype))
    lr, clock = b.input("lr", RATE), b.input("clock", CLOCK)
    step = b(Sgd(0), w, g, lr, clock, name="step")
    late = b(Sgd(1), w, w, lr, clock, name="late")
    onto_input = Node(Sgd(0), (g, w, lr, clock), g.type, "onto_input")
    stranger = Builder().input("stranger", gradient(1))
    return {
        "read before made": (Graph((x, z, y), (z,)), "'z' reads 'y' before"),
        "not in the graph": (Graph((x, z), (z,)), "'z' reads 'y' before"),
        "same name": (Graph((x, y, replace(z, name="y")), (y,)), "two nodes are called 'y'"),
        "wrong type": (
            Graph((x, replace(y, type=gradient(2, 2, 4))), ()),
            "'y' is b16",
        ),
        "wrong width": (Graph((x, replace(y, type=gradient(2, 2, 3, bits=9))), ()), "'y' is b10"),
        "stale": (Graph((w, g, lr, clock, step, late), ()), "'late' reads"),
        "overwrites an input": (Graph((w, g, lr, clock, onto_input), ()), "not parameters"),
        "lost output": (Graph((x, y), (stranger,)), "stranger"),
    }


@pytest.mark.parametrize("name", broken_graphs())
def test_verify_rejects(name: str) -> None:
    graph, message = broken_graphs()[name]
    with pytest.raises(ValueError, match=message):
        verify(graph)


def test_verify_rejects_an_update_before_its_last_reader() -> None:
    """dX must read the weights that the forward pass used, not the new ones."""
    step = entries(small_network(), Training(LinearHead(WAYS), Sgd(0), LEARN))["step"]
    update = next(n for n in step.nodes if n.name == "head.weight.step")
    reader = next(n for n in step.nodes if isinstance(n.op, DenseInputGrad))
    early = [n for n in step.nodes if n is not update]
    early.insert(early.index(reader), update)
    with pytest.raises(ValueError, match="overwritten"):
        verify(replace(step, nodes=tuple(early)))


def test_an_update_need_not_wait_for_a_gradient_larger_than_its_weights() -> None:
    """The gradient of a layer's output is gone before that of its input is computed."""
    step = entries(small_network(), Training(PrototypeHead(WAYS), Sgd(0), LEARN))["step"]
    place = {n.name: i for i, n in enumerate(step.nodes)}
    copies = [n for n in step.nodes if isinstance(n.op, Copy)]
    assert copies
    for copy in copies:
        param, dy = copy.inputs
        (update,) = [n for n in step.nodes if n.inputs[:1] == (param,) and n.op.writes]
        (reader,) = [n for n in step.nodes if copy in set(n.reads()) and not n.op.view]
        assert place[copy.name] < place[update.name] < place[reader.name]
        assert copy.type.nbytes < dy.type.nbytes
        storage = store(step)
        assert storage.tensor[reader.inputs[0]] == storage.tensor[dy], "scaled where it lies"


def test_verify_accepts_what_the_compiler_makes() -> None:
    for graph in entries(small_network(), Training(LinearHead(WAYS), Adam(0), LEARN)).values():
        assert verify(graph) is graph


# ---- entry points ----


def check_summed_step_is_a_step(optimizer: Update) -> None:
    """Assert that one sample, summed and applied, moves everything as a plain step does; twice."""
    net, head = small_network(), PrototypeHead(WAYS)
    plain = entries(net, Training(head, optimizer, LEARN))["step"]
    summed = entries(net, Training(head, optimizer, LEARN, accumulate=True))
    rng = np.random.default_rng(2)
    warm = warm_head(rng, plain)
    states: list[dict[str, Value]] = []
    for graphs in ((plain,), (summed["step"], summed["apply"])):
        rng = np.random.default_rng(3)
        names = {p.name for g in graphs for p in g.written()}
        state = {k: v for g in graphs for k, v in g.data.items() if k in names}
        values: dict[str, Value] = {**state, **warm}
        for t in range(2):
            feeds = {**step_feeds(rng, plain, WAYS, t, 0.05), "share": np.ones(1, np.float32)}
            for graph in graphs:
                out = interpret(graph, {**feeds, **values})
                values.update({k: out[k] for k in state if k in out})
        states.append(values)
    ones, sums = states
    for name, value in sums.items():
        if name.endswith(".sum"):
            assert not np.asarray(value).any(), f"{name} was not cleared"
        else:
            assert same_bits(value, ones[name]), f"{name}: {difference(value, ones[name])}"
    assert len(ones) > len(LEARN)


@OPTIMIZERS
def test_one_summed_sample_is_a_plain_step(optimizer: Update) -> None:
    check_summed_step_is_a_step(optimizer)


def check_forgetting() -> None:
    """Assert that prototypes are sums of the features enrolled since they were last forgotten."""
    graphs = entries(small_network(), Training(PrototypeHead(WAYS), Sgd(0), LEARN))
    host = linked(graphs)
    rng = np.random.default_rng(4)
    feeds = [step_feeds(rng, graphs["enrol"], WAYS, 0, 0.1) for _ in range(3)]
    for feed in feeds:
        call(host, "enrol", feed)
    first = host.state["head.prototypes"].copy()
    assert first.any()
    call(host, "forget", {})
    assert not host.state["head.prototypes"].any()
    for feed in feeds:
        call(host, "enrol", feed)
    assert same_bits(host.state["head.prototypes"].copy(), first)


def test_forgotten_prototypes_are_gone() -> None:
    check_forgetting()


def test_learning_lowers_the_loss() -> None:
    """Nothing above says that steps go downhill."""
    graphs = entries(small_network(), Training(PrototypeHead(WAYS), RowRms(0), LEARN))
    host = linked(graphs)
    rng = np.random.default_rng(5)
    images = [step_feeds(rng, graphs["step"], WAYS, 0, 0.01) for _ in range(WAYS)]
    for label, feed in enumerate(images):
        feed["label"] = np.array([label], np.int32)
        call(host, "enrol", feed)
    losses = []
    for t in range(30):
        total = 0.0
        for i, feed in enumerate(images):
            feed["clock"] = np.array([1, t * WAYS + i], np.int32)
            total += float(np.asarray(call(host, "step", feed)["loss"])[0])
        losses.append(total)
    assert np.mean(losses[-5:]) < 0.85 * losses[0]


# ---- split ----


def test_an_unchanged_overlay_changes_nothing() -> None:
    net = small_network()
    cut, learned = split(net, {k: p for k, p in LEARN.items() if p.index})
    feeds = step_feeds(np.random.default_rng(0), net, WAYS, 0, 0.1)
    assert_same(interpret(cut, feeds), interpret(net, feeds))
    assert learned["b0.pw1.weight"] == "b0.pw1.weight.learned"
    own = cut["b0.pw1.weight.learned"].type
    assert own.shape == (2, 1, 1, 4)
    assert own.affine.scale == tuple(net["b0.pw1.weight"].type.affine.scale[i] for i in (1, 4))


def test_real_reads_blocks_and_codes() -> None:
    """The helper that other tests stand on."""
    block = Block(np.array([3, -4], np.int16), -1)
    assert real(block, TensorType((2,), gradient(2).dtype, BlockExponent(15, 2.0))).tolist() == [
        3,
        -4,
    ]
    assert real(np.array([0, -3], np.int8), activation(2)).tolist() == [0.12, 0]
