"""How many known images a threshold keeps, and how many unknown ones it refuses.

    python benchmarks/unknown.py caltech101.parquet omniglot.parquet --episodes 10

Of each set, classes are drawn: half of them (five at most) are learned, as many others are shown
afterwards.  Prints a row for each set, head and number of shots.  Needs the model folders:
KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rows import head, line
from script import script
from shared import load_network

from kilograd.data import Augment, Dataset, Episode, load_dataset
from kilograd.ir import Array
from kilograd.learn.adapt import Outcome, Task, load_task, train
from kilograd.learn.confidence import confidences
from kilograd.learn.recipe import compile_recipe
from kilograd.learn.training import load_samples
from kilograd.select import Budget
from kilograd.settings import OptimizerKind, Recipe, Schedule
from kilograd.targets import Driver

MOST = 12  # test images of a class
KINDS = {
    "none": (OptimizerKind.SGD, Schedule(0)),
    "sparse-49kb": (OptimizerKind.ROWRMS, Schedule(10, 0.003, Augment.NOFLIP)),
    "head": (OptimizerKind.ADAM, Schedule(30, 0.03, Augment.NOFLIP)),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--network", default="mcunet-5fps")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--methods", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    columns = ("set", "method", "shots", "classes", "accuracy, %", "known kept, %")
    print(head(*columns, "unknown refused, %", "AUROC", texts=2))
    for data in given.data:
        dataset = load_dataset(data)
        for shots in given.shots:
            for method in given.methods:
                row = _row(dataset, given.network, method, shots, given.episodes)
                if row:
                    print(line(dataset.name, f"`{method}`", shots, *row), flush=True)


def _row(
    dataset: Dataset, network: str, method: str, shots: int, episodes: int
) -> Sequence[object]:
    """Return what is found of a set; nothing where it has too few images."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    usable = np.flatnonzero(counts >= shots + 5)
    ways = min(5, len(usable) // 2)
    if ways < 2:
        return ()
    optimizer, schedule = KINDS[method]
    model = load_network(network)
    compiled = compile_recipe(model, Recipe(method, ways, None, optimizer), Budget())
    found = []
    for seed in range(episodes):
        rng = np.random.default_rng(seed)
        classes = rng.permutation(usable)[: 2 * ways]
        task, strangers = _task(dataset, compiled.model.preprocess, classes, shots, rng)
        outcome = train(compiled, task, replace(schedule, seed=seed))
        found.append(_of(outcome, task.query.images, strangers))
    mean = 100 * np.mean(found, axis=0)
    return (ways, *(f"{x:.1f}" for x in mean[:3]), f"{mean[3] / 100:.2f}")


def _task(
    dataset: Dataset, preprocess: object, classes: Array, shots: int, rng: np.random.Generator
) -> tuple[Task, Array]:
    ways = len(classes) // 2
    order = [rng.permutation(np.flatnonzero(dataset.labels == c)).tolist() for c in classes]
    support = [(i, way) for way in range(ways) for i in order[way][:shots]]
    query = [(i, way) for way in range(ways) for i in order[way][shots : shots + MOST]]
    names = tuple(dataset.classes[c] for c in classes[:ways])
    (s, sl), (q, ql) = (tuple(zip(*pairs, strict=True)) for pairs in (support, query))
    episode = Episode(dataset.name, names, s, sl, q, ql, 0)
    strange = tuple(i for each in order[ways:] for i in each[:MOST])
    images = load_samples(dataset, strange, (0,) * len(strange), preprocess).images
    return load_task(dataset, episode, preprocess), images


def _of(outcome: Outcome, known: Array, strange: Array) -> tuple[float, ...]:
    """Return accuracy, the share of known images kept, of unknown ones refused, and the AUROC."""
    adapted = outcome.adapted
    driver, kind = Driver(adapted.host()), adapted.compiled.training.head
    sure, unsure = (
        confidences(np.stack([driver.infer(x) for x in images]), kind)
        for images in (known, strange)
    )
    least = adapted.threshold or 0.0
    above = (sure[:, None] > unsure).mean() + (sure[:, None] == unsure).mean() / 2
    share = outcome.tested.share.accuracy
    return share, float((sure >= least).mean()), float((unsure < least).mean()), float(above)


if __name__ == "__main__":
    script(main)
