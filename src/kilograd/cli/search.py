"""The command that searches for plans."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kilograd.cli.options import (
    Accumulate,
    AsJson,
    Cache,
    Compute,
    Head,
    HeadWays,
    ModelName,
    Optimizer,
    PrototypeGradients,
    Recompute,
    Rows,
    Seed,
    Sram,
    budget_of,
    check_seed,
)
from kilograd.cli.show import ERR, mention, say, show_plans
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.interruption import goes_on
from kilograd.learn.recipe import OptimizerKind, Recipe
from kilograd.output import write_file
from kilograd.report import frontier
from kilograd.search import Contribution, read_contribution
from kilograd.search.search import Search, SolverName, search, shipped_contribution

app = typer.Typer()


@app.command("search")
def search_command(
    out: Annotated[Path, typer.Option(help="Folder for the plans; a begun one goes on.")],
    model: ModelName = "digits",
    contribution: Annotated[
        Path | None,
        typer.Option(help="What kilograd contribution wrote; default: what comes with Kilograd."),
    ] = None,
    sram: Sram = None,
    compute: Compute = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="A plan for each budget, up to the one given, if any.")
    ] = False,
    solver: Annotated[
        SolverName, typer.Option(help="exact: proved best; evolution, random: 5,000 samples.")
    ] = SolverName.EXACT,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Expect less of gains that were measured with noise.")
    ] = False,
    ways: HeadWays = 10,
    head: Head = None,
    optimizer: Optimizer = OptimizerKind.SGD,
    accumulate: Accumulate = 1,
    cache: Cache = 0,
    prototype_gradients: PrototypeGradients = False,
    rows: Rows = False,
    recompute: Recompute = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Find what should learn within a budget, from what each part brings."""
    if ways < 1:
        raise InputError(f"--ways {ways}: must be at least 1")
    check_seed(seed)
    network = load_model(model)
    budget = budget_of(network, sram, compute, None)
    if budget.sram is None and budget.compute is None and not pareto:
        raise InputError("--sram: give what the program may use, as in 128K; or --pareto")
    recipe = Recipe(
        "search",
        ways,
        head,
        optimizer,
        accumulate,
        rows=rows,
        recompute=recompute,
        cache=cache,
        prototype_gradients=prototype_gradients,
    )
    gains = _gains(network, contribution)
    _mention_other_settings(gains, recipe)
    asked = Search(network, recipe, gains, budget, solver, seed, pareto=pareto, shrink=shrink)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    unseen = as_json or not ERR.is_terminal
    with goes_on(out), Progress(*columns, console=ERR, disable=unseen, transient=True) as bar:
        task = bar.add_task("searching", total=None)
        results = search(
            out,
            asked,
            lambda what, done, of: bar.update(task, description=what, completed=done, total=of),
        )
    write_file(
        out / "search.html",
        frontier(network.title, network.layers, results.plans, results.published),
    )
    if as_json:
        rows_ = [asdict(f) | {"plan": str(out / f.plan)} for f in results.plans]
        print(json.dumps(rows_ if pareto else rows_[0]))
        return
    show_plans(results.plans, results.published)
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
    return gains


def _mention_other_settings(gains: Contribution, recipe: Recipe) -> None:
    """Say where the analysis learned in another way than the program will."""
    mine = {
        "--optimizer": recipe.optimizer.value,
        "--head": recipe.head_kind.value,
        "--accumulate": recipe.accumulate,
    }
    theirs = {name: gains.settings.get(name) or value for name, value in mine.items()}
    if other := [f"{name} {theirs[name]}" for name in mine if theirs[name] != mine[name]]:
        mention(f"gains were measured with {', '.join(other)}; plans are for other options")
