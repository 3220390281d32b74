"""A C project that stands alone: the program, the runtime it needs, and how to build it."""

from __future__ import annotations

import shutil
from pathlib import Path

from kilograd.emit.c import header, source
from kilograd.emit.program import Program
from kilograd.ir import Node, StreamedInput


def write_project(program: Program, folder: Path, runtime: Path, variant: str | None) -> list[Path]:
    """Write model.c, model.h and the runtime into `folder`; return the C files to compile.

    `runtime` is the folder of the C runtime, `variant` the instruction set whose kernels replace
    the portable ones.  Paths are relative to `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.h").write_text(header(program), encoding="utf-8")
    (folder / "model.c").write_text(source(program), encoding="utf-8")
    parts = ["include", "src", "freestanding", *([f"variants/{variant}"] if variant else [])]
    for part in parts:
        shutil.copytree(runtime / part, folder / "runtime" / part, dirs_exist_ok=True)
    files = {p.name: p for p in (folder / "runtime/src").glob("*.c")}
    if variant:
        files |= {p.name: p for p in (folder / "runtime/variants" / variant).glob("*.c")}
    return [Path("model.c"), *(files[name].relative_to(folder) for name in sorted(files))]


def write_build_files(program: Program, folder: Path, files: list[Path]) -> None:
    """Write Makefile, CMakeLists.txt, example.c and README.md."""
    listed = " ".join(map(str, files))
    (folder / "Makefile").write_text(_MAKEFILE.format(files=listed), encoding="utf-8")
    (folder / "CMakeLists.txt").write_text(_CMAKE.format(files=listed), encoding="utf-8")
    (folder / "example.c").write_text(_example(program), encoding="utf-8")
    (folder / "README.md").write_text(_readme(program), encoding="utf-8")


def _example(program: Program) -> str:
    """Return a program that trains on made-up images: how the entry points are meant to be used."""
    image = _image(program)
    by_rows = isinstance(image.op, StreamedInput)
    camera = ", &camera" if by_rows else ""

    def draw(entry: str, way: str) -> str:
        to = "picture" if by_rows else f"(int8_t *)arena + MODEL_{entry}_IMAGE"
        return f"draw({to}, {way});"

    lines = []
    if "enrol" in program.entries:
        lines += [
            "    /* prototypes: show every support image once */",
            "    model_forget(state, arena);",
            "    for (int32_t way = 0; way < 2; way++) {",
            f"        {draw('ENROL', 'way')}",
            "        memcpy(arena + MODEL_ENROL_LABEL, &way, sizeof way);",
            f"        model_enrol(state, arena{camera});",
            "    }",
        ]
    if "step" in program.entries:
        rate = "MODEL_APPLY" if "apply" in program.entries else "MODEL_STEP"
        controls = [
            f"        memcpy(arena + {rate}_LR, &lr, sizeof lr);",
            f"        memcpy(arena + {rate}_CLOCK, clock, sizeof clock);",
        ]
        lines += [
            "    for (int32_t i = 0; i < 20; i++) {",
            "        const int32_t label = i % 2, clock[2] = {1, i}; /* seed, step */",
            "        const float lr = 0.003f;",
            "        float loss;",
            f"        {draw('STEP', 'label')}",
            "        memcpy(arena + MODEL_STEP_LABEL, &label, sizeof label);",
        ]
        if rate == "MODEL_APPLY":
            lines += [
                "        const float share = 1; /* 1 / n when n samples share an update */",
                "        memcpy(arena + MODEL_STEP_SHARE, &share, sizeof share);",
            ]
        else:
            lines += controls
        lines += [
            f"        model_step(state, arena{camera});",
            "        memcpy(&loss, arena + MODEL_STEP_LOSS, sizeof loss);",
        ]
        if rate == "MODEL_APPLY":
            lines += [*controls, "        model_apply(state, arena);"]
        lines += ['        printf("step %d: loss %f\\n", (int)i, (double)loss);', "    }"]
    lines += [f"    {draw('INFER', '1')}", f"    model_infer(state, arena{camera});"]
    _, width, channels = image.type.shape
    pictures = _PICTURE.format(size=image.type.size, row_bytes=width * channels)
    return _EXAMPLE.format(
        size=image.type.size, picture=pictures if by_rows else "", body="\n".join(lines)
    )


def _image(program: Program) -> Node:
    return next(n for n in program.entries["infer"].graph.inputs() if n.name == "image")


def _readme(program: Program) -> str:
    calls = "\n".join(_CALLS[name] for name in program.entries)
    by_rows = isinstance(_image(program).op, StreamedInput)
    return _README.format(
        state=f"{program.state_bytes:,}",
        arena=f"{program.arena_bytes:,}",
        shape="x".join(map(str, _image(program).type.shape)),
        calls=calls,
        rows=_ROWS if by_rows else "",
    )


_CALLS = {
    "infer": "- `model_infer`: image in, logits out; the largest one is the class.",
    "enrol": "- `model_enrol`: image and label in; adds the image to the prototype of its class.",
    "forget": "- `model_forget`: empties the prototypes, before the support is enrolled anew.",
    "step": "- `model_step`: image, label, and rate and clock (or the share) in; loss out; learns.",
    "apply": "- `model_apply`: rate and clock in; updates from the accumulated gradients.",
}

_README = """\
# A training program

Plain C99, made by kilograd.  `make` builds a library and an example for this machine;
the Makefile says how to cross-compile.  `startup.c` and `link.ld` are a start for firmware.

Memory is yours: a *state* of {state} bytes that keeps what was learned, and an *arena* of {arena}
bytes for the time of a call, both 4-byte aligned.  Save the state to keep what was learned.
Nothing is allocated, and the stack stays below 1 KB.

Call `model_init(state)` once.  Then write the inputs of an entry point into the arena, at the
offsets that `model.h` names, call it, and read its outputs there.  Images are int8 {shape},
`pixel - 128`; labels count from 0; the clock is a seed and the number of the step.

{calls}
{rows}
`example.c` shows the order of calls.
"""

_ROWS = """
The image is never in memory as a whole: a `kg_rows` given to these calls holds a function that
they ask for row 0, row 1, and so on, each once.  It may wait for a camera;
`kg_image_row` (in `kg.h`) reads an image that lies in memory, such as flash.
"""

_PICTURE = """\
static int8_t picture[{size}];
static const kg_image image = {{picture, {row_bytes}}};
static const kg_rows camera = {{kg_image_row, (void *)&image}};

"""

_EXAMPLE = """\
/* Trains on made-up images, to show the order of calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static void draw(int8_t *image, int32_t way) {{
    for (int32_t i = 0; i < {size}; i++) image[i] = (int8_t)(rand() % 100 - 50 + 40 * way);
}}

{picture}int main(void) {{
    uint8_t *state = malloc(MODEL_STATE_BYTES + 4), *arena = malloc(MODEL_ARENA_BYTES + 4);
    if (!state || !arena) return 1;
    model_init(state);
{body}
    free(arena);
    free(state);
    return 0;
}}
"""

_MAKEFILE = """\
# make                  a library for this machine, and an example that runs
# make libmodel.a CC=arm-none-eabi-gcc AR=arm-none-eabi-ar \\
#     TARGET='-mcpu=cortex-m7 -mfpu=fpv5-d16 -mfloat-abi=hard'
CFLAGS ?= -O3
WARNINGS = -Wall -Wextra -Wpedantic -Wno-overlength-strings
FLAGS = -std=c99 -ffp-contract=off $(WARNINGS) -I. -Iruntime/include $(TARGET)
FILES = {files}
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

_CMAKE = """\
cmake_minimum_required(VERSION 3.13)
project(model C)
add_library(model STATIC {files})
target_include_directories(model PUBLIC . runtime/include)
target_compile_options(model PRIVATE -O3 -std=c99 -ffp-contract=off)
target_link_libraries(model PUBLIC m)
"""
