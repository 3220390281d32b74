"""Every method with and without meta-training: the tables of docs/results/studies/equal-footing.md.

    python benchmarks/equal_footing.py keep FOLDER RESULTS.csv
    python benchmarks/equal_footing.py floats FOLDER DATA NETWORK,... RESULTS.csv
    python benchmarks/equal_footing.py table RESULTS.csv | \
        python benchmarks/fill.py docs/results/studies/equal-footing.md

FOLDER is that of a `kilograd evaluate` whose networks are NAME and meta-NAME.
`floats` adds what the features of the same networks do in float32, without learning; it needs
PyTorch (kilograd[torch]), and DATA, a folder of NAME.parquet.
"""

from __future__ import annotations

import csv
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import typer

from kilograd.data import Dataset, Episode, load_dataset
from kilograd.frontend import Preprocess, load_model
from kilograd.intervals import interval
from kilograd.learn.training import load_samples
from kilograd.offline.network import FloatNetwork
from kilograd.study.evaluate import EPISODES, RESULTS

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
Rows = dict[str, dict[str, dict[Key, float]]]
"""Accuracy in per cent, by network and method."""


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
            method = [c[0] for c in found.description].index("method")
            for row in map(list, found):  # a plan is called by its file, wherever that was
                row[method] = row[method].rpartition("/")[2]
                writer.writerow(row)


@app.command()
def floats(folder: Path, data: Path, networks: str, out: Path) -> None:
    """Append rows of the method `none float`: prototypes of float32 features."""
    stored = (folder / EPISODES).read_text(encoding="utf-8").splitlines()
    episodes = [Episode.from_json(line) for line in stored]
    sets = {name: load_dataset(data / f"{name}.parquet") for name in {e.dataset for e in episodes}}
    with out.open("a", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        for model in map(load_model, networks.split(",")):
            network = FloatNetwork(model.graph)
            for e in episodes:
                right = _right(network, model.preprocess, sets[e.dataset], e)
                row = (e.dataset, model.name, "none float", e.seed, len(e.classes), right, right)
                writer.writerow([*row, 0, 0, 0, 0])
            f.flush()


def _right(network: FloatNetwork, preprocess: Preprocess, images: Dataset, e: Episode) -> float:
    """Return the share of the query that is nearest to the prototype of its class."""
    support, query = (
        load_samples(images, indices, labels, preprocess)
        for indices, labels in ((e.support, e.support_labels), (e.query, e.query_labels))
    )
    prototypes = np.eye(len(e.classes))[support.labels].T @ network.infer(support.images)[0]
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    found = (network.infer(query.images)[0] @ prototypes.T).argmax(axis=1)
    return float((found == query.labels).mean())


@app.command()
def table(path: Path) -> None:
    """Print a table for each network, and one of what meta-training changes."""
    rows: Rows = defaultdict(lambda: defaultdict(dict))
    sram: dict[tuple[str, str], int] = defaultdict(int)
    with path.open(newline="", encoding="utf-8") as f:
        for r in csv.DictReader(f):
            method = r["method"].partition("@")[0].removesuffix(".json")
            after = 100 * float(r["accuracy_after"])
            rows[r["model"]][method][r["data"], int(r["episode"])] = after
            used = sram[r["model"], method]
            sram[r["model"], method] = max(used, int(r["sram_bytes"]))
    print("\n".join(lines(rows, sram)))


def lines(rows: Rows, sram: dict[tuple[str, str], int]) -> Iterator[str]:
    """Yield the tables."""
    networks = [name for name in rows if not name.startswith(META)]
    order = ["none float", *PAPER]
    for network in networks:
        plain, meta = rows[network], rows[META + network]
        sets = list(dict.fromkeys(data for found in plain.values() for data, _ in found))
        yield f"| {network} | RAM, B | episodes | {' | '.join(sets)} | all | less `none` | paper |"
        yield "|---" + "|---:" * (len(sets) + 5) + "|"
        for title, some, paper in (("", plain, PAPER), (" (meta)", meta, PAPER_META)):
            for method, found in sorted(some.items(), key=lambda x: order.index(x[0])):
                used = sram[network, method]
                cells = [_mean([x for (d, _), x in found.items() if d == data]) for data in sets]
                gain = "" if method.startswith("none") else _difference(found, some["none"])
                known = paper.get(method, {}).get(network, "")
                yield (
                    f"| `{method}`{title} | {f'{used:,}' if used else ''} | {len(found)} | "
                    f"{' | '.join(cells)} | "
                    f"{_interval(list(found.values()))} | {gain} | {known} |"
                )
        yield ""
    every = [name for n in networks for name in (n, META + n)]
    yield f"| `tinytrain` less | {' | '.join(every)} |"
    yield "|---" + "|---:" * len(every) + "|"
    for method in PAPER:
        if method != "tinytrain":
            cells = [_difference(rows[n]["tinytrain"], rows[n][method]) for n in every]
            yield f"| `{method}` | {' | '.join(cells)} |"
    yield ""
    yield f"| meta-training gains | {' | '.join(networks)} |"
    yield "|---" + "|---:" * len(networks) + "|"
    for method in sorted(rows[networks[0]], key=order.index):
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
