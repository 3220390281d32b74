"""Tune: the rate, optimiser and passes that suit each method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from kilograd import tuning
from kilograd.cli.command import AsJson, Group, ImageSize, ModelName, command, with_settings
from kilograd.cli.console import OUT, Table, bar, say
from kilograd.cli.study import Jobs, Ray, split_names
from kilograd.errors import as_typed
from kilograd.report.tuning import HEADER, row
from kilograd.settings import Settings, split_methods
from kilograd.study.space import Tunable
from kilograd.study.trials import evaluated

app = typer.Typer()


@command(app, "tune", Group.STUDY)
@with_settings(Settings(), without=("method", "test_each_pass"), unset=True)
def tune_command(
    data: Annotated[
        str, typer.Option(help="Folders or Parquet files to tune on, with commas between.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the results; an unfinished one is continued.")
    ],
    settings: dict[str, Any],
    model: ModelName = None,
    size: ImageSize = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Methods, with commas between, as for evaluate; default: last."),
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(
            help=f"What is tuned, of {', '.join(Tunable)}, with bounds if need be: "
            "lr=0.0001:0.1,optimizer=sgd:adam,iterations=5:40; default: lr,optimizer."
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help=f"Trials of each method; default: {tuning.TRIALS}.")
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            help="Tasks of each data set that a trial learns; default: 10, or 1 of all images."
        ),
    ] = None,
    jobs: Jobs = 1,
    ray: Ray = None,
    as_json: AsJson = False,
) -> None:
    """Tune rate, optimiser, passes and warm-up of each method; interrupted, it goes on later."""
    with bar("tuning") as progress:
        found = tuning.tune(
            split_names(data),
            out,
            model,
            None if methods is None else split_methods(methods),
            None if over is None else split_names(over),
            trials,
            episodes,
            size=size,
            jobs=jobs,
            ray=ray,
            progress=progress,
            **settings,
        )
    if as_json:
        print(json.dumps(found.to_json()))
        return
    table = Table(HEADER[0], HEADER[1], box=None)
    for name in HEADER[2:]:
        table.add_column(name, justify="right")
    for each in found.tuned:
        table.add_row(*row(each))
    OUT.print(table)
    for remark in found.remarks:
        say(as_typed(remark))
    say(found.seen)
    say(f"Written to {out}: tuning.sqlite, tuning.json, table.md, tuning.html")
    say("Use what was found:")
    say(f"  kilograd evaluate {evaluated(found.tuned)} ...")
    for each in found.tuned:
        say(f"  kilograd adapt {each.adapted} ...")
