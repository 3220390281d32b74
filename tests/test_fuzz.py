"""Fuzzing: a share of it, what was once found, and that it finds what it is for."""

from __future__ import annotations

import functools
import json
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random

import pytest
from fuzz.case import Case, Finding, Target, judge, stored
from fuzz.run import Fuzzer
from fuzz.targets import KINDS
from helpers import needs_gcc

from kilograd.errors import InputError

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
SEED = 1

pytestmark = [
    needs_gcc,
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # forks beside threads
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    folder.mkdir()
    return folder


Made = Callable[[type[Target]], Target]


@pytest.fixture(scope="module")
def made(home: Path) -> Iterator[Made]:
    """Makes each target once."""
    with ExitStack() as stack:
        yield functools.cache(lambda kind: stack.enter_context(closing(kind(home))))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.lower())
def test_readers_accept_or_refuse(kind: type[Target], made: Made, home: Path) -> None:
    target, failures = made(kind), []
    for number in range(target.sample):
        case, deep = target.case(SEED, number), number % target.deep == 0
        if isinstance(found := judge(target, case, home.parent, deep=deep), Finding):
            failures.append(f"--targets {target.name} --seed {SEED} --case {number}: {found}")
    assert not failures, "\n".join(failures[:3])


@pytest.mark.parametrize(
    "file", sorted(CORPUS.rglob("*.json")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_what_was_found_once_is_not_found_again(file: Path, made: Made, home: Path) -> None:
    name, case = stored(file)
    if kinds := [k for k in KINDS if k.__name__.lower() == name]:
        found = judge(made(kinds[0]), case, home.parent, deep=True)
        assert not isinstance(found, Finding), found
    else:
        assert name in {"checkpoint", "lite"}
        pytest.skip("PyTorch, or ai-edge-litert, is not here")


# ---- that it finds ----


class Broken(Target):
    """Goes wrong in another way at each case from 3 to 10, and then no more."""

    seconds = 0.3
    memory = 32 << 20

    def make(self, rng: Random) -> Case:
        return {"file": b"x"}

    def case(self, seed: int, number: int) -> Case:
        return {"file": str(number).encode()}

    def check(self, folder: Path, *, deep: bool) -> None:
        number = int((folder / "file").read_text())
        match number:
            case 1:
                raise InputError(f"{folder}/file: is wrong; give another")
            case 3:
                raise KeyError("name")
            case 4:
                raise InputError("")
            case 5:
                raise InputError("no file is named")
            case 6:
                while True:
                    pass
            case 7:
                os.kill(os.getpid(), signal.SIGSEGV)
            case 8:
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGPROF])
                time.sleep(60)
            case 9:
                # Not from the heap: late in a test run that has as much to give back at no cost.
                with mmap.mmap(-1, 2 * self.memory) as fresh:
                    fresh.write(bytes(2 * self.memory))
            case 10:
                raise AssertionError("not what it should be")


EXPECTED = {
    3: "KeyError",
    4: "message",
    5: "message",
    6: "time",
    7: f"crash {-signal.SIGSEGV}",
    8: "hang",
    9: "memory",
    10: "wrong",
}


def test_every_kind_of_fault_is_found_and_the_run_goes_on(tmp_path: Path) -> None:
    found = tmp_path / "found"
    fuzzer = Fuzzer([Broken(tmp_path)], 6, SEED, 1, found, tmp_path)
    fuzzer.run()
    (row, _) = fuzzer.rows()
    assert (row["findings"], row["refused"]) == (8, 1), row
    assert row["accepted"] == row["cases"] - 9 > 10
    assert dict(map(told, found.glob("*.json"))) == EXPECTED


def told(file: Path) -> tuple[int, str]:
    """Return the case of a finding, and its kind."""
    d = json.loads(file.read_text())
    _, case = stored(file)
    content = case["file"]
    assert isinstance(content, bytes)
    assert d["replay"].endswith(f" --case {content.decode()}")
    return int(content), d["kind"]


def test_a_case_is_the_same_for_the_same_numbers(home: Path, tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    for kind in cheap():
        one, other = kind(home), kind(tmp_path / "seeds")
        for number in range(8):
            assert one.case(SEED, number) == other.case(SEED, number), kind
            assert one.case(SEED, number) != one.case(SEED + 1, number) or number, kind


def cheap() -> Sequence[type[Target]]:
    """Return the targets whose seeds need no compiler: what that makes depends on the machine."""
    return [k for k in KINDS if k.__name__ not in {"Compiled", "Device", "Kept"}]
