"""Where programs run: one value a target, and how to build, run and measure there."""

from kilograd.emit.firmware import MemoryMap
from kilograd.targets.aarch64 import AArch64
from kilograd.targets.cortex import Cortex, Machine
from kilograd.targets.driver import Driven, Driver, Sample, Shown
from kilograd.targets.elf import ElfTarget
from kilograd.targets.estimate import Seconds, estimated, seconds
from kilograd.targets.footprint import Footprint, check_flash, footprint
from kilograd.targets.host import HostProgram, build_host
from kilograd.targets.known import (
    AARCH64,
    CORTEX_M4,
    CORTEX_M7,
    CORTEX_M33,
    TARGETS,
    WASM32,
    chosen_target,
    find_target,
    target_of,
)
from kilograd.targets.measure import Measurement, measure
from kilograd.targets.runner import RefusedError, Runner, Status
from kilograd.targets.target import CrossCompiler, Device, Emulator, Target
from kilograd.targets.wasm import Wasm

__all__ = [
    "AARCH64",
    "CORTEX_M4",
    "CORTEX_M7",
    "CORTEX_M33",
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
    "Footprint",
    "HostProgram",
    "Machine",
    "Measurement",
    "MemoryMap",
    "RefusedError",
    "Runner",
    "Sample",
    "Seconds",
    "Shown",
    "Status",
    "Target",
    "Wasm",
    "build_host",
    "check_flash",
    "chosen_target",
    "estimated",
    "find_target",
    "footprint",
    "measure",
    "seconds",
    "target_of",
]
