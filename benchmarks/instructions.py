"""Instructions on an emulated Cortex-M: layers of mcunet-5fps alone, whole steps by kernel.

    python benchmarks/instructions.py [--target NAME] [--functions] [--write]

Instructions are counted exactly; they are not cycles.  `--functions` lists the C functions of a
training step with their sizes too, `--write` puts the tables into
docs/results/studies/instructions.md, which is about the Cortex-M7.
Needs the model folders: KILOGRAD_SHARED, by default ../shared.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile
from unicorn import UC_HOOK_BLOCK
from unicorn.unicorn_py3.unicorn import uclib

from kilograd.emit import Program, link
from kilograd.frontend import load_model
from kilograd.ir import Array, Builder, Graph, Leaf, Node
from kilograd.learn.recipe import compile_recipe
from kilograd.ops import (
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    Depthwise,
    DepthwiseInputGrad,
    DepthwiseWeightGrad,
    RowUpdate,
)
from kilograd.passes import EntryPoint
from kilograd.select import Budget
from kilograd.settings import HeadKind, Recipe
from kilograd.targets import CORTEX_M7, TARGETS, Cortex, Driver
from kilograd.targets.elf import FLASH_BYTES, ElfFile, build_elf
from kilograd.targets.toolchain import find_compiler
from kilograd.targets.unicorn import UnicornDevice

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))
PAGE = Path(__file__).parents[1] / "docs" / "results" / "studies" / "instructions.md"
NETWORK, METHOD = "mcunet-5fps", "sparse-49kb"
STEPS = 3

PROFILER = """
#include <stdint.h>
/* `owner`: for each half word of flash, who is charged from there on, or 0: as before. */
struct profile { const uint8_t *flash; uint64_t base, current, by_owner[256], *by_address;
                 const uint8_t *owner; };
void profile_block(void *emulator, uint64_t address, uint32_t size, struct profile *p) {
    const uint64_t at = address - p->base;
    uint64_t count = 0;
    (void)emulator;
    for (uint64_t i = at; i < at + size; count++)
        i += (p->flash[i + 1] >> 3) >= 0x1D ? 4 : 2;
    if (p->owner[at / 2]) p->current = p->owner[at / 2];
    p->by_owner[p->current] += count;
    p->by_address[at / 2] += count;
}
"""


class _Profile(ctypes.Structure):
    _fields_ = (
        ("flash", ctypes.c_char_p),
        ("base", ctypes.c_uint64),
        ("current", ctypes.c_uint64),
        ("by_owner", ctypes.c_uint64 * 256),
        ("by_address", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Function:
    """A C function of the firmware; static ones may share a name."""

    name: str
    offset: int  # in flash
    size: int


def functions(elf: ElfFile) -> list[Function]:
    """Return the functions of an ELF file in the order of their addresses."""
    base = elf.harness.flash
    with elf.path.open("rb") as f:
        table = ELFFile(f).get_section_by_name(".symtab")
        found = {
            (s["st_value"] & ~1) - base: Function(s.name, (s["st_value"] & ~1) - base, s["st_size"])
            for s in table.iter_symbols()
            if s["st_info"]["type"] == "STT_FUNC" and s["st_value"] >= base
        }
    return [found[at] for at in sorted(found)]


def loaded(program: Program, target: Cortex) -> UnicornDevice:
    """Return a program in the emulator."""
    device = target.build(program)
    assert isinstance(device, UnicornDevice)
    return device


class Profiler:
    """Charges every instruction of a firmware to a kernel, and to an address."""

    def __init__(self, program: Program, target: Cortex) -> None:
        self._elf = build_elf(program, target)
        self.firmware = loaded(program, target)
        self.functions = functions(self._elf)
        kernels = {
            n.op.kernel(n).symbol for e in program.entries.values() for n in computed(e.graph)
        }
        kernels |= {"kg_conv", "kg_depthwise", "kg_add"}  # inside streams
        callers = {f"model_{e}" for e in program.entries} | {"kg_stream"}
        self.names = ["program", *sorted(kernels)]
        self.owner = np.zeros(FLASH_BYTES // 2, np.uint8)
        for f in self.functions:
            at = f.offset // 2
            if f.name in callers:  # control comes back to them in the middle
                owner = self.names.index(f.name) if f.name in kernels else 255
                self.owner[at : at + f.size // 2] = owner
            elif f.name in kernels:
                self.owner[at] = self.names.index(f.name)
        self.by_address = np.zeros(FLASH_BYTES // 2, np.uint64)
        self._hook()

    def _hook(self) -> None:
        firmware = self.firmware
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "profile.c").write_text(PROFILER, encoding="utf-8")
            find_compiler().compile(Path(name), "-fPIC", "-shared", "profile.c", "-o", "profile.so")
            self._library = ctypes.CDLL(f"{name}/profile.so")
        self._profile = _Profile(
            flash=self._elf.flash,
            base=self._elf.harness.flash,
            by_address=self.by_address.ctypes.data,
            owner=self.owner.ctypes.data,
        )
        hook = ctypes.c_size_t()
        status = uclib.uc_hook_add(
            firmware._emulator._uch,  # noqa: SLF001 a hook in Python would be fifty times slower
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
        self.by_address[:] = 0
        ctypes.memset(self._profile.by_owner, 0, ctypes.sizeof(self._profile.by_owner))

    def by_kernel(self) -> dict[str, int]:
        """Instructions by kernel."""
        counts = dict(zip(self.names, self._profile.by_owner, strict=False))
        counts["program"] += self._profile.by_owner[255]
        return {k: v for k, v in sorted(counts.items(), key=lambda x: -x[1]) if v}

    def by_function(self) -> list[tuple[Function, int]]:
        """Instructions of each function itself."""
        counts = [
            int(self.by_address[f.offset // 2 : (f.offset + f.size) // 2].sum())
            for f in self.functions
        ]
        return sorted(zip(self.functions, counts, strict=True), key=lambda x: -x[1])


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
        part, f"depthwise {size}" if depthwise else size, x.shape, y.shape, kernel, window.stride
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
    model = load_model(str(SHARED / "models" / NETWORK))
    full = compile_recipe(model, Recipe("full", 10, HeadKind.LINEAR), Budget())
    step = full.program.entries[EntryPoint.STEP].graph
    nodes = [
        *model.graph.nodes,
        *(n for n in step.nodes if not isinstance(n.op, Conv | Depthwise)),
    ]
    times: Counter[Layer] = Counter()
    samples: dict[Layer, Node] = {}
    for n in nodes:
        if layer := layer_of(n):
            times[layer] += 1
            samples.setdefault(layer, n)
    rng = np.random.default_rng(0)
    names = {layer: f"layer{i}" for i, layer in enumerate(samples)}
    program = link({names[layer]: alone(n, names[layer], rng) for layer, n in samples.items()})
    firmware = loaded(program, target)
    out = []
    for layer, n in samples.items():
        entry = names[layer]
        given = dict(feeds(program.entries[entry].graph, rng))
        firmware.call(entry, **given)
        out.append(Cost(layer, times[layer], n.op.macs(n), firmware.instructions or 0))
    return out


def size_of(shape: tuple[int, ...]) -> str:
    """Write a shape."""
    return "x".join(map(str, shape))


def layer_tables(costs: list[Cost]) -> Iterator[str]:
    """Yield a table of totals by kind of layer, and one of all layers."""
    groups: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    for c in costs:
        groups[c.layer.part, c.layer.kind].append(c)
    parts = list(dict.fromkeys(c.layer.part for c in costs))
    yield "| what | layer | count | million MAC | million instructions | MAC per instruction |"
    yield "|---|---|---|---|---|---|"
    for part in parts:
        whole: list[Cost] = []
        for (p, kind), group in groups.items():
            if p == part:
                yield total(part, kind, group)
                whole += group
        yield total(part, "**all**", whole)
    yield ""
    yield "| what | layer | stride | from | to | count | MAC | instructions | MAC per instruction |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (part, kind), group in groups.items():
        for c in group:
            yield (
                f"| {part} | {kind} | {c.layer.stride} | {size_of(c.layer.x)} "
                f"| {size_of(c.layer.y)} | {c.times} | {c.macs:,} | {c.instructions:,} "
                f"| {c.macs / c.instructions:.2f} |"
            )


def total(part: str, kind: str, group: list[Cost]) -> str:
    """Return a row with the sums over a group, each layer as often as the network has it."""
    macs = sum(c.times * c.macs for c in group)
    instructions = sum(c.times * c.instructions for c in group)
    return (
        f"| {part} | {kind} | {sum(c.times for c in group)} | {macs / 1e6:.2f} "
        f"| {instructions / 1e6:.2f} | {macs / instructions:.2f} |"
    )


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


def program_table(counts: dict[str, int], times: int) -> Iterator[str]:
    """Yield instructions by kernel."""
    every = sum(counts.values())
    yield "| kernel | million instructions | share |"
    yield "|---|---|---|"
    for kernel, count in counts.items():
        yield f"| `{kernel}` | {count / times / 1e6:.2f} | {count / every:.1%} |"
    yield f"| **all** | {every / times / 1e6:.2f} | |"


def tables(target: Cortex, *, show_functions: bool) -> Iterator[str]:
    """Yield everything that is measured, as Markdown."""
    yield f"## Each layer of {NETWORK} alone\n"
    yield from layer_tables(layers(target))
    recipe = Recipe(METHOD, 10, HeadKind.LINEAR)
    made = compile_recipe(load_model(str(SHARED / "models" / NETWORK)), recipe, Budget())
    profiler = Profiler(made.program, target)
    rng = np.random.default_rng(0)
    profiler.clear()
    Driver(profiler.firmware).infer(noise(rng))
    yield f"\n## A forward pass of {METHOD} by kernel\n"
    yield from program_table(profiler.by_kernel(), 1)
    profiler.clear()
    run_steps(profiler, rng)
    yield f"\n## A training step of {METHOD} by kernel\n"
    yield from program_table(profiler.by_kernel(), STEPS)
    if show_functions:
        yield "\n| function | bytes | million instructions |"
        yield "|---|---|---|"
        for f, count in profiler.by_function():
            yield f"| `{f.name}` | {f.size} | {count / STEPS / 1e6:.2f} |"


HEADER = f"""\
# Instructions on a Cortex-M7

How many instructions do the kernels need, and how many multiply-accumulates does one do?

These are instructions, counted exactly in an emulator, not cycles:
a real Cortex-M7 issues up to two at once, and waits for flash and for loads of many registers.
The network is {NETWORK}; layers alone have random inputs, and gradients without zeros,
so that `dW` skips nothing.  In a step, kernels inside `kg_stream` count as themselves.

    python benchmarks/instructions.py --write

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", action="store_true", help="list C functions too")
    parser.add_argument("--write", action="store_true", help="fill docs/results/studies")
    processors = {t.name: t for t in TARGETS if isinstance(t, Cortex)}
    parser.add_argument("--target", choices=processors, default=CORTEX_M7.name)
    options = parser.parse_args()
    target = processors[options.target]
    if options.write and target is not CORTEX_M7:
        parser.error(f"--write: the page is about the {CORTEX_M7.name}")
    lines = []
    for line in tables(target, show_functions=options.functions):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        PAGE.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
