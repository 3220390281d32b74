"""Exported projects of networks whose inputs are no square images: built, run, to the bit."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import windows
from applications import said
from helpers import Run
from PIL import Image
from test_driver import PAGE, Traced, example_of, run_example, write_example

import kilograd
from kilograd.data import load_dataset
from kilograd.emit.application import Application
from kilograd.emit.show import input_h
from kilograd.frontend import Arrays, Images, Model, Normalised, Preprocess, save_model
from kilograd.ir import Affine, Array
from kilograd.learn.application import application
from kilograd.learn.own_pictures import own_pictures
from kilograd.settings import Schedule
from kilograd.targets import build_host
from kilograd.targets.toolchain import find_compiler

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="no cc")
NORMALISED = Normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), Affine((0.0187,), -14))
NETWORKS = {
    "arrays": windows.of_arrays(),
    "sequences": windows.of_arrays((30, 1, 40), "sequences"),
    "oblong": windows.of_images(12, 20),
    "upright": windows.of_images(20, 12),
    "normalised": windows.model(
        Preprocess(9, 16, 3, Images(12, NORMALISED)), NORMALISED.affine, "normalised"
    ),
}


def exported(network: Model, folder: Path, **options: object) -> Application:
    """An application of a network that learns four classes."""
    place = folder / "network"
    place.mkdir()
    save_model(network, place)
    compiled = kilograd.plan(place, "last:2", 4, **options)  # type: ignore[arg-type]
    return application(compiled, Schedule(3, 0.02))


@needs_cc
@pytest.mark.parametrize("rows", [False, True], ids=["whole", "rows"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_example_is_this_machine_s_to_the_bit(name: str, rows: bool, tmp_path: Path) -> None:
    """Calls, predictions, losses and the state are those of the driver."""
    app = exported(NETWORKS[name], tmp_path, rows=rows)
    host = build_host(app.program)
    runner = Traced(host)
    printed = example_of(app, tmp_path)
    expected = said(app, runner, tmp_path, host._state[: app.program.state_bytes])
    assert [line for line in printed if not line.startswith("call ")] == expected
    assert [line for line in printed if line.startswith("call ")] == runner.lines


@needs_cc
def test_a_prefix_takes_arrays(tmp_path: Path) -> None:
    app = exported(NETWORKS["arrays"], tmp_path, cache=1)
    host = build_host(app.program)
    printed = example_of(app, tmp_path)
    expected = said(app, Traced(host), tmp_path, host._state[: app.program.state_bytes])
    assert [line for line in printed if not line.startswith("call ")] == expected


@needs_cc
@pytest.mark.parametrize("rows", [False, True], ids=["whole", "rows"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_project_compiles_strictly_and_so_does_its_page(
    name: str, rows: bool, tmp_path: Path
) -> None:
    app = exported(NETWORKS[name], tmp_path, rows=rows)
    write_example(app, tmp_path)
    held = {p.name for p in tmp_path.iterdir()}
    array = name in {"arrays", "sequences"}
    assert {"samples.h", "images.h"} & held == {"samples.h" if array else "images.h"}
    assert ("input.h" in held) == (name not in {"oblong", "upright"})
    page = (tmp_path / "README.md").read_text("utf-8")
    example = (tmp_path / "example.c").read_text("ascii")
    if array:
        assert not re.search("camera|frame|pixels of", page)
        assert not re.search("camera|frame|image[^_A-Z]", re.sub("kg_image", "", example))
        assert "round(x / 0.05) + 4" in page
    blocks = "".join(re.findall(r"^```c\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    given = "static const float window[4096] = {0};\n" if array else ""
    included = '#include "input.h"\n' if "input.h" in held else ""
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Werror")
    (tmp_path / "user.c").write_text(included + given + PAGE.format(blocks=blocks), "ascii")
    for file in ("user.c", "example.c"):
        include = ("-I.", "-Iruntime/include", "-fsyntax-only", "-Wno-unused-parameter")
        subprocess.run(["cc", "-std=c99", *strict, *include, file], cwd=tmp_path, check=True)


@needs_cc
@pytest.mark.parametrize("optimised", ["-O0", "-O3"])
@pytest.mark.parametrize(("scale", "zero"), [(0.05, 4), (0.5847, 83), (1.0, -128), (2**-7, 0)])
def test_c_makes_the_same_codes_of_real_numbers(
    tmp_path: Path, scale: float, zero: int, optimised: str
) -> None:
    """Of halves, of numbers far outside, and of a million others."""
    arrays = Arrays(Affine((scale,), zero))
    app = replace(
        exported(windows.of_arrays(), tmp_path), preprocess=Preprocess(1000, 1001, 1, arrays)
    )
    (tmp_path / "input.h").write_text(input_h(app), "ascii")
    (tmp_path / "codes.c").write_text(
        '#include "input.h"\n'
        "void codes(const float *x, int8_t *y);\n"
        "void codes(const float *x, int8_t *y) { input_sample(x, y); }\n",
        "ascii",
    )
    find_compiler().compile(tmp_path, optimised, "-fPIC", "-shared", "codes.c", "-o", "codes.so")
    rng = np.random.default_rng(0)
    halves = ((np.arange(-600, 600) + 0.5) * scale).astype(np.float32)
    far = np.array([0.0, -0.0, 1e30, -1e30, 3.4e38, 1e-40], np.float32)
    x = np.concatenate([halves, far, rng.normal(0, 150 * scale, 1_001_000)]).astype(np.float32)
    x, found = np.ascontiguousarray(x[:1_001_000]), np.empty(1_001_000, np.int8)
    library = ctypes.CDLL(str(tmp_path / "codes.so"))
    library.codes(x.ctypes.data_as(ctypes.c_void_p), found.ctypes.data_as(ctypes.c_void_p))
    assert np.array_equal(found, arrays.codes(x))


@needs_cc
def test_a_project_of_what_was_learned_recognises_the_user_s_arrays(
    tmp_path: Path, run: Run
) -> None:
    rng, way = np.random.default_rng(0), np.arange(40) % 4
    moment = np.arange(12).reshape(-1, 1, 1)
    x = 2 * np.sin(2 * np.pi * (way.reshape(-1, 1, 1, 1) + 1) * moment / 12)
    x = (x + rng.normal(0, 0.4, (40, 12, 5, 2))).astype(np.float32)
    np.savez(tmp_path / "w.npz", x=x, y=way, classes=np.array(["still", "walk", "run", "fall"]))
    (tmp_path / "windows").mkdir()
    save_model(windows.of_arrays(), tmp_path / "windows")
    learned = tmp_path / "learned"
    kilograd.adapt(tmp_path / "w.npz", tmp_path / "windows", "last:2", out=learned, iterations=3)
    data = tmp_path / "w.npz"
    assert run("export", "--adapted", learned, "--data", data, "--out", tmp_path / "p").code == 0
    lines = run_example(tmp_path / "p", "example.c").stdout.splitlines()
    answers = kilograd.test(learned, data).answers
    right = np.equal(answers.labels, answers.said).sum()
    assert len(answers.said) == 8
    assert lines[8] == f"accuracy before training: {right} of 8"


def test_own_pictures_of_a_normalised_network_are_pixels(tmp_path: Path) -> None:
    """They are stored before they become codes, and nothing is lost."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 9, 16, 3)).astype(np.uint8)
    for i, picture in enumerate(pixels):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"c{i % 2}" / f"{i}.png")
    preprocess = Preprocess(9, 16, 3, Images(9, NORMALISED))
    found = own_pictures(("c0", "c1"), preprocess, load_dataset(tmp_path), range(4))
    held: list[Array] = [*found.tests, *found.support]
    assert sorted(x.tobytes() for x in held) == sorted(x.tobytes() for x in pixels)
