"""Use: what was learned says what images are, and is tested on labelled ones."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Annotated

import typer
from rich.cells import set_cell_size

from kilograd import api
from kilograd.cli.command import AsJson, DataPath, Group, command
from kilograd.cli.console import bar, say
from kilograd.cli.learn import percent, show_answers
from kilograd.errors import shown
from kilograd.merging import merge
from kilograd.output import check_file, write_file
from kilograd.use import Prediction, Tested, learned_from, least_confidence, predictions

app = typer.Typer()

_WIDEST = 30
"""Characters of a class in a column."""
UNKNOWN = "unknown"
_FORMULA = ("=", "+", "-", "@")
"""How a cell begins that a spreadsheet would compute; a class may be called =HYPERLINK(...)."""

AdaptedPath = Annotated[
    Path,
    typer.Argument(help="Folder that kilograd adapt --out wrote.", metavar="ADAPTED"),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Below this confidence, in 0 ... 1, an image is unknown; default: as it was chosen "
        "when the classes were learned."
    ),
]


@command(app, "predict", Group.USE)
def predict_command(
    adapted: AdaptedPath,
    images: Annotated[
        list[Path], typer.Argument(help="Images, and folders of them.", metavar="IMAGES...")
    ],
    *,
    threshold: Threshold = None,
    out_csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a table to FILE.csv.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which of the learned classes images are of, or that they are of none."""
    if out_csv is not None:
        check_file(out_csv, ".csv", force=force, field="csv")
    learned = learned_from(adapted, images)
    least = least_confidence(learned, threshold)
    width = min(_WIDEST, max(map(len, (*learned.classes, UNKNOWN))))
    found: list[Prediction] = []
    with bar("looking") as progress:
        for one in predictions(learned, images, threshold, progress):
            if not (as_json or found):
                say(f"confidence  {'class':{width}}  image")
            found.append(one)
            if not as_json:
                show_prediction(one, width)
    if out_csv is not None:
        write_file(out_csv, as_csv(found), "csv")
    if as_json:
        rows = [asdict(one) for one in found]
        print(json.dumps({"classes": learned.classes, "threshold": least, "images": rows}))
        return
    show_counts(found, least)
    if out_csv is not None:
        say(f"Written to {out_csv}")


@command(app, "test", Group.USE)
def test_command(
    adapted: AdaptedPath,
    data: DataPath,
    *,
    threshold: Threshold = None,  # noqa: PT028 this is no test of ours
    as_json: AsJson = False,  # noqa: PT028
) -> None:
    """Compare what is said of labelled images with their labels."""
    with bar("testing") as progress:
        found = api.test(adapted, data, threshold=threshold, progress=progress)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        show_test(found)


def show_prediction(one: Prediction, width: int) -> None:
    """Print what an image is said to be."""
    label = set_cell_size(shown(one.label or UNKNOWN), width)
    say(f"{one.confidence:10.2f}  {label}  {one.image}")


def show_counts(found: Sequence[Prediction], least: float) -> None:
    """Print how many images are of which class."""
    counts = Counter(one.label for one in found if one.label is not None)
    parts = [f"{n} {name}" for name, n in counts.most_common()]
    if refused := len(found) - sum(counts.values()):
        parts.append(f"{refused} {UNKNOWN} (confidence below {least:g})")
    say(f"{len(found)} images: {', '.join(parts)}")


def as_csv(found: Sequence[Prediction]) -> str:
    """Return predictions as a table; the label of an unknown image is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f.name for f in fields(Prediction)])
    for one in found:
        writer.writerow(["" if cell is None else _cell(shown(cell)) for cell in astuple(one)])
    return text.getvalue()


def _cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: behind an apostrophe if it would."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def show_test(found: Tested) -> None:
    """Print how many images are right, which are taken for what, and what is refused."""
    share, kept = found.answers.share, found.kept
    say(f"accuracy  {percent(share)}, {share.right} of {share.tested} images")
    show_answers(found.answers)
    say(f"confidence {found.threshold:g} or more: {kept.right} of {kept.tested} images")
    for name, refused in found.strangers.items():
        say(f"not learned: {name}; {refused.right} of {refused.tested} images are {UNKNOWN}")


@command(app, "merge", Group.USE)
def merge_command(
    adapted: AdaptedPath,
    *,
    into: Annotated[Path, typer.Option(help="The file that the network was imported from.")],
    out: Annotated[
        Path,
        typer.Option(help="File to write: of the same format; of PyTorch .safetensors or .pt."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Samples of the classes: how far int8 logits reach, and if file and device agree."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write what was learned into a copy of the file that the network is from."""
    merged = merge(adapted, into, out, data, force=force)
    if as_json:
        print(json.dumps({**asdict(merged), "path": str(merged.path)}))
        return
    layers = "1 layer" if len(merged.layers) == 1 else f"{len(merged.layers)} layers"
    say(f"new numbers in {layers}, of {len(merged.classes)} classes:")
    say(f"  {', '.join(merged.layers)}")
    if merged.agreement is not None:
        same, count = merged.agreement
        say(f"{same} of {count} samples get the class that the device gives")
    say(f"Written to {out}")
