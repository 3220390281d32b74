"""What a program refuses: with a status and nothing written, in C, and by name in Python."""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import ELF, needs_emulator, skipped_without_tools
from helpers import (
    SMALL_UNITS,
    clang,
    gcc,
    linked,
    needs_clang,
    needs_gcc,
    network,
    quick_build,
    same_bits,
    step_feeds,
)
from test_emit import LAST, TRAININGS
from test_passes import LEARN, WAYS

from kilograd.emit import Program, header, link, source
from kilograd.ir import Array, Builder, DType, Graph, TensorType, interpret
from kilograd.ops import Adam, Sgd
from kilograd.ops.inputs import Clock, Label, Rate, Share
from kilograd.passes import LinearHead, PrototypeHead, Training, entries
from kilograd.targets import (
    TARGETS,
    Emulator,
    HostProgram,
    RefusedError,
    Status,
    Target,
)
from kilograd.targets.toolchain import Compiler, runtime_folder, runtime_sources

SANITIZED = gcc("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

#: Every call of every program below, on everything that can be wrong.  The rest of the inputs are
#: as `good` leaves them, so that nothing else can be the reason.
MAIN = r"""
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kg_rows.h"
#include "model.h"

#define LENGTH(x) (int)(sizeof x / sizeof *x)

static const int8_t pixels[PIXELS];
static kg_image image = {pixels, ROW_BYTES};
static const kg_rows camera = {kg_image_row, &image}, silent = {0, &image};
static uint8_t *state, *arena, *state_before, *arena_before;
static int checked;

static void expect(const char *what, kg_status want, kg_status got) {
    const int same = !memcmp(state, state_before, MODEL_STATE_BYTES) &&
                     !memcmp(arena, arena_before, MODEL_ARENA_BYTES);
    if (want != got || !same) {
        printf("%s: %s, not %s%s\n", what, kg_status_text(got), kg_status_text(want),
               same ? "" : "; it wrote");
        exit(1);
    }
    checked++;
}

static void put(int at, const void *value, size_t size) {
    memcpy(arena + at, value, size);
    memcpy(arena_before + at, value, size);
}

/* The state of a program that has just begun, and inputs that nothing is wrong with. */
static void good(void) {
    const int32_t label = 1, clock[2] = {-1, 0};
    const float lr = 0.01f, share = 1;
    memset(arena, 0, MODEL_ARENA_BYTES);
    if (model_init(state)) exit(2);
    GOOD
    memcpy(state_before, state, MODEL_STATE_BYTES);
    memcpy(arena_before, arena, MODEL_ARENA_BYTES);
    (void)label, (void)clock, (void)lr, (void)share;
}

static const int32_t bad_labels[] = {WAYS, -1, 100000, INT32_MIN, INT32_MAX};
static const int32_t good_labels[] = {0, WAYS - 1};
static const int32_t bad_steps[] = {-1, -2, INT32_MIN, INT32_MAX};
static const int32_t good_steps[] = {0, 1, INT32_MAX - 1};
static const float bad_rates[] = {NAN, -NAN, INFINITY, -INFINITY, 0, -0.0f, -1, -1e-45f};
static const float good_rates[] = {1e-45f, 1e-38f, 1, 3.4028234e38f};
static const float bad_shares[] = {NAN, INFINITY, -INFINITY, 0, -0.0f, -1, 1.0000001f};
static const float good_shares[] = {1e-45f, 0.5f, 1};

int main(void) {
    void *const blocks[] = {state = malloc(MODEL_STATE_BYTES), arena = malloc(MODEL_ARENA_BYTES),
                            state_before = malloc(MODEL_STATE_BYTES),
                            arena_before = malloc(MODEL_ARENA_BYTES)};
    good();
    expect("init of nothing", KG_NO_MEMORY, model_init(0));
    for (int i = 1; i < 4; i++) expect("init beside", KG_MISALIGNED, model_init(state + i));
    CALLS
    for (int i = 0; i < LENGTH(blocks); i++) free(blocks[i]);
    printf("%d\n", checked);
    return 0;
}
"""

#: The state of something else: cleared, erased, another program's, and one bit of the stamp.
STATES = """
    for (int kind = 0; kind < 35; kind++) {{
        good();
        if (kind < 2) memset(state, kind ? 0xFF : 0, MODEL_STATE_BYTES);
        if (kind == 2) state[MODEL_STATE_BYTES - 1] ^= 0x5A;
        if (kind > 2) state[MODEL_STATE_BYTES - 4 + (kind - 3) / 8] ^= 1 << (kind - 3) % 8;
        memcpy(state_before, state, MODEL_STATE_BYTES);
        expect("{entry}: state", KG_BAD_STATE, model_{entry}(state, arena{rows}));
    }}
    good();
    expect("{entry}: no state", KG_NO_MEMORY, model_{entry}(0, arena{rows}));
    for (int i = 1; i < 4; i++)
        expect("{entry}: beside", KG_MISALIGNED, model_{entry}(state + i, arena{rows}));
"""
ARENA = """
    good();
    expect("{entry}: no arena", KG_NO_MEMORY, model_{entry}(state, 0{rows}));
    for (int i = 1; i < 4; i++)
        expect("{entry}: beside", KG_MISALIGNED, model_{entry}(state, arena + i{rows}));
"""
ROWS = """
    good();
    expect("{entry}: no rows", KG_NO_ROWS, model_{entry}(state, arena, 0));
    expect("{entry}: no reader", KG_NO_ROWS, model_{entry}(state, arena, &silent));
"""
VALUES = """
    for (int i = 0; i < LENGTH(bad_{values}); i++) {{
        good();
        put(MODEL_{upper} + {skip}, &bad_{values}[i], 4);
        expect("{entry}: {values}", {status}, model_{entry}(state, arena{rows}));
    }}
    for (int i = 0; i < LENGTH(good_{values}); i++) {{
        good();
        put(MODEL_{upper} + {skip}, &good_{values}[i], 4);
        const kg_status got = model_{entry}(state, arena{rows});
        if (got) return printf("{entry}: {values} %d: %s\\n", i, kg_status_text(got)), 1;
        checked++;
    }}
"""
KINDS = {
    "label": ("labels", "KG_BAD_LABEL", 0),
    "clock": ("steps", "KG_BAD_CLOCK", 4),
    "lr": ("rates", "KG_BAD_RATE", 0),
    "share": ("shares", "KG_BAD_SHARE", 0),
}
TYPES = {"label": "sizeof label", "clock": "sizeof clock", "lr": "sizeof lr", "share": "4"}


def calls(program: Program) -> tuple[str, int]:
    """Return the C that tries everything on every entry point, and how many calls that is."""
    kept = {s.name for s in program.state}
    parts, count = [], 4
    for e in program.entries.values():
        rows = ", &camera" * len(e.rows)
        known: dict[str, Any] = {"entry": e.name, "rows": rows}
        used = [
            (STATES, 35 + 4, any(n.name in kept for n in e.graph.params())),
            (ARENA, 4, e.plan.peak > 0),
            (ROWS, 2, bool(e.rows)),
        ]
        for text, each, asked in used:
            parts += [text.format(**known)] * asked
            count += each * asked
        for c_name in e.inputs.keys() & KINDS.keys():
            values, status, skip = KINDS[c_name]
            upper = f"{e.name}_{c_name}".upper()
            given = {"values": values, "status": status, "skip": skip, "upper": upper}
            parts.append(VALUES.format(**known, **given))
            count += {"labels": 7, "steps": 7, "rates": 12, "shares": 10}[values]
    return "".join(parts), count


def good(program: Program, entry: str) -> str:
    e = program.entries[entry]
    return " ".join(
        f"memcpy(arena + MODEL_{entry}_{k}".upper().replace("MEMCPY(ARENA", "memcpy(arena")
        + f", {'&' * (k != 'clock')}{k}, {TYPES[k]});"
        for k in e.inputs.keys() & KINDS.keys()
    )


def harness(program: Program, entry: str) -> tuple[str, int]:
    """Return a C program that tries one entry point, and how many calls that are."""
    only = replace(program, entries={entry: program.entries[entry]})
    text, count = calls(only)
    shape = next(n for g in program.entries.values() for n in g.graph.inputs()).type.shape
    macros = {
        "PIXELS": str(math.prod(shape)),
        "ROW_BYTES": str(math.prod(shape[1:])),
        "GOOD": good(program, entry),
        "CALLS": text,
        "WAYS": str(WAYS),
    }
    whole = MAIN
    for key, value in macros.items():
        whole = re.sub(rf"\b{key}\b", lambda _, v=value: v, whole)  # type: ignore[misc]
    return whole, count


CHECKED = [
    pytest.param(SANITIZED, id="gcc-asan-ubsan", marks=needs_gcc),
    pytest.param(gcc("-O3", "-ffast-math"), id="gcc-fast-math", marks=needs_gcc),
    pytest.param(clang("-O3"), id="clang", marks=needs_clang),
]


@pytest.mark.parametrize("compiler", CHECKED)
@pytest.mark.parametrize("name", ["prototypes", "adam", "accumulated, cut", "rows"])
def test_what_is_wrong_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, compiler: Compiler
) -> None:
    """Labels, clocks, rates, shares, memory, states and cameras, each in every entry point."""
    program = link(entries(network(1, SMALL_UNITS), TRAININGS[name]))
    (tmp_path / "model.h").write_text(header(program), encoding="ascii")
    (tmp_path / "model.c").write_text(source(program), encoding="ascii")
    include = [f"-I{runtime_folder() / 'include'}", "-I."]
    compiler.compile(tmp_path, *include, "-c", "model.c", *map(str, runtime_sources()))
    objects = [p.name for p in tmp_path.glob("*.o")]
    plain = replace(compiler, flags=tuple(f for f in compiler.flags if f != "-ffast-math"))
    for entry in program.entries:
        text, count = harness(program, entry)
        (tmp_path / "main.c").write_text(text, encoding="ascii")
        plain.compile(tmp_path, *include, "main.c", *objects, "-lm", "-o", "main")
        done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{entry}: {done.stdout}{done.stderr[:3000]}"
        assert int(done.stdout) == count, "a call was left out"


@needs_gcc
def test_statuses_in_python_are_those_of_the_header() -> None:
    text = (runtime_folder() / "include" / "kg_status.h").read_text("utf-8")
    names = re.findall(r"^    KG_(\w+)", text, re.MULTILINE)
    assert names == [s.name for s in Status]
    assert [s.value for s in Status] == list(range(len(Status)))
    host = linked({"infer": network(1, SMALL_UNITS)})
    library = host._library
    library.kg_status_text.restype = ctypes.c_char_p
    texts = [library.kg_status_text(s) for s in Status]
    assert len({*texts}) == len(Status)
    for beyond in (len(Status), -1, 1 << 30):
        assert library.kg_status_text(beyond) == b"no status that is known"


# ---- the same, as Python says it ----

NUMBERS = [0.0, -0.0, 1.0, 0.5, 2.0, 1e-45, 1e38, -1.0, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize(
    ("op", "value", "right"),
    [
        *((Label(5), [v], 0 <= v < 5) for v in (0, 4, 5, -1, 100_000, -(1 << 31), (1 << 31) - 1)),
        *(
            (Clock(), [seed, v], 0 <= v < (1 << 31) - 1)
            for v in (0, 1, -1, -2, (1 << 31) - 1, (1 << 31) - 2, -(1 << 31))
            for seed in (-1, 7)
        ),
        *((Rate(), [v], v in {1.0, 0.5, 2.0, 1e-45, 1e38}) for v in NUMBERS),
        *((Share(), [v], v in {1.0, 0.5, 1e-45}) for v in NUMBERS),
    ],
    ids=str,
)
def test_what_c_refuses_is_what_python_says_is_wrong(op: Any, value: Any, right: bool) -> None:
    """One input alone: the check in numpy, the interpreter and the C agree."""
    kind = DType.F32 if isinstance(op, Rate | Share) else DType.I32
    array = np.array(value, kind.numpy)
    assert (not op.wrong(array)) == right
    graph = alone(op, TensorType(array.shape, kind))
    host = built(graph)
    if right:
        assert same_bits(interpret(graph, {"value": array})["value"], array)
        assert host.call("entry", value=array)["value"].tobytes() == array.tobytes()
    else:
        with pytest.raises(ValueError, match=r"^value must"):
            interpret(graph, {"value": array})
        with pytest.raises(RefusedError, match=r"^entry: value .* must"):
            host.call("entry", value=array)


def alone(op: Any, kind: TensorType) -> Graph:
    """An entry point that does nothing but look at its input."""
    b = Builder()
    return b.graph(b.input("value", kind, op))


PROGRAMS: dict[str, HostProgram] = {}


def built(graph: Graph) -> HostProgram:
    return PROGRAMS.setdefault(str(graph), quick_build(link({"entry": graph})))


@pytest.fixture(scope="module")
def host() -> HostProgram:
    return linked(entries(network(1, SMALL_UNITS), Training(PrototypeHead(WAYS), Sgd(0), LEARN)))


def step(host: HostProgram, **change: Any) -> dict[str, Any]:
    """The inputs of a step, some of them changed."""
    graph = host.program.entries["step"].graph
    return {**step_feeds(np.random.default_rng(0), graph, WAYS, 0, 0.01), **change}


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"label": [WAYS]}, Status.BAD_LABEL, "step: label 4 must be a class of 0 ... 3"),
        ({"label": [-1]}, Status.BAD_LABEL, "step: label -1 must be a class of 0 ... 3"),
        ({"lr": [math.nan]}, Status.BAD_RATE, "step: lr nan must be a positive finite number"),
        ({"lr": [1e300]}, Status.BAD_RATE, "step: lr inf must be a positive finite number"),
        ({"lr": [0]}, Status.BAD_RATE, "step: lr 0.0 must be a positive finite number"),
        (
            {"clock": [1, -1]},
            Status.BAD_CLOCK,
            "step: clock 1 -1 must count steps in 0 ... 2147483646",
        ),
    ],
)
def test_a_refusal_names_the_input(
    host: HostProgram, change: dict[str, Any], status: Status, message: str
) -> None:
    before = {k: v.copy() for k, v in host.state.items()}
    with pytest.raises(RefusedError) as refused:
        host.call("step", **step(host, **change))
    assert (str(refused.value), refused.value.status) == (message, status)
    assert all(np.array_equal(v, before[k]) for k, v in host.state.items())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": [1.0]}, ValueError, "step: label must be int32, not float64"),
        ({"label": ["1"]}, ValueError, "step: label must be int32, not <U1"),
        ({"label": [1 << 32]}, ValueError, "step: label has numbers that int32 cannot hold"),
        ({"label": [1, 2]}, ValueError, r"step: label must have shape \(1,\), not \(2,\)"),
        ({"clock": [1, math.nan]}, ValueError, "step: clock must be int32, not float64"),
        ({"lr": [1j]}, ValueError, "step: lr must be float32, not complex128"),
        (
            {"image": np.full((8, 8, 3), 128)},
            ValueError,
            "step: image has numbers that int8 cannot hold",
        ),
        ({"share": [1.0]}, TypeError, r"step does not take 'share'; it takes \['clock', "),
    ],
)
def test_what_is_not_an_input_is_refused_before_anything_runs(
    host: HostProgram, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        host.call("step", **step(host, **change))


def test_a_missing_input_is_named(host: HostProgram) -> None:
    given = step(host)
    del given["label"]
    with pytest.raises(TypeError, match=r"^step needs 'label'; it takes "):
        host.call("step", **given)


def test_numbers_of_other_types_are_taken_where_they_fit(host: HostProgram) -> None:
    given = step(host, label=np.array([2]), lr=[0.01], clock=np.array([1, 2], np.uint8))
    host.reset()
    first = host.call("step", **given)
    host.reset()
    given = {**given, "label": np.array([2], np.int32), "lr": np.array([0.01], np.float32)}
    assert host.call("step", **given)["loss"].tobytes() == first["loss"].tobytes()


def test_the_state_of_another_program_is_refused(host: HostProgram) -> None:
    """Even of one with the same layout, which has other weights."""
    graphs = entries(network(2, SMALL_UNITS), Training(PrototypeHead(WAYS), Sgd(0), LEARN))
    other = linked(graphs)
    assert other.program.state_bytes == host.program.state_bytes
    host.reset()
    kept = host._state.copy()
    host._state[:] = other._state
    with pytest.raises(RefusedError, match=r"^step: refused with bad state$"):
        host.call("step", **step(host))
    host._state[:] = kept
    host.call("step", **step(host))


def test_a_program_that_keeps_nothing_has_no_state() -> None:
    infer = linked({"infer": network(1, SMALL_UNITS)})
    assert infer.program.state_bytes == 0
    assert infer._library.model_init(None) == Status.OK
    assert infer._library.model_infer(None, ctypes.c_void_p(infer._arena.ctypes.data)) == Status.OK


def test_a_stamp_costs_four_bytes_behind_everything() -> None:
    program = link(entries(network(1, SMALL_UNITS), Training(LinearHead(WAYS), Adam(0), LAST)))
    ends = [s.offset + s.value.nbytes for s in program.state]
    assert program.state_bytes == -(-max(ends) // 4) * 4 + 4
    host = quick_build(program)
    stamp = int(host._state[-4:].view(np.uint32)[0])
    assert f"{stamp:#010x}" in source(program)


IN_QEMU = [replace(t, emulator=Emulator.QEMU) for t in ELF]


@needs_emulator
@pytest.mark.parametrize("target", [*TARGETS, *IN_QEMU], ids=lambda t: f"{t.name} {t.tools}")
def test_every_target_refuses_the_same(target: Target) -> None:
    training = Training(PrototypeHead(WAYS), Sgd(0), LAST)
    with skipped_without_tools():
        device = target.build(link(entries(network(1, SMALL_UNITS), training)))
    graph = device.program.entries["step"].graph
    feeds: dict[str, Array] = {
        k: np.asarray(v)
        for k, v in step_feeds(np.random.default_rng(0), graph, WAYS, 0, 0.01).items()
    }
    wrong: list[tuple[str, Any, Status]] = [
        ("label", np.array([WAYS]), Status.BAD_LABEL),
        ("lr", np.array([math.nan]), Status.BAD_RATE),
        ("clock", np.array([0, -1]), Status.BAD_CLOCK),
    ]
    kept = device._state.copy()
    for (name, value, status), _ in itertools.product(wrong, range(2)):
        with pytest.raises(RefusedError) as refused:
            device.call("step", **{**feeds, name: value})
        assert refused.value.status is status
        assert np.array_equal(device._state, kept)
    assert device.call("step", **feeds)["loss"] > 0
    device._state[-1] ^= 1
    with pytest.raises(RefusedError) as refused:
        device.call("step", **feeds)
    assert refused.value.status is Status.BAD_STATE
