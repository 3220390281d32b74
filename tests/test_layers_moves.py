"""Rows of operations that move elements, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilograd.ir import Array
from kilograd.layers.moves import in_order, steps
from kilograd.layers.network import Gather, Reshape, Slice, Transpose


def applied(x: Array, found: Sequence[tuple[object, tuple[int, ...]]]) -> Array:
    """Do what operations say, in numpy."""
    for op, shape in found:
        match op:
            case Reshape():
                x = x.reshape(shape)
            case Slice(axis, begin, count, step):
                x = x.take(range(begin, begin + count * step, step), axis)
            case Gather(axis, index):
                x = x.take(index, axis)
            case Transpose(order):
                x = x.transpose(order)
        assert x.shape == shape
    return x


@given(data=st.data())
@settings(max_examples=200)
def test_what_is_found_moves_the_same(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
    x = in_order(shape)
    kind = data.draw(st.sampled_from(["turn", "box", "gather", "shape"]))
    if kind == "turn":
        y = x.transpose(data.draw(st.permutations(range(len(shape)))))
    elif kind == "box":
        y = x
        for axis, n in enumerate(shape):
            y = y.take(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4)), axis)
    elif kind == "gather":
        axis = data.draw(st.integers(0, len(shape) - 1))
        y = x.take(data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1)), axis)
        y = y.reshape(-1)
    else:
        y = x.reshape(-1)
    found = steps(shape, y)
    assert found is not None
    assert np.array_equal(applied(x, found), y)


def test_a_mixture_is_nothing() -> None:
    assert steps((4, 4), np.random.default_rng(1).permutation(16).reshape(4, 4)) is None


@pytest.mark.parametrize(
    ("index", "want"),
    [
        (in_order((3, 4))[:, ::2], [Slice(1, 0, 2, 2)]),
        (in_order((3, 4))[1:, 1:3], [Slice(0, 1, 2), Slice(1, 1, 2)]),
        (in_order((3, 4))[:, ::-1], [Gather(1, (3, 2, 1, 0))]),
        (in_order((3, 4)).T, [Transpose((1, 0))]),
    ],
)
def test_the_simplest_is_found(index: Array, want: list[object]) -> None:
    assert [op for op, _ in steps((3, 4), index) or []] == want
