"""Networks in files of other tools, a folder of them: docs/import-tflite.md.

    pip install tflite-micro ai-edge-litert onnx onnxruntime   # next to kilograd
    python benchmarks/imported.py FOLDER [--suffix .tflite]

Says of each file whether it is imported or why not, what it is, how long that took, and how many of
all values that the file's own runtime computes for two random inputs are not the same.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rows import head, line
from script import script

from kilograd.checking import Checked, check
from kilograd.errors import InputError
from kilograd.frontend.files import SUFFIXES, read_network
from kilograd.layers.network import Convolution, Dense, Network
from kilograd.layers.simplify import simplify


@dataclass(frozen=True)
class Row:
    """A file: `answer` is how it compares with its runtime, or why it is not imported."""

    name: str
    kind: str
    shape: str
    layers: int
    parameters: int
    macs: int
    seconds: float
    answer: str

    def line(self) -> str:
        """Return the row of a table."""
        if not self.kind:
            return line(f"`{self.name}`", *[""] * 6, self.answer)
        size = f"{self.parameters / 1000:,.1f}", f"{self.macs / 1e6:,.2f}"
        facts = [self.kind, self.shape, f"{self.layers}", *size, f"{self.seconds:.2f}"]
        return line(f"`{self.name}`", *facts, self.answer)


COLUMNS = (
    *("file", "numbers", "input", "layers", "parameters, k", "MACs, M", "import, s"),
    "its own runtime",
)


def measured(file: Path) -> Row:
    """Import a file and compare it."""
    start = time.perf_counter()
    try:
        read = read_network(file)
        network = simplify(read)
    except InputError as e:
        return Row(file.name, "", "", 0, 0, 0, 0, f"not imported: {why(e)}")
    seconds = time.perf_counter() - start
    given = network.inputs[0]  # int8 also where the file takes floats and quantises them
    try:
        answer = told(check(file, samples=2))
    except InputError as e:
        answer = f"not compared: {why(e)}"
    parameters, macs = size(network)
    kind = "float32" if given.quant is None else "int8"
    shape = "×".join(map(str, read.inputs[0].shape))
    layers = len(network.layers)
    return Row(file.name, kind, shape, layers, parameters, macs, seconds, answer)


def why(error: InputError) -> str:
    """Return what is refused, in short: operators without their layers."""
    items = [re.sub(r" \(.*?\):", ":", x) for x in error.items]
    more = f" and {len(items) - 2} more" if len(items) > 2 else ""
    return "; ".join(items[:2]) + more if items else str(error).partition(": ")[2]


def told(found: Checked) -> str:
    """Return how a network compares."""
    count = sum(x.count for x in found.layers)
    differ = sum(x.differ for x in found.layers)
    if not differ:
        return f"same, {count:,} values" if found.quantised else f"within 1e-4, {count:,} values"
    worst = max(x.largest for x in found.layers)
    return f"{differ:,} of {count:,} values differ, by {worst:.3g} at most"


def size(network: Network) -> tuple[int, int]:
    """Return parameters, and multiply-accumulates of weights."""
    parameters = macs = 0
    for layer in network.layers:
        if isinstance(layer.op, Convolution | Dense):
            weight, bias = layer.op.weight.values, layer.op.bias
            parameters += weight.size + (0 if bias is None else bias.values.size)
            macs += weight.size * math.prod(layer.output.shape) // len(weight)
    return parameters, macs


def files(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files of networks in a folder."""
    for file in sorted(folder.iterdir()):
        if file.suffix in SUFFIXES and file.suffix.startswith(suffix):
            yield file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suffix", default="", help="only files that end in it")
    asked = parser.parse_args()
    print(head(*COLUMNS, texts=3))
    for file in files(asked.folder, asked.suffix):
        print(measured(file).line(), flush=True)


if __name__ == "__main__":
    script(main)
