"""Programs on emulated microcontrollers, and the C project that users get."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_ops
from helpers import model_path, needs_shared

from kilograd.emit import Program
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.learn.recipe import HeadKind, OptimizerKind, Recipe, compile_recipe
from kilograd.select import Budget
from kilograd.targets import CORTEX_M4, CORTEX_M7, Cortex, build_cortex, export_project, measure
from kilograd.targets.cortex import ram_bytes, read_elf

needs_emulator = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ziglang", "unicorn", "elftools"))),
    reason="needs pip install 'kilograd[emulate]'",
)


def program(method: str = "last:3", model: str = "digits", **options: Any) -> Program:
    recipe = Recipe(method, 5, **options)
    return compile_recipe(load_model(model), recipe, Budget()).program


@needs_emulator
@pytest.mark.parametrize("target", [CORTEX_M7, CORTEX_M4], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": HeadKind.LINEAR, "optimizer": OptimizerKind.ADAM},
        {"optimizer": OptimizerKind.ROWRMS, "accumulate": 2},
        {"rows": True},
    ],
    ids=["sgd", "linear adam", "rowrms accumulated", "rows"],
)
def test_a_microcontroller_computes_the_same_bits(target: Cortex, options: dict[str, Any]) -> None:
    made = program(**options)
    found = measure(made, target, steps=4)
    assert found.bit_exact
    assert found.steps == 4
    assert 0 <= found.data_bss_bytes - made.sram_bytes < 16, "RAM that the plan does not know of"
    assert 0 < found.stack_bytes < 1024
    assert found.ram_bytes == found.data_bss_bytes + found.stack_bytes
    assert found.flash_bytes > made.flash_bytes
    assert found.instructions_step > found.instructions_forward > made.macs("infer")


@needs_emulator
@pytest.mark.parametrize("target", [CORTEX_M7, CORTEX_M4], ids=lambda t: t.name)
def test_kernels_equal_their_references_to_the_bit(target: Cortex) -> None:
    """Every sample of every op, with the kernels that are made for the processor."""
    firmware = build_cortex(test_ops.program(), target)
    wrong = list(test_ops.failures(firmware, test_ops.CALLED))
    assert not wrong, f"{len(wrong)} differ, of them:\n" + "\n".join(wrong[:20])


@needs_emulator
def test_instruction_counts_repeat() -> None:
    made = program()
    assert measure(made, CORTEX_M7, steps=2) == measure(made, CORTEX_M7, steps=2)


@needs_emulator
def test_a_difference_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: a program that forgets a byte of its state is not bit exact."""
    from kilograd.targets import cortex

    run = cortex.Firmware.run

    def forgetful(self: cortex.Firmware, function: str) -> None:
        run(self, function)
        if function == "step":
            self._state[0] ^= 1

    monkeypatch.setattr(cortex.Firmware, "run", forgetful)
    assert not measure(program(), CORTEX_M7, steps=1).bit_exact


@needs_emulator
def test_ram_ends_where_the_plan_says_and_flash_cannot_be_written() -> None:
    import unicorn

    firmware = build_cortex(program(), CORTEX_M7)
    uc = firmware._emulator
    end = 0x20000000 + ram_bytes(firmware.program)
    uc.mem_read(end - 1, 1)
    with pytest.raises(unicorn.UcError):
        uc.mem_read(end, 1)
    regions = {begin: perms for begin, _, perms in uc.mem_regions()}
    assert not regions[0x08000000] & unicorn.UC_PROT_WRITE


@needs_emulator
def test_floating_point_is_done_by_the_processor() -> None:
    """Without its FPU named, the compiler would call soft-float routines without a word."""
    from kilograd.targets.cortex import build_firmware

    image = read_elf(build_firmware(program(), CORTEX_M4))
    soft = [name for name in image.symbols if name in {"__aeabi_fmul", "__aeabi_fadd"}]
    assert soft == []


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
    with pytest.raises(InputError, match=r"pip install 'kilograd\[emulate\]'"):
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
@pytest.mark.parametrize("options", [{}, {"accumulate": 4}, {"rows": True}], ids=str)
def test_an_exported_project_builds_without_a_warning_and_learns(
    tmp_path: Path, compiler: str, options: dict[str, Any]
) -> None:
    export_project(program(**options), CORTEX_M7, tmp_path)
    archiver = compiler.replace(" cc", " ar") if " " in compiler else "ar"
    command = ["make", f"CC={compiler}", f"AR={archiver}", "CFLAGS=-O2 -Werror"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    out = subprocess.run([tmp_path / "example"], check=True, capture_output=True, text=True).stdout
    losses = [float(line.split()[-1]) for line in out.splitlines()]
    assert len(losses) == 20
    assert np.mean(losses[-6:]) < np.mean(losses[:2])
    outside = [p for p in tmp_path.rglob("*.[ch]") if "/../.." in p.read_text(encoding="utf-8")]
    assert all("variants" in p.parts for p in outside)


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
