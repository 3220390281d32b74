"""What meta-training has learned to multiply cosines by is kept, and used by every program."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import write_model, write_pictures
from helpers import Run, image

import kilograd
from kilograd import InputError
from kilograd.data import Draw, load_dataset
from kilograd.emit import source
from kilograd.emit.readme import readme
from kilograd.frontend import Model, load_model, save_model
from kilograd.ir import Array
from kilograd.learn.adapt import load_task
from kilograd.learn.adapted import load_adapted
from kilograd.learn.application import application
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import compile_recipe
from kilograd.learn.samples import Samples
from kilograd.learn.training import enrol
from kilograd.select import Budget
from kilograd.settings import HeadKind, Recipe, Schedule
from kilograd.targets import Driver, build_host

SCALE = 2.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small", seed=3)


@pytest.fixture(scope="module")
def usual(folder: Path) -> Model:
    return load_model(str(folder))


@pytest.fixture(scope="module")
def sharp(usual: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same network with another scale, from a folder."""
    out = tmp_path_factory.mktemp("models") / "sharp"
    out.mkdir()
    save_model(replace(usual, cosine_scale=SCALE), out)
    return load_model(str(out))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "discs", count=6)


def test_a_folder_keeps_it_and_10_is_what_is_not_said(
    usual: Model, sharp: Model, folder: Path, tmp_path: Path
) -> None:
    assert (usual.cosine_scale, sharp.cosine_scale) == (10, SCALE)
    assert json.loads((sharp.path / "graph.json").read_text())["cosine_scale"] == SCALE
    save_model(usual, tmp_path)
    assert "cosine_scale" not in json.loads((tmp_path / "graph.json").read_text())
    assert usual.fingerprint != sharp.fingerprint
    assert replace(sharp, cosine_scale=10.0).fingerprint == usual.fingerprint


@pytest.mark.parametrize(
    "said",
    ["0", "-1", "1e-9", "1e9", "1e400", '"10"', "null", "true", "[]", "NaN", "Infinity", "2000"],
)
def test_what_is_no_scale_is_refused(sharp: Model, tmp_path: Path, said: str) -> None:
    for file in sharp.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    graph = tmp_path / "graph.json"
    text = graph.read_text()
    assert f'"cosine_scale": {SCALE}' in text
    graph.write_text(text.replace(f'"cosine_scale": {SCALE}', f'"cosine_scale": {said}'))
    with pytest.raises(InputError, match=r"graph\.json") as caught:
        load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_logits_and_losses_are_of_that_scale(usual: Model, sharp: Model) -> None:
    """Against a softmax in float64 of the cosines that the usual program has."""
    rng = np.random.default_rng(0)
    images = [image(rng, 16) for _ in range(4)]
    found: list[Array] = []
    losses: list[float] = []
    for model in (usual, sharp):
        host = build_host(compile_recipe(model, Recipe("last", 3), Budget()).program)
        enrol(host, Samples(np.stack(images[:3]), np.arange(3, dtype=np.int32)))
        driver = Driver(host)
        found.append(driver.infer(images[3]).astype(np.float64).copy())
        one = (driver.show(images[3]), np.array([1], np.int32))
        losses += driver.update([one], share=1.0, rate=1e-4, clock=(0, 0))
    cosines = found[0] / 10
    assert np.abs(cosines).max() <= 1 + 1e-6
    assert np.ptp(cosines) > 1e-5, "classes differ"
    assert found[1] == pytest.approx(SCALE * cosines, rel=1e-6)
    for scale, loss in zip((10, SCALE), losses, strict=True):
        assert loss == pytest.approx(
            np.log(np.exp(scale * cosines).sum()) - scale * cosines[1], rel=1e-4
        )


def test_the_exported_c_has_it(usual: Model, sharp: Model, tmp_path: Path) -> None:
    for model, said in ((usual, 10.0), (sharp, SCALE)):
        program = compile_recipe(model, Recipe("last", 3), Budget()).program
        found = set(re.findall(r"cosine_\w*params .*\.scale = ([^}]+)f\}", source(program)))
        assert set(map(float.fromhex, found)) == {said}


def test_the_exported_page_has_it(usual: Model, sharp: Model) -> None:
    for model, said in ((usual, "10"), (sharp, "2.5")):
        page = readme(application(compile_recipe(model, Recipe("last", 3), Budget())), "")
        assert f"a logit is {said} times the cosine" in page
        assert f"class: {said} at most" in page
    linear = compile_recipe(sharp, Recipe("last", 3, HeadKind.INT8), Budget())
    assert "cosine" not in readme(application(linear), "")


def test_what_images_say_depends_on_it(usual: Model, sharp: Model, photos: Path) -> None:
    dataset = load_dataset(photos)
    found = []
    for model in (usual, sharp):
        task = load_task(dataset, Draw(ways=3, shots=3)(dataset, 0), model.preprocess)
        found.append(inspector(model, task.support, Schedule()).fisher(model.layers[-2:]))
    assert not any(np.array_equal(found[0][x], found[1][x]) for x in found[0])


def test_what_was_learned_keeps_it(sharp: Model, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "learned"
    outcome = kilograd.adapt(photos, sharp.path, "last", iterations=1, out=out)
    again = load_adapted(out)
    assert again.compiled.model.cosine_scale == SCALE
    assert again.threshold == outcome.threshold
    assert outcome.threshold is not None
    assert 0 < outcome.threshold <= 1
    before = [p.confidence for p in kilograd.predict(outcome, [photos])]
    assert [p.confidence for p in kilograd.predict(out, [photos])] == before
    assert max(before) > 0.9, "cosines, whatever they are multiplied by"
    graph = out / "network" / "graph.json"
    graph.write_text(graph.read_text().replace(f'"cosine_scale": {SCALE}', '"cosine_scale": 3.5'))
    with pytest.raises(InputError, match="is another network than the one that learned"):
        load_adapted(out)


def test_models_says_it(sharp: Model, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("KILOGRAD_MODELS", str(sharp.path.parent))
    found = json.loads(run("models", "--json").out)["models"]
    assert {m["name"]: m["cosine_scale"] for m in found}[sharp.path.name] == SCALE
