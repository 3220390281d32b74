"""Procedures side by side, on any networks: the tables of `kilograd evaluate`'s rows.

    python benchmarks/rows.py keep OUT docs/results/data/procedures-networks.csv
    python benchmarks/procedures_networks.py docs/results/data/procedures-networks.csv

A method's options say by which procedure it learned.  One table for the sets on which rates are
chosen, one for those on which they are tested; each with accuracies in per cent, the gain over no
training, and the difference to the first procedure of the same method, on the same episodes;
95 % intervals (Student's t) are over episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import typer
from rows import Row, after, grouped, head, line, paired, read, shown
from script import script

from kilograd.intervals import interval
from kilograd.settings import OptimizerKind, Recipe, Settings
from kilograd.sizes import ram_of

OURS = "rowrms, 10 passes, batch 1"
CHOSEN_ON = ("sign_digits", "cifar100", "pacs")
ROOM = ram_of("256K", "sram")


def procedure(method: str) -> str:
    """Return how a method learned, in words.

    >>> procedure("full@lr=0.001,optimizer=adam,iterations=40,accumulate=100")
    'Adam, 40 passes, batch 100'
    """
    given = Settings().varied(method)
    recipe, passes = given.recipe, given.schedule.iterations
    if recipe.method == "none":
        return ""
    rule = "Adam" if recipe.optimizer is OptimizerKind.ADAM else recipe.optimizer.value
    parts = [rule, f"{passes} passes", _batch(recipe)]
    if recipe.state_bits < 32:
        parts.append(f"{recipe.state_bits} bits")
    if given.limits.sram is not None:
        parts.append(f"RAM {given.limits.sram}")
    return ", ".join(parts)


def _order(row: Row) -> tuple[bool, int, int, float]:
    given = Settings().varied(row.method)
    recipe = given.recipe
    adam = recipe.optimizer is OptimizerKind.ADAM
    return adam, recipe.accumulate, -recipe.state_bits, given.schedule.lr


def _batch(recipe: Recipe) -> str:
    whole = "whole support" if recipe.accumulate >= 1000 else f"batch {recipe.accumulate}"
    return f"{whole}, exact prototypes" if recipe.prototype_gradients else whole


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield both tables, and what PMF's procedure gains over ours on all networks together."""
    for chosen in (True, False):
        some = [r for r in rows if (r.data in CHOSEN_ON) == chosen]
        yield from _table(some)
        yield ""
    yield head("method", "procedure", "less", "episodes", "difference", texts=3)
    for name, own in grouped(rows, lambda r: r.name).items():
        ways = grouped(own, lambda r: procedure(r.method))
        for way, mine in ways.items():
            if "whole support" in way and OURS in ways:
                gains = _over_networks(mine, ways[OURS])
                yield line(f"`{name}`", way, OURS, len(gains), shown(interval(gains), "+z"))


def _over_networks(rows: Sequence[Row], base: Sequence[Row]) -> list[float]:
    """Return differences in points, an episode each: the mean over the networks that have both."""
    before = {(r.model, r.data, r.episode): r.accuracy_after for r in base}
    both = [r for r in rows if (r.model, r.data, r.episode) in before]
    return [
        100 * fmean(r.accuracy_after - before[r.model, r.data, r.episode] for r in own)
        for own in grouped(both, lambda r: (r.data, r.episode)).values()
    ]


def _table(rows: Sequence[Row]) -> Iterator[str]:
    sets = list(dict.fromkeys(r.data for r in rows))
    costs = "RAM, B", "in 256 KB", "weights"
    yield head(
        "network",
        "method",
        "procedure",
        "rate",
        *costs,
        *sets,
        "all",
        "gain",
        "episodes",
        "less first",
        texts=4,
    )
    for (model, name), own in sorted(grouped(rows, lambda r: (r.model, r.name)).items()):
        ways = grouped(sorted(own, key=_order), lambda r: r.method)
        first = after(next(iter(ways.values())))
        for method, mine in ways.items():
            found = after(mine)
            gains = [100 * x for x in paired(found, first)]
            most = max(r.sram_bytes for r in mine)
            by_data = grouped(mine, lambda r: r.data)
            yield line(
                model,
                f"`{name}`",
                procedure(method),
                mine[0].rate,
                f"{most:,}",
                "yes" if most <= ROOM else "no",
                f"{max(r.learned_parameters for r in mine):,}",
                *(_mean(by_data.get(name, [])) for name in sets),
                shown(interval([100 * x for x in found.values()])),
                shown(interval([100 * (r.accuracy_after - r.accuracy_before) for r in mine]), "+z"),
                len(mine),
                "" if found == first else shown(interval(gains), "+z"),
            )


def _mean(rows: Sequence[Row]) -> str:
    return shown(interval([100 * r.accuracy_after for r in rows])).partition(" ")[0] if rows else ""


def main(results: Path) -> None:
    """Print the tables of a file of rows."""
    print("\n".join(tables(read(results))))


if __name__ == "__main__":
    script(lambda: typer.run(main))
