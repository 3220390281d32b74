"""One HTML page about what each layer brings when it alone learns: lines with their intervals."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kilograd.ir import Graph
from kilograd.report.document import document
from kilograd.report.markup import escape
from kilograd.search import SHARES, Contribution, Gain, Gains
from kilograd.select import Evidence

_MORE = """
:root { --e: #b4cfe9; --q: #76aadb; --h: #3578b8; --w: #0e3560; }
@media (prefers-color-scheme: dark) { :root {
  --e: #38597a; --q: #4d83b8; --h: #83b9e8; --w: #dcecfb; } }
path.line { stroke-width: 1.8; stroke-linejoin: round; } path.set { stroke-width: 1.2; }
path.zero { stroke: var(--soft); }
.e { stroke: var(--e); fill: var(--e); } .q { stroke: var(--q); fill: var(--q); }
.h { stroke: var(--h); fill: var(--h); } .w { stroke: var(--w); fill: var(--w); }
circle { stroke-width: 0; } path.e, path.q, path.h, path.w { fill: none; }
"""
_HOW = (
    "Accuracy gained over the head alone on the same episodes, in points, where the parameters "
    "shown and no others learn. Upright lines are 95 % intervals by Student's t over"
)
_SHARE = (
    "A share of its input channels, those with the largest weights; depthwise: of its channels. "
    "Layers are numbered in execution order."
)
_WIDTH, _HEIGHT = 1120, 236
_LEFT, _RIGHT, _TOP, _FOOT = 44, 12, 8, 30
_SETS = ("gradient", "mask", "state", "over", "other")
"""Colours of data sets, which take turns."""
_CLASSES = dict(zip(SHARES, "eqhw", strict=True))


class Role(enum.StrEnum):
    """What a convolution is in an inverted bottleneck."""

    FIRST = "first 1×1 of a block"
    DEPTHWISE = "depthwise"
    SECOND = "second 1×1 of a block"
    OTHER = "other"


def roles(evidence: Evidence) -> tuple[Role, ...]:
    """Return what each convolution is, by what stands beside it.

    A 1x1 convolution behind a depthwise one is the second of its block, one before it the first.
    """
    layers = evidence.layers
    depthwise = [evidence.depthwise(layer) for layer in layers]
    return tuple(
        Role.DEPTHWISE
        if depthwise[i]
        else Role.OTHER
        if evidence.weights(layer).shape[1:3] != (1, 1)
        else Role.SECOND
        if i and depthwise[i - 1]
        else Role.FIRST
        if depthwise[i + 1 : i + 2] == [True]
        else Role.OTHER
        for i, layer in enumerate(layers)
    )


def contribution_page(title: str, found: Contribution, graph: Graph, facts: str) -> str:
    """Return the page; `graph` is that of the network, `facts` says how episodes were learned."""
    kinds = roles(Evidence(found.network, graph, found.layers))
    present = [role for role in Role if role in kinds]
    sets = ", ".join(f"{s.data} {s.head:.1%}" for s in found.sets if s.data)
    parts = [
        f"<h1>{escape(title)}: what each layer brings</h1>",
        f'<p class="soft">{escape(facts)}</p>',
        f'<p class="soft">{_HOW} {found.overall.episodes} episodes.</p>',
        f'<p class="soft">Accuracy of the head alone: {escape(sets)}.</p>',
        "<h2>Biases of the last k layers</h2>",
        *_biases(found),
        "<h2>Weights of one layer</h2>",
        f'<p class="soft">{_SHARE}</p>',
        _legend("eqhw", map(_said, SHARES)),
    ]
    scale = _scale([found.overall.weights[c] for c in found.weights], 0)
    for role in present:
        numbers = [i for i, kind in enumerate(kinds) if kind is role]
        parts += [f"<h3>{role.capitalize()}</h3>", *_weights(found, numbers, scale)]
    parts += ["<h2>Mean over layers</h2>", *_table(found, kinds, present)]
    return document(f"{title}: contribution", _MORE, parts)


def mean_gain(gains: Gains, layers: Sequence[str], share: float) -> float | None:
    """Return the mean gain of some layers' weights; `None` where none has that share."""
    found = [gains.weights[c].mean for c in ((x, share) for x in layers) if c in gains.weights]
    return math.fsum(found) / len(found) if found else None


@dataclass(frozen=True)
class _Scale:
    """Gains in points from `low` to `high`, a line each `step`; `count` places to the right."""

    low: float
    high: float
    step: float
    count: int

    def x(self, place: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (place + 0.5) / self.count

    def y(self, points: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _FOOT) * (self.high - points) / (self.high - self.low)


def _scale(gains: Sequence[Gain], count: int) -> _Scale:
    """Fit all gains, with what is shown of their intervals."""
    low = min(0.0, *(100 * (g.mean - g.half_width) for g in gains))
    high = max(0.0, *(100 * (g.mean + g.half_width) for g in gains))
    rough = max(high - low, 1e-3) / 6
    ten = 10 ** math.floor(math.log10(rough))
    step = next(ten * m for m in (1, 2, 5, 10) if ten * m >= rough)
    bottom, top = math.floor(low / step), math.ceil(high / step)
    return _Scale(step * bottom, step * max(top, bottom + 1), step, count)


def _begun(name: str, scale: _Scale, labels: Sequence[str]) -> Iterator[str]:
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


def _curve(scale: _Scale, points: Sequence[tuple[float, Gain, str]], kind: str) -> Iterator[str]:
    """Draw a line through points, each with its interval and what to say of it."""
    places = [(scale.x(place), gain, label) for place, gain, label in points]
    line = "L".join(f"{x:.1f} {scale.y(100 * gain.mean):.1f}" for x, gain, _ in places)
    if line:
        yield f'<path class="line {kind}" d="M{line}"/>'
    for x, gain, label in places:
        ends = [scale.y(100 * (gain.mean + side * gain.half_width)) for side in (1, -1)]
        yield f'<path class="spread {kind}" d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}"/>'
        said = f"{label}: {100 * gain.mean:+.1f} ± {100 * gain.half_width:.1f} points"
        yield (
            f'<circle class="{kind}" cx="{x:.1f}" cy="{scale.y(100 * gain.mean):.1f}" r="2.8">'
            f"<title>{escape(said)}</title></circle>"
        )


def _biases(found: Contribution) -> Iterator[str]:
    several = found.sets if len(found.sets) > 1 else ()
    means = [Gain(g.mean, 0.0) for s in several for g in s.biases]
    scale = _scale([*found.biases, *means], len(found.biases))
    labels = [str(k) if k == 1 or k % 5 == 0 else "" for k in range(1, len(found.biases) + 1)]
    yield from _begun("Gain by the number of layers whose biases learn", scale, labels)
    for one, colour in zip(several, itertools.cycle(_SETS), strict=False):
        line = "L".join(
            f"{scale.x(i):.1f} {scale.y(100 * g.mean):.1f}" for i, g in enumerate(one.biases)
        )
        yield f'<path class="set" style="stroke: var(--{colour})" d="M{line}"/>'
    points = [
        (i, g, f"last {i + 1}, from {found.layers[-i - 1]} on") for i, g in enumerate(found.biases)
    ]
    yield from _curve(scale, points, "h")
    yield "</svg>"
    if several:
        names = ("all, with intervals", *(str(one.data) for one in several))
        yield _legend(("h", *itertools.islice(itertools.cycle(_SETS), len(several))), names)


def _weights(found: Contribution, numbers: Sequence[int], scale: _Scale) -> Iterator[str]:
    scale = _Scale(scale.low, scale.high, scale.step, max(len(numbers), 6))
    yield from _begun("Gain by layer", scale, [str(i) for i in numbers])
    for at, share in enumerate(SHARES):
        beside = (at - (len(SHARES) - 1) / 2) * 0.09
        points = [
            (place + beside, found.weights[choice], f"{i} {choice[0]}, {_said(share)}")
            for place, i in enumerate(numbers)
            if (choice := (found.layers[i], share)) in found.weights
        ]
        yield from _curve(scale, points, _CLASSES[share])
    yield "</svg>"


def _said(share: float) -> str:
    return "all channels" if share == 1 else f"{Fraction(share)} of the channels"


def _legend(colours: Iterable[str], names: Iterable[str]) -> str:
    items = (
        f'<span><i style="background: var(--{colour})"></i>{escape(name)}</span>'
        for colour, name in zip(colours, names, strict=False)
    )
    return f'<div class="legend">{"".join(items)}</div>'


def _table(found: Contribution, kinds: Sequence[Role], present: Sequence[Role]) -> Iterator[str]:
    several = found.sets if len(found.sets) > 1 else ()
    columns = [(found.overall, x, _said(x)) for x in SHARES]
    columns += [(s, 1.0, f"{s.data}, all channels") for s in several]
    heads = "".join(f'<th class="n">{escape(name)}</th>' for *_, name in columns)
    yield f'<table><tr><th>weights of</th><th class="n">layers</th>{heads}</tr>'
    for role in present:
        layers = [x for x, kind in zip(found.layers, kinds, strict=True) if kind is role]
        means = (mean_gain(gains, layers, share) for gains, share, _ in columns)
        cells = "".join(
            f'<td class="n">{"" if m is None else f"{100 * m:+.1f}"}</td>' for m in means
        )
        yield f'<tr><td>{role}</td><td class="n">{len(layers)}</td>{cells}</tr>'
    yield "</table>"
