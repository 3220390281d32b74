"""Learning that did harm, or nothing, says so in the last lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_model, write_pictures
from helpers import Run

import kilograd
from kilograd.errors import InputError, as_named
from kilograd.ir import Array
from kilograd.learn.answers import Answers
from kilograd.learn.verdict import Moved, harmed, moved, rose, verdict

GOOD = Moved(100, 90, 80, 3, 2)
FALLING = np.linspace(2, 1, 10), np.linspace(1, 0.1, 10)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "small", seed=3)
    write_pictures(home / "discs", count=16)
    return home


def answers(right: int, of: int = 100) -> Answers:
    said = (0,) * right + (1,) * (of - right)
    return Answers(("a", "b"), tuple(map(str, range(of))), (0,) * of, said)


def test_harm_is_what_chance_does_not_explain() -> None:
    assert harmed(answers(90), answers(60)) == 30
    assert harmed(answers(90), answers(89)) == harmed(answers(60), answers(90)) == 0
    # eight lost and two won: a fair coin shows that in one of nine tries
    assert (
        harmed(
            Answers(("a", "b"), ("",) * 10, (0,) * 10, (0,) * 8 + (1,) * 2),
            Answers(("a", "b"), ("",) * 10, (0,) * 10, (1,) * 8 + (0,) * 2),
        )
        == 0
    )


def test_losses_that_rise() -> None:
    assert rose(np.full(50, 1.0), np.full(50, 1.5))
    assert not rose(*FALLING)
    assert not rose(np.array([1.0, 3.0]), np.array([1.1, 3.1]))
    assert rose(np.ones(3), np.array([1, np.nan, 1]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, None),
        ({"what": Moved(0, 0, 0, 0, 0)}, "nothing was learned: method last does not train"),
        ({"what": Moved(100, 0, 80, 2, 2)}, "nothing was learned: no weight changed; raise the"),
        ({"after": answers(10)}, "learning did harm: 40 test images fewer are right than before"),
        ({"last": np.full(10, 3.0)}, "the loss rose from 1.5 to 3; leave lr away or lower it"),
        ({"what": Moved(100, 90, 80, 40, 2)}, r"40 of 80 weights lie at the ends of int8 \(2 befo"),
    ],
)
def test_a_line_for_what_went_wrong(given: dict[str, Any], message: str | None) -> None:
    usual: dict[str, Any] = {
        "before": answers(50),
        "after": answers(70),
        "first": FALLING[0],
        "last": FALLING[1],
        "what": GOOD,
        "method": "last",
    }
    said = [as_named(x) for x in verdict(**usual | given)]
    assert len(said) == (message is not None)
    if message:
        with pytest.raises(InputError, match=message):
            raise InputError(said[0])


def test_what_moved_is_counted() -> None:
    before: dict[str, Array] = {
        "w": np.array([127, 1, -128, 5], np.int8),
        "b": np.array([1, 2], np.int32),
    }
    after: dict[str, Array] = {
        "w": np.array([127, 127, -128, 5], np.int8),
        "b": np.array([1, 3], np.int32),
    }
    assert moved(before, after) == Moved(6, 2, 4, 3, 2)


# ---- the command ----


def test_a_rate_that_ruins_is_named(home: Path, run: Run) -> None:
    words = ("--model", home / "small", "--method", "last:3", "--optimizer", "rowrms", "--lr", 1)
    done = run("adapt", home / "discs", *words, "--iterations", 10, "--out", home / "ruined")
    lines = done.out.splitlines()
    stored = json.loads((home / "ruined" / "result.json").read_text())
    assert stored["saturated"] > stored["saturated_before"] + 0.05 * stored["learned_parameters"]
    assert any("weights lie at the ends of int8" in x and "lower --lr" in x for x in lines[-3:])
    assert len(stored["remarks"]) == sum(x.endswith(("--method", "--lr")) for x in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method none", "nothing was learned: method none does not train; choose another --meth"),
        ("--iterations 0", "nothing was learned: no weight changed; raise the rate or the passes"),
        ("--lr 1e-30", "nothing was learned: no weight changed"),
    ],
)
def test_nothing_learned_is_the_last_line(home: Path, run: Run, words: str, message: str) -> None:
    done = run("adapt", home / "discs", "--model", home / "small", *words.split())
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith(message)


def test_what_was_learned_well_says_nothing(home: Path) -> None:
    outcome = kilograd.adapt(home / "discs", home / "small", "last:3")
    assert outcome.remarks == ()
    assert 0 < outcome.summary.changed_parameters <= outcome.summary.learned_parameters


@pytest.mark.parametrize("rate", ["1e9", "0", "-1", "nan", "inf", "1001"])
def test_rates_that_cannot_be_meant(home: Path, run: Run, rate: str) -> None:
    error = run("adapt", home / "discs", "--model", home / "small", "--lr", rate).error
    assert error.startswith("--lr ")
    assert "must be" in error


@pytest.mark.parametrize("optimizer", ["rowrms", "adam"])
def test_a_step_of_the_whole_range_is_refused(optimizer: str) -> None:
    with pytest.raises(InputError, match=rf"lr 1\.5: {optimizer} moves each weight about so far"):
        kilograd.Settings.of(optimizer=optimizer, lr=1.5)
    assert kilograd.Settings.of(lr=1.5).schedule.lr == 1.5
