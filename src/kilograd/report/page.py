"""One HTML page about the memory of a program: no scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from kilograd.emit import Entry, Program
from kilograd.passes import EntryPoint
from kilograd.report.ablation import Variant
from kilograd.report.document import document
from kilograd.report.markup import escape
from kilograd.report.memory_map import LEGEND, Frame, Kind, draw, kib, kind

_MAIN = Frame(1120, 540, detail=True)
_SMALL = Frame(350, 190, detail=False)

_HOW = (
    "time to the right, addresses upwards, one rectangle a buffer. Point at one for what it holds."
)
_SCALES = "Each picture has its own scale; the dashed line is at"


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
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Memory of one call of <b>{escape(entry.name)}</b>: {_HOW}</p>',
        _facts(program, budget, steps),
        draw(entry, program.state, _MAIN, budget=budget),
        _legend(program, entry),
    ]
    if without:
        ours = program.state_bytes + program.entries[EntryPoint.STEP].plan.peak
        parts += [
            "<h2>The same training step otherwise</h2>",
            f'<p class="soft">{_SCALES} {kib(ours)}, what the program needs.</p>',
            '<div class="others">',
            *(_other(v, program, ours) for v in without),
            "</div>",
        ]
    if steps:
        parts += ["<h2>What each part of the compiler saves</h2>", _table(steps, program)]
    return document(f"{title}: memory map", "", parts)


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
