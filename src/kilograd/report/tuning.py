"""One HTML page about tuning: the accuracy of every trial against its rate, method by method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from kilograd.errors import as_typed
from kilograd.report.axes import label, scale, ticks
from kilograd.report.document import document
from kilograd.report.markup import escape, plain
from kilograd.settings import OptimizerKind
from kilograd.study.propose import State
from kilograd.study.trials import Trial, Tuned, evaluated

_COLOURS = ("saved", "gradient", "state", "mask", "image", "over")
"""Of optimisers, in their order."""
_MORE = """
circle { stroke-width: 1.6; } circle.pruned { fill: var(--paper); }
path.bar { stroke-width: 1.4; } text.axis { font-size: 12px; } h2 { margin-top: 34px; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin: 8px 0; }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px; }
code { font-size: 13px; }
""" + "\n".join(
    f".{kind} {{ fill: var(--{c}); stroke: var(--{c}); background: var(--{c}); }}"
    for kind, c in zip(OptimizerKind, _COLOURS, strict=False)
)
_HOW = (
    "Each point is a trial: its mean accuracy on held-out images, against its learning rate. Full "
    "points learned all tasks, hollow ones were given up. The line through the best is its 95 % "
    "interval; the first trial, where tuning began, has a ring."
)
_WIDTH, _HEIGHT = 1120, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 30, 16, 44


def tuning_page(title: str, tuned: Sequence[Tuned], facts: str) -> str:
    """Return the page."""
    pasted = escape(evaluated(tuned))
    parts = [
        f"<h1>{escape(title)}: tuned</h1>",
        f'<p class="soft">{escape(facts)}</p>',
        f"<p><code>{pasted}</code></p>",
        _table(tuned),
        f'<p class="soft">{_HOW}</p>',
    ]
    for each in tuned:
        parts += [f"<h2>{escape(each.method)}</h2>", _key(each), _chart(each)]
        parts += [f'<p class="soft">{escape(as_typed(remark))}</p>' for remark in each.remarks()]
    return document(f"{title}: tuned", _MORE, parts)


def tuning_table(tuned: Sequence[Tuned]) -> str:
    """Return the best of each method as a table in Markdown."""
    lines = ["| " + " | ".join(HEADER) + " |", "|---|---|" + "---:|" * (len(HEADER) - 2)]
    lines += ["| " + " | ".join(map(plain, row(each))) + " |" for each in tuned]
    return "\n".join(lines) + "\n"


HEADER = ("method", "best with", "first, %", "best, %", "95 %", "trials", "given up")
"""What the columns of `row` are."""


def row(each: Tuned) -> tuple[str, ...]:
    """Return what a table says of a method."""
    best, params = each.best, each.best.params
    low, high = each.bounds(best)
    return (
        each.method,
        ", ".join(f"{what} {getattr(params, what)}" for what in each.space.tuned),
        f"{100 * each.first.mean:.1f}",
        f"{100 * best.mean:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        f"{len(each.trials)}",
        f"{each.pruned}",
    )


def _table(tuned: Sequence[Tuned]) -> str:
    head = "".join(
        f'<th class="{"n" if i > 1 else ""}">{name}</th>' for i, name in enumerate(HEADER)
    )
    rows = (
        "".join(
            f'<td class="{"n" if i > 1 else ""}">{escape(c)}</td>' for i, c in enumerate(row(each))
        )
        for each in tuned
    )
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{r}</tr>' for r in rows)}</table>"


def _key(each: Tuned) -> str:
    items = (f'<span><i class="{kind}"></i>{kind}</span>' for kind in each.space.rates)
    return f'<div class="key">{"".join(items)}</div>'


def _chart(each: Tuned) -> str:
    rates = [math.log10(t.params.lr) for t in each.trials]
    low, high = each.bounds(each.best)
    means = [100 * t.mean for t in each.trials]
    bottom, top = min(*means, 100 * low), max(*means, 100 * high)
    left, right = math.floor(min(rates)), math.ceil(max(rates) + 1e-9)
    x = scale(left, right, _LEFT, _WIDTH - _RIGHT)
    y = scale(bottom - 1, top + 1, _HEIGHT - _BOTTOM, _TOP)
    name = escape(f"{each.method}: accuracy of each trial by its rate")
    out = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">']
    for decade in range(left, right + 1):
        out.append(f'<path class="grid" d="M{x(decade):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        out.append(label(x(decade), _HEIGHT - _BOTTOM + 16, f"{10.0**decade:g}", "axis", "middle"))
    for tick in ticks(bottom - 1, top + 1):
        out.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}"/>')
        out.append(label(_LEFT - 8, y(tick) + 4, f"{tick:g}", "axis", "end"))
    out.append(label((_LEFT + _WIDTH) / 2, _HEIGHT - 6, "learning rate", "axis", "middle"))
    out.append(label(4, _TOP - 4, "accuracy, %", "axis", "start"))
    best, at = each.best, x(math.log10(each.best.params.lr))
    bar = f"M{at:.1f} {y(100 * low):.1f}V{y(100 * high):.1f}"
    out.append(f'<path class="bar {best.params.optimizer}" d="{bar}"/>')
    for trial in each.trials:
        out += _point(trial, x(math.log10(trial.params.lr)), y(100 * trial.mean), each)
    return "\n".join([*out, "</svg>"])


def _point(trial: Trial, x: float, y: float, each: Tuned) -> Iterator[str]:
    params = trial.params
    says = escape(
        f"{params.optimizer} at {params.lr:g}, {params.iterations} passes: {trial.mean:.1%}"
        f"{' when it was given up' if trial.state is State.PRUNED else ''}"
    )
    if trial is each.first:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="var(--soft)"/>'
    pruned = " pruned" if trial.state is State.PRUNED else ""
    size = 6.5 if trial is each.best else 4.5
    yield (
        f'<circle class="{params.optimizer}{pruned}" cx="{x:.1f}" cy="{y:.1f}" r="{size}">'
        f"<title>{says}</title></circle>"
    )
