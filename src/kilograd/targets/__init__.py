"""Where programs run: one value a target, and how to build, run and measure there."""

from kilograd.targets.cortex import (
    CORTEX_M4,
    CORTEX_M7,
    CORTEX_TARGETS,
    Cortex,
    Firmware,
    build_cortex,
    export_project,
)
from kilograd.targets.host import HostProgram, build_host
from kilograd.targets.measure import Measurement, measure
from kilograd.targets.runner import Runner

__all__ = [
    "CORTEX_M4",
    "CORTEX_M7",
    "CORTEX_TARGETS",
    "Cortex",
    "Firmware",
    "HostProgram",
    "Measurement",
    "Runner",
    "build_cortex",
    "build_host",
    "export_project",
    "measure",
]
