"""Learn: a few images of something new, on the network at hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.text import Text

from kilograd import api
from kilograd.cli.command import AsJson, DataPath, Group, ModelName, command, with_settings
from kilograd.cli.console import OUT, Table, bar, say
from kilograd.cli.numbers import in_short, kib
from kilograd.data import Augment, Dataset, Episode, EpisodeKind, load_digits, sample_episode
from kilograd.data.toys import EACH
from kilograd.errors import shown
from kilograd.frontend import load_model
from kilograd.learn.adapt import Outcome, Summary, adapt, load_task
from kilograd.learn.recipe import Compiled
from kilograd.report.choice import cost_line
from kilograd.select import Budget
from kilograd.settings import Settings

app = typer.Typer()

_DEMO_DIGITS = (5, 6, 7, 8, 9)  # the bundled network was trained on 0 to 4 only
_DEMO = Settings.of(method="last:6", sram="64K", iterations=30, lr=0.01, augment=Augment.NOFLIP)


@command(app, "adapt", Group.LEARN)
@with_settings(Settings())
def adapt_command(
    data: DataPath,
    *,
    model: ModelName = None,
    settings: Settings,
    episode: Annotated[
        str,
        typer.Option(
            rich_help_panel="Episode",
            help="fixed: ways and shots as given; meta-dataset: drawn as Meta-Dataset does; "
            "FILE.json: that episode; FILE.jsonl: the one of --seed.",
        ),
    ] = EpisodeKind.FIXED,
    seed: Annotated[
        int | None,
        typer.Option(help="Makes the run repeatable; default: 0, or that of a stored episode."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show why these layers and channels learn.")
    ] = False,
    save_plan: Annotated[
        Path | None,
        typer.Option(help="Write the update plan to FILE.json, which --method takes."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder, and the update plan.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Learn new classes from a few images, and show what was gained."""
    with bar("learning") as progress:
        outcome = api.adapt(
            data,
            model,
            settings=settings,
            episode=episode,
            seed=seed,
            out=out,
            save_plan=save_plan,
            force=force,
            progress=progress,
        )
    compiled = outcome.compiled
    reasons = compiled.selection.reasons
    if as_json:
        why = {"selection": [asdict(r) for r in reasons]} if explain else {}
        print(json.dumps(asdict(outcome.summary) | why))
        return
    show_outcome(outcome)
    if explain:
        show_choice(compiled, settings.limits.budget(compiled.model))
    if out is not None:
        more = ", selection.html" if reasons else ""
        say(f"Written to {out}: adapted.safetensors, episode.json, result.json{more}")
    if save_plan is not None:
        say(f"Written to {save_plan}: give it as --method {save_plan}")


@command(app, "demo", Group.LEARN)
def demo(
    seed: Annotated[int, typer.Option(help="Makes the run repeatable.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Learn handwritten digits that the bundled network has never seen, within 64 KB."""
    settings = _DEMO.numbered(seed)
    model, dataset = load_model("digits"), load_digits(_DEMO_DIGITS)
    episode = sample_episode(dataset, ways=5, shots=5, queries=40, seed=seed)
    with bar("learning") as progress:
        outcome = adapt(model, load_task(dataset, episode, model.preprocess), settings, progress)
    if as_json:
        print(json.dumps(asdict(outcome.summary)))
        return
    show_outcome(outcome)
    show_digits(dataset, episode, outcome)


@command(app, "pictures", Group.LEARN)
def pictures(
    *,
    out: Annotated[Path, typer.Option(help="New folder for class folders of pictures.")],
    each: Annotated[int, typer.Option(help="Pictures of each of the six toys.")] = EACH,
    seed: Annotated[int, typer.Option(help="Other pictures, but the same each time.")] = 0,
) -> None:
    """Draw small pictures of toys: something to learn where no photographs are at hand."""
    classes = api.pictures(out, each, seed)
    say(f"Written to {out}: {each} pictures of each of {', '.join(classes)}")


def show_outcome(outcome: Outcome) -> None:
    """Print what was learned."""
    s, compiled = outcome.summary, outcome.compiled
    shots = f"{s.shots}" if s.shots == s.max_shots else f"{s.shots} to {s.max_shots}"
    optimal = "met: the memory plan is optimal" if s.sram_proved_optimal else "not met"
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
