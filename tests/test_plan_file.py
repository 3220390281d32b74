"""Plan files: what is written is read back and learns; each mistake is one line with its fix."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import write_model
from helpers import model_path, needs_shared

from kilograd.errors import InputError
from kilograd.frontend import Model, load_model, resized
from kilograd.learn.recipe import compile_recipe
from kilograd.passes import Part
from kilograd.select import Budget, Evidence, Selection, bias, strategy, weight, write_plan
from kilograd.settings import HeadKind, OptimizerKind, Recipe

EXAMPLES = Path(__file__).parents[1] / "examples" / "plans"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(write_model(tmp_path_factory.mktemp("models") / "small")))


def select(model: Model, path: Path) -> Selection:
    return strategy(str(path))(Evidence(model.name, model.graph, model.layers), Budget())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


def plan(**changes: Any) -> dict[str, Any]:
    return {"network": "small", "learn": {"b1.pw2.weight": "all"}, "head": True, **changes}


SELECTIONS = [
    Selection(),
    Selection(head=False),
    Selection({weight("b1.pw2"): Part(), bias("b1.pw2"): Part()}),
    Selection(
        {weight("b0.pw1"): Part(3, (0, 7)), weight("b1.dw"): Part(2, (5,)), bias("stem"): Part()}
    ),
    Selection({weight("b1.pw1"): Part(0, tuple(range(24)))}, head=False),
]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_what_is_written_is_read_back(small: Model, file: Path, selection: Selection) -> None:
    write_plan(file, "small", small.graph, selection)
    assert select(small, file) == selection
    assert json.loads(file.read_text()).keys() == {"network", "architecture", "learn", "head"}


def test_a_plan_follows_the_layers(small: Model, file: Path, tmp_path: Path) -> None:
    """A network trained again under another name takes the plan; one of other layers does not."""
    chosen = SELECTIONS[3]
    write_plan(file, "small", small.graph, chosen)
    again = load_model(str(write_model(tmp_path / "mine", seed=7)))
    assert select(again, file) == chosen
    assert select(resized(again, 24), file) == chosen
    digits = load_model("digits")
    with pytest.raises(InputError) as caught:
        select(replace(digits, name="small"), file)
    assert "a plan of network 'small', which has other layers than 'small'" in str(caught.value)


def test_a_plan_that_names_a_network_only(small: Model, file: Path, tmp_path: Path) -> None:
    """As earlier versions wrote them; the error says how to make it one of the layers."""
    file.write_text(json.dumps(plan()))
    assert select(small, file) == Selection({weight("b1.pw2"): Part()})
    mine = load_model(str(write_model(tmp_path / "mine", seed=7)))
    with pytest.raises(
        InputError, match=r'add "architecture": "[0-9a-f]{64}" to the file'
    ) as error:
        select(mine, file)
    (digest,) = re.findall("[0-9a-f]{64}", str(error.value))
    file.write_text(json.dumps(plan(architecture=digest)))
    assert select(mine, file) == select(small, file)


def test_by_hand_to_a_program(small: Model, file: Path) -> None:
    learn = {"b1.pw1.weight": {"axis": 0, "index": [1, 2]}, "b1.dw.bias": "all"}
    file.write_text(json.dumps(plan(learn=learn)))
    compiled = compile_recipe(small, Recipe(str(file), 3, HeadKind.LINEAR), Budget())
    kept = {s.name: s.value.shape for s in compiled.program.state}
    assert kept["b1.pw1.weight.learned"] == (2, 1, 1, 8)
    assert kept["b1.dw.bias"] == (24,)
    assert compiled.learned_parameters == 2 * 8 + 24 + 3 * (12 + 1)


def entry(channels: object, name: str = "b1.pw1.weight") -> dict[str, Any]:
    return plan(learn={name: channels})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "expected object, got array"),
        (
            {},
            "a plan has the fields network, learn, head, and may have architecture; this has none",
        ),
        ({"network": "small"}, "and may have architecture; this has network"),
        (plan(tail=True), "this has network, learn, head, tail"),
        (
            plan(network="big"),
            "a plan of network 'big', not of 'small'; give model big, or a plan of small; or, if",
        ),
        (plan(network=None), "network: expected str, got null"),
        (plan(network="a\x1b[2J\n"), r"a plan of network 'a\x1b[2J\n', not of 'small'"),
        (entry("all", "\x1b]0;x\x07"), r"\x1b]0;x\x07: small has no such parameter"),
        (entry({"axis": 10**30, "index": [0]}), "b1.pw1.weight: axis 10000000000000000000: must"),
        (entry({"axis": 0, "index": [10**4000]}), "b1.pw1.weight: index 10000000000000000000: ax"),
        (plan(learn=["b1.pw1.weight"]), "learn: expected object, got array"),
        (plan(head=1), "head: expected bool, got int"),
        (entry("all", "b9.pw1.weight"), "b9.pw1.weight: small has no such parameter; a layer is"),
        (entry("all", "b1.pw1"), "b1.pw1: small has no such parameter"),
        (entry("all", "image"), "image: small has no such parameter"),
        (entry("some"), 'b1.pw1.weight: must be "all", or {"axis": A, "index": [...]}'),
        (entry([1, 2]), 'b1.pw1.weight: must be "all", or'),
        (entry({"axis": 0}), 'b1.pw1.weight: must be "all", or'),
        (
            entry({"axis": 0, "index": [0]}, "b1.pw1.bias"),
            'b1.pw1.bias: a bias learns whole; give "all"',
        ),
        (
            entry({"axis": 1, "index": [0]}),
            "b1.pw1.weight: axis 1: must be 0 (output channels) or 3 (input channels)",
        ),
        (entry({"axis": 4, "index": [0]}), "b1.pw1.weight: axis 4: must be 0 (output"),
        (entry({"axis": -1, "index": [0]}), "b1.pw1.weight: axis -1: must be 0 (output"),
        (entry({"axis": False, "index": [0]}), "b1.pw1.weight: axis False: must be 0 (output"),
        (entry({"axis": [0], "index": [0]}), "b1.pw1.weight: axis [0]: must be 0 (output"),
        (
            entry({"axis": 0, "index": [0]}, "b1.dw.weight"),
            "b1.dw.weight: axis 0: must be 2 (channels)",
        ),
        (entry({"axis": 0, "index": []}), "b1.pw1.weight: index must be a list of channels, at"),
        (entry({"axis": 0, "index": 3}), "b1.pw1.weight: index must be a list"),
        (entry({"axis": 0, "index": [0.0]}), "b1.pw1.weight: index must be a list"),
        (entry({"axis": 0, "index": [True]}), "b1.pw1.weight: index must be a list"),
        (entry({"axis": 0, "index": [24]}), "b1.pw1.weight: index 24: axis 0 has the channels 0.."),
        (entry({"axis": 3, "index": [1, 8]}), "index 8: axis 3 has the channels 0..7"),
        (entry({"axis": 0, "index": [-1]}), "index -1: axis 0 has the channels 0..23"),
        (entry({"axis": 0, "index": [2, 1]}), "index 1: channels must be in increasing order"),
        (entry({"axis": 0, "index": [2, 2]}), "index 2: channels must be in increasing order"),
    ],
)
def test_mistakes(small: Model, file: Path, wrong: object, message: str) -> None:
    file.write_text(json.dumps(wrong))
    with pytest.raises(InputError) as caught:
        select(small, file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000])
def test_not_json(small: Model, file: Path, text: bytes) -> None:
    file.write_bytes(text)
    with pytest.raises(InputError, match=r"plan\.json: (cannot be read as JSON|is no text)"):
        select(small, file)


def test_a_parameter_that_stands_twice(small: Model, file: Path) -> None:
    entries = '"b1.dw.bias": "all", "b1.dw.bias": "all"'
    file.write_text(f'{{"network": "small", "learn": {{{entries}}}, "head": true}}')
    with pytest.raises(InputError, match=r"field 'b1\.dw\.bias' stands twice"):
        select(small, file)


def test_no_file(small: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"method .*cannot be read.*check the path"):
        select(small, tmp_path / "absent.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        select(small, tmp_path / "folder.json")
    with pytest.raises(InputError, match=r"save_plan .*folder.json: cannot be written"):
        write_plan(tmp_path / "folder.json", "small", small.graph, Selection())


def test_linear_head_that_does_not_learn(small: Model, file: Path) -> None:
    file.write_text(json.dumps(plan(head=False)))
    with pytest.raises(InputError, match=r"head linear: .* does not train it"):
        compile_recipe(small, Recipe(str(file), 3, HeadKind.LINEAR), Budget())
    compile_recipe(small, Recipe(str(file), 3, HeadKind.PROTO), Budget())


@needs_shared
def test_mcunet_fits_64_kib_with_a_stack() -> None:
    recipe = Recipe(
        str(EXAMPLES / "mcunet-64kb.json"), 10, optimizer=OptimizerKind.ROWRMS, rows=True
    )
    stack = 1024  # more than `kilograd run` measures
    compile_recipe(load_model(str(model_path("mcunet-5fps"))), recipe, Budget(65536 - stack))


@needs_shared
@pytest.mark.parametrize("kib", [64, 96, 128, 256])
def test_plans_for_all_fit_what_they_are_called_by(kib: int) -> None:
    plan = EXAMPLES / f"static-pointwise-knapsack-{kib}K.json"
    recipe = Recipe(str(plan), 10, optimizer=OptimizerKind.ROWRMS, rows=True)
    mcunet = load_model(str(model_path("mcunet-5fps")))
    compile_recipe(mcunet, recipe, Budget(kib * 1024))
    with pytest.raises(InputError, match="the smallest sram that fits"):
        compile_recipe(mcunet, recipe, Budget(kib * 1024 * 15 // 16))


def test_the_plan_of_the_bundled_network_fits_what_it_is_called_by() -> None:
    recipe = Recipe(
        str(EXAMPLES / "pocket-56kb.json"), 10, optimizer=OptimizerKind.ROWRMS, rows=True
    )
    stack = 1024  # more than `kilograd run` measures
    compiled = compile_recipe(load_model("pocket"), recipe, Budget(56_000 - stack))
    assert compiled.learned_parameters == 24 * 288 + 24 * 384
