"""Methods of the quantiser compared, on networks that were trained in float.

    python benchmarks/quantiser.py

- `resnet8`: MLPerf Tiny's float file, on cifar10; beside it MLPerf's own int8 file.
- `mobile` and `mobile-se`: small networks with depthwise convolutions and ReLU6, and with
  squeeze-and-excite and hard-swish, trained here in PyTorch on three quarters of fashion_mnist and
  sign_digits for 20 epochs, batch normalisation and all.
- `mbv2-w0.35`: the weights that its file `float.safetensors` has, on mini_imagenet; nothing is said
  of its 1000 classes there, so "right" is what the float network answers.

Each is calibrated on 128 samples, and tested on those that are neither learned nor calibrated on.
Codes are those of `Arithmetic.CODES`: rounded as a device would, but for ties.  Needs the model and
data folders, and models-found: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch
from rows import head, line
from script import script
from shared import SHARED, load_images, load_network
from torch import Tensor, nn
from torch.nn import functional

from kilograd.data import Dataset
from kilograd.frontend import Preprocess
from kilograd.frontend.tflite import read_tflite
from kilograd.frontend.torch_export import network_of
from kilograd.ir import Array
from kilograd.layers.calibrate import Calibration, Method
from kilograd.layers.evaluate import Arithmetic, evaluate
from kilograd.layers.network import Network
from kilograd.layers.quantise import Recipe, quantise
from kilograd.layers.raised import raised, real_parameters
from kilograd.layers.report import accuracy
from kilograd.layers.simplify import simplify

CALIBRATED = 128
EPOCHS, BATCH = 20, 64
PERCENTILES = (99.9, 99.99)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A float network, samples for its ranges, and others with labels."""

    name: str
    network: Network
    calibration: Array
    samples: Array
    labels: Array


# ---- networks ----


def _block(ins: int, out: int, stride: int, act: type[nn.Module], *, excite: bool) -> nn.Module:
    wide = 4 * ins
    layers = [
        nn.Conv2d(ins, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        act(),
        nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        act(),
        *([Excite(wide)] if excite else []),
        nn.Conv2d(wide, out, 1, bias=False),
        nn.BatchNorm2d(out),
    ]
    inner = nn.Sequential(*layers)
    return Residual(inner) if stride == 1 and ins == out else inner


class Residual(nn.Module):  # type: ignore[misc]
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Excite(nn.Module):  # type: ignore[misc]
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(functional.relu(self.down(x.mean((2, 3), keepdim=True))))
        return x * functional.hardsigmoid(gate)


def mobile(channels: int, classes: int, *, excite: bool) -> nn.Module:
    """Return an untrained network of five blocks."""
    act = nn.Hardswish if excite else nn.ReLU6
    widths = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1))
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        act(),
        *(_block(i, o, s, act, excite=excite) for i, o, s in widths),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, classes),
    )


def pixels(dataset: Dataset, size: int, chosen: Array) -> Array:
    """Return images as float32 [n, h, w, c], 0 to 255."""
    channels = 3
    how = Preprocess.square(size, size, channels)
    return np.stack([dataset.prepared(int(i), how) for i in chosen]).astype(np.float32) + 128


def trained(name: str, data: str, size: int, *, excite: bool) -> Case:
    """Train a network on three quarters of the images."""
    dataset = load_images(data)
    order = np.random.default_rng(0).permutation(len(dataset))
    learn, rest = np.split(order, [len(order) * 3 // 4])
    x = torch.from_numpy(pixels(dataset, size, learn) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(dataset.labels[learn].astype(np.int64))
    torch.manual_seed(0)
    net = mobile(3, len(dataset.classes), excite=excite)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.02)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(x), generator=generator).split(BATCH):
            if len(part) == BATCH:
                images = x[part]
                flipped = torch.rand(BATCH, generator=generator) < 0.5
                images = torch.where(flipped[:, None, None, None], images.flip(3), images)
                loss = functional.cross_entropy(net(images), y[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    network = simplify(network_of(net.eval(), torch.zeros(1, 3, size, size)))
    seen = pixels(dataset, size, learn[:CALIBRATED]) / 127.5 - 1
    new = pixels(dataset, size, rest) / 127.5 - 1
    return Case(f"{name}, {data}", network, seen, new, dataset.labels[rest])


def resnet8() -> tuple[Case, Network]:
    """Return MLPerf Tiny's float network, and its int8 one."""
    folder = SHARED / "models-found"
    floats = simplify(read_tflite(folder / "mlperf_resnet8_float.tflite"))
    theirs = simplify(read_tflite(folder / "mlperf_resnet8_int8.tflite"))
    dataset = load_images("cifar10")
    order = np.random.default_rng(0).permutation(len(dataset))
    x = pixels(dataset, 32, order)
    case = Case(
        "resnet8, cifar10",
        floats,
        x[:CALIBRATED],
        x[CALIBRATED:],
        dataset.labels[order[CALIBRATED:]],
    )
    return case, theirs


def mbv2() -> Case:
    """Return a published network."""
    model, dataset = load_network("mbv2-w0.35"), load_images("mini_imagenet")
    graph = dataclasses.replace(model.graph, outputs=model.graph.outputs[1:])
    network = raised(graph, real_parameters(graph))
    (image,) = network.inputs
    assert image.quant is not None
    chosen = np.random.default_rng(0).permutation(len(dataset))[: CALIBRATED + 128]
    x = np.stack([dataset.prepared(int(i), model.preprocess) for i in chosen])
    real = (x.astype(np.float32) - image.quant.zero_point) * np.float32(image.quant.scale[0])
    answers = np.concatenate(
        [
            answered(network, real[i : i + 32], Arithmetic.REALS)
            for i in range(CALIBRATED, len(x), 32)
        ]
    )
    return Case("mbv2-w0.35, mini_imagenet", network, real[:CALIBRATED], real[CALIBRATED:], answers)


def answered(network: Network, x: Array, arithmetic: Arithmetic) -> Array:
    (y,) = evaluate(network, {network.inputs[0].name: x}, arithmetic=arithmetic).values()
    return y.reshape(len(y), -1).argmax(axis=1)


# ---- methods ----


def recipes() -> Iterator[tuple[str, Recipe]]:
    methods = [
        ("min-max", Calibration(Method.MIN_MAX)),
        *((f"percentile {p:g}", Calibration(Method.PERCENTILE, p)) for p in PERCENTILES),
        ("mse", Calibration(Method.MSE)),
    ]
    for (name, calibration), correct in itertools.product(methods, (False, True)):
        yield f"{name}{', corrected' if correct else ''}", Recipe(calibration, correct)


def compare(case: Case) -> None:
    """Print a row for each method."""
    name = case.network.inputs[0].name
    for method, recipe in recipes():
        start = time.perf_counter()
        made = quantise(case.network, {name: case.calibration}, recipe)
        seconds = time.perf_counter() - start
        got = accuracy(case.network, made.network, {name: case.samples}, case.labels)
        last = made.report.layers[-1].sqnr
        cells = (
            f"{last:.1f}", f"{made.report.worst.sqnr:.1f}", f"{got.reals:.2%}",
            f"{got.codes:.2%}", f"{got.agreement:.2%}", f"{seconds:.1f}",
        )  # fmt: skip
        print(line(case.name, method, *cells), flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    columns = "method", "last layer dB", "worst dB", "float", "int8", "same answer", "seconds"
    print(head("network", *columns, texts=2))
    case, theirs = resnet8()
    compare(case)
    codes = np.concatenate(
        [
            answered(theirs, case.samples[i : i + 64], Arithmetic.CODES)
            for i in range(0, len(case.samples), 64)
        ]
    )
    right = float((codes == case.labels).mean())
    print(line(case.name, "MLPerf's int8 file", "", "", "", f"{right:.2%}", "", ""))
    compare(trained("mobile", "fashion_mnist", 28, excite=False))
    compare(trained("mobile-se", "sign_digits", 48, excite=True))
    compare(mbv2())


if __name__ == "__main__":
    script(main)
