"""Offline training where PyTorch is not installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from kilograd.cli import main


@pytest.mark.parametrize("command", ["pretrain", "metatrain"])
@pytest.mark.parametrize("package", ["torch", "tensorboard"])
def test_the_commands_name_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, package: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else real(name)
    )
    monkeypatch.setattr(sys, "argv", ["kilograd", command, "photos", "--out", "new"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: offline training needs ")
    assert package in error.partition("pip install ")[2].split()
    assert error.count("\n") == 1
