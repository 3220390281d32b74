"""Random views of an image, so that few samples teach more (after PMF's DiffAugment).

Works on network input, int8 [h, w, c] with code 0 in the middle of the range.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

_APPLIED = 0.9  # of all samples; the rest are shown as they are
_SHIFT = 1 / 8  # of the side, either way
_BRIGHTNESS = 64  # codes: 0.5 where the whole range is 2


class Augment(enum.StrEnum):
    """What may be done to an image; characters and signs mean something else mirrored."""

    FULL = "full"
    NOFLIP = "noflip"
    NONE = "none"


def augmented(
    image: NDArray[np.int8], rng: np.random.Generator, augment: Augment
) -> NDArray[np.int8]:
    """Return a mirrored, shifted and recoloured view of `image`, or the image itself."""
    if augment is Augment.NONE or rng.random() > _APPLIED:
        return image
    x = image.astype(np.float32)
    if augment is Augment.FULL and rng.random() < 0.5:
        x = x[:, ::-1]
    x = x + rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    grey = x.mean(axis=2, keepdims=True)
    x = (x - grey) * rng.uniform(0, 2) + grey
    mean = x.mean()
    x = (x - mean) * rng.uniform(0.5, 1.5) + mean
    shifted = _shifted(x, *(int(rng.integers(-n, n + 1)) for n in _reach(image)))
    return np.clip(np.rint(shifted), -128, 127).astype(np.int8)


def _reach(image: NDArray[np.int8]) -> tuple[int, int]:
    return int(image.shape[0] * _SHIFT), int(image.shape[1] * _SHIFT)


def _shifted(x: NDArray[np.float32], down: int, right: int) -> NDArray[np.float32]:
    out = np.zeros_like(x)
    h, w, _ = x.shape
    out[max(down, 0) : h + min(down, 0), max(right, 0) : w + min(right, 0)] = x[
        max(-down, 0) : h + min(-down, 0), max(-right, 0) : w + min(-right, 0)
    ]
    return out
