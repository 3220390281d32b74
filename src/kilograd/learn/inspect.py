"""What the images to learn from say of the channels of a network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping

import numpy as np

from kilograd.data import augmented
from kilograd.emit import link
from kilograd.errors import InputError
from kilograd.frontend import Model
from kilograd.ir import Array, Graph
from kilograd.learn.samples import Samples
from kilograd.learn.training import enrol
from kilograd.ops import Sgd
from kilograd.passes import (
    AccumulatorError,
    LimitError,
    PrototypeHead,
    Training,
    entries,
    inspection,
)
from kilograd.select import Inspect, Selection
from kilograd.select.selection import weights
from kilograd.settings import Schedule
from kilograd.targets import Driver, HostProgram, Sample, build_host


def inspector(
    model: Model,
    support: Samples,
    schedule: Schedule,
    programs: MutableMapping[Hashable, HostProgram] | None = None,
) -> Inspect:
    """Return what asks a support about channels, on integers, once for each question.

    As TinyTrain does it: prototypes of the support, then the loss of an augmented view of each of
    its images, one sample at a time.

    `programs`: those that were built to ask other supports of the same network; more are added.
    """
    head = PrototypeHead(int(support.labels.max()) + 1, model.cosine_scale)
    built = {} if programs is None else programs

    def program(key: Hashable, graphs: Callable[[], Mapping[str, Graph]]) -> HostProgram:
        if (key, head) not in built:
            built[key, head] = _build(model, graphs)
        built[key, head].reset()
        return built[key, head]

    def views(driver: Driver) -> Iterator[Sample]:
        rng = np.random.default_rng(schedule.seed)
        for image, label in zip(support.images, support.labels, strict=True):
            yield driver.show(augmented(image, rng, schedule.augment)), label

    @functools.cache
    def fisher(layers: tuple[str, ...]) -> Mapping[str, Array]:
        host = program(("fisher", layers), lambda: inspection(model.graph, head, layers))
        enrol(host, support)
        driver = Driver(host)
        for shown, label in views(driver):
            driver.inspect(shown, label)
        count = np.float32(len(support.labels))
        return {name: host.state[f"{name}.fisher"] / count for name in layers}

    @functools.cache
    def steps(layers: tuple[str, ...]) -> Mapping[str, Array]:
        learn = Selection(weights(layers)).by_name
        training = Training(head, Sgd(0), learn, train_head=False, accumulate=True)
        host = program(("steps", layers), lambda: entries(model.graph, training))
        enrol(host, support)
        driver = Driver(host)
        sums = {name: host.state[f"{name}.weight.sum"] for name in layers}
        squares = {k: np.zeros_like(_rows(model, k, v)) for k, v in sums.items()}
        for shown, label in views(driver):
            driver.accumulate(shown, label)
            for name, gradient in sums.items():
                squares[name] += _rows(model, name, gradient) ** 2
                gradient[...] = 0
        rms = {k: np.sqrt(v.mean(axis=1) / len(support.labels)) for k, v in squares.items()}
        scales = {k: np.array(model.graph[f"{k}.weight"].type.affine.scale) for k in layers}
        return {k: (schedule.lr * v / scales[k]).astype(np.float32) for k, v in rms.items()}

    return Inspect(fisher, steps)


def _build(model: Model, graphs: Callable[[], Mapping[str, Graph]]) -> HostProgram:
    try:
        return build_host(link(graphs()))
    except (AccumulatorError, LimitError) as e:
        raise InputError(f"{model.name} cannot be asked about its channels: {e}") from e


def _rows(model: Model, layer: str, gradient: Array) -> Array:
    """View a gradient of weights as float64 [output channels, weights of one]."""
    axis = model.graph[f"{layer}.weight"].type.affine.axis or 0
    rows = np.moveaxis(gradient, axis, 0)
    return rows.reshape(len(rows), -1).astype(np.float64)
