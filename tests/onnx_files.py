"""ONNX files for tests, and what ONNX Runtime computes of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="ONNX files need the package onnx")
helper = onnx.helper

Array = np.ndarray[Any, Any]


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """Return a node; names of tensors stand between blanks, `-` for one that is left out."""
    names = ["" if x == "-" else x for x in inputs.split()]
    return helper.make_node(
        kind, names, outputs.split(), name=f"n_{outputs.split(maxsplit=1)[0]}", **attributes
    )


def model(
    nodes: Sequence[Any],
    shape: Sequence[int | str],
    constants: Mapping[str, Any] = {},
    *,
    opset: int = 18,
    outputs: str = "y",
) -> Any:
    """Return a model that makes `y` of a float input `x`."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info(y, 1, None) for y in outputs.split()],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(made: Any, folder: Path) -> Path:
    """Write a model, as it is."""
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def run(path: Path, x: Array, *, optimised: bool = False) -> list[Array]:
    """Return what ONNX Runtime makes of an input."""
    ort = pytest.importorskip("onnxruntime", reason="what is right is asked of onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options)
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def quantised(
    made: Any,
    folder: Path,
    *,
    per_channel: bool = True,
    unsigned: bool = False,
    unsigned_weights: bool = False,
    images: int = 4,
    **extra: Any,
) -> Path:
    """Write a model as onnxruntime's `quantize_static` does, QDQ, calibrated on random numbers."""
    pytest.importorskip("onnxruntime", reason="quantising is done by onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        shape = [max(1, d.dim_value) for d in made.graph.input[0].type.tensor_type.shape.dim]
        rng = np.random.default_rng(3)
        given = iter([{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(images)])

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, Array] | None:
                return next(given, None)

        source = saved(made, folder)
        path = folder / "int8.onnx"
        quantize_static(
            str(source),
            str(path),
            Reader(),
            per_channel=per_channel,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QUInt8 if unsigned_weights else QuantType.QInt8,
            extra_options=extra,
        )
    return path
