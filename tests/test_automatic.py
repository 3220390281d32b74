"""The recipe that is chosen where nobody gives one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_model, write_pictures
from helpers import Run

import kilograd
from kilograd.frontend import Model, load_model
from kilograd.learn.automatic import CHOSEN, candidates, suited_rate
from kilograd.learn.recipe import compile_recipe
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "small", seed=3)
    write_pictures(home / "discs")
    return home


@pytest.fixture(scope="module")
def model(home: Path) -> Model:
    return load_model(str(home / "small"))


def rate(model: Model, method: str, optimizer: OptimizerKind = OptimizerKind.ROWRMS) -> float:
    recipe = Recipe(method, 4, optimizer=optimizer)
    return suited_rate(compile_recipe(model, recipe, Budget()))


def test_the_more_learns_the_lower_the_rate(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rate(model, "bias:1") == 0.01, "the most"
    monkeypatch.setattr("kilograd.learn.automatic._HIGHEST", dict.fromkeys(OptimizerKind, 1.0))
    rates = [rate(model, method) for method in ("bias:1", "last", "last:3", "full")]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 2 * rates[-1]
    assert all(0 < r < 1 and r == float(f"{r:.1e}") for r in rates)
    assert rate(model, "last", OptimizerKind.SGD) > rate(model, "last")


def test_without_qas_weights_move_as_far_as_with_it(model: Model) -> None:
    """On average, in real units; a float classifier has the same rate, and keeps what it bears."""
    with_qas = rate(model, "last", OptimizerKind.SGD)
    plain = {
        head: compile_recipe(model, Recipe("last", 4, head, qas=False), Budget())
        for head in (HeadKind.PROTO, HeadKind.LINEAR)
    }
    (name,) = plain[HeadKind.PROTO].training.learn
    scales = np.array(model.graph[name].type.affine.scale)
    moved = with_qas / np.mean(scales**2)
    assert suited_rate(plain[HeadKind.PROTO]) == pytest.approx(moved, rel=0.06)
    assert suited_rate(plain[HeadKind.LINEAR]) <= 0.05
    assert found(Settings.of(qas=False))[0][1] is OptimizerKind.SGD


def found(settings: Settings, chosen: frozenset[str] = CHOSEN, images: int = 20) -> list[Any]:
    return [
        (s.recipe.head, s.recipe.optimizer, s.schedule.iterations)
        for s in candidates(settings, chosen, images, 4)
    ]


def test_what_is_given_is_kept() -> None:
    given = Settings.of(head="proto", optimizer="adam", iterations=7, lr=0.02)
    assert found(given, frozenset(), 10**5) == [(HeadKind.PROTO, OptimizerKind.ADAM, 7)]
    for name in ("head", "optimizer", "iterations"):
        every = found(given, CHOSEN - {name}, 10**5)
        at = ("head", "optimizer", "iterations").index(name)
        assert {one[at] for one in every} == {found(given, frozenset())[0][at]}


def test_few_images_take_prototypes_and_more_passes() -> None:
    few, many = found(Settings(), images=20), found(Settings(), images=10**6)
    assert {head for head, _, _ in few} == {None}
    assert many[0][0] is HeadKind.LINEAR
    assert few[0][2] > many[0][2] >= 10
    assert found(Settings.of(warmup=9, iterations=10), images=10**6)[0][2] > 9


def test_the_command_and_python_choose_the_same(home: Path, run: Run) -> None:
    words = ("--model", home / "small", "--method", "last:3", "--json", "--out")
    assert run("adapt", home / "discs", *words, home / "run").code == 0
    outcome = kilograd.adapt(home / "discs", home / "small", "last:3")
    assert outcome.chosen == CHOSEN - {"method"}
    assert outcome.schedule.lr == suited_rate(outcome.compiled)
    result = kilograd.adapt(home / "discs", home / "small", "last:3", lr=0.5).schedule
    assert result.lr == 0.5
    assert result.iterations == outcome.schedule.iterations
    stored = json.loads((home / "run" / "result.json").read_text())
    assert stored["chosen"] == sorted(CHOSEN - {"method"})
    assert stored["recipe"]["lr"] == outcome.schedule.lr
    assert stored["recipe"]["optimizer"] == "rowrms"


def test_the_recipe_is_one_line(home: Path, run: Run) -> None:
    done = run("adapt", home / "discs", "--model", home / "small", "--iterations", 2)
    (line,) = [x for x in done.out.splitlines() if x.strip().startswith("recipe")]
    assert "prototypes, rowrms at rate" in line
    assert "2 passes, views full; --head, --lr, --method, --optimizer chosen" in line


def test_what_learns_is_chosen_by_the_images_or_is_the_last_layer(home: Path) -> None:
    chosen = kilograd.adapt(home / "discs", home / "small", iterations=1)
    assert chosen.compiled.recipe.method == "tinytrain"
    least = kilograd.plan(home / "small", "last", 4).program.sram_bytes
    words: dict[str, Any] = {"iterations": 1, "sram": least}
    tight = kilograd.adapt(home / "discs", home / "small", **words)
    assert tight.summary.sram_bytes <= least
    with pytest.raises(kilograd.InputError, match=f"the smallest sram that fits is {least}$"):
        kilograd.adapt(home / "discs", home / "small", **words | {"sram": 2000})


def test_a_budget_that_one_optimizer_fits(home: Path) -> None:
    words: dict[str, Any] = {"method": "last:3", "iterations": 1}
    wide = kilograd.adapt(home / "discs", home / "small", **words)
    least = kilograd.plan(home / "small", "last:3", 4).program.sram_bytes
    assert wide.compiled.recipe.optimizer is OptimizerKind.ROWRMS
    assert least < wide.summary.sram_bytes
    tight = kilograd.adapt(home / "discs", home / "small", sram=least, **words)
    assert tight.compiled.recipe.optimizer is OptimizerKind.SGD
    with pytest.raises(kilograd.InputError, match=f"the smallest sram that fits is {least}$"):
        kilograd.adapt(home / "discs", home / "small", sram=least - 1, **words)


def test_a_method_without_a_use_for_a_head(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilograd.learn.automatic._MANY", 1)
    for method, head in (("none", HeadKind.PROTO), ("last", HeadKind.LINEAR)):
        outcome = kilograd.adapt(home / "discs", home / "small", method, iterations=1)
        assert outcome.compiled.recipe.head_kind is head


def test_settings_choose_nothing(home: Path) -> None:
    settings = Settings.of(iterations=1)
    outcome = kilograd.adapt(home / "discs", home / "small", settings=settings)
    assert outcome.chosen == frozenset()
    assert outcome.schedule == replace(settings.schedule)
    assert math.isclose(outcome.schedule.lr, 0.003)
