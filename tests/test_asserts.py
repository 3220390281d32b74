"""What kernels take for granted: asserted in checked builds, free of charge in others."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from helpers import ASSERTING, gcc, needs_gcc

from kilograd.targets.toolchain import runtime_folder, runtime_sources

MAIN = """
#include "kg.h"
#include <stdlib.h>
static float table[64];
static int32_t label;
static int8_t codes[64];
static kg_block16 *block = (kg_block16 *)(void *)table;
int main(int argc, char **argv) {
    const kg_enrol_params two = {.features = 4, .classes = 2};
    const kg_cross_entropy_params three = {.classes = 3};
    const kg_avg_pool_params pool = {.pixels = 2, .channels = 3};
    const kg_avg_pool_params none = {.pixels = 0, .channels = 0};
    const kg_to_block_params wide = {.size = 4, .bits = 16};
    const kg_to_block_params block_of_4 = {.size = 4, .bits = 15};
    switch (argc == 2 ? atoi(argv[1]) : -1) {
    case 0: kg_avg_pool(codes, codes + 8, &pool); break;
    case 1: kg_enrol(table, table + 32, &label, &two); break;
    case 2: kg_to_block(block, table + 32, &block_of_4); break;
    case 10: label = 2; kg_enrol(table, table + 32, &label, &two); break;
    case 11: label = -1; kg_enrol(table + 8, table + 32, &label, &two); break;
    case 12: label = 3; kg_cross_entropy(table, table + 32, &label, &three); break;
    case 13: kg_avg_pool(codes, codes + 8, &none); break;
    case 14: kg_to_block(block, table + 32, &wide); break;
    case 15: kg_to_block((kg_block16 *)(void *)((char *)block + 2), table, &block_of_4); break;
    case 16: kg_avg_pool(0, codes + 8, &none); break;
    case 17: table[32] = 1e38f * 10; kg_to_block(block, table + 32, &block_of_4); break;
    case 18: return (int)kg_requantise(1, (kg_factor){1 << 30, 63});
    case 19: return kg_round_to_odd(1, 32);
    case 20: return kg_stochastic_round(2e9f, 0);
    default: return 3;
    }
    return 0;
}
"""
SOUND, BROKEN = range(3), range(10, 21)


@needs_gcc
def test_a_broken_promise_aborts_a_checked_build(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(MAIN, encoding="utf-8")
    files = ["main.c", *map(str, runtime_sources())]
    gcc("-O1", ASSERTING).compile(
        tmp_path, f"-I{runtime_folder() / 'include'}", *files, "-lm", "-o", "main"
    )
    for case in (*SOUND, *BROKEN):
        done = subprocess.run(
            [str(tmp_path / "main"), str(case)], capture_output=True, text=True, check=False
        )
        if case in SOUND:
            assert done.returncode == 0, (case, done.stderr)
        else:
            assert done.returncode == -6, (case, done.returncode)
            assert "ssertion" in done.stderr


@needs_gcc
@pytest.mark.parametrize(
    "file",
    # texts; and what kernels call behind their own assertions
    [p for p in runtime_sources() if p.name not in {"kg_status.c", "kg_state.c"}],
    ids=lambda p: p.name,
)
def test_other_builds_hold_nothing_of_it(tmp_path: Path, file: Path) -> None:
    include = f"-I{runtime_folder() / 'include'}"
    gcc("-O2").compile(tmp_path, include, "-c", str(file), "-o", "plain.o")
    gcc("-O2", ASSERTING).compile(tmp_path, include, "-c", str(file), "-o", "checked.o")
    assert b"assert" not in (tmp_path / "plain.o").read_bytes()
    assert b"assert" in (tmp_path / "checked.o").read_bytes()


def kernels(text: str) -> list[tuple[str, str]]:
    """Return the struct of each kernel defined in a file, and the line after its signature."""
    return re.findall(
        r"^(?:KG_COLD )?void kg_\w+\([^;{]*?const (kg_\w+_params) \*p\) \{\n(.*)$",
        text,
        re.MULTILINE,
    )


def test_every_kernel_asserts_its_parameters() -> None:
    found = 0
    for file in runtime_folder().rglob("*.c"):
        for struct, first in kernels(file.read_text(encoding="utf-8")):
            assert first.strip() == f"KG_ASSERT({struct}_ok(p));", (file.name, struct)
            found += 1
    assert found >= 50
