"""Cortex-M microcontrollers, whose kernels use the DSP instructions."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from kilograd.emit import Program
from kilograd.emit.project import write_startup
from kilograd.errors import InputError
from kilograd.targets.elf import CrossCompiler, ElfFile, ElfTarget, Emulator, Harness
from kilograd.targets.qemu import QemuDevice, find_qemu
from kilograd.targets.target import Device
from kilograd.targets.toolchain import LANGUAGE, Compiler, zig
from kilograd.targets.unicorn import Registers, UnicornDevice

#: One tick of the timer at 0x40000000, at 25 MHz, when an instruction takes a nanosecond.
TICK_INSTRUCTIONS = 40

_BOARD_RAM = 512 << 10  # what the exported linker script says if nobody knows better

_GCC, _GCC_ABI = "arm-none-eabi-gcc", ("-mthumb", "-mfloat-abi=hard")
_FLAGS = ("-O3", "-g0", "-ffunction-sections", "-fdata-sections", "-static")


@dataclass(frozen=True, kw_only=True)
class Cortex(ElfTarget):
    """A processor, as ziglang, GCC, unicorn and QEMU call it."""

    zig_cpu: str
    gcc_cpu: tuple[str, ...]
    unicorn_cpu: str
    qemu_machine: str
    variant: str | None = "arm_dsp"

    @property
    def make(self) -> str:
        flags = " ".join((*self.gcc_cpu, *_GCC_ABI))
        return f"make libmodel.a CC={_GCC} AR=arm-none-eabi-ar TARGET='{flags}'"

    @property
    def harness(self) -> Harness:
        return _HARNESS

    def cross_compiler(self) -> Compiler:
        if self.compiler is CrossCompiler.CLANG:
            machine = ("-target", "thumb-freestanding-eabihf", f"-mcpu={self.zig_cpu}")
            return zig(self.name, (*machine, *_FLAGS, "-fno-unwind-tables"))
        if shutil.which(_GCC) is None:
            raise InputError(
                f"--compiler gcc: no {_GCC}; "
                f"apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"
            )
        cpu = (*self.gcc_cpu, *_GCC_ABI)
        # sqrt is one instruction where nobody asks for errno
        library = ("-fno-math-errno", "-nostartfiles", "--specs=nano.specs")
        return Compiler((_GCC,), (*cpu, *LANGUAGE, *_FLAGS, *library))

    def start(self, program: Program, firmware: ElfFile) -> Device:
        if self.emulator is Emulator.UNICORN:
            return UnicornDevice(program, firmware, _UNICORN, self.unicorn_cpu)
        qemu = find_qemu("qemu-system-arm", "qemu-system-arm")
        machine = ("-M", self.qemu_machine, "-icount", "shift=0")
        quiet = ("-nographic", "-serial", "null", "-monitor", "none")
        semihosting = ("-semihosting-config", "enable=on,target=native")
        command = (qemu, *machine, *quiet, *semihosting, "-kernel", str(firmware.path))
        return QemuDevice(program, firmware, command, TICK_INSTRUCTIONS)

    def write_start(
        self, program: Program, folder: Path, files: list[Path], ram: int | None
    ) -> None:
        write_startup(program, folder, _BOARD_RAM if ram is None else ram)


#: The FPU must be named: without it ziglang falls back to software floating point.
CORTEX_M7 = Cortex(
    name="cortex-m7",
    zig_cpu="cortex_m7+fp_armv8d16",
    gcc_cpu=("-mcpu=cortex-m7", "-mfpu=fpv5-d16"),
    unicorn_cpu="UC_CPU_ARM_CORTEX_M7",
    qemu_machine="mps2-an500",
)
CORTEX_M4 = Cortex(
    name="cortex-m4",
    zig_cpu="cortex_m4+vfp4d16sp",
    gcc_cpu=("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"),
    unicorn_cpu="UC_CPU_ARM_CORTEX_M4",
    qemu_machine="mps2-an386",
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

_HARNESS = Harness(
    origin=0,
    entry="Reset_Handler",
    source="""\
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
#define TIMER ((volatile uint32_t *)0x40000000)
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
""",
)
