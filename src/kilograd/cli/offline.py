"""The commands that train on a workstation, in float.  PyTorch is imported when they run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kilograd.cli.command import (
    AsJson,
    DataPath,
    Group,
    ImageSize,
    ModelName,
    command,
    with_settings,
)
from kilograd.cli.console import OUT, Table, bar, say, word
from kilograd.data import load_dataset
from kilograd.data.remarks import remark_skipped
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.interruption import goes_on
from kilograd.offline import require_torch
from kilograd.offline.folder import Finished
from kilograd.offline.settings import Metatraining, Pretraining
from kilograd.output import check_apart

if TYPE_CHECKING:
    from kilograd.offline.loop import Session

Out = Annotated[
    Path,
    typer.Option(help="Folder for the network and checkpoints; an unfinished one is continued."),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one.")]
Workers = Annotated[int, typer.Option(help="Processes that prepare images ahead.")]

app = typer.Typer()
_log = logging.getLogger(__name__)


@command(app, "pretrain", Group.OFFLINE)
@with_settings(Pretraining())
def pretrain_command(
    data: DataPath,
    out: Out,
    settings: Pretraining,
    model: ModelName = None,
    size: ImageSize = None,
    device: Device = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Train a network to classify a data set, in float; write it as an int8 model folder."""
    require_torch()
    from kilograd.offline.pretrain import pretrain

    check_apart(out, data)
    network, dataset = load_model(model, size), load_dataset(data)
    remark_skipped(dataset)
    with _session(out, device, workers) as session:
        finished = pretrain(out, network, dataset, settings, session)
    if as_json:
        print(json.dumps(asdict(finished)))
    else:
        show_finished(out, finished, "images to test on")


@command(app, "metatrain", Group.OFFLINE)
@with_settings(Metatraining())
def metatrain_command(
    data: DataPath,
    out: Out,
    settings: Metatraining,
    model: ModelName = None,
    size: ImageSize = None,
    validation: Annotated[
        Path | None, typer.Option(help="Validate with another set; default: held-out classes.")
    ] = None,
    device: Device = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Train features for few-shot tasks on episodes of a source set; write an int8 folder."""
    require_torch()
    from kilograd.offline.metatrain import metatrain

    check_apart(out, data)
    network, dataset = load_model(model, size), load_dataset(data)
    other = None if validation is None else load_dataset(validation)
    remark_skipped(dataset)
    if other is not None:
        remark_skipped(other)
    with _session(out, device, workers) as session:
        finished = metatrain(out, network, dataset, settings, other, session)
    if as_json:
        print(json.dumps(asdict(finished)))
    else:
        show_finished(out, finished, "images in validation episodes")


@contextmanager
def _session(out: Path, device: str | None, workers: int) -> Iterator[Session]:
    """Show a bar while training runs.  Ctrl-C leaves what a later run goes on with."""
    import torch

    from kilograd.offline.loop import Session

    if workers < 0:
        raise InputError(f"--workers {workers}: must not be negative")
    if device not in {None, "cpu", "cuda"}:
        raise InputError(f"--device {device}: give cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no such device here; leave the option out")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with bar("training") as progress, goes_on(out):
        yield Session(device, workers, progress, _log.warning)


def show_finished(out: Path, finished: Finished, of_what: str) -> None:
    """Print what came of training offline."""
    table = Table.grid(padding=(0, 2))
    learned = f"{finished.learned} images of {finished.classes} classes"
    history = finished.history
    table.add_row("learned from", learned)
    table.add_row("best epoch", f"{history.best} of {len(history.epochs)}")
    table.add_row("accuracy on", f"{finished.reported} {of_what}")
    for name, accuracy in (("before", finished.before), ("after", finished.after)):
        if accuracy is not None:
            both = f"{accuracy.float32:.1%} in float, {accuracy.int8:.1%} as the int8 program"
            table.add_row(f"  {name}", both)
    if finished.cosine_scale is not None:
        table.add_row("cosine scale", f"{finished.cosine_scale:.3g}")
    table.add_row("took", f"{finished.seconds:.0f} s")
    OUT.print(table)
    say(f"Written to {out}, a model folder: --model {word(out)}")
