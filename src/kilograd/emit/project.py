"""A C project that stands alone: the program, the runtime it needs, and how to build it."""

from __future__ import annotations

import shutil
from pathlib import Path

from kilograd.emit.c import header, source
from kilograd.emit.example import example
from kilograd.emit.manifest import manifest
from kilograd.emit.program import Program
from kilograd.emit.readme import readme

#: What may lie in a project beside model.h, and what building makes there.
PROJECT_FILES = (
    *("model.c", "model.json", "runtime", "README.md", "Makefile", "CMakeLists.txt", "example.c"),
    *("startup.c", "firmware.c", "link.ld", "firmware.mk", "firmware.cmake", "wasm.c", "wasm.mk"),
    *("*.o", "libmodel.a", "example", "firmware.elf", "model.wasm"),
)


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
    names = {"files": listed(files), "portable": listed(_project_files(folder, None))}
    one = names["files"] == names["portable"]
    make_files, cmake_files = (_MAKE_FILES, _CMAKE_FILES) if one else (_MAKE_BOTH, _CMAKE_BOTH)
    makefile = _MAKEFILE.format(make=make, files=make_files.format(**names))
    (folder / "Makefile").write_text(makefile, encoding="utf-8")
    cmake = _CMAKE.format(files=cmake_files.format(**names))
    (folder / "CMakeLists.txt").write_text(cmake, encoding="utf-8")
    (folder / "example.c").write_text(example(program), encoding="utf-8")
    (folder / "README.md").write_text(readme(program), encoding="utf-8")


def listed(files: list[Path]) -> str:
    """Return files as a line of a Makefile."""
    return " ".join(p.as_posix() for p in files)


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
if(CMAKE_CROSSCOMPILING AND EXISTS ${{CMAKE_CURRENT_SOURCE_DIR}}/link.ld)
  add_executable(firmware startup.c firmware.c)
  set_target_properties(firmware PROPERTIES SUFFIX .elf)
  target_compile_options(firmware PRIVATE -O3 -std=c99 -ffp-contract=off)
  target_link_libraries(firmware model)
  target_link_options(firmware PRIVATE -T ${{CMAKE_CURRENT_SOURCE_DIR}}/link.ld -nostartfiles
                      --specs=nano.specs -Wl,--gc-sections)
endif()
"""

_CMAKE_FILES = "set(FILES {files})"
_CMAKE_BOTH = """\
if(CMAKE_CROSSCOMPILING) # the kernels that are made for the target
  set(FILES {files})
else()
  set(FILES {portable})
endif()"""
