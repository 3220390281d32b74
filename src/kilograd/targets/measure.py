"""What a program needs and does on a target, beside the same program on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kilograd.emit import Program
from kilograd.ir import Array
from kilograd.targets.cortex import Cortex, build_cortex
from kilograd.targets.host import build_host


@dataclass(frozen=True)
class Measurement:
    """Bytes as the linker and the painted stack say, exact instruction counts.

    `ram_bytes` is static data and stack: all the RAM there is.  `instructions_step` is the mean
    over the steps; 0 where nothing learns.  `bit_exact`: every loss, and at the end all that the
    program keeps, equal those of this machine.
    """

    target: str
    arena_bytes: int
    data_bss_bytes: int
    stack_bytes: int
    ram_bytes: int
    flash_bytes: int
    instructions_forward: int
    instructions_step: int
    steps: int
    bit_exact: bool


def measure(
    program: Program,
    target: Cortex,
    steps: int = 20,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Measurement:
    """Run some training steps on random images, on the target and here, and compare.

    Raises `InputError` where the cross compiler or the emulator is missing.
    """
    firmware, host = build_cortex(program, target), build_host(program)
    rng = np.random.default_rng(seed)
    infer = program.entries["infer"].graph
    (image,) = infer.inputs()
    ways = infer.outputs[0].type.size

    def both(entry: str, **inputs: Array) -> bool:
        there, here = firmware.call(entry, **inputs), host.call(entry, **inputs)
        return all(np.array_equal(there[name], here[name]) for name in here)

    def picture() -> Array:
        return rng.integers(-128, 128, image.type.shape).astype(np.int8)

    same = True
    if "enrol" in program.entries:
        same &= both("enrol", image=picture(), label=np.array([0]))
    counts = []
    for step in range(steps if "step" in program.entries else 0):
        label = np.array([step % ways])
        if "apply" in program.entries:
            same &= both("step", image=picture(), label=label, share=np.array([1.0]))
            spent = firmware.instructions
            same &= both("apply", lr=np.array([0.01]), clock=np.array([seed, step]))
            counts.append(spent + firmware.instructions)
        else:
            clock = np.array([seed, step])
            same &= both("step", image=picture(), label=label, lr=np.array([0.01]), clock=clock)
            counts.append(firmware.instructions)
        progress(step + 1)
    same &= both("infer", image=picture())
    forward = firmware.instructions
    same &= all(np.array_equal(firmware.state[k], v) for k, v in host.state.items())
    return Measurement(
        target=target.name,
        arena_bytes=program.arena_bytes,
        data_bss_bytes=firmware.image.data_bss_bytes,
        stack_bytes=firmware.stack_bytes,
        ram_bytes=firmware.image.data_bss_bytes + firmware.stack_bytes,
        flash_bytes=firmware.image.flash_bytes,
        instructions_forward=forward,
        instructions_step=round(float(np.mean(counts))) if counts else 0,
        steps=len(counts),
        bit_exact=bool(same),
    )
