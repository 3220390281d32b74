"""What `kilograd tune` does, as a function."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilograd import limits
from kilograd.data import EpisodeKind, load_dataset
from kilograd.data.remarks import remark_left_out, remark_seen
from kilograd.data.spared import unspared
from kilograd.errors import InputError, as_named
from kilograd.frontend import load_model
from kilograd.interruption import goes_on
from kilograd.learn.automatic import MOST_PASSES
from kilograd.options import as_list, as_path, changed, converted, record_given, values, with_given
from kilograd.output import check_apart, check_folder, write_file
from kilograd.progress import Progress, silent
from kilograd.report.evaluation import facts_of
from kilograd.report.markup import plain
from kilograd.report.tuning import tuning_page, tuning_table
from kilograd.settings import Settings
from kilograd.study import tune as study
from kilograd.study.evaluate import Evaluation
from kilograd.study.pools import check_jobs
from kilograd.study.propose import need_optuna
from kilograd.study.space import PASSES, Over, Tunable, read_over
from kilograd.study.trials import Tuned, TuningRequest

_OVER = ("lr", "optimizer")
_METHODS = ("last",)
_EPISODES = 10
TRIALS = 20
"""Trials of a method if nobody asks for a number."""

Place = str | Path


@dataclass(frozen=True)
class Tuning:
    """What was tried for each method, and what is best.

    `images` of `total` were looked at; data sets without a split are `unsplit`.
    """

    asked: TuningRequest
    tuned: tuple[Tuned, ...]
    images: int
    total: int
    unsplit: tuple[str, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods with the options that are best for them, as `evaluate` takes them."""
        return tuple(t.best.method for t in self.tuned)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know before believing the best: one at chance, or at the end of a range."""
        return tuple(remark for t in self.tuned for remark in t.remarks())

    @property
    def table(self) -> str:
        """The best of each method as a table in Markdown."""
        return tuning_table(self.tuned)

    @property
    def seen(self) -> str:
        """Say on which images was tuned, and which were left out."""
        unsplit = ", ".join(self.unsplit)
        quarter = (
            f" {unsplit} has no split: the share of each class that adapt tests on was left out, "
            "but evaluate draws from all images."
            if unsplit
            else ""
        )
        return (
            f"Tuned on {self.images:,} of {self.total:,} images: no test image was looked at."
            f"{quarter} The best of many trials looks better than it is: test it on others."
        )

    def to_json(self) -> dict[str, object]:
        """Return what tuning.json holds."""
        asked = self.asked.evaluation
        settings = asked.settings.named() | {
            "episodes": asked.episodes,
            "trials": self.asked.trials,
            "over": [str(o.what) for o in self.asked.over],
            "model": asked.networks[0].name,
            "data": [d.name for d in asked.sets],
            "images": self.images,
            "of_images": self.total,
        }
        return {
            "settings": settings,
            "methods": list(self.methods),
            "remarks": [as_named(remark) for remark in self.remarks],
            "results": [t.to_json() for t in self.tuned],
        }


def tune(  # noqa: PLR0913 options by name
    data: Place | Sequence[Place],
    out: Place,
    model: Place | None = None,
    methods: Sequence[str] | None = None,
    over: Sequence[str] | None = None,
    trials: int | None = None,
    episodes: int | None = None,
    settings: Settings | None = None,
    *,
    size: int | str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    progress: Progress | None = None,
    **options: object,
) -> Tuning:
    """Find the rate and optimiser that suit each method; a begun folder `out` goes on.

    `data`: folders or Parquet files; images that will be tested on are not looked at.
    `over`: what is tuned: "lr", "optimizer", "iterations", "warmup", with bounds if need be, as
    "lr=0.0001:0.1" or "optimizer=sgd:adam".  `trials`: of each method, by default 20, each on
    `episodes` of each data set, by default 10 (1 where all images take part).
    `options`, `jobs` and `ray` are as for `evaluate`.
    """
    jobs = converted("jobs", jobs, int)
    check_jobs(jobs, ray)
    need_optuna()
    if "method" in options:
        raise InputError("method: no such option; there are methods")
    usual = record_given("settings", settings, Settings())
    chosen = with_given(usual, options)
    given = set(values(usual)) if settings else {k for k, v in options.items() if v is not None}
    folder = as_path("out", out)
    places = [as_path("data", p) for p in converted("data", as_list(data), list[Any])]
    wanted = read_over(_texts("over", _OVER if over is None else over))
    network = load_model(model, size)
    for place in places:
        check_apart(folder, place)
    check_folder(folder, study.TRIALS_FILE)
    sets = tuple(map(load_dataset, places))
    for dataset in sets:
        remark_seen(dataset, network)
    kept = tuple(unspared(d, chosen.draw, chosen.schedule.seed) for d in sets)
    if chosen.draw.episode is EpisodeKind.ALL:
        chosen = _testing_each_pass(chosen, wanted)
    for dataset in kept:
        remark_left_out(dataset, chosen.draw)
    whole = chosen.draw.episode is EpisodeKind.ALL
    count = (
        (1 if whole else _EPISODES) if episodes is None else converted("episodes", episodes, int)
    )
    asked = TuningRequest(
        Evaluation(kept, (network,), _texts("methods", methods or _METHODS), count, chosen),
        wanted,
        TRIALS if trials is None else converted("trials", trials, int),
        frozenset(given),
    )
    seen, total = sum(map(len, kept)), sum(map(len, sets))
    try:
        asked.evaluation.draw()
    except InputError as e:
        raise InputError(
            f"{e} (tuning sees {seen} of {total} images: it leaves out those that are tested on)"
        ) from e
    with goes_on(folder):
        tuned = study.tune(folder, asked, jobs, progress or silent, ray)
        unsplit = tuple(d.name for d in sets if d.split is None)
        found = Tuning(asked, tuned, seen, total, unsplit)
        _write(folder, found)
    return found


def _testing_each_pass(settings: Settings, over: Sequence[Over]) -> Settings:
    """Let whole sets be tested after each pass, so that a trial may end early; not for too many."""
    most: float = settings.schedule.iterations
    for tuned in over:
        if tuned.what is Tunable.ITERATIONS:
            most = tuned.bounds.high if tuned.bounds else PASSES * max(most, MOST_PASSES)
    if settings.guard or most > limits.TESTED_PASSES:
        return settings
    return changed(settings, {"test_each_pass": True})


def _texts(name: str, given: object) -> tuple[str, ...]:
    return tuple(str(x) for x in converted(name, as_list(given), list[Any]))


def _write(out: Path, found: Tuning) -> None:
    evaluation = found.asked.evaluation
    network = evaluation.networks[0]
    own = ", ".join(str(o.what) for o in found.asked.over)
    facts = f"{facts_of(evaluation.settings)} Each trial has its own {own}. {found.seen}"
    write_file(out / "tuning.json", json.dumps(found.to_json(), indent=1) + "\n")
    write_file(out / "table.md", f"{found.table}\n{plain(facts)}\n")
    write_file(out / "tuning.html", tuning_page(network.title, found.tuned, facts))
