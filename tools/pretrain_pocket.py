"""Train the bundled ``pocket`` network: it learns to have the features of larger networks.

    pip install torch tensorboard pyarrow
    python tools/pretrain_pocket.py train STATE --data DATA --models MODELS --until 60000
    python tools/pretrain_pocket.py finish STATE OUT --data DATA --models MODELS

DATA holds the seven sets of `pocket_pictures` as Parquet files, MODELS the teachers as model
folders.  STATE keeps pictures with the teachers' features (shards), and checkpoints.

The rate of `train` is constant, and every random number depends on the step alone: stopped, the
same command goes on to the bit, and with a larger --until it goes on another day.  `finish` lets
the rate fall to nothing on a branch of its own, and writes the int8 network; the trunk stays.
`prepare` makes shards ahead, on another core.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from pocket_pictures import Sources, labelled, pictures, read_sources
from torch import Tensor, nn
from torch.nn import functional

from kilograd.data import Dataset, sample_episode
from kilograd.frontend import Model, Preprocess, load_model_folder, save_model, with_classifier
from kilograd.ir import Affine, Array, Builder, DType, Node, TensorType
from kilograd.offline.checkpoint import State, load_checkpoint, save_checkpoint
from kilograd.offline.metatrain import accuracy
from kilograd.offline.network import FloatNetwork, int8_graph, int8_outputs
from kilograd.offline.parts import prepared
from kilograd.ops import Add, AvgPool, Conv, Depthwise, Window

TEACHERS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
SEED = 13

# ---- the network ----

SIZE, STEM, WIDTH = 64, 16, 160
PREPROCESS = Preprocess.square(SIZE, SIZE, 3)
# Inverted residuals: channels of the 1x1 expansion (0: none) and of the result, kernel, stride.
BLOCKS = (
    (0, 12, 3, 1),
    (32, 20, 3, 2),
    (60, 20, 3, 1),
    (80, 40, 5, 2),
    (120, 40, 3, 1),
    (140, 40, 3, 1),
    (160, 48, 3, 1),
    (192, 48, 3, 1),
    (216, 96, 5, 2),
    (288, 96, 3, 1),
    (384, WIDTH, 3, 1),
)
RELU6, LINEAR = Affine((6 / 255,), -128), Affine((0.1,), 0)


def architecture() -> Model:
    """Return the network, up to its features, without weights."""
    b = Builder()
    image = b.input("image", TensorType((SIZE, SIZE, 3), DType.I8, Affine((2 / 255,), 0)))
    x = layer(b, "first_conv", image, Window.same(3, 2), (STEM, 3, 3, 3), RELU6)
    for i, (expand, out, kernel, stride) in enumerate(BLOCKS):
        skip, name = x, f"blocks.{i}"
        if expand:
            x = layer(b, f"{name}.pw1", x, Window(), (expand, 1, 1, x.type.shape[2]), RELU6)
        width, window = x.type.shape[2], Window.same(kernel, stride)
        x = layer(b, f"{name}.dw", x, window, (kernel, kernel, width), RELU6)
        x = layer(b, f"{name}.pw2", x, Window(), (out, 1, 1, width), LINEAR)
        if expand and x.type.shape == skip.type.shape:
            x = b(Add(LINEAR), skip, x, name=f"{name}.add")
    graph = b.graph(b(AvgPool(), x, name="avgpool"))
    layers = tuple(n.name for n in graph.nodes if isinstance(n.op, Conv | Depthwise))
    return Model("pocket", "Pocket", graph, layers, PREPROCESS, Path())


def layer(
    b: Builder, name: str, x: Node, window: Window, shape: tuple[int, ...], out: Affine
) -> Node:
    """Append a convolution with weights of `shape`; three axes: depthwise."""
    axis = 2 if len(shape) == 3 else 0
    ones = Affine((1.0,) * shape[axis], axis=axis)
    bias = replace(ones, axis=0, unit=x.type.affine.scale[0])
    w = b.param(f"{name}.weight", np.zeros(shape, np.int8), ones)
    c = b.param(f"{name}.bias", np.zeros(shape[axis], np.int32), bias)
    return b(Depthwise(window, out) if axis else Conv(window, out), x, w, c, name=name)


# ---- pictures with the teachers' features, in shards on disk ----

SHARD, PART = 8192, 256  # pictures of a shard, and those made at once
SHOWN, WINDOW = 16, 4  # how often a picture is shown, and out of how many shards

Pictures = Mapping[str, Tensor]
"""`images`: uint8 [n, SIZE, SIZE, 3]; `features`: of the teachers, side by side, float16 [n, c]."""


@dataclass(frozen=True)
class Maker:
    """Makes shards: a function of their number."""

    data: Path
    teachers: tuple[FloatNetwork, ...]

    @staticmethod
    def read(data: Path, models: Path) -> Maker:
        """Read the teachers; raises `InputError` as their reader does."""
        graphs = [load_model_folder(models / name).graph for name in TEACHERS]
        return Maker(data, tuple(channels_last(FloatNetwork(g)) for g in graphs))

    @cached_property
    def sources(self) -> Sources:
        """Read the sets, when the first shard is made."""
        return read_sources(self.data)

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the number of features of each teacher."""
        return tuple(t.graph.outputs[0].type.shape[-1] for t in self.teachers)

    def __call__(self, number: int) -> Pictures:
        """Make a shard."""
        rng = torch.Generator().manual_seed(SEED * 1_000_003 + number)
        images, features = [], []
        for _ in range(SHARD // PART):
            large = pictures(self.sources, PART, rng)
            small = functional.interpolate(
                large.float(), size=(SIZE, SIZE), mode="bilinear", antialias=True
            )
            images.append(small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
            features.append(self.features(large.permute(0, 2, 3, 1)))
        return {"images": torch.cat(images).contiguous(), "features": torch.cat(features)}

    def features(self, images: Tensor) -> Tensor:
        """Return the features of the teachers side by side; images uint8 [n, h, w, 3]."""
        x = (images.to(torch.int16) - 128).to(torch.int8)
        with torch.inference_mode():
            return torch.cat([t(x)[0] for t in self.teachers], dim=1).half()


@dataclass(frozen=True)
class Shards:
    """Which pictures a step sees: of the last WINDOW shards, each equally often."""

    folder: Path
    make: Callable[[int], Pictures]
    kept: dict[int, Pictures] = field(default_factory=dict)

    def shard(self, number: int) -> Pictures:
        """Return a shard from memory or disk, or make it."""
        if number not in self.kept:
            file = self.folder / f"{number:05}.pt"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                part = file.with_suffix(f".part{time.time_ns()}")
                torch.save(self.make(number), part)
                part.replace(file)
            self.kept[number] = torch.load(file, weights_only=True)
        return self.kept[number]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images, half of them mirrored, and the teachers' features."""
        stage = step * BATCH // (SHARD * SHOWN)
        window = range(max(0, stage - WINDOW + 1), stage + 1)
        for old in self.kept.keys() - set(window):
            del self.kept[old]
        shards = [self.shard(k) for k in window]
        rng = torch.Generator().manual_seed(SEED * 1_000_003 + step)
        drawn = torch.randint(SHARD * len(shards), (BATCH,), generator=rng).tolist()
        images, features = (
            torch.stack([shards[i // SHARD][kind][i % SHARD] for i in drawn])
            for kind in ("images", "features")
        )
        mirror = torch.rand(BATCH, 1, 1, 1, generator=rng) < 0.5
        return torch.where(mirror, images.flip(2), images), features


@dataclass(frozen=True)
class Target:
    """A linear map from the teachers' features to the student's.

    Each teacher's are centred and get the same mean length; then come the WIDTH principal
    components, the larger ones damped.
    """

    mean: Tensor
    matrix: Tensor

    @staticmethod
    def fit(features: Tensor, widths: tuple[int, ...]) -> Target:
        """Return the map for the features of many pictures."""
        x = features.float()
        mean = x.mean(dim=0)
        lengths = [part.norm(dim=1).mean() for part in (x - mean).split(widths, dim=1)]
        scale = torch.cat([(1 / s).expand(w) for s, w in zip(lengths, widths, strict=True)])
        _, size, basis = torch.linalg.svd((x - mean) * scale, full_matrices=False)
        damped = basis[:WIDTH].T / (size[:WIDTH] / size[0]) ** 0.25
        return Target(mean, scale[:, None] * damped)

    def __call__(self, features: Tensor) -> Tensor:
        """Return targets of unit length, [n, WIDTH]."""
        return functional.normalize((features.float() - self.mean) @ self.matrix, dim=1)


# ---- training ----

BATCH, WARMUP, EVERY = 64, 300, 120.0  # seconds between checkpoints
FINE, COARSE = 20_000, 48  # until this step images have fewer pixels, and it goes faster
MUON, ADAM, DECAY = 0.03, 0.002, 0.02


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is untyped here
    """Momentum made orthogonal, for plain convolutions under a normalisation.

    After Jordan (2024), https://kellerjordan.github.io/posts/muon.  The weights keep their length,
    which means nothing there.
    """

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 0.05)
                update = orthogonal(p.grad.lerp(state["momentum"], 0.95).flatten(1))
                p.add_(update.view_as(p), alpha=-group["lr"])
                p.mul_(len(p) ** 0.5 / p.norm())


def orthogonal(x: Tensor) -> Tensor:
    """Return a matrix with the same singular vectors, and values near 1."""
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(4):
        a = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * a + 2.0315 * a @ a) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


def unlike(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss: directions shall be the same, and so the angles between pictures."""
    z = functional.normalize(found.float(), dim=1)
    direction = 1 - (z * wanted).sum(dim=1).mean()
    relation = (z @ z.T - wanted @ wanted.T).square().mean()
    return direction + 5 * relation


class Student:
    """Training under way: the network, its optimisers, and the step."""

    def __init__(self) -> None:
        self.network = channels_last(FloatNetwork(architecture().graph, fresh=SEED)).train()
        modules = self.network.modules()
        plain = [x.weight for x in modules if isinstance(x, nn.Conv2d) and x.groups == 1]
        rest = [p for p in self.network.parameters() if all(p is not q for q in plain)]
        self.optimizers = {
            MUON: Muon(plain, MUON),
            ADAM: torch.optim.AdamW(rest, ADAM, weight_decay=DECAY, fused=True),
        }
        self.step = 0

    def state(self) -> State:
        """Return what a checkpoint holds."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers.values()],
        }

    def load(self, state: State) -> None:
        """Go on from a checkpoint."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        for o, s in zip(self.optimizers.values(), state["optimizers"], strict=True):
            o.load_state_dict(s)

    def learn(self, images: Tensor, wanted: Tensor, part: float) -> float:
        """Take a step at `part` of the full rate, and return its loss."""
        x = images.float() - 128
        if self.step < FINE:
            size = (COARSE, COARSE)
            x = x.permute(0, 3, 1, 2)
            x = functional.interpolate(x, size=size, mode="bilinear", antialias=True)
            x = x.permute(0, 2, 3, 1)
        loss = unlike(self.network.train()(x)[0], wanted)
        self.network.zero_grad()
        loss.backward()
        for rate, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * part
            optimizer.step()
        self.step += 1
        return loss.item()


def follow(
    student: Student,
    shards: Shards,
    widths: tuple[int, ...],
    folder: Path,
    part: Callable[[int], float],
    until: int,
    score: Callable[[FloatNetwork], float],
) -> None:
    """Train to step `until`, from the newest checkpoint in `folder` if there is one."""
    if found := load_checkpoint(folder, print):
        student.load(found)
    target = Target.fit(shards.shard(0)["features"], widths)
    saved, losses = time.monotonic(), []
    while student.step < until:
        images, features = shards.batch(student.step)
        losses.append(student.learn(images, target(features), part(student.step)))
        seconds = time.monotonic() - saved
        if seconds > EVERY or student.step == until:
            save_checkpoint(folder, student.step, student.state())
            held, loss = score(student.network), sum(losses) / len(losses)
            speed = len(losses) * BATCH / seconds
            print(f"step {student.step}: loss {loss:.4f}, {held:.1%}, {speed:.0f}/s", flush=True)
            saved, losses = time.monotonic(), []


def channels_last(network: FloatNetwork) -> FloatNetwork:
    """Return a network whose activations have their channels last in memory: twice as fast."""
    return network.to(memory_format=torch.channels_last).eval()


# ---- what comes of it ----


def classified(student: Student, known: Dataset) -> tuple[Model, FloatNetwork]:
    """Put a linear classifier behind the features, by ridge regression on a set."""
    model = with_classifier(architecture(), len(known.classes))
    network = FloatNetwork(model.graph, fresh=SEED)
    network.take(student.network)
    x = student.network.infer(prepared(known, PREPROCESS))[0]
    mean, y = x.mean(axis=0), np.eye(len(known.classes))[known.labels]
    a = (x - mean).T @ (x - mean)
    weight = np.linalg.solve(a + 0.01 * np.trace(a) * np.eye(WIDTH), (x - mean).T @ y)
    layer = network.layer("classifier")
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight.T)[:, :, None, None])
        layer.bias.copy_(torch.from_numpy(y.mean(axis=0) - mean @ weight))
    return model, network


PROVENANCE = {
    "spdx": "Apache-2.0",
    "copyright": "The Kilograd authors",
    "source_file": "tools/pretrain_pocket.py",
    "training_data": "Crops and mixtures of Caltech-101 (Fei-Fei, Fergus, Perona; CC BY 4.0), "
    "TrashNet (Yang, Thung; MIT), Omniglot (Lake, Salakhutdinov, Tenenbaum; MIT), Sign Language "
    "Digits (Ankara Ayranci Anadolu High School; Apache-2.0), BCCD (Shenggan; MIT), Fashion-MNIST "
    "(Zalando SE; MIT), Quick, Draw! (Google; CC BY 4.0), and pictures made by script",
    "targets": "features of networks by the MIT HAN Lab (MIT licence), github.com/mit-han-lab/"
    "tiny-training at 7bf8e05bbeebda76cbf2ea2dd596dedee7e3f343; no weights of theirs are here",
}


def write(model: Model, out: Path) -> None:
    """Write a model folder with its provenance."""
    out.mkdir(parents=True, exist_ok=True)
    save_model(model, out)
    file = out / "graph.json"
    description: dict[str, Any] = json.loads(file.read_text())
    description["provenance"] = PROVENANCE | description["provenance"]
    file.write_text(json.dumps(description, indent=1) + "\n")


@dataclass(frozen=True)
class Exam:
    """Episodes of the classes of caltech101 that are not learned; they chose what is set here."""

    dataset: Dataset
    images: NDArray[np.int8]

    @staticmethod
    def read(data: Path) -> Exam:
        dataset = labelled(data, held_out=True)
        return Exam(dataset, prepared(dataset, PREPROCESS))

    def of_float(self, network: FloatNetwork) -> float:
        """Return the accuracy of 5-way 5-shot prototypes."""
        return self._of(network.infer(self.images)[0])

    def of_int8(self, model: Model) -> float:
        """Return that of the int8 program."""
        return self._of(int8_outputs(model.graph, self.images)[0])

    def _of(self, features: Array) -> float:
        episodes = [
            sample_episode(self.dataset, ways=5, shots=5, queries=15, seed=e) for e in range(200)
        ]
        return accuracy(episodes, features)


# ---- commands ----

app = typer.Typer(add_completion=False)
Data = Annotated[Path, typer.Option(help="Folder of Parquet files.")]
Models = Annotated[Path, typer.Option(help="Folder of model folders.")]


@app.command()
def train(state: Path, data: Data, models: Models, until: Annotated[int, typer.Option()]) -> None:
    """Train at a constant rate to a step, or go on."""
    torch.set_num_threads(1)
    maker = Maker.read(data, models)
    shards = Shards(state / "shards", maker)
    score = Exam.read(data).of_float
    follow(Student(), shards, maker.widths, state / "trunk", warm, until, score)


def warm(step: int) -> float:
    return min(1.0, (step + 1) / WARMUP)


@app.command()
def finish(state: Path, data: Data, models: Models, out: Path, steps: int = 8000) -> None:
    """Let the rate fall from where the trunk is, on a copy, and write the int8 network."""
    torch.set_num_threads(1)
    maker, exam, student = Maker.read(data, models), Exam.read(data), Student()
    shards = Shards(state / "shards", maker)
    found = load_checkpoint(state / "trunk", print)
    assert found, f"{state}: train first"
    student.load(found)
    begun, branch = student.step, state / f"finish-{student.step:09}-{steps}"
    follow(
        student,
        shards,
        maker.widths,
        branch,
        lambda step: 1 - (step - begun) / steps,
        begun + steps,
        exam.of_float,
    )
    known = labelled(data, held_out=False)
    model, network = classified(student, known)
    calibration = (shards.shard(0)["images"][:1024].to(torch.int16) - 128).to(torch.int8).numpy()
    model = replace(model, graph=int8_graph(network, calibration), training_classes=known.classes)
    write(model, out)
    print(f"held out: float {exam.of_float(network):.1%}, int8 {exam.of_int8(model):.1%}")


@app.command()
def prepare(state: Path, data: Data, models: Models, first: int, last: int) -> None:
    """Make shards ahead."""
    torch.set_num_threads(1)
    shards = Shards(state / "shards", Maker.read(data, models))
    for number in range(first, last):
        shards.shard(number)
        shards.kept.clear()


if __name__ == "__main__":
    app()
