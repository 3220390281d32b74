"""Compilers and optional packages, where the C runtime lies, a cache of what was compiled."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import kilograd
from kilograd.errors import InputError

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


def zig(target: str, flags: tuple[str, ...]) -> Compiler:
    """Return the clang inside `ziglang` as a cross compiler.

    Raises `InputError` where it is not installed.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise InputError(f"--target {target}: no cross compiler; pip install 'kilograd[emulate]'")
    return Compiler((sys.executable, "-m", "ziglang", "cc"), (*LANGUAGE, *flags))


def extra(name: str, what: str) -> ModuleType:
    """Import a package of the extra `emulate`; `what` is what needs it."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise InputError(f"{what}: {name} is missing; pip install 'kilograd[emulate]'") from e


def runtime_sources(machine: str = "") -> tuple[Path, ...]:
    """Return the C files of the runtime; a variant for `machine` replaces its namesake."""
    portable = (runtime_folder() / "src").glob("*.c")
    variants = (runtime_folder() / "variants" / machine).glob("*.c") if machine else ()
    files = {p.name: p for p in portable} | {p.name: p for p in variants}
    return tuple(files[name] for name in sorted(files))


def digest(*parts: str | bytes) -> str:
    """Return a short hash of some texts."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.encode() if isinstance(part, str) else part)
        h.update(b"\0")
    return h.hexdigest()[:32]


class atomic_folder:  # noqa: N801 used like a function
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
