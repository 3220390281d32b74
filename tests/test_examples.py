"""The scripts in examples/ say what the command line understands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from test_docs import COMMANDS

from kilograd.select import strategy
from kilograd.settings import Schedule

EXAMPLES = Path(__file__).parents[1] / "examples"
CALLS = [
    *(("sparse-update.sh", table) for table in ("s1", "s2", "s3", "s4")),
    ("few-shot.sh",),
]

pytestmark = [
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not here"),
    pytest.mark.skipif(not shutil.which("sh"), reason="no sh"),
]


def script(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a script with `echo` in place of `kilograd`."""
    name, *rest = map(str, words)
    command = ["sh", str(EXAMPLES / name), *rest]
    env = {**os.environ, "KILOGRAD": "echo", **settings}
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_command_of_a_script_is_understood(call: tuple[str, ...], tmp_path: Path) -> None:
    done = script(*call, tmp_path, tmp_path / "out", LR="0.25")
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert lines
    for command, *arguments in lines:
        given = COMMANDS[command].make_context(command, arguments).params
        strategy(given["method"])
        asked = {name: given[name] for name in ("iterations", "lr", "warmup")}
        Schedule(**{name: value for name, value in asked.items() if value is not None})
        assert given["out"].parent == tmp_path / "out"
    assert len({line[-1] for line in lines}) == len(lines), "a folder for each run"
    assert "--lr 0.25" in done.stdout, "a setting replaces a default"


@pytest.mark.parametrize("call", [("few-shot.sh",), ("sparse-update.sh", "s1", "data")])
def test_too_few_words_show_the_usage(call: tuple[str, ...]) -> None:
    done = script(*call)
    assert done.returncode == 2
    assert f"sh examples/{call[0]} " in done.stderr
    assert "may be set" in done.stderr or "ITERATIONS, WARMUP" in done.stderr


def test_an_unknown_table_is_named(tmp_path: Path) -> None:
    done = script("sparse-update.sh", "s5", tmp_path, tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no table s5; there are s1, s2, s3, s4" in done.stderr
    assert not (tmp_path / "out").exists(), "what failed leaves nothing in the way"


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    assert script("few-shot.sh", tmp_path, tmp_path).returncode != 0
