"""The generated C and the runtime as a program of their own: no warning, no byte out of place,
nothing undefined.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    ASSERTING,
    SMALL_UNITS,
    clang,
    gcc,
    model_path,
    needs_clang,
    needs_gcc,
    needs_shared,
    network,
    put,
    small_network,
    step_feeds,
)
from samples import CLOCK, cases, hostile_cases
from test_ops import CALLED, entry_name, keeps
from test_ops import program as program_of_samples
from test_passes import LEARN, WAYS, Case, large_program, warm_head

from kilograd.emit import Program, header, link, source
from kilograd.frontend import load_model_folder
from kilograd.ir import Array, Block, Graph, Value
from kilograd.ops import Adam, Momentum, RowRms, Sgd
from kilograd.passes import LinearHead, Part, PrototypeHead, Training, entries
from kilograd.targets.host import _runtime_objects
from kilograd.targets.toolchain import Compiler, runtime_folder, runtime_sources

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wstrict-prototypes", "-Werror")
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
SANITIZED = gcc("-O1", "-g", SANITIZERS, "-fno-sanitize-recover=all", ASSERTING)
NATIVE = replace(SANITIZED, flags=(*SANITIZED.flags, "-march=native"))
CLANG_UBSAN = replace(
    clang("-O1"),
    flags=(
        *(f for f in clang("-O1").flags if f != "-fno-sanitize=undefined"),
        ASSERTING,
        "-fsanitize=undefined,float-cast-overflow",
        # zig would first build its runtime for messages: minutes
        "-fsanitize-trap=undefined,float-cast-overflow",
    ),
)

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kg.h"
#include "model.h"

static kg_image picture; /* comes row by row, where an entry point takes it so */
static const kg_rows camera = {kg_image_row, &picture};

%s
static const struct {
    kg_status (*call)(void *, void *);
    size_t arena;
} entries[] = {
%s
};

static uint32_t word(FILE *f) {
    uint32_t x = 0;
    if (fread(&x, 4, 1, f) != 1) exit(3);
    return x;
}

static uint32_t mix(uint32_t hash, const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++) hash = (hash ^ p[i]) * 16777619u;
    return hash;
}

/* Every call gets blocks of exactly the size it asks for; prints a hash of all they hold. */
int main(int argc, char **argv) {
    FILE *f = argc == 2 ? fopen(argv[1], "rb") : 0;
    unsigned char *state = malloc(MODEL_STATE_BYTES);
    uint32_t hash = 2166136261u;
    if (!f || model_init(state)) return 2;
    for (uint32_t calls = word(f); calls; calls--) {
        const uint32_t entry = word(f);
        unsigned char *arena = malloc(entries[entry].arena), *pixels = 0;
        memset(arena, 0xA5, entries[entry].arena);
        for (uint32_t patches = word(f); patches; patches--) {
            const uint32_t place = word(f), at = word(f), n = word(f);
            unsigned char *to = place == 2 ? pixels = malloc(n) : (place ? state : arena) + at;
            if (fread(to, 1, n, f) != n) return 3;
            if (place == 2) picture = (kg_image){(const int8_t *)pixels, (int32_t)at};
        }
        if (entries[entry].call(state, arena)) return 4;
        hash = mix(hash, state, MODEL_STATE_BYTES);
        hash = mix(hash, arena, entries[entry].arena);
        free(arena);
        free(pixels);
    }
    free(state);
    fclose(f);
    printf("%%08x\\n", hash);
    return 0;
}
"""

Calls = list[tuple[str, Mapping[str, Value]]]


def raw(value: Value) -> bytes:
    """The bytes of a value as C holds it."""
    size = value.mantissa.nbytes + 4 if isinstance(value, Block) else value.nbytes
    memory: Array = np.zeros(size, np.uint8)
    put(memory, 0, value)
    return memory.tobytes()


def script(program: Program, calls: Iterable[tuple[str, Mapping[str, Value]]]) -> bytes:
    """Write calls as the harness reads them."""
    slots = {s.name: s.offset for s in program.state}
    index = {name: i for i, name in enumerate(program.entries)}
    out = []
    for name, feeds in calls:
        entry = program.entries[name]
        nodes = {n.name: n for n in entry.graph.inputs() if n in entry.storage.tensor}
        patches = [
            struct.pack("<III", 2, n.type.nbytes // n.type.shape[0], n.type.nbytes)
            + raw(feeds[n.name])
            for n in entry.rows
        ]
        patches += [
            struct.pack(
                "<III", k in slots, slots[k] if k in slots else entry.offset(nodes[k]), len(raw(v))
            )
            + raw(v)
            for k, v in feeds.items()
            if k in slots or k in nodes
        ]
        out.append(struct.pack("<II", index[name], len(patches)) + b"".join(patches))
    return struct.pack("<I", len(out)) + b"".join(out)


def write_program(folder: Path, program: Program) -> None:
    """Write the generated files and the harness."""
    calls = [
        f"static kg_status call_{e.name}(void *s, void *a) {{ "
        f"return model_{e.name}(s, a{', &camera' * len(e.rows)}); }}"
        for e in program.entries.values()
    ]
    table = [f"    {{call_{e.name}, {e.plan.peak}}}," for e in program.entries.values()]
    for name, text in (
        ("model.c", source(program)),
        ("model.h", header(program)),
        ("main.c", MAIN % ("\n".join(calls), "\n".join(table))),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def build_and_run(folder: Path, compiler: Compiler, name: str) -> str:
    """Compile everything into one executable, run it, and return what it prints."""
    files = ["main.c", "model.c", *map(str, _runtime_objects(compiler))]
    compiler.compile(folder, f"-I{runtime_folder() / 'include'}", "-I.", *files, "-lm", "-o", name)
    done = subprocess.run(
        [str(folder / name), "script"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}:\n{done.stderr[:4000]}"
    assert not done.stderr, done.stderr[:4000]
    return done.stdout


def check_clean(folder: Path, program: Program, calls: Calls, checked: Compiler) -> None:
    """Assert that a checked build finds nothing and computes what the plain build computes."""
    write_program(folder, program)
    (folder / "script").write_bytes(script(program, calls))
    # the same variant of the runtime, which leaves the same behind in scratch memory
    same = [f for f in checked.flags if f.startswith("-march")]
    plain = build_and_run(folder, replace(checked, flags=gcc("-O2", *same).flags), "plain")
    assert build_and_run(folder, checked, "checked") == plain


def training_calls(graphs: Mapping[str, Graph], seed: int, rounds: int = 3) -> Calls:
    """Every entry point in turn, on images that differ."""
    rng = np.random.default_rng(seed)
    order = ["infer", "enrol", "step", "step", "apply", "infer"] * rounds + ["forget", "step"]
    return [
        (name, step_feeds(rng, graphs[name], WAYS, t, 0.05))
        for t, name in enumerate(n for n in order if n in graphs)
    ]


CASES = {
    "linear-adam": Case(1, SMALL_UNITS, 4, LEARN, LinearHead(WAYS), Adam(0)),
    "proto-rowrms-summed": Case(
        2, SMALL_UNITS, 4, LEARN, PrototypeHead(WAYS), RowRms(0), accumulate=True
    ),
    "proto-momentum-coded": Case(
        2,
        SMALL_UNITS,
        4,
        LEARN,
        PrototypeHead(WAYS),
        Momentum(0, state_bits=16),
        accumulate=True,
        sum_bits=8,
    ),
    "linear-adam-coded": Case(1, SMALL_UNITS, 4, LEARN, LinearHead(WAYS), Adam(0, state_bits=8)),
    "linear-sgd-everything": Case(
        3, SMALL_UNITS, 5, {p.name: Part() for p in network(3, SMALL_UNITS, stem=5).params()}
    ),
}
CHECKED = [
    pytest.param(SANITIZED, id="gcc-asan-ubsan", marks=needs_gcc),
    pytest.param(NATIVE, id="gcc-native-asan-ubsan", marks=needs_gcc),
    pytest.param(CLANG_UBSAN, id="clang-ubsan", marks=needs_clang),
]


@needs_gcc
@pytest.mark.parametrize("checked", [SANITIZED, NATIVE], ids=["portable", "native"])
def test_every_op_is_clean_under_sanitizers(tmp_path: Path, checked: Compiler) -> None:
    """Every sample, with data at the ends of every range, in an arena as large as planned."""
    calls = [
        (entry_name(s, k), c.feeds)
        for s in CALLED
        for k in keeps(s)
        for c in (*cases(s), *hostile_cases(s))
    ]
    check_clean(tmp_path, program_of_samples(), list(calls), checked)


@pytest.mark.parametrize("checked", CHECKED)
@pytest.mark.parametrize("name", CASES)
def test_training_is_clean_under_sanitizers(tmp_path: Path, name: str, checked: Compiler) -> None:
    case = CASES[name]
    graphs = entries(case.network, case.training)
    check_clean(tmp_path, link(graphs), training_calls(graphs, case.seed), checked)


def damage(program: Program, fill: int | None, seed: int) -> dict[str, Value]:
    """Every parameter of the state as random bytes, or filled with one."""
    rng = np.random.default_rng(seed)
    return {
        s.name: (
            rng.integers(0, 256, s.value.nbytes, np.uint8)
            if fill is None
            else np.full(s.value.nbytes, fill, np.uint8)
        )
        .view(s.value.dtype)
        .reshape(s.value.shape)
        for s in program.state
    }


@needs_gcc
@pytest.mark.parametrize("checked", [SANITIZED, NATIVE], ids=["portable", "native"])
@pytest.mark.parametrize("name", CASES)
def test_a_damaged_state_is_clean_under_sanitizers(
    tmp_path: Path, name: str, checked: Compiler
) -> None:
    """Random bytes and erased flash, at any step counter that is let in: nothing undefined."""
    case = CASES[name]
    graphs = entries(case.network, case.training)
    program = link(graphs)
    calls: Calls = []
    for i, (fill, step) in enumerate([(None, 0), (255, (1 << 31) - 2), (None, 1 << 30)]):
        some = training_calls(graphs, case.seed + i, rounds=1)
        for at, (entry, feeds) in enumerate(some):
            clock = {"clock": np.array([-1, step], np.int32)} if "clock" in feeds else {}
            state = {} if at else damage(program, fill, i)
            calls.append((entry, {**feeds, **clock, **state}))
    check_clean(tmp_path, program, calls, checked)


@needs_gcc
@pytest.mark.parametrize("checked", [SANITIZED, NATIVE], ids=["portable", "native"])
def test_worst_case_sums_are_clean_under_sanitizers(tmp_path: Path, checked: Compiler) -> None:
    """Weights and images at the ends of their ranges, on maps so large that bits are narrowed."""
    graphs = large_program()
    step, program = graphs["step"], link(graphs)
    rng = np.random.default_rng(0)
    feeds = {**step_feeds(rng, step, WAYS, 0, 0.1), **warm_head(rng, step)}
    calls: Calls = []
    for code in (-127, 127):
        ends: dict[str, Value] = {
            p.name: np.full(p.type.shape, code, np.int8)
            for p in step.written()
            if p.type.dtype.nbytes == 1
        }
        image = np.full_like(np.asarray(feeds["image"]), 127 if code > 0 else -128)
        calls.append(("step", {**feeds, **ends, "image": image}))
    check_clean(tmp_path, program, calls, checked)


@needs_gcc
@needs_shared
def test_a_published_network_is_clean_under_sanitizers(tmp_path: Path) -> None:
    model = load_model_folder(model_path("mcunet-5fps"))
    wide = [n for n in model.layers[-12:] if model.graph[f"{n}.weight"].type.shape[-1] >= 8]
    learn = {f"{name}.bias": Part() for name in model.layers[-12:]}
    for i, name in enumerate(wide[::2]):
        w = model.graph[f"{name}.weight"].type
        axis = 2 if len(w.shape) == 3 else (0, 3)[i % 2]
        learn[f"{name}.weight"] = Part(axis, tuple(range(0, w.shape[axis], 3)))
    graphs = entries(model.graph, Training(PrototypeHead(WAYS), Sgd(0), learn))
    rng = np.random.default_rng(0)
    image = rng.integers(-128, 128, (128, 128, 3)).astype(np.int8)
    rate = np.full(1, 0.05, np.float32)
    feeds: dict[str, Value] = {"image": image, "label": np.ones(1, np.int32), "lr": rate}
    clock = np.zeros(CLOCK.shape, np.int32)
    calls: Calls = [("enrol", feeds), ("step", {**feeds, "clock": clock}), ("infer", feeds)]
    check_clean(tmp_path, link(graphs), calls, NATIVE)


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param(gcc("-O2", *STRICT), id="gcc", marks=needs_gcc),
        pytest.param(clang("-O2", *STRICT), id="clang", marks=needs_clang),
    ],
)
def test_generated_code_and_runtime_compile_without_a_warning(
    tmp_path: Path, compiler: Compiler
) -> None:
    programs = {"samples": program_of_samples()}
    for name, case in CASES.items():
        programs[name] = link(entries(case.network, case.training))
    programs["infer"] = link(
        {"infer": entries(small_network(), Training(LinearHead(2), Sgd(0)))["infer"]}
    )
    include = f"-I{runtime_folder() / 'include'}"
    for name, program in programs.items():
        folder = tmp_path / name
        folder.mkdir()
        write_program(folder, program)
        compiler.compile(folder, include, "-I.", "-c", "model.c", "-o", "model.o")
    for file in runtime_sources():
        compiler.compile(tmp_path, include, "-c", str(file), "-o", f"{file.stem}.o")
