"""Pictures of toys, drawn here: something to learn where no photographs are at hand.

Six toys, each of a few flat parts.  Colours say nothing of what it is: they are drawn anew for
each picture, as are place, size, angle, light, and what lies behind and around.  The same seed
gives the same pictures; they are the project's own, and free for every use (CC0).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kilograd import limits
from kilograd.data.bounds import at_least, at_most
from kilograd.data.chance import below, generator
from kilograd.data.dataset import Dataset
from kilograd.errors import option
from kilograd.output import check_folder, whole_folder

SIZE = 96
#: Pictures of each toy, where nobody says how many.
EACH = 24

Plane = NDArray[np.float64]
"""A number for each pixel [size, size]."""
Outline = Callable[[Plane, Plane], Plane]
"""From x (right) and y (down), in units of half a toy, to a distance: negative inside."""
Colour = NDArray[np.float64]
"""Red, green and blue from 0 to 1 [3]."""


@dataclass(frozen=True)
class Part:
    """A part of a toy, in the `paint`-th of its colours: 0 is the largest part's, 2 is dark."""

    outline: Outline
    paint: int


def _oval(x: float, y: float, a: float, b: float) -> Outline:
    return lambda u, v: (np.hypot((u - x) / a, (v - y) / b) - 1) * min(a, b)


def _polygon(*corners: tuple[float, float]) -> Outline:
    """Return a convex polygon; its corners go clockwise as one sees them."""

    def distance(u: Plane, v: Plane) -> Plane:
        edges = zip(corners, (*corners[1:], corners[0]), strict=True)
        return np.max([_beside(u, v, a, b) for a, b in edges], axis=0)

    return distance


def _beside(u: Plane, v: Plane, a: tuple[float, float], b: tuple[float, float]) -> Plane:
    """Return how far left of a line from a to b each point lies."""
    along, down = b[0] - a[0], b[1] - a[1]
    return ((u - a[0]) * down - (v - a[1]) * along) / math.hypot(along, down)


def _box(left: float, top: float, right: float, bottom: float) -> Outline:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom))


TOYS: dict[str, tuple[Part, ...]] = {
    "boat": (
        Part(_box(-0.06, -0.9, 0.04, 0.3), 2),
        Part(_polygon((0.1, -0.85), (0.8, 0.2), (0.1, 0.2)), 1),
        Part(_polygon((-0.12, -0.6), (-0.12, 0.2), (-0.65, 0.2)), 1),
        Part(_polygon((-0.95, 0.3), (0.95, 0.3), (0.55, 0.8), (-0.6, 0.8)), 0),
    ),
    "car": (
        Part(_polygon((-0.45, -0.5), (0.3, -0.5), (0.6, 0.0), (-0.7, 0.0)), 1),
        Part(_box(-0.95, -0.05, 0.95, 0.45), 0),
        Part(_oval(-0.5, 0.48, 0.25, 0.25), 2),
        Part(_oval(0.5, 0.48, 0.25, 0.25), 2),
    ),
    "duck": (
        Part(_polygon((0.68, -0.52), (0.98, -0.4), (0.68, -0.26)), 1),
        Part(_oval(-0.12, 0.3, 0.78, 0.45), 0),
        Part(_oval(0.42, -0.4, 0.34, 0.34), 0),
        Part(_oval(-0.25, 0.25, 0.36, 0.2), 1),
        Part(_oval(0.5, -0.48, 0.07, 0.07), 2),
    ),
    "fish": (
        Part(_polygon((-0.95, -0.45), (-0.35, 0.0), (-0.95, 0.45)), 1),
        Part(_polygon((-0.1, -0.65), (0.3, -0.3), (-0.3, -0.3)), 1),
        Part(_oval(0.15, 0.0, 0.75, 0.42), 0),
        Part(_oval(0.55, -0.1, 0.08, 0.08), 2),
    ),
    "house": (
        Part(_polygon((0.0, -0.9), (0.85, -0.15), (-0.85, -0.15)), 1),
        Part(_box(-0.65, -0.15, 0.65, 0.8), 0),
        Part(_box(-0.15, 0.25, 0.2, 0.8), 2),
    ),
    "rocket": (
        Part(_polygon((-0.2, 0.2), (-0.2, 0.75), (-0.6, 0.95)), 1),
        Part(_polygon((0.2, 0.2), (0.6, 0.95), (0.2, 0.75)), 1),
        Part(_oval(0.0, -0.05, 0.34, 0.9), 0),
        Part(_oval(0.0, -0.25, 0.15, 0.15), 2),
    ),
}


def draw_toy(toy: str, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    """Draw one picture, RGB, `size` pixels wide and high."""
    at = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(at, at)
    picture = _background(x, y, rng)
    half = rng.uniform(0.55, 0.85)
    angle, mirror = rng.uniform(-0.4, 0.4), 2 * below(rng, 2) - 1
    dx, dy = rng.uniform(half - 1, 1 - half, 2)
    u = mirror * (math.cos(angle) * (x - dx) + math.sin(angle) * (y - dy)) / half
    v = (math.cos(angle) * (y - dy) - math.sin(angle) * (x - dx)) / half
    edge = size / 2 * half
    shadow = np.min([p.outline(u - 0.1, v - 0.12) for p in TOYS[toy]], axis=0)
    picture *= 1 - 0.45 * _inside(shadow, 4.0)[..., None]
    paints = (_colour(rng), _colour(rng), _colour(rng) * 0.3)
    for part in TOYS[toy]:
        cover = _inside(part.outline(u, v), edge)[..., None]
        picture += cover * (paints[part.paint] - picture)
    tilt = rng.uniform(-0.4, 0.4, 2)
    light = rng.uniform(0.65, 1.15) * (1 + tilt[0] * x + tilt[1] * y)
    picture = picture * light[..., None] + rng.uniform(-0.04, 0.04, picture.shape)
    return Image.fromarray((picture * 255).round().clip(0, 255).astype(np.uint8))


def _inside(distance: Plane, sharpness: float) -> Plane:
    """Return how much of each pixel is inside, from 0 to 1; the edge is 1/`sharpness` wide."""
    return np.clip(0.5 - distance * sharpness, 0, 1)


def _background(x: Plane, y: Plane, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a surface [size, size, 3]: waves of two colours, and things that lie around."""
    waves = np.zeros_like(x)
    for _ in range(4):
        along, turn, phase = rng.uniform(2, 14), rng.uniform(0, math.pi), rng.uniform(0, 6.3)
        waves += np.sin(along * (x * math.cos(turn) + y * math.sin(turn)) + phase)
    mix = (0.5 + waves / 16)[..., None]
    picture = mix * _colour(rng) + (1 - mix) * _colour(rng)
    for _ in range(below(rng, 3)):
        a, b = rng.uniform(0.06, 0.3, 2)
        spot = _oval(rng.uniform(-1, 1), rng.uniform(-1, 1), a, b)
        cover = _inside(spot(x, y), len(x) / 2)[..., None]
        picture += 0.8 * cover * (_colour(rng) - picture)
    return picture


def _colour(rng: np.random.Generator) -> Colour:
    return rng.uniform(0.1, 1, 3)


def load_toys(each: int = EACH, seed: int = 0) -> Dataset:
    """Return so many pictures of each toy, as a data set."""
    names, images = zip(*_drawn(each, generator(seed)), strict=True)
    return Dataset(
        name="toys",
        classes=tuple(TOYS),
        images=images,
        image_names=names,
        labels=np.repeat(np.arange(len(TOYS)), each),
    )


def write_toys(out: Path, each: int = EACH, seed: int = 0) -> tuple[str, ...]:
    """Write a folder of class folders of pictures, and return the names of the classes.

    Raises `InputError` for less than one picture of each or more than there may be, a bad seed,
    and where there is something already, or nothing can be written.
    """
    at_least(1, option("each"), each)
    at_most(limits.IMAGES // len(TOYS), option("each"), each)
    rng = generator(seed)
    check_folder(out, mark="")
    with whole_folder(out) as new:
        for toy in TOYS:
            (new / toy).mkdir()
        for name, data in _drawn(each, rng):
            (new / name).write_bytes(data)
    return tuple(TOYS)


def _drawn(each: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield the name of a file and what it holds, toy by toy."""
    for toy in TOYS:
        for i in range(1, each + 1):
            file = io.BytesIO()
            draw_toy(toy, rng).save(file, "PNG")
            yield f"{toy}/{toy}-{i:03}.png", file.getvalue()
