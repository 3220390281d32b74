"""How sure a prediction is, and below which confidence an image is of none of the classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kilograd.ir import Array
from kilograd.learn.samples import Samples
from kilograd.passes import EntryPoint, Head, PrototypeHead
from kilograd.targets import Driver, HostProgram

_LOST = 0.1
"""The share of known images that a threshold may cost, if the support is a fair sample."""
_SLACK = 0.1
"""By how much of its way to chance the threshold of a classifier is lowered: it has learned the
very images that it is chosen on (docs/results/studies/unknown.md)."""
_MOST = 1024
"""Images of a support that a threshold is chosen on, evenly spaced."""


def confidences(logits: Array, head: Head) -> NDArray[np.float64]:
    """Return how sure the most likely class of each row of logits [n, ways] is, in 0 ... 1.

    With prototypes: the cosine of the features and the nearest prototype, 0 for an angle of more
    than a right one.  With a classifier: the probability by softmax.
    """
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    if isinstance(head, PrototypeHead):
        return np.clip(top / head.scale, 0, 1)
    return 1 / np.exp(wide - top[:, None]).sum(axis=1)


def threshold(host: HostProgram, head: Head, support: Samples) -> float | None:
    """Return below which confidence an image is of none of the classes; `None`: cannot be said.

    `host` has learned from the support.  Two kinds of image are known.  An image of the support
    whose own share of its prototype is left out stands for one of a known class.  The same image
    with its class left out stands for one of an unknown class.  The threshold keeps nine in ten of
    the former, but it is never nearer to them than to the latter: what has been learned from looks
    more sure than what will come.  Where no class has two images, it is the median of the latter.
    """
    step = -(-len(support.labels) // _MOST)
    some = Samples(support.images[::step], support.labels[::step])
    ways = range(len(some.labels))
    if isinstance(head, PrototypeHead):
        logits, alone = _left_out(host, head, support, some)
    else:
        logits = np.stack([Driver(host).infer(x) for x in some.images]).astype(np.float64)
        alone = np.zeros(len(some.labels), bool)
    known = confidences(logits[~alone], head)
    if logits.shape[1] < 2:
        return _rounded(float(np.quantile(known, _LOST))) if known.size else None
    others = np.stack([np.delete(logits[i], some.labels[i]) for i in ways])
    unknown = float(np.median(confidences(others, head)))
    if not known.size:
        return _rounded(unknown)
    found = min(float(np.quantile(known, _LOST)), (float(np.median(known)) + unknown) / 2)
    if not isinstance(head, PrototypeHead):
        chance = 1 / logits.shape[1]
        found = chance + (1 - _SLACK) * (found - chance)
    return _rounded(found)


def _rounded(found: float) -> float:
    """Round to what is the same on every machine."""
    return round(found, 4)


def _left_out(
    host: HostProgram, head: PrototypeHead, support: Samples, some: Samples
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the logits of images, each without its share of its prototype [n, ways].

    And which images are the only ones of their class, so that nothing is left of its prototype.
    The program is left as it was.
    """
    state = host.state["head.prototypes"]
    kept, prototypes = state.copy(), state.astype(np.float64)
    features = _features(host, some)
    state[...] = kept
    counts = np.bincount(support.labels, minlength=len(prototypes))
    logits = np.empty((len(features), len(prototypes)))
    for i, (x, way) in enumerate(zip(features, some.labels.tolist(), strict=True)):
        left = prototypes.copy()
        left[way] -= x
        lengths = np.sqrt((left**2).sum(axis=1) * (x**2).sum())
        dots = (left * x).sum(axis=1)
        cosines = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
        logits[i] = head.scale * cosines
    return logits, counts[some.labels] < 2


def _features(host: HostProgram, samples: Samples) -> NDArray[np.float64]:
    """Return the features of each image: what it alone makes of a prototype."""
    driver, found = Driver(host), []
    for image in samples.images:
        host.call(EntryPoint.FORGET)
        host.call(EntryPoint.ENROL, **driver.show(image), label=np.zeros(1, np.int32))
        found.append(host.state["head.prototypes"][0].astype(np.float64))
    return np.stack(found)
