"""Study: methods on many episodes, and what each part of a network brings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from kilograd import api
from kilograd.cli.command import AsJson, Group, ImageSize, ModelName, command, with_settings
from kilograd.cli.console import OUT, Table, bar, say
from kilograd.data import load_dataset
from kilograd.data.remarks import remark_left_out, remark_seen
from kilograd.errors import shown
from kilograd.frontend import Model, load_model
from kilograd.interruption import goes_on
from kilograd.output import check_apart, write_file
from kilograd.report import Role, contribution_page, mean_gain, roles
from kilograd.report.evaluation import by_method, estimate, facts_of
from kilograd.search import SHARES, Contribution, Gain
from kilograd.select import Evidence
from kilograd.settings import OptimizerKind, Settings, split_methods
from kilograd.study.contribution import (
    analysis,
    check_contribution,
    contribution,
    write_contribution,
)
from kilograd.study.evaluate import Evaluation, Line, evaluate
from kilograd.study.pools import check_jobs
from kilograd.study.suite import SuiteName

app = typer.Typer()

#: Gains are measured with the optimiser and rate of docs/results/studies/strategies.md.
_GAINS = Settings.of(optimizer=OptimizerKind.ROWRMS, cache=4, lr=0.001)
_NOT_OF_GAINS = (
    *("method", "rows", "recompute", "exact", "prototype_gradients", "guard"),
    "test_each_pass",
    *("sram", "compute", "channels", "backward_memory", "cache_bytes"),
)

Jobs = Annotated[int, typer.Option(help="Processes that learn at once.")]
Ray = Annotated[str | None, typer.Option(help="Learn on a Ray cluster: HOST:PORT, or auto.")]


@command(app, "evaluate", Group.STUDY)
@with_settings(Settings(), without=("method",), unset=True)
def evaluate_command(
    data: Annotated[
        str,
        typer.Option(
            help="Folders or Parquet files, with commas between; or the folder of those of --suite."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the results; an unfinished one is continued.")
    ],
    settings: dict[str, Any],
    suite: Annotated[
        SuiteName | None,
        typer.Option(help="A ready-made comparison; options that you give override it."),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Networks, with commas between; default: as for the other commands."),
    ] = None,
    size: ImageSize = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods, with commas between, each with options of its own where need be: "
            "METHOD@lr=0.01,cache=4. Differences are to the first; default: none,last."
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Episodes of each data set; default: 10.")
    ] = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods on many episodes of several data sets; interrupted, it goes on later."""
    with bar("evaluating") as progress:
        found = api.evaluate(
            split_names(data),
            out,
            None if models is None else split_names(models),
            None if methods is None else split_methods(methods),
            episodes,
            size=size,
            suite=suite,
            jobs=jobs,
            ray=ray,
            progress=progress,
            **settings,
        )
    if as_json:
        print(json.dumps(found.to_json()))
        return
    if suite is None:
        show_evaluation(found.asked, found.lines)
    else:
        for line in found.table.splitlines():
            say(line)
    files = "evaluation.sqlite, episodes.jsonl, summary.json, table.md, comparison.html"
    layers = ", layers.html" if found.layers_page else ""
    say(f"Written to {out}: {files}{layers}")


@command(app, "contribution", Group.STUDY)
@with_settings(_GAINS, without=_NOT_OF_GAINS)
def contribution_command(
    data: Annotated[str, typer.Option(help="Folders or Parquet files, with commas between.")],
    out: Annotated[
        Path, typer.Option(help="File for the analysis: FILE.json; FILE.html shows it.")
    ],
    *,
    model: ModelName = None,
    size: ImageSize = None,
    settings: Settings,
    episodes: Annotated[int, typer.Option(help="Episodes of each data set, at least 2.")] = 10,
    jobs: Jobs = 1,
    ray: Ray = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each layer brings when it alone learns; interrupted, it goes on later."""
    check_jobs(jobs, ray)
    network = load_model(model, size)
    rows = check_contribution(out, network)
    places = tuple(map(Path, split_names(data)))
    for place in places:
        check_apart(out, place)
    sets = tuple(map(load_dataset, places))
    asked = analysis(network, sets, episodes, settings)
    for dataset in sets:
        remark_left_out(dataset, settings.draw)
        remark_seen(dataset, network)
    with goes_on(rows):
        with bar("evaluating") as progress:
            measured = evaluate(rows, asked, jobs, progress, ray)
        found = contribution(asked, measured)
        write_contribution(out, found)
        html = contribution_page(network.title, found, network.graph, facts_of(settings))
        write_file(out.with_suffix(".html"), html)
    if as_json:
        print(json.dumps(found.to_json()))
        return
    show_contribution(network, found)
    say(f"Written to {out} and {out.with_suffix('.html')}; every episode is in {rows}")


def split_names(text: str) -> tuple[str, ...]:
    """Split names at commas."""
    return tuple(name for name in map(str.strip, text.split(",")) if name)


def show_evaluation(asked: Evaluation, lines: Sequence[Line]) -> None:
    """Print a table for each network."""
    groups = by_method(lines)
    less = f"less {asked.methods[0]}"
    for network in asked.networks:
        OUT.print(shown(f"{network.title}: accuracy in %, differences in points"))
        table = Table("data set", box=None)
        table.add_column(
            "method", overflow="fold"
        )  # a method may end in options that tell it apart
        for name in ("RAM, B", "before", "after", less):
            table.add_column(name, justify="right", no_wrap=True)
        found = [groups[network.name, method] for method in asked.methods]
        for column in zip(*found, strict=True):
            for line in column:
                numbers = (
                    f"{line.sram_bytes:,}",
                    str(estimate(line.before)),
                    str(estimate(line.after)),
                    estimate(line.difference).signed() if line.difference else "",
                )
                first = line is column[0]
                table.add_row((line.data or "all") if first else "", line.method, *numbers)
            table.add_section()
        OUT.print(table)
    if (whole := lines[-1].after).half is not None:
        say(f"±: 95 % intervals (Student's t) over episodes, {whole.count} in all")


def show_contribution(model: Model, found: Contribution) -> None:
    """Print what kinds of layers bring, and which choices bring most."""
    OUT.print(shown(f"{model.title}: points gained by weights, with a share of their channels"))
    table = Table("mean over", box=None)
    for name in ("layers", *(f"{Fraction(share)}" for share in SHARES)):
        table.add_column(name, justify="right")
    kinds = roles(Evidence(model.name, model.graph, model.layers))
    for role in Role:
        layers = [x for x, kind in zip(model.layers, kinds, strict=True) if kind is role]
        means = [mean_gain(found.overall, layers, share) for share in SHARES]
        cells = ["" if m is None else f"{100 * m:+.1f}" for m in means]
        if layers:
            table.add_row(str(role), str(len(layers)), *cells)
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
