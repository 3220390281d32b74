"""What our quantisation loses: published networks dequantised, quantised again, and compared.

    python benchmarks/requantise.py --out again

Nothing is trained.  Calibrated on 256 images of the training classes of mini_imagenet, compared
on 512 others: the features by their mean cosine to those of the float network, the answers of the
1000-class classifier by how often they are the float network's.  Writes the networks as model
folders for `kilograd evaluate`.  Needs the model and data folders: KILOGRAD_SHARED, by default
../shared.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from rows import head, line
from script import script
from shared import load_images, load_network

from kilograd.frontend import save_model
from kilograd.ir import Array
from kilograd.offline.network import FloatNetwork, int8_graph, int8_outputs
from kilograd.offline.parts import CALIBRATION, divide_classes, prepared

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
TEST = 512


def cosine(a: Array, b: Array) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / lengths).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    parts = divide_classes(load_images("mini_imagenet"), ways=5, shots=5)
    columns = "features, published", "quantised again", "answers, published", "again"
    print(head("network", *columns, texts=1))
    for name in NETWORKS:
        model = load_network(name)
        network = FloatNetwork(model.graph)
        again = int8_graph(network, prepared(parts.learn, model.preprocess, CALIBRATION))
        folder = out / f"{name}-again"
        folder.mkdir(parents=True, exist_ok=True)
        save_model(replace(model, name=folder.name, graph=again), folder)
        images = prepared(parts.choose, model.preprocess, TEST)
        features, logits = network.infer(images)
        cells = [int8_outputs(graph, images) for graph in (model.graph, again)]
        near = [f"{cosine(f, features):.4f}" for f, _ in cells]
        same = [f"{(answers.argmax(1) == logits.argmax(1)).mean():.1%}" for _, answers in cells]
        print(line(name, *near, *same), flush=True)


if __name__ == "__main__":
    script(main)
