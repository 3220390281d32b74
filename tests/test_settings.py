"""Options: one field each, wherever it is given from."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import kilograd
from kilograd.cli import app
from kilograd.cli.command import Group
from kilograd.data import Augment, Draw, EpisodeKind
from kilograd.errors import InputError, option
from kilograd.options import Option, changed, leaves, values
from kilograd.select import strategy
from kilograd.settings import (
    Build,
    HeadKind,
    Limits,
    OptimizerKind,
    Recipe,
    Schedule,
    Settings,
    split_method,
    split_methods,
)


def test_every_option_stands_in_one_record_alone() -> None:
    names = [
        f.name
        for record in (Draw, Recipe, Limits, Schedule, Settings)
        for f in fields(record)
        if any(isinstance(x, Option) for x in _metadata(record, f.name))
    ]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"ways"}, "of an episode, and of a head that has none"
    assert {leaf.name for leaf in leaves(Settings)} == set(names)


def _metadata(record: type, name: str) -> tuple[object, ...]:
    return getattr(get_type_hints(record, include_extras=True)[name], "__metadata__", ())


def test_options_are_set_wherever_they_stand() -> None:
    made = Settings.of(ways=3, lr=0.5, sram="64K", optimizer="adam", guard=True)
    assert (made.draw.ways, made.recipe.ways) == (3, 3)
    assert (made.schedule.lr, made.limits.sram, made.guard) == (0.5, "64K", True)
    assert made.recipe.optimizer is OptimizerKind.ADAM
    again = changed(Settings(), {k: v for k, v in values(made).items() if v is not None})
    assert again == made


def test_numbers_of_numpy_and_paths_are_taken() -> None:
    import numpy as np

    made = Settings.of(
        lr=np.float64(0.5),
        seed=np.int64(3),
        rows=np.bool_(True),
        sram=np.int64(9000),
        method=Path("my/plan.json"),
    )
    assert (made.schedule.lr, made.schedule.seed, made.recipe.rows) == (0.5, 3, True)
    assert (made.limits.sram, made.recipe.method) == (9000, "my/plan.json")
    assert [type(x) for x in (made.schedule.lr, made.schedule.seed)] == [float, int]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sarm": "64K"}, r"^sarm: no such option; there are sram"),
        ({"shots": 2.5}, r"^shots 2.5: cannot be used \(Expected `int"),
        (
            {"optimizer": "sdg"},
            r"^optimizer sdg: cannot be used .*; give sgd or momentum or rowrms or adam$",
        ),
        ({"head": "cosine"}, r"^head cosine: cannot be used .*; give proto or linear or int8$"),
        ({"iterations": 1 << 30}, r"^iterations 1073741824: 16777216 is the most$"),
        ({"state_bits": 12}, r"^state_bits 12: must be 32, 16 or 8$"),
        ({"state_bits": -8}, r"^state_bits -8: must be 32, 16 or 8$"),
        ({"rows": "perhaps"}, r"^rows perhaps: cannot be used"),
        ({"ways": True}, r"^ways True: cannot be used"),
        ({"lr": None}, r"^lr None: cannot be used"),
        ({"cache": 2, "cache_bytes": "1K"}, r"^cache 2: cache_bytes says how many views"),
        ({"lr": 1001.0}, r"^lr 1001: must be in 1.18e-38 ... 1000; int8 weights learn at"),
        ({"qas": "off"}, r"^qas off: cannot be used .*; give true or false$"),
        (
            {"qas": False, "optimizer": "rowrms"},
            r"^qas is off: rowrms divides .*optimizer sgd or momentum, or",
        ),
        (
            {"qas": False, "optimizer": "adam"},
            r"^qas is off: adam divides .*optimizer sgd or momentum, or",
        ),
    ],
)
def test_what_cannot_be_set(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings.of(**given)


def test_without_qas_rates_may_be_as_high_as_codes_need() -> None:
    made = Settings.of(qas=False, lr=5e5)
    assert (made.recipe.qas, made.recipe.rule) == (False, "sgd without QAS")
    assert Settings().recipe.rule == "sgd"
    assert Settings().varied("last:2@qas=false,lr=5e5") == replace(
        made, recipe=replace(made.recipe, method="last:2")
    )


def test_messages_name_fields_to_python_and_options_to_the_command_line() -> None:
    error = InputError(f"{option('cache_bytes')} 'x': {option('lr')}\x1b[2J")
    assert str(error) == r"cache_bytes 'x': lr\x1b[2J"
    assert error.on_command_line() == r"--cache-bytes 'x': --lr\x1b[2J"
    outer = InputError(f"a.json: {error}")
    assert outer.on_command_line().startswith("a.json: --cache-bytes 'x': --lr")


# ---- options of a method's own ----


@pytest.mark.parametrize(
    ("text", "method", "own"),
    [
        ("last:2", "last:2", {}),
        ("last:2@0.01", "last:2", {"lr": 0.01}),
        ("last@lr=0.01", "last", {"lr": 0.01}),
        (
            "full@optimizer=adam,head=linear,rows=true,cache=4",
            "full",
            {
                "optimizer": OptimizerKind.ADAM,
                "head": HeadKind.LINEAR,
                "rows": True,
                "cache": 4,
            },
        ),
        ("full@cache-bytes=64K,augment=none", "full", None),
        ("my@home.json", "my@home.json", {}),
        ("my@home.json@sram=64K", "my@home.json", {"sram": "64K"}),
        ("odd@name", "odd@name", {}),
        ("last@.5", "last", {"lr": 0.5}),
        ("last@lr=.5, cache=2", "last", {"lr": 0.5, "cache": 2}),
    ],
)
def test_a_method_may_have_options_of_its_own(
    text: str, method: str, own: dict[str, object] | None
) -> None:
    own = {"cache_bytes": "64K", "augment": Augment.NONE} if own is None else own
    assert split_method(text) == (method, own)
    varied = Settings().varied(text)
    assert varied == changed(Settings(), {"method": method, **own})


def test_methods_are_split_at_commas_but_not_their_options() -> None:
    text = "none, last@lr=0.1,cache=2,full@0.01,tinytrain@sram=64K,head@optimizer=adam,rows=1"
    assert split_methods(text) == (
        "none",
        "last@lr=0.1,cache=2",
        "full@0.01",
        "tinytrain@sram=64K",
        "head@optimizer=adam,rows=1",
    )
    assert split_methods("a=b.json,none") == ("a=b.json", "none")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("last@shots=2", "'shots' is no option that a method may have of its own; there are head,"),
        ("last@seed=2", "'seed' is no option"),
        ("last@lr=fast", "lr fast: cannot be used .*; give a number"),
        ("last@lr=1_0", "lr 1_0: cannot be used"),
        ("last@1_0", "method 'last@1_0': unknown"),
        ("last@lr=-1", "^methods last@lr=-1: lr -1.0: must be a positive number"),
        ("last@nan", "^methods last@nan: lr nan: must be a positive number"),
        ("last@cache=1.5", "cache 1.5: cannot be used"),
        ("last@=3", "'' is no option"),
        ("last@lr=0.1,", "'' is no option"),
        ("last@lr=0.1,lr=0.2", "^methods last@lr=0.1,lr=0.2: says one thing twice"),
        ("last@cache-bytes=1K,cache_bytes=2K", "says one thing twice"),
        ("last@rows", "^methods last@rows: give rows a value, as in rows=true"),
        ("last@rows=yes", "rows yes: cannot be used .*; give true or false"),
        ("last@head=", "head '': cannot be used .*; give proto or linear"),
        ("last@channels=null", "channels null: cannot be used"),
        ("last@cache=4,cache_bytes=64K", "^methods last@cache=4,cache_bytes=64K: cache 4: cache_b"),
    ],
)
def test_options_that_no_method_may_have(method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        strategy(Settings().varied(method).recipe.method)


# ---- the command line ----


def test_help_says_every_option_once_and_as_the_field_does() -> None:
    (adapt,) = [c for c in _commands() if c.name == "adapt"]
    told = {p.name: p.help for p in adapt.params}
    for leaf in leaves(Settings):
        if leaf.name not in {"episode", "seed"}:  # adapt says more of these itself
            assert told[leaf.name].startswith(leaf.about.help.partition("\x1a")[0][:12]), leaf


def test_every_command_can_say_more_or_less_and_has_a_group() -> None:
    for command in _commands():
        flags = {flag for p in command.params for flag in p.opts}
        assert {"--verbose", "-v", "--quiet", "-q"} <= flags, command.name
        assert command.rich_help_panel in set(Group), command.name


def _commands() -> list[Any]:
    from typer.main import get_command

    return list(get_command(app).commands.values())  # type: ignore[attr-defined]


def test_a_shell_completes_commands() -> None:
    asked = {"_KILOGRAD_COMPLETE": "complete_bash", "COMP_WORDS": "kilograd ex", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "kilograd"], env=asked, check=False, capture_output=True, text=True
    )
    assert done.stdout.split() == ["export"]


def test_defaults_are_those_of_the_records() -> None:
    assert values(Build()) == {k: values(Settings())[k] for k in values(Build())} | {"ways": 10}
    assert Settings().draw.episode is EpisodeKind.FIXED


def test_the_library_names_no_option_of_the_command_line() -> None:
    """Its messages speak of fields (`option`); only `cli` knows how they are typed."""
    found = []
    for path in Path(kilograd.__file__).parent.rglob("*.py"):
        if path.parent.name == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
                texts = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant)]
                found += [
                    (path.name, text)
                    for text in texts
                    if isinstance(text, str) and re.search(r"--[a-z]", text)
                ]
    assert sorted(found) == [
        ("extras.py", "); pip install --upgrade "),
        ("toolchain.py", ": --version fails; mend or replace this C compiler"),
    ]
