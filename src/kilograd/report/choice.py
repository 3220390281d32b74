"""One HTML page about what learns: a row a layer, with bars for what spoke for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kilograd.learn.recipe import Compiled
from kilograd.report.document import document
from kilograd.report.markup import escape
from kilograd.select import Budget, Reason

_MORE = """
td.bar { width: 11%; } td.bar i.chosen { background: var(--gradient); }
td.bar i.score { background: var(--mask); } tr.no td { color: var(--soft); }
td.why { font-size: 13px; width: 30%; }
"""
_MEANING = (
    "Layers are in the order in which they run. <b>Fisher</b>: how much the loss would feel that "
    "the layer's channels are gone. <b>Score</b>: what the method ranks layers by; its bars are "
    "logarithmic. <b>Channels</b>: how many learn."
)


def choice(title: str, reasons: Sequence[Reason], cost: str) -> str:
    """Return the page; layers are in execution order, bars are shares of the longest.

    `cost` says what the choice costs, of what was allowed.
    """
    chosen = sum(r.chosen > 0 for r in reasons)
    potential = max((r.potential or 0.0 for r in reasons), default=0.0)
    scores = [r.score for r in reasons if r.score]
    head = "".join(
        f'<th class="{kind}">{name}</th>'
        for name, kind in (
            ("layer", ""),
            ("Fisher", "n"),
            ("", ""),
            ("weights", "n"),
            ("MACs", "n"),
            ("score", "n"),
            ("", ""),
            ("channels", "n"),
            ("", ""),
            ("why not", ""),
        )
    )
    rows = "".join(_row(r, potential, scores) for r in reasons)
    return document(
        f"{title}: what learns",
        _MORE,
        [
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(cost)}</p>",
            f'<p class="soft">Of {len(reasons)} layers that were looked at {chosen} learn.',
            _MEANING + "</p>",
            f"<table><tr>{head}</tr>{rows}</table>",
        ],
    )


def cost_line(compiled: Compiled, budget: Budget) -> str:
    """Write what a program costs, and of which budget: the one that its choice was made within."""
    kept = compiled.selection.within or budget
    sram, macs = compiled.program.sram_bytes, compiled.backward_macs
    of_sram = "" if kept.sram is None else f" of {kept.sram:,}"
    of_macs = "" if kept.compute is None else f" of {kept.compute:,}"
    line = f"{sram:,}{of_sram} bytes of RAM, {macs:,}{of_macs} MACs for a backward pass"
    memory = compiled.backward_memory
    if kept.backward_memory is None or memory is None:
        return line
    return f"{line}, {memory:,} of {kept.backward_memory:,} bytes as TinyTrain counts"


def _row(r: Reason, potential: float, scores: Sequence[float]) -> str:
    cells = [
        f"<td>{escape(r.layer)}</td>",
        f'<td class="n">{_number(r.potential)}</td>',
        _bar("saved", (r.potential or 0.0) / potential if potential else 0.0),
        f'<td class="n">{r.weights:,}</td>',
        f'<td class="n">{r.macs:,}</td>',
        f'<td class="n">{_number(r.score)}</td>',
        _bar("score", _logarithmic(r.score, scores)),
        f'<td class="n">{r.chosen} of {r.channels}</td>',
        _bar("chosen", r.chosen / r.channels),
        f'<td class="why">{escape(r.why)}</td>',
    ]
    return f'<tr class="{"yes" if r.chosen else "no"}">{"".join(cells)}</tr>'


def _number(x: float | None) -> str:
    return "" if x is None else f"{x:.3g}"


def _logarithmic(score: float | None, scores: Sequence[float]) -> float:
    """Return a length in 0 ... 1; the smallest score is still to be seen."""
    if not score:
        return 0.0
    low, high = math.log(min(scores)), math.log(max(scores))
    return 1.0 if high == low else 0.05 + 0.95 * (math.log(score) - low) / (high - low)


def _bar(kind: str, share: float) -> str:
    inner = f'<i class="{kind}" style="width:{100 * share:.1f}%"></i>' if share else ""
    return f'<td class="bar">{inner}</td>'
