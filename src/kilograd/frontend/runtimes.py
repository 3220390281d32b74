"""What a file's own runtime computes: TFLM, LiteRT, ONNX Runtime or PyTorch, value by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kilograd.errors import InputError
from kilograd.ir import Array
from kilograd.layers.evaluate import dequantised
from kilograd.layers.network import Network, Value


def runtime_of(path: Path, network: Network) -> str:
    """Return how people call what runs a file."""
    match path.suffix.lower():
        case ".tflite":
            return "TensorFlow Lite Micro" if network.quantised else "LiteRT"
        case ".onnx":
            return "ONNX Runtime"
    return "PyTorch"


def runtime_values(path: Path, network: Network, x: Array) -> dict[str, Array]:
    """Return what the runtime of a file makes of a batch for its input: by value, [n, ...] each.

    `network`: as it was read.  `x`: int8 codes where the input has a quantisation, else reals, in
    the axes of the file.  Codes come back for values that have a quantisation, else reals.

    Raises `InputError` where the runtime is missing or refuses the file, and for several inputs.
    """
    if len(network.inputs) != 1:
        raise InputError(
            f"{path}: has {len(network.inputs)} inputs; only files with one are checked"
        )
    (given,) = network.inputs
    match path.suffix.lower():
        case ".tflite":
            from kilograd.frontend.tflite.oracle import runtime_values as of_tflite

            return _stacked(of_tflite(path, [{given.name: one} for one in x]))
        case ".onnx":
            from kilograd.frontend.onnx.oracle import runtime_values as of_onnx

            return _stacked(of_onnx(path, [{given.name: one} for one in x]))
    from kilograd.frontend.torch_export import intermediates as of_torch
    from kilograd.frontend.torch_export import read_program

    found = of_torch(read_program(path), {given.name: _reals(x, given)})
    return {v.name: y for v, y in found.items()}


def _stacked(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _reals(x: Array, value: Value) -> Array:
    return x if value.quant is None else dequantised(x, value.quant).astype(np.float32)
