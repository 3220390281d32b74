"""Could an update plan for each task be better than one for all?

A table of docs/results/studies/strategies.md.

    python benchmarks/adaptive.py docs/results/data/strategies.csv compute=15%

Takes what several plans reached on the same stored episodes, and lets something choose a plan for
each episode without having seen it:

- *domain*: the plan that is best on the other episodes of the same data set.  No selection that
  adapts to the kind of images only can be expected to do better.
- *nearest*: the plan that is best on the ten stored episodes of other data sets whose Fisher
  information is spread over the layers most alike.
- *best*: the plan that is best on all episodes of the other data sets: no adaptation.
- *luck*: the best plan after the fact, which no method can know.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from few_shot import (
    dataset,
    interval,
    model,
    read,
)
from numpy.typing import NDArray
from strategies import method

from kilograd.data import Episode
from kilograd.learn.inspect import inspector
from kilograd.learn.training import Schedule, load_samples
from kilograd.select.greedy import INSPECTED

NEIGHBOURS = 10
STATIC, RANDOM = "static-tinytrain-15.json", "tinytrain-random:0"


def profile(network: str, e: Episode) -> NDArray[np.float64]:
    """Return the logarithms of the layers' shares of Fisher information."""
    found = model(network)
    layers = found.layers[-INSPECTED:]
    support = load_samples(dataset(e.dataset), e.support, e.support_labels, found.preprocess)
    fisher = inspector(found, support, Schedule(seed=e.seed)).fisher(layers)
    potential = np.array([fisher[x].sum(dtype="float64") for x in layers])
    return np.log(potential / potential.sum())


def main() -> None:
    """Print the table."""
    file, budget = Path(sys.argv[1]), sys.argv[2]
    rows = [r for r in read(file) if r.budget == budget]
    keys = list(dict.fromkeys((r.data, r.episode) for r in rows))
    known = {(r.recipe, r.data, r.episode): r.after for r in rows}
    plans = {r.recipe: method(r) for r in rows if all((r.recipe, *k) in known for k in keys)}
    after = np.array([[known[(p, *k)] for p in plans] for k in keys])
    names = list(plans.values())
    sets = np.array([data for data, _ in keys])
    lines = file.with_suffix(".episodes.jsonl").read_text(encoding="utf-8").splitlines()
    episodes = {(e.dataset, e.seed): e for e in map(Episode.from_json, lines)}
    profiles = np.array([profile(rows[0].model, episodes[k]) for k in keys])
    chosen: dict[str, list[int]] = {"domain": [], "nearest": [], "best": [], "luck": []}
    for i, _ in enumerate(keys):
        others = (sets == sets[i]) & (np.arange(len(keys)) != i)
        foreign = np.flatnonzero(sets != sets[i])
        distance = ((profiles[foreign] - profiles[i]) ** 2).sum(axis=1)
        near = foreign[np.argsort(distance)[:NEIGHBOURS]]
        for name, some in (("domain", others), ("nearest", near), ("best", foreign)):
            chosen[name].append(int(after[some].mean(axis=0).argmax()))
        chosen["luck"].append(int(after[i].argmax()))
    print("| chosen by | accuracy | less static plan | less random channels |")
    print("|---|---|---|---|")
    for name, places in chosen.items():
        got = after[np.arange(len(keys)), places]
        cells = [
            "{:+.1f} ± {:.1f}".format(*interval(list(got - after[:, names.index(other)])))
            for other in (STATIC, RANDOM)
        ]
        print(f"| {name} | {100 * got.mean():.1f} | {' | '.join(cells)} |")
    print(f"\n{len(keys)} episodes, {len(plans)} plans: {', '.join(names)}")


if __name__ == "__main__":
    main()
