"""Networks from torchvision and timm, imported: which ones can be, and how exactly.

    python benchmarks/torch_networks.py [NAME ...]

Each network has weights that PyTorch draws from seed 0, statistics of batch norm from a batch of
noise, and is exported at 96 x 96 pixels.  What Kilograd's layers compute in float32 is compared
with PyTorch, tensor by tensor, on four images of noise; and what they compute when simplified, at
the output.  `int8_ops` counts the ops of the graph that comes out, with scales as if all numbers
were in -1 ... 1.  Rows go to docs/results/data/torch-networks.csv; networks that have a row are
left out, so that the script goes on where it was stopped.  Needs torch; networks of torchvision and
timm where they are.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from script import script
from torch import nn

from kilograd.errors import InputError
from kilograd.frontend.imported import sketched
from kilograd.frontend.torch_export import Program, intermediates, program_from, translated
from kilograd.layers.evaluate import computed, evaluate
from kilograd.layers.lower import NoGraphError, lower
from kilograd.layers.network import Convolution, Dense, Network
from kilograd.layers.simplify import simplify

OUT = Path(__file__).parents[1] / "docs" / "results" / "data" / "torch-networks.csv"
FIELDS = (
    *("source", "network", "imported", "layers", "parameters", "macs"),
    *("largest_difference", "at", "output_difference", "simplified_layers"),
    *(
        "simplified_difference",
        "export_s",
        "import_s",
        "simplify_s",
        "int8_ops",
        "lower_s",
        "reasons",
    ),
)
IMAGES = 4
TORCHVISION = (
    *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "resnet18"),
    *("efficientnet_b0", "mnasnet0_5", "regnet_x_400mf"),
)
TIMM = (
    *("mobilenetv4_conv_small", "tinynet_e", "mobileone_s0", "repvgg_a0", "convnext_atto"),
    *("mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv1_100", "lcnet_050", "ghostnet_050"),
    *("fbnetc_100", "efficientnet_lite0", "mixnet_s", "hardcorenas_a", "edgenext_xx_small"),
    *("repghostnet_050", "efficientvit_b0"),
)


class ResNet8(nn.Module):
    """Three blocks, as MLPerf Tiny's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.first, self.second, self.third = Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.third(self.second(self.first(self.stem(x))))
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Block(nn.Module):
    """Two convolutions, and a third beside them where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.beside = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.beside(x))


class Keywords(nn.Module):
    """A keyword spotter over time: [n, features, steps]."""

    def __init__(self) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for i, o, stride in ((40, 64, 2), (64, 64, 1), (64, 96, 2)):
            steps += [nn.Conv1d(i, i, 9, stride, 4, groups=i), nn.Conv1d(i, o, 1, bias=False)]
            steps += [nn.BatchNorm1d(o), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*steps)
        self.classifier = nn.Linear(96, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean(-1))


def networks() -> list[tuple[str, str, Callable[[], nn.Module], tuple[int, ...]]]:
    """List source, name, how it is made, and the shape of its input."""
    shape = (3, 96, 96)
    out: list[tuple[str, str, Callable[[], nn.Module], tuple[int, ...]]] = [
        ("own", "resnet8", ResNet8, (3, 32, 32)),
        ("own", "keywords_1d", Keywords, (40, 98)),
    ]
    if importlib.util.find_spec("torchvision"):
        declare_nms()
        from torchvision import models

        for name in TORCHVISION:
            more = {"width_mult": 0.35} if name == "mobilenet_v2" else {}
            out.append(("torchvision", name, lambda n=name, m=more: getattr(models, n)(**m), shape))
    if importlib.util.find_spec("timm"):
        import timm

        out += [
            ("timm", n, lambda n=n: timm.create_model(n, pretrained=False), shape) for n in TIMM
        ]
    return out


def declare_nms() -> None:
    """Let torchvision be imported where it is built for another PyTorch than the one here."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        try:
            library.define(schema)
        except RuntimeError:  # it is there, as it should be
            return
    LIBRARIES.append(library)


LIBRARIES: list[torch.library.Library] = []


def measure(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, object]:
    """Return the columns of a network's row."""
    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        module.train()(torch.randn(IMAGES, *shape))
    module.eval()
    start = time.perf_counter()
    program = program_from(module, torch.zeros(1, *shape))
    exported = time.perf_counter()
    row: dict[str, object] = {"export_s": f"{exported - start:.1f}"}
    try:
        network = translated(program)
    except InputError as e:
        return {**row, "imported": "no", "reasons": "; ".join(map(str.strip, str(e).splitlines()))}
    row |= {"imported": "yes", "import_s": f"{time.perf_counter() - exported:.2f}"}
    start = time.perf_counter()
    plain = simplify(network)
    row |= {"simplify_s": f"{time.perf_counter() - start:.2f}"}
    row |= about(network) | compared(program, network) | lowered(plain)
    return row | compared_plain(program, network, plain)


def lowered(plain: Network) -> dict[str, object]:
    """Return how many ops a network has in int8, or what none computes."""
    start = time.perf_counter()
    try:
        ops = len(lower(sketched(plain)).graph.nodes)
    except NoGraphError as e:
        return {"int8_ops": "no", "reasons": "; ".join(e.reasons)}
    return {"int8_ops": ops, "lower_s": f"{time.perf_counter() - start:.2f}"}


def about(network: Network) -> dict[str, object]:
    """Return how large a network is."""
    parameters = macs = 0
    for layer in network.layers:
        if isinstance(layer.op, Convolution | Dense):
            parameters += layer.op.weight.values.size
            pixels = layer.output.shape[1:] if isinstance(layer.op, Convolution) else (1,)
            macs += layer.op.weight.values.size * int(np.prod(pixels))
    return {"layers": len(network.layers), "parameters": parameters, "macs": macs}


def compared(program: Program, network: Network) -> dict[str, object]:
    """Return the largest difference over the largest number, of tensors and of the output."""
    rng = np.random.default_rng(0)
    inputs = {v.name: rng.standard_normal((1, *v.shape), dtype=np.float32) for v in network.inputs}
    worst, at, last = 0.0, "", 0.0
    for _ in range(IMAGES):
        wanted = intermediates(program, inputs)
        for value, y in computed(network, inputs):
            if value in wanted:
                x = wanted[value]
                difference = float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-30))
                worst, at = max((worst, at), (difference, value.name))
                if value in network.outputs:
                    last = max(last, difference)
        inputs = {n: rng.standard_normal(x.shape, dtype=np.float32) for n, x in inputs.items()}
    return {"largest_difference": f"{worst:.1e}", "at": at, "output_difference": f"{last:.1e}"}


def compared_plain(program: Program, network: Network, plain: Network) -> dict[str, object]:
    """Return the largest difference of the first output when simplified, which is a vector."""
    rng = np.random.default_rng(1)
    (shape,) = (program.tensors[n].shape[1:] for n in program.inputs)
    x = rng.standard_normal((IMAGES, *map(int, shape)), dtype=np.float32)
    y = intermediates(program, {program.inputs[0]: x})[network.outputs[0]]
    given = {plain.inputs[0].name: np.moveaxis(x, 1, -1)}
    found = evaluate(plain, given)[plain.outputs[0]].reshape(y.shape)
    difference = float(np.abs(found - y).max() / np.abs(y).max())
    weighted = sum(isinstance(x.op, Convolution | Dense) for x in plain.layers)
    return {
        "simplified_layers": f"{len(plain.layers)} ({weighted} with weights)",
        "simplified_difference": f"{difference:.1e}",
    }


def main(wanted: list[str]) -> None:
    rows = list(csv.DictReader(OUT.open())) if OUT.exists() else []
    done = {(r["source"], r["network"]) for r in rows}
    for source, name, make, shape in networks():
        if (source, name) in done or (wanted and name not in wanted):
            continue
        row = {"source": source, "network": name, **measure(make, shape)}
        rows.append({k: str(row.get(k, "")) for k in FIELDS})
        with OUT.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)
        print(*(f"{k}={v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    script(lambda: main(sys.argv[1:]))
