"""What a program needs and does on a target, beside the same program on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kilograd.emit import Program
from kilograd.ir import Array
from kilograd.passes import UPDATE, EntryPoint
from kilograd.progress import Progress, silent
from kilograd.targets.driver import Driver, Sample
from kilograd.targets.host import HostProgram, build_host
from kilograd.targets.target import Device, Target


@dataclass(frozen=True)
class Measurement:
    """Bytes as the linker and the painted stack say, counts as the emulator does.

    `instructions_prefix` is None without a cut; with one, a step does not run the prefix.
    `ram_bytes` is static data and the stack that this run used; `ram_bound_bytes` has the most
    stack that any can, `ram_without_stack_bytes` is state and arena.  `flash_bytes` is all of it,
    `tables_bytes` weights, scales and first values.
    `stack_bound_bytes` is the most that any path through the program can use, None where the
    code cannot be read; what functions in `unresolved` call through pointers comes on top.
    `instructions_step` is the mean over the steps, with what an update takes where it is a call of
    its own, None where nothing learns.  Both counts are
    None where the emulator cannot count; `counted` says what they count.
    `bit_exact`: after every call, all that the program returns and keeps equals that of this
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
    ram_bound_bytes: int | None
    ram_without_stack_bytes: int
    flash_bytes: int
    tables_bytes: int
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
    progress: Progress = silent,
) -> Measurement:
    """Run some training steps on random images, on the target and here, and compare.

    `ram` is that of a board; without, there is what the program needs.  Raises `InputError`
    where the cross compiler or the emulator is missing, or the program does not fit.
    """
    device = target.build(program, ram)
    both = _Both(device, build_host(program))
    _exercise(both, steps, seed, progress)
    bound = device.stack_bound
    ram_bytes = device.sizes.data_bss_bytes + device.stack_bytes
    return Measurement(
        target=target.name,
        tools=target.tools,
        arena_bytes=program.arena_bytes,
        data_bss_bytes=device.sizes.data_bss_bytes,
        stack_bytes=device.stack_bytes,
        stack_bound_bytes=None if bound is None else bound.bytes,
        unresolved=() if bound is None else bound.unresolved,
        ram_bytes=ram_bytes,
        ram_bound_bytes=None if bound is None else device.sizes.data_bss_bytes + bound.bytes,
        ram_without_stack_bytes=program.sram_bytes,
        flash_bytes=device.sizes.flash_bytes,
        tables_bytes=program.flash_bytes,
        counted=target.counted,
        instructions_forward=both.last(EntryPoint.INFER),
        instructions_prefix=both.last(EntryPoint.PREFIX),
        instructions_step=both.mean_update(),
        steps=len(both.counts[EntryPoint.STEP]),
        bit_exact=both.same,
    )


class _Both:
    """A device and this machine as one: both make every call, and what they leave is compared."""

    def __init__(self, device: Device, host: HostProgram) -> None:
        self._device, self._host = device, host
        self.program = host.program
        self.same = True
        self.counts: defaultdict[str, list[int | None]] = defaultdict(list)

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        there, here = self._device.call(entry, **inputs), self._host.call(entry, **inputs)
        self.same &= _equal(there, here) and _equal(self._device.state, self._host.state)
        self.counts[entry].append(self._device.instructions)
        return here

    def last(self, entry: EntryPoint) -> int | None:
        """Return the count of the last call; None where there was none, or nothing counts."""
        return self.counts[entry][-1] if self.counts[entry] else None

    def mean_update(self) -> int | None:
        """Return the mean count of an update of one sample, all its calls together."""
        counts = [n for phase in UPDATE for n in self.counts[phase.entry] if n is not None]
        return round(sum(counts) / len(self.counts[EntryPoint.STEP])) if counts else None


def _equal(there: Mapping[str, Array], here: Mapping[str, Array]) -> bool:
    return all(np.array_equal(there[name], value) for name, value in here.items())


def _exercise(both: _Both, steps: int, seed: int, progress: Progress) -> None:
    """Enrol, update after each of some samples, and infer, with random images."""
    infer = both.program.entries[EntryPoint.INFER].graph
    (image,) = infer.inputs()
    ways = infer.outputs[0].type.size
    driver, rng = Driver(both), np.random.default_rng(seed)

    def picture() -> Array:
        return rng.integers(-128, 128, image.type.shape).astype(np.int8)

    def sample(label: int) -> Iterator[Sample]:
        yield driver.show(picture()), np.array([label])

    driver.enrol(sample(0))
    for step in range(steps if EntryPoint.STEP in both.program.entries else 0):
        label = step % ways
        group, support, clock = sample(label), sample(label), (seed, step)
        for _ in driver.update(group, support, share=1, rate=0.01, clock=clock, seen=step):
            pass
        progress(step + 1, steps, "")
    driver.infer(picture())
