"""Learn: a few images of something new, on the network at hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from kilograd import api
from kilograd.boards import Board
from kilograd.cli.command import (
    AsJson,
    BoardName,
    DataPath,
    Group,
    ImageSize,
    ModelName,
    command,
    with_settings,
)
from kilograd.cli.console import OUT, Table, bar, say, word
from kilograd.cli.memory import memory_json, memory_rows, needs, time_json, time_rows
from kilograd.cli.numbers import in_short, kib
from kilograd.data.toys import EACH
from kilograd.errors import as_typed, flag, shown
from kilograd.learn.adapt import Outcome, Summary
from kilograd.learn.answers import Answers, Share
from kilograd.learn.automatic import CHOSEN
from kilograd.learn.recipe import Compiled
from kilograd.options import changed, values
from kilograd.report.choice import cost_line
from kilograd.select import Budget
from kilograd.settings import HeadKind, Limits, Settings

app = typer.Typer()

_SHOWN, _NAMED = 12, 5
"""So many classes of a table, and so many wrong images, are shown."""


@command(app, "adapt", Group.LEARN)
@with_settings(Settings(), unset=True, chosen=CHOSEN)
def adapt_command(
    data: DataPath,
    *,
    model: ModelName = None,
    size: ImageSize = None,
    board: BoardName = None,
    settings: dict[str, Any],
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Go on from what was learned: the folder of another --out."),
    ] = None,
    forget: Annotated[
        list[str] | None,
        typer.Option(help="With --from: drop this class; may be given several times."),
    ] = None,
    episode: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Episode",
            help="all (default): all images of all classes; fixed: ways and shots as given; "
            "meta-dataset: drawn as Meta-Dataset does; FILE.json: that episode; FILE.jsonl: the "
            "one of --seed.",
        ),
    ] = None,
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
    """Learn new classes from images, and show what was gained."""
    with bar("learning") as progress:
        outcome = api.adapt(
            data,
            model,
            size=size,
            board=board,
            start=start,
            forget=forget or (),
            episode=episode,
            seed=seed,
            out=out,
            save_plan=save_plan,
            force=force,
            progress=progress,
            **settings,
        )
    compiled, there = outcome.compiled, api.find_board_given(board)
    reasons = compiled.selection.reasons
    if as_json:
        why = {"selection": [asdict(r) for r in reasons]} if explain else {}
        memory = memory_json(needs(compiled.program, there), there)
        memory |= time_json(compiled.program, there)
        print(json.dumps(asdict(outcome.summary) | memory | why))
        return
    show_outcome(outcome, there)
    show_answers(outcome.tested)
    if explain:
        limits = changed(Limits(), {k: settings.get(k) for k in values(Limits())})
        show_choice(compiled, limits.budget(compiled.model))
    if out is not None:
        more = ", selection.html" if reasons else ""
        more += ", learning.html" if outcome.summary.accuracy_by_pass else ""
        more += ", wrong.html" if outcome.mistaken else ""
        say(f"Written to {out}: adapted.safetensors, episode.json, network, result.json{more}")
        say(f"Use it: kilograd predict {word(out)} IMAGES")
    if save_plan is not None:
        say(f"Written to {save_plan}: give it as --method {word(save_plan)}")
    for remark in outcome.remarks:
        say(as_typed(remark))


@command(app, "pictures", Group.LEARN)
def pictures(
    *,
    out: Annotated[Path, typer.Option(help="New folder for class folders of pictures.")],
    each: Annotated[int, typer.Option(help="Pictures of each of the six toys.")] = EACH,
    seed: Annotated[int, typer.Option(help="Other pictures, but the same each time.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw small pictures of toys: something to learn where no photographs are at hand."""
    classes = api.pictures(out, each, seed)
    if as_json:
        print(json.dumps({"out": str(out), "each": each, "classes": classes}))
        return
    count = "1 picture" if each == 1 else f"{each} pictures"
    say(f"Written to {out}: {count} of each of {', '.join(classes)}")


def show_outcome(outcome: Outcome, board: Board | None = None) -> None:
    """Print what was learned."""
    s, compiled = outcome.summary, outcome.compiled
    shots, queries = _range(s.shots, s.max_shots), _range(s.queries, s.max_queries)
    images = f"{shots} image{'' if shots == '1' else 's'}"
    optimal = "met: the memory plan is optimal" if s.sram_proved_optimal else "not met"
    table = Table(show_header=False, box=None)
    front = f"{in_short(s.macs_prefix)} a kept view, " if s.latent_bytes else ""
    macs = f"{in_short(s.macs_forward)} forward, {front}{in_short(s.macs_step)} a training step"
    rows: tuple[tuple[str, str | Text], ...] = (
        ("network", f"{compiled.model.title}, method {compiled.recipe.method}"),
        ("task", f"{s.ways} classes, {images} each; tested on {queries} each"),
        ("accuracy before", percent(outcome.before.share)),
        ("accuracy after", Text(percent(outcome.tested.share), "bold")),
        ("recipe", _recipe(outcome)),
        *memory_rows(needs(compiled.program, board), board),
        *time_rows(compiled.program, board),
        ("lower bound", f"{kib(s.sram_lower_bound_bytes)}, {optimal}"),
        ("MACs", macs),
        *_kept(s),
        ("learned", f"{s.learned_parameters:,} parameters in {s.seconds:.1f} s"),
    )
    for row in rows:
        table.add_row(*row)
    OUT.print(table)


def _recipe(outcome: Outcome) -> str:
    """Say how it was learned, and whether that was given or chosen."""
    recipe, schedule = outcome.compiled.recipe, outcome.schedule
    kind = recipe.head_kind
    head = "prototypes" if kind is HeadKind.PROTO else f"{kind} head"
    said = (
        f"{head}, {recipe.rule} at rate {schedule.lr:g}, {outcome.summary.iterations} passes, "
        f"views {schedule.augment}"
    )
    if not outcome.chosen:
        return said
    return f"{said}; {', '.join(sorted(map(flag, outcome.chosen)))} chosen"


def _range(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def percent(share: Share) -> str:
    """Write an accuracy with its interval."""
    low, high = 100 * share.low, 100 * share.high
    return f"{100 * share.accuracy:.1f} % (95 % interval {low:.1f} to {high:.1f})"


def show_answers(tested: Answers) -> None:
    """Print what was taken for what, and which images are wrong; the first of each."""
    if not tested.wrong:
        return
    table = Table("class", box=None)
    for name in ("right", "mostly taken for"):
        table.add_column(name, justify="right" if name == "right" else "left")
    worst = sorted(tested.by_class.items(), key=lambda x: x[1].accuracy)
    for name, share in worst[:_SHOWN]:
        others = [f"{k} ({n})" for k, n in tested.confusion[name].items() if k != name]
        more = ", ..." if len(others) > 3 else ""
        table.add_row(name, f"{share.right} of {share.tested}", ", ".join(others[:3]) + more)
    OUT.print(table)
    if len(worst) > _SHOWN:
        say(f"and {len(worst) - _SHOWN} classes more, no worse than these")
    for wrong in tested.wrong[:_NAMED]:
        say(f"wrong: {wrong.image} is {wrong.label}, taken for {wrong.said}")
    if (more_wrong := len(tested.wrong) - _NAMED) > 0:
        say(f"and {more_wrong} more")


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
