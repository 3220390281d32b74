"""How a function becomes a command: its group, options of records, and how much it says."""

from __future__ import annotations

import enum
import functools
import inspect
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from kilograd.boards import BOARDS
from kilograd.cli.console import speak
from kilograd.data import Draw
from kilograd.errors import InputError, as_typed, flag
from kilograd.frontend import USUAL_MODELS, available_models
from kilograd.options import Leaf, changed, leaves, values
from kilograd.select import METHODS
from kilograd.settings import Limits, Recipe, Schedule, Settings


class Group(enum.StrEnum):
    """What a person wants of a command."""

    LEARN = "Learn"
    USE = "Use what was learned"
    LOOK = "Look"
    DEVICE = "Device"
    STUDY = "Study many tasks"
    OFFLINE = "Train offline, in float"


#: The options that matter first stand above the panels.
_FIRST = ("method", "sram", "ways", "shots")
_PANELS = {
    Draw: "Episode",
    Recipe: "Program",
    Limits: "Limits",
    Schedule: "Training",
    Settings: "Training",
}

Command = Callable[..., None]

_USUAL = ", ".join(USUAL_MODELS)

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help=f"Name of a network, or its folder; default: the first there is of {_USUAL}.",
        autocompletion=lambda: [found.name for found in available_models()],
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--size",
        help="Side of the images in pixels, or HEIGHTxWIDTH; default: as the network says.",
    ),
]
BoardName = Annotated[
    str | None,
    typer.Option(
        "--board",
        help="Board that the program must fit, with its processor and memory; kilograd boards "
        "lists them.",
        autocompletion=lambda: [board.name for board in BOARDS],
    ),
]
AdaptedOption = Annotated[
    Path | None,
    typer.Option(
        "--adapted", help="Start with what was learned: the folder that kilograd adapt --out wrote."
    ),
]
DataPath = Annotated[
    Path,
    typer.Argument(help="Folder of class folders, or a Parquet file.", metavar="DATA"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
_Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say what is done, and how long it takes.")
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say the result and errors only.")]


def command(app: typer.Typer, name: str, group: Group) -> Callable[[Command], Command]:
    """Add a function to an app as a command, with options for how much it says."""

    def add(function: Command) -> Command:
        own = inspect.signature(function, eval_str=True).parameters.values()
        more = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            for n, kind in (("verbose", _Verbose), ("quiet", _Quiet))
        ]

        def run(*, verbose: bool, quiet: bool, **given: Any) -> None:  # noqa: ANN401
            speak(_level(verbose=verbose, quiet=quiet, as_json=given.get("as_json", False)))
            function(**given)

        named = _with_signature(run, function, [*own, *more])
        app.command(name, rich_help_panel=group)(named)
        return function

    return add


def _level(*, verbose: bool, quiet: bool, as_json: bool) -> int:
    if verbose and quiet:
        raise InputError("--verbose: and --quiet say opposite things; leave one away")
    if verbose:
        return logging.DEBUG
    if quiet:
        return logging.ERROR
    return logging.WARNING if as_json else logging.INFO


def with_settings(
    usual: object,
    without: Collection[str] = (),
    *,
    unset: bool = False,
    chosen: Collection[str] = (),
) -> Callable[[Command], Command]:
    """Give a command the options of a record as its own, in place of `settings`.

    `usual` is the record with the defaults.  Options that the command has itself, and those in
    `without`, are left to it.  With `unset` it gets what was given, by name, and not a record:
    the defaults then are its own affair; those that are `chosen` have none.
    """

    def spread(function: Command) -> Command:
        own = inspect.signature(function, eval_str=True).parameters
        defaults = values(usual)
        spread = {
            leaf.name: _parameter(
                leaf, "chosen" if leaf.name in chosen else defaults[leaf.name], unset=unset
            )
            for leaf in sorted(leaves(type(usual)), key=_place)
            if leaf.name not in own and leaf.name not in without
        }
        parameters = [
            p
            for name, q in own.items()
            for p in (
                spread.values()
                if name == "settings"
                else (q.replace(kind=inspect.Parameter.KEYWORD_ONLY),)
            )
        ]

        def run(**given: Any) -> None:  # noqa: ANN401
            chosen = {name: given.pop(name) for name in spread}
            chosen = {name: value for name, value in chosen.items() if value is not None}
            function(settings=chosen if unset else changed(usual, chosen), **given)

        return _with_signature(run, function, parameters)

    return spread


def _place(leaf: Leaf) -> int:
    return _FIRST.index(leaf.name) if leaf.name in _FIRST else len(_FIRST)


def _with_signature(
    run: Command, function: Command, parameters: list[inspect.Parameter]
) -> Command:
    named = functools.wraps(function)(run)
    named.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    named.__annotations__ = {p.name: p.annotation for p in parameters}
    return named


def _choices() -> list[str]:
    """Return the methods that have no number in their names."""
    return [m for m in METHODS if m == m.lower() and " " not in m]


def _flags(leaf: Leaf) -> str:
    """Return how an option is typed; one that is on by default can be turned off."""
    name = flag(leaf.name)
    return f"{name}/--no-{name.removeprefix('--')}" if leaf.default is True else name


def _parameter(leaf: Leaf, default: object, *, unset: bool) -> inspect.Parameter:
    """Return a field as a parameter of a command, as typer reads it."""
    text = as_typed(leaf.about.help)
    if unset and default is not None and not isinstance(default, bool):
        text = f"{text.removesuffix('.')}; default: {default}."
    about = typer.Option(
        _flags(leaf),
        help=text,
        autocompletion=_choices if leaf.name == "method" else None,
        rich_help_panel=None if leaf.name in _FIRST else _PANELS.get(leaf.group, "Training"),
    )
    kind = leaf.kind
    if str in get_args(kind):  # a size: 256K, or a number of bytes
        kind = str | None
    if unset:
        kind |= None
    return inspect.Parameter(
        leaf.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if unset else default,
        annotation=Annotated[kind, about],
    )
