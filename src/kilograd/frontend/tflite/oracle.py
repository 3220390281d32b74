"""What other runtimes compute from a file: every value of its network, in a process of its own.

Of int8 files TensorFlow Lite Micro, whose reference kernels are what "bit exact" means here; of
float files LiteRT.
"""

from __future__ import annotations

import enum
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kilograd.errors import InputError
from kilograd.extras import Extra
from kilograd.frontend.tflite.builtin import Element
from kilograd.frontend.tflite.read import Reading, read_network
from kilograd.frontend.tflite.schema import FileTensor
from kilograd.ir import Array
from kilograd.layers.network import Value


class _Runtime(enum.Enum):
    """What computes: how people call it, how the script does, and the module that it needs."""

    TFLM = ("TFLM", "tflm", "tflite_micro")
    LITERT = ("LiteRT", "litert", "ai_edge_litert")


SECONDS = 600.0
"""A file may take so long."""

Named = Mapping[str, Array]
"""Arrays by the names of values, in their shapes: int8 codes, or float32."""


def runtime_values(
    path: Path, feeds: Sequence[Named], signature: str = "", seconds: float = SECONDS
) -> list[dict[str, Array]]:
    """Return for each feed, by name, the values that the file's own runtime computes.

    A value that no tensor of the file equals is left out.  A network that keeps frames is given
    those of a window one call after the other, and only what is as long in a call is returned.

    Raises `InputError` where the runtime is missing, or cannot run the file.
    """
    reading = read_network(path, signature)
    shapes = dict(_comparable(reading))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(path.read_bytes())
        wanted = sorted({reading.tensors[v] for v in shapes})
        arena = _arena(reading)
        np.savez(folder / "job.npz", arena=arena, wanted=wanted, windows=len(feeds))
        for i, feed in enumerate(feeds):
            arrays: dict[str, Any] = dict(_calls(reading, feed))
            np.savez(folder / f"in{i}.npz", **arrays)
        codes = any(v.quant for v in reading.network.outputs)
        _run(_Runtime.TFLM if codes else _Runtime.LITERT, folder, path, seconds)
        return [_values(folder / f"out{i}.npz", reading, shapes) for i in range(len(feeds))]


def _comparable(reading: Reading) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of values that a tensor of the file equals."""
    sizes = {t.number: t.size for op in reading.graph.operators for t in op.outputs}
    for layer in reading.network.layers:
        value = layer.output
        number = reading.tensors.get(value.name, -1)
        if sizes.get(number) == math.prod(value.shape):
            yield value.name, value.shape


def _arena(reading: Reading) -> int:
    """Return bytes of memory that suffice to keep all tensors."""
    tensors = {t for op in reading.graph.operators for t in op.outputs} | {*reading.graph.inputs}
    return (16 << 20) + 2 * sum(4 * t.size + 256 for t in tensors)


def _calls(reading: Reading, feed: Named) -> Iterator[tuple[str, Array]]:
    """Yield what each call is given for each input, in the types of the file."""
    for k, (value, tensor) in enumerate(
        zip(reading.network.inputs, reading.graph.inputs, strict=True)
    ):
        x = _as_in_file(value, tensor, feed[value.name])
        before = np.zeros(-x.size % tensor.size, x.dtype)  # a window may begin within a call
        whole = np.concatenate([before, x.reshape(-1)])
        for call, part in enumerate(whole.reshape(-1, tensor.size)):
            yield f"{call}_{k}", part.reshape(tensor.shape)


def _as_in_file(value: Value, tensor: FileTensor, x: Array) -> Array:
    """Return an input in the type of the file: codes that it takes as reals or as uint8."""
    if tensor.element is Element.UINT8:
        return (x.astype(np.int16) + 128).astype(np.uint8)
    if tensor.element is Element.FLOAT32 and value.quant is not None:
        real = (x.astype(np.float64) - value.quant.zero_point) * value.quant.scale[0]
        return real.astype(np.float32)
    return x


def _run(runtime: _Runtime, folder: Path, path: Path, seconds: float) -> None:
    name, word, module = runtime.value
    Extra.CHECK.load(module, f"{name}, which computes the same from the file,")
    script = Path(__file__).with_name("runtime_process.py")
    try:
        done = subprocess.run(
            [sys.executable, str(script), word, str(folder)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise InputError(
            f"{path}: {name} takes longer than {seconds:g} s; give a smaller one"
        ) from e
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise InputError(
            f"{path}: {name} cannot run it ({'; '.join(said[-2:])[-300:] or done.returncode}); "
            f"compare it with another runtime"
        )


def _values(
    file: Path, reading: Reading, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    with np.load(file) as arrays:
        found = {int(name): x for name, x in arrays.items()}
    return {name: found[reading.tensors[name]].reshape(shape) for name, shape in shapes.items()}
