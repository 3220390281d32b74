"""What all targets have in common: they build a program into a device that can be measured."""

from __future__ import annotations

import abc
import enum
from dataclasses import dataclass
from pathlib import Path

from kilograd.boards import Board
from kilograd.emit import Program
from kilograd.emit.application import Application
from kilograd.emit.build import Sources
from kilograd.emit.project import write_application, write_project
from kilograd.errors import InputError, option
from kilograd.sizes import spelled
from kilograd.targets.fit import check_fits
from kilograd.targets.runner import Runner
from kilograd.targets.stack import StackBound
from kilograd.targets.toolchain import runtime_folder


class CrossCompiler(enum.StrEnum):
    """What compiles: the clang inside ziglang, or the system's GCC for the processor."""

    CLANG = "clang"
    GCC = "gcc"


class Emulator(enum.StrEnum):
    """What executes: a library from PyPI, unicorn for most, or the system's QEMU."""

    UNICORN = "unicorn"
    QEMU = "qemu"


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

    `variant` is the folder of kernels made for it, `counted` what `Device.instructions` counts,
    `ram` the RAM that it has; None where that is a matter of the `board`.
    """

    name: str
    variant: str | None = None
    counted: str = "instructions"
    ram: int | None = None
    board: Board | None = None

    @property
    @abc.abstractmethod
    def tools(self) -> str:
        """What compiles and what executes."""

    @property
    @abc.abstractmethod
    def make(self) -> str:
        """The command that builds an exported project for it."""

    def with_tools(self, compiler: CrossCompiler, emulator: Emulator) -> Target:
        """Return the target with other tools; raises `InputError` where it has no others."""
        if compiler is not CrossCompiler.CLANG or emulator is not Emulator.UNICORN:
            raise InputError(
                f"{option('target')} {self.name}: has no other tools than {self.tools}"
            )
        return self

    @abc.abstractmethod
    def load(self, program: Program, ram: int | None) -> Device:
        """Compile a program and load it into an emulated machine."""

    def build(self, program: Program, ram: int | None = None) -> Device:
        """Compile a program and load it into an emulated machine with `ram` bytes of RAM.

        Without `ram` it has what the program needs.  Raises `InputError` where a tool is
        missing, and where the program does not fit.
        """
        self.check(program, ram)
        return self.load(program, ram)

    def building(self, ram: int | None) -> str:
        """Return what a README says of building for it, in Markdown: a command, a few words."""
        return f"    {self.make}\n\nbuilds it for {self.name}.\n"

    def export(self, app: Application, folder: Path, ram: int | None = None) -> None:
        """Write a C project that stands alone: library, build files, example, what to do.

        Raises `InputError` where the program does not fit.
        """
        self.check(app.program, ram)
        runtime = runtime_folder()
        files = write_project(app.program, folder, runtime, self.variant)
        building = self.building(ram)
        sources = write_application(app, folder, runtime, files, self.make, building)
        self.write_start(app.program, folder, sources, ram)

    def write_start(  # noqa: B027 most targets need nothing more
        self, program: Program, folder: Path, sources: Sources, ram: int | None
    ) -> None:
        """Add to a project what only this target needs; `sources` are its C files."""

    def check(self, program: Program, ram: int | None) -> None:
        """Raise `InputError` where a program does not fit into the RAM there is."""
        if ram is not None:
            check_fits(program, ram, f"{option('board_ram')} {spelled(ram)}")
        elif self.board is not None:
            check_fits(program, self.board.ram.size, f"{option('board')} {self.board.name}")
        elif self.ram is not None:
            check_fits(program, self.ram, f"{option('target')} {self.name}")
