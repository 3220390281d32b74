"""The promises of extension: what the documents say is done to a copy of the tree, and tested."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import needs_gcc

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "how-to-add-a-strategy.md")

pytestmark = pytest.mark.skipif(not PAGES[0].exists(), reason="the documents are not here")

_EDIT = re.compile(
    r"^`(?P<file>[^`]+)`, (?P<where>a new file|at the end|before|after|in place of)"
    r"(?: (?P<ticks>`+)(?P<line>.+?)(?P=ticks))?:\n\n```\w+\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
"""`FILE`, a place in it and, if the place is at a line, `LINE`; then a block of text."""


@dataclass(frozen=True)
class Edit:
    """Some text, and where it goes: in a file that is new, at its end, or beside one line."""

    file: str
    where: str
    line: str
    text: str

    def apply(self, tree: Path) -> None:
        path = tree / self.file
        if self.where == "a new file":
            assert not path.exists(), f"{self.file} is there already"
            path.write_text(self.text, "utf-8")
            return
        lines = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join(self._edited(lines)), "utf-8")

    def _edited(self, lines: list[str]) -> list[str]:
        if self.where == "at the end":
            apart = "\n\n" if self.file.endswith(".py") else "\n"
            return [*lines, apart, self.text]
        found = [i for i, line in enumerate(lines) if line.strip() == self.line]
        assert len(found) == 1, f"{self.file} has {self.line!r} {len(found)} times"
        first = found[0] + (self.where == "after")
        last = found[0] + (self.where != "before")
        return [*lines[:first], self.text, *lines[last:]]


def edits() -> Iterator[Edit]:
    for page in PAGES:
        for m in _EDIT.finditer(page.read_text("utf-8")):
            yield Edit(m["file"], m["where"], m["line"] or "", m["text"])


def done(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool on a tree."""
    environment = os.environ | {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "KILOGRAD_CACHE": str(tree / "cache"),
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def check(tree: Path, *command: str) -> str:
    """Run a tool that must succeed; return what it printed."""
    found = done(tree, *command)
    assert found.returncode == 0, f"{' '.join(command)}:\n{found.stdout[-4000:]}{found.stderr}"
    return found.stdout


def on(*arguments: str) -> tuple[str, ...]:
    """Return the command that runs some tests."""
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *arguments)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows, as it is here and now."""
    for tool in ("ruff", "mypy", "clang_format"):
        pytest.importorskip(tool, reason=f"{tool} is not installed (make lint)")
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this tree is no checkout of git")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    tree = tmp_path_factory.mktemp("copy")
    for name in filter(None, names):
        hidden = name.startswith(".") and "/" in name  # a folder of some tool
        if (ROOT / name).is_file() and not hidden and not name.startswith("docs/results/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def extended(copy: Path) -> Path:
    """The copy with an op and a strategy more, and what is written from them."""
    for edit in edits():
        edit.apply(copy)
    check(copy, "docs/make_params.py")
    check(copy, "docs/make_ops.py")
    return copy


def test_edits_are_found() -> None:
    """None is lost to a sentence that is put differently: every block has its place."""
    blocks = sum(
        len(re.findall(r"^```(?:python|c|text|markdown)$", section, re.MULTILINE))
        for page, title in zip(PAGES, ("## Add an op", "## 1. The file"), strict=True)
        for section in page.read_text("utf-8").split(title)[1:2]
        for section in [re.split(r"^## (?!2\. Its name)", section, flags=re.MULTILINE)[0]]
    )
    assert len(list(edits())) == blocks == 14


def test_lint_accepts_the_examples(extended: Path) -> None:
    touched = sorted({e.file for e in edits()})
    python = [name for name in touched if name.endswith(".py")]
    check(extended, "-m", "ruff", "check", "--no-cache")
    check(extended, "-m", "ruff", "format", "--no-cache", "--check")
    check(extended, "-m", "mypy", "--cache-dir", os.devnull, *python)
    sources = [name for name in touched if name.endswith((".c", ".h"))]
    clang_format = "from clang_format import clang_format; clang_format()"
    check(extended, "-c", clang_format, "--dry-run", "-Werror", *sources)


@needs_gcc
def test_the_op_keeps_the_contract(extended: Path) -> None:
    """Types, gradient, what is written of it, and one compiler; `make test` has the others."""
    one = "kernels_equal_their_references_to_the_bit and gcc-O0"
    chosen = f"Offset or every_op or with_a_formula or ({one})"
    printed = check(extended, *on("tests/test_ops.py", "-k", chosen))
    assert re.search(r"^1[0-9] passed", printed, re.MULTILINE), printed
    assert "kg_offset" in (extended / "docs" / "ops.md").read_text("utf-8")


def test_the_strategy_keeps_its_budgets(extended: Path) -> None:
    chosen = "steepest and (smallest_compute or say_nothing or becomes_a_plan)"
    printed = check(extended, *on("tests/test_strategies.py", "-k", chosen))
    assert "3 passed" in printed
    check(extended, *on("tests/test_select.py", "-k", "example_of_every_method"))
    check(extended, *on("tests/test_docs.py", "-k", "every_method"))


def test_an_op_without_its_meaning_is_missed(extended: Path) -> None:
    file = extended / "tests" / "helpers.py"
    before = file.read_text("utf-8")
    (line,) = (e.text for e in edits() if e.file == "tests/helpers.py")
    try:
        file.write_text(before.replace(line, ""), "utf-8")
        found = done(extended, *on("tests/test_ops.py", "-k", "every_op_is_compared"))
    finally:
        file.write_text(before, "utf-8")
    assert found.returncode == 1
    assert "Offset" in found.stdout
