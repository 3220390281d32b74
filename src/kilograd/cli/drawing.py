"""Pictures and curves in characters: coloured half blocks on a terminal, else plain ASCII."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

_SHADES = " .:-=+*#%@"
_BLOCKS = "▁▂▃▄▅▆▇█"
_HALF = "▀"


def has_blocks(console: Console) -> bool:
    """Say whether blocks can be shown: on a terminal that knows Unicode."""
    return console.is_terminal and console.encoding.startswith("utf")


def _has_colours(console: Console) -> bool:
    many = console.color_system in {"256", "truecolor"}
    return has_blocks(console) and many and not console.no_color


def curve(values: Sequence[float], columns: int, console: Console) -> str:
    """Return at most so many characters, each as high, or as dark, as the mean of its values."""
    shades = _BLOCKS if has_blocks(console) else _SHADES
    parts = np.array_split(np.array(values), min(columns, len(values)))
    means = np.array([p.mean() for p in parts])
    span = means.max() - means.min() or 1.0
    levels = ((means - means.min()) / span * (len(shades) - 1)).round().astype(int)
    return "".join(shades[i] for i in levels)


def tile(image: Image.Image, columns: int, console: Console) -> list[Text]:
    """Return a square picture, `columns` wide and half as many lines high.

    Without colours it shows the light, stretched from the darkest character to the brightest.
    """
    if _has_colours(console):
        return _in_colours(image.convert("RGB").resize((columns, columns), Image.Resampling.BOX))
    light = image.convert("L").resize((columns, columns // 2), Image.Resampling.BOX)
    levels = np.asarray(ImageOps.autocontrast(light, cutoff=2), np.int64) * len(_SHADES) // 256
    return [Text("".join(_SHADES[i] for i in row)) for row in levels]


def _in_colours(image: Image.Image) -> list[Text]:
    """Return two rows of pixels as one line: the upper in front, the lower behind."""
    rows = np.asarray(image).tolist()
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        line = Text()
        for above, below in zip(upper, lower, strict=True):
            line.append(_HALF, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        lines.append(line)
    return lines


def clearness(image: Image.Image) -> float:
    """Say how well a picture is seen in few characters: large shapes before a calm ground."""
    small = np.asarray(image.convert("L").resize((24, 24), Image.Resampling.BOX), np.float64)
    steps = np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()
    return float(small.std() / (steps + 1))
