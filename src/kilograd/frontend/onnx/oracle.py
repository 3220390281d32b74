"""What ONNX Runtime computes of a file, tensor by tensor: the oracle of `kilograd import --check`.

It runs in a process of its own, which a file may crash, and without graph optimisations: then every
tensor is computed as ONNX defines it, whatever else is asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kilograd.errors import InputError
from kilograd.extras import Extra
from kilograd.frontend.onnx.file import Declared, Program, read_program, whole
from kilograd.frontend.onnx.reader import read_network
from kilograd.ir import Affine, Array
from kilograd.layers.network import Value

SECONDS = 600.0
"""A file may take so long."""

Named = Mapping[str, Array]
"""Arrays by the names of values, in their shapes: int8 codes, or float32."""

_PROGRAM = """
import json, sys
import numpy as np
import onnxruntime as ort
folder = sys.argv[1]
job = json.load(open(f"{folder}/job.json"))
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
options.log_severity_level = 4
providers = ["CPUExecutionProvider"]
session = ort.InferenceSession(f"{folder}/net.onnx", options, providers=providers)
for i in range(job["feeds"]):
    feeds = {x: np.load(f"{folder}/in{i}_{k}.npy") for k, x in enumerate(job["inputs"])}
    for k, y in enumerate(session.run(job["wanted"], feeds)):
        np.save(f"{folder}/out{i}_{k}.npy", y)
"""


def runtime_values(
    path: Path, feeds: Sequence[Named], seconds: float = SECONDS
) -> list[dict[str, Array]]:
    """Return for each feed, by name, the values of `read_onnx(path)` as ONNX Runtime computes them.

    A value that no tensor of the file equals, as what a Concat brings to its scale, is left out.

    Raises `InputError` where the runtime is missing, or cannot run the file.
    """
    Extra.CHECK.load("onnxruntime", "ONNX Runtime, which computes the same from the file,")
    program = read_program(path)
    reading = read_network(program, path)
    made = {name for node in program.operators for name in node.outputs}
    values = [v for v in reading.network.values() if reading.tensors[v.name] in made]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(
            path,
            program,
            [reading.tensors[v.name] for v in values],
            list(reading.fed.values()),
            folder,
            len(feeds),
        )
        types = {x.name: x for x in program.inputs}
        for i, feed in enumerate(feeds):
            for k, v in enumerate(reading.network.inputs):
                np.save(
                    folder / f"in{i}_{k}.npy",
                    _as_in_file(feed[v.name], v, types[reading.fed[v.name]]),
                )
        _run(path, folder, seconds)
        return [
            {v.name: _as_read(np.load(folder / f"out{i}_{k}.npy"), v) for k, v in enumerate(values)}
            for i in range(len(feeds))
        ]


def _as_in_file(x: Array, value: Value, declared: Declared) -> Array:
    """Return an input in the shape and type of the file, with the axis of the batch."""
    shape = tuple(d if isinstance(d, int) else 1 for d in declared.shape)
    match declared.dtype:
        case 2:
            return (x.astype(np.int8).view(np.uint8) ^ np.uint8(0x80)).reshape(shape)
        case 3:
            return x.astype(np.int8).reshape(shape)
        case _ if value.quant is not None:
            x = (x.astype(np.float64) - value.quant.zero_point) * value.quant.scale[0]
    return x.astype(_FLOATS[declared.dtype]).reshape(shape)


_FLOATS = {1: np.float32, 10: np.float16, 11: np.float64}


def _write(
    path: Path, program: Program, wanted: list[str], inputs: list[str], folder: Path, feeds: int
) -> None:
    """Write what the process reads: a copy of the file that returns all that is wanted."""
    model = whole(path, program)
    there = {x.name for x in model.graph.output}
    for name in dict.fromkeys(wanted):
        if name not in there:
            model.graph.output.add().name = name
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    job = {"inputs": inputs, "wanted": wanted, "feeds": feeds}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def _run(path: Path, folder: Path, seconds: float) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise InputError(
            f"{path}: ONNX Runtime takes longer than {seconds:g} s; give a smaller one"
        ) from e
    if done.returncode:
        said = "; ".join(done.stderr.strip().splitlines()[-1:])[-300:] or done.returncode
        raise InputError(f"{path}: ONNX Runtime cannot run it ({said}); check it with onnx.checker")


def _as_read(y: Array, value: Value) -> Array:
    """Return a tensor of the file as the value that it is in the network."""
    if y.dtype == np.uint8:
        y = (y ^ np.uint8(0x80)).view(np.int8)
    if value.quant is not None and y.dtype != np.int8:
        y = _codes(y, value.quant)
    return y.reshape(value.shape)


def _codes(y: Array, quant: Affine) -> Array:
    q = np.rint(y / np.float32(quant.scale[0])) + quant.zero_point
    return np.clip(q, -128, 127).astype(np.int8)
