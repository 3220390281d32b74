"""The demo fits the terminal that there is, and shows what was right, mended and wrong."""

from __future__ import annotations

import functools
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import Run
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

import kilograd
from kilograd import Outcome, api
from kilograd.cli import demo
from kilograd.cli.console import Table
from kilograd.cli.drawing import clearness, curve, tile
from kilograd.learn.answers import Answers

KEYS = {"accuracy_before", "accuracy_after", "ways", "shots", "sram_bytes", "seconds"}
NEXT = ["  kilograd pictures --out photos", "  kilograd adapt photos --out learned"]


def console(width: int, *, terminal: bool = False, no_color: bool = False) -> Console:
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), "utf-8"),
        width=width,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        no_color=no_color,
        markup=False,
        highlight=False,
    )


def shown(to: Console) -> str:
    to.file.flush()
    buffer = to.file.buffer  # type: ignore[attr-defined]
    text: str = buffer.getvalue().decode()
    return text


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "photos"
    kilograd.pictures(folder, each=4)
    return folder


@pytest.fixture(scope="module")
def outcome(photos: Path) -> Outcome:
    return kilograd.adapt(photos, "digits", method="last", iterations=3)


def demonstrated(photos: Path, outcome: Outcome, to: Console) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "OUT", to)
        demo.show_learned(outcome)
        demo.show_pictures(photos, outcome)
        demo.show_next()
    return shown(to)


@pytest.mark.parametrize("width", [40, 44, 50, 80, 200])
def test_plain_text_where_it_is_no_terminal(photos: Path, outcome: Outcome, width: int) -> None:
    text = demonstrated(photos, outcome, console(width))
    assert text.isascii()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line.startswith("  kilograd")] == NEXT
    for word in ("before", "after", "loss", "RAM", "learned"):
        assert any(line.startswith(f" {word} ") for line in lines), word


@pytest.mark.parametrize("width", [40, 50, 80])
def test_colours_where_a_terminal_has_them(photos: Path, outcome: Outcome, width: int) -> None:
    text = demonstrated(photos, outcome, console(width, terminal=True))
    assert "\x1b[38;2;" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "▀▀▀▀▀▀▀▀▀▀" in plain
    assert max(map(cell_len, plain.splitlines())) <= width


def test_no_colours_where_nobody_wants_them(photos: Path, outcome: Outcome) -> None:
    text = demonstrated(photos, outcome, console(80, terminal=True, no_color=True))
    assert "▀" not in text
    assert not re.search(r"\x1b\[[0-9;]*[34]8;", text)
    assert re.search(r"loss +[▁▂▃▄▅▆▇█]", text)


def answered(outcome: Outcome, *said: tuple[int, int, int]) -> Outcome:
    """Return an outcome with other answers: the class, and what was said before and after."""
    labels, before, after = zip(*said, strict=True)
    found = outcome.tested
    images = tuple(f"{found.classes[i]}/{found.classes[i]}-001.png" for i in labels)

    def make(answers: tuple[int, ...]) -> Answers:
        return Answers(found.classes, images, labels, answers)

    return replace(outcome, before=make(before), tested=make(after))


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ([(0, 0, 0), (1, 0, 1), (2, 2, 2), (3, 3, 1)], ["right", "mended", "wrong"]),
        ([(0, 0, 0), (1, 0, 1)], ["right", "mended"]),
        ([(0, 1, 1), (1, 1, 0)], ["wrong"]),
    ],
)
def test_one_of_each_kind_is_drawn(
    photos: Path, outcome: Outcome, said: list[tuple[int, int, int]], kinds: list[str]
) -> None:
    chosen = list(demo._chosen(photos, answered(outcome, *said)))
    assert [c.kind for c in chosen] == kinds
    assert len({c.label for c in chosen}) == len(chosen)


def test_what_was_said_of_a_picture(photos: Path, outcome: Outcome) -> None:
    text = demonstrated(photos, answered(outcome, (0, 2, 0), (1, 1, 3)), console(80))
    for line in ("  before: duck", "  after: boat", "  before: car", "  after: fish, wrong"):
        assert line in text


def test_the_way_to_the_command_is_shown_where_it_is_needed(
    photos: Path, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "\n  . .venv/bin/activate\n" in demonstrated(photos, outcome, console(80))
    command = tmp_path / "kilograd"
    command.touch(0o755)
    assert "activate" not in demonstrated(photos, outcome, console(80))


def test_in_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "NETWORK", "digits")
    monkeypatch.setattr(api, "pictures", functools.partial(api.pictures, each=4))
    result = run("demo", "--json").json
    assert result.keys() >= KEYS
    assert result["ways"] == 6


# ---- characters ----


def test_nothing_of_a_table_is_cut_off() -> None:
    to = console(40)
    table = Table("name", "maker", "core", box=None)
    table.add_column("network")
    name, core = "stm32f746-disco", "cortex-m7-with-a-long-name"
    table.add_row(name, "STMicroelectronics", core, "Handwritten digits")
    to.print(table)
    lines = shown(to).splitlines()
    assert max(map(len, lines)) <= 40
    assert any(line.startswith(f" {name} ") for line in lines)
    cells = ("name", "maker", "core", "network", name, "STMicroelectronics", core)
    assert sorted("".join("".join(lines).split())) == sorted("".join((*cells, "Handwrittendigits")))


def test_a_curve() -> None:
    falling = np.linspace(3, 1, 40).tolist()
    plain, blocks = (curve(falling, 8, console(80, terminal=t)) for t in (False, True))
    assert (plain, blocks) == ("@%*+=-. ", "█▇▆▅▄▃▂▁")
    assert len(curve([1.0, 0.5], 8, console(80))) == 2
    assert curve([1.0, 1.0, 1.0], 8, console(80)).strip() == ""


def test_a_picture_in_characters() -> None:
    image = Image.new("L", (96, 96))
    image.paste(255, (48, 0, 96, 96))
    assert [line.plain for line in tile(image, 4, console(80))] == ["  @@", "  @@"]


def test_a_picture_in_colours() -> None:
    rows = np.zeros((2, 1, 3), np.uint8)
    rows[0], rows[1] = (255, 0, 0), (0, 0, 255)
    image = Image.fromarray(rows.repeat(48, 0).repeat(96, 1))
    to = console(80, terminal=True)
    lines = tile(image, 2, to)
    to.print(*lines)
    assert [line.plain for line in lines] == ["▀▀"]
    assert "\x1b[38;2;255;0;0;48;2;0;0;255m▀" in shown(to)


def test_large_shapes_are_clearer_than_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    halves = np.repeat(np.array([0, 255], np.uint8), 48)[None].repeat(96, 0)
    assert clearness(Image.fromarray(halves)) > 2 * clearness(Image.fromarray(noise))
