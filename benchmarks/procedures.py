"""Ways to fine-tune, on the same episodes: kept latents, and gradients through prototypes.

    python benchmarks/procedures.py digits digits last:6 --passes 30 --lr 0.01 --episodes 40
    python benchmarks/procedures.py DATA.parquet mcunet-5fps sparse-49kb --prototypes --lr 0.0003

The first compares fresh views of each image with a few that are kept, one image an update by
plain gradient descent.  With --prototypes: prototypes detached and exact, one Adam step a pass.
DATA `digits` are the handwritten digits of the demo.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from kilograd.cli.commands import DEMO_DIGITS
from kilograd.frontend import load_model
from kilograd.learn.adapt import Schedule, Summary, adapt
from kilograd.learn.augment import Augment
from kilograd.learn.data import load_dataset
from kilograd.learn.digits import load_digits
from kilograd.learn.episodes import sample_episode
from kilograd.learn.recipe import OptimizerKind, Recipe, compile_recipe
from kilograd.learn.statistics import Interval, interval
from kilograd.select import Budget

WAYS, SHOTS = 5, 5


@dataclass(frozen=True)
class Way:
    """A way to fine-tune, and its name in the table."""

    name: str
    recipe: Recipe


def kept(method: str) -> list[Way]:
    """Fresh views, and some that are kept."""
    return [
        Way("fresh" if not views else f"{views} kept", Recipe(method, WAYS, cache=views))
        for views in (0, 1, 2, 4, 8)
    ]


def prototypes(method: str) -> list[Way]:
    """Prototypes detached, and exact."""
    return [
        Way(
            "exact" if exact else "detached",
            Recipe(
                method,
                WAYS,
                optimizer=OptimizerKind.ADAM,
                accumulate=1000,
                prototype_gradients=exact,
            ),
        )
        for exact in (False, True)
    ]


def main() -> None:
    """Print a table; differences are to the first way, episode by episode."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("data")
    ask.add_argument("model")
    ask.add_argument("method")
    ask.add_argument("--prototypes", action="store_true")
    ask.add_argument("--lr", type=float, required=True)
    ask.add_argument("--passes", type=int, default=40)
    ask.add_argument("--episodes", type=int, default=10)
    ask.add_argument("--seed", type=int, default=0, help="of the first episode")
    ask.add_argument("--augment", type=Augment, default=Augment.NOFLIP)
    given = ask.parse_args()
    data = load_digits(DEMO_DIGITS) if given.data == "digits" else load_dataset(Path(given.data))
    model = load_model(given.model)
    ways = (prototypes if given.prototypes else kept)(given.method)
    found: dict[str, list[Summary]] = {way.name: [] for way in ways}
    seconds = dict.fromkeys(found, 0.0)
    programs = {way.name: compile_recipe(model, way.recipe, Budget()) for way in ways}
    for seed in range(given.seed, given.seed + given.episodes):
        episode = sample_episode(data, ways=WAYS, shots=SHOTS, queries=40, seed=seed)
        schedule = Schedule(given.passes, given.lr, given.augment, seed)
        for name, compiled in programs.items():
            start = time.process_time()
            found[name].append(adapt(compiled, data, episode, schedule).summary)
            seconds[name] += time.process_time() - start
    first = found[ways[0].name]
    before = interval([100 * s.accuracy_before for s in first])
    print(f"before: {_cell(before)} % in {given.episodes} episodes\n")
    print(f"| way | after, % | less {ways[0].name} | MACs of training | RAM, B | CPU s |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, own in found.items():
        after = interval([100 * s.accuracy_after for s in own])
        gains = [
            100 * (a.accuracy_after - b.accuracy_after) for a, b in zip(own, first, strict=True)
        ]
        less = "" if own is first else _cell(interval(gains), "+")
        s = own[0]
        each = seconds[name] / given.episodes
        size = f"{s.macs_training / 1e6:,.0f} M | {s.sram_bytes:,} | {each:.2f}"
        print(f"| {name} | {_cell(after)} | {less} | {size} |", flush=True)


def _cell(of: Interval, sign: str = "") -> str:
    half = "" if of.half is None else f" ± {of.half:.1f}"
    return f"{of.mean:{sign}.1f}{half}"


if __name__ == "__main__":
    main()
