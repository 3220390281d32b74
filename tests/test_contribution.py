"""What each layer brings: the choices, the gains by hand, the file, and what is refused."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from folders import LAYERS, replace_tensors, write_model, write_pictures
from helpers import COMMAND, Run, model_path, needs_shared

from kilograd.data import load_dataset
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.intervals import t_quantile
from kilograd.ir import Array, fingerprint
from kilograd.learn.recipe import compile_recipe
from kilograd.passes import Part
from kilograd.report import Role, contribution_page, roles
from kilograd.report.layers import alone, less
from kilograd.search import (
    SHARES,
    Contribution,
    Effort,
    Gain,
    Gains,
    choices,
    read_contribution,
)
from kilograd.select import Budget, Evidence, Inspect, OneLayer, strategy, weight
from kilograd.select.selection import widest_inputs
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Settings
from kilograd.study.contribution import analysis, write_contribution
from kilograd.study.work import Row

EPISODES = 3
SHORT = {"shots": 3, "queries": 4, "iterations": 2, "lr": 0.05, "cache": 2, "seed": 5}


def evidence(model: Model) -> Evidence:
    return Evidence(model.name, model.graph, model.layers)


def ran(*words: object) -> tuple[int, str, str]:
    """Run a command in another process: exit code, standard output and error."""
    command = [sys.executable, "-c", COMMAND, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"}
    )
    return done.returncode, done.stdout, done.stderr


def words(home: Path, out: Path, **other: object) -> list[str]:
    options = {
        "data": f"{home / 'discs'},{home / 'others'}",
        "model": home / "models" / "small",
        "episodes": EPISODES,
        "out": out,
        **SHORT,
        **other,
    }
    return ["contribution", *(str(w) for k, v in options.items() for w in (f"--{k}", v))]


def accuracies(rows: Path) -> dict[tuple[str, int, str], float]:
    query = "SELECT data, episode, method, accuracy_after FROM rows"
    with closing(sqlite3.connect(rows / "evaluation.sqlite")) as connection:
        return {(d, e, m): a for d, e, m, a in connection.execute(query)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "models" / "small", seed=3)
    write_pictures(home / "discs")
    write_pictures(home / "others", seed=1)
    return home


@pytest.fixture(scope="module")
def model(home: Path) -> Model:
    return load_model(str(home / "models" / "small"))


@pytest.fixture(scope="module")
def measured(home: Path) -> tuple[Path, str]:
    """A file, and what the command printed: 7 + 24 choices, 3 episodes of two data sets."""
    out = home / "small.json"
    code, text, err = ran(*words(home, out))
    assert (code, err) == (0, "")
    return out, text


# ---- the choices ----


def test_a_layer_learns_its_widest_input_channels_and_no_bias(model: Model) -> None:
    seen = evidence(model)
    for text, count in (("1/8", 2), ("0.25", 4), ("1/2", 8), ("1", 16)):
        (name, part), *others = strategy(f"weights:3:{text}")(seen, Budget()).learn.items()
        assert (name, others) == (weight("b0.pw2"), [])
        assert part == widest_inputs(seen, "b0.pw2", count)
        assert len(part.index or ()) == count
    assert strategy("weights:2:1/2")(seen, Budget()).by_name["b0.dw.weight"].axis == 2
    assert isinstance(strategy("weights:0:1")(seen, Budget()).by_name["stem.weight"], Part)


@pytest.mark.parametrize("number", [2, 4])
def test_output_channels_by_information_by_norm_and_at_random(model: Model, number: int) -> None:
    """By hand: the channels that an own ranking puts first; one depthwise layer, one 1x1."""
    layer = LAYERS[number]
    graph, depthwise = model.graph, number == 2
    kind = graph[f"{layer}.weight"].type
    axis = 2 if depthwise else 0
    count = kind.shape[axis]
    told = np.random.default_rng(7).permutation(count).astype(np.float32) + 1
    asked: list[tuple[str, ...]] = []

    def fisher(layers: tuple[str, ...]) -> dict[str, Array]:
        asked.append(layers)
        return {layer: told}

    seen = replace(evidence(model), inspect=Inspect(fisher, lambda layers: {}))
    real = graph.data[f"{layer}.weight"].astype(float)
    norms = [
        float(np.linalg.norm(real.take(c, axis=axis))) * kind.affine.scale[c] for c in range(count)
    ]
    for share, kept in (("1/8", count // 8), ("1/2", count // 2)):
        for name, values in (("fisher", told), ("l2", norms)):
            method = f"weights:{number}:{share}:{name}"
            (chosen, part), *others = strategy(method)(seen, Budget()).learn.items()
            assert (chosen, others, part.axis) == (weight(layer), [], axis)
            assert set(part.index or ()) == set(np.argsort(values)[-kept:].tolist())
        drawn = {
            strategy(f"weights:{number}:{share}:random:{seed}")(seen, Budget()).learn[weight(layer)]
            for seed in (1, 1, 2, 3)
        }
        assert {len(part.index or ()) for part in drawn} == {kept}
        assert 1 < len(drawn) <= 3, "one a seed"
    assert asked == [(layer,)] * 2
    whole = strategy(f"weights:{number}:1:random:9")(seen, Budget()).learn
    assert whole == {weight(layer): Part()}


def test_output_channels_that_images_choose(model: Model) -> None:
    """Without images there is no Fisher information, and a line says what to do."""
    with pytest.raises(InputError, match="looks at images to learn from; let kilograd adapt"):
        strategy("weights:3:1/2:fisher")(evidence(model), Budget())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("weights:7:1:fisher", "small has 7 convolutions, numbered from 0 to 6"),
        ("weights:1:0:l2", "0 of the 16 output channels of b0.pw1 cannot learn; give a share"),
        ("weights:1:1/17:l2", "give a share from 1/16 to 1"),
        ("weights:1:5/4:random:1", "1.25 of the 16 output channels"),
        ("weights:1:1/2:random", "unknown; known are"),
        ("weights:1:1/2:random:x", "unknown; known are"),
        ("weights:1:1/2:l2:1", "unknown; known are"),
        ("weights:1:1/2:fisher:", "unknown; known are"),
        ("weights:1:1/2:l1", "unknown; known are"),
        ("weights:7:1", "small has 7 convolutions, numbered from 0 to 6"),
        ("weights:0:1/8", "0.125 of the 3 input channels of stem cannot learn; give a share"),
        ("weights:0:0.333", "give a share from 1/3 to 1"),
        ("weights:1:2", "2 of the 8 input channels of b0.pw1 cannot learn"),
        ("weights:1:0", "0 of the 8 input channels"),
        ("weights:1", "unknown; known are"),
        ("weights:1:x", "unknown; known are"),
        ("weights:1:1/0", "unknown; known are"),
        ("weights:-1:1", "unknown; known are"),
    ],
)
def test_weights_that_are_not_there(model: Model, method: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        strategy(method)(evidence(model), Budget())


@pytest.mark.parametrize("channels", [3, 49, 98, 100])
def test_every_count_of_channels_has_a_share(channels: int) -> None:
    """As a fraction: 49 times 1/49 is less than 1 in floating point."""
    codes = np.zeros((channels, 1, 1, 2), np.int8)
    there = SimpleNamespace(
        name="wide",
        layers=("wide",),
        channels=lambda layer: channels,
        weights=lambda layer: codes,
        axes=lambda layer: (0, 3),
    )
    for count in range(1, channels + 1):
        method = f"weights:0:{count}/{channels}:random:1"
        ((_, part),) = strategy(method)(cast("Evidence", there), Budget()).learn.items()
        assert channels if part.index is None else len(part.index) == count


def test_the_choices_of_a_network(home: Path, model: Model) -> None:
    """All k, and all layers at all shares that are a channel: the stem has three."""
    found = list(choices(evidence(model)))
    assert [c for c in found if c[0] == "stem"] == [("stem", 0.5), ("stem", 1.0)]
    assert len(found) == 2 + 6 * 4
    sets = (load_dataset(home / "discs"),)
    for head, method in ((None, "none"), (HeadKind.LINEAR, "head")):
        asked = analysis(model, sets, 2, Settings.of(head=head))
        assert asked.methods[0] == method
        learned = [strategy(m)(evidence(model), Budget()).by_name for m in asked.methods[1:]]
        biases = [set(x) for x in learned if not any(n.endswith("weight") for n in x)]
        assert biases == [{f"{n}.bias" for n in LAYERS[-k:]} for k in range(1, 8)]
        whole = [
            (name.removesuffix(".weight"), len(part.index or ()) / model.graph[name].type.shape[-1])
            for x in learned
            for name, part in x.items()
            if name.endswith("weight")
        ]
        shares = {("stem", 1 / 3): 0.5}
        assert sorted((n, shares.get((n, s), s)) for n, s in whole) == sorted(found)


@needs_shared
@pytest.mark.parametrize(
    ("name", "layers", "count"),
    [("mcunet-5fps", 42, 166), ("mbv2-w0.35", 51, 202), ("proxyless-w0.3", 60, 238)],
)
def test_the_choices_of_published_networks(name: str, layers: int, count: int) -> None:
    model = load_model(str(model_path(name)))
    assert (len(model.layers), len(list(choices(evidence(model))))) == (layers, count)
    kinds = roles(evidence(model))
    assert kinds[:4] == (Role.OTHER, Role.DEPTHWISE, Role.SECOND, Role.FIRST)
    blocks = {
        role: sum(layer.endswith(end) for layer in model.layers)
        for role, end in ((Role.FIRST, "pw1"), (Role.DEPTHWISE, "dw"), (Role.SECOND, "pw2"))
    }
    assert {role: kinds.count(role) for role in blocks} == blocks


def test_what_a_layer_is_in_its_block() -> None:
    model = load_model("digits")
    by_name = dict(zip(model.layers, roles(evidence(model)), strict=True))
    ends = {"pw1": Role.FIRST, "dw": Role.DEPTHWISE, "pw2": Role.SECOND}
    for layer, role in by_name.items():
        assert role is ends.get(layer.rpartition(".")[2], Role.OTHER), layer


# ---- what was measured ----


def test_gains_are_those_of_the_rows(measured: tuple[Path, str], model: Model) -> None:
    """By hand: the mean of the differences on equal episodes, and Student's interval."""
    out, _ = measured
    found, stored = read_contribution(out), accuracies(out.with_suffix(".rows"))
    assert len(stored) == 2 * EPISODES * (1 + 7 + 26)
    assert (found.network, found.fingerprint) == ("small", fingerprint(model.graph))
    assert found.layers == LAYERS == model.layers
    assert found.settings["--lr"] == 0.05
    assert found.settings["--optimizer"] == "rowrms"
    assert [(s.data, s.episodes) for s in found.sets] == [("discs", 3), ("others", 3)]
    assert (found.overall.data, found.overall.episodes) == (None, 6)
    for gains in (found.overall, *found.sets):
        tasks = [(d, e) for d, e, m in stored if m == "none" and gains.data in {None, d}]
        assert gains.head == pytest.approx(statistics.mean(stored[*t, "none"] for t in tasks))
        methods = {f"bias:{k + 1}": gain for k, gain in enumerate(gains.biases)}
        for (layer, share), gain in gains.weights.items():
            text = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 1.0: "1"}[share]
            methods[f"weights:{LAYERS.index(layer)}:{text}"] = gain
        assert {*methods, "none"} == {m for _, _, m in stored}
        for method, gain in methods.items():
            differences = [stored[*t, method] - stored[*t, "none"] for t in tasks]
            width = t_quantile(len(tasks) - 1) * statistics.stdev(differences)
            assert gain.mean == pytest.approx(statistics.mean(differences))
            assert gain.half_width == pytest.approx(width / math.sqrt(len(tasks)))
    assert len({g.mean for g in found.weights.values()}) > 5, "choices differ"


def test_efforts_are_what_learns_and_what_the_program_computes(
    measured: tuple[Path, str], model: Model
) -> None:
    """Parameters by hand; MACs of each program that is compiled, less those of inference."""
    found = read_contribution(measured[0])
    assert set(found.efforts) == set(found.weights)
    ways = len(load_dataset(measured[0].parent / "discs").classes)
    for (layer, share), effort in found.efforts.items():
        shape = model.graph[f"{layer}.weight"].type.shape
        assert effort.parameters == math.prod(shape[:-1]) * int(shape[-1] * share)
        if share in {0.25, 1}:
            method = f"weights:{LAYERS.index(layer)}:{share:g}"
            recipe = Recipe(method, ways, optimizer=OptimizerKind.ROWRMS, cache=2)
            assert effort.macs == compile_recipe(model, recipe, Budget()).backward_macs
    html = measured[0].with_suffix(".html").read_text()
    for unit in ("points per thousand parameters", "points per million MACs"):
        assert f"<h2>Weights of one layer: {unit}</h2>" in html
    choice = ("b1.dw", 0.25)
    gain, effort = found.weights[choice], found.efforts[choice]
    said = 100 * gain.mean / (effort.parameters / 1000)
    assert f"{LAYERS.index('b1.dw')} b1.dw, 1/4 of the channels: {said:+.3g} ±" in html


def test_a_whole_set(home: Path, tmp_path: Path) -> None:
    """All images of all classes, and the linear head: each choice less the head alone."""
    out = tmp_path / "whole.json"
    options = ("--model", home / "models" / "small", "--episodes", 2, "--iterations", 1)
    whole = ("--episode", "all", "--test", 0.5, "--head", "linear", "--data", home / "discs")
    code, _, err = ran("contribution", *options, *whole, "--out", out)
    assert (code, err) == (0, "")
    found, stored = read_contribution(out), accuracies(out.with_suffix(".rows"))
    assert (found.settings["--episode"], found.settings["--test"]) == ("all", 0.5)
    heads = [stored["discs", e, "head"] for e in (0, 1)]
    assert found.overall.head == pytest.approx(statistics.mean(heads))
    gain = found.weights["b1.pw1", 1.0]
    method = f"weights:{LAYERS.index('b1.pw1')}:1"
    assert gain.mean == pytest.approx(
        statistics.mean(stored["discs", e, method] - heads[e] for e in (0, 1))
    )
    shape = model_shape(home, "b1.pw1")
    assert found.efforts["b1.pw1", 1.0].parameters == math.prod(shape), "the head does not count"
    one = tmp_path / "one"
    shutil.copytree(next(p for p in (home / "discs").iterdir() if p.is_dir()), one / "alone")
    code, text, err = ran("contribution", *options, *whole[:-1], one, "--out", tmp_path / "o.json")
    assert (code, text) == (2, "")
    assert "one: 1 of 1 classes has an image to learn from" in err


def model_shape(home: Path, layer: str) -> tuple[int, ...]:
    return load_model(str(home / "models" / "small")).graph[f"{layer}.weight"].type.shape


# ---- one layer at a time ----


def row(method: str, episode: int, accuracy: float, parameters: int, macs: int) -> Row:
    return Row(
        *("x", "net", method, episode),
        ways=2,
        accuracy_before=0.5,
        accuracy_after=accuracy,
        sram_bytes=1,
        backward_macs=macs,
        learned_parameters=parameters,
        seconds=0.0,
    )


def test_single_layers_by_hand() -> None:
    """Two episodes; random channels are means over seeds, and pairs are of equal tasks."""
    rows = [
        *(row("head", e, 0.50 + e / 10, 10, 100) for e in (0, 1)),
        *(row("weights:3:1/2:fisher", e, 0.60 + e / 10, 30, 500) for e in (0, 1)),
        *(row("weights:3:1/2:random:1@lr=0.1", e, 0.52 + e / 10, 30, 500) for e in (0, 1)),
        *(row("weights:3:1/2:random:2@lr=0.1", e, 0.56 + e / 5, 30, 500) for e in (0, 1)),
        row("last", 0, 1.0, 1, 1),
    ]
    fisher, random = alone(rows, "head")
    assert (fisher.choice, random.choice) == (
        OneLayer(3, Fraction(1, 2), "fisher"),
        OneLayer(3, Fraction(1, 2), "random"),
    )
    assert fisher.gain.mean == pytest.approx(0.1)
    assert fisher.gain.half_width == pytest.approx(0, abs=1e-9)
    assert random.differences == pytest.approx((0.04, 0.09))
    assert less(fisher, random) == pytest.approx((0.06, 0.01))
    assert random.gain.half_width == pytest.approx(12.7062 * 0.025, rel=1e-4)
    assert fisher.effort == random.effort == Effort(20, 400)


def test_the_page_of_single_layers(home: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    methods = [
        f"weights:{n}:{s}:{o}" for n in (3, 5) for s in ("1/4", "1") for o in ("fisher", "l2")
    ]
    words = ["evaluate", "--data", home / "discs", "--models", home / "models" / "small"]
    words += ["--methods", ",".join(["none", *methods]), "--episodes", 2, "--iterations", 1]
    code, text, err = run(*words, "--shots", 3, "--queries", 4, "--out", out)
    assert code == 0, err
    assert "comparison.html, layers.html" in text
    html = (out / "layers.html").read_text("utf-8")
    assert "<script" not in html
    assert html.count("<svg") == 2 + 2 * 3, "a picture a share; for each choice gain and its costs"
    for share in ("1/4 of the channels", "all channels"):
        for kind in ("output channels by Fisher information", "output channels by norm"):
            assert f"<title>3 b0.pw2, {share}, {kind}: " in html
    for given, pictures in (
        (("none,last", *words[7:]), None),
        (("none,weights:3:1:l2,weights:3:1/2:l2", "--iterations", 1, "--episodes", 1), None),
        (("weights:3:1/2:fisher,weights:3:1/2:l2", *words[7:]), 3),  # as many parameters learn
    ):
        other = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        done = run(*words[:6], *given, "--shots", 3, "--queries", 4, "--out", other)
        page = other / "layers.html"
        assert done.code == 0, done.err
        assert ("layers.html" in done.out, page.exists()) == (pictures is not None,) * 2
        assert pictures is None or page.read_text().count("<svg") == pictures


def test_a_gain_is_what_evaluate_finds(
    measured: tuple[Path, str], home: Path, tmp_path: Path, run: Run
) -> None:
    out, _ = measured
    options = {"methods": "none,weights:0:1,bias:7,weights:5:1/4", "optimizer": "rowrms", **SHORT}
    options |= {"models": home / "models" / "small", "data": home / "others", "out": tmp_path / "x"}
    given = [str(w) for k, v in options.items() for w in (f"--{k}", v)]
    code, text, err = run("evaluate", *given, "--episodes", EPISODES, "--json")
    assert code == 0, err
    lines = {r["method"]: r for r in json.loads(text)["results"] if r["data"] == "others"}
    gains = read_contribution(out).sets[1]
    for method, gain in (
        ("weights:0:1", gains.weights["stem", 1]),
        ("bias:7", gains.biases[6]),
        ("weights:5:1/4", gains.weights["b1.dw", 0.25]),
    ):
        assert gain.mean == pytest.approx(lines[method]["difference"]["mean"])
        assert gain.half_width == pytest.approx(lines[method]["difference"]["half"])
    assert gains.head == pytest.approx(lines["none"]["after"]["mean"])


def test_what_is_printed(measured: tuple[Path, str]) -> None:
    out, text = measured
    found = read_contribution(out)
    best = max(found.weights.values(), key=lambda g: g.mean)
    assert f"{100 * best.mean:+.1f} ± {100 * best.half_width:.1f}" in text
    assert f"head alone: {found.overall.head:.1%}" in text
    for role in ("first 1×1 of a block", "depthwise", "second 1×1 of a block", "other"):
        assert re.search(rf"^ *{role} +\d+ .*[+-]\d+\.\d *$", text, re.MULTILINE), "with its means"
    for file in (out, out.with_suffix(".html"), out.with_suffix(".rows")):
        assert f"{file}" in text
        assert file.exists()


def test_more_episodes_join_and_nothing_is_repeated(
    measured: tuple[Path, str], home: Path, tmp_path: Path, run: Run
) -> None:
    """With two processes: the file is that of one run."""
    out = tmp_path / "small.json"
    given = {"episodes": 2, "jobs": 2}
    code, text, err = run(*words(home, out, **given), "--json")
    assert code == 0, err
    assert json.loads(text) == json.loads(out.read_text())
    before = accuracies(out.with_suffix(".rows"))
    assert len(before) == 2 * 2 * 34
    code, _, err = run(*words(home, out))
    assert code == 0, err
    assert out.read_bytes() == measured[0].read_bytes()
    html = [p.with_suffix(".html").read_text() for p in (out, measured[0])]
    assert html[0] == html[1]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_goes_on(home: Path, tmp_path: Path, run: Run, stop: int) -> None:
    out = tmp_path / "small.json"
    command = [sys.executable, "-c", COMMAND]
    process = subprocess.Popen(
        [*command, *words(home, out, iterations=20)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    rows = out.with_suffix(".rows")
    deadline = time.monotonic() + 120
    while not (rows / "evaluation.sqlite").exists() or len(_rows(rows)) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(stop)
    text, err = process.communicate(timeout=60)
    assert process.returncode == (130 if stop == signal.SIGINT else -stop), (text, err)
    if stop == signal.SIGINT:
        assert (text, err) == (
            "",
            f"error: interrupted; the same command goes on with what {rows} holds\n",
        )
    assert not out.exists(), "there is nothing to write yet"
    before = _rows(rows)
    code, _, err = run(*words(home, out, iterations=20))
    assert code == 0, err
    assert _rows(rows)[: len(before)] == before, "to the seconds that it took"
    assert len(_rows(rows)) == 2 * EPISODES * 34
    assert read_contribution(out).overall.episodes == 6


def _rows(rows: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(rows / "evaluation.sqlite")) as connection:
        try:
            return connection.execute("SELECT * FROM rows ORDER BY rowid").fetchall()
        except sqlite3.OperationalError:  # no table yet
            return []


# ---- what is refused ----


def test_the_file_of_another_network(
    measured: tuple[Path, str], home: Path, model: Model, run: Run
) -> None:
    out, _ = measured
    content = out.read_bytes()
    write_model(home / "models" / "another", seed=4)
    changed = load_model(str(write_model(home / "changed" / "small", seed=4)))
    found = read_contribution(out)
    found.check("small", model.graph, model.layers, out)
    with pytest.raises(InputError, match="measured on network 'small', not on 'another'; give m"):
        replace(found, architecture=None).check("another", changed.graph, changed.layers, out)
    found.check("another", changed.graph, changed.layers, out)  # to search with, it will do
    for path, message in (
        ("models/another", "small.json: measured on network 'small', not on 'another'"),
        ("changed/small", "small.json: measured on another network called 'small', with other"),
    ):
        code, _, err = run(*words(home, out, model=home / path))
        assert (code, err.count("error"), message in err) == (2, 1, True), err
    assert out.read_bytes() == content


def test_a_network_is_told_by_any_weight(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "one", seed=3)
    first = fingerprint(load_model(str(folder)).graph)
    again = fingerprint(load_model(str(write_model(tmp_path / "two", seed=3))).graph)
    assert first == again, "whatever it is called"
    bias = load_model(str(folder)).graph.data["b1.dw.bias"].copy()
    bias[5] += 1
    replace_tensors(folder, {"b1.dw.bias": np.asarray(bias)})
    assert fingerprint(load_model(str(folder)).graph) != first


def test_bad_input(home: Path, measured: tuple[Path, str], tmp_path: Path, run: Run) -> None:
    out, _ = measured
    other = tmp_path / "other.json"
    other.write_text('{"keep": "me"}')
    cases: list[tuple[dict[str, object], str]] = [
        ({"episodes": 1}, "--episodes 1: must be at least 2"),
        ({"out": tmp_path / "x.txt"}, "must end in .json"),
        ({"out": tmp_path / "no" / "x.json"}, "there is no folder"),
        ({"out": other}, "other.json: no contribution analysis, or a damaged one"),
        ({"out": out, "lr": 0.01}, "was begun with --lr 0.05, and this is with --lr 0.01"),
        ({"ways": 9}, "9 ways asked for"),
        ({"shots": 99}, "99 images to learn from"),
        ({"data": ""}, "--data: names nothing"),
        ({"jobs": 0}, "--jobs 0: must be at least 1"),
    ]
    for given, message in cases:
        code, text, err = run(*words(home, given.pop("out", tmp_path / "new.json"), **given))  # type: ignore[arg-type]
        assert (code, text, err.count("error:"), message in err) == (2, "", 1, True), err
    assert other.read_text() == '{"keep": "me"}'


def test_a_file_whose_rows_are_gone_is_not_replaced(
    measured: tuple[Path, str], home: Path, tmp_path: Path, run: Run
) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(measured[0].read_bytes())
    code, _, err = run(*words(home, copy))
    assert (code, "copy.rows, what it was made from, is gone; choose another file" in err) == (
        2,
        True,
    ), err


# ---- the file ----


def made(model: Model, episodes: int = 4) -> Contribution:
    rng = np.random.default_rng(0)

    def gain() -> Gain:
        return Gain(float(rng.normal(0, 0.05)), float(rng.uniform(0, 0.03)))

    def gains(data: str | None) -> Gains:
        weights = {choice: gain() for choice in choices(evidence(model))}
        return Gains(data, episodes, 0.5, tuple(gain() for _ in model.layers), weights)

    sets = (gains("<b>"), gains("others"))
    settings = {"--lr": 0.1, "--guard": False, "--ways": None}
    efforts = {c: Effort(int(rng.integers(1, 99)), 7) for c in choices(evidence(model))}
    found = Contribution(
        model.name, fingerprint(model.graph), model.layers, settings, gains(None), sets, 16
    )
    return replace(found, efforts=efforts)


def test_a_file_is_read_as_it_was_written(model: Model, tmp_path: Path) -> None:
    path, found = tmp_path / "x.json", made(model)
    path.write_text("before")
    write_contribution(path, found)
    assert read_contribution(path) == found
    assert (found.biases, found.weights) == (found.overall.biases, found.overall.weights)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"], "nothing is left beside it"
    with pytest.raises(InputError, match="cannot be written"):
        write_contribution(tmp_path / "no" / "x.json", found)


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda x: x.pop(name)


@pytest.mark.parametrize(
    "damage",
    [
        *map(_without, ("network", "fingerprint", "layers", "settings", "gains")),
        lambda x: x["gains"].clear(),
        lambda x: x["gains"][0]["biases"].pop(),
        lambda x: x["gains"][1].pop("head"),
        lambda x: x["gains"][0]["biases"][0].update(mean="0.1"),
        lambda x: x["gains"][0]["biases"][0].update(half_width=math.nan),
        lambda x: x["gains"][0]["weights"].update(
            {"no.layer": {"1.0": x["gains"][0]["biases"][0]}}
        ),
        lambda x: x["gains"][0]["weights"]["stem"].update({"0.3": x["gains"][0]["biases"][0]}),
        lambda x: x["efforts"].update({"no.layer": {"1.0": {"parameters": 1, "macs": 1}}}),
        lambda x: x["efforts"]["stem"].update({"0.3": {"parameters": 1, "macs": 1}}),
        lambda x: x["efforts"]["stem"]["1.0"].update(parameters=0),
        lambda x: x["efforts"]["stem"]["1.0"].update(macs=-1),
        lambda x: x["efforts"]["stem"]["1.0"].update(macs=10**30),
        lambda x: x["gains"][0].update(episodes="4"),
        lambda x: x.update(layers="stem"),
        lambda x: x.update(layers=[*x["layers"][1:], x["layers"][1]]),
        lambda x: x["layers"].__setitem__(0, "\x1b[2J"),
        lambda x: x.update(network="a b"),
        lambda x: x.update(settings={"--lr": [1]}),
        lambda x: x["gains"][0].update(data="all"),
        lambda x: x["gains"][1].update(data=None),
        lambda x: x["gains"][1].update(data=x["gains"][2]["data"]),
        lambda x: x["gains"][1].update(data="a\nb"),
        lambda x: x["gains"][0].update(episodes=1),
        lambda x: x["gains"][0].update(episodes=10**9),
        lambda x: x["gains"][0].update(head=1.5),
        *(
            lambda x, mean=mean: x["gains"][0]["biases"][0].update(mean=mean)
            for mean in (1e308, 10**400, 2, -1.5, True, None)
        ),
        *(
            lambda x, half=half: x["gains"][0]["biases"][0].update(half_width=half)
            for half in (-0.1, 1e308, math.inf, 10**400)
        ),
    ],
)
def test_a_damaged_file_is_named(
    model: Model, tmp_path: Path, damage: Callable[[dict[str, Any]], object]
) -> None:
    path = tmp_path / "x.json"
    content = made(model).to_json()
    damage(content)
    for found in (content, {k: v for k, v in content.items() if k != "sha256"}):
        path.write_text(json.dumps(found))
        with pytest.raises(InputError, match=r"x\.json: "):
            read_contribution(path)


def test_a_flipped_digit_is_seen(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_contribution(path, made(model))
    text = path.read_text()
    changed = text.replace('"mean": 0.0', '"mean": 0.1', 1)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(InputError, match="is damaged, its checksum is another; if it was changed"):
        read_contribution(path)
    value = json.loads(changed)
    del value["sha256"]
    path.write_text(json.dumps(value))
    read_contribution(path)


def test_layers_and_shares_are_those_of_the_network(model: Model, tmp_path: Path) -> None:
    """The fingerprint is of the network alone; the file may still lack a part of it."""
    found = made(model)
    found.check("small", model.graph, model.layers, tmp_path)
    swapped = replace(found, layers=(*reversed(found.layers),))
    some = dict(found.overall.weights)
    some.popitem()
    fewer = replace(found, overall=replace(found.overall, weights=some))
    for one in (swapped, fewer):
        with pytest.raises(InputError, match="its layers or shares are not those of small"):
            one.check("small", model.graph, model.layers, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff"])
def test_what_is_no_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"x\.json: (cannot be read as JSON|is no text)"):
        read_contribution(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_contribution(tmp_path / "absent.json")


# ---- the page ----


def test_the_page_shows_every_gain_with_its_interval(model: Model) -> None:
    found = made(model)
    html = contribution_page("A <network>", found, model.graph, "Facts & figures.")
    assert "<script" not in html
    assert "A &lt;network&gt;: what each layer brings" in html
    pictures = [ET.fromstring(x) for x in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]  # noqa: S314
    assert len(pictures) == 1 + 4 + 2, "biases; first, depthwise, second and other; by effort"
    biases, *weights = pictures[:5]
    assert _drawn(biases) == len(LAYERS)
    titles = [t.text for p in weights for t in p.iter("title")]
    assert len(titles) == len(set(titles)) == len(found.weights)
    for (layer, share), gain in found.weights.items():
        said = f"± {100 * gain.half_width:.1f} points"
        number = LAYERS.index(layer)
        text = {1.0: "all"}.get(share, f"1/{1 / share:.0f} of the")
        assert f"{number} {layer}, {text} channels: {100 * gain.mean:+.1f} {said}" in titles
    for picture in pictures:
        _, _, width, height = map(float, picture.attrib["viewBox"].split())
        for circle in picture.iter("circle"):
            x, y = float(circle.attrib["cx"]), float(circle.attrib["cy"])
            assert 40 < x < width
            assert 0 < y < height - 20
        # the interval of every point goes through it
        lines = [p.attrib["d"] for p in picture.iter("path") if "spread" in p.attrib["class"]]
        for circle, line in zip(picture.iter("circle"), lines, strict=True):
            x, top, bottom = map(float, re.findall(r"[\d.]+", line))
            assert float(circle.attrib["cx"]) == pytest.approx(x, abs=0.2)
            assert top - 0.1 <= float(circle.attrib["cy"]) <= bottom + 0.1
            assert top >= 0
            assert bottom <= height - 20


def _drawn(picture: ET.Element) -> int:
    return len(list(picture.iter("circle")))


def test_the_page_of_gains_that_are_all_alike(model: Model) -> None:
    """No gain at all has a picture, too, as has a single data set."""
    flat = Gain(0.0, 0.0)
    zero = Gains(None, 2, 0.5, (flat,) * 7, dict.fromkeys(choices(evidence(model)), flat))
    found = replace(made(model), overall=zero, sets=(replace(zero, data="discs"),))
    html = contribution_page("Flat", found, model.graph, "")
    assert "nan" not in html
    assert html.count("<svg") == 5 + 2
    assert contribution_page("Old", replace(found, efforts={}), model.graph, "").count("<svg") == 5


def test_shares_are_exact() -> None:
    assert SHARES == (1 / 8, 1 / 4, 1 / 2, 1)
