"""Strategies that live outside of Kilograd: files that the user names, and other packages."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from folders import write_model
from helpers import Run

from kilograd.boards import BOARDS
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.learn import on_board
from kilograd.learn.recipe import compile_recipe
from kilograd.passes import Part
from kilograd.select import Budget, Evidence, Selection, bias, outside, strategy, weight
from kilograd.settings import Recipe

GOOD = """
from dataclasses import dataclass

from kilograd.select import Selection, weight
from kilograd.select.selection import filters

@dataclass
class Kept:
    count: int

def two_filters(evidence, budget):
    layer = evidence.layers[-1]
    return Selection({weight(layer): filters(evidence, layer, range(Kept(2).count))})

def _hidden(evidence, budget): ...
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small")))


def select(model: Model, method: object) -> Selection:
    return strategy(str(method))(Evidence(model.name, model.graph, model.layers), Budget())


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "my.py"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_function_of_a_file_chooses(small: Model, tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    assert select(small, f"{file}:two_filters") == Selection({weight("b1.pw2"): Part(0, (0, 1))})


def test_on_the_command_line(run: Run, small: Model, tmp_path: Path) -> None:
    method = f"{write(tmp_path, GOOD)}:two_filters"
    words = ("--model", small.path, "--json")
    found = run("plan", *words, "--method", method).json
    assert found["sram_bytes"] < run("plan", *words, "--method", "last").json["sram_bytes"]


def test_the_file_is_run_once(small: Model, tmp_path: Path) -> None:
    count = tmp_path / "count"
    file = write(tmp_path, f"with open({str(count)!r}, 'a') as f: f.write('x')\n{GOOD}")
    for _ in range(3):
        select(small, f"{file}:two_filters")
    assert count.read_text() == "x"


BAD: dict[str, tuple[str, str, str]] = {
    "no name": ("", GOOD, r"names no function of .*my\.py; give .*my\.py:NAME, .* of two_filters$"),
    "another name": (":three", GOOD, r"names no function of .* is one of two_filters$"),
    "no function": (":x", "x = 3", r"its functions \(there are none\)$"),
    "no Python": (":f", "def f(:", r"failed with SyntaxError: .*line 1"),
    "raises": (":f", "\n1 / 0", r"failed with ZeroDivisionError: division by zero \(line 2\)$"),
    "ends": (":f", "raise SystemExit(0)", r"failed with SystemExit: 0"),
    "imports what is not there": (":f", "import nowhere", r"ModuleNotFoundError: No module named"),
    "signature": (":f", "def f(a): ...", r"is no strategy, which takes \(evidence, budget\); "),
    "keywords": (":f", "def f(*, a): ...", r"is no strategy, which takes \(evidence, budget\); "),
    "later": (":f", "def f(e, b):\n    return e.layers[99]", r"IndexError: .* \(line 2\)$"),
    "none": (":f", "def f(e, b): ...", r"returned NoneType; a strategy returns a kilograd\.select"),
    "a class": (":f", "class f:\n  def __init__(self, e, b): ...", "returned f; a strategy ret"),
    "nonsense": (
        ":f",
        "from kilograd.select import Selection\ndef f(e, b): return Selection({'a': 3})",
        r"chose 'a', which is no parameter of small; use weight\(layer\) and bias\(layer\)",
    ),
    "a list": (
        ":f",
        "from kilograd.select import *\ndef f(e, b): return Selection([1])",
        "chose list; a Selection maps parameters to parts",
    ),
    "another layer": (
        ":f",
        "from kilograd.select import *\ndef f(e, b): return Selection({weight('z'): None})",
        r"chose 'z\.weight', which is no parameter of small",
    ),
    "no part": (
        ":f",
        "from kilograd.select import *\ndef f(e, b): return Selection({weight(e.layers[0]): [1]})",
        r"stem\.weight learns list; give a Part",
    ),
    "channels": (
        ":f",
        """from kilograd.select import *; from kilograd.passes import Part
def f(e, b): return Selection({weight(e.layers[0]): Part(0, (1, 999))})""",
        r"stem\.weight: index 999: axis 0 has the channels 0\.\.7",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_no_strategy(what: str, small: Model, tmp_path: Path) -> None:
    name, text, message = BAD[what]
    file = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        select(small, f"{file}{name}")
    assert str(caught.value).startswith(f"method {file}{name}: ")


def test_no_file(run: Run, small: Model, tmp_path: Path) -> None:
    for name in ("absent.py:f", "absent.py"):
        error = run("plan", "--model", small.path, "--method", tmp_path / name).error
        assert "No such file" in error
    (tmp_path / "folder.py").mkdir()
    error = run("plan", "--model", small.path, "--method", tmp_path / "folder.py:f").error
    assert "failed with IsADirectoryError" in error


def test_what_it_says_of_bad_input_stays(small: Model, tmp_path: Path) -> None:
    text = "from kilograd import InputError\ndef f(e, b): raise InputError('too small')"
    with pytest.raises(InputError, match=r"^too small$"):
        select(small, f"{write(tmp_path, text)}:f")


def biases(evidence: Evidence, budget: Budget) -> Selection:
    return Selection({bias(evidence.layers[-1]): Part()})


def test_a_strategy_of_a_package(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("theirs", f"{__name__}:biases", outside.GROUP),
        EntryPoint("gone", "nowhere:f", outside.GROUP),
        EntryPoint("last", "nowhere:f", outside.GROUP),
    ]
    monkeypatch.setattr(outside, "entry_points", lambda group: points)
    assert select(small, "theirs") == Selection({bias("b1.pw2"): Part()})
    assert select(small, "last") == Selection({weight("b1.pw2"): Part()}), "ours, and not loaded"
    with pytest.raises(InputError, match="method gone: failed with ModuleNotFoundError"):
        select(small, "gone")
    with pytest.raises(InputError, match=r"method 'their': unknown; .*FILE\.py:NAME, theirs, gone"):
        select(small, "their")


def test_a_method_that_is_stored_is_not_run(
    small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kilograd export --adapted FOLDER --board BOARD` looks for what fits."""
    trap = write(tmp_path, f"with open({str(tmp_path / 'owned')!r}, 'w'): pass\n{GOOD}")
    compiled = compile_recipe(small, Recipe("full", 4), Budget())
    compiled = replace(compiled, recipe=replace(compiled.recipe, method=f"{trap}:two_filters"))
    monkeypatch.setattr(on_board, "most_without_stack", lambda board: 1000)
    with pytest.raises(InputError, match="bytes of RAM"):
        on_board.check_ram(compiled, BOARDS[0])
    assert not (tmp_path / "owned").exists()


def test_a_plan_file_runs_nothing(small: Model, tmp_path: Path) -> None:
    """A file names parameters only: what looks like a method is none."""
    trap = write(tmp_path, f"open({str(tmp_path / 'owned')!r}, 'w')")
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps({"network": f"{trap}:f", "learn": {f"{trap}:f": "all"}, "head": True})
    )
    with pytest.raises(InputError):
        select(small, plan)
    assert not (tmp_path / "owned").exists()
