"""What a program needs on a target, with the tools that are here."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
from devices import needs_emulator

from kilograd.frontend import load_model
from kilograd.learn.recipe import compile_recipe
from kilograd.select import Budget
from kilograd.settings import Recipe
from kilograd.targets import CORTEX_M7, CrossCompiler, Emulator, footprint
from kilograd.targets.elf import build_elf

FIND = importlib.util.find_spec


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let modules be missing."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m in modules else FIND(m))


@needs_emulator
@pytest.mark.skipif(not shutil.which("arm-none-eabi-gcc"), reason="no arm-none-eabi-gcc")
def test_gcc_counts_where_there_is_no_clang(monkeypatch: pytest.MonkeyPatch) -> None:
    program = compile_recipe(load_model("digits"), Recipe("last", 5), Budget()).program
    gcc = CORTEX_M7.with_tools(CrossCompiler.GCC, Emulator.UNICORN)
    firmware = build_elf(program, gcc)
    hide(monkeypatch, "ziglang", "unicorn", "wasmtime")
    found = footprint(program, CORTEX_M7)
    assert found.stack_bytes == firmware.stack_bound.bytes
    assert found.flash_bytes == firmware.sizes.flash_bytes
    hide(monkeypatch, "ziglang", "capstone")
    assert footprint(program, CORTEX_M7).flash_bytes is None
