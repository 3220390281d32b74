"""Every method with and without meta-training: the tables of docs/results/studies/equal-footing.md.

    python benchmarks/rows.py keep FOLDER RESULTS.csv
    python benchmarks/equal_footing.py floats FOLDER DATA NETWORK,... RESULTS.csv
    python benchmarks/equal_footing.py table RESULTS.csv | \
        python benchmarks/fill.py docs/results/studies/equal-footing.md

FOLDER is that of a `kilograd evaluate` whose networks are NAME and meta-NAME.
`floats` adds what the features of the same networks do in float32, without learning; it needs
PyTorch (pip install torch), and DATA, a folder of NAME.parquet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import typer
from rows import after, append, grouped, head, line, paired, read, shown
from script import script

from kilograd.data import load_dataset, read_episodes
from kilograd.frontend import load_model
from kilograd.intervals import interval
from kilograd.learn.adapt import Task, load_task
from kilograd.offline.network import FloatNetwork
from kilograd.study.evaluate import EPISODES
from kilograd.study.work import Row

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
ORDER = ["none float", *PAPER]
app = typer.Typer(add_completion=False)
Found = dict[tuple[str, int], float]
"""Accuracy in per cent, by data set and episode."""
Rows = dict[str, dict[str, Found]]
"""The same by network and method."""


@app.command()
def floats(folder: Path, data: Path, networks: str, out: Path) -> None:
    """Append rows of the method `none float`: prototypes of float32 features."""
    episodes = read_episodes(folder / EPISODES, "FOLDER")
    sets = {name: load_dataset(data / f"{name}.parquet") for name in {e.dataset for e in episodes}}
    for model in map(load_model, networks.split(",")):
        network = FloatNetwork(model.graph)
        for e in episodes:
            right = share(network, load_task(sets[e.dataset], e, model.preprocess))
            key = e.dataset, model.name, "none float", e.seed
            append(out, [Row(*key, len(e.classes), right, right, 0, 0, 0, 0)])


def share(network: FloatNetwork, task: Task) -> float:
    """Return the share of the query that is nearest to the prototype of its class."""
    labels = np.eye(len(task.episode.classes))[task.support.labels]
    prototypes = labels.T @ network.infer(task.support.images)[0]
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    found = (network.infer(task.query.images)[0] @ prototypes.T).argmax(axis=1)
    return float((found == task.query.labels).mean())


@app.command()
def table(path: Path) -> None:
    """Print a table for each network, and one of what meta-training changes."""
    rows: Rows = {}
    sram: dict[tuple[str, str], int] = {}
    by_method = grouped(read(path), lambda r: (r.model, r.name.removesuffix(".json")))
    for (model, method), own in by_method.items():
        found = {key: 100 * x for key, x in after(own).items()}
        rows.setdefault(model, {})[method] = found
        sram[model, method] = max(r.sram_bytes for r in own)
    networks = [name for name in rows if not name.startswith(META)]
    for name in networks:
        print("\n".join([*network_table(name, rows, sram), ""]))
    every = [name for n in networks for name in (n, META + n)]
    print(head("`tinytrain` less", *every, texts=1))
    for method in filter(lambda method: method != "tinytrain", PAPER):
        gains = [difference(rows[n]["tinytrain"], rows[n].get(method, {})) for n in every]
        print(line(f"`{method}`", *gains))
    print()
    print(head("meta-training gains", *networks, texts=1))
    for method in sorted(rows[networks[0]], key=ORDER.index):
        gains = [
            difference(rows[META + n].get(method, {}), rows[n].get(method, {})) for n in networks
        ]
        print(line(f"`{method}`", *gains))


def network_table(name: str, rows: Rows, sram: dict[tuple[str, str], int]) -> Iterator[str]:
    """Yield the table of a network, without meta-training and with it."""
    sets = list(dict.fromkeys(data for found in rows[name].values() for data, _ in found))
    yield head(name, "RAM, B", "episodes", *sets, "all", "less `none`", "paper", texts=1)
    for title, some, paper in (
        ("", rows[name], PAPER),
        (" (meta)", rows[META + name], PAPER_META),
    ):
        for method, found in sorted(some.items(), key=lambda x: ORDER.index(x[0])):
            each = [[x for (d, _), x in found.items() if d == data] for data in sets]
            yield line(
                f"`{method}`{title}",
                f"{sram[name, method]:,}" if sram[name, method] else "",
                len(found),
                *(f"{interval(x).mean:.1f}" if x else "" for x in each),
                shown(interval(list(found.values()))),
                "" if method.startswith("none") else difference(found, some["none"]),
                paper.get(method, {}).get(name, ""),
            )


def difference(found: Found, base: Found) -> str:
    """Write the mean difference on the episodes that both have."""
    both = paired(found, base)
    return shown(interval(both), "+") if len(both) > 1 else ""


if __name__ == "__main__":
    script(app)
