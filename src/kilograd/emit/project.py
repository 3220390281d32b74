"""A C project that stands alone: the program, the runtime it needs, and how to build it."""

from __future__ import annotations

import shutil
from pathlib import Path

from kilograd.emit.application import Application
from kilograd.emit.build import Sources, spaced, write_build
from kilograd.emit.c import header, source
from kilograd.emit.example import BOARD_H, HOST_C, example
from kilograd.emit.manifest import manifest
from kilograd.emit.pictures import images_h
from kilograd.emit.program import Program
from kilograd.emit.readme import readme

#: What may lie in a project beside model.h, and what building makes there.
PROJECT_FILES = (
    *("model.c", "model.json", "runtime", "README.md", "Makefile", "CMakeLists.txt", "example.c"),
    *("images.h", "board.h", "host.c", "startup.c", "firmware.c", "link.ld", "emulator.ld"),
    *("firmware.mk", "firmware.cmake"),
    *("wasm.c", "wasm.mk", "LICENSE", "NOTICE", "licenses"),
    *("build", "libmodel.a", "example", "firmware.elf", "emulated.elf", "model.wasm"),
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


def write_application(
    app: Application, folder: Path, files: list[Path], make: str, building: str
) -> Sources:
    """Write all that is around a program in its project: example, build files, README.

    `files` are the C files for the target, `make` the command that builds them, and `building` what
    the README says of it.  For this machine the portable kernels are built.
    """
    sources = Sources(spaced(_project_files(folder, None)), spaced(files))
    texts = {
        "example.c": example(app),
        "images.h": images_h(app.pictures, app.preprocess.channels),
        "board.h": BOARD_H,
        "host.c": HOST_C,
        "README.md": readme(app, building),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_build(folder, sources, make)
    return sources
