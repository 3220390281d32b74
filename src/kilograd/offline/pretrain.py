"""Ordinary supervised training of a whole network: where features come from."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional

from kilograd.data import Dataset
from kilograd.frontend import Model, Preprocess, with_classifier
from kilograd.ir import Array
from kilograd.offline.folder import Accuracy, Finished, agree, finish
from kilograd.offline.loop import Batch, Lesson, Session, train
from kilograd.offline.network import FloatNetwork, int8_graph, int8_outputs, last_layers
from kilograd.offline.parts import CALIBRATION, divide_images, prepared
from kilograd.offline.settings import Pretraining
from kilograd.offline.views import view_of


def pretrain(
    out: Path,
    model: Model,
    dataset: Dataset,
    how: Pretraining,
    session: Session = Session(),  # noqa: B008 frozen
) -> Finished:
    """Train a network with a new classifier for the classes of a set; write a model folder.

    Interrupted, the same call goes on where it was.  Raises `InputError` as `train` and `agree` do,
    and where the set is too small.
    """
    start = time.perf_counter()
    parts = divide_images(dataset)
    begun = with_classifier(model, len(parts.learn.classes), how.views.seed)
    network = _network(begun, how).to(session.device)
    agree(out, model, (dataset,), how)
    choose, report = (prepared(p, model.preprocess) for p in (parts.choose, parts.report))
    batches = _Shuffled(parts.learn, model.preprocess, how)
    lesson = Lesson(
        network,
        batches,
        partial(_loss, network),
        lambda: _right(network.infer(choose)[1], parts.choose.labels),
    )
    history = train(lesson, how.course(batches.per_epoch), out, session)
    graph = int8_graph(network, prepared(parts.learn, model.preprocess, CALIBRATION))
    finished = Finished(
        name=out.resolve().name,
        classes=len(parts.learn.classes),
        learned=len(parts.learn),
        reported=len(parts.report),
        before=None,
        after=Accuracy(
            _right(network.infer(report)[1], parts.report.labels),
            _right(int8_outputs(graph, report)[1], parts.report.labels),
        ),
        history=history,
        seconds=round(time.perf_counter() - start, 1),
    )
    seen = parts.learn.classes if how.fresh else (*model.training_classes, *parts.learn.classes)
    title = f"{model.title}, trained on {dataset.name}"
    trained = replace(begun, title=title, graph=graph, training_classes=tuple(dict.fromkeys(seen)))
    finish(out, trained, finished)
    return finished


def _network(begun: Model, how: Pretraining) -> FloatNetwork:
    """Return what is trained: what shall learn asks for gradients."""
    random = how.views.seed if how.fresh else None
    network = FloatNetwork(begun.graph, random, begun.name)
    if how.last is not None:
        network.learn([*last_layers(begun, how.last), begun.graph.outputs[1].name])
    return network


def _loss(network: FloatNetwork, batch: tuple[Tensor, ...]) -> Tensor:
    images, labels = batch
    value: Tensor = functional.cross_entropy(network(images)[1], labels)
    return value


@dataclass(frozen=True)
class _Shuffled:
    """Batches of random views; every image once an epoch, but for a rest smaller than a batch."""

    dataset: Dataset
    preprocess: Preprocess
    how: Pretraining

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self.dataset) // self.how.batch)

    def __call__(self, step: int) -> Batch:
        """Return images, int8 [n, h, w, c], and labels."""
        views, size = self.how.views, self.how.batch
        epoch, place = divmod(step, self.per_epoch)
        order = np.argsort(views.rng(0, epoch).random(len(self.dataset)), kind="stable")
        chosen = order[place * size : (place + 1) * size]
        rng = views.rng(1, step)
        images = [view_of(self.dataset, int(i), self.preprocess, views, rng) for i in chosen]
        return np.stack(images), self.dataset.labels[chosen]


def _right(logits: Array, labels: Array) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
