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

from kilograd.errors import InputError, shown
from kilograd.extras import Extra
from kilograd.frontend.onnx.file import Program, read_program, whole
from kilograd.frontend.onnx.reader import read_network
from kilograd.ir import Affine, Array
from kilograd.layers.network import Value

_SECONDS = 600
_PROGRAM = """
import json, sys
import numpy as np
import onnxruntime as ort
path, folder = sys.argv[1:]
names = json.load(open(f"{folder}/names.json"))
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
options.log_severity_level = 4
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
given = [np.load(f"{folder}/input{i}.npy") for i in range(len(names["inputs"]))]
rows = []
for row in zip(*given):
    feeds = {name: x[None] for name, x in zip(names["inputs"], row)}
    rows.append(session.run(names["wanted"], feeds))
for i, ys in enumerate(zip(*rows)):
    np.save(f"{folder}/output{i}.npy", np.stack(ys))
"""


def intermediates(path: Path, inputs: Mapping[str, Array]) -> dict[Value, Array]:
    """Return what ONNX Runtime makes of inputs: a batch for each value of `read_onnx(path)`.

    `inputs`: reals [n, ...] for each input of the network.  Values with codes come as int8, as
    in the network (uint8 minus 128), others as float32, each [n, *shape].  A value that the file
    does not hold by itself, as a clamp between a layer and its codes, is left out.

    Raises `InputError` where the file or the runtime refuses, or the package is missing.
    """
    Extra.CHECK.load("onnxruntime", f"{path}: comparing with ONNX Runtime")
    program = read_program(path)
    reading = read_network(program, path)
    made = {name for node in program.operators for name in node.outputs}
    wanted = {v: t for v in reading.network.values() if (t := reading.tensors[v.name]) in made}
    types = {x.name: x.dtype for x in program.inputs}
    feeds = {
        (name := reading.fed[v.name]): _given(inputs[v.name], v, dtype=types[name])
        for v in reading.network.inputs
    }
    with tempfile.TemporaryDirectory() as scratch:
        ys = _run(path, program, feeds, list(wanted.values()), Path(scratch))
    found = {v: feeds[reading.fed[v.name]] for v in reading.network.inputs}
    found |= dict(zip(wanted, ys, strict=True))
    return {v: _as_read(y, v) for v, y in found.items()}


def _given(x: Array, value: Value, *, dtype: int) -> Array:
    """Return a batch in the element type that the file takes."""
    x = x.reshape(-1, *value.shape)
    match dtype:
        case 2 | 3 if value.quant:
            q = np.rint(x / np.float32(value.quant.scale[0])) + value.quant.zero_point
            signed = np.clip(q, -128, 127).astype(np.int8)
            return signed if dtype == 3 else signed.view(np.uint8) ^ np.uint8(0x80)
        case 10:
            return x.astype(np.float16)
        case 11:
            return x.astype(np.float64)
        case _:
            return x.astype(np.float32)


def _run(
    path: Path,
    program: Program,
    feeds: Mapping[str, Array],
    wanted: Sequence[str],
    scratch: Path,
) -> list[Array]:
    """Run a copy of the file that holds all its numbers, and returns all that is wanted."""
    model = whole(path, program)
    there = {x.name for x in model.graph.output}
    for name in dict.fromkeys(wanted):
        if name not in there:
            model.graph.output.add().name = name
    names = {"inputs": list(feeds), "wanted": list(wanted)}
    (scratch / "names.json").write_text(json.dumps(names), encoding="utf-8")
    for i, x in enumerate(feeds.values()):
        np.save(scratch / f"input{i}.npy", x)
    (scratch / "net.onnx").write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", _PROGRAM, str(scratch / "net.onnx"), str(scratch)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise InputError(
            f"{path}: ONNX Runtime takes more than {_SECONDS} seconds; give fewer inputs"
        ) from e
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it crashed"]
        raise InputError(f"{path}: ONNX Runtime cannot run it ({shown(said[-1])[:400]})")
    return [np.load(scratch / f"output{i}.npy") for i in range(len(wanted))]


def _as_read(y: Array, value: Value) -> Array:
    """Return a tensor of the file as the value that it is in the network."""
    if y.dtype == np.uint8:
        y = (y ^ np.uint8(0x80)).view(np.int8)
    if value.quant is not None and y.dtype != np.int8:
        y = _codes(y, value.quant)
    return y.reshape(-1, *value.shape)


def _codes(y: Array, quant: Affine) -> Array:
    q = np.rint(y / np.float32(quant.scale[0])) + quant.zero_point
    return np.clip(q, -128, 127).astype(np.int8)
