"""Curves in one picture: accuracy by pass, accuracy against memory.

The same picture stands on a page, with the colours of the page, or alone, with its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kilograd.report.axes import label, scale, ticks
from kilograd.report.markup import escape

_COLOURS = ("#1a6fb5", "#c2571a", "#2e7d4f", "#8a4fb0", "#a08000", "#c62850", "#3f7f8f", "#6d6d6d")
"""Of curves, in turn: dark enough on white, and light enough on black."""
CHART_STYLE = "".join(
    f".c{i} {{ stroke: {c}; }} circle.c{i}, text.c{i} {{ fill: {c}; stroke: none; }} "
    for i, c in enumerate(_COLOURS)
) + ("path.curve { stroke-width: 1.8; } path.spread { stroke-width: 1; opacity: .55; } ")
_ALONE = (
    "text { font: 11px sans-serif; fill: #444; } path { fill: none; } path.grid { stroke: #ddd; } "
)
_WIDTH, _HEIGHT = 760, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 18, 40
_KEY = 16


@dataclass(frozen=True)
class Point:
    """A point of a curve; `half` of its interval goes up and down, `says` is shown on pointing.

    `name` is written beside it.
    """

    x: float
    y: float
    half: float | None = None
    says: str = ""
    name: str = ""


@dataclass(frozen=True)
class Curve:
    """Points in the order in which a line joins them."""

    name: str
    points: tuple[Point, ...]


def chart(curves: Sequence[Curve], across: str, up: str) -> str:
    """Return the picture as one <svg> element; `across` and `up` say what the axes are."""
    return _svg(curves, across, up, "", "")


def chart_alone(curves: Sequence[Curve], across: str, up: str) -> str:
    """Return the picture as a file of its own, on white."""
    style = f'<style>{_ALONE}{CHART_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    return _svg(curves, across, up, ' xmlns="http://www.w3.org/2000/svg"', style) + "\n"


def _svg(curves: Sequence[Curve], across: str, up: str, more: str, style: str) -> str:
    points = [p for c in curves for p in c.points]
    left, right = _span([p.x for p in points])
    low, high = _span([p.y + side * (p.half or 0.0) for p in points for side in (-1, 1)])
    top = _TOP + _KEY * math.ceil(len(curves) / 4)
    x = scale(left, right, _LEFT, _WIDTH - _RIGHT)
    y = scale(low, high, _HEIGHT - _BOTTOM, top)
    name = escape(f"{up}, by {across}")
    out = [f'<svg{more} viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{style}']
    for tick in ticks(left, right):
        out.append(f'<path class="grid" d="M{x(tick):.1f} {top}V{_HEIGHT - _BOTTOM}"/>')
        out.append(label(x(tick), _HEIGHT - _BOTTOM + 16, f"{tick:g}", "axis", "middle"))
    for tick in ticks(low, high):
        out.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}"/>')
        out.append(label(_LEFT - 6, y(tick) + 4, f"{tick:g}", "axis", "end"))
    out.append(label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, escape(across), "axis", "middle"))
    out.append(label(4, 12, escape(up), "axis", "start"))
    for i, curve in enumerate(curves):
        kind = f"c{i % len(_COLOURS)}"
        at = _LEFT + (i % 4) * (_WIDTH - _LEFT) / 4, _TOP + _KEY * (i // 4) + 10
        out.append(label(*at, escape(curve.name), kind, "start"))
        out += _drawn(curve, kind, x, y)
    return "\n".join([*out, "</svg>"])


def _drawn(
    curve: Curve, kind: str, x: Callable[[float], float], y: Callable[[float], float]
) -> Iterator[str]:
    line = "L".join(f"{x(p.x):.1f} {y(p.y):.1f}" for p in curve.points)
    if len(curve.points) > 1:
        yield f'<path class="curve {kind}" d="M{line}"/>'
    for p in curve.points:
        if p.half is not None:
            ends = f"{y(p.y - p.half):.1f}V{y(p.y + p.half):.1f}"
            yield f'<path class="spread {kind}" d="M{x(p.x):.1f} {ends}"/>'
        says = escape(f"{curve.name}: {p.says or f'{p.y:g} at {p.x:g}'}")
        yield (
            f'<circle class="{kind}" cx="{x(p.x):.1f}" cy="{y(p.y):.1f}" r="3">'
            f"<title>{says}</title></circle>"
        )
        if p.name:
            beside, anchor = (-5, "end") if x(p.x) > 0.85 * _WIDTH else (5, "start")
            yield label(x(p.x) + beside, y(p.y) - 5, escape(p.name), kind, anchor)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return a little more than what values span."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room
