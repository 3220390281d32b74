"""A program as a process of its own, under sanitizers, that is fed one call after another."""

from __future__ import annotations

import re
import resource
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from helpers import gcc, same_bits

from fuzz.case import die_with_parent
from kilograd.emit import Program, header, source
from kilograd.ir import Array, BlockExponent, DType, Graph, Value
from kilograd.targets.runner import Runner
from kilograd.targets.toolchain import runtime_folder, runtime_sources

_STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
_SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
CHECKED = gcc("-O1", "-g", "-DKG_CHECKED", _SANITIZERS, "-fno-sanitize-recover=all")

_MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kg.h"
#include "kg_rows.h"
#include "model.h"

static kg_image picture;
static const kg_rows camera = {kg_image_row, &picture};

%s
static const struct {
    int (*call)(void *, void *);
    size_t arena;
} entries[] = {
%s
};

static unsigned char *block(size_t n, size_t shift) {
    unsigned char *p = malloc(n + shift ? n + shift : 1); /* of this size: what is beyond is seen */
    if (!p || fread(p + shift, 1, n, stdin) != n) exit(3);
    return p;
}

int main(void) {
    (void)camera; /* most entry points take the image whole */
    uint32_t head[4]; /* entry, how memory is given, pixels, bytes of a row */
    while (fread(head, 4, 4, stdin) == 4) {
        const size_t shift = head[1] & 3, n = entries[head[0]].arena;
        unsigned char *s = block(MODEL_STATE_BYTES, shift), *a = block(n, shift);
        unsigned char *pixels = block(head[2], 0);
        picture = (kg_image){(const int8_t *)pixels, (int32_t)head[3]};
        const int32_t status =
            entries[head[0]].call(head[1] & 4 ? NULL : s + shift, head[1] & 8 ? NULL : a + shift);
        fwrite(&status, 4, 1, stdout);
        fwrite(s + shift, 1, MODEL_STATE_BYTES, stdout);
        fwrite(a + shift, 1, n, stdout);
        fflush(stdout);
        free(s);
        free(a);
        free(pixels);
    }
    return 0;
}
"""


_SAID = (
    r"model\.\w:\d+:\d+: error: .*|SUMMARY: .*|"
    r"\w+\.c:\d+.*runtime error: [a-z ]*|\S+ Assertion .*"
)


class StoppedError(AssertionError):
    """The program ended: what a sanitizer said, and where."""

    def __init__(self, said: str) -> None:
        found = re.search(_SAID, said)
        where = re.sub(r"/\S*/|0x[0-9a-f]+", "", found[0] if found else said[:90])
        self.where = re.sub(r"-?\d+", "", where) if where.startswith("model") else where
        super().__init__(said[-5000:])


def built(program: Program, folder: Path, home: Path) -> Path:
    """Compile a program without a warning; the runtime is compiled once."""
    calls, table = [], []
    for e in program.entries.values():
        call = f"model_{e.name}(s, a{', &camera' * len(e.rows)})"
        calls.append(f"static int call_{e.name}(void *s, void *a) {{ return (int){call}; }}")
        table.append(f"    {{call_{e.name}, {e.plan.peak}}},")
    calls.append("static int call_init(void *s, void *a) { (void)a; return (int)model_init(s); }")
    table.append("    {call_init, 0},")
    texts = {
        "model.c": source(program),
        "model.h": header(program),
        "main.c": _MAIN % ("\n".join(calls), "\n".join(table)),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    include = f"-I{runtime_folder() / 'include'}"
    _compile(
        folder,
        *_STRICT,
        include,
        "-I.",
        "main.c",
        "model.c",
        str(_runtime(home)),
        "-lm",
        "-o",
        "program",
    )
    return folder / "program"


def _compile(folder: Path, *args: str) -> None:
    try:
        CHECKED.compile(folder, *args)
    except RuntimeError as e:
        raise StoppedError(str(e)) from e


def _runtime(home: Path) -> Path:
    """Compile the runtime with checks, as one object file."""
    whole = home / "runtime.o"
    if not whole.exists():
        include = f"-I{runtime_folder() / 'include'}"
        CHECKED.compile(home, include, "-c", *map(str, runtime_sources()))
        objects = [f"{p.stem}.o" for p in runtime_sources()]
        subprocess.run(["ld", "-r", *objects, "-o", "part.o"], cwd=home, check=True)
        (home / "part.o").rename(whole)
    return whole


class Piped(Runner):
    """A program in another process.

    `memory`: how it is given: shifted by 1 to 3 bytes; with 4 added no state, with 8 no arena.
    """

    def __init__(self, program: Program, file: Path) -> None:
        self.memory = 0
        self._names = [*program.entries, "init"]
        self._process = subprocess.Popen(
            [str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_alone,  # noqa: PLW1509
        )
        arena = np.zeros(max(program.arena_bytes, 4), np.uint8)
        super().__init__(program, np.zeros(max(program.state_bytes, 4), np.uint8), arena)

    def status(self, function: str, *images: Array) -> int:
        entry = self._names.index(function)
        n = 0 if function == "init" else self.program.entries[function].plan.peak
        s = self.program.state_bytes
        pixels = b"".join(np.ascontiguousarray(x, np.int8).tobytes() for x in images)
        head = struct.pack(
            "<4I", entry, self.memory, len(pixels), images[0][0].nbytes if images else 0
        )
        got = self._talk(
            head + self._state[:s].tobytes() + self._arena[:n].tobytes() + pixels, 4 + s + n
        )
        self._state[:s] = np.frombuffer(got[4 : 4 + s], np.uint8)
        self._arena[:n] = np.frombuffer(got[4 + s :], np.uint8)
        return int.from_bytes(got[:4], "little")

    def _talk(self, said: bytes, length: int) -> bytes:
        process = self._process
        assert process.stdin
        assert process.stdout
        assert process.stderr
        try:
            process.stdin.write(said)
            process.stdin.flush()
        except BrokenPipeError:
            length = 1 << 30
        got = process.stdout.read(length)
        if len(got) != length:
            raise StoppedError(process.stderr.read().decode(errors="replace"))
        return got

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _alone() -> None:
    """Sanitizers map more than any process has; and nobody hears them when the worker is gone."""
    die_with_parent()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def feeds_of(graph: Graph, rng: np.random.Generator, step: int, ways: int) -> dict[str, Any]:
    """Return inputs of an entry point: images of any codes."""
    known = {
        "label": rng.integers(0, ways, 1).astype(np.int32),
        "lr": np.array([0.05], np.float32),
        "clock": np.array([7, step], np.int32),
        "share": np.array([1 / (1 + step % 3)], np.float32),
    }
    feeds = {}
    for n in graph.inputs():
        if n.name in known:
            feeds[n.name] = known[n.name]
        elif n.type.dtype is DType.I8 and not isinstance(n.type.quant, BlockExponent):
            feeds[n.name] = rng.integers(-128, 128, n.type.shape).astype(np.int8)
        else:
            feeds[n.name] = rng.standard_normal(n.type.shape).astype(n.type.dtype.numpy)
    return feeds


def same(got: Value, want: Value) -> bool:
    """Say whether two values are equal to the bit; one NaN is as good as another."""
    if same_bits(got, want):
        return True
    if not (isinstance(got, np.ndarray) and isinstance(want, np.ndarray)):
        return False
    if got.dtype != np.float32 or got.shape != want.shape or want.dtype != np.float32:
        return False
    either = np.isnan(got) & np.isnan(want)
    return same_bits(np.where(either, 0, got), np.where(either, 0, want))
