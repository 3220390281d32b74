"""Networks: those there are, and how others are had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kilograd import api
from kilograd.cli.command import AsJson, Group, command
from kilograd.cli.console import ERR, OUT, Table, bar, say
from kilograd.cli.numbers import in_short
from kilograd.errors import InputError, flag, shown
from kilograd.frontend import PUBLISHED, available_models, load_model, model_places

app = typer.Typer()


@command(app, "models", Group.LOOK)
def models(as_json: AsJson = False) -> None:
    """List the networks that can be named, and where they were found."""
    loaded, broken = [], {}
    for found in available_models():
        try:
            loaded.append((found, load_model(str(found.path))))
        except InputError as e:
            broken[str(found.path)] = e.on_command_line()
    there = {f.name for f in available_models()}
    absent = [n for n in PUBLISHED.values() if n.name not in there]
    if as_json:
        rows = [
            {
                "name": f.name,
                "title": m.title,
                "path": str(f.path),
                "origin": f.origin,
                "input": list(m.preprocess.shape),
                "convolutions": len(m.layers),
                "macs_forward": m.graph.macs(),
                "cosine_scale": m.cosine_scale,
            }
            for f, m in loaded
        ]
        print(json.dumps({"models": rows, "broken": broken, "to_pull": [n.name for n in absent]}))
        return
    table = Table("name", "network", "input", "layers", "MACs", "found in", box=None)
    for f, m in loaded:
        size = m.preprocess.spelled
        layers, macs = str(len(m.layers)), in_short(m.graph.macs())
        table.add_row(f.name, m.title, size, layers, macs, f.origin)
    for network in absent:
        table.add_row(network.name, network.title, "", "", "", f"kilograd pull {network.name}")
    OUT.print(table)
    for reason in broken.values():
        ERR.print(shown(f"broken: {reason}"), soft_wrap=True)
    say("Searched: " + "; ".join(f"{origin} {place}" for origin, place in model_places()))


@command(app, "pull", Group.LOOK)
def pull_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"The network: {', '.join(PUBLISHED)}.",
            autocompletion=lambda: list(PUBLISHED),
        ),
    ],
    from_: Annotated[
        Path | None,
        typer.Option(
            flag("from_"), help="The file where you have it, or a folder in which it lies."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a published network from its authors, so that it can be named."""
    with bar(f"fetching {name}") as progress:
        folder = api.pull(name, from_=from_, progress=progress)
    if as_json:
        print(json.dumps({"name": name, "path": str(folder)}))
        return
    say(f"{name} lies in {folder}: give it as --model {name}. Its licence lies beside it.")
