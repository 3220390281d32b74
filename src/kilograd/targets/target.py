"""What all targets have in common: they build a program into a device that can be measured."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path

from kilograd.emit import Program
from kilograd.targets.runner import Runner
from kilograd.targets.stack import StackBound


@dataclass(frozen=True)
class Sizes:
    """Bytes as the linker placed them: code and constants, and all that can be written."""

    flash_bytes: int
    data_bss_bytes: int


class Device(Runner):
    """A program on an emulated machine.

    `instructions` is the count of the last call, None where the emulator cannot count.
    `stack_bytes` is the most that any call so far has used.
    """

    sizes: Sizes
    stack_bound: StackBound | None
    instructions: int | None = None
    stack_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Target(abc.ABC):
    """A kind of processor.

    `variant` is the folder of kernels made for it, `counted` what `Device.instructions` counts.
    """

    name: str
    variant: str | None = None
    counted: str = "instructions"

    @property
    @abc.abstractmethod
    def tools(self) -> str:
        """What compiles and what executes."""

    @abc.abstractmethod
    def build(self, program: Program, ram: int | None = None) -> Device:
        """Compile a program and load it into an emulated machine with `ram` bytes of RAM.

        Without `ram` it has what the program needs.  Raises `InputError` where a tool is
        missing, and where the program does not fit.
        """

    @abc.abstractmethod
    def export(self, program: Program, folder: Path) -> None:
        """Write a C project that stands alone: library, build files, example, what to do."""
