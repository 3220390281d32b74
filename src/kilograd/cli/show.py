"""What commands print, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from rich import table as rich_table
from rich.console import Console, RenderableType
from rich.text import Text

from kilograd.data import Dataset, Episode, shared_classes, usable_classes
from kilograd.emit import Entry, Program
from kilograd.errors import shown
from kilograd.frontend import (
    Model,
)
from kilograd.intervals import Interval
from kilograd.learn.adapt import Outcome, Summary
from kilograd.learn.recipe import Compiled
from kilograd.offline.folder import Finished
from kilograd.passes import accumulator_bounds
from kilograd.report import (
    Bar,
    Estimate,
    Panel,
    Price,
    Role,
    Section,
    Variant,
    gap,
    mean_gain,
    roles,
    steps,
)
from kilograd.report.cost import Convention, Cost
from kilograd.search import SHARES, Contribution, Found, Front, Gain, Published
from kilograd.select import Budget, Evidence
from kilograd.study.evaluate import (
    Evaluation,
    Line,
)
from kilograd.targets import (
    Measurement,
)

# Names of the user's are no markup: a class may be called [red].
OUT = Console(markup=False, highlight=False)
ERR = Console(markup=False, highlight=False, stderr=True)


class Table(rich_table.Table):
    """A table whose cells may hold texts of others: whatever does not print is escaped."""

    def __init__(self, *headers: str, title: str | None = None, **look: Any) -> None:  # noqa: ANN401
        super().__init__(*map(shown, headers), title=title, **look)

    def add_row(self, *cells: RenderableType | None, **look: Any) -> None:  # noqa: ANN401
        """Append a row."""
        super().add_row(*(shown(c) if isinstance(c, str) else c for c in cells), **look)


def say(text: str) -> None:
    """Print a line as it is, but for what does not print."""
    print(shown(text))


def mention_skipped(dataset: Dataset) -> None:
    """Say which images of a data set cannot be used."""
    if skipped := dataset.skipped:
        total = len(dataset) + len(skipped)
        mention(f"{len(skipped)} of {total} images unreadable and skipped: {_some(skipped)}")


def mention_trained_on(model: Model, dataset: Dataset) -> None:
    """Say which classes of a data set a network was trained on: new they are not."""
    if seen := shared_classes(model.training_classes, dataset.classes):
        mention(
            f"{model.name} was trained on classes of {dataset.name}, {len(seen)}: {_some(seen)}"
        )


def mention_left_out(dataset: Dataset, shots: int) -> None:
    """Say which images and classes of a data set cannot be used."""
    mention_skipped(dataset)
    usable = set(usable_classes(dataset, shots))
    if small := [c for c in dataset.classes if c not in usable]:
        total = len(dataset.classes)
        reason = f"too few images for {shots} shot{'s' if shots > 1 else ''}"
        mention(f"{len(small)} of {total} classes left out, {reason}: {_some(small)}")


def mention(text: str) -> None:
    """Say something beside the result."""
    ERR.print(shown(text), soft_wrap=True)


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = 8
    return ", ".join(names[:shown]) + (
        f" and {len(names) - shown} more" if len(names) > shown else ""
    )


def in_short(n: int) -> str:
    """Write a number with k or M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return str(n)


def kib(n: int) -> str:
    """Write bytes, in KiB too."""
    return f"{n:,} B ({n / 1024:.1f} KiB)"


def show_outcome(compiled: Compiled, outcome: Outcome) -> None:
    """Print what was learned."""
    s = outcome.summary
    shots = f"{s.shots}" if s.shots == s.max_shots else f"{s.shots} to {s.max_shots}"
    optimal = "met: the plan is optimal" if s.sram_proved_optimal else "not met"
    table = Table(show_header=False, box=None)
    front = f"{in_short(s.macs_prefix)} a kept view, " if s.latent_bytes else ""
    macs = f"{in_short(s.macs_forward)} forward, {front}{in_short(s.macs_step)} a training step"
    rows: tuple[tuple[str, str | Text], ...] = (
        ("network", f"{compiled.model.title}, method {compiled.recipe.method}"),
        ("task", f"{s.ways} classes, {shots} images each; tested on {s.queries} each"),
        ("accuracy before", f"{100 * s.accuracy_before:.1f} %"),
        ("accuracy after", Text(f"{100 * s.accuracy_after:.1f} %", "bold")),
        ("RAM", kib(s.sram_bytes)),
        ("lower bound", f"{kib(s.sram_lower_bound_bytes)}, {optimal}"),
        ("flash (tables)", kib(s.flash_bytes)),
        ("MACs", macs),
        *_kept(s),
        ("learned", f"{s.learned_parameters:,} parameters in {s.seconds:.1f} s"),
    )
    for row in rows:
        table.add_row(*row)
    OUT.print(table)


def _kept(s: Summary) -> list[tuple[str, str]]:
    if not s.latent_bytes:
        return []
    return [
        ("", f"{in_short(s.macs_training)} for all of training"),
        ("cache", f"{kib(s.cache_bytes)}, {s.latent_bytes:,} B a view; not in the RAM above"),
    ]


def cost_line(compiled: Compiled, budget: Budget) -> str:
    """Write what a program costs, and of which budget."""
    sram, macs = compiled.program.sram_bytes, compiled.backward_macs
    of_sram = "" if budget.sram is None else f" of {budget.sram:,}"
    of_macs = "" if budget.compute is None else f" of {budget.compute:,}"
    return f"{sram:,}{of_sram} bytes of RAM, {macs:,}{of_macs} MACs for a backward pass"


def _estimate(found: Interval) -> Estimate:
    return Estimate(100 * found.mean, None if found.half is None else 100 * found.half)


def _by_method(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Group lines by network and method; in a group one for each data set, and the one of all."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.model, line.method), []).append(line)
    return groups


def show_evaluation(asked: Evaluation, lines: Sequence[Line]) -> None:
    """Print a table for each network."""
    groups = _by_method(lines)
    less = f"less {asked.methods[0]}"
    for network in asked.networks:
        OUT.print(shown(f"{network.model.title}: accuracy in %, differences in points"))
        table = Table("data set", "method", box=None)
        for name in ("RAM, B", "before", "after", less):
            table.add_column(name, justify="right", no_wrap=True)
        found = [groups[network.model.name, method] for method in asked.methods]
        for column in zip(*found, strict=True):
            for line in column:
                numbers = (
                    f"{line.sram_bytes:,}",
                    str(_estimate(line.before)),
                    str(_estimate(line.after)),
                    _estimate(line.difference).signed() if line.difference else "",
                )
                first = line is column[0]
                table.add_row((line.data or "all") if first else "", line.method, *numbers)
            table.add_section()
        OUT.print(table)
    if (whole := lines[-1].after).half is not None:
        say(f"±: 95 % intervals (Student's t) over episodes, {whole.count} in all")


def sections_of(asked: Evaluation, lines: Sequence[Line]) -> tuple[Section, ...]:
    """Return what a report shows: networks, data sets, methods."""
    sections = []
    groups = _by_method(lines)
    for network in asked.networks:
        found = [groups[network.model.name, method] for method in asked.methods]
        panels = []
        for column in zip(*found, strict=True):
            bars = tuple(
                Bar(
                    line.method,
                    100 * line.before.mean,
                    _estimate(line.after),
                    line.difference and _estimate(line.difference),
                    line.p,
                )
                for line in column
            )
            panels.append(Panel(column[0].data or "All data sets", column[0].after.count, bars))
        prices = tuple(
            Price(f[-1].sram_bytes, f[-1].backward_macs, f[-1].learned_parameters) for f in found
        )
        sections.append(Section(network.model.title, tuple(panels), prices))
    return tuple(sections)


def facts_of(asked: Evaluation) -> str:
    """Say how episodes were drawn and learned."""
    s = asked.settings
    limits = "".join(
        f" {what}: at most {limit}."
        for what, limit in (
            ("RAM", s.sram),
            ("MACs of a backward pass", s.compute),
            ("Share of a layer's channels", s.channels),
        )
        if limit is not None
    )
    tasks = (
        "Ways and shots as in Meta-Dataset"
        if s.draw.shots is None
        else f"{'Up to 10' if s.ways is None else s.ways} classes, {s.draw.shots} images each to "
        f"learn from, up to {s.draw.queries} to test on"
    )
    kept = f" ({s.cache} of each image)" if s.cache else ""
    guard = " at most, as held-out images gain" if s.guard else ""
    return (
        f"{tasks}; {s.iterations} passes{guard} with {s.optimizer} at rate {s.lr:g}, "
        f"views: {s.augment}{kept}; seeds from {s.seed} on.{limits}"
    )


def show_choice(compiled: Compiled, budget: Budget) -> None:
    """Print why these layers and channels learn."""
    reasons = compiled.selection.reasons
    if not reasons:
        method = compiled.recipe.method
        OUT.print(shown(f"method {method} always takes the same layers: nothing to explain"))
        return
    table = Table("layer", box=None)
    for name in ("Fisher", "weights", "MACs", "score", "channels"):
        table.add_column(name, justify="right")
    table.add_column("why not")
    for r in reasons:
        found = ["" if x is None else f"{x:.3g}" for x in (r.potential, r.score)]
        size = (in_short(r.weights), in_short(r.macs))
        table.add_row(r.layer, found[0], *size, found[1], f"{r.chosen} of {r.channels}", r.why)
    OUT.print(table)
    OUT.print(shown(cost_line(compiled, budget)))


def show_contribution(model: Model, found: Contribution) -> None:
    """Print what kinds of layers bring, and which choices bring most."""
    table = Table(f"{model.title}: points gained", box=None)
    for name in ("layers", *(f"{Fraction(share)}" for share in SHARES), "of the channels"):
        table.add_column(name, justify="right")
    kinds = roles(Evidence(model.name, model.graph, model.layers))
    for role in Role:
        layers = [x for x, kind in zip(model.layers, kinds, strict=True) if kind is role]
        means = [mean_gain(found.overall, layers, share) for share in SHARES]
        cells = ["" if m is None else f"{100 * m:+.1f}" for m in means]
        if layers:
            table.add_row(f"  {role}, mean", str(len(layers)), *cells)
    OUT.print(table)
    k = max(range(len(found.biases)), key=lambda i: found.biases[i].mean)
    say(f"most by biases: the last {k + 1}, {_gained(found.biases[k])}")
    for layer, share in sorted(found.weights, key=lambda c: -found.weights[c].mean)[:5]:
        gained = _gained(found.weights[layer, share])
        number = model.layers.index(layer)
        say(f"most by weights: layer {number} {layer}, {Fraction(share)}: {gained}")
    head = found.overall
    say(f"head alone: {head.head:.1%}; ±: 95 % intervals over {head.episodes} episodes")


def _gained(gain: Gain) -> str:
    return f"{100 * gain.mean:+.1f} ± {100 * gain.half_width:.1f}"


def show_measurement(compiled: Compiled, found: Measurement) -> None:
    """Print what a program needs on a target."""
    table = Table(show_header=False, box=None)
    exact = "every loss and every byte kept equal this machine's"
    rows = (
        ("target", f"{found.target} ({found.tools})"),
        ("network", f"{compiled.model.title}, method {compiled.recipe.method}"),
        ("RAM in all", kib(found.ram_bytes)),
        ("  arena", kib(found.arena_bytes)),
        ("  kept", kib(found.data_bss_bytes - found.arena_bytes)),
        ("  stack", _stack(found)),
        ("flash", kib(found.flash_bytes)),
        *_counts(found),
        ("bit exact", f"yes, {found.steps} steps: {exact}" if found.bit_exact else "NO"),
    )
    for row in rows:
        table.add_row(*row)
    OUT.print(table)


def _counts(found: Measurement) -> list[tuple[str, str]]:
    if found.instructions_forward is None:
        return [(found.counted, "not counted by this emulator")]
    rows = [(found.counted, f"{in_short(found.instructions_forward)} forward")]
    if found.instructions_prefix is not None:
        rows.append(("", f"{in_short(found.instructions_prefix)} a kept view"))
    if found.instructions_step is not None:
        rows.append(("", f"{in_short(found.instructions_step)} a training step"))
    return rows


def _stack(found: Measurement) -> str:
    if found.stack_bound_bytes is None:
        return f"{kib(found.stack_bytes)} in linear memory"
    without = f", calls through pointers in {', '.join(found.unresolved)} not counted"
    bound = f"at most {found.stack_bound_bytes:,} B"
    return f"{kib(found.stack_bytes)}, {bound}{without if found.unresolved else ''}"


def show_digits(dataset: Dataset, episode: Episode, outcome: Outcome) -> None:
    """Draw one test image of each class, with what the network says it is."""
    shades = " .:-=+*#%@"
    blocks: list[list[str]] = []
    for way, name in enumerate(episode.classes):
        at = episode.query_labels.index(way)
        said = episode.classes[outcome.predictions[at]]
        levels = np.asarray(dataset.image(episode.query[at]).convert("L"), np.int64) * 10 // 256
        rows = ["".join(2 * shades[level] for level in row) for row in levels]
        blocks.append([*rows, f"a {name}: says {said}".ljust(16)])
    for line in zip(*blocks, strict=True):
        say("   ".join(line))


def map_json(program: Program, entry: Entry) -> dict[str, object]:
    """Return a memory map as JSON."""
    return {
        "sram_bytes": program.sram_bytes,
        "sram_lower_bound_bytes": program.sram_lower_bound_bytes,
        "sram_proved_optimal": program.sram_proved_optimal,
        "state_bytes": program.state_bytes,
        "arena_bytes": program.arena_bytes,
        "flash_bytes": program.flash_bytes,
        "state": [
            {"name": s.name, "offset": s.offset, "size": s.value.nbytes} for s in program.state
        ],
        "entries": {
            e.name: {"peak": e.plan.peak, "lower_bound": e.plan.bound}
            for e in program.entries.values()
        },
        "entry": entry.name,
        "buffers": [
            {**asdict(b), "offset": entry.plan.offsets[b.name]} for b in entry.storage.buffers
        ],
    }


def show_map(compiled: Compiled, entry: Entry) -> None:
    """Print a memory map, and what sets its peak."""
    program = compiled.program
    buffers = entry.storage.buffers
    peak_step = max(
        {b.first for b in buffers},
        key=lambda t: sum(b.room for b in buffers if b.first <= t < b.last),
    )
    nodes = entry.graph.nodes
    table = Table("offset", "bytes", "in use", "buffer", "", box=None)
    for b in sorted(buffers, key=lambda b: (entry.plan.offsets[b.name], b.first)):
        mark = "peak" if b.first <= peak_step < b.last else ""
        offset = f"{entry.plan.offsets[b.name]:,}"
        table.add_row(offset, f"{b.size:,}", f"{b.first}-{b.last - 1}", b.name, mark)
    OUT.print(table)
    state = Table("offset", "bytes", "kept between calls", box=None)
    for s in program.state:
        state.add_row(f"{s.offset:,}", f"{s.value.nbytes:,}", s.name)
    OUT.print(state)
    names = compiled.training.learn
    worst = max(accumulator_bounds(entry.graph, names), key=lambda b: b.worst, default=None)
    OUT.print(shown(f"peak of {entry.name}: step {peak_step}, {nodes[peak_step].name}"))
    for e in program.entries.values():
        verdict = "optimal" if e.plan.peak == e.plan.bound else f"lower bound {e.plan.bound:,}"
        OUT.print(shown(f"{e.name}: {e.plan.peak:,} B of arena, {verdict}"))
    OUT.print(shown(f"RAM: {kib(program.sram_bytes)}, of which {program.state_bytes:,} B kept"))
    if worst:
        share = worst.worst / (1 << 31)
        OUT.print(
            shown(f"no int32 accumulator can overflow: {worst.node} comes closest, {share:.0%}")
        )


def variant_json(program: Program, variant: Variant) -> dict[str, object]:
    """Return a step of an ablation as JSON."""
    arena = variant.step.plan.peak
    sizes = {"arena_bytes": arena, "sram_bytes": program.state_bytes + arena}
    return {"name": variant.name, "adds": variant.adds, **sizes}


def show_ablation(program: Program, steps: Sequence[Variant]) -> None:
    """Print what each part of the compiler saves."""
    table = Table("training step", "", box=None)
    table.add_column("RAM, B", justify="right")
    table.add_column("less than naive", justify="right")
    rams = [program.state_bytes + v.step.plan.peak for v in steps]
    for v, ram in zip(steps, rams, strict=True):
        table.add_row(v.name, v.adds, f"{ram:,}", f"{rams[0] / ram:.1f} x")
    OUT.print(table)


def cost_json(model: Model, method: str, convention: Convention, cost: Cost) -> dict[str, object]:
    """Return the cost by a convention as JSON."""
    return {
        "network": model.name,
        "method": method,
        "convention": convention.value,
        "batch": cost.batch,
        "memory_bytes": asdict(cost.memory),
        "macs": {**asdict(cost.macs), "backward": cost.macs.backward},
    }


def show_cost(model: Model, method: str, convention: Convention, cost: Cost) -> None:
    """Print the cost by a convention."""
    memory, macs = cost.memory, cost.macs
    table = Table(show_header=False, box=None)
    table.add_row("network", f"{model.title}, method {method}")
    table.add_row("convention", f"{convention}, {cost.batch} learned at once")
    table.add_row("memory", Text(kib(memory.total), "bold"))
    parts = {
        "buffers": memory.buffers,
        "saved inputs": memory.saved_inputs,
        "masks": memory.masks,
        "weights": memory.weights,
        "biases": memory.biases,
        "optimizer": memory.optimizer,
        "head": memory.head,
        "stamp": memory.stamp,
    }
    absent = "in the buffers" if convention is Convention.KILOGRAD else "not counted"
    for name, size in parts.items():
        table.add_row(f"  {name}", absent if size is None else kib(size))
    if memory.total < sum(size or 0 for size in parts.values()):
        table.add_row("", "buffers, and saved inputs with masks, share their place")
    table.add_row("MACs", f"{in_short(macs.forward)} forward, {in_short(macs.backward)} backward")
    table.add_row("", f"of which {in_short(macs.dx)} dX, {in_short(macs.dw)} dW")
    OUT.print(table)


def show_finished(out: Path, finished: Finished, of_what: str) -> None:
    """Print what came of training offline."""
    table = Table.grid(padding=(0, 2))
    learned = f"{finished.learned} images of {finished.classes} classes"
    history = finished.history
    table.add_row("learned from", learned)
    table.add_row("best epoch", f"{history.best} of {len(history.epochs)}")
    table.add_row("accuracy on", f"{finished.reported} {of_what}")
    for name, accuracy in (("before", finished.before), ("after", finished.after)):
        if accuracy is not None:
            both = f"{accuracy.float32:.1%} in float, {accuracy.int8:.1%} as the int8 program"
            table.add_row(f"  {name}", both)
    table.add_row("took", f"{finished.seconds:.0f} s")
    OUT.print(table)
    say(f"Written to {out}, a model folder: --model {out}")


def show_plans(plans: Sequence[Found], published: Sequence[Published]) -> None:
    """Print plans that were found, for each limit that goes up, and what a step up buys."""
    for front in (None, *Front):
        found = [f for f in plans if f.front is front]
        if not found:
            continue
        table = Table("plan", box=None)
        for name in ("RAM, B", "MACs back", "gain", "more", "below best", "biases", "weights"):
            table.add_column(name, justify="right", no_wrap=True)
        for f, more in zip(found, steps(found), strict=True):
            table.add_row(
                f.plan.removesuffix(".json"),
                f"{f.sram_bytes:,}",
                in_short(f.backward_macs),
                f"{100 * f.predicted_gain:.1f}",
                "" if more is None else f"{100 * more:+.1f}",
                gap(f),
                f"last {f.k}",
                _layers(f.weights),
            )
        OUT.print(table)
    if published:
        table = Table("published", box=None)
        for name in ("RAM, B", "MACs back", "gain"):
            table.add_column(name, justify="right")
        for p in published:
            gain = f"{100 * p.predicted_gain:.1f}"
            table.add_row(p.method, f"{p.sram_bytes:,}", in_short(p.backward_macs), gain)
        OUT.print(table)
    say("gain: points of accuracy over the head alone, summed over parts that learned alone")


def _layers(weights: Mapping[str, float]) -> str:
    return f"{len(weights)} layer{'' if len(weights) == 1 else 's'}"
