"""Files of TFLite: numbers and offsets anywhere in them."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import tflite_files

from fuzz.case import Case, Target
from kilograd.errors import InputError
from kilograd.frontend.tflite import Learned, read_tflite, write_tflite
from kilograd.layers.evaluate import evaluate
from kilograd.layers.network import Convolution, Dense, Network
from kilograd.limits import MAP_ELEMENTS

_NAME = "net.tflite"
_SPECIAL = (0, 1, 2, 4, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_KINDS = "BHIf"


class Lite(Target):
    """Every operator that is read, with its tables, lengths and offsets changed."""

    share = 2.0
    deep = 10
    sample = 250

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.seeds = [tflite_files.everything(int8).build() for int8 in (False, True)]
        self.seeds.append(tflite_files.streaming())
        for branch in tflite_files.BRANCHES:
            f = tflite_files.File(int8=True)
            f.outputs.extend(branch(f))
            self.seeds.append(f.build())

    def make(self, rng: Random) -> Case:
        data = bytearray(rng.choice(self.seeds))
        for _ in range(rng.choice((1, 1, 2, 5))):
            kind = rng.choice(_KINDS)
            size = struct.calcsize(kind)
            at = rng.randrange(8, len(data) - size) // size * size
            (now,) = struct.unpack_from(f"<{kind}", data, at)
            if kind == "f":
                value: float = rng.choice((0.0, -1.0, 1e30, 1e-40, float("nan"), float("inf")))
            else:
                near = now + rng.choice((-8, -4, -1, 1, 4, 8))
                other = int.from_bytes(data[at ^ 16 : (at ^ 16) + size], "little")
                value = rng.choice((*_SPECIAL, near, other)) % (1 << 8 * size)
            struct.pack_into(f"<{kind}", data, at, value)
        if rng.random() < 0.05:
            del data[rng.randrange(len(data)) :]
        return {_NAME: bytes(data)}

    def check(self, folder: Path, *, deep: bool) -> None:
        network = read_tflite(folder / _NAME)
        for layer in network.layers:
            assert layer.name.isprintable(), f"a name that no terminal should get: {layer.name!r}"
        _write_back(folder, network)
        size = sum(int(np.prod(v.shape)) for v in network.values())
        assert size < MAP_ELEMENTS * len(network.layers)
        if deep and size < 1 << 16:
            feeds = {v.name: np.zeros((1, *v.shape), np.float32) for v in network.inputs}
            with np.errstate(all="ignore"):
                found = evaluate(network, feeds)
            for value, y in found.items():
                assert y.shape == (1, *value.shape), f"another shape than said: {value.name}"


def _write_back(folder: Path, network: Network) -> None:
    """Write other weights into the file; they must be what is read then."""
    learned = {}
    for layer in network.layers:
        if isinstance(layer.op, Convolution | Dense):
            weight = layer.op.weight
            learned[layer.name] = Learned(replace(weight, values=-weight.values), layer.op.bias)
    for name, one in learned.items():
        try:
            data = write_tflite(folder / _NAME, {name: one})
        except InputError:
            continue
        (folder / "new.tflite").write_bytes(data)
        again = read_tflite(folder / "new.tflite").layers
        found = next(x.op for x in again if x.name == name)
        assert isinstance(found, Convolution | Dense)
        same = found.weight.values.tobytes() == one.weight.values.tobytes()
        assert same, "other weights than were written"
        break
