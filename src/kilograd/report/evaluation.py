"""What a comparison of methods shows: networks, data sets, methods, and how it was made."""

from __future__ import annotations

from collections.abc import Sequence

from kilograd.data import EpisodeKind
from kilograd.intervals import Interval
from kilograd.report.comparison import Bar, Estimate, Panel, Price, Section
from kilograd.settings import Settings
from kilograd.study.evaluate import Evaluation, Line


def sections_of(asked: Evaluation, lines: Sequence[Line]) -> tuple[Section, ...]:
    """Return what a report shows: networks, data sets, methods."""
    sections = []
    groups = by_method(lines)
    for network in asked.networks:
        found = [groups[network.name, method] for method in asked.methods]
        panels = []
        for column in zip(*found, strict=True):
            bars = tuple(
                Bar(
                    line.method,
                    100 * line.before.mean,
                    estimate(line.after),
                    line.difference and estimate(line.difference),
                    line.p,
                )
                for line in column
            )
            panels.append(Panel(column[0].data or "All data sets", column[0].after.count, bars))
        prices = tuple(
            Price(f[-1].sram_bytes, f[-1].backward_macs, f[-1].learned_parameters) for f in found
        )
        sections.append(Section(network.title, tuple(panels), prices))
    return tuple(sections)


def by_method(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Group lines by network and method; in a group one for each data set, and the one of all."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.model, line.method), []).append(line)
    return groups


def estimate(found: Interval) -> Estimate:
    """Return a mean of accuracies in per cent."""
    return Estimate(100 * found.mean, None if found.half is None else 100 * found.half)


def facts_of(settings: Settings) -> str:
    """Say how episodes were drawn and learned."""
    draw, recipe, schedule = settings.draw.filled(), settings.recipe, settings.schedule
    limits = "".join(
        f" {what}: at most {limit}."
        for what, limit in (
            ("RAM", settings.limits.sram),
            ("MACs of a backward pass", settings.limits.compute),
            ("Share of a layer's channels", settings.limits.channels),
            ("Backward memory as TinyTrain counts it", settings.limits.backward_memory),
        )
        if limit is not None
    )
    tasks = (
        "All images of all classes"
        if draw.episode is EpisodeKind.ALL
        else "Ways and shots as in Meta-Dataset"
        if draw.shots is None
        else f"{'Up to 10' if draw.ways is None else draw.ways} classes, {draw.shots} images each "
        f"to learn from, up to {draw.queries} to test on"
    )
    kept = f" ({recipe.cache} of each image)" if recipe.cache else ""
    guard = " at most, as held-out images gain" if settings.guard else ""
    return (
        f"{tasks}; {schedule.iterations} passes{guard} with {recipe.rule} at rate "
        f"{schedule.lr:g}, views: {schedule.augment}{kept}; seeds from {schedule.seed} on.{limits}"
    )
