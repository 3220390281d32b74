"""Follow README.md from its first command to its last, and keep in it what they print.

`python docs/make_readme.py` runs every command and program of the page in its order, in one new
folder, and writes what they printed into the blocks ```text``` behind them.  With `--check` it says
what has changed, and writes nothing.  What cannot be run here is said and left out:
commands that need packages that are not installed, or a compiler.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Longer than any of them takes where the machine has other things to do, too.
SECONDS = 300
#: What a new clone does before the command is there; tests/test_wheel.py does it.
ELSEWHERE = ("pip ", ". .venv/bin/activate")


def steps(language: str, text: str) -> Iterator[list[str]]:
    """Yield the commands of a block, as they are started here."""
    if language == "python":
        yield [sys.executable, "-c", text]
    if language != "console":
        return
    for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
        words = shlex.split(line, comments=True)
        if line.startswith(ELSEWHERE):
            continue
        if words == ["make", "demo"]:
            words = ["kilograd", "demo"]
        if words[0] == "kilograd":
            yield [sys.executable, "-m", *words]
        else:
            yield ["sh", "-c", line]


def followed(command: list[str], folder: Path) -> str | None:
    """Return what a command prints; None where it cannot be run here, which is said."""
    tools = ("make", "cc") if command[0] == "sh" else ()
    tools += ("arm-none-eabi-gcc",) if "firmware.mk" in command[-1] else ()
    if missing := [t for t in tools if not shutil.which(t)]:
        print(f"left out, there is no {missing[0]}: {command[-1]}")
        return None
    kept = {k: v for k, v in os.environ.items() if k not in {"KILOGRAD_MODELS", "FORCE_COLOR"}}
    done = subprocess.run(
        command,
        cwd=folder,
        # No network that this machine has pulled.
        env={**kept, "COLUMNS": "80", "XDG_CACHE_HOME": str(folder / ".cache")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode == 2 and "; pip install " in done.stderr:
        print(f"left out, {done.stderr.strip()}")
        return None
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ends with {done.returncode}: {done.stderr}")
    return done.stdout


def filled(page: str, folder: Path) -> str:
    """Return the page with what its commands print."""
    printed: str | None = None

    def follow(block: re.Match[str]) -> str:
        nonlocal printed
        language, text = block.groups()
        if language == "text":
            return block[0] if printed is None else f"```text\n{printed}```"
        said = [followed(command, folder) for command in steps(language, text)]
        printed = None if None in said else tidy("".join(filter(None, said)))
        return block[0]

    return BLOCK.sub(follow, page)


def tidy(printed: str) -> str:
    """Leave away what is another each time: seconds, and where this machine has its Python."""
    lines = (line.rstrip() for line in printed.splitlines() if "bin/activate" not in line)
    return "".join(re.sub(r"^( learned .* in )[\d.]+ s$", r"\1... s", x) + "\n" for x in lines)


def main() -> None:
    page = README.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        now = filled(page, Path(folder))
    if now == page:
        return
    if sys.argv[1:] == ["--check"]:
        old, new = page.splitlines(), now.splitlines()
        changes = difflib.unified_diff(old, new, "README.md", "now", "", "", 0, "")
        raise SystemExit("\n".join((*changes, "python docs/make_readme.py writes it")))
    README.write_text(now, "utf-8")


if __name__ == "__main__":
    main()
