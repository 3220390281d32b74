"""How large weights are beside their gradients, in float32 and in codes, with QAS and without.

    python benchmarks/qas_ratios.py run RATIOS.csv
    python benchmarks/qas_ratios.py figure RATIOS.csv FIGURE.svg
    python benchmarks/qas_ratios.py table RATIOS.csv

The figure and the first table of docs/results/studies/qas.md.  A batch is the support of a task:
five classes, five images of each; gradients are means over it.  A run goes on where it was
interrupted.  Needs PyTorch (pip install torch) and the data and model folders: KILOGRAD_SHARED.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import typer
from ladder_network import Network, Rung, graph_layout
from rows import append, grouped, head, line, lines_of, stored
from script import script
from shared import load_images, load_network
from torch import Tensor
from torch.nn import functional

from kilograd.data import Draw
from kilograd.frontend import Model
from kilograd.ir import Array, DType, Graph, dead_code
from kilograd.learn.adapt import Task, load_task
from kilograd.learn.recipe import compile_recipe
from kilograd.learn.training import enrol
from kilograd.ops.update import row_axis
from kilograd.passes import EntryPoint, Part
from kilograd.select import Budget
from kilograd.settings import HeadKind, Recipe
from kilograd.targets import Driver, build_host

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
SCALE = 10.0  # of the cosine, as the device has it

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Ratio:
    """log10 of |W| / |G| of a tensor, G the mean gradient of a batch; `kind`: weight or bias."""

    network: str
    data: str
    tensor: int
    name: str
    kind: str
    float32: float
    int8: float
    int8_qas: float


def features_of(model: Model) -> Graph:
    """Return a network up to its features."""
    return dead_code(replace(model.graph, outputs=model.graph.outputs[:1]))


def float_gradients(model: Model, task: Task) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return all parameters in real units, and their mean gradients over a support, in float32."""
    graph = features_of(model)
    names = [n.name for n in graph.params()]
    network = Network(graph, {name: Part() for name in names}, Rung.FLOAT)
    labels = torch.from_numpy(np.array(task.support.labels)).long()
    start, count = graph.inputs()[0], len(labels)
    quant = start.type.affine

    def given(i: slice) -> dict[str, Tensor]:
        codes = torch.from_numpy(np.stack(list(task.support.images))[i].astype(np.float32))
        return {start.name: (codes.permute(0, 3, 1, 2) - quant.zero_point) * quant.scale[0]}

    with torch.no_grad():
        onehot = functional.one_hot(labels).float()
        prototypes = functional.normalize(onehot.T @ network.features(given(slice(None))))
    for i in range(0, count, 5):
        features = functional.normalize(network.features(given(slice(i, i + 5))))
        logits = SCALE * features @ prototypes.T
        (functional.cross_entropy(logits, labels[i : i + 5], reduction="sum") / count).backward()
    real = {
        name: graph_layout(network.tensor(name).detach().numpy(), graph[name]) for name in names
    }
    return real, network.gradients()


def int8_gradients(model: Model, task: Task) -> dict[str, Array]:
    """Return the mean gradients of all parameters over a support, from the compiled program."""
    support = task.support
    recipe = Recipe("full", len(task.classes), HeadKind.PROTO, accumulate=len(support.labels))
    host = build_host(compile_recipe(model, recipe, Budget()).program, keep=False)
    enrol(host, support)
    driver = Driver(host)
    for image, label in zip(support.images, support.labels, strict=True):
        host.call(
            EntryPoint.STEP,
            **driver.show(image),
            label=np.array([label], np.int32),
            share=np.array([1 / len(support.labels)], np.float32),
        )
    return {k.removesuffix(".sum"): v.copy() for k, v in host.state.items() if k.endswith(".sum")}


def ratios_of(name: str, data: str) -> Iterator[Ratio]:
    """Yield a row for each tensor of a network, from the support of a task."""
    model = load_network(name)
    drawn = Draw(ways=5, shots=5, queries=1)(load_images(data), 0)
    task = load_task(load_images(data), drawn, model.preprocess)
    real, floats = float_gradients(model, task)
    integers = int8_gradients(model, task)
    for i, (tensor, gradient) in enumerate(floats.items()):
        kind = model.graph[tensor].type
        codes = model.graph.data[tensor].astype(np.float64)
        along = [-1 if a == row_axis(kind) else 1 for a in range(len(kind.shape))]
        scale = np.array(kind.affine.scale).reshape(along) * kind.affine.unit
        found = integers[tensor].astype(np.float64)
        yield Ratio(
            name,
            data,
            i,
            tensor,
            "weight" if kind.dtype is DType.I8 else "bias",
            _ratio(real[tensor], gradient),
            _ratio(codes, scale * found),
            _ratio(codes, found / scale),
        )


def _ratio(w: Array, g: Array) -> float:
    sizes = np.linalg.norm(w.ravel().astype(np.float64)), np.linalg.norm(g.ravel())
    return round(math.log10(sizes[0] / sizes[1]), 3) if min(sizes) > 0 else math.nan


@app.command()
def run(
    out: Path, networks: str = ",".join(NETWORKS), data: str = "cifar10,gtsrb,flowers89"
) -> None:
    """Compare tensors with their gradients: what is missing, appending."""
    torch.set_num_threads(1)
    done = {(r.network, r.data) for r in lines_of(out, Ratio)}
    for name, images in itertools.product(networks.split(","), data.split(",")):
        if (name, images) not in done:
            append(out, list(ratios_of(name, images)))
            print(name, images, flush=True)


_SERIES = {"float32": "#2a2", "int8": "#c22", "int8_qas": "#36c"}
_CALLED = {"float32": "float32", "int8": "int8 codes", "int8_qas": "int8 codes with QAS"}
_PLURAL = {"weight": "weights", "bias": "biases"}
_PANEL, _TALL, _LOW, _HIGH = 330, 190, -2.0, 12.0


def means(rows: Sequence[Ratio]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Return by network and kind the mean of each series over batches, tensor by tensor."""
    found = {}
    for key, own in grouped(rows, lambda r: (r.network, r.kind)).items():
        tensors = grouped(own, lambda r: r.tensor).values()
        found[key] = {
            name: [float(np.nanmean([getattr(r, name) for r in some])) for some in tensors]
            for name in _SERIES
        }
    return found


def drawing(rows: Sequence[Ratio]) -> Iterator[str]:
    """Yield the lines of a figure: a panel for each network's weights, and one for its biases."""
    panels = means(rows)
    names = list(dict.fromkeys(network for network, _ in panels))
    wide, high = 50 + _PANEL * len(names), 2 * _TALL + 70
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
    yield 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    for i, (name, colour) in enumerate(_SERIES.items()):
        x = 60 + 170 * i
        yield f'<path d="M{x} 16h20" stroke="{colour}" stroke-width="2"/>'
        yield f'<text x="{x + 26}" y="20">{_CALLED[name]}</text>'
    for (network, kind), series in panels.items():
        left, top = 50 + _PANEL * names.index(network), 40 + (kind == "bias") * (_TALL + 10)
        plural = _PLURAL[kind]
        yield f'<text x="{left + 8}" y="{top + 12}">{network}: {plural}</text>'
        for power in range(int(_LOW), int(_HIGH) + 1, 2):
            y = _height(power, top)
            yield f'<path d="M{left} {y}h{_PANEL - 20}" stroke="#ddd"/>'
            if left == 50:
                yield f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{power}</text>'
        for name, values in series.items():
            step = (_PANEL - 30) / len(values)
            points = [f"{left + 5 + k * step:.1f} {_height(v, top)}" for k, v in enumerate(values)]
            width = 3 if name == "float32" else 1.3
            yield f'<path d="M{"L".join(points)}" fill="none" stroke="{_SERIES[name]}" '
            yield f'stroke-width="{width}" stroke-linejoin="round"/>'
    foot = "log10 of |W| / |G|, tensor by tensor from the first layer to the last"
    yield f'<text x="{wide / 2}" y="{high - 8}" text-anchor="middle">{foot}</text></svg>'


def _height(value: float, top: float) -> float:
    return round(top + 18 + (_TALL - 26) * (_HIGH - value) / (_HIGH - _LOW), 1)


@app.command()
def figure(path: Path, out: Path) -> None:
    """Draw the ratios."""
    out.write_text("\n".join(drawing(stored(path, Ratio))) + "\n", encoding="utf-8")


@app.command()
def table(path: Path) -> None:
    """Print the ratios as Markdown: means over tensors, and how far they lie from float32."""
    print("\n".join(size_lines(stored(path, Ratio))))


def size_lines(rows: Sequence[Ratio]) -> Iterator[str]:
    """Yield a line for each network and kind of tensor, means over tensors."""
    off = [f"{_CALLED[x]} less float32" for x in ("int8", "int8_qas")]
    yield head("network", "tensors", *_CALLED.values(), *off, "spread of float32", texts=2)
    for (network, kind), series in means(rows).items():
        values = {name: np.array(own) for name, own in series.items()}
        gaps = [values[name] - values["float32"] for name in ("int8", "int8_qas")]
        yield line(
            network,
            f"{len(values['int8'])} {_PLURAL[kind]}",
            *(f"{np.nanmean(x):.2f}" for x in values.values()),
            *(f"{np.nanmin(x):+.2f} to {np.nanmax(x):+.2f}" for x in gaps),
            f"{np.nanmin(values['float32']):.2f} to {np.nanmax(values['float32']):.2f}",
        )


if __name__ == "__main__":
    script(app)
