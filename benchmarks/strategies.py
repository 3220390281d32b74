"""Ways to choose what learns, at equal budgets: docs/results/studies/strategies.md.

    python benchmarks/strategies.py static cifar100,pacs mcunet-5fps tinytrain PLAN.json --sram 128K
    python benchmarks/strategies.py tables docs/results/data/strategies.csv | \
        python benchmarks/fill.py docs/results/studies/strategies.md
    python benchmarks/strategies.py adaptive docs/results/data/strategies.csv compute=15%

`static` writes the plan that a method makes of the mean information of several data sets.
`tables` prints a table for each budget; a method that knows none stands in each that it is within.
`adaptive` lets something choose a plan for each episode without having seen it:

- *domain*: the plan that is best on the other episodes of the same data set.  No selection that
  adapts to the kind of images only can be expected to do better.
- *nearest*: the plan that is best on the ten stored episodes of other data sets whose Fisher
  information is spread over the layers most alike.
- *best*: the plan that is best on all episodes of the other data sets: no adaptation.
- *luck*: the best plan after the fact, which no method can know.

Needs the model and data folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import typer
from rows import Row, after, grouped, head, line, paired, percent, read, shown
from script import script
from shared import load_images, load_network

from kilograd.data import Draw, Episode, read_episodes
from kilograd.errors import InputError
from kilograd.ir import Array
from kilograd.learn.adapt import load_task
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import compile_recipe
from kilograd.ops import Depthwise
from kilograd.select import Budget, Inspect, write_plan
from kilograd.select.greedy import INSPECTED
from kilograd.settings import Limits, Settings

AGAINST = "tinytrain"
NEIGHBOURS = 10
STATIC, RANDOM = "static-tinytrain-15.json", "tinytrain-random:0"
app = typer.Typer(add_completion=False)


def information(name: str, e: Episode, settings: Settings) -> Mapping[str, Array]:
    """Return what the support of an episode says of the channels of the last layers."""
    model = load_network(name)
    support = load_task(load_images(e.dataset), e, model.preprocess).support
    schedule = settings.numbered(e.seed).schedule
    return inspector(model, support, schedule).fisher(model.layers[-INSPECTED:])


# ---- one plan for all tasks ----


@app.command()
def static(
    data: str,
    name: str,
    method: str,
    out: Path,
    episodes: int = 6,
    first: int = 100,
    sram: str | None = None,
    compute: str | None = None,
    channels: float | None = None,
) -> None:
    """Write the plan that a method makes of the mean information over many episodes.

    Each episode counts the same: its information is divided by its sum first.
    """
    settings = Settings(limits=Limits(sram, compute, channels)).varied(method)
    total: dict[str, Array] = {}
    for images in map(load_images, data.split(",")):
        for seed in range(first, first + episodes):
            fisher = information(name, Draw()(images, seed), settings)
            sum_ = sum(float(v.sum(dtype="float64")) for v in fisher.values())
            total = {x: v / sum_ + total.get(x, 0) for x, v in fisher.items()}
    mean = {x: v.astype(np.float32) for x, v in total.items()}

    def unknown(layers: tuple[str, ...]) -> Mapping[str, Array]:
        raise InputError(f"{method}: asks for steps, of which there is no mean; give another")

    inspect = Inspect(lambda asked: {x: mean[x] for x in asked}, unknown)
    model = load_network(name)
    made = compile_recipe(model, settings.recipe, settings.budget(model), inspect)
    write_plan(out, name, model.graph, made.selection)
    print(f"{out}: {made.program.sram_bytes:,} B, {made.backward_macs:,} MACs backward")


# ---- methods at equal budgets ----


@app.command()
def tables(results: Path) -> None:
    """Print a table for each budget, and which layers were chosen."""
    rows = read(results)
    print("\n".join([*budget_tables(rows), *choices(rows)]))


def budget_tables(rows: list[Row]) -> Iterator[str]:
    """Yield a table for each budget."""
    sets, model = list(dict.fromkeys(r.data for r in rows)), load_network(rows[0].model)
    for text in dict.fromkeys(r.budget for r in rows if r.budget):
        budget = Settings.of(**dict(x.split("=") for x in text.split())).budget(model)
        mine = grouped((r for r in rows if r.budget in {text, ""}), lambda r: r.name)
        gains = {name: paired(after(some), after(mine[AGAINST])) for name, some in mine.items()}
        names = ("rate", "RAM, B", "MACs", "weights", "episodes", *sets, "all")
        yield head(text, *names, f"less `{AGAINST}`", texts=2)
        for name in sorted(mine, key=lambda name: -float(np.mean(gains[name]))):
            if within(budget, mine[name]):
                yield method_line(mine[name], sets, gains[name])
        yield ""


def within(budget: Budget, found: list[Row]) -> bool:
    """Return whether no row is over a budget."""
    sram, macs = max(r.sram_bytes for r in found), max(r.backward_macs for r in found)
    return (budget.sram is None or sram <= budget.sram) and (
        budget.compute is None or macs <= budget.compute
    )


def method_line(found: list[Row], sets: list[str], gains: list[float]) -> str:
    """Return the line of a method."""
    each = [[r.accuracy_after for r in found if r.data == data] for data in sets]
    return line(
        f"`{found[0].name}`",
        found[0].rate,
        f"{max(r.sram_bytes for r in found):,}",
        f"{max(r.backward_macs for r in found) / 1e6:.1f} M",
        f"{max(r.learned_parameters for r in found):,}",
        len(found),
        *(f"{100 * np.mean(some):.1f}" if some else "" for some in each),
        shown(percent([r.accuracy_after for r in found])),
        "" if found[0].name == AGAINST else shown(percent(gains), "+"),
    )


def choices(rows: list[Row]) -> Iterator[str]:
    """Yield how often each layer is chosen, by strategy and budget; d marks a depthwise one."""
    model = load_network(rows[0].model)
    deep = [isinstance(model.graph[layer].op, Depthwise) for layer in model.layers]
    yield line("budget", "strategy", "episodes", "layers chosen in all episodes", "in some (share)")
    yield "|---|---|---:|---|---|"
    chosen = (r for r in rows if r.budget and r.layers)
    for (budget, name), found in grouped(chosen, lambda r: (r.budget, r.name)).items():
        seen = Counter(int(x) for r in found for x in r.layers.split())
        named = {x: f"{x}{'d' if deep[x] else ''}" for x in sorted(seen)}
        always = [text for x, text in named.items() if seen[x] == len(found)]
        some = [
            f"{text} ({seen[x] / len(found):.0%})"
            for x, text in named.items()
            if seen[x] < len(found)
        ]
        yield line(budget, f"`{name}`", len(found), " ".join(always), ", ".join(some))


# ---- a plan for each task ----


@app.command()
def adaptive(results: Path, budget: str) -> None:
    """Print what choosing among plans without having seen the episode is worth."""
    rows = [r for r in read(results) if r.budget == budget]
    keys = list(dict.fromkeys((r.data, r.episode) for r in rows))
    known = {(r.method, r.data, r.episode): r.accuracy_after for r in rows}
    plans = {r.method: r.name for r in rows if all((r.method, *k) in known for k in keys)}
    reached = np.array([[known[(p, *k)] for p in plans] for k in keys])
    names = list(plans.values())
    sets = np.array([data for data, _ in keys])
    stored = read_episodes(results.with_suffix(".episodes.jsonl"), "RESULTS")
    episodes = {(e.dataset, e.seed): e for e in stored}
    profiles = np.array([profile(rows[0].model, episodes[k]) for k in keys])
    chosen: dict[str, list[int]] = {"domain": [], "nearest": [], "best": [], "luck": []}
    for i, _ in enumerate(keys):
        others = (sets == sets[i]) & (np.arange(len(keys)) != i)
        foreign = np.flatnonzero(sets != sets[i])
        distance = ((profiles[foreign] - profiles[i]) ** 2).sum(axis=1)
        near = foreign[np.argsort(distance)[:NEIGHBOURS]]
        for name, some in (("domain", others), ("nearest", near), ("best", foreign)):
            chosen[name].append(int(reached[some].mean(axis=0).argmax()))
        chosen["luck"].append(int(reached[i].argmax()))
    print(head("chosen by", "accuracy", "less static plan", "less random channels", texts=4))
    for name, places in chosen.items():
        got = reached[np.arange(len(keys)), places]
        less = [got - reached[:, names.index(other)] for other in (STATIC, RANDOM)]
        gains = (shown(percent(x.tolist()), "+") for x in less)
        print(line(name, f"{100 * got.mean():.1f}", *gains))
    print(f"\n{len(keys)} episodes, {len(plans)} plans: {', '.join(names)}")


def profile(name: str, e: Episode) -> Array:
    """Return the logarithms of the layers' shares of Fisher information."""
    fisher = information(name, e, Settings())
    potential = np.array([x.sum(dtype="float64") for x in fisher.values()])
    return np.log(potential / potential.sum())


if __name__ == "__main__":
    script(app)
