"""The demo: something new is learned in a minute, and shown on whatever terminal there is."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.text import Text

from kilograd import api
from kilograd.cli.command import AsJson, Group, command
from kilograd.cli.console import OUT, Table, bar
from kilograd.cli.drawing import clearness, curve, tile
from kilograd.cli.numbers import kib
from kilograd.learn.adapt import Outcome
from kilograd.learn.answers import Share

app = typer.Typer()

NETWORK = "pocket"
_RAM = "64K"


@command(app, "demo", Group.LEARN)
def demo(
    seed: Annotated[int, typer.Option(help="Other pictures, but the same each time.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Learn six toys that the bundled network has never seen, in 64 KB of memory."""
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        api.pictures(photos, seed=seed)
        with bar("learning") as progress:
            outcome = api.adapt(photos, NETWORK, seed=seed, sram=_RAM, progress=progress)
        if as_json:
            print(json.dumps(asdict(outcome.summary)))
            return
        show_learned(outcome)
        show_pictures(photos, outcome)
        show_next()


def show_learned(outcome: Outcome) -> None:
    """Print what was learned, in lines that wrap on a narrow terminal."""
    s = outcome.summary
    classes = ", ".join(outcome.tested.classes)
    OUT.print(
        f"A small network learns {s.ways} things that it has never seen: {classes}. It gets "
        f"{s.shots} pictures of each, and is tested on {s.queries} others.\n"
    )
    passes = _by_pass(outcome)
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    loss = f"{curve(passes, 16, OUT)}  {passes[0]:.2f} to {passes[-1]:.2f}"
    for name, value in (
        ("before", _right(outcome.before.share)),
        ("after", Text(_right(outcome.tested.share), "bold")),
        ("loss", loss),
        ("RAM", f"{kib(s.sram_bytes)} without stack"),
        ("learned", f"{s.learned_parameters:,} weights in {s.seconds:.1f} s"),
    ):
        table.add_row(name, value)
    OUT.print(table)


def _right(share: Share) -> str:
    return f"{share.right} of {share.tested} right, {100 * share.accuracy:.1f} %"


def _by_pass(outcome: Outcome) -> Sequence[float]:
    """Return the mean loss of each pass over the pictures."""
    passes = np.array_split(outcome.losses, outcome.summary.iterations)
    return [float(losses.mean()) for losses in passes]


@dataclass(frozen=True)
class _Shown:
    """A picture of the test, and what was said of it."""

    image: Image.Image
    label: str
    before: str
    after: str

    @property
    def kind(self) -> str:
        if self.after != self.label:
            return "wrong"
        return "right" if self.before == self.label else "mended"

    @property
    def said(self) -> tuple[str, ...]:
        wrong = ", wrong" if self.kind == "wrong" else ""
        return (self.label, f"  before: {self.before}", f"  after: {self.after}{wrong}")


def show_pictures(photos: Path, outcome: Outcome) -> None:
    """Draw three pictures of the test: one that was always right, one mended, one wrong."""
    columns = 24 if OUT.width >= 76 else 20
    shown = list(_chosen(photos, outcome))
    beside = max(1, (OUT.width + 2) // (columns + 2))
    for i in range(0, len(shown), beside):
        OUT.print()
        tiles = [
            [*tile(s.image, columns, OUT), *(Text(line) for line in s.said)]
            for s in shown[i : i + beside]
        ]
        for cells in zip(*tiles, strict=True):
            for cell in cells:
                cell.pad_right(columns - cell.cell_len)
            line = Text("  ").join(cells)
            line.rstrip()
            OUT.print(line, no_wrap=True, crop=False)


def _chosen(photos: Path, outcome: Outcome) -> Iterator[_Shown]:
    """Yield the clearest picture of each kind, of another class each time where there is one."""
    before, after = outcome.before, outcome.tested
    shown = [
        _Shown(Image.open(photos / name), *(after.classes[i] for i in said))
        for name, *said in zip(after.images, after.labels, before.said, after.said, strict=True)
    ]
    seen: set[str] = set()
    for kind in ("right", "mended", "wrong"):
        those = [s for s in shown if s.kind == kind]
        if fresh := [s for s in those if s.label not in seen] or those:
            best = max(fresh, key=lambda s: clearness(s.image))
            seen.add(best.label)
            yield best


def show_next() -> None:
    """Print what to type next."""
    OUT.print("\nGo on with pictures, and then with your own:")
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("kilograd") is None and activate.is_file():
        OUT.print(f"  . {os.path.relpath(activate)}", soft_wrap=True)
    OUT.print("  kilograd pictures --out photos", soft_wrap=True)
    OUT.print("  kilograd adapt photos --out learned", soft_wrap=True)
