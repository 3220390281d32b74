"""Cortex-M microcontrollers, whose kernels use the DSP instructions."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from kilograd.boards import Region
from kilograd.emit import Program
from kilograd.emit.build import FLAGS, Sources
from kilograd.emit.firmware import Firmware, MemoryMap, building, write_firmware
from kilograd.errors import InputError, option
from kilograd.targets.elf import ElfFile, ElfTarget, Harness
from kilograd.targets.qemu import QemuDevice, find_qemu
from kilograd.targets.target import CrossCompiler, Device, Emulator
from kilograd.targets.toolchain import Compiler, zig
from kilograd.targets.unicorn import Registers, UnicornDevice

_CLANG_ABI = "thumb-freestanding-eabihf"
_GCC, _GCC_ABI = "arm-none-eabi-gcc", ("-mthumb", "-mfloat-abi=hard")
_FLAGS = ("-O3", "-g0", "-ffunction-sections", "-fdata-sections", "-static")


#: The flash and the RAM of each machine in QEMU are no smaller.
_EMULATED_BYTES = 2 << 20

#: A board about which nobody knows better: the memory of many an STM32.
_MEMORY = MemoryMap(Region(0x08000000, 2 << 20), Region(0x20000000, 512 << 10))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is around the processor in an emulator; the memory of Arm's MPS2 boards by default.

    `name` is what QEMU calls it, None where QEMU has no machine with the processor.  The vector
    table lies at `code`, where the processor starts.  A timer of the CMSDK lies at `timer`;
    `tick_instructions` are executed in a tick of it when each takes a nanosecond.
    """

    name: str | None = None
    code: int = 0x00000000
    ram: int = 0x20000000
    timer: int = 0x40000000
    tick_instructions: int = 40  # 25 MHz


@dataclass(frozen=True, kw_only=True)
class Cortex(ElfTarget):
    """A Cortex-M, as ziglang, GCC and unicorn call it; its FPU must be named.

    `machine` is where it is emulated, `memory` what the exported linker script says where no board
    is named.  `cached`: it has a cache for instructions, which is off after a reset.
    """

    zig_cpu: str
    gcc_cpu: tuple[str, ...]
    unicorn_cpu: str
    machine: Machine = Machine()
    memory: MemoryMap = _MEMORY
    cached: bool = False
    variant: str | None = "arm_dsp"

    @property
    def make(self) -> str:
        return "make -f firmware.mk"

    @property
    def harness(self) -> Harness:
        m = self.machine
        source = _HARNESS.replace("TIMER_ADDRESS", f"{m.timer:#010x}")
        return Harness(m.code, m.code + _HARNESS_BYTES, m.ram, "Reset_Handler", source)

    def cross_compiler(self) -> Compiler:
        if self.compiler is CrossCompiler.CLANG:
            machine = ("-target", _CLANG_ABI, f"-mcpu={self.zig_cpu}")
            return zig(self.name, (*machine, *_FLAGS, "-fno-unwind-tables"))
        if shutil.which(_GCC) is None:
            raise InputError(
                f"{option('compiler')} gcc: no {_GCC}; "
                f"apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"
            )
        cpu = (*self.gcc_cpu, *_GCC_ABI)
        library = ("-nostartfiles", "--specs=nano.specs")
        return Compiler((_GCC,), (*cpu, *FLAGS, *_FLAGS, *library))

    def start(self, program: Program, firmware: ElfFile) -> Device:
        if self.emulator is Emulator.UNICORN:
            return UnicornDevice(program, firmware, _UNICORN, self.unicorn_cpu)
        if self.machine.name is None:
            raise InputError(
                f"{option('emulator')} qemu: QEMU has no machine with a {self.name}; leave the "
                "option away"
            )
        qemu = find_qemu("qemu-system-arm", "qemu-system-arm")
        machine = ("-M", self.machine.name, "-icount", "shift=0")
        quiet = ("-nographic", "-serial", "null", "-monitor", "none")
        semihosting = ("-semihosting-config", "enable=on,target=native")
        command = (qemu, *machine, *quiet, *semihosting, "-kernel", str(firmware.path))
        return QemuDevice(program, firmware, command, self.machine.tick_instructions)

    def building(self, ram: int | None) -> str:
        return building(self._firmware(ram))

    def write_start(
        self, program: Program, folder: Path, sources: Sources, ram: int | None
    ) -> None:
        write_firmware(folder, sources, self._firmware(ram))

    def _firmware(self, ram: int | None) -> Firmware:
        """Return how firmware is made for the board, or one with so much RAM."""
        board, memory = self.board, self.memory
        if board is not None:
            memory = MemoryMap(board.flash, board.ram, board.chip.boot)
        if ram is not None:
            memory = replace(memory, ram=replace(memory.ram, size=ram))
        emulator = MemoryMap(
            Region(self.machine.code, _EMULATED_BYTES), Region(self.machine.ram, _EMULATED_BYTES)
        )
        return Firmware(
            board=f"a {self.name}" if board is None else board.title,
            memory=memory,
            cpu=(*self.gcc_cpu, *_GCC_ABI),
            clang=("-target", _CLANG_ABI, f"-mcpu={self.zig_cpu}"),
            emulator=emulator,
            machine=self.machine.name,
            cached=self.cached,
            note="" if board is None else board.note,
        )


# not UC_MODE_MCLASS: with it the CPU model has no effect
_UNICORN = Registers(
    architecture="ARM",
    mode="THUMB",
    constants="arm",
    stack="SP",
    link="LR",
    first="R0",
    second="R1",
    third="R2",
    counter="count_thumb",
    fpu=(("FPEXC", 0x40000000),),
)

_HARNESS_BYTES = 1 << 20  # below the flash
_HARNESS = """\
void Reset_Handler(void);
void Fault_Handler(void);
/* 0 to 15: the stack, the start, and faults */
#define FOUR(x) (void *)(x), (void *)(x), (void *)(x), (void *)(x)
__attribute__((section(".vectors"), used)) void *const vectors[16] = {
    stack_top,           (void *)Reset_Handler, (void *)Fault_Handler, (void *)Fault_Handler,
    FOUR(Fault_Handler), FOUR(Fault_Handler),   FOUR(Fault_Handler)};
HARNESS("data") uint8_t own_stack[2048] __attribute__((aligned(8))) = {1};

/* The debugger's files, named by the processor's call for one. */
HARNESS("code") int32_t ask(int32_t what, const void *with) {
    register int32_t r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = with;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

HARNESS("data") int32_t files[2] = {-1, -1};

HARNESS("code") void quit(uint32_t status) {
    const uint32_t block[2] = {0x20026, status};
    ask(0x20, block);
    for (;;) {
    }
}

HARNESS("code") void move(int32_t way, void *memory, uint32_t size) {
    HARNESS("text") static const char names[2][8] = {"call", "done"};
    if (files[way] < 0) {
        const uint32_t block[3] = {(uint32_t)names[way], way ? 5 : 1, 4};
        files[way] = ask(1, block);
    }
    const uint32_t block[3] = {(uint32_t)files[way], (uint32_t)memory, size};
    if (ask(way ? 5 : 6, block)) quit(2);
}

#define take(memory, size) move(0, memory, size)
#define give(memory, size) move(1, memory, size)
#define TIMER ((volatile uint32_t *)TIMER_ADDRESS)
#define ticks() (0xFFFFFFFFu - TIMER[1])

__asm__(".section .harness.code,\\"ax\\",%progbits\\n.balign 4\\n.thumb_func\\n.global call\\n"
        ".type call,%function\\ncall:\\n"
        "push {r4, lr}\\nmov r4, sp\\nmov sp, r0\\nmov r12, r1\\nmov r0, r2\\nmov r1, r3\\n"
        "ldr r2, =camera\\nblx r12\\nmov sp, r4\\npop {r4, pc}\\n"
        ".ltorg\\n.size call, . - call\\n.text\\n");

void harness(void);
HARNESS("code") void started(void) {
    *(volatile uint32_t *)0xE000ED88 = 0xF << 20; /* the FPU is on */
    __asm__ volatile("dsb\\nisb" ::: "memory");
    TIMER[1] = TIMER[2] = 0xFFFFFFFFu;
    TIMER[0] = 1;
    harness();
    quit(0);
}

HARNESS("code") __attribute__((naked)) void Reset_Handler(void) {
    __asm__ volatile("ldr r0, =own_stack + 2048\\nmov sp, r0\\nb started\\n.ltorg");
}

HARNESS("code") void Fault_Handler(void) { quit(3); }
"""
