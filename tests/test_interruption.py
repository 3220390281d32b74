"""Ctrl-C, SIGTERM and SIGHUP at any moment: one line, the exit code that says which, no rests.

`python tests/test_interruption.py` sends many more signals than the tests do.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LINE = re.compile(r"error: interrupted; (nothing is half written|the same command goes on with .*)")

PROGRAM = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
from kilograd import interruption
listen = interruption.listen
def listening():
    listen()
    print("listening", flush=True)
interruption.listen = listening
from kilograd.__main__ import main
main()
"""
"""A command that says when it hears signals: what comes before is Python's own."""


def started(words: tuple[str, ...], home: Path) -> subprocess.Popen[str]:
    """Start a command in a session of its own, and wait until it hears signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=home,
        env={**os.environ, "KILOGRAD_CACHE": str(home / "cache"), "TMPDIR": str(home / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "listening\n"
    return process


def living(session: int) -> list[str]:
    """Return the processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        state, _, _, its = text.rpartition(")")[2].split()[:4]
        if int(its) == session and state != "Z":
            found.append(text)
    return found


def interrupt(
    words: tuple[str, ...], home: Path, delay: float, number: int, *, again: bool, group: bool
) -> int:
    """Send a signal after some seconds, and perhaps others; return the exit code."""
    process = started(words, home)
    time.sleep(delay)
    send = os.killpg if group else os.kill
    try:
        send(process.pid, number)
        for _ in range(3 if again else 0):
            time.sleep(0.003)
            send(process.pid, number)
    except ProcessLookupError:
        pass
    out, err = process.communicate(timeout=60)
    lines = [x for x in err.splitlines() if x.startswith("error: ")]
    about = (words, delay, number, again, group, process.returncode, out, err)
    if process.returncode:
        assert process.returncode == CODES[number], about
        assert len(lines) == 1, about
        assert LINE.fullmatch(lines[0]), about
        assert err.endswith(lines[0] + "\n"), about
    assert "Traceback" not in err, about
    assert "Exception ignored" not in err, about
    deadline = time.monotonic() + 5
    while rest := living(process.pid):
        assert time.monotonic() < deadline, (*about, rest)
        time.sleep(0.02)
    return process.returncode


def home_of(place: Path) -> Path:
    """Make a folder with two classes of four pictures, and an empty cache."""
    from PIL import Image

    for i, name in enumerate(("one", "two")):
        (place / "data" / name).mkdir(parents=True)
        for j in range(4):
            colour = (120 * i, 30 * j, 200 - 60 * i)
            Image.new("RGB", (24, 24), colour).save(place / "data" / name / f"{j}.png")
    (place / "tmp").mkdir()
    return place


LEARN = ("--shots", "2", "--queries", "2", "--iterations", "3")
COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "models": ("models",),
    "plan": ("plan", "--out", "map.html", "--force"),
    "adapt": ("adapt", "data", *LEARN, "--out", "run", "--save-plan", "plan.json", "--force"),
    "evaluate": ("evaluate", "--data", "data", "--out", "rows", "--jobs", "2", *LEARN),
    "export": ("export", "--out", "project", "--force"),
    "run": ("run", "--target", "cortex-m4", "--steps", "2"),
}


def duration(words: tuple[str, ...], home: Path) -> float:
    """Return the seconds that a command takes once it hears signals."""
    process = started(words, home)
    start = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    return time.monotonic() - start


def sweep(name: str, home: Path, count: int, *, cold: bool) -> Counter[int]:
    """Interrupt a command at `count` moments of its run; return how often it ended how."""
    words, codes = COMMANDS[name], Counter[int]()
    whole = min(duration(words, home) for _ in range(2))  # compiled, then found
    kinds = tuple(CODES)
    for i in range(count):
        for path in ("rows", *(("cache",) if cold else ())):
            subprocess.run(["rm", "-rf", str(home / path)], check=True)
        number = kinds[i % 3] if i % 4 == 3 else signal.SIGINT
        delay = whole * (i + 0.5) / count * (2.0 if cold else 1.0)
        code = interrupt(words, home, delay, number, again=i % 2 == 1, group=i % 3 != 0)
        codes[code] += 1
        for rest in home.rglob(".kilograd-scratch-*"):
            raise AssertionError((name, delay, number, rest))
    assert not any((home / "tmp").iterdir())
    return codes


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_of(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize(
    ("name", "count"), [("models", 3), ("plan", 3), ("adapt", 4), ("export", 2)]
)
def test_interrupted_at_any_moment(home: Path, name: str, count: int) -> None:
    codes = sweep(name, home, count, cold=False)
    assert sum(n for code, n in codes.items() if code) > 0


@pytest.mark.parametrize("number", CODES)
def test_interrupted_at_the_very_first(home: Path, number: int) -> None:
    assert interrupt(("models",), home, 0, number, again=True, group=True) == CODES[number]


def test_a_signal_that_was_ignored_stays_ignored(home: Path) -> None:
    """As under nohup."""
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' HUP; echo on; exec {sys.executable} -m kilograd models"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_what_a_destructor_swallows_comes_again() -> None:
    program = """
import os, signal, sys, time
from kilograd import interruption
interruption.listen()
interruption.begin()
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
try:
    x = Swallows()
    del x
    time.sleep(5)
except interruption.Interruption as e:
    sys.exit(e.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (143, "")


def test_importing_is_light() -> None:
    """What is imported before signals are heard cannot be interrupted with a line."""
    heavy = "import sys, kilograd.__main__; print(*{'numpy', 'typer', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, check=True)
    assert done.stdout == b"\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        here = home_of(Path(folder).resolve())
        for what in sys.argv[2:] or COMMANDS:
            print(what, dict(sweep(what, here, int(sys.argv[1]), cold=False)), flush=True)
            if what in {"adapt", "evaluate", "run"}:  # with compilers at work
                few = int(sys.argv[1]) // 4
                print(what, "cold", dict(sweep(what, here, few, cold=True)), flush=True)
