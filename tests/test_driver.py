"""The driver makes the calls of every kind of program in the documented order, which is by hand
here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from applications import application, said
from helpers import image, linked, same_bits, small_network

from kilograd.emit import link
from kilograd.emit.application import Application
from kilograd.emit.project import write_application, write_project
from kilograd.ir import Array, Graph, Value, interpret
from kilograd.ops import Adam, Momentum, RowRms, Sgd
from kilograd.passes import LinearHead, Part, PrototypeHead, Training, entries, inspection
from kilograd.targets import Driver, HostProgram
from kilograd.targets.host import _runtime_objects
from kilograd.targets.runner import Status
from kilograd.targets.toolchain import find_compiler, runtime_folder

DOCS = Path(__file__).parents[1] / "docs"
WAYS, PASSES, RATE, SEED = 3, 2, 0.02, 7
LATE = {"b2.pw2.weight": Part(), "b2.pw1.weight": Part(3, (0, 4))}
EARLY = {"stem.weight": Part(), **LATE}
PROTO, EXACT, LINEAR = PrototypeHead(WAYS), PrototypeHead(WAYS, exact=True), LinearHead(WAYS)


@dataclass(frozen=True)
class Kind:
    """A kind of program, the images that share an update, and what must be called for a pass."""

    training: Training
    group: int
    calls: str


KINDS = {
    "sgd": Kind(Training(PROTO, Sgd(0), LATE), 1, "forget enrol*5 step*5"),
    "full": Kind(Training(PROTO, RowRms(0), EARLY, cache=True), 1, "forget enrol*5 step*5"),
    "rows": Kind(Training(PROTO, Sgd(0), LATE, rows=True), 1, "forget enrol*5 step*5"),
    "recompute": Kind(Training(PROTO, Sgd(0), EARLY, recompute=True), 1, "forget enrol*5 step*5"),
    "linear": Kind(Training(LINEAR, Adam(0), LATE), 1, "step*5"),
    "head": Kind(Training(LINEAR, Sgd(0)), 1, "step*5"),
    "nothing learns": Kind(Training(PROTO, Sgd(0)), 1, "forget enrol*5"),
    "accumulate": Kind(
        Training(PROTO, RowRms(0), LATE, accumulate=True),
        2,
        "forget enrol*5 step*2 apply step*2 apply step apply",
    ),
    "linear accumulate": Kind(
        Training(LINEAR, Sgd(0), LATE, accumulate=True), 4, "step*4 apply step apply"
    ),
    "prefix": Kind(
        Training(PROTO, Sgd(0), LATE, cache=True), 1, "forget (prefix,enrol)*5 (prefix,step)*5"
    ),
    "prefix by rows": Kind(
        Training(PROTO, Sgd(0), LATE, cache=True, rows=True, accumulate=True),
        9,
        "forget (prefix,enrol)*5 (prefix,step)*5 apply",
    ),
    "exact": Kind(
        Training(EXACT, Sgd(0), LATE, accumulate=True),
        5,
        "forget enrol*5 step*5 enrol_grad*5 apply",
    ),
    "momentum": Kind(Training(PROTO, Momentum(0, state_bits=8), LATE), 1, "forget enrol*5 step*5"),
    "sums in codes": Kind(
        Training(LINEAR, Adam(0, state_bits=16), LATE, accumulate=True, sum_bits=8),
        4,
        "step*4 apply step apply",
    ),
    "exact, sums in codes": Kind(
        Training(EXACT, Adam(0, state_bits=8), LATE, accumulate=True, sum_bits=16),
        5,
        "forget enrol*5 step*5 enrol_grad*5 apply",
    ),
    "exact prefix": Kind(
        Training(EXACT, RowRms(0), LATE, accumulate=True, cache=True),
        5,
        "forget (prefix,enrol)*5 (prefix,step)*5 (prefix,enrol_grad)*5 apply",
    ),
}
"""`name*n`: so many calls; `(a,b)*n`: so many of both in turn."""


def written_out(calls: str) -> list[str]:
    names = []
    for word in calls.split():
        call, _, times = word.partition("*")
        names += call.strip("()").split(",") * int(times or 1)
    return names


def test_written_out_by_hand() -> None:
    assert written_out("a (b,c)*2 d*2") == ["a", "b", "c", "b", "c", "d", "d"]


class Interpreter:
    """Entry points as numpy defines them, and the parameters that they change."""

    def __init__(self, graphs: dict[str, Graph]) -> None:
        self.graphs, self.program = graphs, link(graphs)
        self.state: dict[str, Value] = {s.name: s.value for s in self.program.state}
        self.calls: list[str] = []

    def call(self, entry: str, **inputs: Any) -> dict[str, Array]:
        self.calls.append(str(entry))
        graph = self.graphs[entry]
        types = {n.name: n.type for n in graph.inputs()}
        assert types.keys() == inputs.keys()
        feeds = {
            name: np.asarray(inputs[name], kind.dtype.numpy).reshape(kind.shape)
            for name, kind in types.items()
        }
        found = interpret(graph, {**feeds, **self.state})
        self.state |= {name: value for name, value in found.items() if name in self.state}
        return {n.name: np.asarray(found[n.name]) for n in graph.outputs if not n.op.writes}


def task() -> tuple[list[Array], list[int], list[Array]]:
    """Return five images, their labels, and other views of the same images."""
    rng = np.random.default_rng(5)
    size = small_network().inputs()[0].type.shape[0]
    plain, views = ([image(rng, size) for _ in range(5)] for _ in range(2))
    return plain, [0, 1, 2, 1, 0], views


def learned_by_hand(machine: Interpreter, group: int) -> list[float]:
    """Make the calls of docs/design.md one by one; return the losses."""
    has, losses, updates = machine.graphs.keys(), [], 0
    plain, labels, views = task()

    def given(x: Array) -> dict[str, Array]:
        return machine.call("prefix", image=x) if "prefix" in has else {"image": x}

    def seen(entry: str, number: int) -> dict[str, Any]:
        """The clock of an image, for an entry point that rounds a sum."""
        takes = {n.name for n in machine.graphs[entry].inputs()}
        return {"clock": (SEED, number)} if "apply" in has and "clock" in takes else {}

    for turn in range(PASSES):
        if "enrol" in has:
            machine.call("forget")
            for x, label in zip(plain, labels, strict=True):
                machine.call("enrol", **given(x), label=label)
        for start in range(0, 5 if "step" in has else 0, group):
            own = range(start, min(start + group, 5))
            control = {"lr": RATE / (1 + turn), "clock": (SEED, updates)}
            for number, i in enumerate(own, 5 * turn + start):
                more = {"share": 1 / len(own)} if "apply" in has else control
                more |= seen("step", number)
                out = machine.call("step", **given(views[i]), label=labels[i], **more)
                losses.append(float(out["loss"][0]))
            if "enrol_grad" in has:
                for number, (x, label) in enumerate(zip(plain, labels, strict=True), 5 * turn):
                    more = seen("enrol_grad", number)
                    machine.call("enrol_grad", **given(x), label=label, **more)
            if "apply" in has:
                machine.call("apply", **control)
            updates += 1
    return losses


def learned_by_driver(driver: Driver, group: int, passes: int = PASSES) -> list[float]:
    plain, labels, views = task()
    marks = [np.array([label], np.int32) for label in labels]
    losses: list[float] = []
    for turn in range(passes):
        driver.enrol(zip(map(driver.show, plain), marks, strict=True))
        for number, start in enumerate(range(0, 5, group)):
            own = range(start, min(start + group, 5))
            losses += driver.update(
                ((driver.show(views[i]), marks[i]) for i in own),
                zip(map(driver.show, plain), marks, strict=True),
                share=1 / len(own),
                rate=RATE / (1 + turn),
                clock=(SEED, turn * -(-5 // group) + number),
                seen=5 * turn + start,
            )
    return losses


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_program_learns_what_its_definition_learns_by_hand(kind: Kind) -> None:
    graphs = entries(small_network(), kind.training)
    machine, host = Interpreter(graphs), linked(graphs)
    expected = learned_by_hand(machine, kind.group)
    driver = Driver(host)
    assert learned_by_driver(driver, kind.group) == expected
    assert len(expected) == (PASSES * 5 if kind.training.learn or "step" in graphs else 0)
    assert host.state.keys() == machine.state.keys()
    for name, value in machine.state.items():
        assert same_bits(host.state[name].copy(), np.asarray(value)), name
    changed = [s.name for s in host.program.state if not same_bits(s.value, host.state[s.name])]
    assert changed, "something was learned"
    (x, *_), *_ = task()
    assert same_bits(driver.infer(x), machine.call("infer", image=x)["logits"])


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_the_order_of_calls(kind: Kind) -> None:
    machine = Interpreter(entries(small_network(), kind.training))
    learned_by_driver(Driver(machine), kind.group, passes=1)
    assert machine.calls == written_out(kind.calls)


def test_every_entry_point_is_in_some_order() -> None:
    found = {e for kind in KINDS.values() for e in entries(small_network(), kind.training)}
    found |= inspection(small_network(), PROTO, ["b2.pw1"]).keys()
    called = {name for kind in KINDS.values() for name in written_out(kind.calls)}
    assert found == called | {"infer", "inspect"}


def test_an_inspection_is_driven_too() -> None:
    graphs = inspection(small_network(), PROTO, ["b1.dw", "b2.pw1"])
    machine, host = Interpreter(graphs), linked(graphs)
    plain, labels, views = task()
    driver = Driver(host)
    marks = [np.array([label], np.int32) for label in labels]
    driver.enrol(zip(map(driver.show, plain), marks, strict=True))
    losses = [driver.inspect(driver.show(x), y) for x, y in zip(views, marks, strict=True)]
    machine.call("forget")
    for x, label in zip(plain, labels, strict=True):
        machine.call("enrol", image=x, label=label)
    outs = [
        machine.call("inspect", image=x, label=y)["loss"]
        for x, y in zip(views, labels, strict=True)
    ]
    assert losses == [float(x[0]) for x in outs]
    for name, value in machine.state.items():
        assert same_bits(host.state[name].copy(), np.asarray(value)), name


def test_gradients_without_an_update() -> None:
    """The sums grow by the whole gradient of a sample, and nothing else changes."""
    graphs = entries(small_network(), KINDS["accumulate"].training)
    machine, host = Interpreter(graphs), linked(graphs)
    driver = Driver(host)
    samples = [({"image": x}, np.array([y], np.int32)) for x, y in zip(*task()[:2], strict=True)]
    driver.enrol(samples)
    before = {name: value.copy() for name, value in host.state.items()}
    machine.state |= before
    shown, label = samples[0]
    loss = driver.accumulate(shown, label)
    out = machine.call("step", **shown, label=label, share=1)
    assert loss == float(out["loss"][0])
    for name, value in host.state.items():
        assert same_bits(value.copy(), np.asarray(machine.state[name])), name
        assert same_bits(value.copy(), before[name]) == (not name.endswith(".sum")), name


def test_a_group_needs_a_program_that_accumulates() -> None:
    driver = Driver(Interpreter(entries(small_network(), KINDS["sgd"].training)))
    sample = {"image": task()[0][0]}, np.array([0], np.int32)
    with pytest.raises(ValueError, match="updates after each sample"):
        list(driver.update([sample, sample], share=0.5, rate=RATE, clock=(0, 0)))


def test_a_program_that_rounds_sums_must_know_what_was_seen() -> None:
    driver = Driver(Interpreter(entries(small_network(), KINDS["sums in codes"].training)))
    sample = {"image": task()[0][0]}, np.array([0], np.int32)
    with pytest.raises(ValueError, match="how many images were seen"):
        list(driver.update([sample], share=0.5, rate=RATE, clock=(0, 0)))


# ---- what is exported ----


def test_the_documented_order() -> None:
    """The table of docs/exported-project.md, for the program that has every call."""
    text = (DOCS / "exported-project.md").read_text(encoding="utf-8")
    section = text.partition("## The order of calls\n")[2].partition("\n## ")[0]
    table = re.findall(r"^\| `model_(\w+)` \| ([^|]+) \|", section, re.MULTILINE)
    machine = Interpreter(entries(small_network(), KINDS["exact prefix"].training))
    driver, (plain, labels, _) = Driver(machine), task()
    marks = [np.array([label], np.int32) for label in labels]
    support = list(zip(map(driver.show, plain), marks, strict=True))
    machine.calls.clear()
    driver.enrol(support)
    list(driver.update(support[:2], support, share=0.5, rate=RATE, clock=(SEED, 0)))
    times = {"once": 1, "each image of the support": 5, "a view of each image of the group": 2}
    assert machine.calls == [call for call, often in table for _ in range(times[often])]


TRACE = """\
#include <stdio.h>
#include "model.h"
#define TRACED(call, ...) (puts("call " #call), model_##call(__VA_ARGS__))
{macros}
#include "example.c"
"""


def example_of(app: Application, folder: Path) -> list[str]:
    """Build and run the exported example; return its calls, and what it prints between them."""
    write_example(app, folder)
    entries = app.program.entries
    macros = "\n".join(f"#define model_{e}(...) TRACED({e}, __VA_ARGS__)" for e in entries)
    (folder / "trace.c").write_text(TRACE.format(macros=macros), encoding="utf-8")
    return run_example(folder, "trace.c").stdout.splitlines()


def write_example(app: Application, folder: Path) -> None:
    """Export an application for this machine."""
    runtime = runtime_folder()
    files = write_project(app.program, folder, runtime, None)
    write_application(app, folder, runtime, files, "make", "")


def run_example(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Build an application, with the runtime that this machine has built already, and run it."""
    compiler = find_compiler()
    runtime = map(str, _runtime_objects(compiler))
    flags = ("-O0", "-I.", "-Iruntime/include")
    compiler.compile(folder, *flags, name, "host.c", "model.c", *runtime, "-lm", "-o", "run")
    return subprocess.run([folder / "run"], check=False, capture_output=True, text=True)


class Traced:
    """A runner that notes its calls."""

    def __init__(self, host: HostProgram) -> None:
        self._host, self.lines = host, list[str]()
        self.program = host.program

    def call(self, entry: str, **inputs: Array) -> dict[str, Array]:
        self.lines.append(f"call {entry}")
        return self._host.call(entry, **inputs)


@pytest.mark.skipif(not shutil.which("cc"), reason="no cc")
@pytest.mark.parametrize(
    "kind",
    ["sgd", "rows", "linear", "nothing learns", "accumulate", "prefix by rows", "exact prefix"],
)
def test_the_exported_example_is_this_machine_s_to_the_bit(kind: str, tmp_path: Path) -> None:
    """Call by call, it makes those of the driver; losses, predictions and the state are equal."""
    graphs = entries(small_network(), KINDS[kind].training)
    host = linked(graphs)
    app, runner = application(host.program), Traced(host)
    printed = example_of(app, tmp_path)
    expected = said(app, runner, tmp_path, host._state[: app.program.state_bytes])
    assert [line for line in printed if not line.startswith("call ")] == expected
    assert [line for line in printed if line.startswith("call ")] == runner.lines


@pytest.mark.skipif(not shutil.which("cc"), reason="no cc")
@pytest.mark.parametrize("head", [PrototypeHead(1), LinearHead(1)], ids=["prototypes", "linear"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_the_example_of_a_single_class_runs(
    head: PrototypeHead | LinearHead, accumulate: bool, tmp_path: Path
) -> None:
    training = Training(head, Sgd(0), LATE, accumulate=accumulate)
    printed = example_of(application(link(entries(small_network(), training))), tmp_path)
    assert "accuracy after training: 4 of 4" in printed


@pytest.mark.skipif(not shutil.which("cc"), reason="no cc")
def test_an_example_says_what_is_refused_and_ends_with_it(tmp_path: Path) -> None:
    """A bad status is told in words, and is what main returns."""
    app = application(linked(entries(small_network(), KINDS["sgd"].training)).program)
    write_example(app, tmp_path)
    text = (tmp_path / "example.c").read_text("ascii")
    (tmp_path / "example.c").write_text(text.replace("#define RATE ", "#define RATE -"), "ascii")
    run = run_example(tmp_path, "example.c")
    assert run.returncode == Status.BAD_RATE
    assert run.stdout.splitlines()[-1] == "the rate is not a positive finite number"


NAMES = """\
#include <stdio.h>
#include "classes.h"
int main(void) {
    for (int i = 0; i < CLASSES_NAMED; i++)
        fwrite(class_names[i], 1, strlen(class_names[i]) + 1, stdout);
    return 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="no cc")
def test_names_of_classes_reach_c_and_the_page_as_they_are(tmp_path: Path) -> None:
    """Whatever they are made of: C prints them, and in Markdown they mean nothing."""
    odd = ("*/ int x; /*", 'a"b\\', "what??/", "\u00e9t\u00e9", "1234", "%s")
    names = (*odd, "| [x](y) | `z`", "<b>")
    program = link(entries(small_network(), KINDS["sgd"].training))
    app = application(program, classes=names)
    write_example(app, tmp_path)
    (tmp_path / "names.c").write_text("#include <string.h>\n" + NAMES, "ascii")
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-trigraphs")
    find_compiler().compile(tmp_path, *strict, "names.c", "-o", "names")
    said = subprocess.run([tmp_path / "names"], check=True, capture_output=True).stdout
    assert said.decode("utf-8").split("\0") == [*names, ""]
    page = (tmp_path / "README.md").read_text("utf-8")
    assert "| 3 | \u00e9t\u00e9 |\n" in page
    assert "| 6 | \\| \\[x\\](y) \\| \\`z\\` |\n" in page
    assert "<b>" not in page.replace("\\<b", "")


PAGE = """\
#include "kg_frame.h"
#include "model.h"
enum {{ SLOT }};
void flash_write(int slot, const void *from, int bytes), flash_read(int slot, void *to, int bytes);
kg_status user(const uint8_t *pixels, void *state, void *arena);
kg_status user(const uint8_t *pixels, void *state, void *arena) {{
    kg_status status = KG_OK;
    {blocks}
    return status;
}}
"""


@pytest.mark.skipif(not shutil.which("cc") or not shutil.which("c++"), reason="no compilers")
@pytest.mark.parametrize("kind", ["sgd", "rows"])
def test_the_c_of_a_readme_compiles_in_c_and_c_plus_plus(kind: str, tmp_path: Path) -> None:
    write_example(application(link(entries(small_network(), KINDS[kind].training))), tmp_path)
    page = (tmp_path / "README.md").read_text("utf-8")
    blocks = "".join(re.findall(r"^```c\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert "model_infer" in blocks
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Werror")
    for name, command in (("user.c", ("cc", "-std=c99")), ("user.cpp", ("c++", "-std=c++11"))):
        (tmp_path / name).write_text(PAGE.format(blocks=blocks), "ascii")
        include = ("-I.", "-Iruntime/include", "-fsyntax-only")
        done = subprocess.run(
            [*command, *strict, *include, name],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_a_readme_says_what_every_status_means(tmp_path: Path) -> None:
    write_example(application(link(entries(small_network(), KINDS["sgd"].training))), tmp_path)
    page = (tmp_path / "README.md").read_text("utf-8")
    found = re.findall(r"^\| `(KG_\w+)`", page, re.MULTILINE)
    assert found == [f"KG_{status.name}" for status in Status]
