"""A tensor in another shape lies where it lay: what is kept, what is overwritten, what is left."""

from __future__ import annotations

import numpy as np
from extras import Extra
from helpers import Unit, assert_same, call, linked, network
from samples import activation
from test_passes import Case, check_c_equals_reference, check_gradients_by_tangents

from kilograd.ir import Affine, Builder, Graph, Node, interpret
from kilograd.ops import Add, Concat, Product, Rescale, Reshape
from kilograd.passes import Part, schedule, store

OTHER = Affine((0.05,), 7)


def check(graph: Graph) -> None:
    """Assert that C makes what the reference makes, in the order given and in a better one."""
    rng = np.random.default_rng(1)
    for g in (graph, schedule(graph)):
        host = linked({"run": g})
        for noise in range(3):
            feeds = {
                n.name: rng.integers(-128, 128, n.type.shape).astype(np.int8) for n in g.inputs()
            }
            assert_same(call(host, "run", feeds, noise), interpret(g, feeds))


def start() -> tuple[Builder, Node]:
    b = Builder()
    return b, b.input("x", activation(4, 3, 5))


def test_a_view_of_what_was_computed_is_returned() -> None:
    b, x = start()
    y = b(Rescale(OTHER), x)
    view = b(Reshape((1, 1, 60)), b(Reshape((12, 5)), y))
    check(b.graph(view, b(Add(OTHER), y, y)))


def test_a_view_of_what_was_given_is_returned() -> None:
    b, x = start()
    view = b(Reshape((5, 12)), x)
    check(b.graph(b(Rescale(OTHER), x), view))
    check(b.graph(view))


def test_a_map_is_overwritten_only_when_no_view_of_it_is_read() -> None:
    b, x = start()
    y = b(Rescale(OTHER), x)
    first, second = b(Reshape((3, 4, 5)), y), b(Reshape((3, 4, 5)), y)
    scaled = b(Rescale(Affine((0.02,), 0)), first)
    graph = b.graph(b(Add(OTHER), scaled, second))
    tensor = store(graph).tensor
    assert tensor[first] == tensor[second] == tensor[y] != tensor[scaled]
    check(graph)


def test_what_only_a_view_reads_is_overwritten() -> None:
    b, x = start()
    y = b(Rescale(OTHER), x)
    scaled = b(Rescale(Affine((0.02,), 0)), b(Reshape((3, 4, 5)), y))
    graph = b.graph(scaled)
    assert store(graph).tensor[scaled] == store(graph).tensor[y]
    check(graph)


def test_a_map_and_a_view_of_it_go_into_one_op() -> None:
    b, x = start()
    y = b(Rescale(OTHER), x)
    again = b(Reshape((4, 3, 5)), y)
    joined = b(Concat(1), again, y, again)
    check(b.graph(b(Product(OTHER), y, again), joined))


def check_shuffle() -> None:
    """Assert that what learns in front of a shuffle has the right gradient."""
    check_gradients_by_tangents(network(1, (Unit(5, 4, extra=Extra.SHUFFLE),)), 1)


def test_every_extra_learns_what_calculus_says() -> None:
    """And C what the reference does; each alone, in front of a layer and behind one."""
    for extra in Extra:
        units = (Unit(5, 4, extra=extra), Unit(6, 4))
        net = network(1, units, stem=4)
        check_gradients_by_tangents(net, 1)
        learn = {p.name: Part() for p in net.params()}
        check_c_equals_reference(Case(1, units, 4, learn), steps=2)
