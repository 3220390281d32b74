"""Train the last 1x1 convolution that TinyTrain's networks have and the published files lack.

    pip install torch pyarrow
    python tools/train_last_conv.py mbv2-w0.35 448 mini_imagenet.parquet OUT
    python tools/train_last_conv.py proxyless-w0.3 384 mini_imagenet.parquet OUT

MobileNetV2 and ProxylessNASNet of TinyTrain end in a 1x1 convolution to 448 and 384 channels.
The network stays frozen: its last maps, of each image and of its mirror image, are computed once,
by the int8 program.  On them a convolution with batch normalisation and ReLU6 learns, with the
mean over the map and a classifier, to tell the classes of the data apart (of split `train`, where
there are splits).  Both are quantised.

OUT becomes a model folder: `kilograd adapt --model OUT`.  A tenth of the images of each class is
held out; how many of these are recognised is printed, and part of the folder's provenance.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kilograd.data import Dataset, load_dataset, prepare
from kilograd.emit import link
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model, save_model, with_classifier, with_last_conv
from kilograd.frontend.variant import LAST_CONV
from kilograd.ir import Array, Builder, Graph, Node, Param, dead_code, fingerprint
from kilograd.layers.raised import quantised
from kilograd.output import make_folder
from kilograd.passes import EntryPoint
from kilograd.targets import build_host

BATCH = 64
HELD_OUT = 10  # each tenth image of a class


@dataclass(frozen=True)
class Maps:
    """Last maps, int8 [n, h, w, c], and labels [n]."""

    codes: NDArray[np.int8]
    labels: NDArray[np.int64]


class Head(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """The convolution, its normalisation, ReLU6, the mean over the map and a classifier."""

    def __init__(self, inputs: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, classes)

    def maps(self, maps: Tensor) -> Tensor:
        """Return what the convolution makes of maps, float32 [n, channels, h, w]."""
        return functional.relu6(self.norm(self.conv(maps)))

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits [n, classes]."""
        return self.classifier(self.maps(maps).mean((2, 3)))

    def parameters_of(self, graph: Graph) -> dict[str, Array]:
        """Return weights and biases of both layers by name, the normalisation in them."""
        with torch.no_grad():
            gain = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
            weight = (self.conv.weight * gain[:, None, None, None]).permute(0, 2, 3, 1)
            bias = self.norm.bias - self.norm.running_mean * gain
            linear = self.classifier.weight[:, None, None, :]
            found = (weight, bias, linear, self.classifier.bias)
        names = [n.name for layer in layers(graph) for n in layer.inputs[1:]]
        return {name: t.detach().numpy().copy() for name, t in zip(names, found, strict=True)}


def layers(graph: Graph) -> tuple[Node, Node]:
    """Return the last convolution and the classifier."""
    return graph[LAST_CONV], graph.outputs[1]


def last_maps(model: Model, dataset: Dataset, chosen: NDArray[np.int64]) -> tuple[Maps, Maps]:
    """Return the last maps of images, and of their mirror images, by the int8 program."""
    host = build_host(link({EntryPoint.INFER: up_to(model, last_map(model))}))
    plain: list[Array] = []
    mirrored: list[Array] = []
    for i in chosen:
        image = prepare(dataset.image(int(i)), model.preprocess)
        for out, view in ((plain, image), (mirrored, np.ascontiguousarray(image[:, ::-1]))):
            (codes,) = host.call(EntryPoint.INFER, image=view).values()
            out.append(np.array(codes))
    labels = dataset.labels[chosen]
    return Maps(np.stack(plain), labels), Maps(np.stack(mirrored), labels)


def last_map(model: Model) -> Node:
    """Return what the features are the mean of."""
    (node,) = model.graph.outputs[0].inputs
    return node


def up_to(model: Model, node: Node) -> Graph:
    """Return the part of the network that computes a node."""
    return dead_code(replace(model.graph, outputs=(node,)))


def split(dataset: Dataset, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return images to learn from, at most `images` of a class, and images held out."""
    learn: list[int] = []
    held: list[int] = []
    for label in range(len(dataset.classes)):
        own = np.flatnonzero(dataset.labels == label)
        if dataset.split is not None:
            own = np.array([i for i in own if dataset.split[i] == "train"], np.int64)
        own = own[:images]
        out = np.arange(len(own)) % HELD_OUT == HELD_OUT - 1
        learn += own[~out].tolist()
        held += own[out].tolist()
    if not held:
        raise InputError(
            f"{dataset.name}: no class has {HELD_OUT} images to learn from; give another set"
        )
    return np.array(learn), np.array(held)


def real(model: Model, maps: Maps) -> Tensor:
    """Return maps in real units, float32 [n, c, h, w]."""
    quant = last_map(model).type.affine
    codes = torch.from_numpy(maps.codes).float() - quant.zero_point
    return (codes * quant.scale[0]).permute(0, 3, 1, 2).contiguous()


def train(head: Head, maps: Tensor, labels: Tensor, epochs: int, rate: float, seed: int) -> None:
    """Teach the head: SGD with momentum, the rate falls as half a cosine."""
    optimizer = torch.optim.SGD(
        head.parameters(), rate, momentum=0.9, weight_decay=4e-5, nesterov=True
    )
    steps = epochs * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    rng = np.random.default_rng(seed)
    head.train()
    for epoch in range(epochs):
        order, loss = torch.from_numpy(rng.permutation(len(labels))), 0.0
        for at in range(0, len(labels) - BATCH + 1, BATCH):
            own = order[at : at + BATCH]
            value = functional.cross_entropy(head(maps[own]), labels[own], label_smoothing=0.1)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            loss += value.item() * BATCH / len(labels)
        print(f"epoch {epoch + 1}: loss {loss:.3f}", flush=True)
    head.eval()


def with_trained(model: Model, head: Head, maps: Tensor) -> Model:
    """Return the network with a trained head, quantised by what it makes of `maps`."""
    channels, classes = head.conv.out_channels, head.classifier.out_features
    grown = with_classifier(with_last_conv(model, channels), classes)
    trunk = up_to(model, last_map(model))
    alone = Builder()
    x = alone.input("maps", last_map(model).type)
    own = [n for n in grown.graph.nodes if n.name not in {t.name for t in trunk.nodes}]
    new = copied(alone, own, grown.graph, {last_map(model).name: x})
    small = alone.graph(*(new[o.name] for o in grown.graph.outputs))
    with torch.no_grad():
        hidden, logits = head.maps(maps), head(maps)
    ranges = {
        LAST_CONV: (0.0, hidden.max().item()),
        small.outputs[1].name: (logits.min().item(), logits.max().item()),
    }
    done = quantised(small, head.parameters_of(small), ranges)
    b = Builder(trunk)
    new = copied(b, done.nodes[1:], done, {"maps": last_map(model)})
    return replace(grown, graph=b.graph(*(new[o.name] for o in done.outputs)))


def copied(
    b: Builder, nodes: Iterable[Node], graph: Graph, known: Mapping[str, Node]
) -> dict[str, Node]:
    """Append nodes of a graph to a builder; `known` stand for what they read."""
    new = dict(known)
    for n in nodes:
        if isinstance(n.op, Param):
            new[n.name] = b.param(n.name, graph.data[n.name], n.type.affine, role=n.op.role)
        else:
            new[n.name] = b(n.op, *(new[x.name] for x in n.inputs), name=n.name)
    return new


def right(logits: Tensor, labels: NDArray[np.int64]) -> float:
    """Return the share of images that are recognised."""
    return float((logits.argmax(1).numpy() == labels).mean())


def main(
    model: Annotated[str, typer.Argument(help="A network, by name or folder.")],
    channels: Annotated[int, typer.Argument(help="448 for mbv2-w0.35, 384 for proxyless-w0.3.")],
    data: Annotated[Path, typer.Argument(help="Images with classes: a Parquet file or a folder.")],
    out: Annotated[Path, typer.Argument(help="A new folder for the network.")],
    images: Annotated[int, typer.Option(min=HELD_OUT, help="Images of a class, at most.")] = 600,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    rate: Annotated[float, typer.Option(min=0)] = 0.05,
    seed: int = 0,
) -> None:
    """Train the last convolution and write the network."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    begun, dataset = load_model(model), load_dataset(data)
    with_last_conv(begun, channels)  # refuses a network that has no place for it
    learn, held = split(dataset, images)
    make_folder(out, "graph.json")
    plain, mirrored = last_maps(begun, dataset, learn)
    test, _ = last_maps(begun, dataset, held)
    print(f"maps of {len(learn)} images, {time.perf_counter() - start:.0f} s", flush=True)
    head = Head(plain.codes.shape[-1], channels, len(dataset.classes))
    maps = torch.cat([real(begun, plain), real(begun, mirrored)])
    labels = torch.from_numpy(np.concatenate([plain.labels, mirrored.labels]))
    train(head, maps, labels, epochs, rate, seed)
    with torch.no_grad():
        score = right(head(real(begun, test)), test.labels)
    trained = replace(
        with_trained(begun, head, maps),
        name=out.name,
        title=f"{begun.title}, and a 1x1 convolution to {channels} channels trained on "
        f"{dataset.name}",
        training_classes=tuple(dict.fromkeys((*begun.training_classes, *dataset.classes))),
    )
    provenance = {
        "made_by": "tools/train_last_conv.py",
        "network": begun.name,
        "network_fingerprint": fingerprint(begun.graph),
        "data": dataset.name,
        "images": len(learn),
        "epochs": epochs,
        "rate": rate,
        "seed": seed,
        "held_out_accuracy": round(score, 4),
    }
    save_model(trained, out, provenance)
    print(f"{score:.1%} of {len(held)} images held out, {time.perf_counter() - start:.0f} s: {out}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as e:
        sys.exit(f"error: {e}")
