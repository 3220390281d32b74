"""What is missing is named by packages that install anywhere, in one place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kilograd.errors import InputError
from kilograd.extras import Extra

ROOT = Path(__file__).parents[1]


def packages(extra: str) -> set[str]:
    """Return the packages of an extra in pyproject.toml, those of extras that it names included."""
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found: set[str] = set()
    for requirement in optional["optional-dependencies"][extra]:
        if own := re.fullmatch(r"kilograd\[([\w,]+)\]", requirement):
            found = found.union(*map(packages, own[1].split(",")))
        else:
            found.add(re.split("[<>=]", requirement)[0])
    return found


def pages_and_sources() -> list[Path]:
    names = ("*.md", "src/**/*.py", "src/**/*.md", "docs/**/*.md", "tools/*", "benchmarks/*.py")
    return [p for pattern in names for p in ROOT.glob(pattern)]


@pytest.mark.parametrize("extra", Extra, ids=lambda e: e.name.lower())
def test_an_extra_is_what_the_project_says(extra: Extra) -> None:
    assert set(extra.value) <= packages(extra.name.lower())


def test_every_optional_package_can_be_named() -> None:
    named = {package for extra in Extra for package in extra.value}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extra in extras["optional-dependencies"].keys() - {"dev"}:
        assert packages(extra) <= named, extra


def test_nothing_tells_to_install_an_extra_of_a_package_that_no_index_has() -> None:
    for file in pages_and_sources():
        assert "kilograd[" not in file.read_text("utf-8"), file


def test_one_place_tells_what_to_install() -> None:
    """What is exported has pages of its own, for other machines."""
    for file in (ROOT / "src").rglob("*.py"):
        if file.name != "extras.py" and file.parent.name != "emit":
            assert not re.search(r"\bpip3? install", file.read_text("utf-8")), file


def test_only_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"ziglang", "capstone", "wasmtime"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in present else None)
    with pytest.raises(InputError) as caught:
        Extra.EMULATE.need("running firmware")
    assert str(caught.value) == (
        "running firmware needs unicorn, pyelftools; pip install unicorn pyelftools"
    )


def test_a_package_that_lacks_a_module_is_too_old() -> None:
    pytest.importorskip("h5py")
    with pytest.raises(
        InputError, match=r"^this needs another h5py .* pip install --upgrade h5py$"
    ):
        Extra.H5.load("h5py.of_tomorrow", "this")
