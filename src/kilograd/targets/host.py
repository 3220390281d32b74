"""The machine we are on: the program that would be flashed, compiled for this processor."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kilograd
from kilograd.emit import Program, header, source
from kilograd.errors import InputError
from kilograd.ir import Array, Node

#: C99 without GNU extensions, and no fused multiply-add: the same bits everywhere.
LANGUAGE = ("-std=c99", "-ffp-contract=off")
OPTIMISE = ("-O3", "-march=native")


@functools.cache
def runtime_folder() -> Path:
    """Return the folder of the C runtime: beside the package's files or in the repository."""
    package = Path(kilograd.__file__).parent
    inside = package / "runtime"
    return inside if inside.is_dir() else package.parents[1] / "runtime"


def cache_folder() -> Path:
    """Return where compiled programs are kept: $KILOGRAD_CACHE or the user's cache folder."""
    if folder := os.environ.get("KILOGRAD_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kilograd"


@dataclass(frozen=True)
class Compiler:
    """A C compiler: the command, and flags in front of every call's own."""

    command: tuple[str, ...]
    flags: tuple[str, ...] = (*LANGUAGE, *OPTIMISE)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What decides the code it makes: its version, its flags, and the processor."""
        out = subprocess.run(
            [*self.command, "--version"], capture_output=True, text=True, check=False
        )
        cpu = Path("/proc/cpuinfo")
        lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
        features = next((x for x in lines if x.startswith(("flags", "Features"))), "")
        return "\n".join([out.stdout, *self.command, *self.flags, features])

    def compile(self, folder: Path, *args: str) -> None:
        """Run the compiler in `folder`; a failure is a defect of ours and shows its output."""
        command = [*self.command, *self.flags, *args]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")


@functools.cache
def find_compiler() -> Compiler:
    """Return the system's `cc`, else the clang inside the `ziglang` package.

    Raises `InputError` where there is neither.
    """
    if cc := shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"):
        return Compiler((cc,))
    if importlib.util.find_spec("ziglang"):
        # without an optimisation level zig adds UBSan, and its linker knows no -march=native
        return Compiler((sys.executable, "-m", "ziglang", "cc"), (*LANGUAGE, "-O3"))
    raise InputError(
        "no C compiler: install one (apt-get install gcc), or pip install 'kilograd[zig]'"
    )


def runtime_sources(machine: str = "") -> tuple[Path, ...]:
    """Return the C files of the runtime; a variant for `machine` replaces its namesake."""
    portable = (runtime_folder() / "src").glob("*.c")
    variants = (runtime_folder() / "variants" / machine).glob("*.c") if machine else ()
    files = {p.name: p for p in portable} | {p.name: p for p in variants}
    return tuple(files[name] for name in sorted(files))


def machine() -> str:
    """Return the name of this machine's folder of variants."""
    name = platform.machine().lower()
    return "x86_64" if name == "amd64" else name


def _digest(*parts: str | bytes) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(part.encode() if isinstance(part, str) else part)
        h.update(b"\0")
    return h.hexdigest()[:32]


def _runtime_objects(compiler: Compiler) -> tuple[Path, ...]:
    """Compile the runtime once for each compiler, and keep it."""
    sources = runtime_sources(machine())
    texts = [p.read_bytes() for p in sorted(runtime_folder().rglob("*.[ch]"))]
    folder = cache_folder() / f"runtime-{_digest(compiler.fingerprint, *texts)}"
    objects = tuple(folder / f"{p.stem}.o" for p in sources)
    if not folder.exists():
        with _atomic(folder) as build:
            include = f"-I{runtime_folder() / 'include'}"
            for p in sources:
                compiler.compile(build, "-fPIC", include, "-c", str(p), "-o", f"{p.stem}.o")
    return objects


class _atomic:  # noqa: N801 used like a function
    """A folder that appears complete or not at all, whoever else makes the same one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.build = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=".build-"))
        return self.build

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            try:
                self.build.rename(self.folder)
            except OSError:
                if not self.folder.exists():
                    raise
        shutil.rmtree(self.build, ignore_errors=True)


class HostProgram:
    """A compiled program with a state and an arena of its own.

    Inputs and outputs are numpy arrays by name, as the graphs declare them.
    """

    def __init__(self, program: Program, library: Path) -> None:
        self.program = program
        self._library = ctypes.CDLL(str(library))
        self._state = np.zeros(max(program.state_bytes, 4), np.uint8)
        self._arena = np.zeros(max(program.arena_bytes, 4), np.uint8)
        self._views = {s.name: _view(self._state, s.offset, s.value) for s in program.state}
        self.reset()

    def reset(self) -> None:
        """Forget everything learned."""
        self._library.model_init(_pointer(self._state))

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        """Run an entry point; return copies of its outputs by name."""
        e = self.program.entries[entry]
        for n in e.graph.inputs():
            if n in e.storage.tensor:
                value = np.ascontiguousarray(inputs[n.name], n.type.dtype.numpy)
                if value.size != n.type.size:
                    raise ValueError(f"{n.name} must be {n.type}, not {value.shape}")
                _node_view(self._arena, e.offset(n), n)[...] = value.reshape(n.type.shape)
        getattr(self._library, f"model_{entry}")(_pointer(self._state), _pointer(self._arena))
        return {
            n.name: _node_view(self._arena, e.offset(n), n).copy()
            for n in e.graph.outputs
            if not n.op.writes
        }

    @property
    def state(self) -> Mapping[str, Array]:
        """The parameters that change, by name: views that may be read and written."""
        return self._views


def _pointer(memory: Array) -> ctypes.c_void_p:
    return memory.ctypes.data_as(ctypes.c_void_p)


def _view(memory: Array, offset: int, like: Array) -> Array:
    return memory[offset : offset + like.nbytes].view(like.dtype).reshape(like.shape)


def _node_view(memory: Array, offset: int, n: Node) -> Array:
    nbytes = n.type.size * n.type.dtype.nbytes
    return memory[offset : offset + nbytes].view(n.type.dtype.numpy).reshape(n.type.shape)


def build_host(program: Program, compiler: Compiler | None = None) -> HostProgram:
    """Compile a program for this machine, or find it compiled, and load it."""
    compiler = compiler or find_compiler()
    objects = _runtime_objects(compiler)
    text = source(program)
    folder = cache_folder() / f"model-{_digest(compiler.fingerprint, objects[0].parent.name, text)}"
    if not folder.exists():
        with _atomic(folder) as build:
            (build / "model.c").write_text(text, encoding="utf-8")
            (build / "model.h").write_text(header(program), encoding="utf-8")
            include = f"-I{runtime_folder() / 'include'}"
            files = ["model.c", *map(str, objects)]
            compiler.compile(build, "-fPIC", "-shared", include, *files, "-o", "model.so")
    return HostProgram(program, folder / "model.so")
