"""How often a layer of ours and ONNX Runtime's give another code: docs/import-onnx.md.

    pip install onnx onnxruntime   # next to kilograd
    python benchmarks/onnx_codes.py NET.onnx ...   # int8, as quantize_static writes them

Each layer reads what ONNX Runtime computed before it, for two random inputs, so that no difference
is counted twice.  Layers of several inputs are left out: `kilograd import --check` has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rows import head, line
from script import script

from kilograd.frontend.files import read_network
from kilograd.frontend.onnx.oracle import runtime_values
from kilograd.ir import Array, interpret
from kilograd.layers.evaluate import codes
from kilograd.layers.lower import NoGraphError, lower
from kilograd.layers.network import Convolution, Curve, Dense, Layer, Mean, Network, Pool
from kilograd.layers.simplify import simplify

_LAYERS = (Convolution, Dense, Curve, Mean, Pool)


@dataclass
class Count:
    """Codes of one kind of layer: all, those that differ, and by how many codes at most."""

    all: int = 0
    differ: int = 0
    largest: int = 0


def alone(network: Network, layer: Layer) -> Network:
    return Network(
        layer.name, network.layout, layer.inputs, (layer.output,), (layer,), network.source
    )


def compared(
    network: Network, values: list[Mapping[str, Array]]
) -> Iterator[tuple[str, Array, Array]]:
    """Yield the kind of each layer, its codes, and those of ONNX Runtime, image by image."""
    for layer in network.layers:
        names = {v.name for v in (*layer.inputs, layer.output)}
        if not isinstance(layer.op, _LAYERS) or not names <= set(values[0]):
            continue
        try:
            graph = lower(alone(network, layer)).graph
        except NoGraphError:
            continue
        (image,) = graph.inputs()
        for found in values:
            x, y = (channels_last(found[v.name]) for v in (layer.inputs[0], layer.output))
            if x.size != image.type.size:
                break
            mine = interpret(graph, {image.name: x.reshape(image.type.shape)})
            made = np.asarray(mine[graph.outputs[1].name])
            yield type(layer.op).__name__, made.ravel().astype(int), y.ravel().astype(int)


def channels_last(x: Array) -> Array:
    return np.moveaxis(x, 0, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    counts: dict[str, Count] = {}
    for file in parser.parse_args().files:
        network = read_network(file)
        (given,) = network.inputs
        if given.quant is None:
            raise SystemExit(f"{file} has no codes")
        xs = codes(np.random.default_rng(4).normal(size=(2, *given.shape)), given.quant)
        feeds = [{given.name: x} for x in xs]
        values = [f | v for f, v in zip(feeds, runtime_values(file, feeds), strict=True)]
        for kind, mine, theirs in compared(simplify(network), values):
            count = counts.setdefault(kind, Count())
            count.all += mine.size
            count.differ += int((mine != theirs).sum())
            count.largest = max(count.largest, int(np.abs(mine - theirs).max()))
    print(head("layers", "codes", "differ", "by at most", texts=1))
    for kind, count in counts.items():
        print(line(kind, f"{count.all:,}", f"{count.differ:,}", f"{count.largest}"))


if __name__ == "__main__":
    script(main)
