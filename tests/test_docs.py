"""What the documents say must be so: commands exist, examples run, links lead somewhere."""

from __future__ import annotations

import doctest
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

from kilograd import limits
from kilograd.cli import app
from kilograd.frontend import available_models, load_model_folder
from kilograd.ir import Array
from kilograd.select import METHODS, Budget, Evidence, Inspect, strategy

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    sorted(p for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if p.is_file())
)
GROUP = typer.main.get_command(app)
COMMANDS: dict[str, Any] = vars(GROUP)["commands"]

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are not here")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for language, text in re.findall(
        r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        yield Block(page, language, text)


def command_lines() -> Iterator[tuple[Path, list[str]]]:
    """Yield every documented command line, without its comment."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "console":
                for line in re.findall(r"^\$ (.*)$", block.text, re.MULTILINE):
                    yield page, shlex.split(line, comments=True)


LINES = [pytest.param(p, w, id=f"{p.name}: {' '.join(w)}") for p, w in command_lines()]
"""A page and the words of a command."""


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("script", ["make_boards", "make_ops", "make_targets"])
def test_a_page_that_is_generated_is_up_to_date(script: str) -> None:
    command = [sys.executable, f"docs/{script}.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for command in COMMANDS:
        assert f"kilograd {command}" in readme or f"make {command}" in readme, command


def test_every_method_is_in_the_table_of_methods() -> None:
    page = (ROOT / "docs" / "adapt.md").read_text("utf-8")
    for method in METHODS:
        assert f"`{method.partition(' ')[0]}`" in page, method


def test_every_page_is_listed() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
    studies = (ROOT / "docs" / "results" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs" / "results" / "studies").glob("*.md"):
        assert f"| [{page.stem}](studies/{page.name}) |" in studies, page.name


@pytest.mark.parametrize(("page", "words"), LINES)
def test_a_documented_command_line_is_understood(page: Path, words: list[str]) -> None:
    match words:
        case ["kilograd", command, *arguments]:
            context = COMMANDS[command].make_context(command, list(arguments))
            method = context.params.get("method")
            made = method and f"--out {Path(method).parent}\n" in page.read_text("utf-8")
            if method and not made:  # a plan that a line before it writes is not there yet
                strategy(method)
        case ["make", target]:
            makefile = (ROOT / "Makefile").read_text("utf-8")
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"no target {target}"
        case ["pytest" | "python", file, *_]:
            assert (ROOT / file).is_file(), f"no file {file}"
        case ["pip" | "." | "make" | "project/example", *_]:
            assert page.name == "README.md", "tests/test_readme.py follows it"
        case _:
            pytest.fail(f"{name(page)} documents {words}: teach this test about it")


# Those that need neither data nor a network that is not bundled.
@pytest.mark.parametrize(
    "words",
    [
        w
        for _, w in command_lines()
        if w[0] == "kilograd" and w[1] in {"boards", "cost", "models", "plan"}
    ],
)
def test_a_documented_command_line_runs(words: list[str], tmp_path: Path) -> None:
    needs_bundled(words)
    call = "from kilograd.cli import main; main()"
    command = [sys.executable, "-c", call, *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def needs_bundled(words: list[str]) -> None:
    if "digits" in words and "digits" not in {m.name for m in available_models()}:
        pytest.skip("the network of the digits is not bundled")


def examples(page: Path) -> str:
    """Return the interactive examples of a page, which are one session."""
    return "\n".join(b.text for b in blocks(page) if b.language == "pycon")


@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)], ids=name)
def test_python_examples_run(page: Path) -> None:
    text = examples(page)
    if "digits" in text:
        pytest.importorskip("sklearn")
        needs_bundled(["digits"])
    example = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    out: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example, out=out.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(out)


def test_the_strategy_of_the_how_to_works(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to-add-a-strategy.md"
    text = next(b.text for b in blocks(page) if b.language == "python")
    (tmp_path / "steepest.py").write_text(text, "utf-8")
    steepest = runpy.run_path(str(tmp_path / "steepest.py"))["steepest"]
    model = load_model_folder(next(m.path for m in available_models() if m.name == "digits"))
    sizes = {x: model.graph[x].type.shape[2] for x in model.layers}

    def ask(layers: tuple[str, ...]) -> dict[str, Array]:
        return {x: np.arange(sizes[x], dtype=np.float32) * sizes[x] for x in layers}

    evidence = Evidence(model.name, model.graph, model.layers, inspect=Inspect(ask, ask))
    chosen = steepest(evidence, Budget(compute=10**9, channels=0.5))
    # Without a compiler all fits: the last half of the channels of each of the last 18 layers.
    assert [r.layer for r in chosen.reasons] == list(model.layers[-18:])
    for layer in model.layers[-18:]:
        half = tuple(range(sizes[layer] - sizes[layer] // 2, sizes[layer]))
        assert chosen.by_name[f"{layer}.weight"].index == half


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{name(page)} links to {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text("utf-8")
    for page in sorted(folder.glob("[0-9]*.md")):
        assert f"({page.name})" in index, page.name
        number = page.name.partition("-")[0]
        title = page.read_text("utf-8").partition("\n")[0]
        assert title.startswith(f"# {number}: "), f"{page.name}: {title}"


def test_every_limit_is_documented_with_its_value() -> None:
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| ([\d^]+) \|", (ROOT / "docs" / "limits.md").read_text(), re.MULTILINE
    )
    stated = {name: int(eval(value.replace("^", "**"))) for name, value in rows}  # noqa: S307
    own = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert stated == own
