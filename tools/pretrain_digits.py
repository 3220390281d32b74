"""Pre-train a network like the bundled ``digits``, with `kilograd.offline`.

    pip install torch scikit-learn tensorboard
    python tools/pretrain_digits.py OUT

A small depthwise-separable network learns the digits 0 to 4 of scikit-learn's ``load_digits``, each
in eight orientations, as forty classes: five alone leave features that tell only those five apart.
Images of 5 to 9 never reach training or calibration: they are what is learned on the
device.  OUT becomes a model folder with an upright classifier.

The bundled network is older than `kilograd.offline`: a script of this name at commit 51d4144 made
it, with AdamW and a quantiser of its own.  src/kilograd/models/digits/README.md compares the two.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kilograd.data import Augment, Dataset, load_digits, sample_episode
from kilograd.frontend import Model, Preprocess, load_model, load_model_folder, save_model
from kilograd.ir import Affine, Builder, DType, Node, TensorType, dead_code
from kilograd.offline.metatrain import accuracy
from kilograd.offline.network import int8_outputs
from kilograd.offline.parts import prepared
from kilograd.offline.pretrain import pretrain
from kilograd.offline.settings import Pretraining, Views
from kilograd.ops import Add, AvgPool, Conv, Depthwise, Window

SEED, SIDE, ORIENTATIONS = 20, 16, 8
LEARNED, UNSEEN = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
COPIES = 4  # distorted ones of every image in every orientation
PREPROCESS = Preprocess.square(SIDE, SIDE, 1)

# ---- the network ----

STEM = 16
# Inverted residuals: channels of the 1x1 expansion (0: none) and of the result, kernel, stride.
# The kernels of the large networks except 7x7: 3x3 and 5x5 depthwise, both at stride 1 and 2.
BLOCKS = (
    (0, 16, 3, 1),
    (48, 24, 3, 2),
    (72, 24, 5, 1),
    (72, 40, 5, 2),
    (120, 40, 3, 1),
    (120, 40, 3, 1),
    (120, 64, 3, 1),
)
# They say which layers are clamped; training finds the scales.
RELU6, LINEAR = Affine((6 / 255,), -128), Affine((0.1,), 0)


def architecture() -> Model:
    """Return the network, up to its features, without weights."""
    b = Builder()
    image = b.input("image", TensorType((SIDE, SIDE, 1), DType.I8, Affine((2 / 255,), 0)))
    x = layer(b, "first_conv", image, Window.same(3), (STEM, 3, 3, 1), RELU6)
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
    return Model("digits", "Handwritten digits", graph, layers, PREPROCESS, Path())


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


def upright(model: Model) -> Model:
    """Keep the classes that are neither turned nor mirrored."""
    features, logits = model.graph.outputs
    b = Builder(dead_code(replace(model.graph, outputs=(features,))))
    kept = []
    for n in logits.inputs[1:]:
        quant = replace(n.type.affine, scale=n.type.affine.scale[::ORIENTATIONS])
        kept.append(b.param(n.name, model.graph.data[n.name][::ORIENTATIONS].copy(), quant))
    graph = b.graph(features, b(logits.op, features, *kept, name=logits.name))
    return replace(model, graph=graph, training_classes=tuple(map(str, LEARNED)))


# ---- the images ----


def pictures() -> Dataset:
    """Return the digits that are learned, distorted, and the last fifth of each to test on.

    A class is a digit in an orientation: turned by 0 to 3 quarters, or mirrored first and turned.
    """
    digits = load_digits(LEARNED)
    plain = torch.from_numpy(prepared(digits, PREPROCESS)[..., 0]).float()[:, None] / 127.5
    each = [np.flatnonzero(digits.labels == label) for label in range(len(LEARNED))]
    train = np.concatenate([own[: len(own) * 4 // 5] for own in each])
    test = np.concatenate([own[len(own) * 4 // 5 :] for own in each])
    rng = torch.Generator().manual_seed(SEED)
    parts: list[tuple[str, Tensor, NDArray[np.int64]]] = []
    for which in range(ORIENTATIONS):
        turned = (plain if which < 4 else plain.flip(3)).rot90(which, (2, 3))
        label = digits.labels * ORIENTATIONS + which
        parts += [("train", distorted(turned[train], rng), label[train]) for _ in range(COPIES)]
        parts.append(("test", turned[test], label[test]))
    pixels = (torch.cat([x for _, x, _ in parts])[:, 0] * 127.5 + 128).round().to(torch.uint8)
    return Dataset(
        name="digits",
        classes=tuple(f"{d}, orientation {k}" for d in LEARNED for k in range(ORIENTATIONS)),
        images=tuple(partial(Image.fromarray, p) for p in pixels.numpy()),
        image_names=tuple(f"picture {i}" for i in range(len(pixels))),
        labels=np.concatenate([label for *_, label in parts]),
        split=tuple(part for part, x, _ in parts for _ in x),
    )


def distorted(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift, turn, scale, shear, bend, dim and disturb each image in its own way."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=rng) * (high - low) + low

    angle, shear = uniform(-0.3, 0.3), uniform(-0.25, 0.25)
    width, height = uniform(0.8, 1.2), uniform(0.85, 1.2)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.stack((cos * width, (shear - sin) * width, uniform(-0.2, 0.2)), dim=1),
        torch.stack((sin * height, cos * height, uniform(-0.15, 0.15)), dim=1),
    )
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    bend = F.interpolate(
        uniform(-0.12, 0.12, 2, 4, 4), size=(SIDE, SIDE), mode="bicubic", align_corners=False
    )
    grid = grid + bend.permute(0, 2, 3, 1)
    # Outside the image there is background, -1, where grid_sample puts 0.
    warped = F.grid_sample(images + 1, grid, mode="bilinear", align_corners=False)
    contrast = uniform(0.7, 1.15, 1, 1, 1)
    noise = torch.randn(images.shape, generator=rng) * uniform(0.0, 0.12, 1, 1, 1)
    return (warped * contrast + noise - 1).clamp(-128 / 127.5, 127 / 127.5)


# ---- what it is good for ----


def unseen_accuracy(model: Model) -> float:
    """Return that of nearest prototypes of 5 images on the digits 5 to 9, int8, 20 episodes."""
    digits = load_digits(UNSEEN)
    episodes = [sample_episode(digits, ways=5, shots=5, queries=200, seed=e) for e in range(20)]
    return accuracy(episodes, int8_outputs(model.graph, prepared(digits, PREPROCESS))[0])


def main(out: Path, epochs: int = 4) -> None:
    """Train, and compare with the bundled network."""
    torch.set_num_threads(1)  # so small a network only waits for a second one
    how = Pretraining(epochs, lr=0.1, fresh=True, views=Views(Augment.NONE, seed=SEED))
    done = pretrain(out, architecture(), pictures(), how)
    save_model(upright(load_model_folder(out)), out)
    print(f"{done.classes} classes: float {done.after.float32:.1%}, int8 {done.after.int8:.1%}")
    for model in (load_model_folder(out), load_model("digits")):
        print(f"{model.path}: {unseen_accuracy(model):.1%} on digits 5 to 9, before any learning")


if __name__ == "__main__":
    typer.run(main)
