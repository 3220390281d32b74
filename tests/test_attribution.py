"""Whose a network is travels with what is exported, and nothing else does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from folders import write_model
from helpers import Run

from kilograd.errors import InputError
from kilograd.frontend import attribution, load_model
from kilograd.targets.toolchain import runtime_folder

ROOT = Path(__file__).parents[1]


def owned(folder: Path, **provenance: Any) -> Path:
    """A model folder that says whose it is."""
    write_model(folder)
    graph = json.loads((folder / "graph.json").read_text("utf-8"))
    graph["provenance"] = provenance
    (folder / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    return folder


def export(run: Run, model: Path) -> Path:
    project = model.parent / "project"
    done = run("export", "--model", model, "--method", "last:2", "--ways", 3, "--out", project)
    assert done.code == 0, done.err
    return project


def test_licence_and_origin_travel_with_a_project(run: Run, tmp_path: Path) -> None:
    model = owned(
        tmp_path / "net",
        spdx="BSD-3-Clause",
        copyright="Copyright (c) 1999 Somebody",
        source_repository="https://example.org/net",
    )
    (model / "LICENSE.txt").write_text("Do as you like.\r\nBut say so.\n")
    (model / "notes.txt").write_text("secret")
    project = export(run, model)
    notice = (project / "NOTICE").read_text("utf-8")
    for line in (
        "Licence: BSD-3-Clause",
        "Copyright (c) 1999 Somebody",
        "Text: licenses/LICENSE.txt",
    ):
        assert f"\n  {line}\n" in notice
    assert (project / "licenses" / "LICENSE.txt").read_text() == "Do as you like.\nBut say so.\n"
    assert [p.name for p in (project / "licenses").iterdir()] == ["LICENSE.txt"]
    if (ROOT / "LICENSE").exists():
        assert (project / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
        own = (project / "NOTICE").read_text("utf-8").partition("\n\n")[0]
        assert (ROOT / "NOTICE").read_text("utf-8").startswith(own)


@pytest.mark.parametrize("texts", [[], ["LICENSE"]])
def test_the_files_in_the_table_of_a_project_are_there(
    run: Run, tmp_path: Path, texts: list[str]
) -> None:
    model = owned(tmp_path / "net", spdx="Apache-2.0")
    for name in texts:
        (model / name).write_text("Do as you like.\n")
    project = export(run, model)
    page = (project / "README.md").read_text("utf-8")
    table = page.partition("| file | what it is |\n|---|---|\n")[2].partition("\n\n")[0]
    named = {x for row in table.splitlines() for x in re.findall("`(.*?)`", row.split("|")[1])}
    assert {"model.c", "LICENSE", "NOTICE"} <= named
    assert [name for name in named if not (project / name).exists()] == []
    assert ("licenses/" in named) == bool(texts)


def test_a_network_under_the_mit_licence_has_its_text(tmp_path: Path) -> None:
    owner = "Copyright (c) 2020 Those who made it"
    found = attribution(load_model(str(owned(tmp_path / "net", spdx="MIT", copyright=owner))))
    (text,) = found.texts.values()
    assert text.startswith(
        f"MIT License\n\n{owner}\n\nPermission is hereby granted, free of charge,"
    )
    assert text.endswith("IN THE\nSOFTWARE.\n")


def test_a_network_that_says_nothing_is_said_to(run: Run, tmp_path: Path) -> None:
    notice = (export(run, owned(tmp_path / "net")) / "NOTICE").read_text("utf-8")
    assert "find out before you pass it on" in notice


@pytest.mark.parametrize(
    ("field", "value"),
    [("spdx", 3), ("copyright", ["a"]), ("source_repository", {}), ("paper", True)],
)
def test_a_fact_that_is_no_text_is_refused(
    run: Run, tmp_path: Path, field: str, value: object
) -> None:
    model = owned(tmp_path / "net", **{field: value})
    done = run("export", "--model", model, "--method", "last:2", "--out", tmp_path / "project")
    assert done.code == 2
    assert "graph.json: provenance" in done.error
    assert field in done.error
    assert not (tmp_path / "project").exists()


def test_facts_are_lines_and_texts_are_the_folder_s_own(tmp_path: Path) -> None:
    """Nothing hidden, nothing of another place, no more than a page or so."""
    model = owned(tmp_path / "net", copyright="me\n  Licence: mine\x1b[2J" + "x" * 5000)
    (tmp_path / "passwd").write_text("root")
    (model / "LICENSE").symlink_to(tmp_path / "passwd")
    (model / "COPYING").mkdir()
    (model / "NOTICE.$(rm)").write_text("no name")
    (model / "NOTICE").write_bytes(b"caf\xe9\x00\x1b[2J\n")
    found = attribution(load_model(str(model)))
    (line,) = found.facts.values()
    assert line.isprintable()
    assert len(line) <= 1000
    assert found.texts == {"NOTICE": "caf\ufffd  [2J\n"}


def test_a_text_that_is_a_book_is_refused(tmp_path: Path) -> None:
    model = owned(tmp_path / "net")
    (model / "LICENSE").write_bytes(b"x" * 70_000)
    with pytest.raises(InputError, match="LICENSE: is larger than 65,536 bytes"):
        attribution(load_model(str(model)))


def test_the_library_brings_its_licence() -> None:
    if not (ROOT / "LICENSE").exists():
        pytest.skip("the licence at the top is not here")
    assert (runtime_folder() / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
