"""How far to train, decided by images that are held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import CLASSES, write_model, write_pictures
from numpy.typing import NDArray

from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.learn import guard
from kilograd.learn.adapt import Samples, Schedule, load_samples, predict
from kilograd.learn.augment import Augment
from kilograd.learn.data import load_dataset
from kilograd.learn.episodes import sample_episode
from kilograd.learn.guard import Trial, passes_that_help, trials
from kilograd.learn.recipe import OptimizerKind, Recipe, compile_recipe
from kilograd.select import Budget
from kilograd.targets import HostProgram, build_host

WAYS = len(CLASSES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small", seed=3)))


def support_of(tmp_path: Path, model: Model, shots: int) -> Samples:
    dataset = load_dataset(write_pictures(tmp_path / "discs", count=shots + 1))
    e = sample_episode(dataset, ways=None, shots=shots, queries=1, seed=0)
    return load_samples(dataset, e.support, e.support_labels, model.preprocess)


@pytest.mark.parametrize(
    ("right", "passes"),
    [
        ({0: 5, 2: 4, 10: 5}, 0),  # nothing gained
        ({0: 5, 2: 6, 10: 4}, 2),
        ({0: 5, 2: 6, 10: 6}, 10),  # the most of equals
        ({0: 5}, 0),
    ],
)
def test_as_far_as_held_out_images_say(right: dict[int, int], passes: int) -> None:
    assert passes_that_help(tuple(Trial(p, n) for p, n in right.items())) == passes


def test_every_image_is_held_out_once_and_nothing_stays_learned(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = support_of(tmp_path, model, 3)
    recipe = Recipe("full", WAYS, optimizer=OptimizerKind.ROWRMS)
    compiled = compile_recipe(model, recipe, Budget())
    host = build_host(compiled.program)
    first = {k: v.copy() for k, v in host.state.items()}
    asked: list[NDArray[np.int8]] = []

    def noted(on: HostProgram, images: NDArray[np.int8]) -> NDArray[np.int64]:
        asked.append(images)
        return predict(on, images)

    monkeypatch.setattr(guard, "predict", noted)
    found = trials(host, compiled, support, Schedule(10, 0.01, Augment.NONE))
    assert [t.passes for t in found] == [0, 2, 5, 10]
    assert all(0 <= t.right <= 3 * WAYS for t in found)
    assert len(asked) == 3 * len(found)
    for look in range(len(found)):
        seen = np.concatenate(asked[look :: len(found)])
        assert sorted(x.tobytes() for x in seen) == sorted(x.tobytes() for x in support.images)
    assert all(np.array_equal(v, first[k]) for k, v in host.state.items())
    again = trials(host, compiled, support, Schedule(10, 0.01, Augment.NONE))
    assert again == found


def test_training_that_helps_is_recognised(tmp_path: Path, model: Model) -> None:
    """Discs of four colours, a network of random weights."""
    support = support_of(tmp_path, model, 5)
    recipe = Recipe("full", WAYS, optimizer=OptimizerKind.ROWRMS)
    compiled = compile_recipe(model, recipe, Budget())
    found = trials(
        build_host(compiled.program), compiled, support, Schedule(20, 0.01, Augment.NONE)
    )
    assert passes_that_help(found) > 0


def test_a_single_image_cannot_be_held_out(tmp_path: Path, model: Model) -> None:
    support = support_of(tmp_path, model, 1)
    compiled = compile_recipe(model, Recipe("last", WAYS), Budget())
    with pytest.raises(InputError, match="two images of each class"):
        trials(build_host(compiled.program), compiled, support, Schedule())
