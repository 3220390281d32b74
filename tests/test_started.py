"""Programs that start with what was learned: exported, on a device, and learning on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from devices import needs_emulator
from helpers import Run

import kilograd
from kilograd import InputError
from kilograd.data import load_digits, sample_episode
from kilograd.emit import source
from kilograd.frontend import load_model
from kilograd.learn.adapt import Task, adapt, load_task, save
from kilograd.learn.samples import Samples
from kilograd.learn.training import fit
from kilograd.settings import Schedule, Settings
from kilograd.targets import CORTEX_M7, Driver, build_host

CLASSES = ("5", "6", "7", "8", "9")


@pytest.fixture(scope="module")
def task() -> Task:
    dataset = load_digits((5, 6, 7, 8, 9))
    episode = sample_episode(dataset, ways=5, shots=5, queries=6, seed=2)
    return load_task(dataset, episode, load_model("digits").preprocess)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    out = tmp_path_factory.mktemp("learned") / "out"
    options: dict[str, Any] = {"method": "last:3", "optimizer": "rowrms", "lr": 0.01}
    save(out, adapt(load_model("digits"), task, Settings.of(**options, iterations=4)))
    return out


def test_an_exported_project_starts_adapted(run: Run, tmp_path: Path, learned: Path) -> None:
    project = tmp_path / "project"
    assert run("export", "--adapted", learned, "--out", project).code == 0
    adapted = kilograd.load_adapted(learned)
    assert (project / "model.c").read_text("utf-8") == source(adapted.program)
    assert source(adapted.program) != source(adapted.compiled.program)
    names = ",\n    ".join(f'"{name}"' for name in CLASSES)
    assert f"class_names[CLASSES_NAMED] = {{\n    {names}}};" in (project / "classes.h").read_text()
    rows = "".join(f"| {i} | {name} |\n" for i, name in enumerate(CLASSES))
    assert rows in (project / "README.md").read_text("utf-8")


@needs_emulator
def test_a_device_says_what_this_machine_says(task: Task, learned: Path) -> None:
    """Of every test image, bit for bit; and after a reset again."""
    adapted = kilograd.load_adapted(learned)
    device, host = CORTEX_M7.build(adapted.program), adapted.host()
    for _ in range(2):
        for image in task.query.images[:10]:
            there, here = Driver(device).infer(image), Driver(host).infer(image)
            assert there.tobytes() == here.tobytes()
        device.reset()


def test_it_goes_on_learning_from_there(task: Task, learned: Path) -> None:
    adapted = kilograd.load_adapted(learned)
    started, put = build_host(adapted.program), adapted.host()
    support = Samples(task.support.images[:10], task.support.labels[:10])
    losses = [fit(host, adapted.compiled, support, Schedule(2, 0.01)) for host in (started, put)]
    assert losses[0] == losses[1]
    for name, value in put.state.items():
        assert value.tobytes() == started.state[name].tobytes(), name
    fresh = build_host(adapted.compiled.program)
    assert fit(fresh, adapted.compiled, support, Schedule(2, 0.01)) != losses[0]


@pytest.mark.parametrize(
    "options",
    [
        {"rows": True},
        {"optimizer": "adam", "accumulate": 5},
        {"recompute": True, "cache": 2},
        {"accumulate": 25, "prototype_gradients": True},
        {"ways": 5, "method": "last:3", "head": "proto"},  # as it is
        {"sram": "64K"},
    ],
    ids=",".join,
)
def test_how_it_goes_on_may_be_another_way(
    task: Task, learned: Path, options: dict[str, Any]
) -> None:
    said = Driver(kilograd.load_adapted(learned).host())
    compiled = kilograd.plan(adapted=learned, **options)
    for name, value in options.items():
        assert getattr(compiled.recipe, name, value) == value
    other = Driver(build_host(compiled.program))
    for image in task.query.images[:4]:
        assert other.infer(image).tobytes() == said.infer(image).tobytes()


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"method": "full"}, "method full: adapted has learned with last:3; leave this out"),
        ({"ways": 4}, "ways 4: adapted has learned with 5; leave this out"),
        ({"head": "linear"}, "head linear: adapted has learned with proto"),
        ({"model": "digits"}, "model digits: the network and what learns in it are those of"),
        ({"size": 8}, "size 8: the network and what learns"),
        ({"channels": 0.5}, "channels 0.5: the network and what learns"),
        ({"compute": "1M"}, "compute 1M: the network and what learns"),
        ({"sram": "1K"}, "sram 1024: the program needs [0-9]+ bytes; the smallest sram that fits"),
        ({"build": kilograd.Build()}, "build: adapted has a recipe; give options by name"),
        ({"shots": 3}, "shots: no such option"),
        ({"accumulate": -1}, "accumulate -1: must be at least 1"),
    ],
    ids=str,
)
def test_options_that_contradict(learned: Path, options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        kilograd.plan(adapted=learned, **options)


def test_options_that_contradict_on_the_command_line(
    run: Run, tmp_path: Path, learned: Path
) -> None:
    for words, said in (
        (("--method", "none"), "--method none: --adapted has learned with last:3"),
        (("--model", "digits"), "--model digits: the network and what learns in it are those"),
    ):
        done = run("export", "--adapted", learned, *words, "--out", tmp_path / "project")
        assert done.code == 2
        assert said in done.error
    assert not (tmp_path / "project").exists()
    assert "no such folder" in run("plan", "--adapted", tmp_path / "no").error


@needs_emulator
def test_run_and_plan_start_adapted(run: Run, learned: Path) -> None:
    assert run("run", "--adapted", learned, "--steps", 2, "--json").json["bit_exact"]
    plan = run("plan", "--adapted", learned, "--json").json
    program = kilograd.load_adapted(learned).program
    assert plan["sram_bytes"] == program.sram_bytes
    assert plan["flash_bytes"] == program.flash_bytes
