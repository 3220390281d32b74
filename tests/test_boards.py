"""Boards: their figures are plausible, agree with each other, and each has its source."""

from __future__ import annotations

import json
import re

import pytest

from kilograd import cli
from kilograd.boards import BOARDS, Board, Fpu, Region, find_board
from kilograd.errors import InputError
from kilograd.targets import CORTEX_M7, TARGETS

each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda b: b.name)


def inside(a: Region, b: Region) -> bool:
    return b.origin <= a.origin and a.end <= b.end


def apart(a: Region, b: Region) -> bool:
    return a.end <= b.origin or b.end <= a.origin


def test_there_are_many_and_their_names_are_typed_with_ease() -> None:
    assert len(BOARDS) >= 25
    names = [b.name for b in BOARDS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+([-.][a-z0-9]+)*", name) for name in names)
    assert len({b.maker for b in BOARDS}) >= 8
    assert {b.chip.core for b in BOARDS} == {"cortex-m4", "cortex-m7", "cortex-m33"}


@each_board
def test_a_board_is_plausible(board: Board) -> None:
    chip = board.chip
    assert chip.core in {t.name for t in TARGETS}
    assert 32 << 10 <= board.ram.size <= 4 << 20
    assert 128 << 10 <= board.flash.size <= 8 << 20
    assert board.ram.size <= board.ram_total
    assert 40 <= board.mhz <= 600
    ram = (chip.ram, *chip.other_ram)
    for bank in (*ram, board.flash):
        assert bank.origin % 512 == 0, "a vector table lies at a multiple of its size"
        assert bank.size % 512 == 0
        assert 0 <= bank.origin < bank.end <= 1 << 32
        # Armv7-M and Armv8-M: nothing is executed in, or stacked on, devices
        assert bank.end <= 0x40000000 or not 0x40000000 <= bank.origin < 0x60000000 or bank in ram
    assert inside(board.flash, chip.flash)
    pairs = [(a, b) for i, a in enumerate([*ram, chip.flash]) for b in [*ram, chip.flash][:i]]
    # what lies at 0 in a device with ITCM is not what lies there in one with flash
    assert all(apart(a, b) for a, b in pairs)
    assert all(bank.size <= chip.ram.size for bank in chip.other_ram)


@each_board
def test_a_board_has_its_sources(board: Board) -> None:
    for text in (board.source, board.chip.memory, board.chip.manual, board.title, board.maker):
        assert len(text) >= 3
        assert text == text.strip()
        assert "|" not in text, "it stands in a table"
    assert re.search(r"[\w-]+/[\w.-]+: \S+/\S+\.(dtsi|ld)", board.chip.memory)


@each_board
def test_fpu_and_core_go_together(board: Board) -> None:
    """The Cortex-M4 and M33 have no double precision to choose."""
    assert board.chip.fpu is Fpu.SINGLE or board.chip.core == CORTEX_M7.name


@each_board
def test_words_for_the_hardware_lie_behind_the_vectors(board: Board) -> None:
    boot = board.chip.boot
    if boot:
        assert boot.offset >= 16 * 4
        assert boot.offset % 4 == 0
        assert board.flash == board.chip.flash, "a boot loader has its own"
        assert all(0 <= word < 1 << 32 for word in boot.words)
        assert boot.what


@pytest.mark.parametrize("name", ["pico-2", "PICO-2", " Pico_2 ", "pico 2"])
def test_a_board_is_found_however_its_name_is_typed(name: str) -> None:
    assert find_board(name).name == "pico-2"


def test_a_title_is_a_name_too() -> None:
    assert find_board("STM32F746G-DISCO") is find_board("stm32f746-disco")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("stm32f746-discovery", "stm32f746-disco"),
        ("nucleo-f746", "nucleo-f746zg"),
        ("pico2", "pico-2"),
        ("nano33ble", "nano-33-ble"),
        ("microbit", "microbit-v2"),
    ],
)
def test_a_board_that_is_none_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InputError) as refused:
        find_board(name)
    message = refused.value.on_command_line()
    assert message.startswith(f"--board {name}: no such board; perhaps ")
    assert near in message
    assert message.endswith("kilograd boards lists them")


@pytest.mark.parametrize("name", ["", "\x1b[2J", "ß" * 500, "../../etc"])
def test_a_board_like_no_other(name: str) -> None:
    with pytest.raises(InputError) as refused:
        find_board(name)
    assert refused.value.on_command_line().isprintable()


def test_boards_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["kilograd", "boards", *words])
        cli.main()
        return capsys.readouterr().out

    found = json.loads(said("--json"))["boards"]
    assert [b["name"] for b in found] == [b.name for b in BOARDS]
    disco = found[0]
    assert disco["ram_usable_bytes"] == 320 << 10
    assert disco["ram_total_bytes"] == 336 << 10
    assert disco["flash_usable_bytes"] == 1 << 20
    assert disco["clock_mhz"] == 216
    text = said()
    assert all(b.name in text for b in BOARDS)
