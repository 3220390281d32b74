"""The README is followed, line by line and in its order, in one folder, as a new user would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_wheel import BUILD, INSTALL

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.is_file(), reason="the README is not here")


def lines() -> list[str]:
    """Return the command lines of the README."""
    text = README.read_text("utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE)]


def test_every_command_runs_and_prints_what_the_readme_says() -> None:
    command = [sys.executable, "docs/make_readme.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_comes_before_the_command_is_there() -> None:
    """A new clone has no command yet: make and pip bring it, and a shell is told where it is."""
    made = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert made
    assert made[1].endswith("kilograd demo\n")
    first, second, *others = (line for line in lines() if not line.startswith("kilograd "))
    assert (first, second) == ("make demo", ". .venv/bin/activate")
    assert [line for line in others if line.startswith("pip ")] == [BUILD, INSTALL]


def test_no_placeholder_is_left_to_guess() -> None:
    for line in lines():
        assert not re.search(r"\b[A-Z]{4,}\b", line), line
