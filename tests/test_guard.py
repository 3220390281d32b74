"""How far to train, decided by images that are held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import CLASSES, write_model, write_pictures
from numpy.typing import NDArray

from kilograd.data import Augment, load_dataset, sample_episode
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.learn import guard
from kilograd.learn.guard import Trial, passes_that_help, trials
from kilograd.learn.recipe import compile_recipe
from kilograd.learn.samples import Samples
from kilograd.learn.training import load_samples, predict
from kilograd.select import Budget
from kilograd.settings import OptimizerKind, Recipe, Schedule
from kilograd.targets import HostProgram, build_host

WAYS = len(CLASSES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small", seed=3)))


def support_of(tmp_path: Path, model: Model, shots: int) -> Samples:
    dataset = load_dataset(write_pictures(tmp_path / "discs", count=shots + 1))
    e = sample_episode(dataset, ways=None, shots=shots, queries=1, seed=0)
    return load_samples(dataset, e.support, e.support_labels, model.preprocess)


def right(images: str) -> tuple[bool, ...]:
    """Read one image a letter: x is right."""
    return tuple(x == "x" for x in images)


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        ({0: "xxx......", 2: "xxx......", 10: "..xxx...."}, 10),  # nothing lost
        ({0: "xxx......", 2: "xxx......", 10: "xx......."}, 0),  # 1 lost: 1 > 0.5
        ({0: "xxx......", 2: "xxx......", 10: "...xx...."}, 10),  # 3 lost, 2 won: 1 < 0.5 * 2.24
        ({0: "xxx......", 2: "xxx......", 10: "...x....."}, 0),  # 3 lost, 1 won: 2 > 0.5 * 2
        ({0: "xxx......", 2: "xxxxx....", 5: "xxxxx....", 10: "........."}, 5),
        ({0: "xxxx.....", 2: "xxx......", 10: "........."}, 0),
        ({0: "xx......."}, 0),
    ],
)
def test_training_goes_on_unless_images_speak_against_it(
    found: dict[int, str], passes: int
) -> None:
    assert passes_that_help(tuple(Trial(p, right(x)) for p, x in found.items())) == passes


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
    assert all(len(t.right) == 3 * WAYS for t in found)
    assert len(asked) == 3 * len(found)
    for look in range(len(found)):
        seen = np.concatenate(asked[look :: len(found)])
        assert sorted(x.tobytes() for x in seen) == sorted(x.tobytes() for x in support.images)
    assert all(np.array_equal(v, first[k]) for k, v in host.state.items())
    again = trials(host, compiled, support, Schedule(10, 0.01, Augment.NONE))
    assert again == found


@pytest.mark.parametrize(("lr", "helps"), [(0.01, True), (10.0, False)])
def test_what_training_does_is_recognised(
    tmp_path: Path, model: Model, lr: float, *, helps: bool
) -> None:
    """Discs of four colours, a network of random weights, and a rate that teaches or ruins."""
    support = support_of(tmp_path, model, 5)
    recipe = Recipe("full", WAYS, optimizer=OptimizerKind.ROWRMS)
    compiled = compile_recipe(model, recipe, Budget())
    found = trials(build_host(compiled.program), compiled, support, Schedule(20, lr, Augment.NONE))
    assert (sum(found[-1].right) > sum(found[0].right)) is helps
    assert (passes_that_help(found) == 20) is helps


def test_a_single_image_cannot_be_held_out(tmp_path: Path, model: Model) -> None:
    support = support_of(tmp_path, model, 1)
    compiled = compile_recipe(model, Recipe("last", WAYS), Budget())
    with pytest.raises(InputError, match="two images of each class"):
        trials(build_host(compiled.program), compiled, support, Schedule())
