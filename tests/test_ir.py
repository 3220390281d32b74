"""The intermediate representation: types, values, building, rewriting, interpreting, printing."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from helpers import SMALL_UNITS, Unit, network, small_network

from kilograd.ir import (
    Affine,
    Block,
    BlockExponent,
    Builder,
    DType,
    Graph,
    Input,
    Node,
    Param,
    ShapeError,
    TensorType,
    dead_code,
    interpret,
    rewrite,
    verify,
)
from kilograd.ops import (
    AvgPool,
    BlockAdd,
    Clear,
    Conv,
    Dense,
    Dequantise,
    Overlay,
    Sgd,
    Take,
    Window,
)
from kilograd.passes import LinearHead, Part, Training, entries

F32 = DType.F32


def dense() -> tuple[Builder, Node, Node, Node]:
    """A dense layer on an input."""
    b = Builder()
    x = b.input("x", TensorType((3,), F32))
    w = b.param("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    return b, x, w, b(Dense(), x, w, b.param("c", np.ones(2, np.float32)))


# ---- types ----


@pytest.mark.parametrize(
    ("kind", "nbytes", "text"),
    [
        (TensorType((2, 3), DType.I8), 6, "i8[2,3]"),
        (TensorType((2, 3), DType.F32), 24, "f32[2,3]"),
        (TensorType((), DType.I32), 4, "i32[]"),
        (TensorType((5,), DType.I16, BlockExponent(15)), 14, "b16[5]"),
        (TensorType((5,), DType.I16, BlockExponent(9)), 14, "b10[5]"),
        (TensorType((5,), DType.I32, BlockExponent(31)), 24, "b32[5]"),
    ],
    ids=str,
)
def test_a_type_knows_its_bytes_and_its_name(kind: TensorType, nbytes: int, text: str) -> None:
    assert kind.nbytes == nbytes
    assert str(kind) == text


def test_a_type_without_a_quantisation_says_so() -> None:
    with pytest.raises(TypeError, match=r"f32\[2\] is not quantised"):
        _ = TensorType((2,), F32).affine
    with pytest.raises(TypeError, match="does not share an exponent"):
        _ = TensorType((2,), F32).block


def test_a_block_stands_for_mantissas_times_a_power_of_two() -> None:
    assert Block(np.array([3, -1], np.int16), -2).real().tolist() == [0.75, -0.25]


def test_a_quantisation_is_cut_along_its_axis() -> None:
    assert Affine((0.1, 0.2, 0.3), axis=0).take((0, 2)) == Affine((0.1, 0.3), axis=0)


def test_everything_is_frozen() -> None:
    _, x, _, y = dense()
    for value in (x, y, x.type, y.op, Graph((), ())):
        with pytest.raises(FrozenInstanceError):
            value.name = "other"  # type: ignore[misc, union-attr]


# ---- building ----


def test_names_are_made_unique() -> None:
    b = Builder()
    names = [b.input("x", TensorType((1,), F32)).name for _ in range(3)]
    assert names == ["x", "x_1", "x_2"]
    assert [b(Clear(), b.param("p", np.zeros(1, np.float32))).name for _ in range(2)] == [
        "clear",
        "clear_1",
    ]


def test_a_builder_goes_on_from_a_graph_without_changing_it() -> None:
    b, _, _, y = dense()
    graph = b.graph(y)
    more = Builder(graph)
    more.param("w", np.zeros(1, np.float32))
    assert "w_1" in more.data
    assert "w_1" not in graph.data
    assert len(graph.nodes) == 4


def test_an_op_that_does_not_fit_names_the_tensors() -> None:
    b, x, _, _ = dense()
    wide = b.param("wide", np.zeros((2, 4), np.float32))
    with pytest.raises(ShapeError, match=r"x f32\[3\] does not fit w f32\[2,4\]"):
        b(Dense(), x, wide, x)


# ---- graphs ----


def test_a_graph_finds_nodes_by_name() -> None:
    b, x, w, y = dense()
    graph = b.graph(y)
    assert graph["w"] is w
    assert graph.inputs() == (x,)
    assert [p.name for p in graph.params()] == ["w", "c"]
    with pytest.raises(KeyError, match="no node 'nothing'"):
        _ = graph["nothing"]


def test_a_graph_knows_who_reads_and_who_writes() -> None:
    b, x, w, y = dense()
    clear = b(Clear(), w, y)
    graph = b.graph(clear)
    assert graph.users()[x] == [y]
    assert graph.users()[w] == [y, clear]
    assert graph.written() == {w}
    assert graph.macs() == 6


def test_readers_look_through_views() -> None:
    b = Builder()
    quant = Affine((0.1, 0.2, 0.3), axis=0)
    frozen = b.param("frozen", np.zeros((3, 1, 1, 2), np.int8), quant)
    learned = b.param("learned", np.zeros((1, 1, 1, 2), np.int8), quant.take((1,)))
    w = b(Overlay(0, (1,)), frozen, learned)
    x = b.input("x", TensorType((2, 2, 2), DType.I8, Affine((0.5,))))
    c = b.param("c", np.zeros(3, np.int32))
    y = b(Conv(Window(), Affine((1.0,))), x, w, c)
    assert list(y.reads()) == [x, frozen, learned, c]


def test_a_graph_prints_a_line_for_each_node() -> None:
    b, _, _, y = dense()
    assert str(b.graph(y)).splitlines() == [
        "%x: f32[3] = Input()()",
        "%w: f32[2,3] = Param()()",
        "%c: f32[2] = Param()()",
        "%dense: f32[2] = Dense()(x, w, c)",
        "return dense",
    ]


def test_the_repr_of_a_graph_does_not_grow_with_its_depth() -> None:
    """A node that printed its inputs in full would print a residual network 2**depth times."""
    lengths = []
    for count in (1, 8):
        graph = network(0, (Unit(2, 3),) * count, stem=3)
        learn = {p.name: Part() for p in graph.params()}
        step = entries(graph, Training(LinearHead(2), Sgd(0), learn, stream=False))["step"]
        lengths.append(len(repr(step)) / len(step.nodes))
    assert lengths[1] < 1.5 * lengths[0]


# ---- rewriting ----


def negate_twice(b: Builder, n: Node) -> Node | None:
    """Replace a pool by the pool of a take of everything."""
    if isinstance(n.op, AvgPool):
        (x,) = n.inputs
        return b(AvgPool(), b(Take(2, tuple(range(x.type.shape[2]))), x))
    return None


def test_a_rule_replaces_and_everything_after_is_rebuilt() -> None:
    net = small_network()
    b = Builder(net)
    graph = b.graph(b(Dequantise(), net.outputs[0]))
    new = verify(rewrite(graph, negate_twice))
    assert sum(isinstance(n.op, Take) for n in new.nodes) == 1
    feeds = {"image": np.full((8, 8, 3), 9, np.int8)}
    want = interpret(graph, feeds)[graph.outputs[0].name]
    got = interpret(new, feeds)[new.outputs[0].name]
    assert isinstance(want, np.ndarray)
    assert isinstance(got, np.ndarray)
    assert got.tolist() == want.tolist()


def test_a_rewrite_without_rules_changes_nothing() -> None:
    net = small_network()
    assert str(rewrite(net)) == str(net)
    assert rewrite(net).data == net.data


def test_names_that_a_rule_takes_are_not_given_twice() -> None:
    """A rule's own node may take the name of a node that comes later and stays."""

    def rule(b: Builder, n: Node) -> Node | None:
        return b(BlockAdd(bits=14), *n.inputs) if n.name == "first" else None

    b = Builder()
    x = b.input("x", TensorType((2,), DType.I16, BlockExponent(15)))
    first = b(BlockAdd(), x, x, name="first")
    second = b(BlockAdd(), first, x, name="blockadd")
    new = verify(rewrite(b.graph(second), rule))
    assert [n.name for n in new.nodes] == ["x", "blockadd", "blockadd_1"]


def test_types_follow_a_rule() -> None:
    def narrower(b: Builder, n: Node) -> Node | None:
        return b(BlockAdd(bits=9), *n.inputs, name=n.name) if n.name == "first" else None

    b = Builder()
    x = b.input("x", TensorType((2, 4), DType.I16, BlockExponent(15)))
    cut = b(Take(1, (0, 3)), b(BlockAdd(), x, x, name="first"))
    assert str(rewrite(b.graph(cut), narrower).outputs[0].type) == "b10[2,2]"


def test_dead_code_goes_and_its_data_with_it() -> None:
    b, x, _, y = dense()
    b(
        Dense(),
        y,
        b.param("dead", np.zeros((1, 2), np.float32)),
        b.param("c2", np.zeros(1, np.float32)),
    )
    live = dead_code(b.graph(y))
    assert [n.name for n in live.nodes] == ["x", "w", "c", "dense"]
    assert set(live.data) == {"w", "c"}
    assert live.inputs() == (x,)


# ---- interpreting ----


def test_interpreting_gives_outputs_and_what_was_overwritten() -> None:
    b, _, w, y = dense()
    graph = b.graph(y, b(Clear(), w, y, name="clear"))
    out = interpret(graph, {"x": np.array([1, 0, 2], np.float32)})
    assert set(out) == {"dense", "w", "clear"}
    assert np.asarray(out["dense"]).tolist() == [5, 14]
    assert not np.asarray(out["w"]).any()
    assert graph.data["w"].any(), "the initial value is not touched"


def test_feeds_replace_initial_values() -> None:
    b, _, _, y = dense()
    feeds = {"x": np.ones(3, np.float32), "w": np.zeros((2, 3), np.float32)}
    assert np.asarray(interpret(b.graph(y), feeds)["dense"]).tolist() == [1, 1]


def test_leaves_cannot_be_computed() -> None:
    node = Node(Input(), (), TensorType((1,), F32), "x")
    for leaf in (Input(), Param()):
        with pytest.raises(TypeError, match="leaf"):
            leaf.infer()
        with pytest.raises(TypeError, match="leaf"):
            leaf.reference(node)
        with pytest.raises(TypeError, match="leaf"):
            leaf.kernel(node)


def test_the_network_of_the_tests_is_one() -> None:
    """Every helper network verifies, and its activations neither drown nor vanish."""
    net = verify(network(0, SMALL_UNITS))
    out = interpret(
        net, {"image": np.random.default_rng(0).integers(-128, 128, (8, 8, 3), np.int8)}
    )
    features = np.asarray(out[net.outputs[0].name])
    assert np.unique(features).size > 2
