"""What a program needs and does on a target, beside the same program on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kilograd.emit import Program
from kilograd.ir import Array
from kilograd.targets.host import build_host
from kilograd.targets.target import Target


@dataclass(frozen=True)
class Measurement:
    """Bytes as the linker and the painted stack say, counts as the emulator does.

    `instructions_prefix` is None without a cut; with one, a step does not run the prefix.
    `ram_bytes` is static data and stack: all the RAM there is.
    `stack_bound_bytes` is the most that any path through the program can use, None where the
    code cannot be read; what functions in `unresolved` call through pointers comes on top.
    `instructions_step` is the mean over the steps, with what an update takes where it is a call of
    its own, None where nothing learns.  Both counts are
    None where the emulator cannot count; `counted` says what they count.
    `bit_exact`: every loss, and at the end all that the program keeps, equal those of this
    machine.
    """

    target: str
    tools: str
    arena_bytes: int
    data_bss_bytes: int
    stack_bytes: int
    stack_bound_bytes: int | None
    unresolved: tuple[str, ...]
    ram_bytes: int
    flash_bytes: int
    counted: str
    instructions_forward: int | None
    instructions_prefix: int | None
    instructions_step: int | None
    steps: int
    bit_exact: bool


def measure(
    program: Program,
    target: Target,
    steps: int = 20,
    seed: int = 0,
    ram: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Measurement:
    """Run some training steps on random images, on the target and here, and compare.

    `ram` is that of a board; without, there is what the program needs.  Raises `InputError`
    where the cross compiler or the emulator is missing, or the program does not fit.
    """
    device, host = target.build(program, ram), build_host(program)
    rng = np.random.default_rng(seed)
    infer = program.entries["infer"].graph
    (image,) = infer.inputs()
    ways = infer.outputs[0].type.size

    def both(entry: str, **inputs: Array) -> bool:
        there, here = device.call(entry, **inputs), host.call(entry, **inputs)
        return all(np.array_equal(there[name], here[name]) for name in here)

    def picture() -> Array:
        return rng.integers(-128, 128, image.type.shape).astype(np.int8)

    same = True
    prefix: int | None = None

    def shown() -> dict[str, Array]:
        """Return what steps read of a picture: itself or, with a cut, what the prefix leaves."""
        if "prefix" not in program.entries:
            return {image.name: picture()}
        nonlocal same, prefix
        given = {image.name: picture()}
        same &= both("prefix", **given)
        prefix = device.instructions
        return host.call("prefix", **given)

    if "enrol" in program.entries:
        same &= both("enrol", **shown(), label=np.array([0]))
    counts: list[int | None] = []
    for step in range(steps if "step" in program.entries else 0):
        label = np.array([step % ways])
        if "apply" in program.entries:
            same &= both("step", **shown(), label=label, share=np.array([1.0]))
            spent = device.instructions or 0
            if "enrol_grad" in program.entries:
                same &= both("enrol_grad", **shown(), label=label)
                spent += device.instructions or 0
            same &= both("apply", lr=np.array([0.01]), clock=np.array([seed, step]))
            counts.append(None if device.instructions is None else spent + device.instructions)
        else:
            clock = np.array([seed, step])
            same &= both("step", **shown(), label=label, lr=np.array([0.01]), clock=clock)
            counts.append(device.instructions)
        progress(step + 1)
    same &= both("infer", **{image.name: picture()})
    forward = device.instructions
    same &= all(np.array_equal(device.state[k], v) for k, v in host.state.items())
    counted = [c for c in counts if c is not None]
    bound = device.stack_bound
    return Measurement(
        target=target.name,
        tools=target.tools,
        arena_bytes=program.arena_bytes,
        data_bss_bytes=device.sizes.data_bss_bytes,
        stack_bytes=device.stack_bytes,
        stack_bound_bytes=None if bound is None else bound.bytes,
        unresolved=() if bound is None else bound.unresolved,
        ram_bytes=device.sizes.data_bss_bytes + device.stack_bytes,
        flash_bytes=device.sizes.flash_bytes,
        counted=target.counted,
        instructions_forward=forward,
        instructions_prefix=prefix,
        instructions_step=round(float(np.mean(counted))) if counted else None,
        steps=len(counts),
        bit_exact=bool(same),
    )
