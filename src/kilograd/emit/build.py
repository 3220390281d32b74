"""How an exported project is built: a Makefile and a CMakeLists.txt of the same files and flags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: C99 without GNU extensions, and no fused multiply-add: the same bits everywhere.
LANGUAGE = ("-std=c99", "-ffp-contract=off")
#: For GCC, whose square root is one instruction where nobody asks for errno, and a call elsewhere.
FLAGS = (*LANGUAGE, "-fno-math-errno")
#: What the project is free of; tables of constants are long.
WARNINGS = (
    *("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion"),
    "-Wno-overlength-strings",
)
INCLUDES = ("-I.", "-Iruntime/include")


@dataclass(frozen=True)
class Sources:
    """C files, as a line: for any machine, and with the kernels that are made for the target."""

    portable: str
    target: str


def spaced(words: Iterable[str | Path]) -> str:
    """Return words as one line."""
    return " ".join(w.as_posix() if isinstance(w, Path) else w for w in words)


def append(file: Path, text: str) -> None:
    """Add to a file that is written."""
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def write_build(folder: Path, sources: Sources, make: str) -> None:
    """Write Makefile and CMakeLists.txt; `make` is the command that builds for the target."""
    flags = spaced((*FLAGS, *WARNINGS, *INCLUDES))
    makefile = _MAKEFILE.format(make=make, flags=flags, files=sources.portable)
    (folder / "Makefile").write_text(makefile, encoding="utf-8")
    one = sources.portable == sources.target
    files = (_CMAKE_FILES if one else _CMAKE_BOTH).format(sources=sources)
    flags = spaced((*FLAGS, *WARNINGS))
    cmake = _CMAKE.format(files=files, flags=flags)
    (folder / "CMakeLists.txt").write_text(cmake, encoding="utf-8")


_MAKEFILE = """\
# For this machine, with the portable kernels: a library, and the example, which runs.
#     make
# For the target:
#     {make}
CFLAGS ?= -O3
FLAGS = {flags}
SOURCES = {files}
OBJECTS = $(SOURCES:%.c=build/host/%.o)
HEADERS = $(wildcard *.h runtime/include/*.h)

example: build/host/example.o build/host/host.o libmodel.a
\t$(CC) $(FLAGS) $(CFLAGS) $^ -lm -o $@

libmodel.a: $(OBJECTS)
\t$(AR) rcs $@ $^

build/host/%.o: %.c $(HEADERS)
\t@mkdir -p $(@D)
\t$(CC) $(FLAGS) $(CFLAGS) -c $< -o $@

clean:
\trm -rf build libmodel.a example

.PHONY: clean
"""

_CMAKE = """\
# As a part of a larger project, add_subdirectory makes the library `model` alone.
cmake_minimum_required(VERSION 3.13)
project(model C)
set(FLAGS {flags})
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
{files}
add_library(model STATIC ${{SOURCES}})
target_include_directories(model PUBLIC . runtime/include)
target_compile_options(model PRIVATE ${{FLAGS}})

string(COMPARE EQUAL "${{CMAKE_SOURCE_DIR}}" "${{CMAKE_CURRENT_SOURCE_DIR}}" ON_ITS_OWN)
if(ON_ITS_OWN AND NOT CMAKE_CROSSCOMPILING)
  add_executable(example example.c host.c)
  target_compile_options(example PRIVATE ${{FLAGS}})
  target_link_libraries(example model m)
elseif(ON_ITS_OWN AND EXISTS ${{CMAKE_CURRENT_SOURCE_DIR}}/link.ld)
  add_executable(firmware example.c startup.c firmware.c)
  set_target_properties(firmware PROPERTIES SUFFIX .elf)
  target_compile_options(firmware PRIVATE ${{FLAGS}})
  target_link_libraries(firmware model m)
  target_link_options(firmware PRIVATE -T ${{CMAKE_CURRENT_SOURCE_DIR}}/link.ld -nostartfiles
                      --specs=nano.specs -Wl,--gc-sections)
endif()
"""

_CMAKE_FILES = "set(SOURCES {sources.portable})"
_CMAKE_BOTH = """\
if(CMAKE_CROSSCOMPILING) # the kernels that are made for the target
  set(SOURCES {sources.target})
else()
  set(SOURCES {sources.portable})
endif()"""
