"""`import kilograd` is enough: the functions do what the commands do."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from folders import contents, listing, write_model, write_pictures
from helpers import Run

import kilograd
from kilograd import InputError
from kilograd.data import prepare


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `small` and pictures `discs` of four classes, eight each."""
    home = tmp_path_factory.mktemp("home")
    write_model(home / "small", seed=3)
    write_pictures(home / "discs")
    return home


def without_seconds(folder: Path) -> dict[str, object]:
    found: dict[str, object] = dict(contents(folder))
    result = json.loads((folder / "result.json").read_text())
    return found | {"result.json": {k: v for k, v in result.items() if k != "seconds"}}


def test_adapt_does_what_the_command_does(home: Path, tmp_path: Path, run: Run) -> None:
    seen: list[tuple[int, int, str]] = []
    outcome = kilograd.adapt(
        home / "discs",
        str(home / "small"),
        "tinytrain",
        shots=3,
        queries=4,
        iterations=2,
        sram="20K",
        lr=0.05,
        seed=7,
        out=tmp_path / "python",
        save_plan=tmp_path / "python.json",
        progress=lambda *done: seen.append(done),
    )
    words = ["adapt", home / "discs", "--model", home / "small", "--method", "tinytrain"]
    words += ["--shots", 3, "--queries", 4, "--iterations", 2, "--sram", "20K", "--lr", 0.05]
    words += ["--seed", 7, "--out", tmp_path / "typed", "--save-plan", tmp_path / "typed.json"]
    done = run(*words, "--json")
    assert done.code == 0, done.err
    mine = json.loads(json.dumps(asdict(outcome.summary))) | {"seconds": 0.0}
    assert mine == {name: (done.json | {"seconds": 0.0})[name] for name in mine}
    assert without_seconds(tmp_path / "python") == without_seconds(tmp_path / "typed")
    assert (tmp_path / "python.json").read_text() == (tmp_path / "typed.json").read_text()
    assert [x[:2] for x in seen] == [(i, 24) for i in range(1, 25)]
    assert seen[-1][2].startswith("loss ")
    assert outcome.compiled.program.sram_bytes == outcome.summary.sram_bytes <= 20 << 10
    assert len(outcome.losses) == 24
    assert len(outcome.predictions) == len(outcome.episode.query)


def test_images_are_decoded_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = 0

    def counted(*words: object) -> object:
        nonlocal decoded
        decoded += 1
        return prepare(*words)  # type: ignore[arg-type]

    monkeypatch.setattr("kilograd.data.pixels.prepare", counted)
    outcome = kilograd.adapt(
        home / "discs", home / "small", "tinytrain", shots=3, queries=4, iterations=1, guard=True
    )
    assert decoded == len(outcome.episode.support) + len(outcome.episode.query)


def test_settings_can_be_used_again(home: Path) -> None:
    settings = kilograd.Settings.of(shots=2, queries=2, iterations=1)
    one = kilograd.adapt(home / "discs", home / "small", settings=settings, ways=2)
    given: dict[str, Any] = {"shots": 2, "queries": 2, "iterations": 1, "ways": 2}
    given |= {"method": "last", "optimizer": "sgd", "lr": 0.003}  # settings choose nothing
    same = kilograd.adapt(home / "discs", home / "small", **given)
    assert asdict(one.summary) | {"seconds": 0} == asdict(same.summary) | {"seconds": 0}
    assert one.summary.ways == 2
    other = kilograd.Settings.of(shots=2, queries=2, iterations=1, method="none")
    assert kilograd.adapt(home / "discs", home / "small", settings=other).losses == ()


def test_plan_and_export_do_what_the_commands_do(home: Path, tmp_path: Path, run: Run) -> None:
    model = str(home / "small")
    compiled = kilograd.plan(model, "last:2", 4, optimizer="adam", rows=True)
    words = ["--model", model, "--method", "last:2", "--ways", 4, "--optimizer", "adam", "--rows"]
    assert run("plan", *words, "--json").json["sram_bytes"] == compiled.program.sram_bytes
    made = kilograd.export(
        tmp_path / "python", model, "last:2", 4, target="wasm32", optimizer="adam", rows=True
    )
    assert made.program.sram_bytes == compiled.program.sram_bytes
    done = run("export", *words, "--target", "wasm32", "--out", tmp_path / "typed")
    assert done.code == 0
    assert contents(tmp_path / "python") == contents(tmp_path / "typed")


def test_evaluate_does_what_the_command_does(home: Path, tmp_path: Path, run: Run) -> None:
    found = kilograd.evaluate(
        home / "discs",
        tmp_path / "python",
        models=[home / "small"],
        methods=["none", "last:2@optimizer=adam,lr=0.02", "last:2"],
        episodes=2,
        shots=3,
        queries=4,
        iterations=1,
    )
    words = ["--models", home / "small", "--methods", "none,last:2@optimizer=adam,lr=0.02,last:2"]
    words += ["--episodes", 2, "--shots", 3, "--queries", 4, "--iterations", 1]
    done = run("evaluate", "--data", home / "discs", *words, "--out", tmp_path / "typed", "--json")
    assert done.code == 0, done.err

    def timeless(results: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{k: v for k, v in line.items() if k != "seconds"} for line in results]

    mine = json.loads(json.dumps(found.to_json()))
    assert mine["settings"] == done.json["settings"]
    assert timeless(mine["results"]) == timeless(done.json["results"])
    assert [row.method for row in found.rows[:3]] == [
        "none",
        "last:2@optimizer=adam,lr=0.02",
        "last:2",
    ]
    table = (tmp_path / "python" / "table.md").read_text()
    assert found.table in table
    assert table == (tmp_path / "typed" / "table.md").read_text()


def test_a_method_with_options_of_its_own_learns_as_adapt_does(home: Path, tmp_path: Path) -> None:
    """Each has its optimiser, rate, cache, guard and limit, and none has another's."""
    own: list[dict[str, object]] = [
        {"optimizer": "rowrms", "lr": 0.02},
        {"lr": 0.02, "accumulate": 4},
        {"cache": 2, "iterations": 3},
        {"cache": 1, "iterations": 3},
        {"guard": True, "iterations": 3},
        {"head": "linear", "iterations": 3},
        {"augment": "none", "iterations": 3},
    ]
    methods = [
        "last:2@" + ",".join(f"{k}={str(v).lower()}" for k, v in given.items()) for given in own
    ]
    found = kilograd.evaluate(
        home / "discs",
        tmp_path,
        models=[home / "small"],
        methods=methods,
        episodes=1,
        shots=3,
        queries=4,
        seed=5,
    )
    for row, given in zip(found.rows, own, strict=True):
        seed = {"seed": 5}
        alone = kilograd.adapt(
            home / "discs",
            home / "small",
            "last:2",
            settings=kilograd.Settings.of(shots=3, queries=4),
            **given | seed,  # type: ignore[arg-type]
        ).summary
        assert (row.accuracy_before, row.accuracy_after, row.sram_bytes) == (
            alone.accuracy_before,
            alone.accuracy_after,
            alone.sram_bytes,
        ), row.method


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shot": 3}, "^shot: no such option; there are shots"),
        ({"iterations": -1}, "^iterations -1: must not be negative$"),
        ({"sram": "much"}, "^sram 'much': give bytes"),
        ({"sram": 100}, r"^sram 100: 100 bytes hold no program; did you mean 100K\?$"),
        ({"episode": "half"}, "^episode half: give all, fixed, meta-dataset, or a file"),
        ({"episode": "a.json", "ways": 3}, "^ways 3: the episode in a.json is as it is"),
        ({"method": "lsat"}, "^method 'lsat': unknown; known are none"),
        ({"model": "nobody"}, "^model 'nobody': no such model"),
        ({"save_plan": "plan.txt"}, "^save_plan plan.txt: must end in .json"),
    ],
)
def test_bad_input_is_an_error_that_names_the_argument(
    home: Path,
    tmp_path: Path,
    given: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words: dict[str, object] = {"model": home / "small", "shots": 3, "queries": 4} | given
    with pytest.raises(InputError, match=message):
        kilograd.adapt(home / "discs", **words)  # type: ignore[arg-type]
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": None}, "^data None: give a path$"),
        ({"data": 3}, "^data 3: give a path$"),
        ({"out": 3}, "^out 3: give a path$"),
        ({"save_plan": b"x"}, "^save_plan b'x': give a path$"),
        ({"out": "a.json", "save_plan": "a.json"}, "^save_plan a.json: lies in a.json; choose an"),
        ({"settings": {"lr": 1}}, "^settings: must be a kilograd.Settings, not a "),
        ({"settings": kilograd.Settings}, "^settings: must be a kilograd.Settings, not a "),
        ({"episode": ["fixed"]}, r"^episode \['fixed'\]: give all, fixed"),
        ({"nonsense": None}, "^nonsense: no such option"),
    ],
)
def test_wrong_kinds_of_arguments_of_adapt(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"data": home / "discs", "model": home / "small", "shots": 2, "queries": 2}
    with pytest.raises(InputError, match=message):
        kilograd.adapt(**(words | given))
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"jobs": 1.5}, "^jobs 1.5: cannot be used"),
        ({"episodes": 2.5}, "^episodes 2.5: cannot be used"),
        ({"episodes": True}, "^episodes True: cannot be used"),
        ({"suite": "slow"}, "^suite slow: cannot be used .*; give quick or full"),
        ({"suite": "quick", "settings": kilograd.Settings()}, "^suite quick: has settings of its"),
        ({"method": "last"}, "^method: no such option; there are methods"),
        ({"methods": [None]}, "^method 'None': unknown"),
        ({"methods": 3}, "^methods 3: cannot be used"),
        ({"data": None}, "^data None: cannot be used"),
        ({"out": None}, "^out None: give a path"),
        ({"sram": "abc"}, "^sram 'abc': give bytes"),
        ({"methods": ["none", "last@sram=abc"]}, "^methods last@sram=abc: sram 'abc': give bytes"),
        ({"methods": ["none", "last@channels=2"]}, "^methods last@channels=2: channels 2.0: must"),
        ({"methods": ["none", "last@compute=0"]}, "^methods last@compute=0: compute 0: must be"),
        ({"methods": ["none", "last@cache_bytes="]}, "^methods last@cache_bytes=: cache_bytes ''"),
    ],
)
def test_wrong_arguments_of_evaluate_begin_nothing(
    home: Path, tmp_path: Path, given: Any, message: str
) -> None:
    words: dict[str, Any] = {
        "data": home / "discs",
        "out": tmp_path / "run",
        "models": str(home / "small"),
        "methods": "none",
        "episodes": 1,
        "shots": 2,
        "queries": 2,
        "iterations": 1,
    }
    with pytest.raises(InputError, match=message):
        kilograd.evaluate(**(words | given))
    assert listing(tmp_path) == []


def test_values_are_short_on_a_screen(home: Path) -> None:
    outcome = kilograd.adapt(home / "discs", home / "small", "none", shots=2, queries=2)
    assert len(repr(outcome)) < 1000
    assert len(repr(kilograd.plan(home / "small", "last"))) < 500


def test_what_one_should_know_is_logged(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / "discs")
    (tmp_path / "discs" / "red" / "bad\u202e.png").write_bytes(b"no picture")
    monitored = logging.getLogger("kilograd")
    monitored.propagate = True
    with caplog.at_level(logging.WARNING, "kilograd"):
        kilograd.adapt(tmp_path / "discs", home / "small", "none", shots=3, queries=2)
    record = caplog.records[0]
    assert record.getMessage().startswith("1 of 33 images unreadable and skipped: ")
    assert record.getMessage().isprintable()


def test_import_is_light() -> None:
    """Signals are heard before numpy is there: `python -m kilograd` relies on it."""
    code = "import sys, kilograd; print(sorted({'numpy', 'typer', 'PIL'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_what_is_offered_is_there() -> None:
    for name in kilograd.__all__:
        assert getattr(kilograd, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'adopt'"):
        kilograd.adopt  # noqa: B018


def test_settings_say_how_episodes_are_drawn(home: Path) -> None:
    drawn = kilograd.Settings.of(episode="meta-dataset", iterations=0, seed=3)
    with pytest.raises(InputError, match="a Meta-Dataset episode needs 5"):
        kilograd.adapt(home / "discs", home / "small", settings=drawn)


def test_a_cache_that_holds_nothing_is_named_with_its_method(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^methods last:2@cache_bytes=9: cache_bytes 9: does not"):
        kilograd.evaluate(
            home / "discs", tmp_path, home / "small", ["none", "last:2@cache_bytes=9"], 1, shots=2
        )
