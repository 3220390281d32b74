"""TinyTL in float32 with PyTorch, on stored episodes: as published, or as the integers have it.

    python benchmarks/tinytl_float.py run flowers89,gtsrb mcunet-5fps STORED.episodes.jsonl OUT.csv
    python benchmarks/tinytl_float.py table OUT.csv INTEGER.csv

The network is the dequantised one; beside each of its last blocks learns a lite residual module,
and the biases of these blocks learn.  `--variant published` has group normalisation, weight
standardisation and bilinear enlarging; `integer` has biases, plain weights and repeated pixels.
Adam, eight images at a time, as in TinyTL, or `--batch` (TinyTrain: 100, 40 passes); prototypes
and views as usual.  What is in OUT.csv is not run again.  `table` shows what there is, and what
int8 (`tinytl` of INTEGER.csv) and the published modules are better by on the same episodes.
Needs PyTorch (pip install torch).
"""

from __future__ import annotations

import enum
from pathlib import Path

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rows import Row, after, after_of, append, grouped, head, line, paired, percent, read, shown
from script import script
from shared import first_episodes, load_images, load_network
from torch import Tensor, nn
from torch.nn import functional

from kilograd.data import Episode, augmented
from kilograd.learn.adapt import load_task
from kilograd.offline.network import FloatNetwork
from kilograd.passes import Block, mobile_blocks
from kilograd.select.tinytl import BLOCKS
from kilograd.settings import Schedule

CHANNELS_A_GROUP = 8
KERNEL = 5
SCALE = 10.0  # of the cosine, as the integer head has it


app = typer.Typer(add_completion=False)


class Variant(enum.StrEnum):
    """What is in a module."""

    PUBLISHED = "published"
    INTEGER = "integer"


class Standardised(nn.Conv2d):  # type: ignore[misc]  # torch is untyped here
    """A convolution whose filters have mean 0 and variance 1 (weight standardisation)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        w = self.weight
        std, mean = torch.std_mean(w, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, (w - mean) / (std + 1e-5), None)


class LiteResidual(nn.Module):  # type: ignore[misc]
    """Half the size, two groups, back to the size; nothing at first."""

    def __init__(self, body: nn.Sequential, mode: str) -> None:
        super().__init__()
        self.body, self.mode = body, mode

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """Return what is added to a map of `size`."""
        smooth = {"align_corners": False} if self.mode == "bilinear" else {}
        return functional.interpolate(self.body(x), size, mode=self.mode, **smooth)


def lite_residual(variant: Variant, block: Block) -> LiteResidual:
    """Return the module beside a block."""
    side, _, channels = block.begin.type.shape
    out, stride = block.end.type.shape[2], block.stride[0]
    kernel = min(KERNEL, side // 2 - 1 + side // 2 % 2)
    window = (channels, channels, kernel, stride, kernel // 2)
    if variant is Variant.INTEGER:
        first = nn.Conv2d(*window, groups=2)
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
        nn.init.zeros_(first.bias)
        last = nn.Conv2d(channels, out, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return LiteResidual(nn.Sequential(nn.AvgPool2d(2), first, nn.ReLU(), last), "nearest")
    body = nn.Sequential(
        nn.AvgPool2d(2),
        Standardised(*window, groups=2, bias=False),
        nn.GroupNorm(max(1, channels // CHANNELS_A_GROUP), channels),
        nn.ReLU(),
        Standardised(channels, out, 1, bias=False),
        nn.GroupNorm(max(1, out // CHANNELS_A_GROUP), out),
    )
    nn.init.zeros_(body[-1].weight)
    return LiteResidual(body, "bilinear")


class TinyTL(nn.Module):  # type: ignore[misc]
    """A network with modules beside its last blocks."""

    def __init__(self, name: str, variant: Variant, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        graph = load_network(name).graph
        self.network = FloatNetwork(graph)
        self.network.requires_grad_(requires_grad=False)
        self.modules_beside = nn.ModuleList()
        learned: list[Tensor] = []
        for block in mobile_blocks(graph)[-BLOCKS:]:
            first, last = (self.network.layer(n.name) for n in (block.layers[0], block.layers[-1]))
            lite = lite_residual(variant, block)
            self.modules_beside.append(lite)
            learned += lite.parameters()
            # A projection has no activation: beside it is beside the block.
            seen: list[Tensor] = []
            first.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
            last.register_forward_hook(
                lambda _, x, y, seen=seen, lite=lite: y + lite(seen.pop(), y.shape[2:])
            )
            for n in block.layers:
                bias = self.network.layer(n.name).bias
                learned.append(bias.requires_grad_())
        self.learned = learned

    def forward(self, images: NDArray[np.int8]) -> Tensor:
        """Return features, float32 [n, c]."""
        return self.network(torch.from_numpy(images))[0]


class Learner:
    """An episode, and a network that learns it."""

    def __init__(self, name: str, variant: Variant, e: Episode) -> None:
        self.net = TinyTL(name, variant, e.seed)
        task = load_task(load_images(e.dataset), e, load_network(name).preprocess)
        self.support, self.query = task.support, task.query
        self.labels = torch.from_numpy(self.support.labels).long()

    def prototypes(self) -> Tensor:
        """Return the directions of the classes."""
        with torch.no_grad():
            member = functional.one_hot(self.labels).float().T
            return functional.normalize(member @ self.net(self.support.images))

    def accuracy(self) -> float:
        """Return the share of the query that is recognised."""
        with torch.no_grad():
            cosines = functional.normalize(self.net(self.query.images)) @ self.prototypes().T
        return float((cosines.argmax(1).numpy() == self.query.labels).mean())

    def learn(self, schedule: Schedule, batch: int) -> None:
        """Teach the support, some images at a time."""
        optimizer = torch.optim.Adam(self.net.learned, schedule.lr)
        rng, count = np.random.default_rng(schedule.seed), len(self.labels)
        for turn in range(schedule.iterations):
            p = self.prototypes()
            order = rng.permutation(count)
            for at in range(0, count, batch):
                chosen = order[at : at + batch]
                views = [augmented(self.support.images[i], rng, schedule.augment) for i in chosen]
                logits = SCALE * functional.normalize(self.net(np.stack(views))) @ p.T
                done = (turn + at / count) / schedule.iterations
                optimizer.param_groups[0]["lr"] = schedule.rate(done)
                optimizer.zero_grad()
                functional.cross_entropy(logits, self.labels[chosen]).backward()
                optimizer.step()


@app.command()
def run(
    data: str,
    network: str,
    stored: Path,
    out: Path,
    rate: float = 0.01,
    batch: int = 8,
    episodes: int = 20,
    variant: Variant = Variant.PUBLISHED,
    passes: int = 10,
) -> None:
    """Run what is missing, appending to the results."""
    torch.set_num_threads(1)
    method = f"tinytl-float-{batch}@{rate}"
    if variant is not Variant.PUBLISHED:
        method += f"@{variant}"
    if passes != 10:  # as first measured
        method += f"@{passes}"
    done = {(r.data, r.episode) for r in (read(out) if out.exists() else []) if r.method == method}
    for e in first_episodes(stored, episodes, data):
        if (e.dataset, e.seed) not in done:
            learner = Learner(network, variant, e)
            begun = learner.accuracy()
            learner.learn(Schedule(passes, rate, seed=e.seed), batch)
            reached = learner.accuracy()
            append(out, [Row(network, e.dataset, method, e.seed, begun, reached, 0)])
            print(f"{e.dataset} {e.seed} {rate}: {reached - begun:+.3f}", flush=True)


@app.command()
def table(results: Path, integer: Path) -> None:
    """Print means in per cent, and differences episode by episode with 95 % intervals."""
    float32 = grouped(read(results), lambda r: r.method)
    int8 = [r for r in read(integer) if r.called("tinytl") and r.model == "mcunet-5fps"]
    print(head("recipe", "episodes", "before", "after", "int8 less", "published less", texts=1))
    for method, rows in float32.items():
        before = percent([r.accuracy_before for r in rows])
        published = float32.get(method.replace(f"@{Variant.INTEGER}", ""), [])
        against = [paired(after(base), after(rows)) for base in (int8, published)]
        differences = [shown(percent(d), "+") if d and any(d) else "" for d in against]
        name = f"`{method}`"
        print(line(name, len(rows), f"{before.mean:.1f}", after_of(rows), *differences))


if __name__ == "__main__":
    script(app)
