"""QEMU: a second opinion on what unicorn says, for whole machines and for Linux programs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from kilograd.emit import Program
from kilograd.errors import InputError, option
from kilograd.ir import Array
from kilograd.targets.elf import ElfFile, camera_image
from kilograd.targets.target import Device

_LIMIT = 600  # seconds for one call
#: What a QEMU says that is older than the machine or the processor.
_LACKS = ("unsupported machine type", "unable to find CPU model")


def find_qemu(command: str, package: str) -> str:
    """Return the path of an emulator; raises `InputError` where it is not installed."""
    path = shutil.which(command)
    if path is None:
        raise InputError(f"{option('emulator')} qemu: no {command}; apt-get install {package}")
    return path


class QemuDevice(Device):
    """A program in QEMU, which starts anew for every call: state and arena go in and come back.

    So nothing but state and arena can carry a result from one call to the next.
    """

    def __init__(
        self,
        program: Program,
        firmware: ElfFile,
        command: tuple[str, ...],
        tick_instructions: int | None = None,
    ) -> None:
        self.sizes, self.stack_bound = firmware.sizes, firmware.stack_bound
        self._functions = firmware.functions
        self._command = command
        self._tick = tick_instructions
        image = camera_image(program)
        self._picture = np.zeros(image.type.shape if image else 0, np.int8)
        blocks = (np.zeros(max(n, 4), np.uint8) for n in (program.state_bytes, program.arena_bytes))
        super().__init__(program, *blocks)

    def status(self, function: str, *images: Array) -> int:
        number = np.array([self._functions.index(f"model_{function}")], np.uint32)
        for image in images:
            self._picture[:] = image
        memory = (number, self._state, self._arena, self._picture)
        call = b"".join(x.tobytes() for x in memory)
        with tempfile.TemporaryDirectory() as name:
            # a whole machine reads these files, a Linux program what they are connected to
            given, made = Path(name, "call"), Path(name, "done")
            given.write_bytes(call)
            with given.open("rb") as stdin, Path(name, "out").open("wb") as stdout:
                done = subprocess.run(
                    self._command,
                    cwd=name,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    check=False,
                    timeout=_LIMIT,
                )
            answer = (made if made.exists() else Path(name, "out")).read_bytes()
        if done.returncode or len(answer) != 12 + len(self._state) + len(self._arena):
            words = done.stderr.decode(errors="replace").strip()
            if any(lack in words for lack in _LACKS):
                raise InputError(
                    f"{option('emulator')} qemu: {words.splitlines()[0]} "
                    f"({' '.join(self._command[1:3])}); "
                    f"install a newer QEMU, or leave the option away"
                )
            raise RuntimeError(
                f"model_{function} failed in {Path(self._command[0]).name}: "
                f"exit status {done.returncode}\n{words}"
            )
        used, ticks, status = np.frombuffer(answer[:12], np.uint32).tolist()
        blocks = np.frombuffer(answer[12:], np.uint8)
        self._state[:], self._arena[:] = np.split(blocks, [len(self._state)])
        self.stack_bytes = max(self.stack_bytes, used)
        self.instructions = None if self._tick is None else ticks * self._tick
        return int(status)
