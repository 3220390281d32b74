"""`--board`: the program must fit, and where it does not, one that does is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from devices import needs_emulator

import kilograd
from kilograd import cli
from kilograd.boards import find_board
from kilograd.emit.readme import STACK_BYTES
from kilograd.errors import InputError
from kilograd.frontend import load_model, with_classifier
from kilograd.learn.on_board import feature_bytes
from kilograd.learn.recipe import compile_recipe
from kilograd.select import Budget
from kilograd.settings import Recipe
from kilograd.targets import CORTEX_M4, CORTEX_M7, TARGETS, chosen_target, measure, target_of

DIGITS: dict[str, Any] = {"model": "digits", "ways": 5}
MODEL = ("--model", "digits", "--ways", "5")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["kilograd", *words])
        cli.main()
        return capsys.readouterr().out

    return call


def test_a_board_is_a_budget() -> None:
    """What fits, fits with its stack; what does not is refused by name and by how much."""
    most = find_board("uno-r4").ram.size - STACK_BYTES
    assert kilograd.plan(**DIGITS, method="last:3", board="uno-r4").program.sram_bytes <= most
    with pytest.raises(InputError) as refused:
        kilograd.plan(**DIGITS, method="full", board="uno-r4")
    message = refused.value.on_command_line()
    alone = kilograd.plan(**DIGITS, method="full").program.sram_bytes
    assert f"--board uno-r4: method full on digits needs {alone + STACK_BYTES:,} bytes" in message
    assert f" {alone - most:,} more than the 32K (32,768 bytes)" in message


def test_what_is_said_to_fit_fits() -> None:
    with pytest.raises(InputError) as refused:
        kilograd.plan(**DIGITS, method="full", head="linear", board="uno-r4")
    found = re.search(
        r"what fits, with ([\d,]+) bytes to spare: --method (\S+) --rows$",
        refused.value.on_command_line(),
    )
    assert found
    kept: Any = {**DIGITS, "head": "linear", "board": "uno-r4"}
    made = kilograd.plan(**kept, method=found[2], rows=True).program
    spare = find_board("uno-r4").ram.size - STACK_BYTES - made.sram_bytes
    assert spare == int(found[1].replace(",", ""))


@pytest.mark.parametrize("head", ["linear", "int8"])
def test_what_fits_without_a_classifier_says_so(head: str) -> None:
    with pytest.raises(InputError) as refused:
        kilograd.plan("pocket", "last", 6, head=head, board="nrf52-dk")
    message = refused.value.on_command_line()
    assert re.search(r"bytes to spare: --method none --rows --head proto$", message), message
    kilograd.plan("pocket", "none", 6, rows=True, head="proto", board="nrf52-dk")


def test_what_is_said_to_fit_fits_the_classes_of_a_task(tmp_path: Path) -> None:
    """How many classes there are is known when the images are: not the ten of a plan."""
    kilograd.pictures(tmp_path / "photos", each=4)
    with pytest.raises(InputError) as refused:
        kilograd.adapt(tmp_path / "photos", "pocket", "last", board="nrf52-dk")
    message = refused.value.on_command_line()
    found = re.search(r"with ([\d,]+) bytes to spare: --method none --rows$", message)
    assert found, message
    made = kilograd.plan("pocket", "none", 6, rows=True).program
    spare = find_board("nrf52-dk").ram.size - STACK_BYTES - made.sram_bytes
    assert spare == int(found[1].replace(",", ""))


def test_a_classifier_that_no_program_has_takes_no_flash() -> None:
    """A network with a thousand classes goes where its features go, and is refused where not."""
    digits = load_model("digits")
    large = with_classifier(digits, 5000).graph
    assert sum(v.nbytes for v in large.data.values()) > find_board("uno-r4").flash.size
    assert feature_bytes(large) == feature_bytes(digits.graph)
    for method in ("none", "last", "full"):
        program = kilograd.plan(**DIGITS, method=method).program
        assert feature_bytes(digits.graph) <= program.flash_bytes
    with pytest.raises(InputError, match=r"needs at least .* bytes of flash, without"):
        kilograd.plan("pocket", "none", board="uno-r4")


def test_a_strategy_fills_the_board() -> None:
    """Unless it stops at 15 % of the work, as it does where nothing else is said."""
    few, many = (
        kilograd.plan(**DIGITS, method="static-l2", board=board, compute="100%")
        for board in ("uno-r4", "pico-2")
    )
    usual = kilograd.plan(**DIGITS, method="static-l2", board="pico-2")
    assert usual.learned_parameters < many.learned_parameters
    assert few.program.sram_bytes <= find_board("uno-r4").ram.size - STACK_BYTES
    assert few.learned_parameters < many.learned_parameters


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sram": "512K"}, "sram 512K: board pico-2 has 512K (524,288 bytes) of RAM"),
        ({"board": "pico-3"}, "board pico-3: no such board; perhaps pico-2"),
        ({"board": 7}, "board 7: cannot be used"),
    ],
)
def test_what_a_board_does_not_go_with(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        kilograd.plan(**DIGITS, **{"board": "pico-2", **given})
    assert str(refused.value).startswith(message)


def test_less_ram_than_the_board_has_is_a_budget_of_its_own() -> None:
    with pytest.raises(InputError, match=r"^sram 8K \(8,192 bytes\): method last on digits needs"):
        kilograd.plan(**DIGITS, method="last", board="pico-2", sram="8K")


def test_the_processor_is_that_of_the_board() -> None:
    """An STM32F746 has no float64, and its code must not ask for any."""
    assert chosen_target(None, None) == CORTEX_M7
    disco = target_of(find_board("stm32f746-disco"))
    assert chosen_target("cortex-m7", find_board("stm32f746-disco")) == disco
    assert disco.gcc_cpu == ("-mcpu=cortex-m7", "-mfpu=fpv5-sp-d16")
    assert target_of(find_board("nucleo-h743zi2")).gcc_cpu == CORTEX_M7.gcc_cpu
    assert target_of(find_board("microbit-v2")).gcc_cpu == CORTEX_M4.gcc_cpu
    for other in TARGETS:
        if other.name != "cortex-m7":
            with pytest.raises(InputError, match=r"board stm32f746-disco has a cortex-m7; leave"):
                chosen_target(other.name, find_board("stm32f746-disco"))


def test_export_for_a_board_refuses_before_it_writes(tmp_path: Any) -> None:
    for given in ({"board_ram": "1M"}, {"target": "wasm32"}, {"method": "full"}):
        with pytest.raises(InputError):
            kilograd.export(tmp_path / "new", **{**DIGITS, "board": "uno-r4", **given})
    assert not list(tmp_path.iterdir())


@needs_emulator
def test_four_commands_give_one_figure(said: Any, tmp_path: Any) -> None:
    """RAM with the most stack and without, all flash and tables: one word, one figure."""
    words = (*MODEL, "--method", "last", "--board", "stm32f746-disco", "--json")
    plan = json.loads(said("plan", *words))
    export = json.loads(said("export", *words, "--out", str(tmp_path / "project")))
    run = json.loads(said("run", *words, "--steps", "1"))
    for name in ("ram_bound_bytes", "ram_without_stack_bytes", "tables_bytes"):
        assert plan[name] == export[name] == run[name] > 0, name
    assert plan["flash_all_bytes"] == export["flash_all_bytes"] == run["flash_bytes"]
    assert run["ram_bytes"] <= run["ram_bound_bytes"] <= run["ram_bytes"] + 64
    board = find_board("stm32f746-disco")
    assert plan["ram_spare_bytes"] == board.ram.size - plan["ram_bound_bytes"]
    assert plan["flash_spare_bytes"] == board.flash.size - plan["flash_all_bytes"]
    text = said("plan", *words[:-1])
    assert f" {plan['ram_bound_bytes']:,} B" in text
    assert "fits: " in text


@needs_emulator
def test_a_board_runs_what_it_is() -> None:
    """The code for float32 alone gives the same bits."""
    made = compile_recipe(load_model("digits"), Recipe("last", 5), Budget()).program
    assert measure(made, target_of(find_board("stm32f746-disco")), steps=2).bit_exact
