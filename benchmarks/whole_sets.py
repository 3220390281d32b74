r"""Whole data sets, as the 256 KB paper trains: the tables of docs/results/studies/whole-sets.md.

    python benchmarks/whole_sets.py run docs/results/data/whole-sets.csv
    python benchmarks/whole_sets.py run docs/results/data/whole-sets.csv --study s2
    python benchmarks/whole_sets.py table docs/results/data/whole-sets.csv
    python benchmarks/whole_sets.py s1 docs/results/data/whole-sets.csv        # and s2, s3, s4
    python benchmarks/extra_memory.py docs/results/data/whole-sets.csv OUT.svg --analytic

All images with the splits of a set, a linear head, 15 passes of which one is warm-up, two kept
views of each image, one update an image.  Where a method names no rate, it has the one that
`kilograd adapt` would choose for it, and three tenths of it where more than late layers learn.

A row is in the file before the next one is begun.  Stopped or killed, the same command goes on;
more methods, sets, seeds and networks may join the file.  What comes first is a table of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rows import append, grouped, head, line, lines_of, paired, shown, stored
from script import script
from shared import load_network
from whole_work import (
    PLANS,
    SETS,
    Arm,
    Learner,
    Row,
    Study,
    blocks_of,
    load,
    main_blocks,
    todo,
)

from kilograd.intervals import interval

app = typer.Typer(add_completion=False)


@app.command()
def run(
    out: Path,
    network: str = "mcunet-5fps",
    study: Study = Study.MAIN,
    sets: str = ",".join((*SETS, "pacs")),
    methods: Annotated[str | None, typer.Option(help="Only these, with spaces between.")] = None,
    seeds: int = 3,
    each_pass: Annotated[bool, typer.Option("--each-pass")] = False,  # noqa: FBT002
) -> None:
    """Learn what the file does not hold yet."""
    done = {r.key for r in lines_of(out, Row)}
    model, blocks = load_network(network), blocks_of(study, network)
    names = None if methods is None else methods.split()
    for name, seed, wanted in todo(blocks, sets.split(","), seeds, names):
        left = [a for a in wanted if (model.name, name, a.method, a.times, seed) not in done]
        if not left:
            continue
        learner = Learner(model, load(name), seed)
        for arm in left:
            row = learner.row(arm, each_pass=each_pass)
            append(out, [row])
            done.add(row.key)
            print(
                f"{name} {seed} {arm.method}: {row.accuracy:.1%} in {row.cpu_seconds} s", flush=True
            )


# ---- tables ----


def by_set(rows: Sequence[Row]) -> dict[str, float]:
    """Return the mean of the seeds for each set."""
    return {
        name: 100 * float(np.mean([r.accuracy for r in own]))
        for name, own in grouped(rows, lambda r: r.data).items()
    }


def less(rows: Sequence[Row], base: Sequence[Row]) -> list[float]:
    """Return, for each set that both have, the mean difference of the seeds that both have."""
    found = {(r.data, r.seed): 100 * r.accuracy for r in rows}
    first = {(r.data, r.seed): 100 * r.accuracy for r in base}
    both = [(key[0], found[key] - first[key]) for key in found if key in first]
    return [float(np.mean([x for _, x in own])) for own in grouped(both, lambda x: x[0]).values()]


def difference(rows: Sequence[Row], base: Sequence[Row]) -> str:
    """Write the mean difference over sets, with its interval, and of how many sets it is."""
    found = less(rows, base)
    return f"{shown(interval(found), '+')} ({len(found)})" if found else ""


def main_rows(path: Path, network: str) -> dict[str, list[Row]]:
    """Return the rows of the main comparison by method, in the order in which they are run."""
    order = [a for b in main_blocks(network) for a in b.arms]
    return rows_by(path, network, order)


def rows_by(path: Path, network: str, wanted: Sequence[Arm]) -> dict[str, list[Row]]:
    """Return the rows of arms by method: those at the rate that an arm has."""
    rows = [r for r in stored(path, Row) if r.model == network and r.data in SETS]
    by_arm = grouped(rows, lambda r: Arm(r.method, r.times))
    return {a.method: by_arm[a] for a in dict.fromkeys(wanted) if a in by_arm}


@app.command()
def table(path: Path, network: str = "mcunet-5fps", less: str = "") -> None:
    """Print accuracy by method and set, and differences over the sets to the methods `less`."""
    found = main_rows(path, network)
    names = [n for n in SETS if any(r.data == n for own in found.values() for r in own)]
    bases = less.split(",") if less else ["head", f"sparse-{PLANS[network][2]}"]
    versus = (f"less `{base}` (sets)" for base in bases)
    print(head(network, "RAM, B", "seeds", *names, *versus, texts=1))
    for method, own in found.items():
        each = by_set(own)
        print(
            line(
                f"`{method}`",
                f"{max(r.sram_bytes for r in own):,}",
                max(
                    len({r.seed for r in some}) for some in grouped(own, lambda r: r.data).values()
                ),
                *(f"{each[n]:.1f}" if n in each else "" for n in names),
                *("" if method == b else difference(own, found.get(b, [])) for b in bases),
            )
        )


@app.command()
def s1(path: Path, network: str = "mcunet-5fps") -> None:
    """Print how far seeds are apart: the deviation of each set, and the mean of them."""
    found = main_rows(path, network)
    print(head(f"{network}, deviation of seeds, points", *SETS, "mean", texts=1))
    for method, own in found.items():
        by = grouped(own, lambda r: r.data)
        spread = {
            n: 100 * float(np.std([r.accuracy for r in by[n]], ddof=1))
            for n in SETS
            if len(by.get(n, [])) > 1
        }
        if spread:
            cells = (f"{spread[n]:.2f} ({len(by[n])})" if n in spread else "" for n in SETS)
            print(line(f"`{method}`", *cells, f"{np.mean(list(spread.values())):.2f}"))


def study_table(path: Path, network: str, study: Study) -> None:
    """Print the arms of a study, compared with the first."""
    blocks = blocks_of(study, network)
    names = blocks[0].sets
    by_method = rows_by(path, network, blocks[0].arms)
    first, *_ = (a.method for a in blocks[0].arms)
    versus = f"less `{first}` (sets)"
    print(head(f"{network}, {study.upper()}", "RAM, B", "rate", "seeds", *names, versus, texts=1))
    for arm in blocks[0].arms:
        if own := by_method.get(arm.method, []):
            each = by_set(own)
            rates = sorted({r.lr for r in own})
            base = by_method.get(first, [])
            print(
                line(
                    f"`{arm.method}`",
                    f"{max(r.sram_bytes for r in own):,}",
                    " to ".join(f"{x:g}" for x in dict.fromkeys((rates[0], rates[-1]))),
                    len({r.seed for r in own}),
                    *(f"{each[n]:.1f}" if n in each else "" for n in names),
                    "" if arm.method == first else difference(own, base),
                )
            )
    if study is Study.S4:
        pairs = [
            (m, paired(seeds_of(by_method[m]), seeds_of(by_method[first])))
            for m in (a.method for a in blocks[0].arms[1:])
            if m in by_method
        ]
        for method, some in (x for x in pairs if len(x[1]) > 1):
            print(f"\n`{method}` less `{first}`, over seeds: {shown(interval(some), '+')}")


def seeds_of(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    """Return accuracy in per cent by set and seed."""
    return {(r.data, r.seed): 100 * r.accuracy for r in rows}


@app.command()
def s2(path: Path, network: str = "mcunet-5fps") -> None:
    """Print the head in float32 beside int8."""
    study_table(path, network, Study.S2)


@app.command()
def s3(path: Path, network: str = "mcunet-5fps") -> None:
    """Print batches with and without momentum."""
    study_table(path, network, Study.S3)


@app.command()
def s4(path: Path, network: str = "mcunet-5fps") -> None:
    """Print what accumulated gradients bring with two classes."""
    study_table(path, network, Study.S4)


if __name__ == "__main__":
    script(app)
