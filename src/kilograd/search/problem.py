"""Gains and costs of every choice as tables, and what a solver answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kilograd.ir import Array
from kilograd.search.contribution import SHARES, Contribution, Gain
from kilograd.search.footprint import Footprint
from kilograd.search.genome import Genome

UNLIMITED = 1 << 40
"""More bytes, or multiply-accumulates, than anything has."""


@dataclass(frozen=True)
class Limits:
    """Bytes of RAM and backward MACs that a program may cost."""

    sram: int = UNLIMITED
    macs: int = UNLIMITED


@dataclass(frozen=True)
class Problem:
    """Maximise the sum of gains within limits.

    `biases`: [n + 1], the gain of the last k; -inf where there is no program.  `weights`:
    [n, S + 1], the gain of each share; 0 for none, -inf for what must not be chosen.
    `room`: [n + 1, 2], the bytes and MACs that a prediction for k may have.
    """

    biases: Array
    weights: Array
    footprint: Footprint
    room: Array

    def within(self, limits: Limits) -> Problem:
        """Return the same problem with other limits."""
        room = np.tile(np.array([limits.sram, limits.macs]), (len(self.biases), 1))
        return replace(self, room=room)

    def tightened(self, k: int, excess: tuple[int, int]) -> Problem:
        """Return the problem with less room for `k`: so much does its prediction fall short."""
        room = self.room.copy()
        room[k] -= np.maximum(excess, 0)
        return replace(self, room=room)

    def gain(self, k: Array, genes: Array) -> Array:
        """Return the sums of gains [m] of k [m] and indices of shares, genes [m, n]."""
        at = np.arange(genes.shape[1])
        return self.biases[k] + self.weights[at, genes].sum(axis=1)

    def cost(self, k: int, genes: Sequence[int]) -> tuple[int, int]:
        """Predict bytes and MACs of one choice."""
        sram, macs = self.footprint.totals(np.array([k]), np.array([genes]))
        return int(sram.max()), int(macs[0])

    def fits(self, k: Array, genes: Array) -> Array:
        """Say of each choice whether its prediction is within its room: bool [m]."""
        sram, macs = self.footprint.totals(k, genes)
        return self.roomy(k, sram, macs)

    def roomy(self, k: Array, sram: Array, macs: Array) -> Array:
        """Say the same of bytes [m, T] and MACs [m]."""
        return (sram.max(axis=1) <= self.room[k, 0]) & (macs <= self.room[k, 1])

    def options(self, layer: int) -> list[int]:
        """Return the indices of the shares that may learn, beside none."""
        return [s for s in range(1, self.weights.shape[1]) if np.isfinite(self.weights[layer, s])]

    def depths(self) -> list[int]:
        """Return the k for which there is a program."""
        return [k for k in range(1, len(self.biases)) if np.isfinite(self.biases[k])]


@dataclass(frozen=True)
class Answer:
    """What a solver found: k, the index of a share for each layer, and the sum of gains.

    `bound`: what no choice can exceed, where the solver knows.  `course`: the best sum after each
    sample, where it draws samples.
    """

    k: int
    genes: tuple[int, ...]
    gain: float
    bound: float | None = None
    course: tuple[float, ...] = ()

    @property
    def genome(self) -> Genome:
        """The choice, in shares."""
        return Genome(self.k, tuple((0.0, *SHARES)[g] for g in self.genes))


Solver = Callable[[Problem, int], Answer | None]
"""Answers a problem, the same for the same seed; `None` where nothing fits."""


def helpful(found: Contribution) -> list[tuple[int, int]]:
    """Return layer and share index of each choice that gains: others only cost."""
    return sorted(
        (found.layers.index(layer), SHARES.index(share) + 1)
        for (layer, share), gain in found.weights.items()
        if gain.mean > 0
    )


def problem(found: Contribution, footprint: Footprint) -> Problem:
    """Return the problem of a contribution analysis, without limits.

    Choices that gain nothing are left out, and those that the footprint does not know.
    """
    count = len(found.layers)
    weights = np.full((count, len(SHARES) + 1), -np.inf)
    weights[:, 0] = 0
    for i, s in helpful(found):
        if footprint.able[:, i, s].any():
            weights[i, s] = found.weights[found.layers[i], SHARES[s - 1]].mean
    biases = np.array([-np.inf, *(gain.mean for gain in found.biases)])
    biases[~footprint.depths] = -np.inf
    room = np.full((count + 1, 2), UNLIMITED)
    return Problem(biases, weights, footprint, room)


def shrunk(found: Contribution, quantile: float) -> Contribution:
    """Return gains that expect less of what was measured with noise (empirical Bayes).

    `quantile`: of how many standard errors half an interval is.
    A gain is taken as drawn from a normal distribution around 0 and measured with the error that
    its interval says; what is expected of it is the share of the variance that is not error.
    The variance of the true gains is what the measured ones have beyond their errors, of biases
    and of weights each.
    """
    gains = _shrunk(tuple(found.weights.values()), quantile)
    weights = dict(zip(found.weights, gains, strict=True))
    overall = replace(found.overall, biases=_shrunk(found.biases, quantile), weights=weights)
    return replace(found, overall=overall)


def _shrunk(gains: Sequence[Gain], quantile: float) -> tuple[Gain, ...]:
    errors = np.array([(g.half_width / quantile) ** 2 for g in gains])
    true = max(0.0, float(np.mean(np.array([g.mean for g in gains]) ** 2 - errors)))
    shares = np.divide(true, true + errors, out=np.ones(len(gains)), where=true + errors > 0)
    return tuple(Gain(g.mean * s, g.half_width * s) for g, s in zip(gains, shares, strict=True))
