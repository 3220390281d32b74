"""Programs on emulated microcontrollers, and the C project that users get."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_ops
from applications import said
from devices import CORTEX, ELF, needs_emulator, skipped_without_tools
from helpers import model_path, needs_shared

from kilograd.boards import Region
from kilograd.emit import Program
from kilograd.emit.readme import STACK_BYTES
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.ir import Array
from kilograd.learn.application import application
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe
from kilograd.targets import (
    CORTEX_M4,
    CORTEX_M7,
    CORTEX_M33,
    TARGETS,
    WASM32,
    Cortex,
    CrossCompiler,
    ElfTarget,
    Emulator,
    Machine,
    MemoryMap,
    Target,
    build_host,
    find_target,
    known,
    measure,
)
from kilograd.targets.elf import FLASH_BYTES, build_elf, ram_bytes
from kilograd.targets.qemu import QemuDevice
from kilograd.targets.unicorn import UnicornDevice
from kilograd.targets.wasm import WasmDevice

needs_qemu = pytest.mark.skipif(
    not shutil.which("qemu-system-arm"), reason="needs apt-get install qemu-system-arm"
)
needs_arm_gcc = pytest.mark.skipif(
    not shutil.which("arm-none-eabi-gcc"),
    reason="needs apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
)


IN_16_BITS = {"accumulate": 9, "prototype_gradients": True, "state_bits": 16}


def compiled(method: str = "last:3", model: str = "digits", **options: Any) -> Compiled:
    recipe = Recipe(method, 5, **options)
    return compile_recipe(load_model(model), recipe, Budget())


def program(method: str = "last:3", model: str = "digits", **options: Any) -> Program:
    return compiled(method, model, **options).program


@needs_emulator
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": HeadKind.LINEAR, "optimizer": OptimizerKind.ADAM},
        {"head": HeadKind.INT8, "qas": False},
        {"optimizer": OptimizerKind.ROWRMS, "accumulate": 2},
        {"rows": True},
        {"cache": 1, "accumulate": 9, "prototype_gradients": True},
        {"optimizer": OptimizerKind.MOMENTUM, "accumulate": 2, "state_bits": 8},
        {**IN_16_BITS, "optimizer": OptimizerKind.ADAM, "rows": True},
    ],
    ids=str,
)
def test_a_target_computes_the_same_bits(target: Target, options: dict[str, Any]) -> None:
    made = program(**options)
    found = measure(made, target, steps=4)
    assert found.bit_exact
    assert found.steps == 4
    assert 0 <= found.data_bss_bytes - made.sram_bytes < 16, "RAM that the plan does not know of"
    assert 0 < found.stack_bytes < STACK_BYTES
    if not isinstance(target, ElfTarget):
        assert found.stack_bound_bytes is None, "what the engine keeps cannot be bounded here"
    else:
        assert found.stack_bound_bytes is not None
        assert found.stack_bytes <= found.stack_bound_bytes <= found.stack_bytes + 64
        assert found.stack_bound_bytes <= STACK_BYTES, "what a board is checked for"
    assert found.ram_bytes == found.data_bss_bytes + found.stack_bytes
    assert found.flash_bytes > made.flash_bytes
    assert found.instructions_step
    assert found.instructions_forward
    assert found.instructions_forward > made.macs("infer")
    prefix = found.instructions_prefix
    assert (prefix is not None) == ("prefix" in made.entries)
    assert found.instructions_step + (prefix or 0) > found.instructions_forward > (prefix or 0)


@needs_emulator
@pytest.mark.parametrize("target", CORTEX, ids=lambda t: t.name)
def test_kernels_equal_their_references_to_the_bit(target: Target) -> None:
    """Every sample of every op, with the kernels that are made for the processor."""
    firmware = target.build(test_ops.program())
    wrong = list(test_ops.failures(firmware, test_ops.CALLED))
    assert not wrong, f"{len(wrong)} differ, of them:\n" + "\n".join(wrong[:20])


@needs_emulator
def test_instruction_counts_repeat() -> None:
    made = program()
    assert measure(made, CORTEX_M7, steps=2) == measure(made, CORTEX_M7, steps=2)


@needs_emulator
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_difference_is_noticed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: a program that forgets a byte of its state is not bit exact."""
    device = UnicornDevice if isinstance(target, ElfTarget) else WasmDevice
    run = device.run

    def forgetful(self: Any, function: str) -> None:
        run(self, function)
        if function == "step":
            self._state[0] ^= 1

    monkeypatch.setattr(device, "run", forgetful)
    assert not measure(program(), target, steps=1).bit_exact


@needs_emulator
@pytest.mark.parametrize("target", ELF, ids=lambda t: t.name)
def test_ram_ends_where_the_plan_says_and_flash_cannot_be_written(target: ElfTarget) -> None:
    import unicorn

    device = target.build(program())
    assert isinstance(device, UnicornDevice)
    uc = device._emulator
    end = target.harness.ram + ram_bytes(device.program)
    uc.mem_read(end - 1, 1)
    with pytest.raises(unicorn.UcError):
        uc.mem_read(end, 1)
    regions = {begin: perms for begin, _, perms in uc.mem_regions()}
    assert len(regions) == 2, "a null pointer must lead nowhere"
    assert not regions[target.harness.flash] & unicorn.UC_PROT_WRITE


@needs_emulator
def test_wasm_memory_cannot_grow_and_constants_are_watched() -> None:
    import wasmtime

    made = program()
    device = WASM32.build(made)
    assert isinstance(device, WasmDevice)
    with pytest.raises(wasmtime.WasmtimeError):
        device._exports["memory"].grow(device._store, 1)
    device._constants[0] ^= 1
    with pytest.raises(RuntimeError, match="wrote to constants"):
        device.run("forget")


@needs_emulator
@pytest.mark.parametrize("target", CORTEX, ids=lambda t: t.name)
def test_floating_point_is_done_by_the_processor(target: Cortex) -> None:
    """Without its FPU named, the compiler would call soft-float routines without a word."""
    symbols = build_elf(program(), target).symbols
    assert "kg_sqrt" in symbols
    assert not {"__aeabi_fmul", "__aeabi_fadd"} & set(symbols)


@needs_emulator
def test_a_stack_larger_than_expected_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilograd.targets.fit.STACK_BYTES", 8)
    made = program()
    with pytest.raises(InputError, match=r"bytes of stack do not fit; the smallest") as refused:
        CORTEX_M7.build(made, made.sram_bytes + 8)
    smallest = int(str(refused.value).rpartition(" ")[2])
    found = measure(made, CORTEX_M7, 1, ram=smallest)
    assert found.bit_exact
    assert found.ram_bytes <= smallest


# ---- a second opinion ----

WITH_GCC = [replace(t, compiler=CrossCompiler.GCC) for t in CORTEX]
SECOND_OPINIONS = [
    pytest.param(target, 1 + i % 2, id=f"{target.name} {target.compiler}")
    for i, target in enumerate([*ELF, *WITH_GCC])
]


@needs_emulator
@pytest.mark.parametrize(("target", "accumulate"), SECOND_OPINIONS)
def test_two_emulators_agree_about_the_same_file(target: ElfTarget, accumulate: int) -> None:
    made = program(accumulate=accumulate)
    with skipped_without_tools():
        second = measure(made, replace(target, emulator=Emulator.QEMU), steps=3)
    first = measure(made, target, steps=3)
    assert first.bit_exact
    assert second.bit_exact
    counts = ("instructions_forward", "instructions_step")
    told = {k: v for k, v in asdict(first).items() if k not in (*counts, "tools")}
    assert told.items() <= asdict(second).items()
    for count in counts:
        ours, theirs = getattr(first, count), getattr(second, count)
        if not isinstance(target, Cortex):
            assert theirs is None, "qemu-user cannot count, and must not say that it does"
        else:  # its clock ticks once in 40 or 50 instructions and sees the harness make the call
            assert abs(theirs - ours) <= 64 * accumulate, "a step with accumulation is two calls"


@needs_emulator
@needs_arm_gcc
@pytest.mark.parametrize("target", CORTEX, ids=lambda t: t.name)
def test_two_compilers_agree(target: ElfTarget) -> None:
    made = program()
    clang = measure(made, target, steps=3)
    gcc = measure(made, replace(target, compiler=CrossCompiler.GCC), steps=3)
    assert clang.bit_exact
    assert gcc.bit_exact
    assert abs(clang.data_bss_bytes - gcc.data_bss_bytes) < 16
    assert clang.flash_bytes != gcc.flash_bytes, "that was one compiler"


@needs_emulator
@needs_qemu
def test_a_fault_in_qemu_is_an_error() -> None:
    """A device that stops before its answer is no device that answered."""
    device = replace(CORTEX_M7, emulator=Emulator.QEMU).build(program())
    assert isinstance(device, QemuDevice)
    device._functions = (*("",) * 100, "model_nowhere")
    with pytest.raises(RuntimeError, match="exit status"):
        device.run("nowhere")


@pytest.mark.parametrize("missing", ["ziglang", "unicorn"])
def test_missing_tools_are_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "ziglang":
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, *a: None if n == missing else find(n, *a)
        )
    else:
        pytest.importorskip("ziglang")
        pytest.importorskip("elftools")
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=f"needs {missing}; pip install {missing}"):
        measure(program(), CORTEX_M7, steps=1)


COMPILERS = [
    pytest.param("cc", id="cc", marks=pytest.mark.skipif(not shutil.which("cc"), reason="no cc")),
    pytest.param(
        f"{sys.executable} -m ziglang cc",
        id="clang",
        marks=pytest.mark.skipif(not importlib.util.find_spec("ziglang"), reason="no ziglang"),
    ),
]


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": HeadKind.LINEAR},
        {"head": HeadKind.INT8},
        {"accumulate": 4},
        {"accumulate": 9, "prototype_gradients": True},
        {"accumulate": 4, "state_bits": 8, "optimizer": OptimizerKind.ADAM},
        IN_16_BITS,
        {"rows": True},
        {"cache": 2},
        {"rows": True, "cache": 2},
    ],
    ids=str,
)
def test_an_exported_project_builds_without_a_warning_and_learns(
    tmp_path: Path, compiler: str, options: dict[str, Any]
) -> None:
    app = application(compiled(**options))
    CORTEX_M7.export(app, tmp_path)
    archiver = compiler.replace(" cc", " ar") if " " in compiler else "ar"
    made("make", f"CC={compiler}", f"AR={archiver}", "CFLAGS=-O2 -Werror", folder=tmp_path)
    lines = made(tmp_path / "example", folder=tmp_path)
    host = build_host(app.program)
    assert lines == said(app, host, tmp_path, host._state[: app.program.state_bytes])
    losses = [float(line.split()[-1]) for line in lines if line.startswith("pass ")]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    manifest = json.loads((tmp_path / "model.json").read_text("ascii"))
    names = [f"model_{name}" for name in app.program.entries]
    assert [e["function"] for e in manifest["entries"]] == names
    outside = [p for p in tmp_path.rglob("*.[ch]") if "/../.." in p.read_text(encoding="utf-8")]
    assert all("variants" in p.parts for p in outside)


def made(*command: str | Path, folder: Path) -> list[str]:
    """Run a command in a project; return the lines that it prints."""
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


#: For a Makefile: the clang of ziglang in place of the system's GCC.
ZIG = f"ZIG={sys.executable} -m ziglang"
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="no make")
needs_cmake = pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake")


def make_firmware(target: Cortex, what: str, folder: Path) -> list[str]:
    """Make something in a project, with the compiler of a target."""
    with skipped_without_tools():
        target.cross_compiler()
    clang = [ZIG] * (target.compiler is CrossCompiler.CLANG)
    return made(
        "make", "-s", "-f", "firmware.mk", what, *clang, "CFLAGS=-O2 -Werror", folder=folder
    )


@needs_emulator
@needs_make
@pytest.mark.parametrize("target", [*CORTEX, *WITH_GCC], ids=lambda t: f"{t.name} {t.compiler}")
def test_an_exported_project_makes_firmware(tmp_path: Path, target: Cortex) -> None:
    """Without a warning, at the addresses of the board it is written for."""
    target.export(application(compiled()), tmp_path)
    make_firmware(target, "firmware.elf", tmp_path)
    check_addresses(tmp_path / "firmware.elf", target.memory)


def check_addresses(elf: Path, memory: MemoryMap) -> None:
    """Check that firmware lies where a board has flash and RAM, and starts there."""
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as f:
        file = ELFFile(f)
        assert 0 <= (file["e_entry"] & ~1) - memory.flash.origin < memory.flash.size
        (ram,) = {s["sh_addr"] for s in file.iter_sections() if s.name == ".bss"}
        assert 0 <= ram - memory.ram.origin < memory.ram.size
        (text,) = (s.data() for s in file.iter_sections() if s.name == ".text")
        stack, start = np.frombuffer(text[:8], "<u4").tolist()
        assert stack == memory.ram.end
        assert start == file["e_entry"] | 1


@needs_emulator
@needs_make
@needs_qemu
@pytest.mark.parametrize(
    ("target", "options"),
    [
        (CORTEX_M7, {}),
        (CORTEX_M33, {"rows": True, "cache": 2, "accumulate": 4}),
        (WITH_GCC[0], {"method": "tinytl"}),
    ],
    ids=str,
)
def test_the_exported_example_prints_in_an_emulator_what_it_prints_here(
    tmp_path: Path, target: Cortex, options: dict[str, Any]
) -> None:
    app = application(compiled(**options))
    target.export(app, tmp_path)
    lines = make_firmware(target, "emulate", tmp_path)
    host = build_host(app.program)
    assert lines == said(app, host, tmp_path, host._state[: app.program.state_bytes])


@needs_cmake
def test_cmake_builds_what_make_builds(tmp_path: Path) -> None:
    """The example on its own, and nothing but a library within a larger project."""
    app = application(compiled("none"))
    CORTEX_M7.export(app, tmp_path / "project")
    strict = "-DCMAKE_C_FLAGS=-Werror"
    made("cmake", "-S", "project", "-B", "here", strict, folder=tmp_path)
    made("cmake", "--build", "here", folder=tmp_path)
    assert made(tmp_path / "here" / "example", folder=tmp_path)[-1].startswith("state: ")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(whole C)\nadd_subdirectory(project)\n"
        "add_executable(mine project/example.c project/host.c)\n"
        "target_link_libraries(mine model m)\n"
    )
    made("cmake", "-S", ".", "-B", "larger", folder=tmp_path)
    made("cmake", "--build", "larger", folder=tmp_path)
    assert not list((tmp_path / "larger").rglob("example"))
    assert (
        made(tmp_path / "larger" / "mine", folder=tmp_path)[-1]
        == made(tmp_path / "here" / "example", folder=tmp_path)[-1]
    )


@needs_make
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_the_makefile_says_how_to_build_for_the_target(tmp_path: Path, target: Target) -> None:
    """Its first lines hold the command, which the README says too; firmware is built above."""
    target.export(application(compiled("none")), tmp_path)
    (line,) = re.findall(
        r"^# For the target:\n#     (.+)$", (tmp_path / "Makefile").read_text(), re.MULTILINE
    )
    assert line == target.make
    assert f"    {line}\n" in (tmp_path / "README.md").read_text("utf-8")
    if isinstance(target, Cortex):
        return
    for tool in (w.partition("=")[2] for w in shlex.split(line) if w.startswith(("CC=", "AR="))):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not here")
    if not line.endswith("gcc"):
        pytest.importorskip("ziglang")
    made(*shlex.split(line), ZIG, "CFLAGS=-O2 -Werror", folder=tmp_path)
    assert list(tmp_path.glob("*.wasm")) or list(tmp_path.rglob("libmodel.a"))


@needs_emulator
@needs_make
def test_an_exported_module_learns(tmp_path: Path) -> None:
    """The module that users build computes what this machine computes."""
    app = application(compiled())
    WASM32.export(app, tmp_path)
    made("make", "-f", "wasm.mk", ZIG, folder=tmp_path)
    device = WasmDevice(app.program, tmp_path / "model.wasm")
    host = build_host(app.program)
    shape = app.program.entries["infer"].graph["image"].type.shape
    inputs: dict[str, Array] = {
        "image": np.random.default_rng(0).integers(-128, 128, shape),
        "label": np.array([1]),
        "lr": np.array([0.01]),
        "clock": np.array([1, 0]),
    }
    there, here = device.call("step", **inputs), host.call("step", **inputs)
    assert here["loss"] > 0
    assert all(np.array_equal(there[k], v) for k, v in here.items())


# ---- another target ----


@needs_emulator
def test_dsp_instructions_are_used_and_not_only_allowed() -> None:
    """A Cortex-M33 needs 3.1 M instructions for digits, and with portable kernels 13 M."""
    made = program("last")
    fast = measure(made, CORTEX_M33, steps=1)
    slow = measure(made, replace(CORTEX_M33, variant=None), steps=1)
    assert fast.bit_exact
    assert slow.bit_exact
    assert fast.instructions_forward is not None
    assert slow.instructions_forward is not None
    assert fast.instructions_forward < 3_200_000
    assert slow.instructions_forward > 4 * fast.instructions_forward


@needs_emulator
def test_the_target_of_contributing_is_one_value(tmp_path: Path) -> None:
    """Who follows CONTRIBUTING has the fast kernels, a project that links, and no QEMU."""
    page = Path(__file__).parents[1] / "CONTRIBUTING.md"
    if not page.exists():
        pytest.skip("the documents are not here")
    section = page.read_text("utf-8").partition("## Add a target\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    names = dict(vars(known))
    exec(block, names)  # noqa: S102 our own text
    (new,) = (v for k, v in names.items() if isinstance(v, Cortex) and v is not vars(known).get(k))
    found = measure(program("last"), new, steps=1)
    assert found.bit_exact
    assert found.instructions_forward is not None
    assert found.instructions_forward < 3_200_000
    test_an_exported_project_makes_firmware(tmp_path, new)


#: A board and a machine that nobody has: other addresses, and not in QEMU.
ELSEWHERE = replace(
    CORTEX_M4,
    name="made-up",
    memory=MemoryMap(Region(0x00004000, 1 << 20), Region(0x24000000, 256 << 10)),
    machine=Machine(code=0x18000000, ram=0x60000000),
)


@needs_emulator
def test_a_target_is_one_value(tmp_path: Path) -> None:
    """Its value holds all that a target needs: what is exported, built, and where it runs."""
    app = application(compiled())
    made = app.program
    found, known = measure(made, ELSEWHERE, steps=2), measure(made, CORTEX_M4, steps=2)
    assert found.bit_exact
    told = {k: v for k, v in asdict(known).items() if k != "target"}
    assert asdict(found) == {"target": "made-up", **told}, "addresses change no count"
    elf = build_elf(made, ELSEWHERE)
    assert 0x60000000 <= elf.symbols["state"] < 0x60000000 + ram_bytes(made)
    assert 0x18100000 <= elf.symbols["model_step"] < 0x18100000 + FLASH_BYTES
    test_an_exported_project_makes_firmware(tmp_path / "start", ELSEWHERE)
    ELSEWHERE.export(app, tmp_path / "small", ram=64 << 10)
    script = (tmp_path / "small" / "link.ld").read_text("utf-8")
    assert f"ORIGIN = 0x24000000, LENGTH = {64 << 10}\n" in script


@needs_emulator
def test_a_processor_without_a_machine_in_qemu_is_refused() -> None:
    with pytest.raises(InputError, match=r"^emulator qemu: QEMU has no machine with a made-up;"):
        ELSEWHERE.with_tools(CrossCompiler.CLANG, Emulator.QEMU).build(program())


@needs_emulator
@needs_qemu
def test_a_qemu_that_is_too_old_is_refused() -> None:
    later = replace(CORTEX_M4, emulator=Emulator.QEMU, machine=Machine(name="mps2-an999"))
    with pytest.raises(InputError, match=r"^emulator qemu: .*mps2-an999.*install a newer QEMU"):
        later.build(program())


def test_a_target_that_nobody_knows_is_refused_with_the_names() -> None:
    with pytest.raises(InputError) as refused:
        find_target("made-up")
    assert str(refused.value) == f"target made-up: is none of {', '.join(t.name for t in TARGETS)}"
    assert [find_target(t.name) for t in TARGETS] == list(TARGETS)


@needs_shared
@needs_emulator
@pytest.mark.parametrize(
    ("model", "rows"),
    [("mcunet-5fps", False), ("mcunet-5fps", True), ("mbv2-w0.35", True), ("proxyless-w0.3", True)],
)
def test_no_stack_is_larger_than_a_board_is_checked_for(model: str, rows: bool) -> None:
    """Whatever compiles: exported projects promise it too."""
    made = program("sparse-49kb", str(model_path(model)), rows=rows)
    targets = [*ELF, *(WITH_GCC if shutil.which("arm-none-eabi-gcc") else [])]
    bounds = {f"{t.name} {t.compiler}": build_elf(made, t).stack_bound.bytes for t in targets}
    assert {name: size for name, size in bounds.items() if size > STACK_BYTES} == {}


@needs_shared
@needs_emulator
@pytest.mark.parametrize(("rows", "ram"), [(False, 116_000), (True, 96 << 10)])
def test_mcunet_trains_in_half_the_ram_of_the_released_engine(rows: bool, ram: int) -> None:
    """49kb plan: 252,448 B were measured for the engine, static data and stack."""
    name = str(model_path("mcunet-5fps"))
    made = program("sparse-49kb", name, head=HeadKind.LINEAR, rows=rows)
    found = measure(made, CORTEX_M7, steps=2)
    assert found.bit_exact
    assert found.ram_bytes < ram
    assert found.stack_bound_bytes is not None
    assert found.stack_bytes <= found.stack_bound_bytes <= found.stack_bytes + 64
