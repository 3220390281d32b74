"""Where programs run: one value a target, and how to build, run and measure there."""

from kilograd.targets.aarch64 import AARCH64, AArch64
from kilograd.targets.cortex import CORTEX_M4, CORTEX_M7, Cortex
from kilograd.targets.driver import Driven, Driver, Sample, Shown
from kilograd.targets.elf import CrossCompiler, ElfTarget, Emulator
from kilograd.targets.host import HostProgram, build_host
from kilograd.targets.measure import Measurement, measure
from kilograd.targets.runner import RefusedError, Runner, Status
from kilograd.targets.target import Device, Target
from kilograd.targets.wasm import WASM32, Wasm

TARGETS = (CORTEX_M7, CORTEX_M4, AARCH64, WASM32)


def find_target(name: str) -> Target:
    """Stub."""
    return next(t for t in TARGETS if t.name == name)


__all__ = [
    "AARCH64",
    "CORTEX_M4",
    "CORTEX_M7",
    "TARGETS",
    "WASM32",
    "AArch64",
    "Cortex",
    "CrossCompiler",
    "Device",
    "Driven",
    "Driver",
    "ElfTarget",
    "Emulator",
    "HostProgram",
    "Measurement",
    "RefusedError",
    "Runner",
    "Sample",
    "Shown",
    "Status",
    "Target",
    "Wasm",
    "build_host",
    "find_target",
    "measure",
]
