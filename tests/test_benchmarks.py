"""Scripts of benchmarks/: what they cannot use is told in a sentence."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilograd.errors import InputError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not here")


@dataclass(frozen=True)
class Made:
    name: str
    count: int


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("rows")


def test_every_script_ends_in_a_sentence() -> None:
    """`script` turns what a script cannot use into one line."""
    for path in BENCHMARKS.glob("*.py"):
        _, guard, end = path.read_text(encoding="utf-8").partition('if __name__ == "__main__":\n')
        assert not guard or end.startswith("    script("), path.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "holds no rows"),
        ("name,count\n", "holds no rows"),
        ("name,count\na,1", "holds no rows"),  # killed in its first row
        ("name,count\na,many\n", "holds rows of another kind"),
        ("recipe,gtsrb\na,1\n", "holds rows of another kind"),
    ],
)
def test_a_file_without_rows_is_named(
    rows: Any, tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "rows.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"rows\.csv: {message}"):
        rows.stored(path, Made)


def test_rows_of_another_study_are_named(rows: Any, tmp_path: Path) -> None:
    rows.append(tmp_path / "rows.csv", [Made("a", 1)])
    with pytest.raises(InputError, match=r"rows\.csv: holds rows of another kind"):
        rows.read(tmp_path / "rows.csv")


def test_rows_are_read_again(rows: Any, tmp_path: Path) -> None:
    rows.append(tmp_path / "rows.csv", [Made("a", 1), Made("b", 2)])
    assert rows.stored(tmp_path / "rows.csv", Made) == [Made("a", 1), Made("b", 2)]


def test_a_folder_that_is_no_evaluation_is_named(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no evaluation\.sqlite"):
        rows.keep(tmp_path, tmp_path / "rows.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["keep", "no", "out.csv"], ["table", "no.csv"]])
def test_a_script_ends_with_two(
    rows: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    with pytest.raises(SystemExit) as e:
        rows.script(lambda: rows.app(arguments, standalone_mode=False))
    assert e.value.code == 2
    assert capsys.readouterr().err.startswith("error: no")
