"""Compilers and optional packages, and where the C runtime lies."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import kilograd
from kilograd.emit.build import LANGUAGE
from kilograd.emit.project import c_files
from kilograd.errors import InputError, option
from kilograd.extras import Extra
from kilograd.interruption import later
from kilograd.output import FULL

OPTIMISE = ("-O3", "-march=native")

#: An empty program with the headers that every one needs.
_HEADERS = ("-include", "stdint.h", "-include", "string.h")
_PROBE = (*_HEADERS, "-x", "c", "-c", os.devnull, "-o", "probe.o")

#: What linkers say, LLVM's and GNU's, where a program is larger than a memory.
_OVERFULL = re.compile(r"region [`'](\w+)':? overflowed by (\d+)")

#: What a compiler says where one of its parts was killed.
_KILLED = re.compile(r"[Kk]illed signal|terminated (with|by) signal|Killed|(O|o)ut of memory")


@functools.cache
def runtime_folder() -> Path:
    """Return the folder of the C runtime: beside the package's files or in the repository."""
    package = Path(kilograd.__file__).parent
    inside = package / "runtime"
    return inside if inside.is_dir() else package.parents[1] / "runtime"


@dataclass(frozen=True)
class Compiler:
    """A C compiler: the command, and flags in front of every call's own."""

    command: tuple[str, ...]
    flags: tuple[str, ...] = (*LANGUAGE, *OPTIMISE)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What decides the code it makes: its version, its flags, and the processor.

        Raises `InputError` where it cannot be run.
        """
        done = self._run("--version")
        if done.returncode:
            raise InputError(f"{self._name}: --version fails; mend or replace this C compiler")
        cpu = Path("/proc/cpuinfo")
        lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
        features = next((x for x in lines if x.startswith(("flags", "Features"))), "")
        return "\n".join([done.stdout, *self.command, *self.flags, features])

    def compile(self, folder: Path, *args: str) -> None:
        """Run the compiler in `folder`; a failure is a defect of ours and shows its output.

        Raises `InputError` where it cannot be run or is killed, `OSError` where the disk is full.
        """
        done = self._run(*self.flags, *args, folder=folder)
        if not done.returncode:
            return
        if full := next((e for e in FULL if os.strerror(e) in done.stderr), None):
            raise OSError(full, os.strerror(full), str(folder))
        if done.returncode < 0 or _KILLED.search(done.stderr):
            raise InputError(
                f"{self._name}: the C compiler was killed, perhaps for lack of memory or room; "
                f"make some, and try again"
            )
        if over := _OVERFULL.search(done.stderr):
            raise InputError(
                f"{self._name}: the program is {int(over[2]):,} bytes larger than the target's "
                f"{over[1]}; choose a smaller network, or a board with more"
            )
        self._check_able(folder)
        raise RuntimeError(f"{' '.join(done.args)} failed:\n{done.stderr}")

    def _check_able(self, folder: Path) -> None:
        """Raise `InputError` where it cannot compile anything: headers or an assembler missing."""
        done = self._run(*self.flags, *_PROBE, folder=folder)
        if done.returncode:
            lines = [*done.stderr.splitlines(), "?"]
            why = next((x for x in lines if "error" in x.lower()), lines[0]).strip()
            raise InputError(
                f"{self._name}: the C compiler cannot compile the simplest program ({why}); "
                f"mend it, as in apt-get install gcc libc6-dev"
            )

    @property
    def _name(self) -> str:
        return " ".join(self.command)

    def _run(self, *args: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run it in a group of its own, which is ended whole with whatever ends us."""
        command = [*self.command, *args]
        place = {} if folder is None else {"TMPDIR": str(folder.absolute())}
        process: subprocess.Popen[str] | None = None
        try:
            with later():
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**os.environ, "LC_ALL": "C", **place},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    process_group=0,
                )
            out, err = process.communicate()
            return subprocess.CompletedProcess(command, process.returncode, out, err)
        except OSError as e:
            if process is None and (folder is None or folder.is_dir()):
                raise InputError(
                    f"{self._name}: the C compiler cannot be run ({e.strerror}); mend it"
                ) from e
            raise
        finally:
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


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
    raise InputError(f"no C compiler: install one (apt-get install gcc), or {Extra.ZIG.install}")


def zig(target: str, flags: tuple[str, ...]) -> Compiler:
    """Return the clang inside `ziglang` as a cross compiler.

    Raises `InputError` where it is not installed.
    """
    Extra.EMULATE.need(f"{option('target')} {target}")
    return Compiler((sys.executable, "-m", "ziglang", "cc"), (*LANGUAGE, *flags))


def runtime_sources(variant: str | None = None) -> tuple[Path, ...]:
    """Return the C files of the runtime, with those of a variant in place of their namesakes."""
    return tuple(c_files(runtime_folder(), variant))


def digest(*parts: str | bytes) -> str:
    """Return a short hash of some texts."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.encode() if isinstance(part, str) else part)
        h.update(b"\0")
    return h.hexdigest()[:32]
