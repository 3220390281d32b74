"""Random choices that fit: what every search must beat.

How far off: with MCUNet's gains and 128 KiB, 20,000 samples reach 14.0 of the 18.9 points that
`exact` proves best, with 192 KiB 38.7 of 51.8 (docs/results/studies/search.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kilograd.ir import Array
from kilograd.search.problem import Answer, Problem

SAMPLES = 5000
"""As many as Figure S2 of the supplement has."""

_BATCH = 250


@dataclass(frozen=True)
class Sampling:
    """So many random choices; the best of them."""

    samples: int = SAMPLES

    def __call__(self, problem: Problem, seed: int = 0) -> Answer | None:
        """Draw.  A depth, then a share of each layer within it, are equally likely; see `fit`."""
        rng = np.random.default_rng(seed)
        best, course = None, []
        for start in range(0, self.samples, _BATCH):
            k, genes = draw(problem, min(_BATCH, self.samples - start), rng)
            fits = fit(problem, k, genes, rng)
            gains = np.where(fits, problem.gain(k, genes), -np.inf)
            course.append(gains)
            at = int(np.argmax(gains))
            if np.isfinite(gains[at]) and (best is None or gains[at] > best.gain):
                best = Answer(int(k[at]), tuple(genes[at].tolist()), float(gains[at]))
        return best and finished(best, np.concatenate(course))


def finished(best: Answer, gains: Array) -> Answer:
    """Return the answer with its course, from the gain of each sample."""
    course = tuple(np.maximum.accumulate(gains).tolist())
    return Answer(best.k, best.genes, best.gain, course=course)


def draw(problem: Problem, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return k [count] and genes [count, n], whether they fit or not."""
    layers = len(problem.weights)
    k = rng.choice(problem.depths(), count)
    genes = np.stack([rng.choice([0, *problem.options(i)], count) for i in range(layers)], axis=1)
    return k, genes


def fit(problem: Problem, k: Array, genes: Array, rng: np.random.Generator) -> Array:
    """Make choices fit, in place: until one does, a random layer of it learns no weights.

    Weights before the first bias do not learn.  One that is too large with biases alone gets a
    random smaller depth.  Returns bool [m]: some may never fit.
    """
    layers = genes.shape[1]
    depths, f = np.array(problem.depths()), problem.footprint
    at = np.arange(layers)
    while True:
        genes[at < layers - k[:, None]] = 0
        first = (at == layers - k[:, None]).astype(int)
        genes[~f.able[first, at, genes]] = 0
        sram, macs = f.totals(k, genes)
        over = ~problem.roomy(k, sram, macs)
        while (rows := np.flatnonzero(over & genes.any(axis=1))).size:
            scores = rng.random((len(rows), layers)) * (genes[rows] > 0)
            i = scores.argmax(axis=1)
            gone = (first[rows, i], i, genes[rows, i])
            sram[rows] -= f.more[gone]
            macs[rows] -= f.more_macs[gone]
            genes[rows, i] = 0
            over[rows] = ~problem.roomy(k[rows], sram[rows], macs[rows])
        rows = np.flatnonzero(over & (k > depths[0]))
        if not rows.size:
            return ~over
        k[rows] = [rng.choice(depths[depths < d]) for d in k[rows]]
