"""The machine we are on: the program that would be flashed, compiled for this processor."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import weakref
from pathlib import Path

import numpy as np

from kilograd.emit import Program, header, manifest, source
from kilograd.ir import Array
from kilograd.targets.cache import cached, kept, passing
from kilograd.targets.runner import Runner
from kilograd.targets.toolchain import (
    Compiler,
    digest,
    find_compiler,
    runtime_folder,
    runtime_sources,
)


def host_variant(compiler: Compiler, folder: Path) -> str | None:
    """Return the variant made for what a compiler may use of this machine, None without one.

    `folder` is one to work in.
    """
    compiler.compile(folder, "-dM", "-E", "-x", "c", os.devnull, "-o", "macros.h")
    file = folder / "macros.h"
    macros = file.read_text(encoding="utf-8")
    file.unlink()
    return "avx2" if "#define __AVX2__ " in macros else None


def _runtime_objects(compiler: Compiler) -> tuple[Path, ...]:
    """Compile the runtime once for each compiler, and keep it."""
    texts = [p.read_bytes() for p in sorted(runtime_folder().rglob("*.[ch]"))]

    def make(build: Path) -> None:
        include = f"-I{runtime_folder() / 'include'}"
        for p in runtime_sources(host_variant(compiler, build)):
            compiler.compile(build, "-fPIC", include, "-c", str(p), "-o", f"{p.stem}.o")

    folder = cached(f"runtime-{digest(compiler.fingerprint, *texts)}", make)
    return tuple(sorted(folder.glob("*.o")))


class _Image(ctypes.Structure):
    """`kg_image`."""

    _fields_ = (("pixels", ctypes.c_void_p), ("row_bytes", ctypes.c_int32))


class _Rows(ctypes.Structure):
    """`kg_rows`."""

    _fields_ = (("read", ctypes.c_void_p), ("context", ctypes.c_void_p))


class HostProgram(Runner):
    """A program compiled into a library, loaded for as long as this object lives."""

    def __init__(self, program: Program, library: Path) -> None:
        handle = _ctypes.dlopen(str(library), ctypes.DEFAULT_MODE)
        self._library = ctypes.CDLL(str(library), handle=handle)
        weakref.finalize(self, _ctypes.dlclose, handle)  # ctypes itself never unloads
        state = np.zeros(max(program.state_bytes, 4), np.uint8)
        arena = np.zeros(max(program.arena_bytes, 4), np.uint8)
        super().__init__(program, state, arena)

    def status(self, function: str, *images: Array) -> int:
        if function == "init":
            return int(self._library.model_init(_pointer(self._state)))
        whole = [np.ascontiguousarray(x, np.int8) for x in images]
        sources = [_Image(_pointer(x), x[0].nbytes) for x in whole]
        read = ctypes.cast(self._library.kg_image_row, ctypes.c_void_p)
        rows = [_Rows(read, ctypes.cast(ctypes.byref(s), ctypes.c_void_p)) for s in sources]
        entry = getattr(self._library, f"model_{function}")
        return int(entry(_pointer(self._state), _pointer(self._arena), *map(ctypes.byref, rows)))


def _pointer(memory: Array) -> ctypes.c_void_p:
    return memory.ctypes.data_as(ctypes.c_void_p)


def build_host(
    program: Program, compiler: Compiler | None = None, *, keep: bool = True
) -> HostProgram:
    """Compile a program for this machine, or find it compiled, and load it.

    `keep`: for the next time.  Without, nothing is left on the disk.
    """
    compiler = compiler or find_compiler()
    objects = _runtime_objects(compiler)
    text = source(program)
    name = f"model-{digest(compiler.fingerprint, objects[0].parent.name, text)}"

    def make(build: Path) -> None:
        _compile(build, program, text, compiler, objects)

    if found := cached(name, make) if keep else kept(name):
        return HostProgram(program, found / "model.so")
    with passing(make) as scratch:
        return HostProgram(program, scratch / "model.so")


def _compile(
    build: Path, program: Program, text: str, compiler: Compiler, objects: tuple[Path, ...]
) -> None:
    (build / "model.c").write_text(text, encoding="utf-8")
    (build / "model.h").write_text(header(program), encoding="utf-8")
    (build / "model.json").write_text(manifest(program), encoding="ascii")
    include = f"-I{runtime_folder() / 'include'}"
    files = ["model.c", *map(str, objects)]
    compiler.compile(build, "-fPIC", "-shared", include, *files, "-o", "model.so")
