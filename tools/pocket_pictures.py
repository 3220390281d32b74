"""The pictures that `pretrain_pocket.py` learns from: crops of open data sets, and made ones.

Everything is a batch of colour images, float32 [n, 3, SIDE, SIDE] in 0 ... 1, and depends on a
random generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kilograd.data import Dataset, load_dataset, upright

SIDE = 96  # what the teachers see
HELD_OUT = "test"  # the class split of caltech101 that chooses, and is not learned

# Licences of the sets: tools/pretrain_pocket.py and NOTICE.
PHOTOS = {"caltech101": 0.7, "trashnet": 0.14, "sign_digits": 0.08, "bccd_cells": 0.08}
SHAPES = {"omniglot": 0.5, "fashion_mnist": 0.25, "quickdraw3": 0.25}
_MOST = {"omniglot": 6000}


@dataclass(frozen=True)
class Source:
    """The images of a set, all of one size: uint8 [n, 3, h, w], and how often it is drawn."""

    images: Tensor
    share: float


@dataclass(frozen=True)
class Sources:
    """What crops are taken from: `photos` as they are, `shapes` dark on white, to be coloured."""

    photos: tuple[Source, ...]
    shapes: tuple[Source, ...]


def read_sources(folder: Path) -> Sources:
    """Read the sets from their Parquet files in `folder`; raises `InputError` as a dataset does."""

    def read(shares: dict[str, float]) -> tuple[Source, ...]:
        return tuple(Source(_images(folder / f"{k}.parquet"), s) for k, s in shares.items())

    return Sources(read(PHOTOS), read(SHAPES))


def labelled(folder: Path, *, held_out: bool) -> Dataset:
    """Return the images of caltech101 whose classes are held out, or the others."""
    path = folder / "caltech101.parquet"
    split = np.array(pq.read_table(path, columns=["class_split"])["class_split"])
    return _only(load_dataset(path), np.flatnonzero((split == HELD_OUT) == held_out))


def _only(dataset: Dataset, keep: NDArray[np.int64]) -> Dataset:
    chosen, labels = np.unique(dataset.labels[keep], return_inverse=True)
    return Dataset(
        dataset.name,
        tuple(dataset.classes[c] for c in chosen),
        tuple(dataset.images[i] for i in keep),
        tuple(dataset.image_names[i] for i in keep),
        labels,
    )


def _images(path: Path) -> Tensor:
    if path.stem == "caltech101":
        dataset = labelled(path.parent, held_out=False)
    else:
        dataset = load_dataset(path)
    keep = range(len(dataset))
    if (most := _MOST.get(dataset.name, len(keep))) < len(keep):
        keep = np.linspace(0, len(keep) - 1, most).astype(int)
    images = [np.asarray(upright(dataset.image(int(i)), 3)) for i in keep]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


# ---- random numbers ----


def uniform(rng: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Return uniform random numbers of a shape."""
    return torch.rand(*shape, generator=rng) * (high - low) + low


def chance(rng: torch.Generator, p: float, n: int) -> Tensor:
    """Return a decision for each of n images, [n, 1, 1, 1]."""
    return torch.rand(n, 1, 1, 1, generator=rng) < p


# ---- crops ----


def crops(sources: tuple[Source, ...], n: int, rng: torch.Generator, turn: float) -> Tensor:
    """Return random crops: 12 % to all of an image, other aspects, mirrored, turned a little."""
    shares = torch.tensor([s.share for s in sources])
    which = torch.multinomial(shares, n, replacement=True, generator=rng)
    out = torch.empty(n, 3, SIDE, SIDE)
    for i, source in enumerate(sources):
        place = torch.nonzero(which == i)[:, 0]
        if not len(place):
            continue
        chosen = torch.randint(len(source.images), (len(place),), generator=rng)
        grid = _boxes(len(place), rng, turn)
        images = source.images[chosen].float() / 255
        out[place] = functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
    return out


def _boxes(n: int, rng: torch.Generator, turn: float) -> Tensor:
    area, aspect = uniform(rng, 0.12, 1, n), uniform(rng, -0.3, 0.3, n).exp()
    w, h = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = uniform(rng, -1, 1, n) * (1 - w), uniform(rng, -1, 1, n) * (1 - h)
    angle = torch.randn(n, generator=rng) * turn
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    rows = (
        torch.stack((w * mirror * cos, -w * sin, x), dim=1),
        torch.stack((h * mirror * sin, h * cos, y), dim=1),
    )
    size = [n, 3, SIDE, SIDE]
    return functional.affine_grid(torch.stack(rows, dim=1), size, align_corners=False)


# ---- made pictures: maps [n, 1, SIDE, SIDE] in 0 ... 1, which are then coloured ----


def _axes() -> tuple[Tensor, Tensor]:
    line = torch.linspace(-1, 1, SIDE)
    return line[None, None, None, :], line[None, None, :, None]


def noise(n: int, rng: torch.Generator) -> Tensor:
    """Return noise of all scales, from cloud to grain."""
    down, right = _frequencies()
    radius = (down**2 + right**2).sqrt().clamp(min=1 / SIDE)
    return _level(_filtered(radius ** -uniform(rng, 0.3, 2.2, n, 1, 1, 1), rng))


def _frequencies() -> tuple[Tensor, Tensor]:
    return torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)[None, :]


def _filtered(gain: Tensor, rng: torch.Generator) -> Tensor:
    """Return white noise with the spectrum `gain` [n, 1, frequencies]."""
    spectrum = torch.fft.rfft2(torch.randn(len(gain), 1, SIDE, SIDE, generator=rng))
    return torch.fft.irfft2(spectrum * gain)


def stripes(n: int, rng: torch.Generator) -> Tensor:
    """Return stripes, or a lattice of two, bent by noise."""
    x, y = _axes()
    bend = (noise(n, rng) - 0.5) * uniform(rng, 0, 1, n, 1, 1, 1) ** 2
    out = torch.ones(n, 1, SIDE, SIDE)
    for second in (False, True):
        angle = uniform(rng, 0, math.pi, n, 1, 1, 1)
        along = x * angle.cos() + y * angle.sin() + bend
        wave = (along * uniform(rng, 1.2, 4, n, 1, 1, 1).exp() * 2).sin()
        wave = torch.sigmoid(wave * uniform(rng, 0, 3.5, n, 1, 1, 1).exp())
        out = torch.where(chance(rng, 0.4, n), out * wave, out) if second else wave
    return out


def dots(n: int, rng: torch.Generator) -> Tensor:
    """Return discs on a lattice that noise bends."""
    x, y = _axes()
    angle, count = uniform(rng, 0, math.pi, n, 1, 1, 1), uniform(rng, 1, 2.6, n, 1, 1, 1).exp()
    bend = uniform(rng, 0, 0.6, n, 1, 1, 1)
    u = (x * angle.cos() + y * angle.sin() + (noise(n, rng) - 0.5) * bend) * count
    v = (y * angle.cos() - x * angle.sin() + (noise(n, rng) - 0.5) * bend) * count
    u = u + torch.where(chance(rng, 0.5, n), 0.5 * torch.floor(v), torch.zeros(()))
    distance = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2).sqrt()
    radius, sharp = uniform(rng, 0.12, 0.45, n, 1, 1, 1), uniform(rng, 5, 40, n, 1, 1, 1)
    return torch.sigmoid((radius - distance) * sharp)


def cells(n: int, rng: torch.Generator) -> Tensor:
    """Return cells around random points: their walls, their tints, or the distance."""
    points = int(torch.randint(6, 60, (), generator=rng))
    px, py = (uniform(rng, -1.2, 1.2, n, points, 1, 1) for _ in range(2))
    x, y = _axes()
    stretch = uniform(rng, -0.8, 0.8, n, 1, 1, 1).exp()
    distance = ((x - px) ** 2 * stretch + (y - py) ** 2 / stretch).sqrt()
    near, place = distance.topk(2, dim=1, largest=False)
    wall = torch.sigmoid((near[:, 1:] - near[:, :1]) * 60 - uniform(rng, 1, 4, n, 1, 1, 1))
    tint = torch.rand(n, points, generator=rng).gather(1, place[:, 0].flatten(1))
    tint = tint.reshape(n, 1, SIDE, SIDE)
    kind = torch.randint(3, (n, 1, 1, 1), generator=rng)
    both = torch.where(kind == 1, tint * wall, _level(near[:, :1]))
    return torch.where(kind == 0, wall, both)


def reaction(n: int, rng: torch.Generator) -> Tensor:
    """Return patterns as of reaction and diffusion: noise of one wavelength, made steep."""
    down, right = _frequencies()
    stretch = uniform(rng, -1, 1, n, 1, 1, 1).exp() ** chance(rng, 0.4, n)
    radius = (down**2 * stretch + right**2 / stretch).sqrt().clamp(min=1e-4)
    centre, width = uniform(rng, -3.7, -1.3, n, 1, 1, 1), uniform(rng, 0.1, 0.5, n, 1, 1, 1)
    wave = _filtered((-(((radius.log() - centre) / width) ** 2)).exp(), rng)
    wave = wave / wave.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    steep = uniform(rng, 0, 3, n, 1, 1, 1).exp()
    return torch.sigmoid((wave + uniform(rng, -1, 1, n, 1, 1, 1)) * steep)


def outlines(n: int, rng: torch.Generator) -> Tensor:
    """Return one shape each, 1 inside: a disc, a box, a polygon or a star, of random size."""
    x, y = _axes()
    cx, cy = (uniform(rng, -0.8, 0.8, n, 1, 1, 1) for _ in range(2))
    size = uniform(rng, -2.2, 0.1, n, 1, 1, 1).exp()
    stretch = uniform(rng, -0.7, 0.7, n, 1, 1, 1).exp()
    angle = uniform(rng, 0, math.pi, n, 1, 1, 1)
    u = ((x - cx) * angle.cos() + (y - cy) * angle.sin()) * stretch
    v = ((y - cy) * angle.cos() - (x - cx) * angle.sin()) / stretch
    corners = torch.randint(3, 8, (n, 1, 1, 1), generator=rng)
    phase, around = torch.atan2(v, u) * corners, (u * u + v * v).sqrt()
    star = 1 + uniform(rng, 0, 0.5, n, 1, 1, 1) * phase.cos()
    turn = 2 * math.pi / corners
    flat = ((torch.atan2(v, u) % turn) - turn / 2).cos() / (turn / 2).cos()
    kind = torch.randint(4, (n, 1, 1, 1), generator=rng)
    edge = torch.where(kind == 0, around, torch.maximum(u.abs(), v.abs()))
    edge = torch.where(kind == 2, around * flat, edge)
    edge = torch.where(kind == 3, around / star, edge)
    return torch.sigmoid((size - edge) * 100)


def _level(x: Tensor) -> Tensor:
    low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)


_MAPS: tuple[Callable[[int, torch.Generator], Tensor], ...] = (
    noise,
    stripes,
    dots,
    cells,
    reaction,
)


def textures(n: int, rng: torch.Generator) -> Tensor:
    """Return textures in two or three colours, with grain and light of their own."""
    parts = [f(n // len(_MAPS) + 1, rng) for f in _MAPS]
    x = torch.cat(parts)[torch.randperm(sum(map(len, parts)), generator=rng)[:n]]
    image = tinted(x, rng)
    third = outlines(n, rng) * chance(rng, 0.15, n)
    image = image + (torch.rand(n, 3, 1, 1, generator=rng) - image) * third
    light = 1 + (noise(n, rng) - 0.5) * uniform(rng, 0, 0.9, n, 1, 1, 1) ** 2
    return (image * light).clamp(0, 1)


def tinted(x: Tensor, rng: torch.Generator) -> Tensor:
    """Colour maps [n, 1, ...]: two colours each, near or far from each other."""
    n = len(x)
    a = torch.rand(n, 3, 1, 1, generator=rng)
    b = torch.rand(n, 3, 1, 1, generator=rng)
    grey = a.mean(dim=1, keepdim=True) + uniform(rng, -0.6, 0.6, n, 1, 1, 1)
    b = torch.where(chance(rng, 0.4, n), (grey + (b - 0.5) * 0.2).clamp(0, 1), b)
    return a + (b - a) * x


def leaves(n: int, rng: torch.Generator) -> Tensor:
    """Return many shapes on top of each other, plain or textured: "dead leaves"."""
    image = textures(n, rng)
    for _ in range(int(torch.randint(3, 25, (), generator=rng))):
        plain = torch.rand(n, 3, 1, 1, generator=rng).expand(n, 3, SIDE, SIDE)
        shade = plain * (1 - 0.4 * _axes()[1] * uniform(rng, -1, 1, n, 1, 1, 1))
        fill = torch.where(chance(rng, 0.4, n), image.roll(1, 0), shade)
        image = image + (fill - image) * outlines(n, rng)
    return image.clamp(0, 1)


def drawings(sources: Sources, n: int, rng: torch.Generator) -> Tensor:
    """Return characters, clothes and doodles: half as they are, half with other inks and papers."""
    x = crops(sources.shapes, n, rng, turn=0.3)
    ink = x.mean(dim=1, keepdim=True)
    paper = torch.where(chance(rng, 0.5, n), textures(n, rng), crops(sources.photos, n, rng, 0.2))
    paper = torch.where(chance(rng, 0.5, n), paper, torch.rand(n, 3, 1, 1, generator=rng))
    pen = torch.where(chance(rng, 0.2, n), textures(n, rng), torch.rand(n, 3, 1, 1, generator=rng))
    return torch.where(chance(rng, 0.4, n), x, pen + (paper - pen) * ink)


def mixtures(sources: Sources, n: int, rng: torch.Generator) -> Tensor:
    """Return two pictures in one: blended, or one in a shape or box on the other."""
    a = crops(sources.photos, n, rng, turn=0.15)
    b = crops(sources.photos, n, rng, turn=0.15)
    b = torch.where(chance(rng, 0.35, n), textures(n, rng), b)
    mask = outlines(n, rng)
    mask = torch.where(chance(rng, 0.5, n), 1 - mask, mask)
    mask = torch.where(chance(rng, 0.4, n), uniform(rng, 0.1, 0.9, n, 1, 1, 1), mask)
    return a + (b - a) * mask


# ---- what a camera does ----


def developed(x: Tensor, rng: torch.Generator) -> Tensor:
    """Change light, contrast and colours; some lose colour, sharpness or are noisy."""
    n = len(x)
    x = x * uniform(rng, 0.6, 1.4, n, 1, 1, 1)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(rng, 0.6, 1.4, n, 1, 1, 1) + mean
    grey = x.mean(dim=1, keepdim=True)
    colour = uniform(rng, 0.3, 1.5, n, 1, 1, 1) * ~chance(rng, 0.1, n)
    x = (x - grey) * colour + grey
    x = x * (1 + 0.12 * torch.randn(n, 3, 1, 1, generator=rng) * chance(rng, 0.3, n))
    x = torch.where(chance(rng, 0.04, n), x[:, [2, 0, 1]], x)
    x = torch.where(chance(rng, 0.03, n), 1 - x, x)
    for side in (24, 40):
        rows = torch.nonzero(torch.rand(n, generator=rng) < 0.1)[:, 0]
        if not len(rows):
            continue
        small = functional.interpolate(
            x[rows], size=(side, side), mode="bilinear", antialias=True, align_corners=False
        )
        x[rows] = functional.interpolate(
            small, size=(SIDE, SIDE), mode="bilinear", align_corners=False
        )
    grain = torch.randn(x.shape, generator=rng) * uniform(rng, 0, 0.1, n, 1, 1, 1)
    return (x + grain * chance(rng, 0.2, n)).clamp(0, 1)


def pictures(sources: Sources, n: int, rng: torch.Generator) -> Tensor:
    """Return n pictures of all kinds, uint8 [n, 3, SIDE, SIDE], in random order."""
    counts = [n * share // 100 for share in (26, 10, 8, 12)]
    parts = [
        mixtures(sources, counts[0], rng),
        textures(counts[1], rng),
        leaves(counts[2], rng),
        drawings(sources, counts[3], rng),
        crops(sources.photos, n - sum(counts), rng, turn=0.1),
    ]
    x = developed(torch.cat(parts)[torch.randperm(n, generator=rng)], rng)
    return (x * 255).round().to(torch.uint8)
