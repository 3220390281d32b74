"""Training offline: repeatable, resumable, and worth its folder."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import LAYERS, write_class, write_model, write_pictures

torch = pytest.importorskip("torch", reason="PyTorch is not here: pip install torch")
pytest.importorskip("tensorboard", reason="TensorBoard is not here: pip install tensorboard")

from kilograd.cli import main  # noqa: E402 behind the lines that may skip
from kilograd.data import Augment, Dataset, EpisodeKind, load_dataset, sample_episode  # noqa: E402
from kilograd.errors import InputError, option  # noqa: E402
from kilograd.frontend import Model, load_model, load_model_folder, resized  # noqa: E402
from kilograd.ir import Array  # noqa: E402
from kilograd.layers.raised import real_parameters  # noqa: E402
from kilograd.offline import loop  # noqa: E402
from kilograd.offline.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from kilograd.offline.folder import agree  # noqa: E402
from kilograd.offline.loop import Lesson, Session, train  # noqa: E402
from kilograd.offline.metatrain import ProtoNet, accuracy, metatrain  # noqa: E402
from kilograd.offline.network import FloatNetwork  # noqa: E402
from kilograd.offline.pretrain import pretrain  # noqa: E402
from kilograd.offline.settings import Course, Metatraining, Pretraining, Views  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from a second thread, and bits depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model `small`, pictures `discs` of four colours, and `many` of twenty."""
    home = tmp_path_factory.mktemp("home")
    write_model(home / "small", seed=3)
    write_pictures(home / "discs", count=20)
    rng = np.random.default_rng(0)
    for label in range(20):
        red, green, blue = (int(125 + v) for v in rng.uniform(-70, 70, 3))
        write_class(home / "many" / f"c{label:02}", rng, (red, green, blue), 8)
    return home


@pytest.fixture(scope="module")
def small(home: Path) -> Model:
    return load_model_folder(home / "small")


@pytest.fixture(scope="module")
def many(home: Path) -> Dataset:
    return load_dataset(home / "many")


META = Metatraining(
    epochs=3, steps=4, ways=4, shots=2, queries=4, validation_episodes=10, lr=0.05, warmup=1,
    views=Views(Augment.NOFLIP, crop=0.6),
)  # fmt: skip


# ---- checkpoints ----


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 1000):
        save_checkpoint(tmp_path / "c", step, {"step": step, "w": torch.ones(2) * step})
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "step-000000010.pt",
        "step-000001000.pt",
    ]
    state = load_checkpoint(tmp_path / "c", pytest.fail)
    assert state is not None
    assert state["step"] == 1000
    assert state["w"].tolist() == [1000, 1000]


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [_cut, _flip, lambda data: b"", lambda data: b"\0" * 4000])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step, "w": torch.zeros(1000)})
    newest = tmp_path / "step-000000002.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    said: list[str] = []
    state = load_checkpoint(tmp_path, said.append)
    assert state is not None
    assert state["step"] == 1
    assert len(said) == 1
    assert f"{newest} is damaged" in said[0]


def test_without_any_whole_checkpoint_training_begins_anew(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", pytest.fail) is None
    save_checkpoint(tmp_path, 1, {"step": 1})
    (tmp_path / "step-000000001.pt").write_bytes(b"no checkpoint")
    (tmp_path / ".new").write_bytes(b"half a checkpoint, left by a killed run")
    said: list[str] = []
    assert load_checkpoint(tmp_path, said.append) is None
    assert len(said) == 1


# ---- the schedule ----


@pytest.mark.parametrize(("epochs", "warmup"), [(100, 5), (10, 1), (7, 0)])
def test_the_rate_is_that_of_pytorchs_schedulers(epochs: int, warmup: int) -> None:
    lr, floor, steps = 5e-5, 1e-6, 3
    course = Course(epochs, steps, lr, floor, warmup, whole_epochs=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr)
    if warmup:
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, floor / lr, total_iters=warmup)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs - warmup, floor)
    for epoch in range(epochs):
        want = optimizer.param_groups[0]["lr"]
        for step in range(steps):
            assert course.rate(epoch * steps + step) == pytest.approx(want, rel=1e-6)
        optimizer.step()
        if epoch < warmup:
            rise.step()
            if epoch == warmup - 1:
                fall.base_lrs = [lr]
                optimizer.param_groups[0]["lr"] = lr
        else:
            fall.step()


def test_the_defaults_of_meta_training_are_the_papers() -> None:
    course = Metatraining().course()
    assert (course.epochs, course.steps, course.momentum, course.weight_decay) == (
        100,
        2000,
        0.9,
        0,
    )
    assert course.rate(0) == 1e-6
    assert course.rate(5 * 2000) == 5e-5
    assert course.rate(200_000 - 1) == pytest.approx(1e-6, rel=0.05)


def test_between_epochs_the_rate_moves_with_every_step_where_it_may() -> None:
    course = Course(10, 100, 0.1, 0.0, warmup=2)
    assert course.rate(0) == 0
    assert course.rate(50) == pytest.approx(0.025)
    assert course.rate(200) == pytest.approx(0.1)
    assert course.rate(600) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("epochs", -1), ("steps", 0), ("warmup", -1), ("lr", 0.0), ("floor", -1.0)],
        *[("momentum", 1.0), ("momentum", -0.1), ("weight_decay", -1e-4), ("lr", float("nan"))],
    ],
)
def test_senseless_schedules_are_refused(name: str, value: float) -> None:
    good: dict[str, Any] = {"epochs": 3, "steps": 2, "lr": 0.1, "floor": 0.0, "warmup": 1}
    with pytest.raises(InputError, match=rf"^{name} "):
        Course(**{**good, name: value})


# ---- the loop ----


def line(scores: list[float] | None = None) -> Lesson:
    """Fit a line; a step sees four points that depend on its number."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)
    rest = iter(scores or [])

    def batch(step: int) -> tuple[Array, ...]:
        x = np.random.default_rng(step).normal(size=(4, 3)).astype(np.float32)
        return x, x.sum(axis=1, keepdims=True)

    def loss(batch: tuple[Any, ...]) -> Any:
        return torch.nn.functional.mse_loss(module(batch[0]), batch[1])

    def score() -> float:
        return next(rest) if scores else -(module.weight - 1).square().sum().item()

    return Lesson(module, batch, loss, score)


COURSE = Course(4, 5, 0.05, 0.0, 1)


def test_training_learns(tmp_path: Path) -> None:
    lesson = line()
    history = train(lesson, COURSE, tmp_path, Session())
    assert history.best == 4
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert history.epochs[-1].score > history.start
    assert list((tmp_path / "log").glob("events.*"))


class Killed(Exception):  # noqa: N818 what a process cannot even see
    """Raised in the middle of a step."""


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("at", [1, 5, 7, 19, 20])
def test_an_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, every_step: bool
) -> None:
    whole = line()
    want = train(whole, COURSE, tmp_path / "whole", Session())
    if every_step:
        monkeypatch.setattr(loop, "_SAVE_AFTER", 0.0)

    def kill(done: int, of: int, said: str) -> None:
        if done == at:
            raise Killed

    with pytest.raises(Killed):
        train(line(), COURSE, tmp_path / "cut", Session(progress=kill))
    again, seen = line(), list[int]()
    got = train(
        again, COURSE, tmp_path / "cut", Session(progress=lambda done, *_: seen.append(done))
    )
    assert got == want
    assert torch.equal(again.module.weight, whole.module.weight)
    first = at + 1 if every_step else at - at % 5 + 1
    assert seen == list(range(first, 21)), "no more is repeated than has to be"


def test_a_run_over_a_damaged_checkpoint_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = line()
    want = train(whole, COURSE, tmp_path, Session())
    newest = max((tmp_path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    again, said = line(), list[str]()
    assert train(again, COURSE, tmp_path, Session(say=said.append)) == want
    assert torch.equal(again.module.weight, whole.module.weight)
    assert len(said) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.pop("best"),
        lambda s: s.update(more=1),
        lambda s: s.update(step="5"),
        lambda s: s.update(step=-1),
        lambda s: s.update(step=10**9),
        lambda s: s.update(running=math.nan),
        lambda s: s["scores"].append(0.5),
        lambda s: s["losses"].clear(),
        lambda s: s["scores"].__setitem__(0, "x"),
        lambda s: s["module"].clear(),
        lambda s: s["best"].update({k: v[..., :0] for k, v in s["best"].items()}),
        lambda s: s.update(optimizer={}),
        lambda s: s["optimizer"]["param_groups"].clear(),
        lambda s: s["optimizer"]["param_groups"][0].update(params=[7]),
        lambda s: s["optimizer"]["state"].update({0: {"momentum_buffer": torch.zeros(99)}}),
        lambda s: s["optimizer"]["state"].update({99: {}}),
    ],
)
def test_a_checkpoint_that_is_whole_but_of_something_else_gives_way(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    """Its checksum is right: somebody else wrote it, or another version."""
    whole = line()
    want = train(whole, COURSE, tmp_path, Session())
    newest = max((tmp_path / "checkpoints").iterdir())
    state = dict(load_checkpoint(newest.parent, pytest.fail) or {})
    spoil(state)
    save_checkpoint(newest.parent, int(newest.stem.rpartition("-")[2]), state)
    again, said = line(), list[str]()
    assert train(again, COURSE, tmp_path, Session(say=said.append)) == want
    assert torch.equal(again.module.weight, whole.module.weight)
    assert len(said) == 1


def test_a_folder_whose_name_no_network_can_have_is_refused(
    tmp_path: Path, small: Model, many: Dataset
) -> None:
    with pytest.raises(InputError, match="the folder's name, which will be the network's"):
        agree(tmp_path / "my net", small, (many,), META)


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    first = line()
    train(first, Course(4, 5, 0.05, 0.0, 1), tmp_path / "a", Session())
    weights = []
    lesson = line([0.1, 0.5, 0.9, 0.3, 0.9])
    history = train(
        lesson,
        COURSE,
        tmp_path / "b",
        Session(progress=lambda *_: weights.append(lesson.module.weight.detach().clone())),
    )
    assert (history.start, history.best) == (0.1, 2)
    assert [e.score for e in history.epochs] == [0.5, 0.9, 0.3, 0.9]
    assert torch.equal(lesson.module.weight, weights[9])
    assert not torch.equal(lesson.module.weight, weights[19])


def test_where_nothing_is_better_nothing_changes(tmp_path: Path) -> None:
    lesson = line([0.9, 0.5, 0.9, 0.3, 0.2])
    before = lesson.module.weight.detach().clone()
    assert train(lesson, COURSE, tmp_path, Session()).best == 0
    assert torch.equal(lesson.module.weight, before)


def test_a_loss_that_explodes_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use a lower lr"):
        train(line(), Course(40, 5, 1e9, 0.0, 0), tmp_path, Session())


def test_other_settings_are_refused_by_name(tmp_path: Path, small: Model, many: Dataset) -> None:
    agree(tmp_path / "new", small, (many,), META)
    agree(tmp_path / "new", small, (many,), META)
    with pytest.raises(InputError, match="was begun with shots 2, and this is with shots 1;"):
        agree(tmp_path / "new", small, (many,), replace(META, shots=1))
    views = replace(META.views, crop=0.7)
    with pytest.raises(InputError, match=r"was begun with crop 0\.6, and this is with crop 0\.7;"):
        agree(tmp_path / "new", small, (many,), replace(META, views=views))
    with pytest.raises(InputError, match=r"was begun with size 16, and this is with size 24;"):
        agree(tmp_path / "new", resized(small, 24), (many,), META)
    other = {k: v + (k == "stem.weight") for k, v in small.graph.data.items()}
    graph = replace(small.graph, data=other)
    with pytest.raises(InputError, match=r"was begun with model small"):
        agree(tmp_path / "new", replace(small, graph=graph), (many,), META)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("", "utf-8")
    with pytest.raises(InputError, match="holds something else"):
        agree(tmp_path / "else", small, (many,), META)


# ---- learning to learn ----


def test_logits_are_scaled_cosines_to_mean_features(small: Model, many: Dataset) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(-128, 128, (9, 16, 16, 3), np.int8)
    labels = np.array([0, 0, 1, 2, 2, 0, 1, 2, 1])
    network = FloatNetwork(small.graph)
    features = network.infer(images)[0]
    with torch.no_grad():
        got = ProtoNet(network)(torch.from_numpy(images), torch.from_numpy(labels), 5).numpy()
    prototypes = [features[[0, 1]].mean(axis=0), features[2], features[[3, 4]].mean(axis=0)]
    want = [
        [10 * f @ p / np.linalg.norm(f) / np.linalg.norm(p) for p in prototypes]
        for f in features[5:]
    ]
    assert np.allclose(got, want, rtol=1e-4, atol=1e-4)


def test_prototypes_and_scale_learn_too(small: Model) -> None:
    images = np.random.default_rng(1).integers(-128, 128, (4, 16, 16, 3), np.int8)
    module = ProtoNet(FloatNetwork(small.graph))
    module(torch.from_numpy(images), torch.tensor([0, 1, 0, 1]), 2).square().sum().backward()
    gradients = [module.network.layers[0].weight.grad.clone(), module.scale.grad.clone()]
    module.zero_grad()
    support = module.network(torch.from_numpy(images[:2]))[0].detach()
    query = module.network(torch.from_numpy(images[2:]))[0]
    normal = torch.nn.functional.normalize
    (module.scale * normal(query) @ normal(support).T).square().sum().backward()
    assert not torch.allclose(module.network.layers[0].weight.grad, gradients[0]), (
        "as if prototypes were constant"
    )
    assert torch.allclose(module.scale.grad, gradients[1], rtol=1e-4)


def test_accuracy_is_that_of_the_nearest_mean(many: Dataset) -> None:
    features = np.random.default_rng(0).normal(size=(len(many), 6)).astype(np.float32)
    episodes = [sample_episode(many, ways=3, shots=2, queries=4, seed=s) for s in range(5)]
    right = []
    for e in episodes:
        for i, label in zip(e.query, e.query_labels, strict=True):
            cosines = []
            for c in range(3):
                of_class = [j for j, k in zip(e.support, e.support_labels, strict=True) if k == c]
                mean = features[of_class].mean(axis=0)
                cosines.append(mean @ features[i] / np.linalg.norm(mean))
            right.append(int(np.argmax(cosines)) == label)
    assert accuracy(episodes, features) == pytest.approx(np.mean(right))


def test_metatrain_gains_and_writes_a_model(tmp_path: Path, small: Model, many: Dataset) -> None:
    how = replace(META, epochs=6, steps=10)
    finished = metatrain(tmp_path / "meta", small, many, how)
    assert finished.before is not None
    assert finished.history.best > 0
    assert finished.after.float32 > finished.before.float32
    assert finished.after.int8 == pytest.approx(finished.after.float32, abs=0.1)
    assert finished.after.int8 > finished.before.int8
    model = load_model(str(tmp_path / "meta"))
    assert (model.name, model.layers) == ("meta", small.layers)
    assert set(model.training_classes) == set(many.classes) - {"c04", "c09", "c14", "c19"}
    result = json.loads((tmp_path / "meta" / "result.json").read_text("utf-8"))
    assert result["name"] == "meta"
    assert model.cosine_scale == result["cosine_scale"] == finished.cosine_scale != 10
    assert ProtoNet(FloatNetwork(model.graph), model.cosine_scale).learned_scale() == (
        model.cosine_scale
    )


def test_only_the_last_layers_change(tmp_path: Path, small: Model, many: Dataset) -> None:
    metatrain(tmp_path / "meta", small, many, replace(META, last=2, lr=0.1, epochs=6, steps=10))
    before = real_parameters(small.graph)
    model = load_model(str(tmp_path / "meta"))
    after = real_parameters(model.graph)
    changed = set()
    for name, value in before.items():
        if name.endswith(".weight") and not name.startswith("classifier"):
            quant = model.graph[name].type.affine
            steps = np.abs(np.moveaxis(after[name] - value, quant.axis or 0, -1)) / quant.scale
            if steps.max() > 0.6:  # rounding makes half a step
                changed.add(name.removesuffix(".weight"))
    assert changed == set(LAYERS[-2:])


def test_a_network_that_gains_nothing_stays_to_the_bit(
    tmp_path: Path, small: Model, many: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    finished = metatrain(
        tmp_path / "meta", small, many, replace(META, epochs=0), session=Session(say=said.append)
    )
    assert finished.after == finished.before
    model = load_model(str(tmp_path / "meta"))
    assert all((model.graph.data[k] == v).all() for k, v in small.graph.data.items())
    assert model.training_classes == small.training_classes
    assert "stays as it was" in said[0]


def test_varying_episodes_and_another_set(tmp_path: Path, small: Model, home: Path) -> None:
    many, discs = load_dataset(home / "many"), load_dataset(home / "discs")
    how = replace(META, episode=EpisodeKind.META_DATASET, epochs=1, ways=3)
    finished = metatrain(tmp_path / "meta", small, many, how, discs)
    assert (finished.classes, finished.reported) == (20, 80)


def test_processes_that_prepare_images_change_nothing(
    tmp_path: Path, small: Model, many: Dataset
) -> None:
    how = replace(META, epochs=1)
    for name, workers in (("a", 0), ("b", 1)):
        metatrain(tmp_path / name, small, many, how, session=Session(workers=workers))
    a, b = (real_parameters(load_model(str(tmp_path / n)).graph) for n in "ab")
    assert all((a[k] == b[k]).all() for k in a)


def _gone(step: int) -> tuple[Array, ...]:
    raise InputError(
        f"{option('data')} discs: image InputError: 7\nof step {step} is gone; put it back"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_process_cannot_use_arrives_as_it_was_said(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError) as caught:
        train(replace(line(), batch=_gone), COURSE, tmp_path, Session(workers=workers))
    with pytest.raises(InputError) as said:
        _gone(0)
    assert caught.value.args == said.value.args


# ---- classifying ----


def test_pretrain_from_random_weights(tmp_path: Path, small: Model, home: Path) -> None:
    how = Pretraining(
        epochs=12, batch=16, lr=0.1, fresh=True, views=Views(Augment.NOFLIP, crop=0.6)
    )
    finished = pretrain(tmp_path / "new", small, load_dataset(home / "discs"), how)
    assert finished.after.float32 > 0.8
    assert finished.after.int8 > 0.8
    assert (finished.classes, finished.learned, finished.reported) == (4, 64, 16)
    model = load_model(str(tmp_path / "new"))
    assert model.training_classes == ("blue", "green", "red", "yellow")
    assert model.graph.outputs[1].type.shape == (1, 1, 4)


def test_a_trained_network_learns_other_classes(tmp_path: Path, small: Model, home: Path) -> None:
    how = Pretraining(epochs=8, batch=8, lr=0.1, last=3, views=Views(Augment.NOFLIP, crop=0.6))
    start = replace(small, training_classes=("zebra",))
    finished = pretrain(tmp_path / "new", start, load_dataset(home / "discs"), how)
    assert finished.history.epochs[-1].loss < 0.9 * finished.history.epochs[0].loss
    assert finished.after.int8 > 0.25, "chance"
    model = load_model(str(tmp_path / "new"))
    assert model.training_classes == ("zebra", "blue", "green", "red", "yellow")
    first = "stem.weight"
    assert np.abs(
        real_parameters(model.graph)[first] - real_parameters(small.graph)[first]
    ).max() <= 0.51 * max(model.graph[first].type.affine.scale)


@pytest.mark.parametrize(
    ("change", "match"),
    [({"batch": 1}, "batch 1"), ({"fresh": True, "last": 2}, "fresh"), ({"lr": -1.0}, "lr")],
)
def test_senseless_pretraining_is_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Pretraining(**change)


def test_more_layers_than_there_are(tmp_path: Path, small: Model, home: Path) -> None:
    with pytest.raises(InputError, match="last 8: small has 7 convolutions"):
        pretrain(tmp_path / "x", small, load_dataset(home / "discs"), Pretraining(last=8))
    assert not (tmp_path / "x").exists()


# ---- the command line ----

QUICK = (
    "--epochs", "6", "--steps", "6", "--ways", "2", "--shots", "2", "--queries", "3",
    "--validation-episodes", "5", "--lr", "0.02", "--warmup", "0", "--device", "cpu",
)  # fmt: skip


def run(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kilograd", *map(str, words)])
        try:
            main()
        except SystemExit as e:
            return int(e.code or 0)
    return 0


def test_killed_and_continued(tmp_path: Path, home: Path) -> None:
    words = ["metatrain", str(home / "many"), "--model", str(home / "small"), *QUICK]
    assert run(*words, "--out", tmp_path / "whole" / "meta", "--json") == 0
    out = tmp_path / "cut" / "meta"
    code = "from kilograd.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*.pt")) and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "graph.json").exists(), "killed too late to tell anything"
    assert run(*words, "--out", out, "--json") == 0
    for name in ("graph.json", "model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / "meta" / name).read_bytes()


def test_pretrain_prints_figures_and_then_metatrain_goes_on_from_it(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    words = ("pretrain", home / "discs", "--model", home / "small", "--out", out)
    assert run(*words, "--epochs", 1, "--batch", 16, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "in float" in printed
    assert "int8 program" in printed
    assert f"--model {out}" in printed
    words = ("metatrain", home / "many", "--model", out, "--validation", home / "many")
    assert run(*words, *QUICK, "--epochs", 1, "--out", tmp_path / "meta", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["before"].keys() == {"float32", "int8"}
    assert (
        "20 classes of many are learned, and are no test of learning new ones: c00, c01"
        in captured.err
    )


def test_ctrl_c_says_that_the_run_can_go_on(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kilograd.offline.metatrain.train", interrupted)
    out = tmp_path / "meta"
    words = ("metatrain", home / "many", "--model", home / "small", *QUICK, "--out", out)
    assert run(*words) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: interrupted; the same command goes on with what {out} holds\n"


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (("--device", "tpu"), "--device tpu"),
        (("--device", "cuda"), "--device cuda"),
        (("--workers", -1), "--workers -1"),
        (("--crop", 0), "--crop 0"),
        (("--last", 99), "--last 99"),
        (("--validation-episodes", 0), "--validation-episodes 0"),
        (("--ways", 40), "an episode needs 40"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[object, ...],
    about: str,
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    command = ("metatrain", home / "many", "--model", home / "small", *QUICK)
    assert run(*command, "--out", tmp_path / "x", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert about in error
    assert not (tmp_path / "x").exists()
