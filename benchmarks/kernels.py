"""Time of the kernels on this machine: each network, forwards and a training step, by kernel.

    python benchmarks/kernels.py [--repeat N] [--portable]

The smallest of N repetitions counts.  Needs the model folders: KILOGRAD_SHARED, by default
../shared.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from kilograd.emit import Program, header, source
from kilograd.frontend import load_model
from kilograd.ir import Array
from kilograd.learn.recipe import compile_recipe
from kilograd.passes import EntryPoint
from kilograd.select import PLANS, Budget
from kilograd.settings import HeadKind, Recipe
from kilograd.targets.host import host_variant
from kilograd.targets.toolchain import find_compiler, runtime_folder, runtime_sources

SHARED = Path(os.environ.get("KILOGRAD_SHARED", Path(__file__).parents[2] / "shared"))

CLOCK = """
#include <time.h>
double bench_seconds[4096];
static double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#define TIMED(slot, call) \\
    do { \\
        const double start = bench_now(); \\
        call; \\
        bench_seconds[slot] = bench_now() - start; \\
    } while (0)
"""


def instrumented(program: Program) -> tuple[str, dict[str, list[tuple[int, str]]]]:
    """Return the program's C with a clock around each call, and (slot, kernel) by entry."""
    slots: dict[str, list[tuple[int, str]]] = defaultdict(list)
    lines, entry, number = [], "", 0
    for line in source(program).splitlines():
        if begins := re.match(r"kg_status model_(\w+)\(void \*state, void \*arena\) \{", line):
            entry = begins[1]
        if call := re.match(r"    ((kg_\w+)\(.*\));", line):
            slots[entry].append((number, call[2]))
            lines.append(f"    TIMED({number}, {call[1]});")
            number += 1
        else:
            lines.append(line)
    text = "\n".join(lines) + "\n"
    return f"#define _POSIX_C_SOURCE 199309L\n{CLOCK}{text}", slots


def build(text: str, program: Program, *, portable: bool) -> ctypes.CDLL:
    """Compile everything with the host's compiler, and load it."""
    compiler = find_compiler()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.c").write_text(text, encoding="utf-8")
        (folder / "model.h").write_text(header(program), encoding="utf-8")
        variant = None if portable else host_variant(compiler, folder)
        files = ["model.c", *map(str, runtime_sources(variant))]
        include = f"-I{runtime_folder() / 'include'}"
        compiler.compile(folder, "-fPIC", "-shared", include, *files, "-o", "model.so")
        return ctypes.CDLL(str(folder / "model.so"))


def measure(program: Program, repeat: int, *, portable: bool) -> None:
    """Print a table for each entry point."""
    text, slots = instrumented(program)
    library = build(text, program, portable=portable)
    clock = (ctypes.c_double * 4096).in_dll(library, "bench_seconds")
    state = np.zeros(program.state_bytes, np.uint8)
    arena = np.zeros(program.arena_bytes, np.uint8)
    rng = np.random.default_rng(0)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (state, arena)]
    for entry in (EntryPoint.INFER, EntryPoint.STEP):
        e = program.entries[entry]
        where = {n.name: e.offset(n) for n in e.graph.inputs() if n in e.storage.tensor}
        feeds: dict[str, Array] = {
            "image": rng.integers(-128, 128, e.graph["image"].type.shape).astype(np.int8),
            "label": np.zeros(1, np.int32),
            "lr": np.array([0.01], np.float32),
            "clock": np.zeros(2, np.int32),
        }
        best = np.full(len(slots[entry]), np.inf)
        assert not library.model_init(pointers[0])
        for _ in range(repeat):
            for name, offset in where.items():
                raw = feeds[name].view(np.uint8).ravel()
                arena[offset : offset + raw.size] = raw
            assert not getattr(library, f"model_{entry}")(*pointers)
            best = np.minimum(best, [clock[i] for i, _ in slots[entry]])
        kernels: dict[str, float] = defaultdict(float)
        for (_, kernel), seconds in zip(slots[entry], best, strict=True):
            kernels[kernel] += seconds
        total = best.sum()
        print(f"  {entry}: {total * 1e3:.2f} ms, {program.macs(entry) / total / 1e9:.1f} GMAC/s")
        for kernel, seconds in sorted(kernels.items(), key=lambda k: -k[1]):
            if seconds > total / 100:
                print(f"    {kernel:28} {seconds * 1e3:6.3f} ms {seconds / total:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--portable", action="store_true", help="without the machine's variants")
    options = parser.parse_args()
    for model, plans in PLANS.items():
        plan = list(plans)[-1]
        recipe = Recipe(f"sparse-{plan}", 10, HeadKind.LINEAR)
        made = compile_recipe(load_model(str(SHARED / "models" / model)), recipe, Budget())
        print(f"{model}, sparse-{plan}")
        measure(made.program, options.repeat, portable=options.portable)


if __name__ == "__main__":
    main()
