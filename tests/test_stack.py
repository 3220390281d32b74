"""The static bound of the stack: its frames are the compilers', and what has none is refused."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from devices import ELF

from kilograd.emit.project import write_project
from kilograd.frontend import load_model
from kilograd.learn.recipe import compile_recipe
from kilograd.select import Budget
from kilograd.settings import Recipe
from kilograd.targets import AARCH64, CORTEX_M7, CrossCompiler, ElfTarget
from kilograd.targets.stack import StackError, read_functions, stack_bound
from kilograd.targets.toolchain import runtime_folder

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ziglang", "elftools", "capstone"))),
    reason="needs pip install ziglang unicorn pyelftools capstone",
)
GCC_M7 = replace(CORTEX_M7, compiler=CrossCompiler.GCC)
needs_arm_gcc = pytest.mark.skipif(
    not shutil.which("arm-none-eabi-gcc"),
    reason="needs apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
)
TARGETS = [
    pytest.param(CORTEX_M7, id="thumb"),
    pytest.param(AARCH64, id="aarch64"),
    pytest.param(GCC_M7, id="thumb gcc", marks=needs_arm_gcc),
]

PROGRAM = """
#define ALONE __attribute__((noinline, used)) int
#define ROOM(n) volatile char room[n]
volatile int sink;
ALONE leaf(int n) { ROOM(200); room[n] = 1; return room[n + 1]; }
ALONE twice(int n) { ROOM(100); room[n] = 1; return leaf(n) + leaf(n + 1) + room[0]; }
ALONE tail(int n) { { ROOM(1000); room[n] = 1; sink = room[n + 1]; } return leaf(n); }
ALONE again(int n) { ROOM(8); room[n & 7] = 1; return n ? again(n - 1) + room[0] : 0; }
ALONE pong(int n);
ALONE ping(int n) { sink = n; return n ? pong(n - 1) + sink : 0; }
ALONE pong(int n) { sink = n; return n ? ping(n - 1) - sink : 1; }
ALONE variable(int n) { ROOM(n); room[n - 1] = 1; return room[0]; }
ALONE over(int n) { return variable(n) + 1; }
ALONE borrowed(int n) { volatile char *p = __builtin_alloca(n); p[n - 1] = 1; return p[0]; }
ALONE through(int (*f)(int), int n) { ROOM(40); room[n] = 1; return f(n) + room[0]; }
ALONE ends_through(int (*f)(int), int n) { sink = n; return f(n); }
#define CASES(n) case n: return leaf(n) + n; case n + 1: return sink * n; \\
    case n + 2: return sink / n; case n + 3: sink = n; sink = 9; return 2;
ALONE chosen(int n) { switch (n) { CASES(1) CASES(5) CASES(9) CASES(13) default: return 0; } }
void begin(void) {}
"""


@pytest.fixture(params=TARGETS, scope="module")
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of functions whose frames are known, or have no bound."""
    target: ElfTarget = request.param
    folder = tmp_path_factory.mktemp("planted")
    (folder / "a.c").write_text(PROGRAM, encoding="utf-8")
    target.cross_compiler().compile(
        folder, "a.c", "-Wl,--entry=begin", "-Wl,--no-gc-sections", "-o", "a.elf"
    )
    return folder / "a.elf"


def test_frames_on_a_path_add_up(planted: Path) -> None:
    leaf = stack_bound(planted, ("leaf",))
    assert 200 <= leaf.bytes < 240
    twice = stack_bound(planted, ("twice", "leaf"))
    assert leaf.bytes + 100 <= twice.bytes < leaf.bytes + 160
    assert twice.path[:2] == ("twice", "leaf")
    assert twice.unresolved == ()


def test_a_frame_that_was_released_does_not_count_below(planted: Path) -> None:
    tail = stack_bound(planted, ("tail",)).bytes
    assert 1000 <= tail < 1000 + stack_bound(planted, ("leaf",)).bytes


def test_a_switch_is_no_call_through_a_pointer(planted: Path) -> None:
    chosen = stack_bound(planted, ("chosen",))
    assert chosen.unresolved == ()
    assert chosen.path == ("chosen", "leaf")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("again", "recursion has no bound: again -> again"),
        ("ping", "recursion has no bound: ping -> pong -> ping"),
        ("variable", "variable: the size of its frame is not constant"),
        ("over", "variable: the size of its frame is not constant"),
        ("borrowed", "borrowed: the size of its frame is not constant"),
    ],
)
def test_what_has_no_bound_is_refused(planted: Path, entry: str, message: str) -> None:
    with pytest.raises(StackError, match=re.escape(message)):
        stack_bound(planted, ("leaf", entry))


@pytest.mark.parametrize("entry", ["through", "ends_through"])
def test_calls_through_pointers_are_named_and_can_be_resolved(planted: Path, entry: str) -> None:
    alone = stack_bound(planted, (entry,))
    assert alone.unresolved == (entry,)
    named = stack_bound(planted, (entry,), {entry: ("leaf", "twice")})
    assert named.unresolved == ()
    assert named.bytes == alone.bytes + stack_bound(planted, ("twice",)).bytes
    with pytest.raises(StackError, match="recursion"):
        stack_bound(planted, (entry,), {entry: ("again",)})


def project(folder: Path, target: ElfTarget) -> list[str]:
    """Write the C of a program that trains."""
    made = compile_recipe(load_model("digits"), Recipe("last:3", 5), Budget()).program
    files = write_project(made, folder, runtime_folder(), target.variant)
    return [str(f) for f in files]


INCLUDES = ("-I.", "-Iruntime/include", "-Iruntime/freestanding")
LINK = ("-Wl,--entry=model_step", "-Wl,--no-gc-sections", "-o", "a.elf")


def check(ours: dict[str, int], reported: dict[str, int], target: ElfTarget) -> None:
    """Frames are equal; but compilers do not know what assembler inside a function pushes."""
    assert len(reported) > 20
    if target.variant is None:
        assert {n: ours[n] for n in reported} == reported
    else:
        more = {n: ours[n] - reported[n] for n in reported if ours[n] != reported[n]}
        assert all(0 < size <= 24 for size in more.values())
        assert 0 < len(more) < 12


@needs_arm_gcc
@pytest.mark.parametrize("variant", [None, "arm_dsp"])
def test_frames_are_those_that_gcc_reports(tmp_path: Path, variant: str | None) -> None:
    target = replace(GCC_M7, variant=variant)
    files = project(tmp_path, target)
    target.cross_compiler().compile(tmp_path, "-fstack-usage", *INCLUDES, *files, *LINK)
    reported = {}
    for report in tmp_path.glob("*.su"):
        for line in report.read_text("utf-8").splitlines():
            place, size, kind = line.split("\t")
            assert kind == "static"
            reported[place.rpartition(":")[2]] = int(size)
    ours = {f.name: f.frame for f in read_functions(tmp_path / "a.elf").values()}
    check(ours, {n: size for n, size in reported.items() if n in ours}, target)


@pytest.mark.parametrize(
    "target",
    [replace(CORTEX_M7, variant=None), *ELF],
    ids=["cortex-m7 portable", *(t.name for t in ELF)],
)
def test_frames_are_those_that_clang_reports(tmp_path: Path, target: ElfTarget) -> None:
    from elftools.elf.elffile import ELFFile

    files = project(tmp_path, target)
    target.cross_compiler().compile(tmp_path, "-fstack-size-section", *INCLUDES, *files, *LINK)
    with (tmp_path / "a.elf").open("rb") as f:
        file = ELFFile(f)
        (data,) = (s.data() for s in file.iter_sections() if s.name == ".stack_sizes")
        width = file.elfclass // 8
    functions = read_functions(tmp_path / "a.elf")
    reported = {}
    while data:
        address, data = int.from_bytes(data[:width], "little"), data[width:]
        size = shift = 0
        more = True
        while more:  # seven bits a byte, the lowest first; the eighth says that more follow
            size |= (data[0] & 0x7F) << shift
            more, data, shift = bool(data[0] & 0x80), data[1:], shift + 7
        reported[functions[address & ~1].name] = size
    check({f.name: f.frame for f in functions.values()}, reported, target)
