"""unicorn: processors without a machine around them, from PyPI.

The emulator maps flash that cannot be written and no more RAM than the program is said to need,
so a program that ran has proved that it fits.  Instructions are counted exactly; they are not
cycles, which depend on caches and flash wait states.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kilograd.emit import Program
from kilograd.extras import Extra
from kilograd.ir import Array
from kilograd.targets.cache import cached
from kilograd.targets.elf import FLASH_BYTES, PAGE, PAINT, ElfFile
from kilograd.targets.target import Device
from kilograd.targets.toolchain import digest, find_compiler


@dataclass(frozen=True)
class Registers:
    """How unicorn calls a processor's parts; `fpu` is what to write to switch the FPU on.

    `counter` is the function of count_instructions.c that knows how long instructions are.
    """

    architecture: str
    mode: str
    constants: str
    stack: str
    link: str
    first: str
    second: str
    third: str
    counter: str
    fpu: tuple[tuple[str, int], ...]


class _Counter(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_uint64),
        ("flash", ctypes.c_char_p),
        ("base", ctypes.c_uint64),
    )


class UnicornDevice(Device):
    """A program on a processor in unicorn."""

    def __init__(self, program: Program, firmware: ElfFile, registers: Registers, cpu: str) -> None:
        self.sizes, self.stack_bound = firmware.sizes, firmware.stack_bound
        self._symbols = firmware.symbols
        self._flash, ram = firmware.harness.flash, firmware.harness.ram
        self._registers = registers
        size = -(-firmware.ram_bytes // PAGE) * PAGE
        self._memory = np.zeros(size + PAGE, np.uint8)
        start = -self._memory.ctypes.data % PAGE
        self._ram = self._memory[start : start + size]
        self._counter = _Counter(0, firmware.flash, self._flash)
        self._emulator = self._started(firmware.flash, ram, cpu)
        low, top, state, arena = (
            self._symbols[name] - ram for name in ("stack_low", "stack_top", "state", "arena")
        )
        self._stack = self._ram[low:top]
        super().__init__(
            program,
            self._ram[state : state + max(program.state_bytes, 4)],
            self._ram[arena : arena + max(program.arena_bytes, 4)],
        )

    def _started(self, flash: bytes, ram: int, cpu: str) -> Any:  # noqa: ANN401 unicorn has no types
        unicorn = _load("unicorn")
        names = _load(f"unicorn.{self._registers.constants}_const")
        uc = unicorn.Uc(
            getattr(unicorn, f"UC_ARCH_{self._registers.architecture}"),
            getattr(unicorn, f"UC_MODE_{self._registers.mode}"),
        )
        uc.ctl_set_cpu_model(getattr(names, cpu))
        uc.mem_map(self._flash, FLASH_BYTES, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        uc.mem_write(self._flash, flash)
        pointer = ctypes.c_void_p(self._ram.ctypes.data)
        both = unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE
        uc.mem_map_ptr(ram, len(self._ram), both, pointer)
        if picture := self._symbols.get("picture"):
            begin = picture // PAGE * PAGE
            uc.mem_map(begin, self._flash - begin, unicorn.UC_PROT_READ)
        self._names = names
        for name, value in self._registers.fpu:
            uc.reg_write(self._register(name), value)
        library = ctypes.CDLL(str(_counting_library()))
        hook = ctypes.c_size_t()
        status = _load("unicorn.unicorn_py3.unicorn").uclib.uc_hook_add(
            uc._uch,  # noqa: SLF001 a hook in Python would be fifty times slower
            ctypes.byref(hook),
            unicorn.UC_HOOK_BLOCK,
            ctypes.cast(getattr(library, self._registers.counter), ctypes.c_void_p),
            ctypes.cast(ctypes.byref(self._counter), ctypes.c_void_p),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )
        if status:
            raise RuntimeError(f"unicorn refused the counting hook: error {status}")
        self._library = library
        return uc

    def _register(self, name: str) -> int:
        return int(getattr(self._names, f"UC_{self._registers.architecture}_REG_{name}"))

    def status(self, function: str, *images: Array) -> int:
        uc, r, symbols = self._emulator, self._registers, self._symbols
        thumb = int(r.mode == "THUMB")
        back = self._flash + FLASH_BYTES - PAGE  # where a call returns to: nothing lies there
        self._stack[:] = PAINT
        uc.reg_write(self._register(r.stack), symbols["stack_top"])
        uc.reg_write(self._register(r.link), back | thumb)
        uc.reg_write(self._register(r.first), symbols["state"])
        uc.reg_write(self._register(r.second), symbols["arena"])
        uc.reg_write(self._register(r.third), symbols["camera"])
        for image in images:
            uc.mem_write(symbols["picture"], np.ascontiguousarray(image, np.int8).tobytes())
        self._counter.count = 0
        uc.emu_start(symbols[f"model_{function}"] | thumb, back)
        self.instructions = int(self._counter.count)
        touched = np.flatnonzero(self._stack != PAINT)
        used = len(self._stack) - int(touched[0]) if len(touched) else 0
        self.stack_bytes = max(self.stack_bytes, used)
        return int(uc.reg_read(self._register(r.first))) & 0xFFFFFFFF


def _load(module: str) -> Any:  # noqa: ANN401 unicorn has no types
    return Extra.EMULATE.load(module, "running firmware")


def _counting_library() -> Path:
    """Compile the counting hooks for this machine once."""
    file = Path(__file__).with_name("count_instructions.c")
    compiler = find_compiler()
    name = f"counter-{digest(compiler.fingerprint, file.read_bytes())}"

    def make(build: Path) -> None:
        compiler.compile(build, "-fPIC", "-shared", str(file), "-o", "counter.so")

    return cached(name, make) / "counter.so"
