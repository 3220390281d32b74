"""A network at another image size: the same weights over other maps, in C as in float64."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from folders import write_model, write_pictures
from helpers import Run, call, image, linked, model_path, needs_shared, same_bits, step_feeds
from PIL import Image

import kilograd
from kilograd import limits
from kilograd.data import prepare
from kilograd.errors import InputError
from kilograd.frontend import (
    Model,
    Preprocess,
    image_sizes,
    load_model,
    load_model_folder,
    resized,
    save_model,
)
from kilograd.ir import Affine, Builder, DType, TensorType, Value, fingerprint, interpret
from kilograd.ops import Conv, Sgd, Window
from kilograd.passes import (
    LinearHead,
    Part,
    Training,
    entries,
    lite_residual,
    mobile_blocks,
)

PLAN = Path(__file__).parents[1] / "examples" / "plans" / "mcunet-64kb.json"
MCUNET = "mcunet-5fps"
LEARN = {"b1.pw1.weight": Part(3, (0, 4)), "b1.dw.weight": Part(), "b1.pw2.bias": Part()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small", seed=3)


@pytest.fixture(scope="module")
def small(folder: Path) -> Model:
    return load_model(str(folder))


@pytest.mark.parametrize("size", [4, 5, 7, 13, 16, 21, 40])
def test_a_resized_network_is_the_same_in_c_in_numpy_and_in_float64(
    folder: Path, small: Model, size: int
) -> None:
    """The float64 network knows no shapes: it has loops over whatever map it is given."""
    graph, network = resized(small, size).graph, oracle.Network(folder, "int8")
    host = linked({"infer": graph})
    rng = np.random.default_rng(size)
    seen = set()
    for _ in range(10):
        photo = image(rng, size)
        codes = network.run(photo)
        want = interpret(graph, {"image": photo})
        got = call(host, "infer", {"image": photo})
        for node, name in zip(graph.outputs, ("pool.out", "logits"), strict=True):
            np.testing.assert_array_equal(want[node.name], got[node.name])
            np.testing.assert_array_equal(
                np.asarray(want[node.name]).ravel(), np.ravel(codes[name])
            )
            seen.update(np.asarray(want[node.name]).ravel().tolist())
    assert len(seen) > 20


@pytest.mark.parametrize("size", [11, 24])
@pytest.mark.parametrize("rows", [False, True])
def test_training_steps_of_a_resized_network_are_bit_exact(
    small: Model, size: int, *, rows: bool
) -> None:
    learning = Training(LinearHead(3), Sgd(0), LEARN, rows=rows)
    graphs = entries(resized(small, size).graph, learning)
    host = linked(graphs)
    state: dict[str, Value] = {slot.name: slot.value for slot in host.program.state}
    rng = np.random.default_rng(size)
    moved = set()
    for step in range(6):
        feeds = step_feeds(rng, graphs["step"], 3, step, 0.5)
        want = interpret(graphs["step"], {**feeds, **state})
        got = call(host, "step", {**feeds, **state})
        assert {"loss", *state} <= got.keys() | {"head.prototypes"}
        for name, value in got.items():
            assert same_bits(value, want[name]), name
            if name in state and not same_bits(value, state[name]):
                moved.add(name)
        state |= {name: value for name, value in got.items() if name in state}
    assert {"b1.pw1.weight.learned", "b1.dw.weight", "head.weight"} <= moved


@pytest.mark.parametrize("size", [17, 31, 96])
def test_a_size_there_and_back_is_the_same_network(small: Model, size: int) -> None:
    there = resized(small, size)
    assert there.preprocess == Preprocess.square(size, round(size * 18 / 16), 3)
    assert there.title == f"Small random network at {size}x{size} pixels"
    assert fingerprint(there.graph) != fingerprint(small.graph)
    back = resized(there, 16)
    assert fingerprint(back.graph) == fingerprint(small.graph)
    assert back.preprocess == small.preprocess
    assert resized(small, 16) is small
    assert resized(resized(small, 40), size).title == there.title


def test_a_resized_network_is_saved_as_a_folder_of_its_own(small: Model, tmp_path: Path) -> None:
    new = resized(small, 23)
    save_model(new, tmp_path)
    again = load_model_folder(tmp_path)
    assert fingerprint(again.graph) == fingerprint(new.graph)
    assert replace(again, graph=new.graph, path=new.path) == new
    assert json.loads((tmp_path / "graph.json").read_text())["input"]["shape"] == [3, 23, 23]


def test_a_long_title_stays_one_that_is_read(small: Model, tmp_path: Path) -> None:
    new = resized(replace(small, title="x" * limits.LABEL_LENGTH), 23)
    save_model(new, tmp_path)
    assert load_model_folder(tmp_path).title == new.title


def test_the_sizes_that_a_network_takes(small: Model) -> None:
    """By strides: the stem makes n // 2 of n pixels, and the last stride wants two of them."""
    least, most = image_sizes(small)
    assert least == 4
    assert round(most * 18 / 16) <= limits.RESIZE < round((most + 1) * 18 / 16)
    for size in (least, most):
        assert resized(small, size).preprocess.size == size
    for size in (least - 1, most + 1):
        with pytest.raises(InputError, match=f"takes {least} to {most} pixels a side"):
            resized(small, size)


WRONG = [
    "0",
    "1",
    "-8",
    "1821",
    "100000",
    "9" * 50,
    "16.5",
    "1e2",
    "16x16x3",
    "²",
    "\uff11",
    "",
    " ",
    "x",
]


def test_a_square_network_takes_images_that_are_none(run: Run, folder: Path) -> None:
    assert "RAM" in run("plan", "--model", folder, "--size=16x24").out


@pytest.mark.parametrize("size", WRONG)
def test_a_size_that_cannot_be_is_refused(run: Run, folder: Path, size: str) -> None:
    error = run("plan", "--model", folder, f"--size={size}").error
    assert re.fullmatch(r"--size .+: .+; small takes 4 to 1820 pixels a side; choose .+", error)
    with pytest.raises(InputError, match=r"^size .*takes 4 to 1820"):
        kilograd.plan(folder, size=size)


@pytest.mark.parametrize("size", [True, 16.0, [16], 3 + 0j])
def test_what_is_no_size_is_refused_in_python(folder: Path, size: Any) -> None:
    with pytest.raises(InputError, match=r"^size .*: not a whole number.*takes 4 to 1820"):
        kilograd.plan(folder, size=size)


def connected(size: int) -> Model:
    """Return a network that is fully connected over its map: a window as large as that."""
    b = Builder()
    x = b.input("image", TensorType((size, size, 1), DType.I8, Affine((0.01,))))
    made = []
    for name, kernel in (("full", size), ("classifier", 1)):
        scale = Affine((0.01,) * 4, axis=0, unit=0.01)
        channels = x.type.shape[2]
        w = b.param(f"{name}.weight", np.ones((4, kernel, kernel, channels), np.int8), scale)
        c = b.param(f"{name}.bias", np.zeros(4, np.int32), scale)
        made.append(x := b(Conv(Window(), Affine((0.01,))), x, w, c, name=name))
    digits = load_model("digits")
    return replace(
        digits,
        name="full",
        graph=b.graph(*made),
        preprocess=Preprocess.square(size, size, 1),
        layers=(),
    )


@pytest.mark.parametrize(
    ("size", "why"), [(15, r"'full': a 16x16 kernel does not fit into 15x15"), (17, "'full' would")]
)
def test_a_network_that_is_fully_connected_has_one_size(size: int, why: str) -> None:
    with pytest.raises(InputError, match=f"^size {size}: {why}.*takes 16 pixels a side only; "):
        resized(connected(16), size)
    assert resized(connected(16), 16).preprocess.size == 16


def test_a_network_that_halves_and_doubles_takes_even_maps_only() -> None:
    """Modules beside the blocks pool squares of 2 x 2 pixels, which an odd map does not have."""
    digits = load_model("digits")
    first = [b for b in mobile_blocks(digits.graph) if b.takes_module][:1]
    wider = replace(digits, graph=lite_residual(digits.graph, first)[0])
    even = resized(wider, 32)
    photo = np.zeros((32, 32, 1), np.int8)
    assert call(linked({"infer": even.graph}), "infer", {"image": photo}).keys() == {
        n.name for n in even.graph.outputs
    }
    with pytest.raises(InputError, match=r"^size 17: .*boxes of 2x2 pixels; .*, here 16 or \d+;"):
        resized(wider, 17)


def test_sums_that_a_large_image_makes_too_long_are_refused(run: Run) -> None:
    """The proof that nothing overflows is made anew: a gradient is summed over every pixel."""
    words = ("plan", "--model=digits", "--method=full", "--ways=3")
    assert run(*words, "--size=64", "--json").json["sram_bytes"] > 0
    error = run(*words, "--size=1024").error
    assert "int32 overflows; choose another method, or a smaller --size" in error


def test_a_method_that_halves_maps_names_the_size(run: Run) -> None:
    error = run("plan", "--model=digits", "--size=20", "--method=tinytl").error
    assert "i8[5,5,40] does not halve evenly; choose another method, or another --size" in error


def test_every_command_takes_a_size(run: Run, folder: Path, tmp_path: Path) -> None:
    """The same program, whoever makes it; adapt learns from pictures of that size."""
    common = ("--model", folder, "--size=21", "--method=last:2")
    ram = run("plan", *common, "--ways=4", "--json").json["sram_bytes"]
    assert ram == kilograd.plan(folder, "last:2", 4, size=21).program.sram_bytes
    assert ram != kilograd.plan(folder, "last:2", 4).program.sram_bytes
    assert run("run", *common, "--ways=4", "--steps=3", "--json").json["bit_exact"]
    project = tmp_path / "project"
    exported = run("export", *common, "--ways=4", "--out", project, "--json").json
    assert exported["sram_bytes"] == ram
    assert run("cost", *common, "--ways=4", "--json").json["memory_bytes"]
    photos = write_pictures(tmp_path / "photos")
    found = run("adapt", photos, *common, "--shots=3", "--optimizer=sgd", "--json").json
    assert found["sram_bytes"] == ram
    outcome = kilograd.adapt(photos, folder, "last:2", shots=3, size="21", optimizer="sgd")
    assert outcome.summary.accuracy_after == found["accuracy_after"]


def test_the_usual_network_has_a_usual_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Where nobody names a network, MCUNet is taken at 96 pixels, by every command alike."""
    monkeypatch.setenv("KILOGRAD_MODELS", str(tmp_path))
    write_model(tmp_path / MCUNET)
    assert load_model().preprocess.size == 96
    assert load_model(size=20).preprocess.size == 20
    assert load_model(MCUNET).preprocess.size == 16
    done = run("plan", "--method=last:2", "--json")
    assert (
        done.json == run("plan", "--method=last:2", "--json", "--size=96", "--model", MCUNET).json
    )
    assert "at 96x96 pixels, as none was named" in run("plan", "--method=last:2").err


def test_an_image_is_cut_out_in_proportion(small: Model) -> None:
    """The shorter side becomes 18/16 of the size, as it does at 16."""
    wide = Image.fromarray(np.tile(np.arange(180, dtype=np.uint8), (90, 1))).convert("RGB")
    for size in (16, 32, 80):
        pixels = prepare(wide, resized(small, size).preprocess).astype(int) + 128
        assert pixels.shape == (size, size, 3)
        edge = 45 + 45 * (1 - 16 / 18)  # of the middle square, what the crop leaves out
        np.testing.assert_allclose(pixels[0, [0, -1], 0], (edge, 180 - edge), atol=4)


@needs_shared
@pytest.mark.parametrize("size", [33, 64, 95, 96])
def test_mcunet_resized_equals_float64(size: int) -> None:
    folder = model_path(MCUNET)
    graph, network = load_model(str(folder), size).graph, oracle.Network(folder)
    host = linked({"infer": graph})
    rng = np.random.default_rng(size)
    for _ in range(2):
        photo = image(rng, size)
        codes = network.run(photo)
        got = call(host, "infer", {"image": photo})
        for node, name in zip(graph.outputs, ("features", "logits"), strict=True):
            want = codes[network.description["outputs"][name]]
            np.testing.assert_array_equal(np.asarray(got[node.name]).ravel(), np.ravel(want))


@needs_shared
@pytest.mark.parametrize(
    ("size", "options", "ram", "step"),
    [
        (96, "sparse-49kb", 72_376, 33.6),
        (64, f"{PLAN} --optimizer=rowrms", 31_848, 16.3),
    ],
)
def test_what_a_small_image_saves(run: Run, size: int, options: str, ram: int, step: float) -> None:
    """On a Cortex-M7, image row by row: RAM with the stack, and the instructions of a step."""
    words = ("run", "--model", model_path(MCUNET), f"--size={size}", "--rows", "--steps=2")
    found = run(*words, "--method", *options.split(), "--json").json
    assert found["bit_exact"]
    assert found["ram_bytes"] == pytest.approx(ram, abs=128)  # the stack depends on the compiler
    assert found["instructions_step"] == pytest.approx(step * 1e6, rel=0.01)
