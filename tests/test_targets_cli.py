"""`kilograd run` and `kilograd export` as users call them: in a process of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from devices import CORTEX, ELF, needs_emulator

import kilograd
from kilograd.targets import TARGETS

ROOM = "ü ñ 机"
MODEL = ("--model", "digits", "--ways", "5")
QUICK = (*MODEL, "--steps", "2")

NAMES = [t.name for t in TARGETS]
KINDS = list({type(t): t.name for t in reversed(TARGETS)}.values())  # one of each class
pytestmark = needs_emulator


def start(*words: str, without: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command; `without` is a package that this process cannot import."""
    hide = f"sys.modules[{without!r}] = None; " if without else ""
    call = f"import sys; {hide}from kilograd.cli import main; main()"
    source = str(Path(kilograd.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "COLUMNS": "200", **environment}
    return subprocess.run(
        [sys.executable, "-c", call, *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env=environment,
    )


def answer(*words: str, **environment: str) -> dict[str, Any]:
    """Return the object that a command printed."""
    done = start(*words, "--json", **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refusal(*words: str, without: str = "", **environment: str) -> str:
    """Return the one line that a command ended with."""
    done = start(*words, "--json", without=without, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("error: ").rstrip()


# ---- what is missing ----


@pytest.mark.parametrize("target", NAMES)
def test_no_cross_compiler(target: str) -> None:
    error = refusal("run", *QUICK, "--target", target, without="ziglang")
    assert error == f"--target {target} needs ziglang; pip install ziglang"


@pytest.mark.parametrize(
    ("target", "package"),
    [
        *((t.name, "unicorn") for t in ELF),
        ("cortex-m7", "elftools"),
        ("cortex-m7", "capstone"),
        ("wasm32", "wasmtime"),
    ],
)
def test_no_emulator(target: str, package: str) -> None:
    error = refusal("run", *QUICK, "--target", target, without=package)
    name = {"elftools": "pyelftools"}.get(package, package)
    assert error.endswith(f" needs {name}; pip install {name}")


@pytest.mark.parametrize(
    ("words", "package"),
    [
        (("--emulator", "qemu"), "qemu-system-arm"),
        (("--emulator", "qemu", "--target", "aarch64"), "qemu-user"),
        (("--compiler", "gcc"), "gcc-arm-none-eabi libnewlib-arm-none-eabi"),
    ],
)
def test_no_program_of_the_system(words: tuple[str, ...], package: str, tmp_path: Path) -> None:
    error = refusal("run", *QUICK, *words, PATH=str(tmp_path))
    assert error.startswith(f"{words[0]} {words[1]}: no ")
    assert error.endswith(f"; apt-get install {package}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "wasm32", "--emulator", "qemu"), "--target wasm32: has no other tools than"),
        (("--target", "wasm32", "--compiler", "gcc"), "--target wasm32: has no other tools than"),
        (("--target", "aarch64", "--compiler", "gcc"), "--compiler gcc: aarch64 is compiled by"),
        (("--board-ram", "much"), "--board-ram 'much': give bytes"),
        (("--target", "cortex-m0"), f"--target cortex-m0: is none of {', '.join(NAMES)}"),
    ],
)
def test_what_does_not_go_together(words: tuple[str, ...], message: str) -> None:
    assert refusal("run", *QUICK, *words).startswith(message)


@pytest.mark.parametrize("target", ["cortex-m7", "wasm32"])
def test_what_is_unknown_is_null_and_what_is_known_is_shown(target: str) -> None:
    """Nothing learns here, so there is no step to count; wasm32 has no bound for its stack."""
    words = ("run", "--model", "digits", "--method", "none", "--target", target)
    found = answer(*words)
    assert found["instructions_step"] is None
    assert found["instructions_forward"] > 0
    assert (found["stack_bound_bytes"] is None) == (target == "wasm32")
    text = start(*words).stdout
    assert "a training step" not in text
    assert "forward" in text
    assert found["counted"] in text
    assert ("in linear memory" in text) == (target == "wasm32")
    assert (", at most " in text) == (target != "wasm32")


# ---- a board that is too small ----


@pytest.mark.parametrize("target", KINDS)
def test_a_board_too_small_is_refused_and_the_smallest_runs(target: str, tmp_path: Path) -> None:
    words = (*MODEL, "--target", target)
    out = ("--out", str(tmp_path / "project"))
    errors = [
        refusal("run", *words, "--board-ram", "10K"),
        refusal("export", *words, *out, "--board-ram", "10K"),
    ]
    assert errors[0] == errors[1]
    assert errors[0].startswith("--board-ram 10K (10,240 bytes): the program needs ")
    assert not (tmp_path / "project").exists()
    plan = answer("plan", *MODEL)
    alive = [
        [b for b in plan["buffers"] if b["first"] <= t < b["last"]]
        for t in range(max(b["last"] for b in plan["buffers"]))
    ]
    peak = max(alive, key=lambda buffers: sum(b["size"] for b in buffers))
    largest = max(peak, key=lambda b: b["size"])
    assert f"at the peak, in step: {largest['name']} {largest['size']:,}, " in errors[0]
    (smallest,) = re.findall(r"the smallest RAM that fits is (\d+)$", errors[0])
    found = answer("run", *words, "--steps", "1", "--board-ram", smallest)
    assert found["bit_exact"]
    assert found["ram_bytes"] <= int(smallest)
    less = str(int(smallest) - 1)
    assert smallest in refusal("run", *words, "--board-ram", less)
    assert start("export", *words, *out, "--board-ram", smallest).returncode == 0
    if target in {t.name for t in CORTEX}:
        assert f"LENGTH = {smallest}\n" in (tmp_path / "project" / "link.ld").read_text("utf-8")


def test_wasm_has_four_pages() -> None:
    large = ("--method", "full", "--head", "linear", "--optimizer", "adam")
    error = refusal("run", *QUICK, *large, "--target", "wasm32")
    assert error.startswith("--target wasm32: the program needs ")
    enough = re.findall(r"the smallest RAM that fits is (\d+)$", error)[0]
    assert int(enough) > 4 * 65536
    assert answer("run", *QUICK, *large, "--target", "wasm32", "--board-ram", enough)["bit_exact"]


# ---- folders with other letters ----


@pytest.fixture
def room(tmp_path: Path) -> Path:
    room = tmp_path / ROOM
    room.mkdir()
    return room


@pytest.mark.parametrize(
    ("words", "locale"),
    [
        pytest.param((), "C.UTF-8", id="unicorn"),
        pytest.param((), "C", id="unicorn in C"),
        pytest.param(("--target", "wasm32"), "C", id="wasmtime"),
        pytest.param(
            ("--emulator", "qemu", "--compiler", "gcc"),
            "C",
            id="gcc and qemu",
            marks=pytest.mark.skipif(
                not (shutil.which("qemu-system-arm") and shutil.which("arm-none-eabi-gcc")),
                reason="needs apt-get install qemu-system-arm gcc-arm-none-eabi",
            ),
        ),
        pytest.param(
            ("--emulator", "qemu", "--target", "aarch64"),
            "C",
            id="qemu-user",
            marks=pytest.mark.skipif(
                not shutil.which("qemu-aarch64"), reason="needs apt-get install qemu-user"
            ),
        ),
    ],
)
def test_run_in_a_folder_with_any_name(room: Path, words: tuple[str, ...], locale: str) -> None:
    """The model, the cache and the temporary files lie there."""
    model = room / "modèle"
    shutil.copytree(Path(kilograd.__file__).parent / "models" / "digits", model)
    (room / "tmp").mkdir()
    found = answer(
        *("run", "--model", str(model), "--ways", "5", "--steps", "1", *words),
        KILOGRAD_CACHE=str(room / "càche"),
        TMPDIR=str(room / "tmp"),
        LC_ALL=locale,
    )
    assert found["bit_exact"]
    assert list((room / "càche").iterdir())


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.skipif(not shutil.which("cc"), reason="no cc")
@pytest.mark.parametrize("target", KINDS)
def test_export_into_a_folder_with_any_name(room: Path, target: str) -> None:
    project = room / "prójekt"
    done = answer("export", *MODEL, "--target", target, "--out", str(project))
    assert done["out"] == str(project)
    subprocess.run(["make"], cwd=project, check=True, capture_output=True)
    example = subprocess.run([project / "example"], check=True, capture_output=True, text=True)
    assert example.stdout.splitlines()[-1].startswith("state: ")
    if target == "wasm32":
        zig = f"ZIG={sys.executable} -m ziglang"
        subprocess.run(["make", "-f", "wasm.mk", zig], cwd=project, check=True, capture_output=True)
        assert (project / "model.wasm").read_bytes()[:4] == b"\0asm"
