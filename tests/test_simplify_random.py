"""Networks drawn at random compute the same when they are made plain."""

from __future__ import annotations

import numpy as np
import pytest
from layer_networks import Sketch, as_taken, batches, in_file_order, outputs

from kilograd.layers.network import CurveKind, Layout, Network, PoolKind, Value
from kilograd.layers.simplify import simplify

STEPS = 14


class Drawn(Sketch):
    """A network that grows by layers that fit."""

    def step(self, x: Value, others: list[Value]) -> Value:  # noqa: PLR0912
        """Add something to a value."""
        rank, rng = len(x.shape), self.rng
        first = self.layout is Layout.CHANNELS_FIRST
        choice = int(rng.integers(0, 16))
        channels = x.shape[0 if first else -1]
        map_like = rank == 3 or (rank == 2 and min(x.shape) > 2)
        twins = [v for v in others if v.shape == x.shape and v != x]
        match choice:
            case 0 | 1 if map_like:
                return self.conv(x, int(rng.integers(2, 7)), int(rng.choice([1, 3])))
            case 2 if map_like:
                return self.conv(x, channels, 3, groups=channels)
            case 3 if map_like:
                return self.norm(x)
            case 4:
                return self.relu(x, (0, float(rng.choice([6, np.inf]))))
            case 5:
                return self.curve(CurveKind(str(rng.choice(["silu", "tanh"]))), x)
            case 6 if twins:
                return self.plus(x, twins[int(rng.integers(len(twins)))])
            case 7 if twins:
                return self.times(x, twins[int(rng.integers(len(twins)))])
            case 8:
                return self.transpose(x, *map(int, rng.permutation(rank)))
            case 9:
                return self.reshape(x, *self.cut(x.shape))
            case 10 if rank <= 3:
                return self.concat(int(rng.integers(rank)), x, *twins[:1], x)
            case 11:
                axis = int(rng.integers(rank))
                half = max(1, x.shape[axis] // 2)
                return self.slice(x, axis, x.shape[axis] - half, half)
            case 12:
                axis = int(rng.integers(rank))
                return self.gather(x, axis, *map(int, rng.permutation(x.shape[axis])))
            case 13 if map_like and min(x.shape) > 2 and rank == 3:
                kind = PoolKind.MAX if rng.random() < 0.5 else PoolKind.MEAN
                return self.pool(kind, x, 2, 1)
            case 14:
                constant = self.normal(*(n if rng.random() < 0.5 else 1 for n in x.shape))
                combine = self.plus if rng.random() < 0.5 else self.times
                return combine(x, self.number(constant))
            case 15 if rank > 1:
                axis = int(rng.integers(rank))
                return self.mean(x, axis, keep=bool(rng.random() < 0.5))
            case _:
                return self.pad(x, *((int(rng.integers(0, 2)), 0) for _ in range(rank)))

    def cut(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return another shape of as many elements, of four axes at most."""
        size = int(np.prod(shape))
        sizes = []
        for _ in range(int(self.rng.integers(0, 4))):
            divisors = [d for d in range(1, min(size, 12) + 1) if size % d == 0]
            sizes.append(int(self.rng.choice(divisors)))
            size //= sizes[-1]
        return (*sizes, size)


def drawn(seed: int) -> Network:
    layout = list(Layout)[seed % 2]
    s = Drawn(layout, seed)
    shape = ((4, 6, 5), (4, 8), (24,))[seed // 2 % 3]
    values = [s.input(*shape)]
    for _ in range(STEPS):
        newest = s.rng.random() < 0.8
        x = values[-1] if newest else values[int(s.rng.integers(len(values)))]
        if np.prod(x.shape) < 2000 and len(x.shape) <= 4:
            values.append(s.step(x, values))
    read = {v for x in s.layers for v in x.inputs}
    ends = [v for v in values[1:] if v not in read]
    return s.network(*(ends or values[-1:]))


@pytest.mark.parametrize("seed", range(120))
def test_a_network_made_plain_computes_the_same(seed: int) -> None:
    network = drawn(seed)
    made = simplify(network)
    assert made.layout is Layout.CHANNELS_LAST
    names = [v.name for v in made.values()]
    assert len(set(names)) == len(names)
    inputs = batches(network)
    # Shapes that layers say are those that come out.
    for got, right, v in zip(
        outputs(made, as_taken(made, inputs)), outputs(network, inputs), made.outputs, strict=True
    ):
        assert got.shape[1:] == v.shape
        size = max(1.0, float(np.abs(right).max()))
        # What the last layer moved may lie as in the file, or as maps do.
        ways = (got.reshape(right.shape), in_file_order(network, got, right))
        assert min(float(np.abs(way - right).max()) for way in ways) < 1e-4 * size
