"""Instructions on an emulated Cortex-M: layers of mcunet-5fps alone, whole steps by kernel.

    python benchmarks/instructions.py [--target NAME] | \
        python benchmarks/fill.py docs/results/studies/instructions.md

Instructions are counted exactly; they are not cycles.  The page is about the Cortex-M7.
Needs the model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile
from rows import grouped, head, line
from script import script
from shared import compiled, load_network
from unicorn import UC_HOOK_BLOCK
from unicorn.unicorn_py3.unicorn import uclib

from kilograd.emit import Program, link
from kilograd.ir import Array, Builder, Graph, Leaf, Node
from kilograd.ops import (
    Add,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    Depthwise,
    DepthwiseInputGrad,
    DepthwiseWeightGrad,
    RowUpdate,
)
from kilograd.passes import EntryPoint
from kilograd.quant import Rounding
from kilograd.settings import HeadKind
from kilograd.targets import CORTEX_M7, TARGETS, Cortex, Driver
from kilograd.targets.elf import FLASH_BYTES, ElfFile, build_elf
from kilograd.targets.toolchain import find_compiler
from kilograd.targets.unicorn import UnicornDevice

NETWORK, METHOD = "mcunet-5fps", "sparse-49kb"
STEPS = 3

PROFILER = """
#include <stdint.h>
/* `owner`: for each half word of flash, who is charged from there on, or 0: as before. */
struct profile { const uint8_t *flash, *owner; uint64_t base, current, by_owner[256]; };
void profile_block(void *emulator, uint64_t address, uint32_t size, struct profile *p) {
    const uint64_t at = address - p->base;
    uint64_t count = 0;
    (void)emulator;
    for (uint64_t i = at; i < at + size; count++)
        i += (p->flash[i + 1] >> 3) >= 0x1D ? 4 : 2;
    if (p->owner[at / 2]) p->current = p->owner[at / 2];
    p->by_owner[p->current] += count;
}
"""


class _Profile(ctypes.Structure):
    _fields_ = (
        ("flash", ctypes.c_char_p),
        ("owner", ctypes.c_void_p),
        ("base", ctypes.c_uint64),
        ("current", ctypes.c_uint64),
        ("by_owner", ctypes.c_uint64 * 256),
    )


@dataclass(frozen=True)
class Function:
    """A C function of the firmware; static ones may share a name."""

    name: str
    offset: int  # in flash
    size: int


def functions(elf: ElfFile) -> list[Function]:
    """Return the functions of an ELF file."""
    base = elf.harness.flash
    with elf.path.open("rb") as f:
        return [
            Function(s.name, (s["st_value"] & ~1) - base, s["st_size"])
            for s in ELFFile(f).get_section_by_name(".symtab").iter_symbols()
            if s["st_info"]["type"] == "STT_FUNC" and s["st_value"] >= base
        ]


def loaded(program: Program, target: Cortex) -> UnicornDevice:
    """Return a program in the emulator."""
    device = target.build(program)
    assert isinstance(device, UnicornDevice)
    return device


class Profiler:
    """Charges every instruction of a firmware to a kernel."""

    def __init__(self, program: Program, target: Cortex) -> None:
        self._elf = build_elf(program, target)
        self.firmware = loaded(program, target)
        kernels = {
            n.op.kernel(n).symbol for e in program.entries.values() for n in computed(e.graph)
        }
        kernels |= {"kg_conv", "kg_depthwise", "kg_add"}  # inside streams
        callers = {f"model_{e}" for e in program.entries} | {"kg_stream"}
        self.names = ["program", *sorted(kernels)]
        self.owner = np.zeros(FLASH_BYTES // 2, np.uint8)
        for f in functions(self._elf):
            at = f.offset // 2
            if f.name in callers:  # control comes back to them in the middle
                owner = self.names.index(f.name) if f.name in kernels else 255
                self.owner[at : at + f.size // 2] = owner
            elif f.name in kernels:
                self.owner[at] = self.names.index(f.name)
        self._hook()

    def _hook(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "profile.c").write_text(PROFILER, encoding="utf-8")
            find_compiler().compile(Path(name), "-fPIC", "-shared", "profile.c", "-o", "profile.so")
            self._library = ctypes.CDLL(f"{name}/profile.so")
        self._profile = _Profile(
            flash=self._elf.flash, owner=self.owner.ctypes.data, base=self._elf.harness.flash
        )
        hook = ctypes.c_size_t()
        status = uclib.uc_hook_add(
            self.firmware._emulator._uch,  # noqa: SLF001 a hook in Python would be fifty times slower
            ctypes.byref(hook),
            UC_HOOK_BLOCK,
            ctypes.cast(self._library.profile_block, ctypes.c_void_p),
            ctypes.byref(self._profile),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )
        assert not status

    def clear(self) -> None:
        """Forget what was counted."""
        ctypes.memset(self._profile.by_owner, 0, ctypes.sizeof(self._profile.by_owner))

    def by_kernel(self) -> dict[str, int]:
        """Instructions by kernel."""
        counts = dict(zip(self.names, self._profile.by_owner, strict=False))
        counts["program"] += self._profile.by_owner[255]
        return {k: v for k, v in sorted(counts.items(), key=lambda x: -x[1]) if v}


def computed(graph: Graph) -> list[Node]:
    """Return the nodes that are calls."""
    return [n for n in graph.nodes if not isinstance(n.op, Leaf) and not n.op.view]


# ---- layers alone ----


@dataclass(frozen=True)
class Layer:
    """What makes two layers the same to a kernel."""

    part: str  # forward, dX, dW and update
    kind: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int


def layer_of(n: Node) -> Layer | None:
    """Describe a node; None for what is no layer."""
    match n.op:
        case Conv(window=window) | Depthwise(window=window):
            part, x, y, w = "forward", n.inputs[0].type, n.type, n.inputs[1].type
        case ConvInputGrad(window=window) | DepthwiseInputGrad(window=window):
            part, x, y, w = "dX", n.type, n.inputs[0].type, n.inputs[1].type
        case RowUpdate(grad=(ConvWeightGrad() | DepthwiseWeightGrad()) as grad):
            part, window = "dW and update", grad.window
            w, x, y = (i.type for i in n.inputs[:3])
        case _:
            return None
    depthwise = len(w.shape) == 3
    kernel = w.shape[:2] if depthwise else w.shape[1:3]
    size = "x".join(map(str, kernel))
    return Layer(
        part, f"depthwise {size}" if depthwise else size, x.shape, y.shape, kernel, window.stride[0]
    )


def alone(n: Node, name: str, rng: np.random.Generator) -> Graph:
    """Return a graph of one node: random weights and biases as constants, all else as inputs."""
    b = Builder()
    inputs = []
    for i, x in enumerate(n.inputs):
        constant = i and isinstance(n.op, Conv | Depthwise | ConvInputGrad | DepthwiseInputGrad)
        if i in n.op.writes:
            value = np.zeros(x.type.shape, x.type.dtype.numpy)
        elif constant:
            value = rng.integers(-100, 100, x.type.shape).astype(x.type.dtype.numpy)
        else:
            inputs.append(b.input(f"{name}_{i}", x.type))
            continue
        inputs.append(b.param(f"{name}_{i}", value, x.type.affine))
    return b.graph(b(n.op, *inputs, name=f"{name}_y"))


def feeds(graph: Graph, rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Yield random inputs; every element of a gradient counts."""
    for n in graph.inputs():
        kind = n.type.dtype.numpy
        if kind == np.float32:
            yield n.name, np.array([0.01], np.float32)
        elif kind == np.int16:
            yield n.name, rng.integers(1, 1 << 12, n.type.shape).astype(np.int16)
        else:
            yield n.name, rng.integers(-100, 100, n.type.shape).astype(kind)


@dataclass(frozen=True)
class Cost:
    """How often a network has a layer, and what one costs."""

    layer: Layer
    times: int
    macs: int
    instructions: int


def layers(target: Cortex) -> list[Cost]:
    """Measure every distinct layer of the network, forwards and where everything learns."""
    step = compiled(NETWORK, "full", HeadKind.LINEAR).program.entries[EntryPoint.STEP].graph
    backward = (n for n in step.nodes if not isinstance(n.op, Conv | Depthwise))
    found = grouped([*load_network(NETWORK).graph.nodes, *backward], layer_of)
    same = [(layer, nodes) for layer, nodes in found.items() if layer]
    rng = np.random.default_rng(0)
    program = link({f"layer{i}": alone(n, f"layer{i}", rng) for i, (_, (n, *_)) in enumerate(same)})
    firmware = loaded(program, target)
    out = []
    for i, (layer, nodes) in enumerate(same):
        firmware.call(f"layer{i}", **dict(feeds(program.entries[f"layer{i}"].graph, rng)))
        macs = nodes[0].op.macs(nodes[0])
        out.append(Cost(layer, len(nodes), macs, firmware.instructions or 0))
    return out


def layer_tables(costs: list[Cost]) -> Iterator[str]:
    """Yield a table of totals by kind of layer, and one of all layers."""
    groups = grouped(costs, lambda c: (c.layer.part, c.layer.kind))
    names = "MAC", "instructions"
    sums = (*(f"million {name}" for name in names), "MAC per instruction")
    yield head("what", "layer", "count", *sums, texts=6)
    for part, whole in grouped(costs, lambda c: c.layer.part).items():
        for (p, kind), group in groups.items():
            if p == part:
                yield total(part, kind, group)
        yield total(part, "**all**", whole)
    yield ""
    shape = "what", "layer", "stride", "from", "to", "count"
    yield head(*shape, *names, "MAC per instruction", texts=9)
    for (part, kind), group in groups.items():
        for c in group:
            sizes = ("x".join(map(str, shape)) for shape in (c.layer.x, c.layer.y))
            rate = f"{c.macs / c.instructions:.2f}"
            each = f"{c.macs:,}", f"{c.instructions:,}", rate
            yield line(part, kind, c.layer.stride, *sizes, c.times, *each)


def total(part: str, kind: str, group: list[Cost]) -> str:
    """Return a row with the sums over a group, each layer as often as the network has it."""
    macs = sum(c.times * c.macs for c in group)
    instructions = sum(c.times * c.instructions for c in group)
    sums = macs / 1e6, instructions / 1e6, macs / instructions
    return line(part, kind, sum(c.times for c in group), *(f"{x:.2f}" for x in sums))


# ---- rounding and limits ----

ROUNDINGS: tuple[tuple[str, Rounding, tuple[int, int]], ...] = (
    ("nearest", Rounding.NEAREST, (-128, 127)),
    ("with limits", Rounding.NEAREST, (-128, 90)),
    ("TFLite's", Rounding.TFLITE, (-128, 127)),
    ("with limits", Rounding.TFLITE, (-128, 90)),
)


def rounding_table(target: Cortex) -> Iterator[str]:
    """Yield what all layers and sums of the network take, each of them alone, by rounding."""
    nodes = load_network(NETWORK).graph.nodes
    yield head("million instructions", *(name for name, *_ in ROUNDINGS), texts=5)
    for kind in (Conv, Depthwise, Add):
        same = [n for n in nodes if isinstance(n.op, kind)]
        sums = (sum(forward(same, target, *how)) / 1e6 for _, *how in ROUNDINGS)
        yield line(f"`{kind.__name__}`", *(f"{x:.2f}" for x in sums))


def forward(
    nodes: list[Node], target: Cortex, rounding: Rounding, limits: tuple[int, int]
) -> Iterator[int]:
    """Yield the instructions of each node, rounded so and with such limits."""
    rng = np.random.default_rng(0)
    made = [replace(n, op=replace(n.op, rounding=rounding, limits=limits)) for n in nodes]  # type: ignore[type-var]
    program = link({f"layer{i}": alone(n, f"layer{i}", rng) for i, n in enumerate(made)})
    firmware = loaded(program, target)
    for entry, e in program.entries.items():
        firmware.call(entry, **dict(feeds(e.graph, rng)))
        yield firmware.instructions or 0


# ---- whole programs ----


def noise(rng: np.random.Generator) -> Array:
    """Return a random image."""
    return rng.integers(-128, 128, (128, 128, 3)).astype(np.int8)


def run_steps(profiler: Profiler, rng: np.random.Generator) -> None:
    """Run some training steps, of random images, and count them all."""
    driver = Driver(profiler.firmware)
    for step in range(STEPS):
        sample = driver.show(noise(rng)), np.array([step])
        list(driver.update([sample], share=1, rate=0.01, clock=(0, step)))


def program_table(what: str, counts: dict[str, int], times: int) -> Iterator[str]:
    """Yield instructions by kernel."""
    every = sum(counts.values())
    yield head(f"kernel, {what}", "million instructions", "share", texts=3)
    for kernel, count in counts.items():
        yield line(f"`{kernel}`", f"{count / times / 1e6:.2f}", f"{count / every:.1%}")
    yield f"| **all** | {every / times / 1e6:.2f} | |"


def tables(target: Cortex) -> Iterator[str]:
    """Yield everything that is measured, as Markdown."""
    yield from layer_tables(layers(target))
    yield ""
    profiler = Profiler(compiled(NETWORK, METHOD, HeadKind.LINEAR).program, target)
    rng = np.random.default_rng(0)
    profiler.clear()
    Driver(profiler.firmware).infer(noise(rng))
    yield from program_table("forward pass", profiler.by_kernel(), 1)
    yield ""
    profiler.clear()
    run_steps(profiler, rng)
    yield from program_table("training step", profiler.by_kernel(), STEPS)
    yield ""
    yield from rounding_table(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    processors = {t.name: t for t in TARGETS if isinstance(t, Cortex)}
    parser.add_argument("--target", choices=processors, default=CORTEX_M7.name)
    for text in tables(processors[parser.parse_args().target]):
        print(text, flush=True)


if __name__ == "__main__":
    script(main)
