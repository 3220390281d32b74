"""Pictures for the example of an exported project: drawn, or one's own images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kilograd.emit.names import c_string

Frames = NDArray[np.uint8]
"""Red, green and blue of frames of one size: [frames, height, width, 3]."""
Codes = NDArray[np.int8]
"""Arrays as a network reads them: [samples, height, width, channels]."""

COLOURS = 3


@dataclass(frozen=True)
class Pictures:
    """Frames of classes, or arrays: some to learn from, the support, and others to test on.

    `names` are those of the classes that are shown, which are the first ones of the program.
    `own`: not drawn here, but samples of classes that were learned, images cut and scaled as the
    network reads them; then `names` are all its classes, and there may be none to learn from.
    """

    names: tuple[str, ...]
    support: Frames | Codes
    support_labels: tuple[int, ...]
    tests: Frames | Codes
    test_labels: tuple[int, ...]
    own: bool = False

    @property
    def tests_only(self) -> Pictures:
        """The same without those to learn from."""
        return replace(self, support=self.support[:0], support_labels=())

    @property
    def every_class(self) -> bool:
        """Whether there are images of every class to learn from."""
        return len(set(self.support_labels)) == len(self.names)


_HEIGHT, _WIDTH = 18, 24
_SHOTS, _TESTS = 3, 4

Canvas = NDArray[np.int64]


def _disc(y: Canvas, x: Canvas) -> NDArray[np.bool_]:
    return y * y + x * x < 36


def _ring(y: Canvas, x: Canvas) -> NDArray[np.bool_]:
    return (y * y + x * x < 49) & (y * y + x * x > 12)


def _cross(y: Canvas, x: Canvas) -> NDArray[np.bool_]:
    return ((abs(y) < 2) | (abs(x) < 2)) & (abs(y) < 8) & (abs(x) < 8)


def _stripes(y: Canvas, x: Canvas) -> NDArray[np.bool_]:
    return (y // 2 % 2 == 0) & (abs(x) < 8)


def _checks(y: Canvas, x: Canvas) -> NDArray[np.bool_]:
    return (y // 3 + x // 3) % 2 == 0


_SHAPES: dict[str, Callable[[Canvas, Canvas], NDArray[np.bool_]]] = {
    "disc": _disc,
    "ring": _ring,
    "cross": _cross,
    "stripes": _stripes,
    "checks": _checks,
}


def drawn(ways: int) -> Pictures:
    """Draw shapes of random colours at random places: three of each to learn from, four to test.

    Five classes are shown, or `ways` if those are fewer.
    """
    rng = np.random.default_rng(0)
    names = tuple(_SHAPES)[:ways]
    support, tests = (
        np.stack([_picture(name, rng) for name in names for _ in range(n)])
        for n in (_SHOTS, _TESTS)
    )
    labels = range(len(names))
    return Pictures(
        names,
        support,
        tuple(k for k in labels for _ in range(_SHOTS)),
        tests,
        tuple(k for k in labels for _ in range(_TESTS)),
    )


def _picture(name: str, rng: np.random.Generator) -> Frames:
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    down, right = rng.integers(-2, 3, 2)
    shape = _SHAPES[name](y - _HEIGHT // 2 - down, x - _WIDTH // 2 - right)
    dark, light = rng.integers(20, 110, 3), rng.integers(140, 230, 3)
    colours = (light, dark) if rng.integers(2) else (dark, light)
    noise = rng.integers(-20, 21, (_HEIGHT, _WIDTH, 1))
    return (np.where(shape[..., None], *colours) + noise).astype(np.uint8)


def pixel_format(pictures: Pictures, channels: int) -> str:
    """Return how images.h holds a pixel: one's own images must lose nothing."""
    if channels == 1:
        return "KG_GREY"
    return "KG_RGB" if pictures.own else "KG_RGB565_SWAPPED"


def stored(frames: Frames | Codes, pixel: str) -> Frames:
    """Return frames as images.h holds them, uint8 [frames, bytes]; `pixel` is a `kg_format`.

    Of 16 bits, with the high byte first, five are red, six green, and five blue.
    """
    frames = frames.astype(np.uint8, copy=False)
    if pixel == "KG_RGB":
        return frames.reshape(len(frames), -1)
    red, green, blue = (frames[..., c].astype(np.uint32) for c in range(3))
    if pixel == "KG_GREY":
        grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
        return grey.astype(np.uint8).reshape(len(frames), -1)
    both = red >> 3 << 11 | green >> 2 << 5 | blue >> 3
    return both.astype(">u2").view(np.uint8).reshape(len(frames), -1)


def images_h(pictures: Pictures, channels: int) -> str:
    """Return the header that holds the frames."""
    _, height, width, _ = pictures.tests.shape
    pixel = pixel_format(pictures, channels)
    names = ", ".join(map(c_string, pictures.names))
    parts = [
        _IMAGES_H.format(
            width=width,
            height=height,
            what=_OWN if pictures.own else _DRAWN,
            format=pixel,
            bytes=stored(pictures.tests[:1], pixel).size,
            shown=len(pictures.names),
            names=names,
        )
    ]
    for name, frames, labels in (
        ("support", pictures.support, pictures.support_labels),
        ("tests", pictures.tests, pictures.test_labels),
    ):
        if labels:
            held = stored(frames, pixel)
            parts.append(labelled(name, "uint8_t", "FRAME_BYTES", held, labels))
    return "\n".join(parts)


def labelled(name: str, kind: str, each: str, held: Frames | Codes, labels: tuple[int, ...]) -> str:
    """Return a table of samples [samples, bytes], and one of their labels, in C."""
    rows = ",\n".join(map(_row, held))
    return (
        f"#define {name.upper()} {len(labels)}\n"
        f"static const int32_t {name}_label[{name.upper()}] = "
        f"{{{', '.join(map(str, labels))}}};\n"
        f"static const {kind} {name}[{name.upper()}][{each}] = {{\n{rows}}};\n"
    )


def _row(frame: Frames | Codes) -> str:
    lines = ",\n     ".join(_lines(frame))
    return f"    {{{lines}}}"


def _lines(frame: Frames | Codes) -> Iterator[str]:
    values = list(map(str, frame.tolist()))
    return (",".join(values[i : i + 24]) for i in range(0, len(values), 24))


_DRAWN = "frames for example.c, as a camera would give them"
_OWN = "images for example.c, cut and scaled as the network reads them"
_IMAGES_H = """\
/* Generated by kilograd: {what}. */
#include <stdint.h>

#include "kg_frame.h"

#define FRAME_WIDTH {width}
#define FRAME_HEIGHT {height}
#define FRAME_FORMAT {format}
#define FRAME_BYTES {bytes}

/* The classes that are shown, in the order of their labels. */
#define SHOWN {shown}
static const char *const names[SHOWN] = {{{names}}};
"""
