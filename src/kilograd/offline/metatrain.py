"""Learning to learn from few images: ProtoNet episodes on the classes of a source set.

Snell et al. 2017, with cosine similarity and a learned scale (Hu et al. 2022), as TinyTrain has it:
what the prototype head of a device program then does with the features, in float.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kilograd import limits
from kilograd.data import (
    Dataset,
    Episode,
    EpisodeKind,
    sample_episode,
    sample_meta_episode,
    shared_classes,
)
from kilograd.frontend import COSINE_SCALE, Model, Preprocess
from kilograd.ir import Array, Graph, dead_code
from kilograd.offline.folder import Accuracy, Finished, agree, finish
from kilograd.offline.loop import Batch, Lesson, Session, train
from kilograd.offline.network import FloatNetwork, int8_graph, int8_outputs, last_layers
from kilograd.offline.parts import CALIBRATION, Parts, divide_classes, prepared
from kilograd.offline.settings import Metatraining
from kilograd.offline.views import view_of


class ProtoNet(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A network whose features are compared with the mean features of each class.

    `scale`: what cosines are multiplied by at the start.
    """

    def __init__(self, network: FloatNetwork, scale: float = COSINE_SCALE) -> None:
        super().__init__()
        self.network = network
        self.scale = nn.Parameter(torch.tensor(scale))

    def learned_scale(self) -> float:
        """Return what cosines are multiplied by now, as far as a program can do so."""
        most = limits.SHARPNESS
        return float(np.float32(np.clip(self.scale.item(), 1 / most, most)))

    def forward(self, images: Tensor, labels: Tensor, shots: int) -> Tensor:
        """Return the scaled cosines of all images but the first `shots`, which are the support.

        The prototypes learn too.  Labels are 0 ... k - 1, each in the support; the result is
        [n - shots, k].
        """
        features = self.network(images)[0]
        support, query = features[:shots], features[shots:]
        member = functional.one_hot(labels[:shots]).T.to(support.dtype)
        prototypes = member @ support / member.sum(dim=1, keepdim=True)
        cosines = functional.normalize(query) @ functional.normalize(prototypes).T
        scaled: Tensor = self.scale * cosines
        return scaled

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the cross entropy of an episode: images, labels, the size of the support."""
        images, labels, shots = batch
        n = int(shots)
        value: Tensor = functional.cross_entropy(self(images, labels, n), labels[n:])
        return value


def metatrain(
    out: Path,
    model: Model,
    dataset: Dataset,
    how: Metatraining,
    other: Dataset | None = None,
    session: Session = Session(),  # noqa: B008 frozen
) -> Finished:
    """Train a network on episodes; write a model folder.

    `other`: a set to validate with, in place of held-out classes of the same.

    Where no epoch is better than the start, the network stays as it is.  Interrupted, the same
    call goes on where it was.  Raises `InputError` as `train` and `agree` do, and where a set has
    too few classes or images.
    """
    start = time.perf_counter()
    parts = divide_classes(dataset, how.ways, how.shots, other)
    _mention_shared(parts, session)
    module = _module(model, how.last).to(session.device)
    agree(out, model, (dataset,) if other is None else (dataset, other), how)
    exam = _Exam(parts.choose, model.preprocess, how)
    batches = _Episodes(parts.learn, model.preprocess, how)
    lesson = Lesson(module, batches, module.loss, lambda: exam.of_float(module.network))
    history = train(lesson, how.course(), out, session)
    if history.best:
        trained = replace(
            _quantised(model, module.network, parts.learn),
            title=f"{model.title}, meta-trained on {dataset.name}",
            cosine_scale=module.learned_scale(),
        )
    else:
        session.say("no epoch was better than the start: the network stays as it was")
        trained = model
    finished = Finished(
        name=out.resolve().name,
        classes=len(parts.learn.classes),
        learned=len(parts.learn),
        reported=len(parts.choose),
        before=Accuracy(history.start, exam.of_int8(model.graph)),
        after=Accuracy(exam.of_float(module.network), exam.of_int8(trained.graph)),
        history=history,
        seconds=round(time.perf_counter() - start, 1),
        cosine_scale=trained.cosine_scale,
    )
    finish(out, trained, finished)
    return finished


def _mention_shared(parts: Parts, session: Session) -> None:
    """Say which classes are both learned and tested."""
    if seen := shared_classes(parts.learn.classes, parts.choose.classes):
        session.say(
            f"{len(seen)} classes of {parts.choose.name} are learned, and are no test of learning "
            f"new ones: {', '.join(seen)}"
        )


def _module(model: Model, last: int | None) -> ProtoNet:
    """Return the network up to its features; what shall learn asks for gradients."""
    features = dead_code(replace(model.graph, outputs=model.graph.outputs[:1]))
    network = FloatNetwork(features, name=model.name)
    network.learn(model.layers if last is None else last_layers(model, last))
    return ProtoNet(network, model.cosine_scale)


def _quantised(model: Model, features: FloatNetwork, learned: Dataset) -> Model:
    """Return the whole network with what its features have learned, as int8."""
    whole = FloatNetwork(model.graph, name=model.name).to(features.device())
    whole.take(features)
    known = dict.fromkeys((*model.training_classes, *learned.classes))
    graph = int8_graph(whole, prepared(learned, model.preprocess, CALIBRATION))
    return replace(model, graph=graph, training_classes=tuple(known))


class _Exam:
    """Fixed episodes, and every image of the set that they are from."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess, how: Metatraining) -> None:
        self._episodes = [
            sample_episode(dataset, ways=how.ways, shots=how.shots, queries=how.queries, seed=e)
            for e in range(how.validation_episodes)
        ]
        self._images = prepared(dataset, preprocess)

    def of_float(self, network: FloatNetwork) -> float:
        """Return the accuracy of a network that computes features in float."""
        return accuracy(self._episodes, network.infer(self._images)[0])

    def of_int8(self, graph: Graph) -> float:
        """Return that of its int8 program."""
        return accuracy(self._episodes, int8_outputs(graph, self._images)[0])


def accuracy(episodes: list[Episode], features: Array) -> float:
    """Return the mean accuracy of nearest prototypes, by cosine, over episodes.

    `features`: of every image of the set, [n, d].
    """
    scores = []
    for e in episodes:
        prototypes = np.stack(
            [
                features[[i for i, k in zip(e.support, e.support_labels, strict=True) if k == c]]
                .sum(axis=0)
                for c in range(len(e.classes))
            ]
        )  # fmt: skip
        lengths = np.linalg.norm(prototypes, axis=1)
        cosines = features[list(e.query)] @ prototypes.T / np.where(lengths > 0, lengths, 1)
        scores.append((cosines.argmax(axis=1) == np.array(e.query_labels)).mean())
    return float(np.mean(scores))


@dataclass(frozen=True)
class _Episodes:
    """An episode a step, in random views."""

    dataset: Dataset
    preprocess: Preprocess
    how: Metatraining

    def __call__(self, step: int) -> Batch:
        """Return images, int8 [n, h, w, c], labels, and how many of them are the support."""
        how = self.how
        seed = (how.views.seed << 32) + step
        episode = (
            sample_meta_episode(self.dataset, seed=seed)
            if how.episode is EpisodeKind.META_DATASET
            else sample_episode(
                self.dataset, ways=how.ways, shots=how.shots, queries=how.queries, seed=seed
            )
        )
        rng = how.views.rng(2, step)
        images = [
            view_of(self.dataset, i, self.preprocess, how.views, rng)
            for i in (*episode.support, *episode.query)
        ]
        labels = np.array((*episode.support_labels, *episode.query_labels), np.int64)
        return np.stack(images), labels, np.array(len(episode.support))
