"""Many episodes: what a row holds, that a run goes on where it was, and the statistics."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from folders import contents, listing, write_class, write_model, write_pictures
from helpers import COMMAND, SHARED, Run, model_path, needs_shared

import kilograd
from kilograd.data import (
    Augment,
    Dataset,
    Episode,
    load_dataset,
    sample_episode,
    sample_meta_episode,
)
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.intervals import Interval, interval, p_value, t_quantile
from kilograd.learn.adapt import load_task, train
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import compile_recipe
from kilograd.learn.training import load_samples
from kilograd.options import changed
from kilograd.report import Bar, Estimate, Panel, Price, Section, comparison
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Settings
from kilograd.study import work
from kilograd.study.evaluate import (
    EPISODES,
    RESULTS,
    Evaluation,
    Line,
    _keys,
    _works,
    evaluate,
    summarise,
)
from kilograd.study.pools import here, in_processes
from kilograd.study.suite import QUICK, SuiteName, find_sets
from kilograd.study.work import Row, Work, Worker
from kilograd.targets import HostProgram

SMALL = Settings.of(shots=3, queries=4, iterations=1, lr=0.05, seed=11)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "models" / "small", seed=3)
    write_pictures(home / "discs")
    write_pictures(home / "others", seed=1)
    return home


@pytest.fixture
def asked(home: Path) -> Evaluation:
    """Two data sets, one network, two methods, two episodes: eight rows."""
    sets = (load_dataset(home / "discs"), load_dataset(home / "others"))
    network = load_model(str(home / "models" / "small"))
    return Evaluation(sets, (network,), ("none", "last:2"), 2, SMALL)


def words(home: Path, out: object, **other: object) -> list[str]:
    """The command that asks for what `asked` does; `other` options win."""
    options = {
        "data": f"{home / 'discs'},{home / 'others'}",
        "models": home / "models" / "small",
        "methods": "none,last:2",
        "episodes": 2,
        "shots": 3,
        "queries": 4,
        "iterations": 1,
        "lr": 0.05,
        "seed": 11,
        "out": out,
        **other,
    }
    return ["evaluate", *(str(w) for k, v in options.items() for w in (f"--{k}", v))]


def works(evaluation: Evaluation) -> Iterator[Work]:
    return _works(evaluation, evaluation.draw(), list(_keys(evaluation)))


def timeless(rows: tuple[Row, ...] | list[Row]) -> list[Row]:
    return [replace(r, seconds=0.0) for r in rows]


def stored(out: Path) -> list[Row]:
    """The rows of a folder, in the order in which they were stored."""
    with closing(sqlite3.connect(out / RESULTS)) as connection:
        found = connection.execute("SELECT * FROM rows ORDER BY rowid")
        return [Row(*(*v, tuple(json.loads(text)))) for *v, text, _ in found]


# ---- a row ----


@pytest.mark.parametrize("method", ["last:2", "tinytrain"])
def test_a_row_is_what_adapt_does_with_the_seed_of_the_episode(
    asked: Evaluation, tmp_path: Path, method: str
) -> None:
    rows = evaluate(tmp_path / "run", replace(asked, methods=("none", method)))
    assert len(rows) == 8
    row = next(r for r in rows if (r.data, r.method, r.episode) == ("others", method, 1))
    dataset, model = asked.sets[1], asked.networks[0]
    schedule = SMALL.numbered(1).schedule
    assert schedule.seed == 12
    episode = sample_episode(dataset, ways=None, shots=3, queries=4, seed=12)
    support = load_samples(dataset, episode.support, episode.support_labels, model.preprocess)
    inspect = inspector(model, support, schedule)
    compiled = compile_recipe(model, Recipe(method, 4), Budget(), inspect)
    task = load_task(dataset, episode, model.preprocess)
    alone = train(compiled, task, schedule).summary
    assert (row.accuracy_before, row.accuracy_after) == (
        alone.accuracy_before,
        alone.accuracy_after,
    )
    assert (row.sram_bytes, row.learned_parameters) == (alone.sram_bytes, alone.learned_parameters)
    assert row.backward_macs == alone.macs_step - alone.macs_forward > 0
    assert (row.ways, row.seconds > 0) == (4, True)


@pytest.mark.parametrize(
    ("method", "other"),
    [
        ("last:2@0.02", {}),
        ("head", {"head": HeadKind.LINEAR}),
        ("last:2", {"accumulate": 4, "optimizer": OptimizerKind.ROWRMS}),
        ("tinytrain", {"channels": 0.5, "rows": True}),
        ("last:3", {"recompute": True, "exact": True}),
        ("last:3", {"guard": True, "iterations": 5}),
        ("last:3", {"prototype_gradients": True, "accumulate": 99}),
        ("last:3", {"cache": 2, "warmup": 1, "iterations": 3}),
        ("last:3", {"cache_bytes": "20K", "iterations": 3}),
        ("last:3", {"test_each_pass": True, "cache": 2, "iterations": 3}),
    ],
    ids=str,
)
def test_options_mean_what_they_do_for_adapt(
    asked: Evaluation, home: Path, tmp_path: Path, run: Run, method: str, other: dict[str, Any]
) -> None:
    settings = changed(SMALL, other)
    model = asked.networks[0]
    one = replace(
        asked,
        sets=asked.sets[:1],
        methods=(method,),
        episodes=1,
        settings=settings,
    )
    (row,) = evaluate(tmp_path / "run", one)
    name, _, rate = method.partition("@")
    words = ["adapt", home / "discs", "--model", model.path, "--method", name]
    for k, v in settings.named().items():
        if v is not None and v is not False:
            option = f"--{k.replace('_', '-')}"
            words += [option] if v is True else [option, rate if k == "lr" and rate else v]
    code, text, err = run(*words, "--json")
    assert code == 0, err
    alone = json.loads(text)
    if (latents := settings.budget(model).cache) is not None:
        assert 0 < alone["cache_bytes"] <= latents
    assert (row.accuracy_before, row.accuracy_after, row.sram_bytes, row.learned_parameters) == (
        alone["accuracy_before"],
        alone["accuracy_after"],
        alone["sram_bytes"],
        alone["learned_parameters"],
    )
    assert list(row.accuracy_by_pass) == alone["accuracy_by_pass"]
    assert len(row.accuracy_by_pass) == (3 if "test_each_pass" in other else 0)


def test_the_command_hands_on_every_option(
    home: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is asked for as something other than its default, and that is what is evaluated."""
    other = Settings.of(
        ways=3,
        shots=2,
        queries=6,
        head=HeadKind.PROTO,
        optimizer=OptimizerKind.MOMENTUM,
        qas=False,
        state_bits=16,
        accumulate=99,
        prototype_gradients=True,
        rows=True,
        recompute=True,
        cache=2,
        sram="1M",
        compute="50%",
        channels=0.5,
        backward_memory="1M",
        exact=True,
        iterations=4,
        lr=0.25,
        warmup=2,
        test_each_pass=True,
        augment=Augment.NOFLIP,
        guard=True,
        seed=5,
    )
    usual = Settings().named()
    words: list[object] = []
    for name, value in other.named().items():
        if name in {"cache_bytes", "test"}:
            continue  # in place of "cache", and below; episodes have queries, and no share to test
        assert value != usual[name] or name == "episode", f"{name} is the default"
        option = f"--{name.replace('_', '-')}"
        switch = {True: option, False: option.replace("--", "--no-", 1)}
        words += [switch[value]] if isinstance(value, bool) else [option, value]
    asked: list[Settings] = []
    budgets: list[int | None] = []

    def seen(_: Path, evaluation: Evaluation, *rest: object) -> None:
        asked.append(evaluation.settings)
        budgets.append(evaluation.settings.budget(evaluation.networks[0]).cache)
        raise InputError("seen")

    monkeypatch.setattr("kilograd.api.study", seen)
    place = ["--data", home / "discs", "--models", home / "models" / "small"]
    code, _, err = run("evaluate", *place, *words, "--out", tmp_path / "run")
    assert (code, err) == (2, "error: seen\n")
    words[words.index("--cache")] = "--cache-bytes"
    code, _, err = run("evaluate", *place, *words, "--out", tmp_path / "run")
    assert (code, err) == (2, "error: seen\n")
    assert asked == [other, changed(other, {"cache": 0, "cache_bytes": "2"})]
    assert budgets == [None, 2]


def test_a_stored_episode_is_learned_again(
    asked: Evaluation, home: Path, tmp_path: Path, run: Run
) -> None:
    """What `evaluate` stored, `adapt` repeats: on any machine that has the images."""
    rows = evaluate(tmp_path / "run", asked)
    words = ["adapt", home / "others", "--model", home / "models" / "small", "--method", "last:2"]
    words += ["--iterations", 1, "--lr", 0.05, "--optimizer", "sgd", "--json"]
    file = tmp_path / "run" / EPISODES
    code, text, err = run(*words, "--episode", file, "--seed", 12)
    assert code == 0, err
    row = next(r for r in rows if (r.data, r.method, r.episode) == ("others", "last:2", 1))
    assert json.loads(text)["accuracy_after"] == row.accuracy_after
    one = tmp_path / "one.json"
    line = json.loads(file.read_text("utf-8").splitlines()[3])
    one.write_text(json.dumps(line, indent=1), "utf-8")
    code, again, err = run(*words, "--episode", one)
    assert code == 0, err
    assert json.loads(again)["accuracy_after"] == row.accuracy_after, "with the seed of the episode"
    (tmp_path / "empty.jsonl").write_text("")
    for options, message in (
        (("--episode", file), "has 2 episodes of 'others'; say which with --seed 11 ... 12"),
        (("--episode", file, "--seed", 5), "has no episode of 'others' and seed 5; it has some of"),
        (("--episode", tmp_path / "empty.jsonl"), "has no episode of 'others'; it has some of non"),
        (("--episode", tmp_path / "no.json"), "no.json: cannot be read"),
        (
            ("--episode", home / "models" / "small" / "graph.json"),
            "graph.json: has an unknown field format",
        ),
        (("--episode", one, "--shots", 3), "--shots 3: the episode in"),
    ):
        code, _, err = run(*words, *options)
        assert (code, err.count("error"), message in err) == (2, 1, True), err


def test_tasks_as_meta_dataset_draws_them(home: Path, tmp_path: Path, run: Run) -> None:
    folder = write_pictures(tmp_path / "many", count=9)
    for name in ("black", "white", "grey"):
        shutil.copytree(folder / "red", folder / name)
    options = {"data": folder, "models": home / "models" / "small", "episode": "meta-dataset"}
    options |= {"methods": "none", "episodes": 3, "out": tmp_path / "run"}
    words = ["evaluate", *(str(w) for k, v in options.items() for w in (f"--{k}", v))]
    code, _, err = run(*words)
    assert code == 0, err
    dataset = load_dataset(folder)
    lines = (tmp_path / "run" / EPISODES).read_text("utf-8").splitlines()
    drawn = [sample_meta_episode(dataset, seed=e) for e in range(3)]
    assert [Episode.from_json(line) for line in lines] == drawn
    assert [r.ways for r in stored(tmp_path / "run")] == [len(e.classes) for e in drawn]
    assert "as in Meta-Dataset" in (tmp_path / "run" / "comparison.html").read_text("utf-8")
    code, _, err = run(*words, "--shots", 3)
    assert (code, err) == (
        2,
        "error: --shots 3: --episode meta-dataset draws this itself; give one of the two\n",
    )


def test_rates_share_what_does_not_depend_on_them(asked: Evaluation, tmp_path: Path) -> None:
    """Each rate trains; a step in codes, which int8-knapsack looks at, is not the other's."""
    methods = ("int8-knapsack@0.01", "int8-knapsack@1", "tinytrain@0.01", "tinytrain@1")
    one = replace(asked, sets=asked.sets[:1], methods=methods, episodes=1)
    rows = evaluate(tmp_path / "run", one)
    alone = [evaluate(tmp_path / m, replace(one, methods=(m,)))[0] for m in methods]
    assert timeless(alone) == timeless(rows)
    assert rows[2].accuracy_after != rows[3].accuracy_after


def test_a_method_that_looks_at_the_support_looks_again_in_each_episode(
    asked: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def compiled(*words: Any) -> Any:
        made = compile_recipe(*words)
        seen.append(made.recipe.method)
        return made

    monkeypatch.setattr("kilograd.study.work.compile_recipe", compiled)
    evaluate(tmp_path / "run", replace(asked, methods=("none", "tinytrain"), episodes=2))
    assert seen.count("none") == 1
    assert seen.count("tinytrain") == 4


def test_what_methods_share_on_an_episode_is_done_once(
    asked: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reading of the images, one accuracy before, one look at the support, one training."""
    done: list[str] = []

    def counted(name: str) -> None:
        inner = getattr(work, name)

        def outer(*words: Any, **named: Any) -> Any:
            done.append(name)
            return inner(*words, **named)

        monkeypatch.setattr(work, name, outer)

    for name in ("load_task", "inspector", "fit", "predict"):
        counted(name)
    # On a budget without a limit that binds, every criterion takes every layer.
    methods = ("tinytrain", "tinytrain:P", "tinytrain-l2", "none")
    wide = changed(SMALL, {"compute": 10**9})
    one = replace(asked, sets=asked.sets[:1], methods=methods, episodes=1, settings=wide)
    rows = evaluate(tmp_path / "run", one)
    assert Counter(done) == {"load_task": 1, "inspector": 1, "fit": 2, "predict": 3}
    assert replace(rows[1], method="tinytrain") == rows[0], "to the seconds"
    alone = [evaluate(tmp_path / m, replace(one, methods=(m,)))[0] for m in methods]
    assert timeless(alone) == timeless(rows)


@pytest.mark.parametrize("method", ["tinytrain", "int8-knapsack"])
def test_a_worker_finds_in_a_second_episode_what_another_would(
    asked: Evaluation, method: str
) -> None:
    """Programs that look at images, and prices, are used again: from a clean start."""
    episodes = list(works(replace(asked, methods=(method,))))
    old = Worker()
    for w in episodes:
        (found,) = timeless(list(old(w)))
        (fresh,) = timeless(list(Worker()(w)))
        assert found == fresh


def test_no_program_of_an_episode_is_kept(
    asked: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("KILOGRAD_CACHE", str(cache))
    evaluate(tmp_path / "run", replace(asked, methods=("tinytrain",)))
    # what looks at the images is the same for all episodes: of both sets, as they have four classes
    assert [name.split("-")[0] for name in listing(cache)] == ["model", "runtime"]


def test_episodes_are_stored_for_replay(asked: Evaluation, tmp_path: Path) -> None:
    evaluate(tmp_path / "run", asked)
    lines = (tmp_path / "run" / EPISODES).read_text("utf-8").splitlines()
    episodes = [Episode.from_json(line) for line in lines]
    assert episodes == list(asked.draw().values())
    assert {(e.dataset, e.seed) for e in episodes} == {
        (name, seed) for name in ("discs", "others") for seed in (11, 12)
    }


# ---- going on ----


def test_nothing_is_run_twice(asked: Evaluation, tmp_path: Path) -> None:
    first = evaluate(tmp_path / "run", asked)
    assert evaluate(tmp_path / "run", asked) == first, "to the seconds that it took"
    seen: list[tuple[int, int]] = []
    more = replace(asked, episodes=3, methods=("none", "last:2", "bias:1"))
    rows = evaluate(tmp_path / "run", more, progress=lambda done, of, _: seen.append((done, of)))
    assert seen == [(n, 18) for n in range(8, 19)]
    assert [r for r in rows if r.episode < 2 and r.method != "bias:1"] == list(first)
    assert timeless(rows) == timeless(evaluate(tmp_path / "whole", more))


def test_two_processes_find_what_one_does(asked: Evaluation, tmp_path: Path) -> None:
    two = evaluate(tmp_path / "two", asked, jobs=2)
    assert timeless(two) == timeless(evaluate(tmp_path / "one", asked, jobs=1))
    assert sorted(map(str, two)) == sorted(map(str, stored(tmp_path / "two")))


def begun(home: Path, out: Path, jobs: int, **other: object) -> subprocess.Popen[str]:
    """Start a run that takes a while, and return when some rows are stored, not all."""
    command = [sys.executable, "-c", COMMAND, *words(home, out, jobs=jobs, **LONG, **other)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while count(out) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


LONG = {"episodes": 6, "iterations": 40}


def count(out: Path) -> int:
    try:
        return len(stored(out)) if (out / RESULTS).exists() else 0
    except sqlite3.OperationalError:  # no table yet
        return 0


def children(process: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def gone(process: int) -> bool:
    """Ended; whoever inherits it may not have noticed yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 20
    while not all(map(gone, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_continued(run: Run, home: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "run"
    process = begun(home, out, jobs)
    workers = children(process.pid)
    assert len(workers) >= (jobs if jobs > 1 else 0)
    process.kill()
    process.communicate(timeout=60)
    assert_gone(workers)
    before = stored(out)
    assert 3 <= len(before) < 24
    code, text, err = run(*words(home, out, **LONG), "--json")
    assert code == 0, err
    rows = stored(out)
    assert rows[: len(before)] == before, "to the seconds that it took"
    assert len(rows) == 24
    assert run(*words(home, tmp_path / "whole", **LONG), "--json")[0] == 0
    key = str
    assert sorted(timeless(rows), key=key) == sorted(timeless(stored(tmp_path / "whole")), key=key)
    without = {"seconds": 0}
    summaries = [json.loads((o / "summary.json").read_text()) for o in (out, tmp_path / "whole")]
    a, b = ([r | without for r in s["results"]] for s in summaries)
    assert a == b
    assert json.loads(text) == summaries[0]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_leaves_what_is_done(run: Run, home: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "run"
    process = begun(home, out, jobs)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    text, err = process.communicate(timeout=60)
    assert (process.returncode, text) == (130, ""), err
    assert err.strip() == f"error: interrupted; the same command goes on with what {out} holds"
    assert_gone(workers)
    assert listing(out) == [EPISODES, RESULTS]
    assert [p for p in listing(Path(os.environ["KILOGRAD_CACHE"])) if p.startswith(".")] == []
    before = stored(out)
    assert run(*words(home, out, **LONG))[0] == 0
    assert stored(out)[: len(before)] == before
    assert len(stored(out)) == 24


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_ctrl_c_is_for_the_parent_alone(home: Path, tmp_path: Path) -> None:
    """A terminal sends it to the workers as well, whose tracebacks nobody wants to see."""
    process = begun(home, tmp_path / "run", 2)
    for worker in children(process.pid):
        os.kill(worker, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert count(tmp_path / "run") == 24


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_while_a_program_is_compiled(home: Path, tmp_path: Path, jobs: int) -> None:
    """However late the signal comes on a busy machine, it comes before the first row."""
    cache = Path(os.environ["KILOGRAD_CACHE"])
    known = set(cache.iterdir())
    # programs that no other test has compiled
    methods = {1: "bias:5,bias:6", 2: "bias:3,bias:4"}[jobs]
    asked = words(home, tmp_path / "run", jobs=jobs, methods=methods, iterations=10**7)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not any((new / "model.c").exists() for new in set(cache.iterdir()) - known):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    text, err = process.communicate(timeout=60)
    assert (process.returncode, text) == (130, ""), err
    assert err.count("\n") == 1, err
    assert stored(tmp_path / "run") == []
    assert [p.name for p in set(cache.iterdir()) - known if p.name.startswith(".")] == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_what_a_worker_that_dies_was_doing_is_done_again(
    run: Run, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = begun(home, out, 2)
    command = "multiprocessing.spawn"
    workers = [
        p for p in children(process.pid) if command in Path(f"/proc/{p}/cmdline").read_text()
    ]
    before = stored(out)
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert stored(out)[: len(before)] == before
    assert len(stored(out)) == 24


class Deadly:
    """A work that ends the process it is sent to, the first `times` it is sent; noted in a file."""

    methods = ("none",)

    def __init__(self, work: Work, note: Path, times: int) -> None:
        self.work, self.note, self.times = work, note, times

    def __reduce__(self) -> Any:
        return _survived, (self.work, self.note, self.times)


def _survived(work: Work, note: Path, times: int) -> Work:
    with note.open("a") as f:
        f.write("x")
    if note.stat().st_size <= times:
        os._exit(1)
    return work


@pytest.mark.parametrize("times", [1, 2])
def test_a_worker_that_dies_twice_is_named(asked: Evaluation, tmp_path: Path, times: int) -> None:
    note = tmp_path / "note"
    given = list(works(asked))
    deadly: Any = Deadly(given[1], note, times)
    run = in_processes(iter([given[0], deadly, *given[2:]]), 1)
    if times == 1:
        rows = timeless(list(run))
        assert sorted(rows, key=str) == sorted(timeless(list(here(iter(given)))), key=str)
    else:
        with pytest.raises(InputError, match="jobs 1: a worker process died, and so did the one"):
            list(run)
    assert note.read_text() == "xx"


def test_many_methods_are_more_works_than_one(asked: Evaluation) -> None:
    """So that an interrupted episode leaves some of its rows."""
    methods = tuple(f"bias:{k}@{r}" for k in range(1, 7) for r in (0.1, 0.2, 0.3))
    each = [w.methods for w in works(replace(asked, methods=methods, episodes=1))]
    assert list(map(len, each)) == [16, 2, 16, 2]
    assert each[0] + each[1] == methods


def test_a_large_task_is_a_work_for_each_method_and_read_once(
    asked: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows take minutes there: a kill loses one of them, and processes share the methods."""
    read: list[str] = []
    load = getattr(work, "load_task")  # noqa: B009

    def noted(dataset: Dataset, *rest: Any) -> Any:
        read.append(dataset.name)
        return load(dataset, *rest)

    monkeypatch.setattr(work, "load_task", noted)
    one = replace(asked, methods=("none", "last", "last:2"), episodes=1)
    whole = evaluate(tmp_path / "whole", one)
    assert read == ["discs", "others"]
    monkeypatch.setattr("kilograd.study.evaluate._MANY", 10)
    assert [w.methods for w in works(one)] == [(m,) for _ in range(2) for m in one.methods]
    read.clear()
    assert timeless(evaluate(tmp_path / "one by one", one)) == timeless(whole)
    assert read == ["discs", "others"]


def test_every_image_of_every_class(
    home: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--episode all`: what `adapt` does with all images, also where they lie in a file."""
    monkeypatch.setattr("kilograd.learn.samples._LARGE", 5000)
    monkeypatch.setattr("kilograd.study.work._KEPT", 0)
    shared = ["--iterations", 2, "--lr", 0.05, "--head", "linear", "--cache", 2]
    place = ["--data", home / "discs", "--models", home / "models" / "small", "--episodes", 2]
    out = ["--out", tmp_path / "run", "--methods", "last:2,bias:1,last:2@cache=1"]
    done = run("evaluate", *place, "--episode", "all", "--test-each-pass", *shared, *out)
    assert done.code == 0, done.err
    rows = {(r.method, r.episode): r for r in stored(tmp_path / "run")}
    assert len(rows) == 6
    monkeypatch.undo()
    for method, seed in (("last:2", 0), ("bias:1", 1)):
        words = ["adapt", home / "discs", "--model", home / "models" / "small"]
        words += ["--method", method, "--seed", seed, "--optimizer", "sgd", "--json"]
        alone = run(*words, "--test-each-pass", *shared).json
        row = rows[method, seed]
        assert list(row.accuracy_by_pass) == alone["accuracy_by_pass"]
        assert row.accuracy_after == alone["accuracy_after"] == row.accuracy_by_pass[-1]
        assert row.ways == 4
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(len(line["by_pass"]) == 2 for line in summary["results"])


def test_a_set_without_an_image_to_test_on(home: Path, tmp_path: Path, run: Run) -> None:
    for name in ("a", "b"):
        (tmp_path / "one each" / name).mkdir(parents=True)
        picture = min((home / "discs").rglob("*.png"))
        shutil.copy(picture, tmp_path / "one each" / name / "x.png")
    out = ["--out", tmp_path / "run", "--models", home / "models" / "small"]
    done = run("evaluate", "--data", tmp_path / "one each", "--episode", "all", *out)
    assert done.code == 2
    assert "each class has one image, so that none is left to be tested on" in done.err
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_methods_that_cut_at_the_same_place_share_latents(
    asked: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    call = HostProgram.call

    def noted(host: HostProgram, entry: str, **inputs: Any) -> Any:
        calls.append(entry)
        return call(host, entry, **inputs)

    monkeypatch.setattr(HostProgram, "call", noted)
    one = replace(asked, sets=asked.sets[:1], episodes=1)
    settings = changed(SMALL, {"cache": 2, "iterations": 3})
    number = len(asked.networks[0].layers) - 1
    methods = ("bias:1", f"weights:{number}:1", "bias:1@0.5")
    rows = evaluate(tmp_path / "all", replace(one, methods=methods, settings=settings))
    assert (rows[0].backward_macs, rows[0].ways) == (rows[2].backward_macs, 4)
    # as they are and two views of each, once; as they are before the first training and after each
    assert calls.count("prefix") == 12 * (3 + 1 + 3)
    alone = [
        evaluate(tmp_path / str(i), replace(one, methods=(m,), settings=settings))[0]
        for i, m in enumerate(methods)
    ]
    assert timeless(alone) == timeless(rows)


def test_one_run_at_a_time(home: Path, tmp_path: Path, run: Run) -> None:
    process = begun(home, tmp_path / "run", 1)
    code, _, err = run(*words(home, tmp_path / "run", **LONG))
    process.kill()
    process.communicate(timeout=60)
    assert (code, err) == (
        2,
        f"error: --out {tmp_path / 'run'}: another evaluation is writing there; wait\n",
    )


def test_the_file_survives_a_crash_and_takes_a_row_once(asked: Evaluation, tmp_path: Path) -> None:
    evaluate(tmp_path / "run", replace(asked, episodes=1))
    with closing(sqlite3.connect(tmp_path / "run" / RESULTS)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            connection.execute("INSERT INTO rows SELECT * FROM rows")


def spoilt(out: Path, *statements: str) -> None:
    with closing(sqlite3.connect(out / RESULTS)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("accuracy_after = 1e9", "row 1 is damaged: accuracy_after: expected float <= 1.0"),
        ("accuracy_after = -1", "row 1 is damaged: accuracy_after: expected float >= 0.0"),
        ("accuracy_before = 9e999", "row 1 is damaged: accuracy_before: expected float <= 1.0"),
        ("accuracy_after = 0.123", "row 1 is damaged, its checksum is another; delete it"),
        ("accuracy_after = 'x'", "row 1 is damaged: accuracy_after: expected float, got str"),
        ("accuracy_after = x'ff'", "row 1 is damaged: accuracy_after: expected float, got bytes"),
        ("data = 5", "row 1 is damaged: data: expected str, got int"),
        ("data = x'ff'", "row 1 is damaged: data: expected str, got bytes"),
        ("method = 'a' || char(27)", "row 1 is damaged, its checksum is another"),
        ("ways = 0", "row 1 is damaged: ways: expected int >= 1"),
        ("ways = 2.5", "row 1 is damaged: ways: expected int, got float"),
        ("episode = 77", "row 1 is damaged, its checksum is another"),
        ("sram_bytes = -1", "row 1 is damaged: sram_bytes: expected int >= 0"),
        ("seconds = -1.0", "row 1 is damaged: seconds: expected float >= 0.0"),
        ("seconds = 9e999", "row 1 is damaged: seconds: expected float <= "),
        ("accuracy_by_pass = '[0.5]'", "row 1 is damaged, its checksum is another"),
        ("accuracy_by_pass = '[2]'", "row 1 is damaged: accuracy_by_pass[0]: expected float <="),
        ("accuracy_by_pass = '[[]]'", "row 1 is damaged: accuracy_by_pass[0]: expected float"),
        ("accuracy_by_pass = '[NaN]'", "row 1 is damaged: accuracy_by_pass: cannot be read"),
        ("accuracy_by_pass = 'x'", "row 1 is damaged: accuracy_by_pass: cannot be read as JSON"),
        ("accuracy_by_pass = 7", "row 1 is damaged: accuracy_by_pass: expected array, got int"),
        ("accuracy_by_pass = x'5b5d'", "row 1 is damaged: accuracy_by_pass: expected"),
        ("sha256 = 'x'", "row 1 is damaged, its checksum is another"),
        ("sha256 = x'00'", "row 1 is damaged, its checksum is another"),
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_named(
    asked: Evaluation, home: Path, tmp_path: Path, run: Run, change: str, message: str
) -> None:
    evaluate(tmp_path / "run", replace(asked, episodes=1, methods=("none",)))
    spoilt(tmp_path / "run", f"UPDATE rows SET {change} WHERE rowid = 1")  # noqa: S608
    done = run(*words(home, tmp_path / "run"))
    assert f"--out {tmp_path / 'run'}: evaluation.sqlite: {message}" in done.error


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE settings SET value = 5 WHERE name = '--lr'", "the settings are damaged"),
        ("UPDATE settings SET value = NULL", "the settings are damaged"),
        ("UPDATE settings SET value = x'ff'", "the settings are damaged"),
        ("UPDATE settings SET value = '{' WHERE name = '--lr'", "the settings are damaged, --lr"),
        ("UPDATE settings SET value = CAST(x'ff' AS TEXT)", "cannot be used"),
        ("ALTER TABLE rows DROP COLUMN sha256", "was not made by this version of Kilograd, or is"),
        ("DROP TABLE settings", "is damaged: its tables are others; choose another folder"),
    ],
)
def test_another_database_is_refused(
    asked: Evaluation, home: Path, tmp_path: Path, run: Run, statement: str, message: str
) -> None:
    evaluate(tmp_path / "run", replace(asked, episodes=1, methods=("none",)))
    spoilt(tmp_path / "run", statement)
    assert message in run(*words(home, tmp_path / "run")).error


@pytest.mark.parametrize("data", [b"\xff\n", b"{}\n", b"\x1b[2J\n", b"[\n"])
def test_damaged_episodes_are_named_with_their_line(
    asked: Evaluation, home: Path, tmp_path: Path, run: Run, data: bytes
) -> None:
    evaluate(tmp_path / "run", replace(asked, episodes=1, methods=("none",)))
    file = tmp_path / "run" / EPISODES
    file.write_bytes(file.read_bytes() + data)
    assert f"--out {file}: " in run(*words(home, tmp_path / "run")).error
    assert ("line 3: " in run(*words(home, tmp_path / "run")).error) == (data != b"\xff\n")


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "text"])
def test_what_is_no_database(home: Path, tmp_path: Path, run: Run, kind: str) -> None:
    file = tmp_path / "run" / RESULTS
    file.parent.mkdir()
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "link":
            (tmp_path / "other").touch()
            file.symlink_to(tmp_path / "other")
        case "folder":
            file.mkdir()
        case _:
            file.write_text("no database" * 100)
    assert f"--out {tmp_path / 'run'}: " in run(*words(home, tmp_path / "run")).error


# ---- other settings ----


def test_another_image_size_is_refused(run: Run, home: Path, tmp_path: Path) -> None:
    """A folder is of one size, which its rows do not say."""
    small = words(home, tmp_path / "out", methods="none", size=21)
    found = run(*small, "--json").json
    assert run(*small, "--json").json == found
    error = run(*words(home, tmp_path / "out", methods="none")).error
    assert "with size of network small 21, and this is with size of network small 16;" in error
    with pytest.raises(InputError, match=r"^size 2: .*takes 4 to 1820 pixels"):
        kilograd.evaluate(home / "discs", tmp_path / "new", home / "models" / "small", size=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"shots": 2}, "begun with --shots 3, and this is with --shots 2"),
        ({"lr": 0.1}, "begun with --lr 0.05, and this is with --lr 0.1"),
        ({"ways": 2}, "begun without --ways, and this is with --ways 2"),
        ({"sram": "1M"}, "begun without --sram, and this is with --sram 1M"),
        ({"optimizer": "adam"}, "begun with --optimizer sgd, and this is with --optimizer adam"),
        ({"seed": 12}, "begun with --seed 11, and this is with --seed 12"),
        ({"head": "linear"}, "begun without --head, and this is with --head linear"),
        ({"channels": 0.5}, "begun without --channels, and this is with --channels 0.5"),
    ],
    ids=str,
)
def test_other_settings_are_refused(
    asked: Evaluation, home: Path, tmp_path: Path, run: Run, other: dict[str, Any], message: str
) -> None:
    evaluate(tmp_path / "run", replace(asked, episodes=1))
    before = contents(tmp_path / "run")
    code, text, err = run(*words(home, tmp_path / "run", **other))
    assert (code, text) == (2, "")
    assert message in err
    assert contents(tmp_path / "run") == before


def test_a_folder_from_before_there_was_an_option_knows_its_default(
    asked: Evaluation, tmp_path: Path
) -> None:
    rows = evaluate(tmp_path / "run", asked)
    with closing(sqlite3.connect(tmp_path / "run" / RESULTS)) as connection, connection:
        connection.execute("DELETE FROM settings WHERE name = '--guard'")
    assert evaluate(tmp_path / "run", asked) == rows
    other = replace(asked, settings=replace(SMALL, guard=True))
    with pytest.raises(InputError, match="begun without guard, and this is with guard;"):
        evaluate(tmp_path / "run", other)


def test_another_data_set_or_network_of_the_same_name_is_refused(
    asked: Evaluation, tmp_path: Path
) -> None:
    evaluate(tmp_path / "run", asked)
    images = load_dataset(write_pictures(tmp_path / "discs", seed=5))
    with pytest.raises(InputError, match="data set discs has changed"):
        evaluate(tmp_path / "run", replace(asked, sets=(images, asked.sets[1])))
    model = load_model(str(write_model(tmp_path / "small", seed=4)))
    with pytest.raises(InputError, match="network small has changed"):
        evaluate(tmp_path / "run", replace(asked, networks=(model,)))


def test_settings_that_made_no_row_bind_nobody(asked: Evaluation, tmp_path: Path) -> None:
    settings = changed(SMALL, {"sram": 2000})
    with pytest.raises(InputError, match="the smallest sram that fits"):
        evaluate(tmp_path / "run", replace(asked, settings=settings))
    other = replace(asked, settings=changed(SMALL, {"shots": 2}), episodes=1)
    assert len(evaluate(tmp_path / "run", other)) == 4


# ---- bad input ----


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"methods": "none,best"}, "--method 'best': unknown; known are none, head, last"),
        ({"methods": "none,none"}, "--methods: there are two called 'none'"),
        ({"methods": ","}, "--methods: names nothing"),
        ({"methods": "none@0"}, "--methods none@0: --lr 0.0: must be a positive number"),
        ({"episodes": 0}, "--episodes 0: must be in 1 ... 65536"),
        ({"jobs": 0}, "--jobs 0: must be at least 1"),
        ({"ways": 5}, "discs: 5 ways asked for, but 4 of 4 classes"),
        ({"shots": 8}, "discs: an episode needs 2 or more, but 0 of 4 classes"),
        ({"lr": 0}, "--lr 0.0: must be a positive number"),
        ({"seed": 2**31 - 1}, "--seed 2147483648: must be in"),
        ({"models": "nobody"}, "--model 'nobody': no such model"),
        ({"data": "nowhere"}, "nowhere: no such file or folder"),
    ],
    ids=str,
)
def test_bad_input(
    home: Path, tmp_path: Path, run: Run, other: dict[str, Any], message: str
) -> None:
    code, text, err = run(*words(home, tmp_path / "run", **other))
    assert (code, text) == (2, "")
    assert err.splitlines()[-1].startswith(f"error: {message}")
    assert err.count("error") == 1
    assert "Traceback" not in err
    assert listing(tmp_path) == []


def test_out_that_is_something_else(home: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / RESULTS).write_text("mine" * 100)
    before = contents(tmp_path)
    for out, message in (
        (tmp_path, "holds something else"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "broken", "cannot be used (file is not a database)"),
    ):
        code, _, err = run(*words(home, out))
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_loses_nothing(
    asked: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    out = tmp_path / "run"
    few = replace(asked, methods=("none",), episodes=2)
    more = replace(few, episodes=60)
    begun = evaluate(out, few)
    connect = sqlite3.connect

    def full(path: Path) -> sqlite3.Connection:
        """SQLite itself refuses what goes beyond the pages that there are."""
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    monkeypatch.setattr(sqlite3, "connect", full)
    message = r"a row cannot be stored \(database or disk is full\); those before it are safe"
    with pytest.raises(InputError, match=message):
        evaluate(out, more, jobs)
    monkeypatch.undo()
    early = stored(out)
    assert len(begun) < len(early) < 120
    rows = evaluate(out, more)
    assert stored(out)[: len(early)] == early
    assert timeless(rows) == timeless(evaluate(tmp_path / "whole", more))


def test_what_cannot_be_used_or_is_not_new_is_named(home: Path, tmp_path: Path, run: Run) -> None:
    folder = write_pictures(tmp_path / "birds", count=8)
    (folder / "yellow").rename(folder / "Great_Tit")
    (folder / "single").mkdir()
    first = next((folder / "red").iterdir())
    shutil.copy(first, folder / "single")
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    model = write_model(tmp_path / "taught", seed=3)
    graph = json.loads((model / "graph.json").read_text("utf-8"))
    graph["provenance"] = {"training_classes": ["parus, great tit", "wren", "BLUE"]}
    (model / "graph.json").write_text(json.dumps(graph), "utf-8")
    names = {"data": folder, "models": model, "methods": "none", "shots": 1}
    code, _, err = run(*words(home, tmp_path / "run", **names))
    assert code == 0
    known = "taught was trained on classes of birds, 2: Great_Tit, blue"
    assert err.splitlines() == [
        "1 of 34 images unreadable and skipped: red/broken.png",
        "1 of 5 classes left out, too few images for 1 shot: single",
        known,
    ]
    code, _, err = run("adapt", folder, "--model", model, "--method", "none", "--shots", 1)
    assert code == 0
    assert known in err


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_method_that_does_not_fit_says_so(
    home: Path, tmp_path: Path, run: Run, jobs: int
) -> None:
    other = {"methods": "none,last:99", "jobs": jobs}
    code, _, err = run(*words(home, tmp_path / "run", **other))
    assert code == 2
    assert err == "error: --method: small has 7 convolutions, 99 cannot learn\n"
    assert run(*words(home, tmp_path / "run"))[0] == 0, "goes on without it"


# ---- statistics ----


@pytest.mark.parametrize(
    ("freedom", "value"),
    # Student's t, two-sided 95 %, as any table has it
    [
        *((1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281)),
        *((19, 2.0930), (30, 2.0423), (60, 2.0003), (120, 1.9799), (10**4, 1.9602)),
    ],
)
def test_quantiles_of_t(freedom: int, value: float) -> None:
    assert t_quantile(freedom) == pytest.approx(value, abs=5.1e-5)


def test_an_interval_by_hand() -> None:
    # mean 3; squares 4 + 1 + 0 + 1 + 4 = 10, over 4 is 2.5; t for 4 degrees is 2.77645
    found = interval([1, 2, 3, 4, 5])
    assert (found.mean, found.count) == (3, 5)
    assert found.half == pytest.approx(2.77645 * math.sqrt(2.5 / 5), rel=1e-5)
    assert interval([0.25]) == Interval(0.25, None, 1)


@pytest.mark.parametrize(
    ("values", "p"),
    # t = 3 / 0.70711 = 4.2426 for 4 degrees; t = 1 for 1 degree is an eighth of a turn
    [([1, 2, 3, 4, 5], 0.01324), ([0, 2], 0.5), ([0, 0, 0], 1), ([2, 2, 2], 0), ([-1, 1], 1)],
)
def test_paired_tests_by_hand(values: list[float], p: float) -> None:
    assert p_value(values) == pytest.approx(p, abs=1e-5)
    assert p_value([-v for v in values]) == p_value(values)


def test_a_summary_by_hand() -> None:
    after = {
        ("a", "none"): (0.5, 0.7),
        ("a", "last"): (0.6, 0.9),
        ("b", "none"): (0.1, 0.3),
        ("b", "last"): (0.1, 0.2),
    }
    rows = [
        Row(data, "net", method, e, 2, 0.5, x, 100 + e, 7, 3, 1.0 + e)
        for (data, method), xs in after.items()
        for e, x in enumerate(xs)
    ]
    rows[-1:] = [replace(rows[-1], accuracy_by_pass=(0.1, 0.2))]
    rows[-2:-1] = [replace(rows[-2], accuracy_by_pass=(0.3, 0.1))]
    lines = {(x.data, x.method): x for x in summarise(rows)}
    assert lines["b", "last"].by_pass == pytest.approx((0.2, 0.15))
    assert lines[None, "last"].by_pass == lines["b", "none"].by_pass == ()
    assert list(lines) == [(d, m) for m in ("none", "last") for d in ("a", "b", None)]
    assert all(lines[d, "none"].difference is None for d in ("a", "b", None))
    gain = lines["a", "last"].difference
    assert gain is not None
    # gains 0.1 and 0.2: mean 0.15, deviation 0.1 / sqrt 2, over sqrt 2 is 0.05
    assert gain.mean == pytest.approx(0.15)
    assert gain.half == pytest.approx(12.7062 * 0.05, rel=1e-5)
    assert lines["a", "last"].p == pytest.approx(0.204833, rel=1e-4), "t = 3, one degree"
    assert lines["a", "none"].p is None
    whole: Line = lines[None, "last"]
    assert whole.after.mean == pytest.approx((0.6 + 0.9 + 0.1 + 0.2) / 4)
    assert whole.difference is not None
    assert whole.difference.mean == pytest.approx(0.05)
    assert whole.difference.count == 4
    # 0.1, 0.2, 0.0, -0.1 about 0.05: squares sum to 0.05
    assert whole.difference.half == pytest.approx(3.18245 * math.sqrt(0.05 / 3 / 4), rel=1e-5)
    assert (whole.sram_bytes, whole.backward_macs, whole.seconds) == (101, 7, 1.5)


# ---- what is shown ----


def test_the_table_and_the_files(home: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    code, text, err = run(*words(home, out, jobs=1))
    assert code == 0, err
    assert listing(out) == ["comparison.html", EPISODES, RESULTS, "summary.json", "table.md"]
    rows = stored(out)
    last = [100 * r.accuracy_after for r in rows if (r.data, r.method) == ("discs", "last:2")]
    found = interval(last)
    assert found.half is not None
    assert f"{found.mean:.1f} ± {found.half:.1f}" in text
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    lines = [asdict(line) for line in summarise(rows)]
    assert summary["results"] == json.loads(json.dumps(lines))
    assert summary["settings"]["lr"] == 0.05
    html = (out / "comparison.html").read_text("utf-8")
    assert "://" not in html
    assert "<script" not in html
    assert html.count("<svg") == 3, "two data sets, and both"


def test_the_table_of_a_suite(home: Path, tmp_path: Path, run: Run) -> None:
    """Its data sets are found by name; what an option says wins; the table is Markdown."""
    sets = tmp_path / "sets"
    names = [wanted.name for wanted in QUICK.sets]
    for name in names:
        shutil.copytree(home / "discs", sets / name)
    words = ["evaluate", "--suite", "quick", "--data", sets, "--out", tmp_path / "run"]
    words += ["--models", home / "models" / "small", "--episodes", 2, "--iterations", 1]
    code, text, err = run(*words)
    assert code == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    used = summary["settings"]
    assert (used["lr"], used["optimizer"], used["compute"]) == (0.001, "rowrms", "15%")
    assert (used["iterations"], used["episodes"]) == (1, 2)
    lines = [x for x in text.splitlines() if x.startswith("|")]
    assert len({len(x) for x in lines}) == 1, "aligned"
    cells = [[c.strip() for c in x.strip("|").split("|")] for x in lines]
    less = f"less {QUICK.methods[0]}"
    assert cells[0] == [*("method", *names, "all", less, "p", "RAM, B", "MACs backward", "learned")]
    assert [c[0] for c in cells[2:]] == [f"`{m}`" for m in QUICK.methods]
    results = {(r["data"], r["method"]): r for r in summary["results"]}
    for row in cells[2:]:
        method = row[0].strip("`")
        for data, cell in zip((*names, None), row[1:], strict=False):
            after = results[data, method]["after"]
            assert cell == f"{100 * after['mean']:.1f} ± {100 * after['half']:.1f}"
        whole = results[None, method]
        assert row[-3:] == [
            f"{whole[k]:,}" for k in ("sram_bytes", "backward_macs", "learned_parameters")
        ]
        if method == QUICK.methods[0]:
            assert row[-5:-3] == ["", ""]
        else:
            gain = whole["difference"]
            assert row[-5] == f"{100 * gain['mean']:+.1f} ± {100 * gain['half']:.1f}"
            shown = float(row[-4].removeprefix("< "))
            assert shown == pytest.approx(whole["p"], rel=0.1) or whole["p"] < shown == 0.001
    written = (tmp_path / "run" / "table.md").read_text("utf-8")
    assert "\n".join(lines) in written
    assert "rowrms at rate 0.001" in written
    shutil.rmtree(sets / "omniglot")
    shutil.rmtree(sets / "dtd10")
    code, _, err = run(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: --suite quick: {sets} lacks omniglot, dtd10, each as NAME.par")


PAPERS = (SuiteName.TINYTRAIN_TABLE_1, SuiteName.TRANSFER)


@pytest.mark.parametrize("name", PAPERS)
def test_a_suite_of_a_paper_runs_what_is_there(
    home: Path, tmp_path: Path, run: Run, name: SuiteName
) -> None:
    """And names what is not, and where it can be had; without any set it is an error."""
    sets = tmp_path / "sets"
    sets.mkdir()
    words = ["evaluate", "--suite", name, "--data", sets, "--out", tmp_path / "run"]
    words += ["--models", home / "models" / "small", "--episodes", 1, "--iterations", 1]
    words += ["--methods", "last,tinytrain", "--warmup", 0]
    code, _, err = run(*words)
    assert (code, err.count("\n")) == (2, 1)
    wanted = name.suite.sets
    lacks = ", ".join(w.name for w in wanted)
    assert err.startswith(f"error: --suite {name}: {sets} lacks {lacks}, each as NAME.parquet")
    assert not (tmp_path / "run").exists()
    there = wanted[1].name, wanted[2].also[0]
    rng = np.random.default_rng(0)
    for called in there:
        for shade in range(0, 240, 40):
            write_class(sets / called / f"shade-{shade}", rng, (shade, 200 - shade // 2, 90), 8)
    code, _, err = run(*words)
    assert code == 0, err
    absent = [w for w in wanted if w not in wanted[1:3]]
    said = " ".join(err.split())
    for w in absent:
        assert f"--suite {name} goes without {' or '.join((w.name, *w.also))}: {w.source}" in said
    assert said.count("goes without") == len(absent)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert {r["data"] for r in summary["results"]} == {*there, None}
    assert summary["settings"]["episode"] == str(name.suite.settings.draw.episode)


def test_each_set_of_a_suite_can_be_found_by_each_of_its_names(tmp_path: Path) -> None:
    for name in PAPERS:
        assert name.suite.episodes == (200 if name is SuiteName.TINYTRAIN_TABLE_1 else 3)
        for wanted in name.suite.sets:
            for i, called in enumerate((wanted.name, *wanted.also)):
                folder = tmp_path / f"{name}-{wanted.name}-{i}"
                folder.mkdir()
                (folder / f"{called}.parquet").touch()
                assert find_sets(folder, name) == (folder / f"{called}.parquet",)


@needs_shared
@pytest.mark.parametrize("name", SuiteName)
def test_a_suite_can_be_drawn(name: SuiteName) -> None:
    """Every set has the classes and images that the suite asks for; methods and networks exist."""
    assert SHARED is not None
    suite = name.suite
    sets = tuple(map(load_dataset, find_sets(SHARED / "data", name)))
    assert suite.models is not None
    networks = tuple(load_model(str(model_path(model))) for model in suite.models)
    asked = Evaluation(sets, networks, suite.methods, 2, suite.settings)
    assert len(asked.draw()) == 2 * len(sets)


def test_bars_are_drawn_to_scale() -> None:
    bars = (
        Bar("none", 20.0, Estimate(20.0, None), None),
        Bar("<last>", 20.0, Estimate(60.0, 10.0), Estimate(40.0, 5.0)),
    )
    section = Section(
        "Net", (Panel("birds & bees", 1, bars),), (Price(9000, 0, 0), Price(9500, 7, 3))
    )
    html = comparison("Compared", "facts", [section])
    svg = re.search(r"<svg.*?</svg>", html, re.DOTALL)
    assert svg is not None
    root = ET.fromstring(svg[0])  # noqa: S314 our own
    widths = [float(e.attrib["width"]) for e in root.iter("rect")]
    assert widths[1] == pytest.approx(3 * widths[0])
    marks = [e.attrib["d"] for e in root.iter("path") if e.attrib["class"] == "mean"]
    assert len(marks) == 1, "one episode has no interval"
    left, right = (float(x) for x in re.findall(r"[MH]([\d.]+)", marks[0])[:2])
    assert right - left == pytest.approx(widths[0], abs=0.02), "20 points, as the first bar"
    assert "&lt;last&gt;" in html
    assert "<last>" not in html
    assert "+40.0 ± 5.0" in html
    assert "9,500 B" in html


@pytest.fixture(autouse=True)
def the_home_stays_as_it_is(home: Path) -> Iterator[None]:
    before = contents(home)
    yield
    assert contents(home) == before
