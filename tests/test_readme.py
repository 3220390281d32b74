"""The README is followed, line by line and in its order, in one folder, as a new user would."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import Run
from test_wheel import BUILD, INSTALL

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
#: Where the README draws 24 pictures of each toy, these do here.
FEW = 6
#: Longer than any command may take, where the machine has other things to do, too.
SECONDS = 120

pytestmark = pytest.mark.skipif(not README.is_file(), reason="the README is not here")


def steps() -> Iterator[tuple[str, str]]:
    """Yield what the README asks for: a language, and a command line or a program."""
    for language, text in re.findall(
        r"^```(console|python)\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        if language == "python":
            yield language, text
        else:
            yield from ((language, line) for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE))


def block_after(command: str) -> str:
    """Return what the README says that a command prints."""
    found = re.search(
        rf"^```console\n\$ {re.escape(command)}\n```\n.*?^```text\n(.*?)^```$",
        README.read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert found, command
    return found[1]


def without_time(text: str) -> str:
    """Leave away how long something took, and blanks at the ends of lines."""
    return re.sub(r"[\d.]+ s\b", "SECONDS", re.sub(r" +$", "", text, flags=re.MULTILINE))


def test_every_step_can_be_followed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KILOGRAD_MODELS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no network of this machine's
    before = ""
    for language, step in steps():
        if language == "python":
            exec(compile(step, str(README), "exec"), {"__name__": "readme"})  # noqa: S102
        else:
            follow(step, run, before)
            before = step


def follow(line: str, run: Run, before: str) -> None:
    """Run a command line of the README, or see that another test does."""
    words = shlex.split(line, comments=True)
    match words:
        case ["kilograd", "pictures", *rest]:
            ended(line, run, ["pictures", *rest, "--each", FEW])
        case ["kilograd", *rest]:
            ended(line, run, list(rest))
        case ["make", "demo"]:
            assert "kilograd demo\n" in made("demo")
            ended(line, run, ["demo"])
        case [".", ".venv/bin/activate"]:
            assert before == "make demo"
        case ["pip", *_]:
            assert line in {BUILD, INSTALL}, "tests/test_wheel.py does it"
        case _:
            in_a_shell(line)


def ended(line: str, run: Run, words: list[object]) -> None:
    done = run(*words)
    assert done.code == 0, f"{line}: {done.err}"
    assert done.out, line


def made(target: str) -> str:
    """Return the commands of a target of the Makefile, its needs aside."""
    found = re.search(
        rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert found, target
    return found[1]


def in_a_shell(line: str) -> None:
    for tool in ("make", "cc"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool}: what follows {line} is left out")
    done = subprocess.run(
        ["sh", "-c", line],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{line}: {done.stderr}"


def test_no_placeholder_is_left_to_guess() -> None:
    for language, step in steps():
        assert language == "python" or not re.search(r"\b[A-Z]{4,}\b", step), step
