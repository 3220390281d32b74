"""One HTML page that compares methods: a bar with its interval for each, by data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from kilograd.report.page import STYLE

_MORE = """
.sets { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 22px; }
.sets h3 { font-size: 14px; margin: 0; }
rect.after { fill: var(--saved); } rect.first { fill: var(--scratch); }
path.mean { stroke: var(--ink); stroke-width: 1.5; }
path.before { stroke: var(--over); stroke-width: 2; }
text.value { fill: var(--ink); font-variant-numeric: tabular-nums; }
"""
_HOW = (
    '<p class="soft">Accuracy in per cent after learning; thin lines are 95 % intervals by '
    "Student's t over episodes, the upright mark is the accuracy before.</p>"
)
_WIDTH, _ROW, _HEAD = 420, 22, 20
_LEFT, _RIGHT = 120, 92


@dataclass(frozen=True)
class Estimate:
    """A mean in per cent, and half the width of its interval; `None`: a single value."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.half is None else f" ± {self.half:.1f}")

    def signed(self) -> str:
        """Write a difference."""
        return f"{self.mean:+.1f}" + ("" if self.half is None else f" ± {self.half:.1f}")


@dataclass(frozen=True)
class Bar:
    """A method on some episodes: accuracy before and after learning.

    `difference`: to the first method, on the same episodes; `None` for the first.
    """

    method: str
    before: float
    after: Estimate
    difference: Estimate | None


@dataclass(frozen=True)
class Panel:
    """What was found on one data set, or on all."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Section:
    """A network: its panels, and for each method what its program costs, in words."""

    title: str
    panels: tuple[Panel, ...]
    costs: tuple[str, ...]


def comparison(title: str, facts: str, sections: Sequence[Section]) -> str:
    """Return the page; `facts` says how the episodes were drawn and learned."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{STYLE}{_MORE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{escape(facts)}</p>',
            _HOW,
            *(part for s in sections for part in _section(s)),
            "</body></html>",
            "",
        ]
    )


def _section(section: Section) -> Iterator[str]:
    yield f"<h2>{escape(section.title)}</h2>"
    yield '<div class="sets">'
    for panel in section.panels:
        yield f"<div><h3>{escape(panel.title)}</h3>"
        yield from _drawn(panel)
        yield "</div>"
    yield "</div>"
    yield from _table(section)


def _x(percent: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(percent, 0.0), 100.0) / 100


def _drawn(panel: Panel) -> Iterator[str]:
    low = _ROW * len(panel.bars) + 4
    name = escape(f"{panel.title}: accuracy by method")
    yield f'<svg viewBox="0 0 {_WIDTH} {low + _HEAD}" role="img" aria-label="{name}">'
    for percent in range(0, 101, 25):
        at = _x(percent)
        yield f'<path class="grid" d="M{at:.1f} 0V{low}"/>'
        yield f'<text x="{at:.1f}" y="{low + 13}" text-anchor="middle">{percent}</text>'
    for i, bar in enumerate(panel.bars):
        yield from _bar(bar, 4 + _ROW * i, first=i == 0)
    yield "</svg>"


def _bar(bar: Bar, top: float, *, first: bool) -> Iterator[str]:
    height, middle = _ROW - 8, top + (_ROW - 8) / 2
    shown = bar.method if len(bar.method) <= 19 else f"{bar.method[:18]}…"
    label = f"{bar.method}\nbefore {bar.before:.1f} %, after {bar.after} %"
    yield (
        f'<text class="label" x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">'
        f"{escape(shown)}</text>"
    )
    width = _x(bar.after.mean) - _LEFT
    yield (
        f'<rect class="{"first" if first else "after"}" x="{_LEFT}" y="{top}" width="{width:.2f}" '
        f'height="{height}"><title>{escape(label)}</title></rect>'
    )
    yield f'<path class="before" d="M{_x(bar.before):.2f} {top - 1}v{height + 2}"/>'
    if bar.after.half is not None:
        left, right = _x(bar.after.mean - bar.after.half), _x(bar.after.mean + bar.after.half)
        yield (
            f'<path class="mean" d="M{left:.2f} {middle}H{right:.2f}'
            f'M{left:.2f} {middle - 3}v6M{right:.2f} {middle - 3}v6"/>'
        )
    yield f'<text class="value" x="{_WIDTH - _RIGHT + 10}" y="{middle + 4}">{bar.after}</text>'


def _table(section: Section) -> Iterator[str]:
    first = section.panels[0].bars[0].method
    heads = "".join(f'<th class="n">{escape(p.title)}</th>' for p in section.panels)
    yield f'<p class="soft">Difference to {escape(first)} on the same episodes, in points:</p>'
    yield f"<table><tr><th>method</th>{heads}<th>costs</th></tr>"
    for i, costs in enumerate(section.costs):
        bars = [p.bars[i] for p in section.panels]
        cells = "".join(
            f'<td class="n">{"" if b.difference is None else b.difference.signed()}</td>'
            for b in bars
        )
        yield f"<tr><td>{escape(bars[0].method)}</td>{cells}<td>{escape(costs)}</td></tr>"
    yield "</table>"
