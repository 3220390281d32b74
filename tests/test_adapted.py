"""What was learned, as a folder: read back, it is the very program; another folder is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import contents, write_model
from safetensors.numpy import load_file, save_file

from kilograd.data import load_digits, sample_episode
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.ir import fingerprint
from kilograd.learn.adapt import Outcome, Task, adapt, load_task, save
from kilograd.learn.adapted import Adapted, load_adapted
from kilograd.learn.training import predict
from kilograd.reading import with_checksum
from kilograd.select import EXAMPLES
from kilograd.settings import HeadKind, Settings
from kilograd.targets import build_host

CLASSES = (5, 6, 7, 8, 9)
METHODS = [m for m in EXAMPLES if not m.startswith("sparse-")]  # they are of other networks


@pytest.fixture(scope="module")
def digits() -> Model:
    return load_model("digits")


@pytest.fixture(scope="module")
def task(digits: Model) -> Task:
    dataset = load_digits(CLASSES)
    episode = sample_episode(dataset, ways=5, shots=3, queries=4, seed=1)
    return load_task(dataset, episode, digits.preprocess)


def learned(digits: Model, task: Task, **options: Any) -> Outcome:
    usual = {"method": "last:3", "iterations": 1, "lr": 0.02, "optimizer": "rowrms"}
    return adapt(digits, task, Settings.of(**(usual | options)))


def check_same(outcome: Outcome, task: Task, folder: Path) -> Adapted:
    """Assert that a folder holds what was learned, and says what was said."""
    found = load_adapted(folder)
    assert found.classes == outcome.episode.classes
    assert found.compiled.recipe == replace(
        outcome.compiled.recipe, head=outcome.compiled.recipe.head_kind
    )
    one, two = found.compiled.selection, outcome.compiled.selection
    assert (one.learn, one.head) == (two.learn, two.head)
    assert fingerprint(found.compiled.model.graph) == fingerprint(outcome.compiled.model.graph)
    host = found.host()
    for slot in found.program.state:
        assert slot.value.tobytes() == host.state[slot.name].tobytes(), slot.name
    assert tuple(predict(host, task.query.images).tolist()) == outcome.predictions
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_back(tmp_path: Path, digits: Model, task: Task, method: str) -> None:
    outcome = learned(digits, task, method=method)
    save(tmp_path / "out", outcome)
    check_same(outcome, task, tmp_path / "out")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"head": HeadKind.LINEAR}, id="linear"),
        pytest.param({"head": HeadKind.INT8}, id="int8"),
        pytest.param({"head": HeadKind.INT8, "method": "head", "cache": 2}, id="cached int8 head"),
        pytest.param({"qas": False, "optimizer": "sgd", "lr": 300.0}, id="no qas"),
        pytest.param({"head": HeadKind.LINEAR, "method": "head", "cache": 2}, id="cached head"),
        pytest.param({"head": HeadKind.LINEAR, "method": "tinytl:1"}, id="tinytl, linear"),
        pytest.param({"accumulate": 15, "prototype_gradients": True}, id="through prototypes"),
        pytest.param({"optimizer": "adam", "rows": True, "recompute": True}, id="rows"),
        pytest.param({"method": "last:3", "cache_bytes": "64K"}, id="cache of bytes"),
        pytest.param({"guard": True}, id="guard"),
        pytest.param({"iterations": 0}, id="no passes"),
    ],
)
def test_every_recipe_comes_back(
    tmp_path: Path, digits: Model, task: Task, options: dict[str, Any]
) -> None:
    outcome = learned(digits, task, **options)
    save(tmp_path / "out", outcome)
    found = check_same(outcome, task, tmp_path / "out")
    started, put = build_host(found.program), found.host()
    for _ in range(2):  # once more after a reset
        for image in task.query.images[:3]:
            logits = started.call("infer", image=image)["logits"]
            assert logits.tobytes() == put.call("infer", image=image)["logits"].tobytes()
        started.reset()


def test_the_folder_stands_alone(tmp_path: Path, task: Task, digits: Model) -> None:
    """The network may go; what came with it is there: its card, and where it comes from."""
    source = tmp_path / "source"
    shutil.copytree(digits.path, source)
    (source / "LICENSE").write_text("as you like it")
    (source / "secret.pem").write_text("of no use to anybody")
    (source / "NOTICE").symlink_to("/etc/passwd")
    model = load_model(str(source))
    outcome = learned(model, task)
    save(tmp_path / "out", outcome)
    shutil.rmtree(source)
    check_same(outcome, task, tmp_path / "out")
    names = set(contents(tmp_path / "out" / "network"))
    assert names == {"LICENSE", "README.md", "graph.json", "model.safetensors"}
    (graph, first) = (
        json.loads((folder / "graph.json").read_text("utf-8"))
        for folder in (tmp_path / "out" / "network", digits.path)
    )
    assert graph["provenance"] == first["provenance"]


def test_the_same_run_writes_the_same_bytes(tmp_path: Path, digits: Model, task: Task) -> None:
    for name in ("a", "b"):
        save(tmp_path / name, learned(digits, task))
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a.keys() == b.keys()
    assert all(a[n] == b[n] for n in a if n != "result.json")


# ---- folders that are none, or not whole ----

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Model, task: Task) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    save(out, learned(digits, task))
    return out


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, digits: Model, task: Task) -> Path:
    """The same program, other weights."""
    out = tmp_path_factory.mktemp("other") / "out"
    save(out, learned(digits, task, seed=5))
    return out


def record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what stands under "adapted", with a checksum that fits."""
    file = folder / "result.json"
    found = json.loads(file.read_text("utf-8"))
    change(found["adapted"])
    found["adapted"] = with_checksum(found["adapted"])
    file.write_text(json.dumps(found), encoding="utf-8")


def tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change tensors, with a digest that fits."""
    file = folder / "adapted.safetensors"
    found = {k: v.copy() for k, v in load_file(file).items()}
    change(found)
    save_file(found, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    record(folder, lambda r: r.update(tensors=digest))


def head(r: dict[str, Any]) -> Any:
    return r["head.prototypes"]


def text(folder: Path, name: str, change: Callable[[str], str]) -> None:
    (folder / name).write_text(change((folder / name).read_text("utf-8")), encoding="utf-8")


def grown(kind: str, blocks: list[str], number: int = 0) -> dict[str, Any]:
    return {"kind": kind, "blocks": blocks, "number": number}


SPOILT: dict[str, tuple[Spoil, str]] = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no tensors": (lambda f: (f / "adapted.safetensors").unlink(), "holds no adapted.safetensors"),
    "no result": (lambda f: (f / "result.json").unlink(), "holds no result.json"),
    "no network": (lambda f: shutil.rmtree(f / "network"), "network/graph.json: no such file"),
    "half a network": (
        lambda f: (f / "network" / "model.safetensors").unlink(),
        "model.safetensors: no such file",
    ),
    "half the tensors": (
        lambda f: (f / "adapted.safetensors").write_bytes(
            (f / "adapted.safetensors").read_bytes()[:99]
        ),
        "is not the file that result.json was written with",
    ),
    "an older version": (
        lambda f: (f / "result.json").write_text('{"classes": ["a"], "predictions": []}'),
        "older version.*run kilograd adapt again",
    ),
    "a newer version": (
        lambda f: record(f, lambda r: r.update(format=1)),
        "format 1 is unknown, this version reads 2",
    ),
    "a version that is none": (
        lambda f: record(f, lambda r: r.update(format=[1])),
        r"format \[1\] is unknown",
    ),
    "classes changed by hand": (
        lambda f: text(
            f, "result.json", lambda t: t.replace('"classes": [\n   "5"', '"classes": [\n   "0"')
        ),
        "damaged, its checksum is another",
    ),
    "not JSON": (lambda f: text(f, "result.json", lambda t: t[:-9]), "cannot be read as JSON"),
    "one class too few": (
        lambda f: record(f, lambda r: r["classes"].pop()),
        "names 4 classes, but the program has 5",
    ),
    "one class twice": (
        lambda f: record(f, lambda r: r.update(classes=["a", "a", "b", "c", "d"])),
        "two classes are called 'a'",
    ),
    "a class that cannot be seen": (
        lambda f: record(f, lambda r: r.update(classes=["a", "b", "c", "d", "\u202e"])),
        "holds the character",
    ),
    "a threshold that is none": (
        lambda f: text(
            f, "result.json", lambda t: re.sub('"threshold": [0-9.]+', '"threshold": NaN', t)
        ),
        "not a finite number",
    ),
    "no recipe": (lambda f: record(f, lambda r: r["recipe"].pop("rows")), "recipe: 'rows'"),
    "a recipe of another time": (
        lambda f: record(f, lambda r: r["recipe"].update(fast=True)),
        "recipe: 'fast'",
    ),
    "a recipe of no sense": (
        lambda f: record(f, lambda r: r["recipe"].update(accumulate=-1)),
        "accumulate -1: must be at least 1",
    ),
    "a layer that is not there": (
        lambda f: record(f, lambda r: r["learn"].update({"nowhere.weight": "all"})),
        "nowhere.weight: digits has no such parameter",
    ),
    "a channel that is not there": (
        lambda f: record(
            f, lambda r: r["learn"].update({next(iter(r["learn"])): {"axis": 0, "index": [9999]}})
        ),
        "index",
    ),
    "a module that fits nowhere": (
        lambda f: record(f, lambda r: r.update(growth=grown("lite", ["blocks.99"]))),
        "'blocks.99' is no block that takes lite",
    ),
    "a rank that no layer has": (
        lambda f: record(f, lambda r: r.update(growth=grown("lora", ["blocks.6"], 41))),
        "'blocks.6' is no block that takes lora",
    ),
    "groups that do not divide": (
        lambda f: record(f, lambda r: r.update(growth=grown("grouped", ["blocks.6"], 3))),
        "'blocks.6' is no block that takes grouped",
    ),
    "groups of a block that does not expand": (
        lambda f: record(f, lambda r: r.update(growth=grown("grouped", ["blocks.0"], 2))),
        "'blocks.0' is no block that takes grouped",
    ),
    "a layer that went into groups": (
        lambda f: record(
            f,
            lambda r: r.update(
                growth=grown("grouped", ["blocks.6"], 2), learn={"blocks.6.pw1.weight": "all"}
            ),
        ),
        "blocks.6.pw1.weight: digits has no such parameter",
    ),
    "a growth that nothing is": (
        lambda f: record(f, lambda r: r.update(growth=grown("vines", ["blocks.6"]))),
        "vines",
    ),
    "a field too many": (lambda f: record(f, lambda r: r.update(more=1)), "more"),
    "a tensor too few": (
        lambda f: tensors(f, lambda t: t.pop("head.prototypes")),
        "'head.prototypes' is missing",
    ),
    "a tensor too many": (
        lambda f: tensors(f, lambda t: t.update(more=np.zeros(3, np.float32))),
        "'more' is none of this program's",
    ),
    "a tensor of another shape": (
        lambda f: tensors(f, lambda t: t.update({"head.prototypes": head(t)[:-1]})),
        "expected float32",
    ),
    "a tensor of another type": (
        lambda f: tensors(f, lambda t: t.update({"head.prototypes": head(t).astype(np.float16)})),
        "is F16, expected float32",
    ),
    "nan": (lambda f: tensors(f, lambda t: head(t).fill(np.nan)), "holds numbers that are none"),
    "inf": (lambda f: tensors(f, lambda t: head(t).fill(-np.inf)), "holds numbers that are none"),
    "huge": (lambda f: tensors(f, lambda t: head(t).fill(3e38)), "beyond"),
    "a weight of -128": (
        lambda f: tensors(
            f, lambda t: next(v for v in t.values() if v.dtype == np.int8).fill(-128)
        ),
        r"beyond \+-127",
    ),
    "a bias that overflows": (
        lambda f: tensors(
            f, lambda t: next(v for v in t.values() if v.dtype == np.int32).fill(2**31 - 1)
        ),
        "beyond",
    ),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_folders_that_cannot_be_used(tmp_path: Path, whole: Path, spoil: str) -> None:
    change, said = SPOILT[spoil]
    copy = tmp_path / "out"
    shutil.copytree(whole, copy)
    change(copy)
    with pytest.raises(InputError, match=said) as e:
        load_adapted(copy)
    assert str(copy) in str(e.value)


@pytest.mark.parametrize("name", ["adapted.safetensors", "result.json"])
def test_files_of_two_folders_are_noticed(
    tmp_path: Path, whole: Path, other: Path, name: str
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(whole, copy)
    shutil.copy(other / name, copy / name)
    with pytest.raises(InputError, match=r"is not the file that result\.json was written with"):
        load_adapted(copy)


def test_the_network_of_another_folder_is_noticed(tmp_path: Path, whole: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "network")
    write_model(copy / "network")
    with pytest.raises(InputError, match="another network than the one that learned"):
        load_adapted(copy)


def test_a_network_is_not_adapted(digits: Model) -> None:
    with pytest.raises(InputError, match="is a network that has not learned"):
        load_adapted(digits.path)
