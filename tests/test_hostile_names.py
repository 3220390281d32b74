"""Names of others, through whole commands: refused in one line, or only where text may be."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_class, write_model
from helpers import Done, Run, gcc, needs_gcc

from kilograd.targets.toolchain import runtime_folder

HOSTILE = [
    '*/ system("touch PWNED"); /*',
    "sum */ int x = 1; /*",
    '"; } int main(void) { return 7; } //',
    "a\\\nb",
    "what??/\nb",
    "$(touch PWNED)",
    "`touch PWNED`",
    "../../PWNED",
    "--force",
    "%s%n{0}{__class__}",
    "</title><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "[red]bold[/red]",
    "a|b|`c`",
    "\x1b]0;PWNED\x07\x1b[2J",
    "line\rend",
    "\u202egnp.exe\u2066",
    "nul\x00",
    "\ud800",
    "int",
    "model_init",
    "MODEL_H",
    "kg_conv",
    "head.prototypes",
    "label",
    "loss",
    "stem.weight",
    "n" * 10_000,
    "",
    " ",
]
hostile = pytest.mark.parametrize("name", HOSTILE, ids=lambda n: ascii(n)[:24])
#: A few that identifiers or labels may be, but that would hurt where text is taken for code.
ALLOWED = [n for n in HOSTILE if n.isprintable() and 0 < len(n) < 200 and n.strip() == n]


def check_said(done: Done) -> Done:
    """Assert that a command ended well or in one line, and said what a terminal can show."""
    assert done.code in {0, 2}, done
    assert done.code == 0 or done.error
    for c in done.out + done.err:
        assert c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}, ascii(c)
    return done


class _Tags(HTMLParser):
    """What a browser would take a page for."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def check_page(file: Path) -> None:
    """Assert that nothing in a page runs, and that what cannot be seen is not there."""
    text = file.read_text("utf-8")
    found = _Tags()
    found.feed(text)
    assert not {"script", "img", "iframe", "a", "link", "object"} & found.tags
    assert not [a for a in found.attributes if a.startswith("on") or a in {"src", "href"}]
    assert not [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf"}]


def check_readme(file: Path) -> None:
    """Assert that the title of a network means nothing in the README of a project."""
    text = file.read_text("utf-8")
    (title,) = re.findall(r"from the network `[^`]*`\s\((.*)\)$", text, re.MULTILINE)
    assert "PWNED" not in text.replace(title, "")
    assert not set(re.sub(r"\\[!-/:-@\[-`{-~]", "", title)) & set("`*_[]<>|&~$#:@\\")
    assert not [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf"}]


Change = Callable[[dict[str, Any], str], object]


def _operator(graph: dict[str, Any], name: str) -> None:
    graph["ops"][2]["name"] = name


def _activation(graph: dict[str, Any], name: str) -> None:
    old, graph["ops"][2]["output"] = graph["ops"][2]["output"], name
    for op in graph["ops"]:
        op["inputs"] = [name if x == old else x for x in op["inputs"]]


PLACES: dict[str, Change] = {
    "operator": _operator,
    "activation": _activation,
    "network": lambda graph, name: graph.update(name=name),
    "title": lambda graph, name: graph.update(title=name),
    "class it was trained on": lambda graph, name: graph.update(
        provenance={"training_classes": [name, "red"]}
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _photos(tmp_path_factory.mktemp("data") / "colours", ("red", "green", "blue"))


def _photos(root: Path, names: tuple[str, ...]) -> Path:
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        write_class(root / name, rng, (90 * i, 220 - 90 * i, 40), 4)
    return root


@hostile
@pytest.mark.parametrize("place", PLACES)
def test_names_in_a_network(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photos: Path,
    place: str,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "tiny")
    graph = json.loads((model / "graph.json").read_text("utf-8"))
    PLACES[place](graph, name)
    (model / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    task = ("--ways", 3, "--shots", 2, "--queries", 2, "--iterations", 1)
    on = ("--model", model, "--method", "tinytrain", "--sram", "64K")
    adapted = run("adapt", photos, *on, *task, "--explain", "--out", "out")
    check_said(adapted)
    fixed = ("--model", model, "--method", "last:4")
    assert check_said(run("plan", *fixed, "--out", "map.html")).code == adapted.code
    assert check_said(run("export", *fixed, "--out", "project")).code == adapted.code
    if adapted.code == 0:
        check_page(tmp_path / "out" / "selection.html")
        check_page(tmp_path / "map.html")
        written = {p.name for p in tmp_path.iterdir()}
        assert written == {"tiny", "out", "map.html", "project"}
        for file in (p for p in (tmp_path / "project").iterdir() if p.is_file()):
            if file.name not in {"README.md", "NOTICE", "model.json"}:
                text = file.read_text("utf-8")
                assert text.isascii(), file
                assert "PWNED" not in text, file
        check_readme(tmp_path / "project" / "README.md")
        notice = (tmp_path / "project" / "NOTICE").read_text("utf-8")
        assert f"\n  {graph['title']}\n" in notice
        json.loads((tmp_path / "project" / "model.json").read_text("ascii"))
    else:
        assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


@needs_gcc
def test_a_project_of_a_network_with_a_hostile_title_compiles(run: Run, tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny")
    graph = json.loads((model / "graph.json").read_text("utf-8"))
    graph["title"] = HOSTILE[0]
    (model / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    project = tmp_path / "project"
    assert run("export", "--model", model, "--method", "last:2", "--out", project).code == 0
    strict = gcc("-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    include = f"-I{runtime_folder() / 'include'}"
    strict.compile(project, include, "-I.", "-c", "model.c", "-o", "model.o")


@pytest.mark.parametrize("name", ["int", "kg_conv", "model_init"])
def test_a_network_with_names_of_c_runs_as_firmware(run: Run, tmp_path: Path, name: str) -> None:
    model = write_model(tmp_path / "tiny")
    graph = json.loads((model / "graph.json").read_text("utf-8"))
    _operator(graph, name)
    (model / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    words = ("--model", model, "--method", "last:4", "--steps", 1, "--json")
    assert run("run", *words).json["bit_exact"]


@pytest.mark.parametrize("name", [n for n in HOSTILE if n and "/" not in n and "\x00" not in n])
def test_names_of_classes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Folders are named by whoever packed the archive."""
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "tiny")
    try:
        data = _photos(tmp_path / "data", ("red", "green", name))
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes no such name")
    task = ("--ways", 3, "--shots", 2, "--queries", 2, "--iterations", 1)
    done = run("adapt", data, "--model", model, "--method", "last:2", *task, "--out", "out")
    check_said(done)
    code = done.code
    exported = ("export", "--adapted", "out", "--out", tmp_path / "out" / "project")
    for words in (("predict", "out", data), ("test", "out", data), exported):
        assert check_said(run(*words)).code == code
    written = {p.name for p in tmp_path.iterdir()}
    assert written == {"tiny", "data"} | (set() if code else {"out"})
    if code == 0:
        assert name in json.loads(Path("out", "episode.json").read_text("utf-8"))["classes"]


@pytest.mark.parametrize("name", [n for n in ALLOWED if "/" not in n and not n.startswith("-")])
def test_names_of_data_sets(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "tiny")
    data = _photos(tmp_path / name, ("red", "green", "blue"))
    task = ("--ways", 3, "--shots", 1, "--queries", 1, "--iterations", 1, "--episodes", 1)
    words = ("--data", data, "--models", model, "--methods", "none,last", *task)
    if check_said(run("evaluate", *words, "--out", "out")).code == 0:
        check_page(Path("out", "comparison.html"))
        table = Path("out", "table.md").read_text("utf-8")
        assert "<script" not in table.replace("\\<", "")
