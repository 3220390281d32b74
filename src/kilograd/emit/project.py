"""A C project that stands alone: the program, the runtime it needs, and how to build it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from kilograd.emit.c import header, source
from kilograd.emit.example import example
from kilograd.emit.manifest import manifest
from kilograd.emit.program import Program
from kilograd.ir import Node, StreamedInput
from kilograd.passes import EntryPoint

#: What the stack of any program may need, whatever compiles it; `kilograd run` says how much does.
STACK_BYTES = 1536
#: What may lie in a project beside model.h, and what building makes there.
PROJECT_FILES = (
    *("model.c", "model.json", "runtime", "README.md", "Makefile", "CMakeLists.txt", "example.c"),
    *("startup.c", "link.ld", "wasm.c", "wasm.mk"),
    *("*.o", "libmodel.a", "example", "model.wasm"),
)


@dataclass(frozen=True)
class MemoryMap:
    """Where flash and RAM of a board begin, and their bytes."""

    flash: int
    flash_bytes: int
    ram: int
    ram_bytes: int


def write_project(program: Program, folder: Path, runtime: Path, variant: str | None) -> list[Path]:
    """Write the program and the runtime into `folder`; return the C files to compile.

    The program is model.c and model.h; model.json says what its numbers stand for.

    `runtime` is the folder of the C runtime, `variant` the instruction set whose kernels replace
    the portable ones.  Paths are relative to `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.h").write_text(header(program), encoding="utf-8")
    (folder / "model.c").write_text(source(program), encoding="utf-8")
    (folder / "model.json").write_text(manifest(program), encoding="ascii")
    parts = ["include", "src", "freestanding", *([f"variants/{variant}"] if variant else [])]
    for part in parts:
        shutil.copytree(runtime / part, folder / "runtime" / part, dirs_exist_ok=True)
    return _project_files(folder, variant)


def c_files(runtime: Path, variant: str | None) -> list[Path]:
    """Return the C files of a runtime, with those of a variant in place of their namesakes."""
    files = {p.name: p for p in (runtime / "src").glob("*.c")}
    if variant:
        files |= {p.name: p for p in (runtime / "variants" / variant).glob("*.c")}
    return [files[name] for name in sorted(files)]


def _project_files(folder: Path, variant: str | None) -> list[Path]:
    """Return the C files to compile in a project, relative to its folder."""
    runtime = c_files(folder / "runtime", variant)
    return [Path("model.c"), *(p.relative_to(folder) for p in runtime)]


def write_build_files(program: Program, folder: Path, files: list[Path], make: str) -> None:
    """Write Makefile, CMakeLists.txt, example.c and README.md.

    `files` are the C files for the target, and `make` the command that builds them.  For this
    machine the portable kernels are built.
    """
    names = {"files": _listed(files), "portable": _listed(_project_files(folder, None))}
    one = names["files"] == names["portable"]
    make_files, cmake_files = (_MAKE_FILES, _CMAKE_FILES) if one else (_MAKE_BOTH, _CMAKE_BOTH)
    makefile = _MAKEFILE.format(make=make, files=make_files.format(**names))
    (folder / "Makefile").write_text(makefile, encoding="utf-8")
    cmake = _CMAKE.format(files=cmake_files.format(**names))
    (folder / "CMakeLists.txt").write_text(cmake, encoding="utf-8")
    (folder / "example.c").write_text(example(program), encoding="utf-8")
    (folder / "README.md").write_text(_readme(program), encoding="utf-8")


def _listed(files: list[Path]) -> str:
    return " ".join(p.as_posix() for p in files)


def write_startup(program: Program, folder: Path, board: MemoryMap) -> None:
    """Add a start for firmware, and a linker script for a board; say so in the README."""
    entries = program.entries.values()
    calls = "\n".join(
        f"        check(model_{e.name}(state, arena{', &camera' * len(e.rows)}));" for e in entries
    )
    camera = _DRIVER if any(e.rows for e in entries) else ""
    startup = _STARTUP.format(camera=camera, calls=calls)
    (folder / "startup.c").write_text(startup, encoding="utf-8")
    (folder / "link.ld").write_text(_LINKER_SCRIPT.format(board=board), encoding="utf-8")
    _append(folder / "README.md", _README_STARTUP)


def write_wasm_files(program: Program, folder: Path, files: list[Path]) -> None:
    """Add wasm.c, which reserves the memory of a module, and wasm.mk, which builds it.

    Functions keep their names; `model_state()` and `model_arena()` say where the blocks lie.
    """
    camera = _WASM_CAMERA if any(e.rows for e in program.entries.values()) else ""
    (folder / "wasm.c").write_text(_WASM + camera, encoding="utf-8")
    exports = " ".join(wasm_exports(program))
    text = _WASM_MAKEFILE.format(files=_listed(files), exports=exports)
    (folder / "wasm.mk").write_text(text, encoding="utf-8")


def wasm_exports(program: Program) -> list[str]:
    """Return the linker flags that export what a module consists of, and where its data ends."""
    names = (*(f"model_{name}" for name in ("init", *program.entries)), "__data_end")
    return [f"-Wl,--export={name}" for name in names]


def write_wasm_readme(folder: Path) -> None:
    """Say in the README what a module is made with and how it is called."""
    _append(folder / "README.md", _README_WASM)


def _append(file: Path, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def _image(program: Program) -> Node:
    return program.entries[EntryPoint.INFER].inputs["image"]


def _readme(program: Program) -> str:
    does = {name: _DOES[EntryPoint(name)] for name in program.entries}
    calls = "\n".join(f"- `model_{name}`: {text}" for name, text in does.items())
    by_rows = isinstance(_image(program).op, StreamedInput)
    return _README.format(
        state=f"{program.state_bytes:,}",
        arena=f"{program.arena_bytes:,}",
        shape="x".join(map(str, _image(program).type.shape)),
        stack=STACK_BYTES,
        calls=calls,
        rows=_ROWS if by_rows else "",
    )


_DOES = {
    EntryPoint.INFER: "image in, logits out; the largest one is the class.",
    EntryPoint.PREFIX: "image in; out comes what `enrol` and `step` read in its place.",
    EntryPoint.ENROL: "image and label in; adds the image to the prototype of its class.",
    EntryPoint.FORGET: "empties the prototypes, before the support is enrolled anew.",
    EntryPoint.STEP: "image, label, and rate and clock (or the share) in; loss out; learns.",
    EntryPoint.ENROL_GRAD: "image and label in; what prototypes add to the gradients.",
    EntryPoint.APPLY: "rate and clock in; updates from the accumulated gradients.",
}

_README = """\
# A training program

Plain C99, made by kilograd.  `make` builds a library and an example for this machine;
the Makefile says how to cross-compile.

Memory is yours: a *state* of {state} bytes that keeps what was learned, and an *arena* of {arena}
bytes for the time of a call, both 4-byte aligned.  Save the state to keep what was learned.
Nothing is allocated, and the stack stays below {stack:,} bytes.

Call `model_init(state)` once.  Then write the inputs of an entry point into the arena, at the
offsets that `model.h` names, call it, and read its outputs there.  Images are int8 {shape},
`pixel - 128`; labels count from 0; the clock is a seed and the number of the step, from 0.

Every call returns a `kg_status` (`runtime/include/kg_status.h`).  `KG_OK` is 0; anything else says
what is wrong with memory, state or inputs, and then nothing was written: state and arena are as
they were.  `kg_status_text` says it in words.  A state that another program filled is refused.

`model.json` says what stands behind the numbers in `model.c`: layers, parameters and their names.

{calls}
{rows}
`example.c` shows the order of calls.
"""

_ROWS = """
The image is never in memory as a whole: a `kg_rows` given to these calls holds a function that
they ask for row 0, row 1, and so on, each once.  It may wait for a camera;
`kg_image_row` (in `kg.h`) reads an image that lies in memory, such as flash.
"""

_README_STARTUP = """
`startup.c` and `link.ld` are a start for firmware: put the memory of your board into `link.ld`.
"""

_README_WASM = """
`make -f wasm.mk` builds `model.wasm` with the clang of ziglang (`pip install ziglang`).
It imports nothing, but for the function that reads a row where images come so (`wasm.c`).
It exports its memory and the functions above; `model_state()` and `model_arena()` (and
`model_camera()`) return where in the memory the blocks lie, which all functions take.
"""

_STARTUP = """\
/* Generated by kilograd: memory of the program, and a start.  Fill in where inputs come from. */
#include "model.h"
{camera}
/* What your board does when a call is refused, as one is that finds no rate in the arena. */
static void check(kg_status status) {{
    while (status) {{
    }}
}}

uint8_t state[MODEL_STATE_BYTES ? MODEL_STATE_BYTES : 4] __attribute__((aligned(8)));
uint8_t arena[MODEL_ARENA_BYTES ? MODEL_ARENA_BYTES : 4] __attribute__((aligned(8)));
extern uint32_t stack_top;
void Reset_Handler(void);

__attribute__((section(".vectors"), used)) void *const vectors[2] = {{&stack_top,
                                                                     (void *)Reset_Handler}};

void Reset_Handler(void) {{
    *(volatile uint32_t *)0xE000ED88 = 0xF << 20; /* the FPU is on */
    __asm__ volatile("dsb\\nisb" ::: "memory");
    check(model_init(state));
    for (;;) {{
{calls}
    }}
}}
"""

_DRIVER = """
/* The driver of your camera: waits for a row of the picture and writes it. */
static void read_row(void *context, int32_t row, int8_t *to) {
    (void)context;
    (void)row;
    (void)to;
}
static const kg_rows camera = {read_row, 0};
"""

_LINKER_SCRIPT = """\
MEMORY {{
    FLASH (rx) : ORIGIN = {board.flash:#010x}, LENGTH = {board.flash_bytes}
    RAM (rwx) : ORIGIN = {board.ram:#010x}, LENGTH = {board.ram_bytes}
}}
stack_top = ORIGIN(RAM) + LENGTH(RAM);
SECTIONS {{
    .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) }} > FLASH
    .data : {{ *(.data*) }} > RAM AT > FLASH
    .bss : {{ *(.bss*) *(COMMON) }} > RAM
    /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) }}
}}
"""

_WASM = """\
/* Generated by kilograd: the memory of a module. */
#include "model.h"

static uint8_t state[MODEL_STATE_BYTES ? MODEL_STATE_BYTES : 4] __attribute__((aligned(8)));
static uint8_t arena[MODEL_ARENA_BYTES ? MODEL_ARENA_BYTES : 4] __attribute__((aligned(8)));

__attribute__((export_name("model_state"))) void *model_state(void) { return state; }
__attribute__((export_name("model_arena"))) void *model_arena(void) { return arena; }
"""

_WASM_CAMERA = """
/* Rows of the image are asked of whoever runs the module. */
__attribute__((import_module("camera"), import_name("read_row"))) void read_row(void *context,
                                                                               int32_t row,
                                                                               int8_t *to);
static const kg_rows camera = {read_row, 0};

__attribute__((export_name("model_camera"))) const kg_rows *model_camera(void) { return &camera; }
"""

_WASM_MAKEFILE = """\
# make -f wasm.mk       model.wasm, without imports
ZIG ?= python3 -m ziglang
FLAGS = -target wasm32-freestanding -O3 -g0 -s -std=c99 -ffp-contract=off
LINK = -Wl,--no-entry -Wl,-z,stack-size=4096 {exports}
FILES = wasm.c {files}

model.wasm: $(FILES) model.h
\t$(ZIG) cc $(FLAGS) -I. -Iruntime/include -Iruntime/freestanding $(FILES) $(LINK) -o $@
"""

_MAKEFILE = """\
# make -f wasm.mk       model.wasm, without imports
ZIG ?= python3 -m ziglang
FLAGS = -target wasm32-freestanding -O3 -g0 -s -std=c99 -ffp-contract=off
LINK = -Wl,--no-entry -Wl,-z,stack-size=4096 {exports}
FILES = wasm.c {files}

model.wasm: $(FILES) model.h
\t$(ZIG) cc $(FLAGS) -I. -Iruntime/include -Iruntime/freestanding $(FILES) $(LINK) -o $@
"""

_EXAMPLE = """\
/* Trains on made-up images, to show the order of calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static void check(kg_status status) {{
    if (status == KG_OK) return;
    fprintf(stderr, "%s\\n", kg_status_text(status));
    exit(1);
}}

static void draw(int8_t *image, int32_t way) {{
    for (int32_t i = 0; i < {size}; i++) image[i] = (int8_t)(rand() % 100 - 50 + 40 * way);
}}

{picture}int main(void) {{
    uint8_t *state = malloc(MODEL_STATE_BYTES + 4), *arena = malloc(MODEL_ARENA_BYTES + 4);
    if (!state || !arena) return 1;
    check(model_init(state));
{body}
    free(arena);
    free(state);
    return 0;
}}
"""

_MAKEFILE = """\
# For this machine, with the portable kernels: a library, and an example that runs.
#     make
# For the target:
#     {make}
CFLAGS ?= -O3
WARNINGS = -Wall -Wextra -Wpedantic -Wno-overlength-strings
FLAGS = -std=c99 -ffp-contract=off -fno-math-errno $(WARNINGS) -I. -Iruntime/include $(TARGET)
{files}
OBJECTS = $(FILES:.c=.o)

example: example.c libmodel.a
\t$(CC) $(FLAGS) $(CFLAGS) example.c libmodel.a -lm -o $@

libmodel.a: $(OBJECTS)
\t$(AR) rcs $@ $(OBJECTS)

%.o: %.c model.h
\t$(CC) $(FLAGS) $(CFLAGS) -c $< -o $@

clean:
\trm -f $(OBJECTS) libmodel.a example
"""

_MAKE_FILES = "FILES = {files}"
_MAKE_BOTH = """\
# TARGET, the flags of the processor, brings the kernels that are made for it
ifdef TARGET
FILES = {files}
else
FILES = {portable}
endif"""

_CMAKE = """\
cmake_minimum_required(VERSION 3.13)
project(model C)
{files}
add_library(model STATIC ${{FILES}})
target_include_directories(model PUBLIC . runtime/include)
target_compile_options(model PRIVATE -O3 -std=c99 -ffp-contract=off -fno-math-errno)
target_link_libraries(model PUBLIC m)
"""

_CMAKE_FILES = "set(FILES {files})"
_CMAKE_BOTH = """\
if(CMAKE_CROSSCOMPILING) # the kernels that are made for the target
  set(FILES {files})
else()
  set(FILES {portable})
endif()"""
