"""Settings of every test."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest
from helpers import Done, Run
from hypothesis import settings

from kilograd.cli import main

# The same examples on every run: a failure on one machine is a failure on all.
settings.register_profile(
    "kilograd", derandomize=True, deadline=None, print_blob=False, database=None
)
settings.load_profile("kilograd")


@pytest.fixture(scope="session", autouse=True)
def compiled_programs_are_kept_in_a_folder_of_this_run(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """Tests must not find programs that an earlier run compiled, nor leave theirs behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILOGRAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def networks_are_those_that_are_bundled(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """What is taken where no network is named must not depend on what somebody has pulled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILOGRAD_MODELS", str(tmp_path_factory.mktemp("models")))
        yield


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("kilograd.cli.console.OUT._width", 300)  # it may have been made before

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["kilograd", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as e:
            code = int(e.code or 0)
        captured = capsys.readouterr()
        return Done(code, re.sub(r"\x1b\[[0-9;]*m", "", captured.out), captured.err)

    return run
