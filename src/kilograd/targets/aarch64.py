"""64-bit Arm: what runs on a Raspberry Pi or a phone."""

from __future__ import annotations

from dataclasses import dataclass

from kilograd.emit import Program
from kilograd.errors import InputError, option
from kilograd.targets.elf import ElfFile, ElfTarget, Harness
from kilograd.targets.qemu import QemuDevice, find_qemu
from kilograd.targets.target import CrossCompiler, Device, Emulator
from kilograd.targets.toolchain import Compiler, zig
from kilograd.targets.unicorn import Registers, UnicornDevice


@dataclass(frozen=True, kw_only=True)
class AArch64(ElfTarget):
    """A processor, as ziglang, unicorn and QEMU call it."""

    zig_cpu: str
    unicorn_cpu: str
    qemu_cpu: str

    @property
    def make(self) -> str:
        return "make CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar"

    @property
    def harness(self) -> Harness:
        return _HARNESS

    def cross_compiler(self) -> Compiler:
        if self.compiler is CrossCompiler.GCC:
            raise InputError(f"{option('compiler')} gcc: {self.name} is compiled by clang only")
        machine = ("-target", "aarch64-freestanding", f"-mcpu={self.zig_cpu}")
        sections = ("-ffunction-sections", "-fdata-sections", "-fno-unwind-tables")
        return zig(self.name, (*machine, "-O3", "-g0", *sections, "-static"))

    def start(self, program: Program, firmware: ElfFile) -> Device:
        if self.emulator is Emulator.UNICORN:
            return UnicornDevice(program, firmware, _UNICORN, self.unicorn_cpu)
        qemu = find_qemu("qemu-aarch64", "qemu-user")
        return QemuDevice(program, firmware, (qemu, "-cpu", self.qemu_cpu, str(firmware.path)))


_UNICORN = Registers(
    architecture="ARM64",
    mode="ARM",
    constants="arm64",
    stack="SP",
    link="X30",
    first="X0",
    second="X1",
    third="X2",
    counter="count_words",
    fpu=(("CPACR_EL1", 3 << 20),),
)

_HARNESS = Harness(
    origin=0x00080000,
    flash=0x00100000,
    ram=0x20000000,
    entry="_start",
    source="""\
static inline long ask(long what, long a, long b, long c) {
    register long x8 __asm__("x8") = what, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}

HARNESS("code") void move(long file, void *memory, long size) {
    while (size) {
        const long n = ask(file ? 64 : 63, file, (long)memory, size); /* write or read */
        if (n <= 0) ask(93, 2, 0, 0);                                  /* exit */
        memory = (char *)memory + n;
        size -= n;
    }
}

#define take(memory, size) move(0, memory, size)
#define give(memory, size) move(1, memory, size)
#define ticks() 0u

__asm__(".section .harness.code,\\"ax\\",%progbits\\n.balign 4\\n.global call\\n"
        ".type call,%function\\ncall:\\n"
        "stp x19, x30, [sp, #-16]!\\nmov x19, sp\\nmov sp, x0\\nmov x9, x1\\nmov x0, x2\\n"
        "mov x1, x3\\nldr x2, =camera\\nblr x9\\nmov sp, x19\\nldp x19, x30, [sp], #16\\nret\\n"
        ".ltorg\\n.size call, . - call\\n.text\\n");

void harness(void);
HARNESS("code") void _start(void) {
    harness();
    ask(93, 0, 0, 0);
}
""",
)
