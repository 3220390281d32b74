"""Where programs run: one value a target, and how to build, run and measure there."""

from kilograd.targets.host import HostProgram, build_host

__all__ = ["HostProgram", "build_host"]
