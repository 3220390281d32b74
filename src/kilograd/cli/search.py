"""Search: what should learn within a budget."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from kilograd.cli.command import AsJson, Group, ImageSize, ModelName, command, with_settings
from kilograd.cli.console import OUT, Table, bar, say
from kilograd.cli.numbers import in_short
from kilograd.errors import InputError, option
from kilograd.frontend import Model, load_model
from kilograd.interruption import goes_on
from kilograd.limits import SEED
from kilograd.output import write_file
from kilograd.report import frontier, gap, steps
from kilograd.search import Contribution, Found, Front, Published, read_contribution
from kilograd.search.search import Search, SolverName, search, shipped_contribution
from kilograd.select.cost import Convention
from kilograd.settings import Build, Recipe

app = typer.Typer()
_log = logging.getLogger(__name__)


@command(app, "search", Group.STUDY)
@with_settings(Build(), without=("method", "channels", "exact", "backward_memory"))
def search_command(
    out: Annotated[
        Path, typer.Option(help="Folder for the update plans; an unfinished one is continued.")
    ],
    *,
    model: ModelName = None,
    size: ImageSize = None,
    settings: Build,
    contribution: Annotated[
        Path | None,
        typer.Option(help="What kilograd contribution wrote; default: what comes with Kilograd."),
    ] = None,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto", help="One update plan for each of several budgets, up to those given."
        ),
    ] = False,
    solver: Annotated[
        SolverName, typer.Option(help="exact: proved best; evolution, random: 5,000 samples.")
    ] = SolverName.EXACT,
    shrink: Annotated[
        bool,
        typer.Option("--shrink", help="Pull gains that were measured with noise towards zero."),
    ] = False,
    convention: Annotated[
        Convention,
        typer.Option(
            help="What --sram and --compute count: kilograd: the program; tte: what training adds "
            "by the formulas of the 256 KB paper."
        ),
    ] = Convention.KILOGRAD,
    seed: Annotated[int, typer.Option(help="Makes the run repeatable.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Find what should learn within a budget, from what each part brings."""
    if not 0 <= seed <= SEED:
        raise InputError(f"{option('seed')} {seed}: must be in 0 ... {SEED}")
    network = load_model(model, size)
    budget, recipe = settings.limits.budget(network), replace(settings.recipe, method="search")
    if budget.sram is None and budget.compute is None and not pareto:
        raise InputError("--sram: give what the program may use, as in 128K; or --pareto")
    gains = _gains(network, contribution)
    _mention_other_settings(gains, recipe, network.preprocess.size)
    asked = Search(
        network,
        recipe,
        gains,
        budget,
        solver,
        seed,
        pareto=pareto,
        shrink=shrink,
        convention=convention,
    )
    with goes_on(out), bar("searching") as progress:
        results = search(out, asked, progress)
    write_file(
        out / "search.html",
        frontier(network.title, network.layers, results.plans, results.published),
    )
    if as_json:
        rows = [asdict(f) | {"plan": str(out / f.plan)} for f in results.plans]
        print(json.dumps(rows if pareto else rows[0]))
        return
    show_plans(results.plans, results.published)
    if convention is Convention.TTE:
        for f in results.plans:
            said = f"{f.plan.removesuffix('.json')}: training adds {f.predicted_sram_bytes:,} B"
            say(f"{said} by the formulas of the 256 KB paper; RAM is that of the program")
    say(f"Written to {out}: PLAN.json for --method, search.json, search.html")


def _gains(network: Model, path: Path | None) -> Contribution:
    """Read the contribution analysis of a network: the one given, or the one that is shipped."""
    found = shipped_contribution(network.graph) if path is None else path
    if found is None:
        raise InputError(
            f"--contribution: no analysis of {network.name} comes with Kilograd; make one with "
            f"kilograd contribution --model {network.name} --data DATA --out FILE.json"
        )
    gains = read_contribution(found)
    gains.check(network.name, network.graph, network.layers, found)
    if not replace(gains, architecture=None).of(network.graph):
        _log.info(
            "the gains are those of %s, which has the layers of %s, but other weights",
            gains.network,
            network.name,
        )
    return gains


def _mention_other_settings(gains: Contribution, recipe: Recipe, size: int | str) -> None:
    """Say where the analysis learned in another way than the program will."""
    mine = {
        "--optimizer": recipe.optimizer.value,
        "--head": recipe.head_kind.value,
        "--accumulate": recipe.accumulate,
    }
    theirs = {name: gains.settings.get(name) or value for name, value in mine.items()}
    mine["--size"], theirs["--size"] = size, gains.size or size
    if other := [f"{name} {theirs[name]}" for name in mine if theirs[name] != mine[name]]:
        said = ", ".join(other)
        _log.warning("gains were measured with %s; plans are for other options", said)


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
