"""How good the searches are, and how far predictions are off: docs/results/studies/search.md.

    python benchmarks/search.py course [CONTRIBUTION.json]   # the best gain after N samples
    python benchmarks/search.py course [CONTRIBUTION.json] --convention tte --sram 100 --svg OUT.svg
    python benchmarks/search.py predictions                  # what plans need, against their parts

`course` prints the best sum of gains after some numbers of samples, as Figure S2 of the supplement
of "On-Device Training Under 256KB Memory" draws it: with --convention tte within memory as that
paper counts it, else within the RAM of the compiled program.  --svg draws the last of the budgets.
Without a file gains are those of the weights
of MCUNet-5FPS in a figure of that paper's released code, read off to about 0.2 points; biases gain
nothing then.  Needs the model folders (KILOGRAD_SHARED, by default ../shared), and
pip install ortools pymoo.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rows import head, line
from script import script
from shared import load_network

from kilograd.frontend import Model
from kilograd.ir import Array, fingerprint
from kilograd.learn.recipe import demand, linked, lowered
from kilograd.search import (
    SHARES,
    Contribution,
    Evolution,
    Footprint,
    Gain,
    Gains,
    Genome,
    Limits,
    Sampling,
    choices,
    counted,
    exact,
    footprint,
    helpful,
    problem,
    read_contribution,
    selection,
)
from kilograd.select import Demand, Evidence, Selection
from kilograd.select.cost import Convention, layers, tte
from kilograd.settings import OptimizerKind, Recipe

SAMPLES = (100, 200, 500, 1000, 2000, 3000, 5000, 10000, 20000)
EVOLVED = 5000
"""Samples of the evolution; random sampling goes on."""

#: Points of accuracy by layer, in the order of SHARES (mit-han-lab/tiny-training, figures).
_FULL = {12: 2.0, 15: 3.1, 18: 4.1, 20: 1.8, 23: 3.6, 26: 2.5, 32: 3.0, 35: 3.3, 38: 0.9}
_PUBLISHED = {
    21: (1.3, 2.6, 3.4, 5.5),
    24: (1.0, 2.2, 3.7, 6.5),
    27: (1.6, 3.6, 5.7, 8.4),
    30: (2.3, 3.7, 6.1, 9.3),
    33: (2.2, 3.6, 6.1, 8.0),
    36: (2.3, 4.0, 5.5, 8.8),
    39: (3.1, 6.2, 10.2, 13.7),
} | {i: (0.0, 0.0, 0.0, gain) for i, gain in _FULL.items()}


def published(model: Model) -> Contribution:
    """Return the gains that were published for weights; biases gain nothing."""
    none = (0.0,) * len(SHARES)
    weights = {
        (layer, share): Gain(
            _PUBLISHED.get(model.layers.index(layer), none)[SHARES.index(share)] / 100, 0.002
        )
        for layer, share in choices(evidence_of(model))
    }
    gains = Gains(None, 1, 0.0, (Gain(0.0, 0.0),) * len(model.layers), weights)
    return Contribution(model.name, fingerprint(model.graph), model.layers, {}, gains, ())


def evidence_of(model: Model) -> Evidence:
    return Evidence(model.name, model.graph, model.layers)


def parts(model: Model, recipe: Recipe, options: list[tuple[int, int]]) -> Footprint:
    return footprint(evidence_of(model), lambda s: lowered(model, recipe, s), options)


def analytic(model: Model, options: list[tuple[int, int]]) -> Footprint:
    """Return what parts cost by the formulas of the paper."""
    network = layers(evidence_of(model))

    def cost(chosen: Selection) -> Demand:
        said = tte(network, chosen)
        return Demand(said.memory.total, said.macs.backward)

    return counted(evidence_of(model), cost, options)


def course(
    path: Path | None, budgets: list[int], seeds: int, convention: Convention, svg: Path | None
) -> None:
    """Print how the searches go."""
    found = None if path is None else read_contribution(path)
    model = load_network(found.network if found else "mcunet-5fps")
    if found is not None and path is not None:
        found.check(model.name, model.graph, model.layers, path)
    found = found or published(model)
    recipe = Recipe("search", 10, optimizer=OptimizerKind.ROWRMS)
    start = time.process_time()
    options = helpful(found)
    known = (
        analytic(model, options) if convention is Convention.TTE else parts(model, recipe, options)
    )
    p = problem(found, known)
    took = time.process_time() - start
    print(f"{model.name}: {len(helpful(found))} shares gain; parts took {took:.0f} s of one core\n")
    said = "RAM, KiB" if convention is Convention.KILOGRAD else "analytic, KiB"
    print(line(said, "solver", "s", *SAMPLES, "best"))
    print(f"|---:|---|---:|{'---:|' * (len(SAMPLES) + 1)}")
    for budget in budgets:
        within = p.within(Limits(sram=budget))
        start = time.process_time()
        best = exact(within)
        assert best is not None
        seconds = time.process_time() - start
        proved = f"{' |' * len(SAMPLES)} {100 * best.gain:.1f} |"
        print(f"| {budget >> 10} | exact | {seconds:.1f} |{proved}")
        courses: dict[str, Array] = {}
        for name, solver in (("evolution", Evolution(EVOLVED)), ("random", Sampling(SAMPLES[-1]))):
            start = time.process_time()
            answers = [solver(within, seed) for seed in range(seeds)]
            seconds = (time.process_time() - start) / seeds
            gains = 100 * np.array([_at_samples(a.course if a else ()) for a in answers])
            courses[name] = 100 * _padded([a.course for a in answers if a])
            mean, spread = gains.mean(axis=0), gains.std(axis=0, ddof=1)
            cells = [
                f"{m:.1f} ± {s:.1f}" if n <= EVOLVED or name == "random" else ""
                for n, m, s in zip(SAMPLES, mean, spread, strict=True)
            ]
            top = f"{gains[:, -1].max():.1f}"
            print(f"| {line(name, f'{seconds:.1f}', *cells, top)}", flush=True)
        if svg is not None:
            svg.write_text("\n".join(drawing(courses, 100 * best.gain)) + "\n", encoding="utf-8")


_WIDE, _HIGH = 640, 320
_COLOURS = {"evolution": "#2b6cb0", "random": "#c05621"}


def drawing(courses: dict[str, Array], best: float) -> Iterator[str]:
    """Yield the lines of a figure: the best sum by samples, mean and range over seeds."""
    most = max(c.shape[1] for c in courses.values())
    step = 10 ** np.floor(np.log10(best / 2))
    floor = step * np.floor(min(np.median(c[:, 0]) for c in courses.values()) / step)

    def place(samples: float, gain: float) -> str:
        x = 50 + (_WIDE - 70) * samples / most
        return f"{x:.1f} {_HIGH - 40 - (_HIGH - 60) * (gain - floor) / (best - floor):.1f}"

    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" '
    yield 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    for gain in np.arange(floor, best, step):
        x, y = place(0, gain).split()
        yield f'<path d="M{x} {y}H{_WIDE - 20}" stroke="#ddd"/>'
        yield f'<text x="44" y="{float(y) + 4:.1f}" text-anchor="end">{gain:g}</text>'
    for samples in range(0, most + 1, most // 4):
        x, _ = place(samples, floor).split()
        yield f'<text x="{x}" y="{_HIGH - 22}" text-anchor="middle">{samples:,}</text>'
    yield f'<path d="M{place(0, best)}L{place(most, best)}" stroke="black" stroke-dasharray="4 3"/>'
    yield f'<text x="{_WIDE - 22}" y="14" text-anchor="end">proved best: {best:.1f}</text>'
    for name, gains in courses.items():
        at = np.unique(np.geomspace(1, gains.shape[1], 90).astype(int)) - 1
        ends = [gains.max(axis=0), gains.mean(axis=0), gains.min(axis=0)]
        high, mean, low = ([place(i + 1, max(e[i], floor)) for i in at] for e in ends)
        colour, band = _COLOURS[name], "L".join([*high, *reversed(low)])
        yield f'<path d="M{band}" fill="{colour}" opacity=".2"/>'
        yield f'<path d="M{"L".join(mean)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        x, y = mean[-1].split()
        yield f'<text x="{x}" y="{float(y) + 16:.1f}" text-anchor="end" fill="{colour}">'
        yield f"{name}</text>"
    yield f'<text x="{_WIDE / 2}" y="{_HIGH - 6}" text-anchor="middle">samples</text>'
    yield '<text x="54" y="14">sum of gains, points</text></svg>'


def _padded(courses: list[tuple[float, ...]]) -> Array:
    """Return courses as rows of one length: one that ended early stays where it ended."""
    longest = max(map(len, courses))
    return np.array([[*c, *[c[-1]] * (longest - len(c))] for c in courses])


def _at_samples(best: tuple[float, ...]) -> Array:
    """Return the best gain after so many samples as `SAMPLES` has; the last where it ended."""
    return np.array([best[min(n, len(best)) - 1] for n in SAMPLES])


def predictions(name: str, count: int) -> None:
    """Print how far predicted bytes are from those of compiled programs."""
    model = load_network(name)
    evidence = evidence_of(model)
    options = [(model.layers.index(x), SHARES.index(share) + 1) for x, share in choices(evidence)]
    off = "above, at most", "below, at most", "mean", "MACs off"
    print(head("options", "plans", "RAM, KiB", "exact", *off, texts=1))
    by_rows = Recipe("search", 10, optimizer=OptimizerKind.ROWRMS, rows=True)
    for text, recipe, plans in (
        ("", Recipe("search", 10), count),
        ("--optimizer rowrms --rows", by_rows, min(count, 60)),
        ("--recompute", Recipe("search", 10, recompute=True), min(count, 40)),
    ):
        f = parts(model, recipe, options)
        rng = np.random.default_rng(1)
        errors, macs_off, real = [], 0, []
        for _ in range(plans):
            k, genes = _random(f, options, rng)
            genome = Genome(k, tuple((0.0, *SHARES)[g] for g in genes))
            cost = demand(linked(model, recipe, selection(evidence, genome)))
            sram, macs = f.totals(np.array([k]), genes[None])
            errors.append(int(sram.max()) - cost.sram)
            macs_off = max(macs_off, abs(int(macs[0]) - cost.backward_macs))
            real.append(cost.sram)
        e = np.array(errors)
        spread = f"{e.max():,} B", f"{-e.min():,} B", f"{np.abs(e).mean():.1f} B"
        ram = f"{min(real) >> 10}–{max(real) >> 10}"
        print(line(f"`{text}`", plans, ram, (e == 0).sum(), *spread, f"{macs_off:,}"), flush=True)


def _random(
    f: Footprint, options: list[tuple[int, int]], rng: np.random.Generator
) -> tuple[int, Array]:
    """Return a random depth, and a random share for a random fraction of the layers within."""
    count = len(f.depths) - 1
    k = int(rng.choice(np.flatnonzero(f.depths)))
    genes = np.zeros(count, int)
    fraction = rng.choice([0.1, 0.3, 0.6, 1.0])
    for i in range(count - k, count):
        shares = [s for j, s in options if j == i and f.able[int(i == count - k), i, s]]
        if shares and rng.random() < fraction:
            genes[i] = rng.choice(shares)
    return k, genes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("course", "predictions"))
    parser.add_argument("contribution", type=Path, nargs="?")
    parser.add_argument("--model", default="mcunet-5fps")
    parser.add_argument("--sram", default="128,192", help="budgets in KiB")
    parser.add_argument("--convention", type=Convention, default=Convention.KILOGRAD)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--plans", type=int, default=200)
    given = parser.parse_args()
    if given.what == "predictions":
        predictions(given.model, given.plans)
    else:
        budgets = [int(b) << 10 for b in given.sram.split(",")]
        course(given.contribution, budgets, given.seeds, given.convention, given.svg)


if __name__ == "__main__":
    script(main)
