"""Lines of gains with their intervals, as pictures in a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kilograd.report.markup import escape
from kilograd.search import Gain

STYLE = """
:root { --e: #b4cfe9; --q: #76aadb; --h: #3578b8; --w: #0e3560; }
@media (prefers-color-scheme: dark) { :root {
  --e: #38597a; --q: #4d83b8; --h: #83b9e8; --w: #dcecfb; } }
path.line { stroke-width: 1.8; stroke-linejoin: round; } path.set { stroke-width: 1.2; }
path.zero { stroke: var(--soft); }
.e { stroke: var(--e); fill: var(--e); } .q { stroke: var(--q); fill: var(--q); }
.h { stroke: var(--h); fill: var(--h); } .w { stroke: var(--w); fill: var(--w); }
circle { stroke-width: 0; } path.e, path.q, path.h, path.w { fill: none; }
"""
"""Of pages with such pictures: four colours, from light to dark, by the letters e, q, h and w."""

_WIDTH, _HEIGHT = 1120, 236
_LEFT, _RIGHT, _TOP, _FOOT = 44, 12, 8, 30


@dataclass(frozen=True)
class Scale:
    """Gains in points from `low` to `high`, a line each `step`; `count` places to the right."""

    low: float
    high: float
    step: float
    count: int

    def x(self, place: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (place + 0.5) / self.count

    def y(self, points: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _FOOT) * (self.high - points) / (self.high - self.low)


def per(gain: Gain, amount: float) -> Gain:
    """Return a gain for each of some amount."""
    return Gain(gain.mean / amount, gain.half_width / amount)


def scale_of(gains: Sequence[Gain], count: int) -> Scale:
    """Fit all gains, with what is shown of their intervals."""
    low = min(0.0, *(100 * (g.mean - g.half_width) for g in gains))
    high = max(0.0, *(100 * (g.mean + g.half_width) for g in gains))
    rough = max(high - low, 1e-3) / 6
    ten = 10 ** math.floor(math.log10(rough))
    step = next(ten * m for m in (1, 2, 5, 10) if ten * m >= rough)
    bottom, top = math.floor(low / step), math.ceil(high / step)
    return Scale(step * bottom, step * max(top, bottom + 1), step, count)


def begun(name: str, scale: Scale, labels: Sequence[str]) -> Iterator[str]:
    """Open a picture: lines across, and a label below each place that has one."""
    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(name)}">'
    for i in range(round((scale.high - scale.low) / scale.step) + 1):
        points = scale.low + i * scale.step
        zero = abs(points) < scale.step / 2
        y = scale.y(points)
        kind = "zero" if zero else "grid"
        yield f'<path class="{kind}" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
        text = "0" if zero else f"{points:+g}"
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    for place, label in enumerate(labels):
        if label:
            yield (
                f'<text x="{scale.x(place):.1f}" y="{_HEIGHT - 12}" text-anchor="middle">'
                f"{escape(label)}</text>"
            )


def curve(
    scale: Scale, points: Sequence[tuple[float, Gain, str]], kind: str, unit: str = "points"
) -> Iterator[str]:
    """Draw a line through points, each with its interval and what to say of it."""
    places = [(scale.x(place), gain, label) for place, gain, label in points]
    line = "L".join(f"{x:.1f} {scale.y(100 * gain.mean):.1f}" for x, gain, _ in places)
    if line:
        yield f'<path class="line {kind}" d="M{line}"/>'
    for x, gain, label in places:
        ends = [scale.y(100 * (gain.mean + side * gain.half_width)) for side in (1, -1)]
        yield f'<path class="spread {kind}" d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}"/>'
        digits = ".1f" if unit == "points" else ".3g"
        amount, half = 100 * gain.mean, 100 * gain.half_width
        said = f"{label}: {amount:+{digits}} ± {half:{digits}} {unit}"
        yield (
            f'<circle class="{kind}" cx="{x:.1f}" cy="{scale.y(100 * gain.mean):.1f}" r="2.8">'
            f"<title>{escape(said)}</title></circle>"
        )


def legend(colours: Iterable[str], names: Iterable[str]) -> str:
    """Return what lines of some colours stand for."""
    items = (
        f'<span><i style="background: var(--{colour})"></i>{escape(name)}</span>'
        for colour, name in zip(colours, names, strict=False)
    )
    return f'<div class="legend">{"".join(items)}</div>'
