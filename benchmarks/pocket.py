r"""Features of bundled and published networks on sets that no training of ours saw.

    python benchmarks/pocket.py
    python benchmarks/pocket.py --networks mcunet-5fps --size 64
    python benchmarks/pocket.py --networks pocket --checkpoint STATE/finish-*/step-*.pt

Nearest prototypes by cosine, five classes, five images of each, before any learning; the int8
program of each network.  `pixels` are those that `pocket` sees.  With --checkpoint the float
network of tools/pretrain_pocket.py, too.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from script import script
from shared import load_images, load_network

from kilograd.data import Dataset, sample_episode
from kilograd.frontend import Model, Preprocess, resized
from kilograd.intervals import interval
from kilograd.offline.metatrain import accuracy
from kilograd.offline.network import FloatNetwork, int8_outputs
from kilograd.offline.parts import prepared

SETS = (
    "gtsrb",
    "flowers89",
    "dtd10",
    "cifar100",
    "pacs",
    "neu_surface",
    "cifar10",
    "mini_imagenet",
)
Features = Callable[[NDArray[np.int8]], NDArray[np.float32]]


def main(
    networks: str = "pocket,mcunet-5fps",
    episodes: int = 100,
    size: int | None = None,
    checkpoint: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Print a row for each network, in per cent."""
    models = [load_network(name) for name in networks.split(",")]
    models = models if size is None else [resized(m, size) for m in models]
    small = load_network("pocket").preprocess
    ways: list[tuple[str, Preprocess, Features]] = [("pixels, 64 px", small, _pixels)]
    if checkpoint is not None:
        ways.append(("pocket, float32", small, _float(checkpoint)))
    ways += [(f"{m.name}, int8, {m.preprocess.size} px", m.preprocess, _int8(m)) for m in models]
    rows: dict[str, list[list[float]]] = {name: [] for name, *_ in ways}
    for name in SETS:
        dataset = _unseen(load_images(name))
        drawn = [
            sample_episode(dataset, ways=5, shots=5, queries=15, seed=e) for e in range(episodes)
        ]
        for way, preprocess, features in ways:
            found = features(prepared(dataset, preprocess))
            rows[way].append([accuracy([e], found) for e in drawn])
    print("| features |", " | ".join(SETS), "| mean |")
    print("|---|" + "---:|" * (len(SETS) + 1))
    for way, scores in rows.items():
        means = [f"{100 * np.mean(s):.1f}" for s in scores]
        wide = interval([100 * x for s in scores for x in s]).half
        print(f"| {way} |", " | ".join(means), f"| {100 * np.mean(scores):.1f} ± {wide:.1f} |")


def _unseen(dataset: Dataset) -> Dataset:
    """Return a set; of mini_imagenet the test classes, which its splits divide."""
    if dataset.name != "mini_imagenet" or dataset.split is None:
        return dataset
    keep = np.flatnonzero(np.array(dataset.split) == "test")
    return dataclasses.replace(
        dataset,
        images=tuple(dataset.images[i] for i in keep),
        image_names=tuple(dataset.image_names[i] for i in keep),
        labels=dataset.labels[keep],
        split=None,
    )


def _pixels(images: NDArray[np.int8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)


def _int8(model: Model) -> Features:
    return lambda images: int8_outputs(model.graph, images)[0]


def _float(checkpoint: Path) -> Features:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
    from pretrain_pocket import architecture

    network = FloatNetwork(architecture().graph, fresh=0)
    content = checkpoint.read_bytes()[:-32]  # behind it stands a checksum
    network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True)["network"])
    return lambda images: network.infer(images)[0]


if __name__ == "__main__":
    script(lambda: typer.run(main))
