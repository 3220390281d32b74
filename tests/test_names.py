"""Names: what is one, what is none, and that no name of a file meets one of Kilograd's own."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from folders import write_model
from hypothesis import given
from hypothesis import strategies as st

from kilograd import ops
from kilograd.errors import InputError, option, shown
from kilograd.frontend import load_model
from kilograd.learn.recipe import compile_recipe
from kilograd.names import distinct, identifier, label, operator
from kilograd.passes import PrototypeHead, inspection, lite_residual, mobile_blocks
from kilograd.select import Budget
from kilograd.settings import OptimizerKind, Recipe

HOSTILE = [
    "",
    '*/ system("true"); /*',
    'a"b',
    "a'b",
    "a\\\nb",
    "a\nb",
    "??/",
    "a b",
    " a",
    "\x00",
    "\x1b[2J",
    "\u202eabc",
    "\u2028",
    "\ufeff",
    "\ud800",
    "\ue000",
    "\u0378",
    ".a",
    "-a",
    "/a",
    "a" * 129,
    "a" * 10_000,
    "größe",
    "٣",
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda n: ascii(n[:20]))
def test_identifiers_that_are_none(name: str) -> None:
    with pytest.raises(InputError) as caught:
        identifier(name, "graph.json: ops[3].name")
    message = str(caught.value)
    assert message.startswith("graph.json: ops[3].name: ")
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("name", ["a", "0abc", "_", "blocks.0.pw1", "a/b:0", "int", "a" * 128])
def test_identifiers(name: str) -> None:
    assert identifier(name, "x") == name


@given(st.text())
def test_an_identifier_is_ascii_without_spaces_or_is_refused(name: str) -> None:
    try:
        found = identifier(name, "x")
    except InputError:
        return
    assert found == name
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set(" \"'\\*?#<>(){}[];&|$`%,=!@^~")


UNSEEN = ["\x00", "\x1b", "\n", "\x85", "\u202e", "\u200b", "\u2028", "\u2029", "\ufeff", "\ud800"]
UNSEEN += ["\ue000", "\u0378", "\U000e0001"]


@pytest.mark.parametrize("unseen", UNSEEN, ids=ascii)
def test_labels_hold_nothing_that_cannot_be_seen(unseen: str) -> None:
    for text in (unseen, f"a{unseen}b", f"{unseen}a"):
        with pytest.raises(InputError) as caught:
            label(text, "class")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", " ", " a", "a ", "a" * 201, "a\u0301" * 10_000])
def test_labels_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="1 to 200 characters"):
        label(text, "class")


@pytest.mark.parametrize("text", ["dog", "größe", "犬", "собака", "[red] & <b>", "a" * 200, "😀"])
def test_labels_of_any_script(text: str) -> None:
    assert label(text, "class") == text


@given(st.text(max_size=40))
def test_labels_are_in_form_c(text: str) -> None:
    try:
        found = label(text, "class")
    except InputError:
        return
    assert unicodedata.is_normalized("NFC", found)
    assert label(unicodedata.normalize("NFD", text), "class") == found


def test_two_labels_that_look_the_same_are_the_same() -> None:
    names = (label(x, "class") for x in ("caf\u00e9", "cafe\u0301"))
    with pytest.raises(InputError, match="data: two classes are called"):
        distinct(names, "data", "classes")


@given(st.text())
def test_whatever_is_shown_is_one_printable_line(text: str) -> None:
    assert shown(text).isprintable()
    assert shown(shown(text)) == shown(text)
    assert str(InputError(text)).isprintable()
    if text.isprintable():
        assert shown(text) == text


def test_a_message_has_an_end() -> None:
    message = str(InputError("begin" + 10**6 * "x" + "end"))
    assert len(message) < 3000
    assert message.startswith("begin")
    assert message.endswith("end")


def test_all_that_is_wrong_has_a_line_each() -> None:
    error = InputError("net.onnx: 2 layers:", ["a\nb: no", f"c: give {option('out')}"])
    assert str(error).split("\n") == ["net.onnx: 2 layers:", "  a\\nb: no", "  c: give out"]
    assert error.on_command_line().endswith("\n  c: give --out")
    assert f"{error}" == "net.onnx: 2 layers:"


def given_by_kilograd(folder: Path) -> set[str]:
    """Return the names of all nodes and parameters of many programs that are not the network's."""
    model = load_model(str(folder))
    names: set[str] = set()
    for method in ("none", "head", "last:2", "full", "weights:3:1/2"):
        for recipe in (
            Recipe(method, 3),
            Recipe(method, 3, optimizer=OptimizerKind.ADAM),
            Recipe(method, 3, optimizer=OptimizerKind.ROWRMS, accumulate=4),
            Recipe(method, 3, cache=2),
            Recipe(method, 3, prototype_gradients=True, recompute=True),
        ):
            try:
                program = compile_recipe(model, recipe, Budget()).program
            except InputError:
                continue  # not with this method
            for entry in program.entries.values():
                names |= {n.name for n in entry.graph.nodes}
    blocks = mobile_blocks(load_model("digits").graph)
    wider, _ = lite_residual(load_model("digits").graph, [b for b in blocks if b.takes_module][:1])
    names |= {n.name for n in wider.nodes if ".lite" in n.name}
    for method in ("lora:1:1", "grouped:1:2"):
        grown = compile_recipe(load_model("digits"), Recipe(method, 3), Budget()).model.graph
        names |= {n.name for n in grown.nodes if ".lora" in n.name or ".grouped." in n.name}
    for graph in inspection(model.graph, PrototypeHead(3), model.layers).values():
        names |= {n.name for n in graph.nodes}
    return names - {n.name for n in model.graph.nodes if n.inputs}


def test_no_operator_can_have_a_name_that_kilograd_gives(tmp_path: Path) -> None:
    """Derived from what is really made; nodes without a name of their own are never looked up."""
    found = given_by_kilograd(write_model(tmp_path / "small"))
    assert {"label", "lr", "clock", "head.prototypes", "logits", "share", "one"} <= found
    layers = (".lite.", ".lora", ".grouped.")
    for part in (".learned", ".state0", ".sum", ".fisher", ".before", *layers):
        assert any(part in name for name in found), part
    allowed = set()
    for name in found:
        try:
            allowed.add(operator(name, "x"))
        except InputError:
            continue
    assert {name for name in allowed if "." in name} == set()
    unnamed = {name.lower() for name in vars(ops)}
    assert {name.rstrip("0123456789").rstrip("_") for name in allowed} <= unnamed
