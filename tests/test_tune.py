"""Tuning: what it sees, what it tries, that it goes on where it was, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from folders import write_model, write_pictures
from helpers import Run

import kilograd
from kilograd import tuning
from kilograd.data import Dataset, Draw, EpisodeKind, load_dataset, sample_episode, sample_whole
from kilograd.data.spared import spared, unspared
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.learn.adapt import compile_for, load_task, train
from kilograd.learn.automatic import suited_rate
from kilograd.select import Budget, Evidence, strategy, write_plan
from kilograd.settings import OptimizerKind, Settings
from kilograd.study.propose import State, Tried, floor, hopeless, propose
from kilograd.study.space import Params, Range, Space, Tunable, read_over
from kilograd.study.store import opened
from kilograd.study.tune import TRIALS_FILE

pytest.importorskip("optuna", reason="Optuna is not here: pip install optuna")

QUICK: dict[str, Any] = {
    "methods": ["last:2"],
    "trials": 7,
    "episodes": 2,
    "shots": 2,
    "queries": 3,
    "iterations": 2,
    "seed": 5,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "small", seed=3)
    write_pictures(home / "discs")
    return home


@pytest.fixture(scope="module")
def tuned(home: Path) -> tuning.Tuning:
    return tune(home, home / "tuned")


def tune(home: Path, out: Path, **other: Any) -> tuning.Tuning:
    return kilograd.tune(home / "discs", out, home / "small", **{**QUICK, **other})


def trials(found: tuning.Tuning) -> list[tuple[str, State, tuple[float, ...]]]:
    return [(t.method, t.state, t.accuracies) for each in found.tuned for t in each.trials]


# ---- what it sees ----


def numbered(labels: list[int], split: list[str] | None) -> Dataset:
    names = tuple(f"{i}.png" for i in range(len(labels)))
    classes = tuple(f"c{i}" for i in range(max(labels) + 1))
    images = (b"",) * len(labels)
    return Dataset(
        "made", classes, images, names, np.array(labels), None if split is None else tuple(split)
    )


@pytest.mark.parametrize("kind", [EpisodeKind.FIXED, EpisodeKind.ALL])
@pytest.mark.parametrize("split", [None, ["train", "test", "train", "test"] * 6])
def test_no_image_that_adapt_tests_on_is_seen(split: list[str] | None, kind: EpisodeKind) -> None:
    dataset = numbered([i // 8 for i in range(24)], split)
    tested = sample_whole(dataset, test=None, seed=3).query
    kept = unspared(dataset, Draw(kind), 3)
    assert set(kept.image_names) == set(dataset.image_names) - {
        dataset.image_names[i] for i in tested
    }
    assert kept.split is None
    assert [dataset.image_names.index(n) // 8 for n in kept.image_names] == kept.labels.tolist()


def test_test_classes_are_not_seen() -> None:
    dataset = numbered([i // 4 for i in range(24)], ["train"] * 12 + ["val"] * 4 + ["test"] * 8)
    assert spared(dataset, Draw(EpisodeKind.META_DATASET), 0).tolist() == [False] * 16 + [True] * 8
    # All images of all classes: adapt tests on a quarter of each class there.
    assert spared(dataset, Draw(EpisodeKind.ALL), 0).sum() == 6


def test_a_trial_is_what_adapt_learns_on_the_images_that_are_left(
    home: Path, tuned: tuning.Tuning
) -> None:
    """An independent path: the task is drawn and learned by hand."""
    dataset = unspared(load_dataset(home / "discs"), Draw(), 5)
    model = load_model(str(home / "small"))
    best = tuned.tuned[0].best
    for number, accuracy in enumerate(best.accuracies):
        episode = sample_episode(dataset, ways=None, shots=2, queries=3, seed=5 + number)
        task = load_task(dataset, episode, model.preprocess)
        settings = Settings.of(iterations=2, seed=5 + number).varied(best.method)
        alone = train(compile_for(model, task, settings), task, settings.schedule)
        assert accuracy == alone.summary.accuracy_after


# ---- what it tries ----


def test_it_begins_with_what_adapt_would_choose(home: Path, tuned: tuning.Tuning) -> None:
    each = tuned.tuned[0]
    first = each.trials[0]
    assert first is each.first
    assert first.params.optimizer is OptimizerKind.ROWRMS
    dataset = unspared(load_dataset(home / "discs"), Draw(), 5)
    model = load_model(str(home / "small"))
    episode = sample_episode(dataset, ways=None, shots=2, queries=3, seed=5)
    task = load_task(dataset, episode, model.preprocess)
    settings = Settings.of(method="last:2", optimizer="rowrms")
    assert first.params.lr == suited_rate(compile_for(model, task, settings))
    assert each.best.mean >= first.mean


def test_what_is_given_is_where_it_begins(home: Path, tmp_path: Path) -> None:
    found = tune(
        home, tmp_path / "out", methods=["last:2@cache=2", "last:1@0.02"], trials=2, lr=0.01
    )
    for each, rate in zip(found.tuned, (0.01, 0.02), strict=True):
        assert each.first.params.lr == rate
        assert len(each.trials) == 2
    assert found.methods[0].startswith("last:2@cache=2,lr=")
    assert found.methods[1].startswith("last:1@lr=")


def test_every_method_has_the_same_trials(home: Path, tmp_path: Path) -> None:
    found = tune(home, tmp_path / "out", methods=["last:1", "bias:2"], trials=3)
    assert [len(each.trials) for each in found.tuned] == [3, 3]
    assert all(len({t.method for t in each.trials}) == 3 for each in found.tuned)


SPACE = Space(
    "last",
    (Tunable.LR, Tunable.OPTIMIZER, Tunable.ITERATIONS),
    {OptimizerKind.SGD: Range(0.001, 1.0), OptimizerKind.ADAM: Range(1e-5, 0.1)},
    Range(3, 30),
    None,
    Params(0.01, OptimizerKind.ADAM, 10, 0),
)


def climbed(peak: float, count: int) -> list[Params]:
    """Let it climb a hill over the rate of Adam, and return what it tried."""
    tried: list[Tried] = []
    for _ in range(count):
        params = propose(SPACE, tried, 3)
        assert params is not None
        away = abs(np.log10(params.lr / peak)) + (params.optimizer is OptimizerKind.SGD)
        tried.append(Tried(params, (1 - away / 6,), State.FINISHED))
    return [t.params for t in tried]


def test_proposals_lie_within_bounds_and_find_a_hill() -> None:
    found = climbed(0.002, 30)
    assert found[0] == SPACE.start
    for params in found:
        bounds = SPACE.rates[params.optimizer]
        assert bounds.low <= params.lr <= bounds.high
        assert 3 <= params.iterations <= 30
        assert float(f"{params.lr:.2e}") == params.lr
    near = [p for p in found[10:] if p.optimizer is OptimizerKind.ADAM and 6e-4 < p.lr < 6e-3]
    assert len(near) > 6  # by chance alone: 2.5 of 20
    assert climbed(0.002, 30) == found


def test_where_all_is_tried_nothing_is_proposed() -> None:
    space = replace(SPACE, tuned=(Tunable.OPTIMIZER,), passes=None)
    tried: list[Tried] = []
    while (params := propose(space, tried, 0)) is not None:
        tried.append(Tried(params, (0.5,), State.FINISHED))
    assert sorted(t.params.optimizer for t in tried) == ["adam", "sgd"]


@pytest.mark.parametrize("seed", range(20))
def test_a_trial_is_given_up_below_the_median_of_whole_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    others = [
        Tried(replace(SPACE.start, lr=0.01 + i / 1000), tuple(rng.random(6)), State.FINISHED)
        for i in range(5)
    ]
    for tasks in range(1, 6):
        mine = Tried(replace(SPACE.start, lr=0.05), tuple(rng.random(tasks)), State.RUNNING)
        means = [statistics.fmean(mine.accuracies[: i + 1]) for i in range(tasks)]
        median = statistics.median(statistics.fmean(t.accuracies[:tasks]) for t in others)
        assert hopeless(SPACE, others, mine, 2) == (tasks > 2 - 1 and max(means) < median)
    few = others[:3]
    assert not hopeless(SPACE, few, Tried(SPACE.start, (0.0,) * 5, State.RUNNING), 1)


@pytest.mark.parametrize("passes", [1, 3, 8, 30])
def test_within_a_task_it_is_the_median_too(passes: int) -> None:
    rng = np.random.default_rng(passes)
    others = [tuple(rng.random(count)) for count in (4, 8, 30, 8, 12)]
    found = floor(others, passes)
    assert len(found) == passes - 1
    for done, bound in enumerate(found, start=1):
        share = done / passes
        reached = [max(x[: max(1, math.ceil(share * len(x) - 1e-9))]) for x in others]
        assert bound == (pytest.approx(statistics.median(reached)) if share > 0.25 else 0)
    assert floor(others[:3], passes) == floor([*others, ()], passes) == ()


def test_a_trial_of_a_whole_set_ends_between_passes(home: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "methods": ["last:2"],
        "over": ["lr=0.0001:1", "optimizer=sgd:rowrms"],
        "trials": 12,
        "episode": "all",
        "iterations": 8,
    }
    found = kilograd.tune(home / "discs", tmp_path / "out", home / "small", **options)
    each = found.tuned[0]
    assert each.pruned > 0
    for trial in each.trials:
        (row,) = trial.rows
        stopped = trial.state is State.PRUNED
        assert (2 < len(row.accuracy_by_pass) < 8) if stopped else len(row.accuracy_by_pass) == 8
        assert row.accuracy_after == row.accuracy_by_pass[-1]
    again = kilograd.tune(home / "discs", tmp_path / "out", home / "small", **options)
    assert trials(again) == trials(found)


# ---- it goes on ----


def test_the_same_whatever_interrupts(home: Path, tmp_path: Path, tuned: tuning.Tuning) -> None:
    """Stopped after every single row."""
    for _ in range(100):
        begun = stored(tmp_path / "out")

        def stop(done: int, of: int, said: str, begun: int = begun) -> None:
            if stored(tmp_path / "out") > begun:
                raise KeyboardInterrupt

        try:
            found = tune(home, tmp_path / "out", progress=stop)
        except KeyboardInterrupt:
            assert stored(tmp_path / "out") == begun + 1
            continue
        break
    assert trials(found) == trials(tuned)
    assert begun >= QUICK["trials"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_process_that_ends_loses_no_row(
    home: Path, tmp_path: Path, tuned: tuning.Tuning, number: signal.Signals
) -> None:
    words = ["--data", home / "discs", "--model", home / "small", "--out", tmp_path / "out"]
    words += ["--methods", "last:2", "--trials", 7, "--episodes", 2, "--shots", 2, "--queries", 3]
    words += ["--iterations", 2, "--seed", 5]
    command = [sys.executable, "-m", "kilograd", "tune", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while stored(tmp_path / "out") < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        went_on = f"the same command goes on with what {tmp_path / 'out'} holds"
        assert (process.returncode, out, err) == (130, "", f"error: interrupted; {went_on}\n")
    begun = stored(tmp_path / "out")
    assert 3 <= begun < 14
    assert trials(tune(home, tmp_path / "out")) == trials(tuned)


def stored(out: Path) -> int:
    if not (out / TRIALS_FILE).exists():
        return 0
    with closing(sqlite3.connect(out / TRIALS_FILE)) as connection:
        return int(connection.execute("SELECT count(*) FROM rows").fetchone()[0])


def test_trials_and_methods_may_join(home: Path, tmp_path: Path, tuned: tuning.Tuning) -> None:
    tune(home, tmp_path / "out", trials=3)
    assert trials(tune(home, tmp_path / "out")) == trials(tuned)
    more = tune(home, tmp_path / "out", methods=["last:2", "last:1"], trials=2)
    assert [len(each.trials) for each in more.tuned] == [7, 2]


def test_processes_try_as_many(home: Path, tmp_path: Path) -> None:
    found = tune(home, tmp_path / "out", methods=["last:1", "last:2"], jobs=2)
    for each in found.tuned:
        assert len(each.trials) == QUICK["trials"]
        assert all(t.state is not State.RUNNING for t in each.trials)
    again = tune(home, tmp_path / "out", methods=["last:1", "last:2"])
    assert sorted(trials(again)) == sorted(trials(found))  # begun and stored in other orders


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"shots": 1}, "was begun with shots 2, and this is with shots 1"),
        ({"episodes": 3}, "was begun with episodes 2, and this is with episodes 3"),
        ({"over": "lr"}, "was begun with over lr, optimizer=.*, and this is with over lr; "),
        ({"over": ["lr=0.001:0.1", "optimizer"]}, "over lr=0.001:0.1"),
    ],
)
def test_other_settings_are_refused(
    home: Path, tuned: tuning.Tuning, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tune(home, home / "tuned", **other)


def test_other_images_are_refused(home: Path, tmp_path: Path) -> None:
    tune(home, tmp_path / "out", trials=1)
    write_pictures(tmp_path / "discs", seed=1)
    (tmp_path / "small").symlink_to(home / "small")
    with pytest.raises(InputError, match="data set discs has changed since it was begun"):
        tune(tmp_path, tmp_path / "out", trials=1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: file.write_bytes(b"no database"),
        lambda file: changed(file, "UPDATE rows SET accuracy_after = 0.123"),
        lambda file: changed(file, "UPDATE rows SET accuracy_after = 2"),
    ],
    ids=["cut", "other", "row", "range"],
)
def test_a_damaged_file_is_named(
    home: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    tune(home, tmp_path / "out", trials=1)
    damage(tmp_path / "out" / TRIALS_FILE)
    with pytest.raises(InputError, match=r"tuning\.sqlite"):
        tune(home, tmp_path / "out", trials=1)


@pytest.mark.parametrize(
    "method",
    ["last:2@lr=0.9,optimizer=adam", "last:2@lr=1e-30,optimizer=sgd", "last:2@x", "\x1b[2J"],
)
def test_a_forged_trial_is_none_of_ours(home: Path, tmp_path: Path, method: str) -> None:
    """Its checksum is right, and no bounds would have let it be tried."""
    honest = tune(home, tmp_path / "out", trials=1)
    row = replace(honest.tuned[0].best.rows[0], method=method, accuracy_after=1.0)
    with opened(tmp_path / "out" / TRIALS_FILE) as store:
        store.add(row)
    again = tune(home, tmp_path / "out", trials=2)
    assert method not in {t.method for t in again.tuned[0].trials}
    assert len(again.tuned[0].trials) == 2


def changed(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


# ---- what it says ----


def test_the_session(home: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    words = ["--data", home / "discs", "--model", home / "small", "--out", out]
    words += ["--methods", "last:2,bias:2", "--trials", 3, "--episodes", 2, "--shots", 2]
    words += ["--queries", 3, "--iterations", 2]
    done = run("tune", *words)
    assert done.code == 0
    pasted = re.search(r"kilograd evaluate --methods (\S+) \.\.\.", done.out)
    assert pasted
    methods = json.loads((out / "tuning.json").read_text())["methods"]
    assert pasted[1] == ",".join(methods)
    assert "no test image was looked at. discs has no split: the share of each" in done.out
    assert re.search(
        r"kilograd adapt --method bias:2 --lr \S+ --optimizer \w+ --iterations 2", done.out
    )
    page = (out / "tuning.html").read_text()
    assert "script" not in page.replace("no scripts", "")
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 2
    circles = [len(ET.fromstring(f).findall("circle")) for f in figures]  # noqa: S314 our own
    assert circles == [4, 4]  # the first has a ring
    assert pasted[1] in page
    # What is pasted is taken.
    words = ["--data", home / "discs", "--models", home / "small", "--out", tmp_path / "rows"]
    words += ["--episodes", 1, "--shots", 2, "--queries", 3, "--methods", pasted[1]]
    assert run("evaluate", *words).code == 0


def test_what_is_pasted_are_words_of_a_shell(
    home: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan's name is one word there, a switch stands without a value."""
    monkeypatch.chdir(tmp_path)
    plan = Path("my plan; $(id)|<b>.json")
    model = load_model(home / "small")
    learns = strategy("last:2")(Evidence(model.name, model.graph, model.layers), Budget())
    write_plan(plan, model.name, model.graph, learns)
    words = ["--data", home / "discs", "--model", home / "small", "--out", tmp_path / "out"]
    method = f"./{plan}@rows=true,qas=false,cache=0"
    words += ["--methods", method, "--over", "lr", "--trials", 1]
    words += ["--episodes", 1, "--shots", 2, "--queries", 3, "--iterations", 2]
    done = run("tune", *words)
    assert done.code == 0
    written = (tmp_path / "out" / "tuning.json").read_text()
    lines = re.findall(r"^  kilograd (\w+) (.*) \.\.\.$", done.out, re.MULTILINE)
    given = [(command, shlex.split(options)) for command, options in lines]
    assert given[0] == ("evaluate", ["--methods", json.loads(written)["methods"][0]])
    assert given[1][1][:6] == ["--method", f"./{plan}", "--rows", "--no-qas", "--cache", "0"]
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert table[2].startswith(r"| ./my plan; $(id)\|\<b>.json@rows=true,qas=false,cache=0 | lr ")
    assert "Each trial has its own lr. Tuned on" in table[-1]
    # What is pasted is taken.
    words = ["--model", home / "small", *given[1][1], "--out", tmp_path / "learned"]
    assert run("adapt", home / "discs", *words).code == 0


def test_without_qas_rates_are_those_of_codes(home: Path, tmp_path: Path) -> None:
    found = tune(home, tmp_path / "out", qas=False, trials=2)
    assert set(found.tuned[0].space.rates) == {OptimizerKind.SGD, OptimizerKind.MOMENTUM}
    assert found.tuned[0].space.rates[OptimizerKind.SGD].high > 100


def test_a_method_that_always_diverges_is_said_so(home: Path, tmp_path: Path, run: Run) -> None:
    words = ["--data", home / "discs", "--model", home / "small", "--out", tmp_path / "out"]
    words += ["--methods", "last:2", "--trials", 3, "--episodes", 2, "--shots", 2, "--queries", 3]
    done = run("tune", *words, "--over", "lr=100:1000,optimizer=sgd")
    assert done.code == 0
    assert re.search(
        r"last:2: (none of 3 trials is surely above chance|learning brings nothing)", done.out
    )
    assert "try lower rates, as --over lr=1.0e+00:1.0e+02" in done.out


def test_the_table_of_a_paper(tuned: tuning.Tuning) -> None:
    each = tuned.tuned[0]
    assert f"| last:2 | lr {each.best.params.lr}, optimizer {each.best.params.optimizer} |" in (
        tuned.table
    )
    low, high = each.bounds(each.best)
    assert 0 <= low <= each.best.mean <= high <= 1


# ---- what it refuses ----


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"trials": 0}, r"trials 0: must be in 1 \.\.\."),
        ({"trials": -1}, r"trials -1: must be in 1 \.\.\."),
        ({"trials": "many"}, "trials many: cannot be used"),
        ({"episodes": 0}, r"episodes 0: must be in 1 \.\.\."),
        ({"over": []}, "over: names nothing"),
        ({"over": ["rate"]}, "over rate: rate: no such option; there are"),
        ({"over": ["lr", "lr=0.1:1"]}, "over: names lr twice"),
        ({"over": ["lr=0.1:0.001"]}, "give the lower one first, as lr=0.001:0.1"),
        ({"over": ["lr=0.1:0.1"]}, "leave lr out of it, and give lr 0.1"),
        ({"over": ["lr=0.1"]}, "give its bounds as LOW:HIGH, as lr=0.0001:0.1"),
        ({"over": ["lr=0:1"]}, "0 is no rate"),
        ({"over": ["lr=nan:nan"]}, "too high"),
        ({"over": ["lr=0.1:1e10"]}, "1e10 is too high"),
        ({"over": ["lr=0.1:1e9"]}, "int8 weights learn at"),
        ({"over": ["lr=0.1:5", "optimizer=adam"]}, "1 is the most"),
        ({"over": ["iterations=0:5"]}, "0 is too low; 1 is the least"),
        ({"over": ["iterations=2.5:5"]}, "give its bounds as LOW:HIGH, as iterations=5:40"),
        ({"over": ["warmup=1:4"]}, "must be fewer than the passes, which may be 2"),
        ({"over": ["optimizer=rmsprop"]}, "over optimizer=rmsprop: rmsprop: cannot be used"),
        ({"methods": ["none"]}, "methods none: nothing learns, so there is nothing to tune"),
        ({"methods": ["last:1", "last:1@0.1"]}, "differ in nothing but what is tuned"),
        ({"methods": ["last:1", "last:1"]}, "there are two called"),
        ({"methods": ["last:1", "lats"]}, "lats"),
        ({"methods": ["last:1", "bias:2@head=linear"], "sram": "1K"}, "last:1"),
        (
            {"shots": 20},
            r"discs: an episode needs 2 or more.* \(tuning sees \d+ of \d+ images: it leaves",
        ),
        ({"methods": ["last:1", "head"], "head": "proto"}, "method head has nothing to learn"),
        ({"method": "last"}, "method: no such option; there are methods"),
        ({"jobs": 0}, "jobs 0: must be at least 1"),
    ],
    ids=str,
)
def test_what_makes_no_sense(
    home: Path, tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tune(home, tmp_path / "out", **other)
    assert not (tmp_path / "out").exists()


def test_optuna_may_be_missing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="tuning needs optuna; pip install optuna"):
        tune(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_to_tune_is_read() -> None:
    lr, optimizer, warmup = read_over(["lr=1e-4:0.1", " optimizer=adam:sgd:adam ", "warmup"])
    assert lr.bounds == Range(1e-4, 0.1)
    assert optimizer.choices == ("adam", "sgd")
    assert (warmup.what, warmup.bounds) == (Tunable.WARMUP, None)
