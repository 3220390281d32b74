"""Exported programs of PyTorch: the zip file damaged, or its JSON."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401 registers quantize_per_tensor
from torch.nn import functional as F  # noqa: N812 as its users call it

from fuzz.case import Case, Target
from fuzz.layers import check_layers
from fuzz.mutate import flipped, mutated_json
from kilograd.frontend.torch_export import read_pt2


class _Floats(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU6(inplace=True))
        self.b = nn.Conv2d(4, 4, 3, padding="same", groups=4)
        self.c = nn.Linear(4, 2)
        self.register_buffer("order", torch.tensor([1, 0, 3, 2]))

    def forward(self, x: Any) -> Any:
        x = self.a(x / 2 - 0.1)
        p, q = x.chunk(2, 1)
        y = torch.cat([q, p], 1)[:, self.order].view(1, 2, 2, 4, 4).transpose(1, 2).flatten(1, 2)
        x = x + self.b(y) * F.hardsigmoid(F.adaptive_avg_pool2d(y, 1))
        x = F.avg_pool2d(F.max_pool2d(F.pad(x, (1, 0, 1, 0)), 2, ceil_mode=True), 3, 1, 1)
        x = F.interpolate(x[:, :, 1:], scale_factor=2)
        return self.c(F.dropout(x.mean((2, 3)), training=False)), torch.clamp(x, 0, 1)


class _Codes(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.ones((4, 3, 1, 1), dtype=torch.int8))
        self.register_buffer("scales", torch.full((4,), 0.1))
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.int64))
        self.bias = nn.Parameter(torch.ones(4))

    def forward(self, x: Any) -> Any:
        def coded(x: Any, *given: Any) -> Any:
            given = (*given, -128, 127, torch.int8)
            return library.dequantize_per_tensor(library.quantize_per_tensor(x, *given), *given)

        library = torch.ops.quantized_decomposed
        whole = (self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
        w = library.dequantize_per_channel(*whole)
        x = coded(F.relu(F.conv2d(coded(x, 0.1, 3), w, self.bias)), 0.2, -128)
        return coded(F.max_pool2d(x, 2), 0.2, -128)


def _saved(kind: Callable[[], nn.Module]) -> dict[str, bytes]:
    """Return the members of a module's file that are read; the same each time."""
    buffer = io.BytesIO()
    with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        program = torch.export.export(kind().eval(), (torch.zeros(1, 3, 8, 8),))
        torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as made:
        names = (n for n in made.namelist() if ".data" not in n and "sample_inputs" not in n)
        return {n: made.read(n) for n in names}


def _zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, data in members.items():
            new.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


class Exported(Target):
    """Networks in `.pt2` files: what is accepted has layers whose shapes fit."""

    sample = 300

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.seeds = [_saved(_Floats), _saved(_Codes)]

    def make(self, rng: Random) -> Case:
        members = dict(rng.choice(self.seeds))
        if rng.random() < 0.2:
            return {"net.pt2": flipped(rng, _zipped(members))}
        chosen = rng.choice(("/models/", "/models/", "/models/", "_weights", "_constants"))
        for name in (n for n in members if chosen in n):
            members[name] = mutated_json(rng, members[name])
        return {"net.pt2": _zipped(members)}

    def check(self, folder: Path, *, deep: bool) -> None:
        check_layers(read_pt2(folder / "net.pt2"))
