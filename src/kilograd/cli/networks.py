"""Networks: those there are, and how others are had."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kilograd import api
from kilograd.checking import Checked, check
from kilograd.cli.command import AsJson, Group, command, with_settings
from kilograd.cli.console import ERR, OUT, Table, bar, say, word
from kilograd.cli.layers import (
    doubt_pixels,
    lines,
    show_checked,
    show_codes,
    show_layers,
    show_model,
    show_report,
    taken,
)
from kilograd.cli.numbers import in_short
from kilograd.errors import InputError, flag, shown
from kilograd.frontend import (
    PUBLISHED,
    Model,
    available_models,
    load_model,
    load_sizes,
    model_places,
)
from kilograd.importing import Importing, import_file, quantise_file, save_imported
from kilograd.names import spelled
from kilograd.output import check_apart, check_out

app = typer.Typer()


class _Action(enum.StrEnum):
    SHOW = "show"


@command(app, "models", Group.LOOK)
def models(
    action: Annotated[
        _Action | None, typer.Argument(help="show: the layers of one.", metavar="[show]")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="Its name, folder or file.", metavar="[NAME]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks that can be named; or show the layers of one, and which can learn."""
    if action is None:
        _list(as_json=as_json)
        return
    if name is None:
        raise InputError("models show: which one? kilograd models lists them")
    model = load_sizes(name)
    if as_json:
        print(json.dumps(_described(model)))
    else:
        show_layers(model)


def _described(model: Model) -> dict[str, object]:
    return {
        "name": model.name,
        "title": model.title,
        "input": list(model.preprocess.shape),
        "takes": taken(model),
        "features": model.graph.outputs[0].type.shape[2],
        "macs_forward": model.graph.macs(),
        "layers": [line.to_json() for line in lines(model)],
    }


def _list(*, as_json: bool) -> None:
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


@command(app, "import", Group.LOOK)
@with_settings(Importing())
def import_command(
    file: Annotated[
        Path, typer.Argument(help="A network: .tflite, .onnx or .pt2.", metavar="FILE")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the network.")],
    settings: Importing,
    data: Annotated[
        Path | None,
        typer.Option(help="Samples of what a float network is for; labels do not matter."),
    ] = None,
    with_check: Annotated[
        bool, typer.Option("--check", help="Compare each layer with the runtime of the file.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a network of TensorFlow Lite, ONNX or PyTorch in; write it as a model folder."""
    check_out(out, "graph.json", "*.safetensors", force=force)
    if data is not None:
        check_apart(out, data)
    name = spelled(out.resolve().name, ())
    found = import_file(file, data, settings, name)
    save_imported(found, out)
    checked = _checked(file, out) if with_check else None
    if as_json:
        report = None if found.report is None else asdict(found.report)
        print(
            json.dumps(
                {
                    "path": str(out),
                    **_described(found.model),
                    "quantised": report,
                    "checked": None if checked is None else asdict(checked),
                }
            )
        )
        return
    show_model(found.model)
    if found.report is not None:
        show_report(found.report)
        doubt_pixels(found.model)
    if checked is not None:
        show_checked(checked)
    say(f"Written to {out}, a model folder: --model {word(out)}")


def _checked(file: Path, out: Path) -> Checked:
    try:
        return check(file)
    except InputError as e:
        raise InputError(f"{e}; the network itself is written to {out}") from e


@command(app, "quantize", Group.LOOK)
@with_settings(Importing())
def quantize_command(
    file: Annotated[
        Path,
        typer.Argument(help="A network of reals: .tflite, .onnx or .pt2.", metavar="FILE"),
    ],
    data: Annotated[
        Path, typer.Option(help="Samples of what it is for; their labels do not matter.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the network.")],
    settings: Importing,
    test: Annotated[
        Path | None,
        typer.Option(help="Samples with labels: how many are right in float, and in int8."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a float network int8 codes, and say what each layer loses by them."""
    check_out(out, "graph.json", "*.safetensors", force=force)
    for folder in (data, test):
        if folder is not None:
            check_apart(out, folder)
    found = quantise_file(file, data, test, settings, spelled(out.resolve().name, ()))
    assert found.report is not None  # noqa: S101
    save_imported(found, out)
    if as_json:
        right = None if found.accuracy is None else asdict(found.accuracy)
        report = {"report": asdict(found.report), "accuracy": right}
        print(json.dumps({"path": str(out), **_described(found.model), **report}))
        return
    show_codes(found.report, found.accuracy)
    say(f"Written to {out}, a model folder: --model {word(out)}")


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
