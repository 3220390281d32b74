"""A C project that stands alone: the program, the runtime it needs, and how to build it."""

from __future__ import annotations

import shutil
from pathlib import Path

from kilograd.emit.application import Application
from kilograd.emit.build import Sources, spaced, write_build
from kilograd.emit.c import header, source
from kilograd.emit.example import BOARD_H, HOST_C, example
from kilograd.emit.manifest import manifest
from kilograd.emit.names import c_string
from kilograd.emit.pictures import images_h
from kilograd.emit.program import Program
from kilograd.emit.readme import readme
from kilograd.emit.show import input_h, is_array
from kilograd.emit.waves import samples_h

#: What may lie in a project beside model.h, and what building makes there.
PROJECT_FILES = (
    *("model.c", "model.json", "runtime", "README.md", "Makefile", "CMakeLists.txt", "example.c"),
    *("images.h", "samples.h", "input.h", "classes.h", "board.h", "host.c"),
    *("startup.c", "firmware.c", "link.ld", "emulator.ld", "firmware.mk", "firmware.cmake"),
    *("wasm.c", "wasm.mk"),
    *("LICENSE", "NOTICE", "licenses", "build", "libmodel.a", "example"),
    *("firmware.elf", "emulated.elf", "model.wasm"),
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
    app: Application, folder: Path, runtime: Path, files: list[Path], make: str, building: str
) -> Sources:
    """Write all that is around a program in its project: example, build files, README, licences.

    `runtime` is the folder of the C runtime.  `files` are the C files for the target, `make` the
    command that builds them, and `building` what the README says of it.  For this machine the
    portable kernels are built.
    """
    sources = Sources(spaced(_project_files(folder, None)), spaced(files))
    texts = {
        "example.c": example(app),
        "board.h": BOARD_H,
        "host.c": HOST_C,
        "README.md": readme(app, building),
    }
    if is_array(app):
        texts["samples.h"] = samples_h(app.pictures)
    else:
        texts["images.h"] = images_h(app.pictures, app.preprocess.channels)
    if codes := input_h(app):
        texts["input.h"] = codes
    if app.classes:
        names = ",\n    ".join(map(c_string, app.classes))
        texts["classes.h"] = _CLASSES_H.format(count=len(app.classes), names=names)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    _write_licences(app, folder, runtime)
    write_build(folder, sources, make)
    return sources


def _write_licences(app: Application, folder: Path, runtime: Path) -> None:
    """Write whose all this is: LICENSE and NOTICE of Kilograd, and what the network asks for."""
    shutil.copyfile(runtime / "LICENSE", folder / "LICENSE")
    facts = [_fact(name, value) for name, value in app.attribution.facts.items()]
    facts += [f"Text: licenses/{name}" for name in app.attribution.texts]
    if not facts:
        facts = ["It does not say whose it is: find out before you pass it on."]
    notice = _NOTICE.format(
        own=(runtime / "NOTICE").read_text(encoding="utf-8"),
        name=app.name,
        title=app.title,
        facts="\n".join(f"  {fact}" for fact in facts),
    )
    (folder / "NOTICE").write_text(notice, encoding="utf-8")
    if app.attribution.texts:
        (folder / "licenses").mkdir()
    for name, text in app.attribution.texts.items():
        (folder / "licenses" / name).write_text(text, encoding="utf-8")


def _fact(name: str, value: str) -> str:
    return value if value.startswith(name) else f"{name}: {value}"


_CLASSES_H = """\
/* Generated by kilograd: what classes are called, by their labels; UTF-8. */
#ifndef CLASSES_H
#define CLASSES_H

#define CLASSES_NAMED {count}
static const char *const class_names[CLASSES_NAMED] = {{
    {names}}};

#endif
"""

_NOTICE = """\
{own}
runtime/ and the code that Kilograd generated are under the licence in LICENSE.

model.c holds the network {name}, compiled to tables:
  {title}
{facts}
"""
