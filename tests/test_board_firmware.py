"""What is exported for a board: it links into that board's memory, and starts there."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kilograd.boards import BOARDS, Board, find_board
from kilograd.emit.application import Application
from kilograd.frontend import load_model
from kilograd.learn.application import application
from kilograd.learn.recipe import compile_recipe
from kilograd.select import Budget
from kilograd.settings import Recipe
from kilograd.targets import Cortex, target_of

pytestmark = [
    pytest.mark.skipif(
        not shutil.which("arm-none-eabi-gcc") or not shutil.which("make"),
        reason="needs apt-get install make gcc-arm-none-eabi libnewlib-arm-none-eabi",
    )
]

#: An application: variables must be as C promises, and the program must learn.
APPLICATION = """
#include <string.h>
#include "model.h"
#define CHECK(number, holds) if (!(holds)) done(number)
void done(int result);
uint8_t state[MODEL_STATE_BYTES] __attribute__((aligned(8)));
uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(8)));
volatile int32_t given = 123456789, none[100], also_given[3] = {7, 8, 9};
volatile float third = 3.0f;
void SystemInit(void) { also_given[2] = 10; }
int main(void) {
    const float lr = 0.01f;
    const int32_t label = 0, clock[2] = {1, 0};
    CHECK(1, given == 123456789 && also_given[0] == 7 && also_given[1] == 8);
    CHECK(2, also_given[2] == 10);
    for (int i = 0; i < 100; i++) CHECK(3, none[i] == 0);
    CHECK(4, 1.0f / third > 0.333f && 1.0f / third < 0.334f);
    CHECK(5, model_init(state) == KG_OK);
    memset(arena, 1, sizeof arena);
    memcpy(arena + MODEL_STEP_LABEL, &label, sizeof label);
    memcpy(arena + MODEL_STEP_LR, &lr, sizeof lr);
    memcpy(arena + MODEL_STEP_CLOCK, clock, sizeof clock);
    CHECK(6, model_step(state, arena) == KG_OK);
    done(100);
    return 0;
}
"""
#: Where a test looks whether the application came to its end, and how.
STOPS = "__attribute__((noinline)) void done(int result) { for (volatile int i = result;; i = i); }"
LEAVES = """
void done(int result) {
    uint32_t block[2] = {0x20026, (uint32_t)result};
    register int32_t r0 __asm__("r0") = 0x20;
    register void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xAB" ::"r"(r0), "r"(r1) : "memory");
    for (;;) {
    }
}
"""


@cache
def app() -> Application:
    return application(compile_recipe(load_model("digits"), Recipe("last", 5), Budget()))


def made_for(board: Board, folder: Path, application: str) -> Path:
    """Export, put the application in the place of the example, and build."""
    target_of(board).export(app(), folder)
    (folder / "example.c").write_text(application, "utf-8")
    command = ["make", "-f", "firmware.mk", "CFLAGS=-O1 -Wall -Wextra -Werror"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return folder / "firmware.elf"


def segments(elf: Path) -> list[tuple[int, bytes]]:
    """Return what is written to flash."""
    elffile = pytest.importorskip("elftools.elf.elffile")
    with elf.open("rb") as f:
        found = [s for s in elffile.ELFFile(f).iter_segments() if s["p_filesz"]]
        return [(s["p_paddr"], s.data()) for s in found if s["p_type"] == "PT_LOAD"]


def symbols(elf: Path) -> dict[str, int]:
    elffile = pytest.importorskip("elftools.elf.elffile")
    with elf.open("rb") as f:
        table = elffile.ELFFile(f).get_section_by_name(".symtab")
        return {s.name: s["st_value"] for s in table.iter_symbols()}


STARTED = [
    "stm32f746-disco",  # M7, float32 only
    "nucleo-h743zi2",  # M7 with float64
    "nano-33-ble",  # M4, behind a boot loader
    "frdm-k64f",  # M4, words at 0x400
    "artemis",  # M4, other addresses
    "nucleo-u575zi-q",  # M33
    "pico-2",  # M33, words for the boot ROM
]


@pytest.mark.parametrize("name", STARTED)
def test_an_exported_project_starts_in_the_memory_of_its_board(name: str, tmp_path: Path) -> None:
    """Only the board's flash and RAM are there, and the RAM is full of rubbish."""
    unicorn = pytest.importorskip("unicorn")
    board = find_board(name)
    elf = made_for(board, tmp_path, APPLICATION + STOPS)
    uc: Any = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB)
    uc.ctl_set_cpu_model(getattr(unicorn.arm_const, target_of(board).unicorn_cpu))
    uc.mem_map(board.flash.origin, board.flash.size // 4096 * 4096, unicorn.UC_PROT_READ | 4)
    uc.mem_map(board.ram.origin, board.ram.size, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
    uc.mem_write(board.ram.origin, b"\xa5" * board.ram.size)
    uc.mem_map(0xE000E000, 4096)
    uc.reg_write(unicorn.arm_const.UC_ARM_REG_FPEXC, 0x40000000)
    for at, data in segments(elf):
        uc.mem_write(at, data)
    stack, reset = struct.unpack("<2I", uc.mem_read(board.flash.origin, 8))
    assert board.ram.origin < stack <= board.ram.end
    uc.reg_write(unicorn.arm_const.UC_ARM_REG_SP, stack)
    uc.emu_start(reset | 1, symbols(elf)["done"] & ~1, count=200_000_000)
    assert uc.reg_read(unicorn.arm_const.UC_ARM_REG_R0) == 100
    (vectors,) = struct.unpack("<I", uc.mem_read(0xE000ED08, 4))
    assert vectors == board.flash.origin
    (access,) = struct.unpack("<I", uc.mem_read(0xE000ED88, 4))
    assert access == 0xF << 20, "the FPU is on"
    boot = board.chip.boot
    if boot:
        found = uc.mem_read(board.flash.origin + boot.offset, 4 * len(boot.words))
        assert struct.unpack(f"<{len(boot.words)}I", found) == boot.words


@pytest.mark.skipif(
    not shutil.which("qemu-system-arm"), reason="needs apt-get install qemu-system-arm"
)
def test_an_exported_project_starts_in_a_whole_machine(tmp_path: Path) -> None:
    """QEMU's Netduino Plus 2 has the processor and the memory of the STM32F407."""
    elf = made_for(find_board("stm32f407g-disc1"), tmp_path, APPLICATION + LEAVES)
    machine = ["qemu-system-arm", "-M", "netduinoplus2", "-nographic", "-monitor", "none"]
    semihosting = ["-serial", "null", "-semihosting-config", "enable=on,target=native"]
    command = [*machine, *semihosting, "-kernel", str(elf)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert done.returncode == 100


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Cortex], Path]:
    """Give a folder with the objects of the program for a processor, compiled once."""

    @cache
    def compiled(gcc_cpu: tuple[str, ...]) -> Path:
        folder = tmp_path_factory.mktemp("objects")
        (board,) = [b for b in BOARDS if target_of(b).gcc_cpu == gcc_cpu][:1]
        target_of(board).export(app(), folder)
        text = (folder / "firmware.mk").read_text("utf-8")
        (files,) = re.findall(r"^FILES = example.c startup.c firmware.c (.*)$", text, re.MULTILINE)
        flags = [*gcc_cpu, "-mthumb", "-mfloat-abi=hard", "-O1", "-ffunction-sections"]
        include = ["-I.", "-Iruntime/include"]
        command = ["arm-none-eabi-gcc", *flags, *include, "-c", *files.split()]
        subprocess.run(command, cwd=folder, check=True)
        return folder

    return lambda target: compiled(target.gcc_cpu)


@pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)
def test_every_board_links(board: Board, objects: Callable[[Cortex], Path], tmp_path: Path) -> None:
    target = target_of(board)
    made = objects(target)
    target.export(app(), tmp_path)
    flags = [*target.gcc_cpu, "-mthumb", "-mfloat-abi=hard", "-O1", "-I.", "-Iruntime/include"]
    link = ["-T", "link.ld", "-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", "-lm"]
    files = ["example.c", "startup.c", "firmware.c", *map(str, made.glob("*.o"))]
    command = ["arm-none-eabi-gcc", *flags, *files, *link, "-o", "firmware.elf"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    placed = segments(tmp_path / "firmware.elf")
    assert min(at for at, _ in placed) == board.flash.origin
    assert max(at + len(data) for at, data in placed) <= board.flash.end
    known = symbols(tmp_path / "firmware.elf")
    assert board.ram.origin <= known["data_begin"]
    assert known["bss_end"] + 1024 < known["stack_top"] == board.ram.end
    page = (tmp_path / "README.md").read_text("utf-8")
    assert f"For {board.title}: `make -f firmware.mk`" in page
    assert board.note in page


def test_a_program_that_does_not_fit_does_not_link(tmp_path: Path) -> None:
    """The stack has its room: a little less RAM, and the linker says so."""
    board = find_board("nano-33-ble")
    target_of(board).export(app(), tmp_path)
    script = (tmp_path / "link.ld").read_text("utf-8")
    need = app().program.sram_bytes + 1536 - 64
    (tmp_path / "link.ld").write_text(script.replace(f"LENGTH = {256 << 10}", f"LENGTH = {need}"))
    command = ["make", "-f", "firmware.mk", "CFLAGS=-O1"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode
    assert "region `RAM' overflowed" in done.stderr


@pytest.mark.skipif(not shutil.which("cmake"), reason="needs apt-get install cmake")
def test_cmake_builds_it_too(tmp_path: Path) -> None:
    target_of(find_board("nucleo-f446re")).export(app(), tmp_path)
    build = ["cmake", "-B", "build", "-DCMAKE_TOOLCHAIN_FILE=firmware.cmake"]
    for command in (build, ["cmake", "--build", "build", "--target", "firmware"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert segments(tmp_path / "build" / "firmware.elf")[0][0] == 0x08000000
