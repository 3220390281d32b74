"""One HTML page that compares methods: a bar with its interval for each, by data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kilograd.report.document import document
from kilograd.report.markup import escape, plain

_MORE = """
.sets { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 22px; }
h3 { font-size: 14px; margin: 18px 0 2px; } .sets h3 { margin: 0; }
rect.after { fill: var(--saved); } rect.first { fill: var(--scratch); }
path.mean { stroke: var(--ink); stroke-width: 1.5; }
path.before { stroke: var(--over); stroke-width: 2; }
text.value { fill: var(--ink); font-variant-numeric: tabular-nums; }
"""
_HOW = (
    '<p class="soft">Accuracy in per cent after learning; thin lines are 95 % intervals by '
    "Student's t over episodes, the upright mark is the accuracy before. Over all data sets, every "
    "episode counts the same.</p>"
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

    `difference`: to the first method, on the same episodes, with the `p` of a paired t test;
    `None` for the first.
    """

    method: str
    before: float
    after: Estimate
    difference: Estimate | None
    p: float | None = None


@dataclass(frozen=True)
class Panel:
    """What was found on `episodes` episodes of one data set, or of all."""

    data: str
    episodes: int
    bars: tuple[Bar, ...]

    @property
    def title(self) -> str:
        """The name of the data set, and how much is known of it."""
        return f"{self.data}, {self.episodes} episodes"


@dataclass(frozen=True)
class Price:
    """What a method costs: the most of any episode."""

    sram_bytes: int
    backward_macs: int
    learned_parameters: int


@dataclass(frozen=True)
class Section:
    """A network: its panels, each with the same methods, and the price of each method."""

    title: str
    panels: tuple[Panel, ...]
    prices: tuple[Price, ...]


def comparison(title: str, facts: str, sections: Sequence[Section]) -> str:
    """Return the page; `facts` says how the episodes were drawn and learned."""
    return document(
        title,
        _MORE,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{escape(facts)}</p>',
            _HOW,
            *(part for s in sections for part in _section(s)),
        ],
    )


def comparison_table(sections: Sequence[Section]) -> str:
    """Return a table for each network as Markdown: methods by data sets, and what they cost."""
    return "\n".join(line for s in sections for line in _paper(s))


def _paper(section: Section) -> Iterator[str]:
    *sets, whole = section.panels
    panels = (*sets, whole) if len(sets) > 1 else (whole,)
    names = [*(plain(p.data) for p in sets), *(["all"] if len(sets) > 1 else [])]
    less = f"less {plain(whole.bars[0].method)}"
    rows = [["method", *names, less, "p", "RAM, B", "MACs backward", "learned"]]
    for i, (bar, price) in enumerate(zip(whole.bars, section.prices, strict=True)):
        rows.append(
            [
                f"`{plain(bar.method)}`",
                *(str(p.bars[i].after) for p in panels),
                "" if bar.difference is None else bar.difference.signed(),
                "" if bar.p is None else f"{bar.p:.2g}" if bar.p >= 0.001 else "< 0.001",
                f"{price.sram_bytes:,}",
                f"{price.backward_macs:,}",
                f"{price.learned_parameters:,}",
            ]
        )
    yield f"{plain(section.title)}: accuracy in % after learning, {whole.episodes} episodes"
    yield ""
    yield from _aligned(rows)
    yield ""


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a Markdown table with a head, all but the first column to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [f"{'-' * (w - 1)}:" for w in widths]
    for row in (rows[0], ["-" * widths[0], *rule[1:]], *rows[1:]):
        pairs = zip(row[1:], widths[1:], strict=True)
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in pairs)]
        yield f"| {' | '.join(cells)} |"


def _section(section: Section) -> Iterator[str]:
    yield f"<h2>{escape(section.title)}</h2>"
    yield '<div class="sets">'
    for panel in section.panels:
        yield f"<div><h3>{escape(panel.title)}</h3>"
        yield from _drawn(panel)
        yield "</div>"
    yield "</div>"
    yield from _differences(section)
    yield from _prices(section)


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
        ends = (bar.after.mean - bar.after.half, bar.after.mean + bar.after.half)
        # No cap where the interval leaves the picture.
        caps = "".join(f"M{_x(end):.2f} {middle - 3}v6" for end in ends if 0 <= end <= 100)
        line = f"M{_x(ends[0]):.2f} {middle}H{_x(ends[1]):.2f}"
        yield f'<path class="mean" d="{line}{caps}"/>'
    yield f'<text class="value" x="{_WIDTH - _RIGHT + 10}" y="{middle + 4}">{bar.after}</text>'


def _differences(section: Section) -> Iterator[str]:
    first, *others = (bar.method for bar in section.panels[0].bars)
    if not others:
        return
    yield f"<h3>Gain over {escape(first)} on the same episodes, in points</h3>"
    heads = "".join(f'<th class="n">{escape(name)}</th>' for name in others)
    yield f"<table><tr><th></th>{heads}</tr>"
    for panel in section.panels:
        found = [b.difference.signed() for b in panel.bars if b.difference is not None]
        cells = "".join(f'<td class="n">{text}</td>' for text in found)
        yield f"<tr><td>{escape(panel.title)}</td>{cells}</tr>"
    yield "</table>"


def _prices(section: Section) -> Iterator[str]:
    yield "<h3>What it costs</h3>"
    names = ("RAM", "MACs of a backward pass", "parameters that learn")
    heads = "".join(f'<th class="n">{name}</th>' for name in names)
    yield f"<table><tr><th>method</th>{heads}</tr>"
    for bar, price in zip(section.panels[0].bars, section.prices, strict=True):
        numbers = (
            f"{price.sram_bytes:,} B",
            f"{price.backward_macs:,}",
            f"{price.learned_parameters:,}",
        )
        cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
        yield f"<tr><td>{escape(bar.method)}</td>{cells}</tr>"
    yield "</table>"
