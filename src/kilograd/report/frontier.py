"""One HTML page about plans: what they should gain against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kilograd.report.axes import label, scale, ticks
from kilograd.report.document import document
from kilograd.report.markup import escape
from kilograd.search import Found, Front, Published

_MORE = """
circle { fill: var(--saved); stroke: var(--paper); stroke-width: 1.5; }
circle:hover { stroke: var(--ink); } rect.published { fill: var(--paper); stroke: var(--over);
  stroke-width: 1.5; } text.published { fill: var(--over);
  paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
path.front { stroke: var(--saved); stroke-width: 1.5; }
text.axis { font-size: 12px; } h2 { margin-top: 34px; }
rect.cell { stroke: none; fill: var(--gradient); } rect.bias { stroke: none; fill: var(--state); }
rect.none { stroke: none; fill: var(--rule); opacity: .5; } text.row { fill: var(--ink); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin: 8px 0; }
.key i { display: inline-block; width: 13px; height: 13px; border-radius: 3px;
  margin-right: 6px; vertical-align: -2px; }
"""
_MEANING = (
    "Gain: the sum of what each part brought when it alone learned, in points of accuracy over the "
    "head alone. It ranks plans; it is no forecast. Parts that learn together bring less than "
    "their sum, and the best of many noisy sums is too good to be true. RAM and MACs are those of "
    "the compiled programs."
)
_SQUARES = " Squares are published plans, by the same sum."
_WIDTH, _HEIGHT = 1120, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 30, 16, 44


@dataclass(frozen=True)
class _Axis:
    """What a front costs: the unit, and a cost in it."""

    title: str
    unit: float

    def of(self, p: Found | Published) -> float:
        cost = p.sram_bytes if self.unit == 1024 else p.backward_macs
        return cost / self.unit


_AXES = {
    Front.SRAM: _Axis("RAM of the program, KiB", 1024),
    Front.COMPUTE: _Axis("multiply-accumulates of a backward pass, millions", 1e6),
}
_STEPS = {Front.SRAM: "What another 16 KB buys", Front.COMPUTE: "What more work buys"}
_TITLES = {Front.SRAM: "Gain against RAM", Front.COMPUTE: "Gain against work"}


def frontier(
    title: str,
    layers: Sequence[str],
    plans: Sequence[Found],
    published: Sequence[Published] = (),
) -> str:
    """Return the page; `layers` are the convolutions of the network in execution order."""
    parts = [
        f"<h1>{escape(title)}: what should learn</h1>",
        f'<p class="soft">{_MEANING}{_SQUARES if published else ""}</p>',
    ]
    for front, axis in _AXES.items():
        if found := [f for f in plans if f.front is front]:
            parts += [f"<h2>{_TITLES[front]}</h2>", _chart(found, published, axis)]
            parts += [f"<h2>{_STEPS[front]}</h2>", _table(found)]
            parts += ["<h2>What learns</h2>", _KEY, _map(layers, found)]
    if single := [f for f in plans if f.front is None]:
        parts += [_table(single), "<h2>What learns</h2>", _KEY, _map(layers, single)]
    return document(f"{title}: plans", _MORE, parts)


def steps(plans: Sequence[Found]) -> list[float | None]:
    """Return what each plan gains more than the one before it; `None` for the first."""
    gains = [f.predicted_gain for f in plans]
    return [None, *(b - a for a, b in pairwise(gains))]


def _chart(plans: Sequence[Found], published: Sequence[Published], axis: _Axis) -> str:
    shown: list[Found | Published] = [*plans, *published]
    xs, ys = [axis.of(p) for p in shown], [100 * p.predicted_gain for p in shown]
    x = scale(0.9 * min(xs), 1.03 * max(xs), _LEFT, _WIDTH - _RIGHT)
    y = scale(min(0.0, *ys), 1.06 * max(ys), _HEIGHT - _BOTTOM, _TOP)
    name = f"Sum of gains by {axis.title}"
    out = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">']
    for tick in ticks(0.9 * min(xs), 1.03 * max(xs)):
        out.append(f'<path class="grid" d="M{x(tick):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        out.append(label(x(tick), _HEIGHT - _BOTTOM + 16, f"{tick:g}", "axis", "middle"))
    for tick in ticks(min(0.0, *ys), 1.06 * max(ys)):
        out.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}"/>')
        out.append(label(_LEFT - 8, y(tick) + 4, f"{tick:g}", "axis", "end"))
    out.append(label((_LEFT + _WIDTH) / 2, _HEIGHT - 6, axis.title, "axis", "middle"))
    out.append(label(4, _TOP - 4, "gain, points", "axis", "start"))
    line = "".join(
        f"{'H' if i else 'M'}{x(axis.of(f)):.1f} {'V' if i else ''}{y(100 * f.predicted_gain):.1f}"
        for i, f in enumerate(plans)
    )
    out.append(f'<path class="front" d="{line}"/>')
    for f in plans:
        says = escape(f"{f.plan}: {f.predicted_gain:+.1%}, {f.sram_bytes:,} B, {_weights(f)}")
        at = f'cx="{x(axis.of(f)):.1f}" cy="{y(100 * f.predicted_gain):.1f}"'
        out.append(f'<circle {at} r="5"><title>{says}</title></circle>')
    for p in published:
        px, py = x(axis.of(p)), y(100 * p.predicted_gain)
        box = f'x="{px - 4.5:.1f}" y="{py - 4.5:.1f}" width="9" height="9"'
        out.append(f'<rect class="published" {box}/>')
        out.append(label(px + 8, py + 15, escape(p.method), "published", "start"))
    return "\n".join([*out, "</svg>"])


def _table(plans: Sequence[Found]) -> str:
    head = "".join(
        f'<th class="{kind}">{name}</th>'
        for name, kind in (
            ("plan", ""),
            ("gain, points", "n"),
            ("more than before", "n"),
            ("below the best", "n"),
            ("RAM, B", "n"),
            ("MACs backward", "n"),
            ("biases of the last", "n"),
            ("weights of", ""),
        )
    )
    rows = []
    for f, more in zip(plans, steps(plans), strict=True):
        cells = (
            f"{100 * f.predicted_gain:.1f}",
            "" if more is None else f"{100 * more:+.1f}",
            gap(f),
            f"{f.sram_bytes:,}",
            f"{f.backward_macs:,}",
            f"{f.k}",
        )
        numbers = "".join(f'<td class="n">{c}</td>' for c in cells)
        rows.append(f"<tr><td>{escape(f.plan)}</td>{numbers}<td>{_weights(f)}</td></tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def gap(f: Found) -> str:
    """Write how far a plan may be below the best, in points; empty where nobody knows."""
    if f.gain_bound is None:
        return ""
    return f"{100 * max(0.0, f.gain_bound - f.predicted_gain):.1f}"


def _weights(f: Found) -> str:
    count = len(f.weights)
    return f"{count} layer{'' if count == 1 else 's'}"


_KEY = (
    '<div class="key"><span><i style="background:var(--rule)"></i>nothing learns</span>'
    '<span><i style="background:var(--state)"></i>biases</span>'
    '<span><i style="background:var(--gradient)"></i>and weights: as high as their share of input '
    "channels</span></div>"
)


def _map(layers: Sequence[str], plans: Sequence[Found]) -> str:
    """Draw a row for each plan, a column for each layer."""
    left, cell, row = 112, (_WIDTH - 120) / len(layers), 22
    height = row * len(plans) + 96
    name = "Layers that learn, plan by plan"
    out = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}">']
    for r, f in enumerate(plans):
        top = r * row
        out.append(label(left - 8, top + 15, escape(f.plan.removesuffix(".json")), "row", "end"))
        for i, layer in enumerate(layers):
            share = f.weights.get(layer, 0.0)
            kind = "bias" if i >= len(layers) - f.k else "none"
            box = f'x="{left + i * cell:.1f}" width="{cell - 1.5:.1f}"'
            says = f"<title>{escape(layer)}{f': {share:g} of its weights' if share else ''}</title>"
            out.append(f'<rect class="{kind}" {box} y="{top}" height="{row - 2}">{says}</rect>')
            if share:
                high = max(3.0, share * (row - 2))
                out.append(
                    f'<rect class="cell" {box} y="{top + row - 2 - high:.1f}" height="{high:.1f}">'
                    f"{says}</rect>"
                )
    for i, layer in enumerate(layers):
        x, y = left + (i + 0.6) * cell, row * len(plans) + 6
        out.append(f'<text transform="translate({x:.1f} {y}) rotate(90)">{escape(layer)}</text>')
    return "\n".join([*out, "</svg>"])
