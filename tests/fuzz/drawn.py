"""Networks of any geometry whose parts fit each other."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save

from fuzz.case import Case
from fuzz.mutate import TEXTS

WAYS = 3
"""Classes of every network and program."""

_ENDS = (
    0,
    127,
    128,
    255,
    256,
    32767,
    32768,
    40_000,
    65_535,
    65_537,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
)


class Drawn:
    """Draws a network whose parts fit each other, with one number or two at an end of its range."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.wild = 0.06 if rng.random() < 0.7 else 0.0
        self.tensors: dict[str, Any] = {}
        self.ops: list[dict[str, Any]] = []

    def number(self, *usual: int, most: int = 1 << 40) -> int:
        """Draw a number, at times an extreme one."""
        if self.rng.random() < self.wild:
            return self.rng.choice([x for x in _ENDS if x <= most])
        return self.rng.choice(usual)

    def scale(self, usual: float) -> float:
        if self.rng.random() < self.wild:
            return self.rng.choice((1e-38, 1e-30, 1e-9, 1e9, 1e17, 1e38, 1e-46, 3e-10))
        return usual * self.rng.choice((0.5, 1.0, 1.5))

    def out(self) -> dict[str, Any]:
        return {"scale": self.scale(0.05), "zero_point": self.rng.choice((-128, -7, 0, 9, 127))}

    def files(self) -> Case:
        """Return the folder."""
        c, side = self.number(1, 3, most=40_000), self.number(4, 6, 8, 9, most=256)
        first = {"tensor": "input", "shape": [c, side, side], **self.out()}
        preprocess = {"preprocess": {"resize_shorter_side": self.number(max(side, 1) + 1)}}
        x, shape = "input", (c, side, side)
        for i in range(self.rng.choice((1, 1, 2, 3))):
            shape = self.layer(f"conv{i}", x, shape)
            x = f"conv{i}.out"
            if self.rng.random() < 0.3:
                self.op("add", f"add{i}", [x, x], shape)
                x = f"add{i}.out"
        self.op("avgpool", "pool", [x], (shape[0], 1, 1))
        self.layer("classifier", "pool.out", (shape[0], 1, 1), linear=True)
        d = {
            "format": 1,
            "name": "drawn",
            "title": "Drawn",
            "input": first | preprocess,
            "files": {"int8": "model.safetensors"},
            "ops": self.ops,
            "outputs": {"features": "pool.out", "logits": "classifier.out"},
        }
        text = json.dumps(d)
        if self.rng.random() < 0.1:
            name = json.dumps(self.rng.choice(TEXTS))
            text = text.replace('"name": "conv0"', f'"name": {name}')
        return {"graph.json": text.encode(), "model.safetensors": save(self.tensors)}

    def op(
        self, kind: str, name: str, inputs: list[str], shape: tuple[int, ...], **more: Any
    ) -> None:
        record = {"type": kind, "name": name, "inputs": inputs, "output": f"{name}.out"}
        self.ops.append({**record, "out_shape": list(shape), "out": self.out(), **more})

    def layer(
        self, name: str, x: str, shape: tuple[int, int, int], *, linear: bool = False
    ) -> tuple[int, int, int]:
        """Append a convolution and its parameters."""
        c, h, w = shape
        depthwise = not linear and self.rng.random() < 0.3
        out = c if depthwise else WAYS if linear else self.number(1, 2, 5, 16, 17, most=40_000)
        pad = [0] * 4 if linear else [self.number(0, 0, 1, 2) for _ in range(4)]
        kernel = [1, 1] if linear else [self.number(1, 2, 3, 5, most=40_000) for _ in range(2)]
        step = 1 if linear else self.number(1, 1, 2, 3)
        sides = [
            (n + a + b - k) // max(step, 1) + 1
            for n, a, b, k in zip((h, w), pad[::2], pad[1::2], kernel, strict=True)
        ]
        fan = (1 if depthwise else c) * math.prod(kernel)
        taps = () if linear else tuple(kernel)
        size = (out, 1 if depthwise else c, *taps)
        if math.prod(size) > 1 << 21:  # the file need not hold what it says
            size = (1,) * len(size)
        weight = f"{name}.weight"
        self.tensors |= {
            weight: self.values(np.int8, size),
            f"{name}.bias": self.values(np.int32, (min(out, 1 << 16),)),
            f"{weight}_scale": np.full(
                min(out, 1 << 16), self.scale(0.03 / math.sqrt(fan or 1)), "f4"
            ),
        }
        parameters = {
            "weight": {"tensor": weight, "scale_tensor": f"{weight}_scale"},
            "bias": {"tensor": f"{name}.bias"},
            "in_channels": c,
            "out_channels": out,
        }
        window = {
            "kernel": kernel,
            "stride": [step, step],
            "padding": pad,
            "groups": c if depthwise else 1,
        }
        kind = "linear" if linear else "depthwise_conv" if depthwise else "conv"
        made = (out, *sides)
        self.op(
            kind, name, [x], (out,) if linear else made, **parameters, **({} if linear else window)
        )
        return out, sides[0], sides[1]

    def values(self, kind: Any, size: tuple[int, ...]) -> Any:
        """Draw numbers: all of a range, or all at an end."""
        rng = np.random.default_rng(self.rng.getrandbits(32))
        ends = np.iinfo(kind)
        if self.rng.random() < 0.15:
            return np.full(size, self.rng.choice((ends.min, ends.max, 0)), kind)
        top = 127 if kind is np.int8 else self.rng.choice((100, 5000, ends.max))
        return rng.integers(-top, top, size, kind, endpoint=True)
