"""Rows of measurements: kept in CSV files, read again, compared and shown as Markdown.

    python benchmarks/rows.py keep FOLDER RESULTS.csv
    python benchmarks/rows.py table RESULTS.csv [--against METHOD]

`keep` appends the rows of a `kilograd evaluate` to a file that can be read without SQLite.
`table` prints means and 95 % intervals (Student's t over episodes) of such a file, or of FOLDER,
and the gain over no training or, with `--against`, the difference to a method, episode by episode.
A script with rows of its own kind has a frozen dataclass for them: a column for each field.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from script import script

from kilograd.errors import InputError
from kilograd.intervals import Interval, interval, t_quantile
from kilograd.study.evaluate import RESULTS
from kilograd.study.work import Row as Measured

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Row:
    """One episode learned by one method; accuracies in 0 ... 1, sizes in bytes.

    `layers`: those that learn, by number, where that was kept.
    """

    model: str
    data: str
    method: str
    episode: int
    accuracy_before: float
    accuracy_after: float
    sram_bytes: int
    budget: str = ""
    backward_macs: int = 0
    learned_parameters: int = 0
    layers: str = ""

    @property
    def name(self) -> str:
        """The method without its options."""
        return _method(self.method).partition("@")[0]

    def called(self, method: str | None) -> bool:
        """Whether this is a method, with its options or without."""
        return method in {self.method, self.method.partition("@")[0]}

    @property
    def rate(self) -> str:
        """The learning rate, if the method has one of its own."""
        found = re.search(r"@(?:.*\blr=)?([\d.e-]+)", self.method)
        return found[1] if found else ""


#: Columns as they were called when most of docs/results/data was measured.
_CALLED = {
    "recipe": "method",
    "before": "accuracy_before",
    "after": "accuracy_after",
    "learned": "learned_parameters",
}


# ---- files ----


def lines_of(path: Path, kind: type[T]) -> list[T]:
    """Read the rows of a CSV file; there are none where there is no file.

    A last line without an end, which somebody was killed in, is left out; so are repeated heads.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    head, *_ = [*whole, ""]
    lines = csv.DictReader([head, *(x for x in whole if x != head)])
    return [_converted(path, cells, kind) for cells in lines]


def _converted(path: Path, cells: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(cells, kind, strict=False)
    except msgspec.ValidationError as e:
        raise InputError(
            f"{path}: holds rows of another kind ({e}); give those of this study"
        ) from e


def stored(path: Path, kind: type[T]) -> list[T]:
    """Read the rows of a CSV file to show them.  Raises `InputError` where there are none."""
    if rows := lines_of(path, kind):
        return rows
    holds = "holds no rows" if path.exists() else "no such file"
    raise InputError(f"{path}: {holds}; give one that the study has written")


def append(path: Path, rows: Iterable[Any]) -> None:
    """Write rows behind those that a file has, or begin it with the names of their columns.

    A file keeps the columns that it has.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if text != whole:
        path.write_text(whole, encoding="utf-8")
    with path.open("a", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        names = next(csv.reader(whole.splitlines()), [])
        for row in rows:
            if not names:
                names = [x.name for x in fields(row)]
                writer.writerow(names)
            cells = asdict(row)
            writer.writerow([_cell(cells[_known(name, cells)]) for name in names])


def _known(name: str, cells: Mapping[str, object]) -> str:
    return name if name in cells else _CALLED[name]


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, tuple) else value


def read(path: Path) -> list[Row]:
    """Read rows of methods from a CSV file or the folder of an evaluation.

    Where the budget of a row is not kept, it is that of its method.
    """
    found = map(asdict, measured(path)) if path.is_dir() else stored(path, dict[str, str])
    rows = []
    for r in found:
        called = {_CALLED.get(name, name): value for name, value in r.items()}
        limits = re.findall(r"\b(?:sram|compute|channels)=[^,]+", str(called.get("method")))
        rows.append(_converted(path, {"budget": " ".join(limits)} | called, Row))
    return rows


def measured(folder: Path) -> Iterator[Measured]:
    """Yield the rows of an evaluation."""
    if not (folder / RESULTS).is_file():
        raise InputError(f"{folder}: holds no {RESULTS}; give what kilograd evaluate has written")
    names = ", ".join(f.name for f in fields(Measured))
    with closing(sqlite3.connect(folder / RESULTS)) as db:
        query = f"SELECT {names} FROM rows ORDER BY episode, data, model, method"  # noqa: S608
        for *values, by_pass in db.execute(query):
            row = Measured(*(*values, tuple(json.loads(by_pass))))
            yield replace(row, method=_method(row.method))


def _method(text: str) -> str:
    """Call a plan by its file, wherever that was."""
    return re.sub(r"[^@]*/(?=[^@/]*\.json)", "", text)


@app.command()
def keep(folder: Path, out: Path) -> None:
    """Append the rows of an evaluation to a CSV file."""
    append(out, list(measured(folder)))


# ---- comparisons ----


def grouped(rows: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return rows by a key, in the order of their first ones."""
    found: dict[K, list[T]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def after(rows: Iterable[Row]) -> dict[tuple[str, int], float]:
    """Return the accuracy after learning, by data set and episode."""
    return {(r.data, r.episode): r.accuracy_after for r in rows}


def paired(found: Mapping[K, float], base: Mapping[K, float]) -> list[float]:
    """Return the differences of what both have."""
    return [value - base[key] for key, value in found.items() if key in base]


def percent(values: Sequence[float]) -> Interval:
    """Return the mean of shares in per cent, with its interval.

    Tables of docs/results/studies know the quantiles of a few sizes of samples; others have that
    of the next smaller one, which makes their intervals up to 4 % too wide.
    """
    of = interval(values)
    if of.half is None:
        return Interval(100 * of.mean, None, 1)
    known = max(f for f in (1, 2, 3, 4, 5, 7, 9, 15, 19, 31) if f < of.count)
    wider = round(t_quantile(known), 2) / t_quantile(of.count - 1)
    return Interval(100 * of.mean, 100 * of.half * wider, of.count)


# ---- Markdown ----


def line(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*names: str, texts: int) -> str:
    """Return the head of a table whose first columns are texts, and the others numbers."""
    return f"{line(*names)}\n{'|---' * texts}{'|---:' * (len(names) - texts)}|"


def shown(of: Interval, sign: str = "") -> str:
    """Write a mean and its interval; `sign` "+" for differences."""
    return f"{of.mean:{sign}.1f}" + ("" if of.half is None else f" ± {of.half:.1f}")


def table_lines(rows: Sequence[Row], against: str | None) -> Iterator[str]:
    """Yield a line for each network, method and budget, with a column for each data set."""
    sets = list(dict.fromkeys(r.data for r in rows))
    budget = ["budget"] if any(r.budget for r in rows) else []
    last = f"against {against}" if against else "gain"
    names = ["network", "recipe", *budget, "RAM, B", *sets, "mean", last]
    yield head(*names, texts=len(names))
    first = [r for r in rows if r.called(against)]
    for key, own in grouped(rows, lambda r: (r.model, r.method, r.budget)).items():
        by_data = grouped(own, lambda r: r.data)
        gains = [r.accuracy_after - r.accuracy_before for r in own]
        if against:
            same = [r for r in first if r.model == key[0] and r.budget in {key[2], ""}]
            gains = paired(after(own), after(same))
        yield line(
            *key[: 2 + len(budget)],
            f"{max(r.sram_bytes for r in own):,}",
            *(after_of(by_data.get(name, [])) for name in sets),
            after_of(own),
            shown(percent(gains), "+") if gains else "",
        )


def after_of(rows: Sequence[Row]) -> str:
    """Write the accuracy after learning, in per cent."""
    return shown(percent(list(after(rows).values()))) if rows else ""


@app.command()
def table(
    results: Path,
    against: Annotated[str | None, typer.Option(help="A method to show differences to.")] = None,
) -> None:
    """Print a CSV file, or the folder of an evaluation, as a table."""
    rows = read(results)
    if against and not any(r.called(against) for r in rows):
        raise typer.BadParameter(f"--against {against}: there are no results of it in {results}")
    print("\n".join(table_lines(rows, against)))


if __name__ == "__main__":
    script(app)
