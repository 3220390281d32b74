"""Cycles for an instruction: llvm-mca's model of a core on the blocks that a training step runs.

    python benchmarks/cycles.py mcunet-5fps sparse-49kb

The step of a program runs in an emulator, which tells how often each basic block begins; the blocks
that make up 98 % of its instructions go to `llvm-mca`, as loops, and their cycles are weighted by
how often they run.  The model knows pipelines and latencies; it assumes that memory answers from
the first cache and that branches are foretold.  Needs `llvm-mca` and `llvm-objdump` (LLVM 14 or
later), and the model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rows import head, line
from script import script
from shared import compiled

from kilograd.emit import Program
from kilograd.targets import AARCH64, CORTEX_M7, Driver
from kilograd.targets.elf import ElfTarget, build_elf
from kilograd.targets.unicorn import UnicornDevice

COVERED, TURNS = 0.98, 100


@dataclass(frozen=True)
class Core:
    """A core that llvm-mca has a model of, and the target whose code it runs."""

    name: str
    target: ElfTarget
    triple: str


CORES = (
    Core("cortex-m7", CORTEX_M7, "thumbv7em-none-eabihf"),
    Core("cortex-a53", AARCH64, "aarch64"),
    Core("cortex-a57", AARCH64, "aarch64"),
)


def tool(name: str) -> str:
    """Return where a tool of LLVM is, or stop with a sentence."""
    for version in ("", *(f"-{v}" for v in range(30, 13, -1))):
        if found := shutil.which(f"{name}{version}"):
            return found
    sys.exit(f"{name}: not found; install LLVM (apt install llvm)")


def blocks(device: UnicornDevice, size: int) -> Counter[tuple[int, int]]:
    """Run a step on noise; return how often each block (address, bytes) began."""
    import unicorn

    found: Counter[tuple[int, int]] = Counter()
    device._emulator.hook_add(  # noqa: SLF001  nobody else has a use for it
        unicorn.UC_HOOK_BLOCK, lambda uc, address, size, user: found.update([(address, size)])
    )
    driver, rng = Driver(device), np.random.default_rng(0)
    image = rng.integers(-128, 128, (size, size, 3)).astype(np.int8)
    driver.enrol([(driver.show(image), np.zeros((), np.int32))])
    found.clear()
    one = [(driver.show(image), np.zeros((), np.int32))]
    list(driver.update(one, [], share=1.0, rate=0.001, clock=(0, 0)))
    return found


def listing(file: Path) -> dict[int, str]:
    """Return the instructions of an ELF file by address, as llvm-mca reads them."""
    text = subprocess.run(
        [tool("llvm-objdump"), "-d", "--no-show-raw-insn", str(file)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = {}
    for row in text.splitlines():
        if match := re.match(r"\s*([0-9a-f]+):\s+(.*)", row):
            found[int(match[1], 16)] = re.sub(r"\s*<.*?>|\s*[@;/].*$", "", match[2])
    return found


def cycles(core: Core, program: Program, size: int) -> tuple[float, float]:
    """Return cycles for an instruction of a step, and the share of its instructions modelled."""
    firmware = build_elf(program, core.target, None)
    device = core.target.start(program, firmware)
    assert isinstance(device, UnicornDevice)
    code, executed = listing(firmware.path), Counter[tuple[str, ...]]()
    for (address, length), times in blocks(device, size).items():
        inside = tuple(code[a] for a in range(address, address + length) if a in code)
        executed[inside] += times * len(inside)
    total, left, seen, spent = executed.total(), executed.total(), 0, 0.0
    for inside, count in executed.most_common():
        if left <= (1 - COVERED) * total:
            break
        left -= count
        if (turn := modelled(core, inside)) is not None:
            seen += count
            spent += count * turn / len(inside)
    return spent / seen, seen / total


def modelled(core: Core, inside: tuple[str, ...]) -> float | None:
    """Return the cycles of a turn of a loop; None for what the model does not know, as IT."""
    local = [re.sub(r"\b0x[0-9a-f]+$", "end", text) for text in inside]
    out = subprocess.run(
        [tool("llvm-mca"), f"-mtriple={core.triple}", f"-mcpu={core.name}", f"-iterations={TURNS}"],
        input="\n".join([*local, "end:"]) + "\n",
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"Total Cycles:\s+(\d+)", out)
    return int(found[1]) / TURNS if found else None


def main() -> None:
    """Print a table."""
    network, method = sys.argv[1:3]
    made = compiled(network, method)
    print(head("core", "cycles for an instruction", "instructions seen", texts=1))
    for core in CORES:
        each, share = cycles(core, made.program, made.network.preprocess.size)
        print(line(core.name, f"{each:.2f}", f"{share:.1%}"), flush=True)


if __name__ == "__main__":
    script(main)
