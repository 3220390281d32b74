"""How near a network in codes is to the same network in reals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kilograd.errors import InputError
from kilograd.ir import Array
from kilograd.layers.calibrate import Samples, batches
from kilograd.layers.evaluate import Arithmetic, computed, evaluate
from kilograd.layers.network import Constant, Convolution, Dense, Network

_FAR = 8.0
"""A channel so many times as large as the median one takes three bits from the others."""

EXACT = 200.0
"""Decibels of codes that are the reals."""

_LOW = 10.0
"""A layer below so many decibels is hardly the one in reals."""


@dataclass(frozen=True)
class LayerReport:
    """One layer over the calibration samples.

    `sqnr`: power of the reals over power of the error of the codes, decibels; the error of all
    layers before it counts.  `low`, `high`: the reals that its codes span.  `outliers`: channels
    with numbers, or a range of weights, many times as large as the median channel has.
    """

    name: str
    sqnr: float
    low: float
    high: float
    outliers: tuple[int, ...] = ()
    outlier_weights: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """What quantising a network has cost; `doubts` are sentences for the user."""

    samples: int
    layers: tuple[LayerReport, ...]
    doubts: tuple[str, ...] = ()

    @property
    def worst(self) -> LayerReport:
        """Return the layer that is farthest from the one in reals."""
        return min(self.layers, key=lambda x: x.sqnr)


@dataclass
class _Sums:
    """Power of reals and of the error, and the largest magnitude of each channel."""

    signal: float = 0.0
    noise: float = 0.0
    largest: Array = field(default_factory=lambda: np.zeros(1))

    def add(self, right: Array, got: Array) -> None:
        self.signal += float(np.square(right, dtype=np.float64).sum())
        self.noise += float(np.square(right - got, dtype=np.float64).sum())
        channels = np.abs(right).reshape(-1, right.shape[-1]).max(axis=0)
        self.largest = np.maximum(self.largest, channels)

    @property
    def decibels(self) -> float:
        """Return the ratio, `EXACT` where there is no noise, and less that where there is no
        signal.
        """
        if not self.noise:
            return EXACT
        return 10 * math.log10(self.signal / self.noise) if self.signal else -EXACT


def compared(
    floats: Network, coded: Network, samples: Samples, doubts: tuple[str, ...] = ()
) -> Report:
    """Run both on samples, and compare layer by layer; they have the same layers."""
    sums: dict[str, _Sums] = {}
    for part in batches(floats, samples):
        both = zip(computed(floats, part), computed(coded, part, Arithmetic.CODES), strict=True)
        for (v, right), (_, got) in both:
            sums.setdefault(v.name, _Sums()).add(right, got)
    layers = []
    for x, y in zip(floats.layers, coded.layers, strict=True):
        if isinstance(x.op, Constant):
            continue
        quant, own = y.output.quant, sums[x.output.name]
        assert quant is not None  # noqa: S101
        low, high = ((c - quant.zero_point) * quant.scale[0] for c in (-128, 127))
        weights: tuple[int, ...] = ()
        if isinstance(x.op, Convolution | Dense):
            w = x.op.weight.values
            weights = _outliers(np.abs(w).reshape(len(w), -1).max(axis=1))
        layers.append(LayerReport(x.name, own.decibels, low, high, _outliers(own.largest), weights))
    count = len(next(iter(samples.values())))
    return Report(count, tuple(layers), (*doubts, *_poor(layers)))


def _outliers(largest: Array) -> tuple[int, ...]:
    median = float(np.median(largest))
    return tuple(map(int, np.flatnonzero(largest > _FAR * median))) if median else ()


def _poor(layers: list[LayerReport]) -> tuple[str, ...]:
    """Return a sentence for the first layer that codes hardly describe: later ones inherit it."""
    for x in layers:
        if x.sqnr < _LOW:
            which = ", ".join(map(str, x.outliers[:5]))
            why = f"; its channels {which} are far larger than the others" if which else ""
            return (f"{x.name}: codes differ much from the reals, {x.sqnr:.1f} dB{why}",)
    return ()


# -- labelled data ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accuracy:
    """Shares of samples, of `count`: right in reals, right in codes, and the same class in both."""

    count: int
    reals: float
    codes: float
    agreement: float


def total(parts: Sequence[Accuracy]) -> Accuracy:
    """Return the accuracy on all samples of several parts."""
    count = sum(p.count for p in parts)

    def share(of: Callable[[Accuracy], float]) -> float:
        return sum(of(p) * p.count for p in parts) / max(count, 1)

    return Accuracy(
        count, share(lambda p: p.reals), share(lambda p: p.codes), share(lambda p: p.agreement)
    )


def accuracy(floats: Network, coded: Network, samples: Samples, labels: Array) -> Accuracy:
    """Return how often the largest element of the last output is that of the label.

    Raises `InputError` unless there is one label a sample, each a class that the network has.
    """
    count, classes = len(next(iter(samples.values()))), math.prod(floats.outputs[-1].shape)
    if labels.shape != (count,):
        raise InputError(f"{count} samples need one label each; there are {list(labels.shape)}")
    if count and not (0 <= labels.min() <= labels.max() < classes):
        raise InputError(
            f"labels are {labels.min()} to {labels.max()}; {floats.name} has {classes} classes"
        )
    chosen: Mapping[Arithmetic, list[Array]] = {a: [] for a in Arithmetic}
    for part in batches(floats, samples):
        for network, arithmetic in ((floats, Arithmetic.REALS), (coded, Arithmetic.CODES)):
            y = evaluate(network, part, arithmetic=arithmetic)[network.outputs[-1]]
            chosen[arithmetic].append(y.reshape(len(y), -1).argmax(axis=1))
    a, b = (np.concatenate(chosen[k]) for k in (Arithmetic.REALS, Arithmetic.CODES))
    return Accuracy(
        count, float((a == labels).mean()), float((b == labels).mean()), float((a == b).mean())
    )
