"""The text of generated C: nothing in it that a file brought, and names that compilers take."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    SMALL_UNITS,
    clang,
    gcc,
    linked,
    needs_clang,
    needs_gcc,
    network,
    small_network,
    step_feeds,
)
from test_passes import LEARN, WAYS

from kilograd import __version__
from kilograd.emit import Program, header, link, manifest, source, stamp
from kilograd.errors import InputError
from kilograd.ir import Builder, DType, Graph, Node, TensorType
from kilograd.ops import Adam, Clear, CrossEntropy, RowRms, Sgd
from kilograd.passes import LinearHead, Part, PrototypeHead, Training, entries
from kilograd.targets.toolchain import Compiler, runtime_folder

#: What a name must not be able to do: end a comment, a string or a line, hide text, be a keyword,
#: a macro or a function of ours, be like another once it is mapped, be nothing, be long.
HOSTILE = (
    '*/ system("touch owned"); /*',
    "a*/b",
    "/* //",
    "quote \" and '",
    "back\\",
    "back\\\nnext",
    "line\nint main(void)",
    "#include </etc/passwd>",
    "\n#error no\n",
    "tri??/graph",
    "%:define",
    "nul\x00",
    "esc\x1b[31m",
    "rtl\u202etxt",
    "\u2028",
    "\ud800",
    "ünï",
    "int",
    "class",
    "0abc",
    "a.b",
    "a_b",
    "a-b",
    "A_B",
    "",
    " ",
    "x" * 10_000,
    "model_init",
    "MODEL_STATE_BYTES",
    "kg_conv",
    "stamp",
    "constant0",
    "status",
    "s",
    "%s%n{}{0}",
)


def hostile() -> Iterator[str]:
    """The names above, then again with numbers."""
    yield from HOSTILE
    for name, i in zip(cycle(HOSTILE), count()):
        yield f"{name}{i}"


def renamed(graph: Graph, names: Iterator[str]) -> tuple[Graph, dict[str, str]]:
    """Call every tensor otherwise; also return what became of each name."""
    called = {n.name: name for n, name in zip(graph.nodes, names, strict=False)}
    new: dict[Node, Node] = {}
    for n in graph.nodes:
        new[n] = replace(n, name=called[n.name], inputs=tuple(new[x] for x in n.inputs))
    data = {called[k]: v for k, v in graph.data.items()}
    return Graph(tuple(new.values()), tuple(new[o] for o in graph.outputs), data), called


WHOLE = {p.name: Part() for p in network(1, SMALL_UNITS).params()}
LAST = {name: part for name, part in WHOLE.items() if name.startswith("b2.")}
TRAININGS = {
    "prototypes": Training(PrototypeHead(WAYS), Sgd(0), LEARN),
    "codes": Training(PrototypeHead(WAYS), Sgd(0, qas=False), LEARN),
    "adam": Training(LinearHead(WAYS), Adam(0), WHOLE),
    "accumulated, cut": Training(
        PrototypeHead(WAYS, exact=True), RowRms(0), LAST, accumulate=True, cache=True
    ),
    "rows": Training(LinearHead(WAYS), Sgd(0), LAST, rows=True),
    "again": Training(PrototypeHead(WAYS), Sgd(0), WHOLE, recompute=True),
}


def program(training: Training, names: Iterator[str] | None = None) -> Program:
    graph = network(1, SMALL_UNITS)
    if names is None:
        return link(entries(graph, training))
    graph, called = renamed(graph, names)
    learn = {called[k]: v for k, v in training.learn.items()}
    return link(entries(graph, replace(training, learn=learn)))


@pytest.mark.parametrize("name", TRAININGS)
def test_names_of_a_network_never_reach_c(name: str) -> None:
    """Whatever a network calls its tensors, the same bytes are written."""
    plain, found = program(TRAININGS[name]), program(TRAININGS[name], hostile())
    assert source(found) == source(plain)
    assert header(found) == header(plain)
    assert source(plain).isascii()
    assert header(plain).isascii()


@pytest.mark.parametrize("backwards", [False, True])
def test_names_decide_neither_place_nor_order(backwards: bool) -> None:
    """Layouts do not depend on how names sort."""
    plain = program(TRAININGS["adam"])
    found = program(TRAININGS["adam"], (f"{1000 - i if backwards else i:04}" for i in range(1000)))
    assert source(found) == source(plain)


@pytest.mark.parametrize("name", ["head.prototypes", "loss", "label", "lr", "logits", "one"])
def test_an_operator_with_a_name_of_ours_is_not_ours(name: str) -> None:
    """An inference program has it under a number; a program that trains has one of its own."""
    graph = small_network()
    called = iter([name, *(f"n{i}" for i in range(1000))])
    pretending, _ = renamed(graph, called)  # the image
    at = [n.name for n in graph.nodes].index("b0.pw2")
    swapped, _ = renamed(graph, (name if i == at else f"n{i}" for i in count()))
    plain = link({"infer": graph})
    for other in (pretending, swapped):
        assert source(link({"infer": other})) == source(plain)
        assert header(link({"infer": other})) == header(plain)


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("head.prototypes", "prototypes"),
        ("head.bias", "adam"),
        ("loss", "adam"),
        ("label", "prototypes"),
        ("lr", "adam"),
        ("share", "accumulated, cut"),
        ("logits", "rows"),
        ("{}.sum", "accumulated, cut"),
        ("{}.state1", "adam"),
    ],
)
def test_a_name_that_a_training_program_needs_is_refused(name: str, training: str) -> None:
    graph, asked = network(1, SMALL_UNITS), TRAININGS[training]
    name = name.format(next(k for k, v in asked.learn.items() if v.index is None))
    graph, called = renamed(graph, (name if n.name == "pool" else n.name for n in graph.nodes))
    with pytest.raises(InputError, match=re.escape(f"a tensor called {name!r}")):
        entries(graph, asked)
    assert called["pool"] == name


COMPILERS = [
    pytest.param(gcc("-O1"), id="gcc", marks=needs_gcc),
    pytest.param(clang("-O1"), id="clang", marks=needs_clang),
]
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_program_of_hostile_names_compiles_without_a_warning(
    tmp_path: Path, compiler: Compiler
) -> None:
    strict = replace(compiler, flags=(*compiler.flags, *STRICT, "-Wconversion"))
    include = f"-I{runtime_folder() / 'include'}"
    for i, training in enumerate(TRAININGS.values()):
        found = program(training, hostile())
        (tmp_path / "model.h").write_text(header(found), encoding="ascii")
        (tmp_path / "model.c").write_text(source(found), encoding="ascii")
        strict.compile(tmp_path, include, "-I.", "-c", "model.c", "-o", f"{i}.o")


def test_a_program_of_hostile_names_learns_the_same() -> None:
    """And names lead to the same parameters: none is taken for another."""
    training = TRAININGS["accumulated, cut"]
    graph, called = renamed(network(1, SMALL_UNITS), hostile())
    learn = {called[k]: v for k, v in training.learn.items()}
    odd = entries(graph, replace(training, learn=learn))
    plain = entries(network(1, SMALL_UNITS), training)
    hosts = linked(plain), linked(odd)
    rng = np.random.default_rng(0)
    for t, entry in enumerate(["enrol", "step", "enrol_grad", "apply"] * 2):
        calls = zip(plain[entry].inputs(), odd[entry].inputs(), strict=True)
        feeds = {}
        for here, there in calls:
            known = (
                step_feeds(rng, replace(plain[entry], nodes=(here,)), WAYS, t, 0.1)
                if (here.name in {"label", "lr", "clock", "share", "image"})
                else {here.name: rng.integers(-128, 128, here.type.shape).astype(np.int8)}
            )
            feeds[here.name, there.name] = known[here.name]
        for host, side in zip(hosts, (0, 1), strict=True):
            host.call(entry, **{k[side]: np.asarray(v) for k, v in feeds.items()})
    for (name, a), (other, b) in zip(hosts[0].state.items(), hosts[1].state.items(), strict=True):
        assert a.tobytes() == b.tobytes(), (name, other)
    assert hosts[0].state["head.prototypes"].any()


def test_the_manifest_says_what_numbers_stand_for() -> None:
    made = program(TRAININGS["accumulated, cut"], hostile())
    text = manifest(made)
    assert text.isascii()
    found = json.loads(text)
    assert found["kilograd"] == __version__
    assert found["stamp"] == stamp(made)
    assert (found["state_bytes"], found["arena_bytes"]) == (made.state_bytes, made.arena_bytes)
    macros = dict(re.findall(r"^#define (MODEL_\w+) (\d+)", header(made), re.MULTILINE))
    assert {s["macro"]: str(s["offset"]) for s in found["state"]}.items() <= macros.items()
    assert [s["name"] for s in found["state"]] == [s.name for s in made.state]
    assert [c["name"] for c in found["constants"]] == list(made.constants)
    assert {s["macro"] for s in found["state"]} >= {"MODEL_STATE_HEAD_PROTOTYPES"}
    code = source(made)
    for entry in found["entries"]:
        body = code.partition(f"kg_status {entry['function']}(")[2].partition("\n}\n")[0]
        numbers = {int(x) for x in re.findall(r"/\* (\d+) \*/", body)}
        assert numbers <= {n["number"] for n in entry["nodes"]}
        for port in (*entry["inputs"], *entry["outputs"]):
            assert macros[port["macro"]] == str(port["offset"])
    names = {n["name"] for e in found["entries"] for n in e["nodes"]}
    assert {*HOSTILE[1:3]} <= names | {c["name"] for c in found["constants"]}


def test_the_manifest_describes_the_image_of_a_program() -> None:
    (infer,) = json.loads(manifest(link({"infer": small_network()}), "net"))["entries"]
    (image,) = infer["inputs"]
    scale = small_network().inputs()[0].type.affine.scale[0]
    assert image == {
        "name": "image",
        "macro": "NET_INFER_INPUT0",
        "offset": image["offset"],
        "dtype": "int8",
        "shape": [8, 8, 3],
        "scale": scale,
        "zero_point": 0,
    }


def test_a_stamp_is_of_one_program_whatever_it_is_called() -> None:
    made = program(TRAININGS["adam"])
    assert stamp(made) == stamp(program(TRAININGS["adam"], hostile()))
    assert f"{stamp(made):#010x}" in source(made)
    assert f"{stamp(made):#010x}" in source(made, "other")
    stamps = {stamp(program(t)) for t in TRAININGS.values()}
    assert len(stamps) == len(TRAININGS)
    assert not stamps & {0, 0xFFFFFFFF}


def test_macros_of_ours_keep_their_names() -> None:
    proto, linear = program(TRAININGS["prototypes"]), program(TRAININGS["adam"])
    for name in ("STATE_BYTES", "ARENA_BYTES", "STEP_IMAGE", "STEP_LABEL", "STEP_LR", "STEP_CLOCK",
                 "STEP_LOSS", "STEP_LOGITS", "INFER_IMAGE", "INFER_LOGITS"):  # fmt: skip
        assert f"#define MODEL_{name} " in header(linear)
    assert "#define MODEL_ENROL_LABEL " in header(proto)
    assert "#define MODEL_STATE_HEAD_PROTOTYPES " in header(proto)
    assert "#define MODEL_STATE_HEAD_WEIGHT_STATE1 " in header(linear)
    cached = header(program(TRAININGS["accumulated, cut"]))
    assert "#define MODEL_PREFIX_LATENT0 " in cached
    assert "#define MODEL_STEP_LATENT0 " in cached
    assert "#define MODEL_STEP_SHARE " in cached


@pytest.mark.parametrize(
    "name",
    ["", "a-b", "0a", "_a", "ü", "a b", "a\n", "while", "class", "restrict", "kg_x", "KG_x", "kg",
     "string", "stdint", "x" * 65, "*/"],
)  # fmt: skip
def test_a_name_that_c_would_not_take_is_refused(name: str) -> None:
    made = link({"infer": small_network()})
    for emit in (header, source, manifest):
        with pytest.raises(InputError, match="program name"):
            emit(made, name)


@pytest.mark.parametrize("name", ["a", "digits", "Model_2", "x" * 64])
def test_a_name_that_c_takes_begins_everything(name: str, tmp_path: Path) -> None:
    made = link({"infer": small_network()})
    assert f"kg_status {name}_infer(void *state, void *arena);" in header(made, name)
    assert f"#define {name.upper()}_ARENA_BYTES {made.arena_bytes}" in header(made, name)


@pytest.mark.parametrize("name", ["a b", "init", "INIT", "state", "1", "*/", ""])
def test_entry_points_have_names_for_c(name: str) -> None:
    with pytest.raises(ValueError, match="C"):
        link({name: small_network()})


def test_two_parameters_of_one_name_are_refused() -> None:
    def graph(value: float) -> Graph:
        b = Builder()
        return b.graph(b(Clear(), b.param("p", np.full(2, value, np.float32))))

    link({"one": graph(1), "two": graph(1)})
    with pytest.raises(ValueError, match="two parameters are called 'p'"):
        link({"one": graph(1), "two": graph(2)})


def test_two_things_of_one_name_in_c_are_refused() -> None:
    b = Builder()
    kind = TensorType((3,), DType.F32)
    x, label = b.input("x", kind, c_name="x"), b.input("y", TensorType((1,), DType.I32), c_name="x")
    with pytest.raises(ValueError, match="'x' is the name of two things"):
        link({"step": b.graph(b(CrossEntropy(), x, label))})


def test_scratch_memory_is_apart_from_a_tensor_of_its_name() -> None:
    """A tensor may be called as the working memory of another: each has its own bytes."""
    graph = small_network()
    first = next(n for n in graph.nodes if n.op.__class__.__name__ == "Conv")
    odd, _ = renamed(
        graph, (f"{first.name} scratch" if n.name == "pool" else n.name for n in graph.nodes)
    )
    assert source(link({"infer": odd})) == source(link({"infer": graph}))


USER = """
#include "model.h"
static uint32_t state[MODEL_STATE_BYTES / 4], arena[MODEL_ARENA_BYTES / 4];
int main() { return model_init(state) != KG_OK || model_infer(state, arena CAMERA) != KG_OK; }
"""


@needs_gcc
@pytest.mark.parametrize("name", ["adam", "rows"])
def test_a_header_is_c_plus_plus_too(tmp_path: Path, name: str) -> None:
    """A program in C++ compiles without a warning, links with the C, and runs."""
    made = program(TRAININGS[name])
    camera = '#include "kg_rows.h"\nstatic const int8_t pixels[192] = {0};\n'
    camera += "static kg_image image = {pixels, 24};\n"
    camera += "static const kg_rows rows = {kg_image_row, &image};\n"
    user = USER.replace("CAMERA", ", &rows" if name == "rows" else "")
    (tmp_path / "user.cpp").write_text((camera if name == "rows" else "") + user)
    (tmp_path / "model.h").write_text(header(made))
    (tmp_path / "model.c").write_text(source(made))
    include = ["-I.", f"-I{runtime_folder() / 'include'}"]
    files = [str(p) for p in sorted((runtime_folder() / "src").glob("*.c"))]
    gcc("-O1").compile(tmp_path, *include, "-c", "model.c", *files)
    objects = [p.name for p in tmp_path.glob("*.o")]
    command = ["g++", *STRICT, *include, "user.cpp", *objects, "-lm", "-o", "user"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run([tmp_path / "user"], check=True)
