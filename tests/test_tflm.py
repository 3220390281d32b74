"""The two interpreters that imported networks are compared with, on files made here."""

from __future__ import annotations

import numpy as np
import tflm
from tflm import Operator, Tensor, constant


def _dense() -> tuple[bytes, list[np.ndarray]]:
    s = tflm.schema()
    rng = np.random.default_rng(3)
    x = Tensor((1, 5), (0.5,), 3)
    w = constant(rng.integers(-127, 128, (4, 5)).astype(np.int8), 0.25)
    b = constant(rng.integers(-99, 99, 4).astype(np.int32), 0.125)
    y, z = Tensor((1, 4), (8.0,), -2), Tensor((1, 8), (8.0,), -2)
    join = s.ConcatenationOptionsT()
    join.axis = 1
    dense = Operator("FULLY_CONNECTED", [x, w, b], [y], s.FullyConnectedOptionsT())
    data = tflm.build([dense, Operator("CONCATENATION", [y, y], [z], join)], [x], [z, y])
    assert w.values is not None
    assert b.values is not None
    feeds = rng.integers(-128, 128, (2, 1, 5)).astype(np.int8)
    reals = [(f[0] - 3.0) * 0.5 @ w.values.T * 0.25 + b.values * 0.125 for f in feeds]
    return data, [feeds, np.clip(np.round(np.array(reals) / 8 - 2), -128, 127)]


def test_tflm_runs_a_file_that_a_test_made() -> None:
    data, (feeds, want) = _dense()
    for (z, y), codes in zip(tflm.tflm(data, *[[x] for x in feeds]), want, strict=True):
        assert np.array_equal(y[0], codes)
        assert np.array_equal(z, np.concatenate([y, y], 1))


def test_litert_keeps_every_tensor() -> None:
    data, (feeds, want) = _dense()
    for tensors, codes in zip(tflm.litert(data, *[[x] for x in feeds]), want, strict=True):
        assert np.array_equal(tensors[3][0], codes)
        assert tensors[4].shape == (1, 8)


def test_a_file_survives_being_taken_apart() -> None:
    data, (feeds, _) = _dense()
    again = tflm.packed(tflm.unpacked(data))
    assert np.array_equal(tflm.tflm(again, [feeds[0]])[0][1], tflm.tflm(data, [feeds[0]])[0][1])
