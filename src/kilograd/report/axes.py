"""What figures with axes have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return where a value between `low` and `high` is drawn, between `start` and `end`."""
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def ticks(low: float, high: float) -> Iterator[float]:
    """Yield about eight round numbers between two."""
    size = (high - low) / 8 or 1.0
    unit = 10 ** math.floor(math.log10(size))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= size)
    at = math.ceil(low / step)
    while at * step <= high:
        yield round(at * step, 10)
        at += 1


def label(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    """Return a text of an SVG; `text` is escaped."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
