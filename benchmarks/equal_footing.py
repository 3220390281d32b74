"""Every method with and without meta-training: the tables of docs/results/equal-footing.md.

    python benchmarks/equal_footing.py keep FOLDER RESULTS.csv
    python benchmarks/equal_footing.py table RESULTS.csv | \
        python benchmarks/fill.py docs/results/equal-footing.md

FOLDER is that of a `kilograd evaluate` whose networks are NAME and meta-NAME.
"""

from __future__ import annotations

import csv
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import typer

from kilograd.learn.evaluate import RESULTS
from kilograd.learn.statistics import interval

META = "meta-"

#: Averages over nine sets, Table 1 of TinyTrain; with meta-training only its Figure 6a, MCUNet.
PAPER = {
    "none": {"mcunet-5fps": 44.5, "mbv2-w0.35": 51.7, "proxyless-w0.3": 51.1},
    "last": {"mcunet-5fps": 54.6, "mbv2-w0.35": 58.1, "proxyless-w0.3": 57.0},
    "sparse-49kb": {"mcunet-5fps": 64.3, "mbv2-w0.35": 64.0, "proxyless-w0.3": 64.7},
    "tinytrain": {"mcunet-5fps": 65.6},
    "tinytl": {"mcunet-5fps": 66.1, "mbv2-w0.35": 62.1, "proxyless-w0.3": 63.7},
    "full": {"mcunet-5fps": 66.9, "mbv2-w0.35": 62.7, "proxyless-w0.3": 65.0},
}
PAPER_META = {
    "none": {"mcunet-5fps": 58.7},
    "last": {"mcunet-5fps": 60.7},
    "sparse-49kb": {"mcunet-5fps": 68.9},
    "tinytrain": {"mcunet-5fps": 69.3, "mbv2-w0.35": 65.6, "proxyless-w0.3": 68.3},
    "tinytl": {"mcunet-5fps": 68.6},
    "full": {"mcunet-5fps": 67.3},
}
app = typer.Typer(add_completion=False)
Key = tuple[str, int]
"""A data set and an episode of it."""


@app.command()
def keep(folder: Path, out: Path) -> None:
    """Append the rows of an evaluation to a CSV file that can be read without SQLite."""
    with closing(sqlite3.connect(folder / RESULTS)) as db:
        found = db.execute("SELECT * FROM rows ORDER BY episode, data, model, method")
        new = not out.exists()
        with out.open("a", newline="", encoding="utf-8") as f:
            writer = csv.writer(f)
            if new:
                writer.writerow([c[0] for c in found.description])
            writer.writerows(found)


@app.command()
def table(path: Path) -> None:
    """Print a table for each network, and one of what meta-training changes."""
    rows: dict[str, dict[str, dict[Key, float]]] = defaultdict(lambda: defaultdict(dict))
    with path.open(newline="", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            method = Path(r["method"].partition("@")[0]).name.removesuffix(".json")
            after = 100 * float(r["accuracy_after"])
            rows[r["model"]][method][r["data"], int(r["episode"])] = after
    print("\n".join(lines(rows)))


def lines(rows: dict[str, dict[str, dict[Key, float]]]) -> Iterator[str]:
    """Yield the tables."""
    networks = [name for name in rows if not name.startswith(META)]
    for network in networks:
        plain, meta = rows[network], rows[META + network]
        sets = list(dict.fromkeys(data for found in plain.values() for data, _ in found))
        yield f"| {network} | episodes | {' | '.join(sets)} | all | less `none` | paper |"
        yield "|---|---:" + "|---:" * (len(sets) + 3) + "|"
        for title, some, paper in (("", plain, PAPER), (" (meta)", meta, PAPER_META)):
            for method, found in some.items():
                cells = [_mean([x for (d, _), x in found.items() if d == data]) for data in sets]
                gain = "" if method == "none" else _difference(found, some["none"])
                known = paper.get(method, {}).get(network, "")
                yield (
                    f"| `{method}`{title} | {len(found)} | {' | '.join(cells)} | "
                    f"{_interval(list(found.values()))} | {gain} | {known} |"
                )
        yield ""
    yield f"| meta-training gains | {' | '.join(networks)} |"
    yield "|---" + "|---:" * len(networks) + "|"
    for method in rows[networks[0]]:
        gains = [_difference(rows[META + n][method], rows[n][method]) for n in networks]
        yield f"| `{method}` | {' | '.join(gains)} |"


def _difference(found: dict[Key, float], base: dict[Key, float]) -> str:
    both = [found[k] - base[k] for k in found if k in base]
    if len(both) < 2:
        return ""
    mean = interval(both)
    return f"{mean.mean:+.1f} ± {mean.half:.1f}"


def _interval(values: Sequence[float]) -> str:
    mean = interval(values)
    return f"{mean.mean:.1f} ± {mean.half:.1f}" if mean.half is not None else f"{mean.mean:.1f}"


def _mean(values: Sequence[float]) -> str:
    return f"{interval(values).mean:.1f}" if values else ""


if __name__ == "__main__":
    app()
