"""Ranges of activations, from samples of the data that a network is for."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from kilograd.errors import InputError, option
from kilograd.ir import Affine, Array
from kilograd.layers.evaluate import computed, dequantised
from kilograd.layers.network import Network, Value

Range = tuple[float, float]
"""The least and the largest real value that a code stands for."""

Samples = Mapping[str, Array]
"""Real numbers for each input by name, [n, ...]."""

FEW = 8
"""Fewer samples than this are hardly all that a network meets."""

LEAST_SCALE = 2.0**-24
"""What has a smaller one is zero to a network; fixed point could not say it."""

_BINS = 2048
_SHARES = np.linspace(1, 0.25, 46)[1:]  # of a range, tried instead of the whole
_ROUNDS = 2
_AT_ONCE = 1 << 24  # elements of a value in a batch
_BATCH = 64


class Method(enum.StrEnum):
    """How the range of an activation follows from what was observed."""

    MIN_MAX = "min-max"  # all of it
    PERCENTILE = "percentile"  # a share of the elements at either end is left out
    MSE = "mse"  # the range with the least mean squared error of the codes


@dataclass(frozen=True)
class Calibration:
    """A method, and for `PERCENTILE` the percentage of the elements that must fit at either end."""

    method: Method = Method.MIN_MAX
    percentile: float = 99.99

    def __post_init__(self) -> None:
        """Check the percentage; raises `InputError`."""
        if not 50 < self.percentile <= 100:
            raise InputError(
                f"{option('percentile')} {self.percentile:g}: must be above 50 and at most 100"
            )


def affine(observed: Range, *, one_sided: bool = False) -> Affine:
    """Return the quantisation of a range; zero always has a code.

    `one_sided`: nothing is below zero, and the zero point is -128.  Else it is not: the gradient
    takes a code at either end for one that a clamp has changed.

    >>> affine((0, 6), one_sided=True) == Affine((6 / 255,), -128)
    True
    >>> affine((-1, 1)), affine((0, 0)).scale == (1 / 255,)
    (Affine(scale=(0.00784313725490196,), zero_point=0, axis=None, unit=1.0), True)
    """
    low, high = min(observed[0], 0.0), max(observed[1], 0.0)
    if high - low < 255 * LEAST_SCALE:  # a dead map: any scale will do
        return Affine((1 / 255,), -128 if one_sided else -127)
    if one_sided:
        return Affine((high / 255,), -128) if high else affine((0, 0), one_sided=True)
    scale = (high - low) / 255
    return Affine((scale,), int(np.clip(round(-128 - low / scale), -127, 127)))


def checked(network: Network, samples: Samples) -> tuple[str, ...]:
    """Return what is doubtful about samples, a sentence each; raises `InputError` if they are bad.

    Shapes must be those of the inputs behind the number of samples, numbers finite, and not all
    the same.
    """
    for v in network.inputs:
        if v.name not in samples:
            raise InputError(f"calibration: no samples for the input {v.name!r}")
        _check_input(v, samples[v.name])
    counts = {v.name: len(samples[v.name]) for v in network.inputs}
    if len(set(counts.values())) > 1:
        raise InputError(f"calibration: inputs have different numbers of samples: {counts}")
    (count, *_) = counts.values()
    doubts = []
    if count < FEW:
        noun = "one sample" if count == 1 else f"{count} samples"
        doubts.append(
            f"calibrated on {noun}: ranges may be too narrow for others; give {FEW} or more"
        )
    if count > 1 and all((samples[v.name] == samples[v.name][:1]).all() for v in network.inputs):
        doubts.append(f"all {count} calibration samples are the same")
    return tuple(doubts)


def _check_input(v: Value, x: Array) -> None:
    if x.shape[1:] != v.shape or not x.ndim:
        raise InputError(
            f"calibration: samples of {v.name!r} have the shape {list(x.shape)}; "
            f"give [n, {', '.join(map(str, v.shape))}]"
        )
    if not len(x):
        raise InputError(f"calibration: no samples of {v.name!r}; give {FEW} or more")
    bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    if len(bad):
        raise InputError(
            f"calibration: sample {bad[0]} of {v.name!r} has numbers that are not finite"
        )
    if x[0].size > 1 and (x == x.flat[0]).all():
        raise InputError(
            f"calibration: all numbers of {v.name!r} are {x.flat[0]:g}; "
            "give samples of the data that the network is for"
        )


def batches(network: Network, samples: Samples) -> Iterator[dict[str, Array]]:
    """Yield samples in parts that fit into memory, float32."""
    largest = max(math.prod(v.shape) for v in network.values())
    step = max(1, min(_BATCH, _AT_ONCE // max(largest, 1)))
    count = len(next(iter(samples.values())))
    for i in range(0, count, step):
        yield {k: x[i : i + step].astype(np.float32) for k, x in samples.items()}


def ranges(
    network: Network, samples: Samples, calibration: Calibration | None = None
) -> dict[Value, Range]:
    """Return the range of each value of a float network.

    Raises `InputError` where a layer computes something that is no finite number.
    """
    whole: dict[Value, Range] = {}
    for part in batches(network, samples):
        for v, x in computed(network, part):
            low, high = whole.get(v, (math.inf, -math.inf))
            whole[v] = min(low, float(x.min())), max(high, float(x.max()))
            if not np.isfinite(whole[v]).all():
                raise InputError(
                    f"{network.name}: {v.name!r} has numbers that are not finite "
                    "for the calibration samples; look at the weights before it"
                )
    calibration = calibration or Calibration()
    if calibration.method is Method.MIN_MAX:
        return whole
    histograms = {v: _Histogram(r) for v, r in whole.items()}
    for part in batches(network, samples):
        for v, x in computed(network, part):
            histograms[v].add(x)
    if calibration.method is Method.PERCENTILE:
        return {v: h.percentile(calibration.percentile) for v, h in histograms.items()}
    return {v: h.least_error() for v, h in histograms.items()}


@dataclass
class _Histogram:
    """How often elements lie in each of equal parts of a range."""

    whole: Range
    counts: Array = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, x: Array) -> None:
        low, high = self.whole
        if low < high:
            self.counts += np.histogram(x, _BINS, (low, high))[0]

    def percentile(self, percentage: float) -> Range:
        """Return the range without the few elements beyond a percentage at either end."""
        low, high = self.whole
        total = self.counts.sum()
        if not total:
            return self.whole
        left_out = total * (1 - percentage / 100)
        below, above = np.cumsum(self.counts), np.cumsum(self.counts[::-1])
        step = (high - low) / _BINS
        first = int(np.searchsorted(below, left_out, side="right"))
        last = int(np.searchsorted(above, left_out, side="right"))
        return low + first * step, high - last * step

    def least_error(self) -> Range:
        """Return the range, the whole or shares of it at either end, with the least error."""
        low, high = self.whole
        if not self.counts.any():
            return self.whole
        middle = low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS

        def error(r: Range) -> float:
            quant = affine(r, one_sided=r[0] >= 0)
            q = np.clip(np.rint(middle / quant.scale[0]) + quant.zero_point, -128, 127)
            return float(self.counts @ (dequantised(q, quant) - middle) ** 2)

        best = self.whole
        for _, side in itertools.product(range(_ROUNDS), range(2)):
            ends = [float(best[side]), *(float(self.whole[side] * s) for s in _SHARES)]
            tried = [(e, best[1]) if side == 0 else (best[0], e) for e in ends]
            best = min(tried, key=error)
        return best
