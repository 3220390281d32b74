"""What the images to learn from say of the channels of a network."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from kilograd.emit import link
from kilograd.frontend import Model
from kilograd.ir import Array
from kilograd.learn.adapt import Samples, enrol
from kilograd.learn.augment import Augment, augmented
from kilograd.passes import PrototypeHead, inspection
from kilograd.select import Inspect
from kilograd.targets import build_host


def inspector(model: Model, support: Samples, augment: Augment, seed: int) -> Inspect:
    """Return what computes Fisher information from a support, on integers, once for each question.

    As TinyTrain does it: prototypes of the support, then the loss of an augmented view of each of
    its images, one sample at a time.
    """
    ways = int(support.labels.max()) + 1

    @functools.cache
    def inspect(layers: tuple[str, ...]) -> Mapping[str, Array]:
        host = build_host(link(inspection(model.graph, PrototypeHead(ways), layers)))
        enrol(host, support)
        rng = np.random.default_rng(seed)
        for image, label in zip(support.images, support.labels, strict=True):
            view = augmented(image, rng, augment)
            host.call("inspect", image=view, label=np.array([label]))
        count = len(support.labels)
        return {name: host.state[f"{name}.fisher"] / np.float32(count) for name in layers}

    return inspect
