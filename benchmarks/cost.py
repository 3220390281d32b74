"""Fill docs/results/studies/cost.md: published costs, and what three conventions give.

    python benchmarks/cost.py

Needs the model folders: KILOGRAD_SHARED, by default ../shared.  With `--check` it needs none, and
says whether a table is stale, that of compiled programs excepted; it writes nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from script import script

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from costs import (  # noqa: E402 the tests are no package
    MIB,
    NETWORKS,
    POSSIBLE,
    SUPPOSED,
    TINY_TL,
    Figure,
    Modules,
    figures,
    last,
    possible_plan,
    published_plan,
    table,
    tiny_tl_work,
)

from kilograd.frontend import load_model  # noqa: E402
from kilograd.learn.recipe import Recipe  # noqa: E402
from kilograd.report.cost import count  # noqa: E402
from kilograd.select import PLANS, Selection  # noqa: E402
from kilograd.select.cost import Convention, full_train, tinytrain, tte  # noqa: E402
from kilograd.settings import HeadKind  # noqa: E402

SHARED = Path(os.environ.get("KILOGRAD_SHARED", ROOT.parent / "shared"))
PAGE = ROOT / "docs" / "results" / "studies" / "cost.md"


def source(name: str) -> Iterator[str]:
    """Yield a row for each figure of a source, and a column for each network."""
    chosen = [f for f in figures() if f.source == name]
    yield f"| | {' | '.join(NETWORKS)} |"
    yield "|---|" + "---|" * len(NETWORKS)
    for what in dict.fromkeys(f.what for f in chosen):
        cells = {f.network: cell(f) for f in chosen if f.what == what}
        yield f"| {what} | {' | '.join(cells[n] for n in NETWORKS)} |"


def cell(f: Figure) -> str:
    """Return a figure that is met, or what is printed and what is found."""
    printed = f"{f.printed} {f.unit}".rstrip()
    if f.agrees:
        return f"{printed} ({f.choice} is not printed)" if f.choice else printed
    return f"{printed} printed, " + (f"{f.rounded} found" if f.rounded else "*not met*")


def tally() -> Iterator[str]:
    """Yield how many figures are met, with and without a choice, how many explained, and open."""
    every = list(figures())
    met = [f for f in every if f.agrees]
    chosen = [f for f in met if f.choice]
    apart = [f for f in every if not f.agrees and f.found is not None]
    yield (
        f"{len(met)} of {len(every)} met, {len(apart)} explained, "
        f"{len(every) - len(met) - len(apart)} open. "
        f"Of those met, {len(chosen)} are by a choice that is not printed."
    )


def labels() -> Iterator[str]:
    yield "| network | what | printed | analytic memory |"
    yield "|---|---|---|---|"
    for f in figures():
        if f.source.startswith("tiny-training"):
            yield f"| {f.network} | {f.what} | {f.printed} KB | {f.found:.2f} KB |"


def last_layers() -> Iterator[str]:
    counts = (3, 6, 9, 12, 15, 36)
    yield f"| network | {' | '.join(f'k = {k}' for k in counts)} | all |"
    yield "|---|" + "---|" * (len(counts) + 1)
    for name in NETWORKS:
        network = table(name, mix=False)
        totals = [tte(network, last(network, k)).memory.total for k in (*counts, len(network))]
        yield f"| {name} | {' | '.join(f'{t / 1024:,.1f}' for t in totals)} |"


def full_training() -> Iterator[str]:
    yield "| network | printed | all in float32, batch norms too | masks, no batch norm |"
    yield "|---|---|---|---|"
    for f in figures():
        if f.what == "FullTrain, memory":
            network = table(f.network)
            full = full_train(network)
            one = tinytrain(network, last(network, len(network))).memory
            learned = full.memory.weights + (full.memory.optimizer or 0)
            low = full.batch * ((one.saved_inputs or 0) + (one.masks or 0)) + learned
            sizes = (full.memory.total, low)
            cells = " | ".join(f"{s / MIB:,.1f} MB" for s in sizes)
            yield f"| {f.network} | {f.printed} MB | {cells} |"


def sparse_update() -> Iterator[str]:
    """Yield all published plans of the networks whose row none of them gives, and one that does."""
    rows = [f for f in figures() if f.what.startswith("SparseUpdate") and f.choice]
    yield "| network | plan | memory | compute |"
    yield "|---|---|---|---|"
    for name in dict.fromkeys(f.network for f in rows):
        printed = " | ".join(f"**{f.printed} {f.unit}**" for f in rows if f.network == name)
        yield f"| {name} | **printed** | {printed} |"
        plans = {f"sparse-{label}": published_plan(name, label) for label in PLANS[name]}
        shares = ", ".join(f"{n.removeprefix('blocks.')} {s:g}" for n, s in POSSIBLE[name].items())
        for label, plan in {**plans, shares: possible_plan(name)}.items():
            cost = tinytrain(table(name), plan)
            memory, work = cost.memory.total / MIB, cost.macs.backward / 1e6
            yield f"| {name} | {label} | {memory:.2f} MB | {work:.2f} M |"


def tiny_tl() -> Iterator[str]:
    """Yield the work of TinyTL by how modules are made: those that meet two figures or more."""
    how = "| kernel | times as wide | groups | blocks without | last convolution |"
    yield f"{how} {' | '.join(NETWORKS)} |"
    yield "|---|---|---|---|---|" + "---|" * len(NETWORKS)
    yield f"| **printed** | | | | | {' | '.join(f'**{w} M**' for w in TINY_TL.values())} |"
    for how, mix in SUPPOSED:
        found = tiny_tl_work(how, mix=mix)
        met = sum(round(found[name], 1) == printed for name, printed in TINY_TL.items())
        if met > 1 or how == Modules(zoom=1):
            cells = " | ".join(f"{w:.2f} M" for w in found.values())
            last = "yes" if mix else "no"
            yield f"| {how.kernel} | {how.zoom} | {how.groups} | {how.first} | {last} | {cells} |"


def implied_weights() -> Iterator[str]:
    """Yield how many weights the memory of TinyTrain's rows has room for, by its two decimals."""
    yield "| network | printed | room for weights |"
    yield "|---|---|---|"
    for f in figures():
        if f.what == "TinyTrain, memory":
            room = float(f.printed) * MIB - tinytrain(table(f.network), Selection()).memory.total
            half = 0.005 * MIB
            least, most = ((room + d) / 16 / 1000 for d in (-half, half))
            yield f"| {f.network} | {f.printed} MB | {least:.1f} to {most:.1f} thousand |"


def conventions() -> Iterator[str]:
    yield "| network | plan | `tinytrain`, B | `tte`, B | `kilograd`, B | work | work | work |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, plans in PLANS.items():
        model = load_model(str(SHARED / "models" / name))
        for label in plans:
            method = f"sparse-{label}"
            costs = [
                count(model, Recipe(method, 10), Convention.TINYTRAIN),
                count(model, Recipe(method, 10), Convention.TTE),
                count(model, Recipe(method, 10, HeadKind.LINEAR), Convention.KILOGRAD),
            ]
            sizes = " | ".join(f"{c.memory.total:,}" for c in costs)
            work = " | ".join(f"{c.macs.backward / 1e6:.2f}" for c in costs)
            yield f"| {name} | {method} | {sizes} | {work} |"


def fill(page: str, name: str, rows: Iterator[str]) -> str:
    """Replace the table that stands between its marks."""
    block = "\n".join([f"<!-- {name} -->", "", *rows, "", "<!-- end -->"])
    filled, found = re.subn(
        rf"<!-- {name} -->.*?<!-- end -->", lambda _: block, page, flags=re.DOTALL
    )
    assert found == 1, f"{PAGE} has {found} places for {name}"
    return filled


def main() -> None:
    check = sys.argv[1:] == ["--check"]
    old = page = PAGE.read_text("utf-8")
    page = fill(page, "table 3", source("TinyTrain, Table 3"))
    page = fill(page, "table 7", source("TinyTrain, Table 7"))
    page = fill(page, "table 2", source("TinyTrain, Table 2"))
    page = fill(page, "buffers", source("TinyTrain, F.1"))
    page = fill(page, "labels", labels())
    page = fill(page, "last layers", last_layers())
    page = fill(page, "full training", full_training())
    page = fill(page, "sparse update", sparse_update())
    page = fill(page, "tinytl", tiny_tl())
    page = fill(page, "count", tally())
    page = fill(page, "implied weights", implied_weights())
    print(*tally())
    if check:
        sys.exit(f"{PAGE} is stale: python benchmarks/cost.py" if page != old else 0)
    PAGE.write_text(fill(page, "conventions", conventions()), "utf-8")


if __name__ == "__main__":
    script(main)
