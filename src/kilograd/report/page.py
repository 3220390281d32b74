"""One HTML page about the memory of a program: no scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from kilograd.emit import Entry, Program
from kilograd.report.ablation import Variant
from kilograd.report.markup import escape
from kilograd.report.memory_map import LEGEND, Frame, Kind, draw, kib, kind

_MAIN = Frame(1120, 540, detail=True)
_SMALL = Frame(350, 190, detail=False)

_HOW = (
    "time to the right, addresses upwards, one rectangle a buffer. Point at one for what it holds."
)
_SCALES = "Each picture has its own scale; the dashed line is at"
STYLE = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1c2126; --soft: #66707a; --rule: #e3e7ea; --edge: #ffffffb0;
  --image: #8cc6d8; --map: #a9cdf3; --saved: #5f93d6; --mask: #c7a6e6; --gradient: #f5b574;
  --scratch: #cfd4d9; --other: #b9bfae; --state: #a5d6a7; --hot: #c62828; --over: #8e5a00; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15191d; --ink: #e8ecef; --soft: #98a3ad; --rule: #2b3238; --edge: #15191db0;
  --image: #23697d; --map: #27507e; --saved: #3d74bd; --mask: #6b4794; --gradient: #a35c14;
  --scratch: #4a525a; --other: #5a6150; --state: #2e6b3a; --hot: #ff8a80; --over: #ffca6b; } }
body { margin: 0 auto; max-width: 1160px; padding: 28px 20px; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 30px 0 6px; }
p { margin: 4px 0; } .soft { color: var(--soft); }
.facts { display: grid; gap: 10px 24px; margin: 16px 0 14px;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.facts b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: 13px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin: 8px 0; }
.legend i { display: inline-block; width: 13px; height: 13px; border-radius: 3px;
  margin-right: 6px; vertical-align: -2px; }
svg { display: block; width: 100%; height: auto; }
text { font: 11px system-ui, sans-serif; fill: var(--soft); }
text.label { fill: var(--ink); pointer-events: none; }
text.strong { fill: var(--hot); font-weight: 600; paint-order: stroke; stroke: var(--paper);
  stroke-width: 4px; } text.over { fill: var(--over); }
rect { stroke: var(--edge); stroke-width: .6; } rect.state { stroke: none; }
.others rect { stroke-width: .15; } rect:hover { stroke: var(--ink); stroke-width: 1.5; }
path { fill: none; stroke-width: 1; } path.grid { stroke: var(--rule); }
path.turn { stroke: var(--soft); stroke-dasharray: 3 3; } path.total { stroke: var(--hot); }
path.peak { stroke: var(--hot); opacity: .6; stroke-dasharray: 2 2; }
path.budget { stroke: var(--over); stroke-dasharray: 7 4; }
path.ours { stroke: var(--ink); stroke-dasharray: 4 3; }
.others { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 22px; }
.others h3 { font-size: 14px; margin: 0; } .others p { font-size: 13px; margin: 0 0 4px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td, th { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--rule); text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { white-space: nowrap; }
td.bar { width: 26%; } td.bar i { display: block; height: 11px; border-radius: 3px;
  min-width: 2px; background: var(--saved); }
""" + "\n".join(f".{k} {{ fill: var(--{k}); background: var(--{k}); }}" for k in Kind)


def page(
    title: str,
    program: Program,
    entry: Entry,
    *,
    budget: int | None = None,
    steps: Sequence[Variant] = (),
    without: Sequence[Variant] = (),
) -> str:
    """Return the page: the map of `entry`; how its training step came about, and otherwise.

    `steps` goes from naive to the program's own; `without` leaves one part out each.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}: memory map</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Memory of one call of <b>{escape(entry.name)}</b>: {_HOW}</p>',
        _facts(program, budget, steps),
        draw(entry, program.state, _MAIN, budget=budget),
        _legend(program, entry),
    ]
    if without:
        ours = program.state_bytes + program.entries["step"].plan.peak
        parts += [
            "<h2>The same training step otherwise</h2>",
            f'<p class="soft">{_SCALES} {kib(ours)}, what the program needs.</p>',
            '<div class="others">',
            *(_other(v, program, ours) for v in without),
            "</div>",
        ]
    if steps:
        parts += ["<h2>What each part of the compiler saves</h2>", _table(steps, program)]
    return "\n".join([*parts, "</body></html>", ""])


def _facts(program: Program, budget: int | None, steps: Sequence[Variant]) -> str:
    facts = [
        (kib(program.sram_bytes), "RAM: arena and state"),
        (kib(program.arena_bytes), "arena, for the time of a call"),
        (kib(program.state_bytes), "state, kept between calls"),
        (
            "optimal" if program.sram_proved_optimal else kib(program.sram_lower_bound_bytes),
            f"{'proved: ' if program.sram_proved_optimal else ''}no plan can need less",
        ),
    ]
    if steps:
        naive, ours = (program.state_bytes + v.step.plan.peak for v in (steps[0], steps[-1]))
        facts.append((f"{naive / ours:.1f} ×", "less than a naive training step"))
    if budget is not None:
        facts.append((f"{program.sram_bytes / budget:.0%}", f"of a budget of {kib(budget)}"))
    cells = "".join(f"<div><b>{b}</b><span>{escape(s)}</span></div>" for b, s in facts)
    return f'<div class="facts">{cells}</div>'


def _legend(program: Program, entry: Entry) -> str:
    used = {kind(entry, b) for b in entry.storage.buffers}
    if program.state:
        used.add(Kind.STATE)
    items = (f'<span><i class="{k}"></i>{name}</span>' for k, name in LEGEND.items() if k in used)
    return f'<div class="legend">{"".join(items)}</div>'


def _other(variant: Variant, program: Program, ours: int) -> str:
    ram = program.state_bytes + variant.step.plan.peak
    return (
        f"<div><h3>{escape(variant.name)}: {kib(ram)} ({ram / ours:.1f} ×)</h3>"
        f'<p class="soft">{escape(variant.adds)}</p>'
        f"{draw(variant.step, program.state, _SMALL, top=ours)}</div>"
    )


def _table(steps: Sequence[Variant], program: Program) -> str:
    rams = [program.state_bytes + v.step.plan.peak for v in steps]
    rows = [
        f'<tr><td>{escape(v.name)}</td><td class="soft">{escape(v.adds)}</td>'
        f'<td class="n">{ram:,} B</td><td class="n">{rams[0] / ram:.1f} ×</td>'
        f'<td class="bar"><i style="width:{100 * ram / max(rams):.1f}%"></i></td></tr>'
        for v, ram in zip(steps, rams, strict=True)
    ]
    head = (
        '<tr><th>training step</th><th></th><th class="n">RAM</th>'
        '<th class="n">less than naive</th><th></th></tr>'
    )
    return f"<table>{head}{''.join(rows)}</table>"
