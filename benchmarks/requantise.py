"""What our quantisation loses: published networks dequantised, quantised again, and compared.

    export KILOGRAD_SHARED=... KILOGRAD_MODELS=$KILOGRAD_SHARED/models
    python benchmarks/requantise.py --out again

Nothing is trained.  Calibrated on 256 images of the training classes of mini_imagenet, compared
on 512 others: the features by their mean cosine to those of the float network, the answers of the
1000-class classifier by how often they are the float network's.  Writes the networks as model
folders for `kilograd evaluate`.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from kilograd.data import load_dataset
from kilograd.frontend import load_model, save_model
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
    data = Path(os.environ["KILOGRAD_SHARED"], "data", "mini_imagenet.parquet")
    parts = divide_classes(load_dataset(data), ways=5, shots=5)
    print("| network | features, published | quantised again | answers, published | again |")
    print("|---|---:|---:|---:|---:|")
    for name in NETWORKS:
        model = load_model(name)
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
        print("|", " | ".join([name, *near, *same]), "|", flush=True)


if __name__ == "__main__":
    main()
