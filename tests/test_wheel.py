"""What `pip install kilograd-*.whl` gives: all that is needed and no more; the rest is named."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from folders import write_model
from test_extras import packages
from test_search import contribution

from kilograd.data.toys import write_toys
from kilograd.extras import Extra
from kilograd.frontend import load_model
from kilograd.study.contribution import write_contribution

ROOT = Path(__file__).parents[1]
#: The lines of the README; what a test adds keeps pip from the index.
BUILD = "pip wheel . --no-deps -w dist"
INSTALL = "pip install dist/kilograd-*.whl"
LIGHT = {"numpy", "pillow", "safetensors", "msgspec", "typer", "rich"}
"""What comes with Kilograd."""

# What needs each extra, in a folder with photos, a set of Meta-Dataset, and a small network.
NEEDS: dict[Extra, tuple[str, ...]] = {
    Extra.PARQUET: ("adapt", "photos.parquet"),
    Extra.H5: ("adapt", "birds"),
    Extra.HEIC: ("adapt", "phone"),
    Extra.EXACT: ("plan", "--model", "./small", "--exact"),
    Extra.SEARCH: (
        *("search", "--model", "./small", "--contribution", "small.json", "--sram", "64K"),
        *("--solver", "evolution", "--out", "found"),
    ),
    Extra.TUNE: ("tune", "--data", "photos", "--out", "tuned"),
    Extra.RAY: ("evaluate", "--data", "photos", "--ray", "auto", "--out", "compared"),
    Extra.EMULATE: ("run", "--model", "./small"),
    Extra.ZIG: ("adapt", "photos", "--model", "./small"),  # where there is no cc
    Extra.TORCH: ("pretrain", "photos", "--out", "new"),
}

# One process: the commands are many, and importing takes its time.
SCRIPT = """
import contextlib, io, json, os, sys
from kilograd.cli import main
found = []
for words in json.loads(sys.argv[1]):
    sys.argv, code = ["kilograd", *words], 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as e:
            code = e.code
    found.append((code, err.getvalue()))
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel."""

    place: Path
    wheel: Path

    def run(self, *words: str, cwd: Path, path: str = os.defpath) -> str:
        """Return what a command prints; nothing of this process's environment reaches it."""
        env = {"PATH": path, "HOME": str(cwd), "KILOGRAD_CACHE": os.environ["KILOGRAD_CACHE"]}
        command = [str(self.place / "bin" / words[0]), *words[1:]]
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def pip(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"pip cannot: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel without an index: what it depends on is lent by this environment."""
    pytest.importorskip("hatchling", reason="hatchling is not installed (make lint)")
    folder = tmp_path_factory.mktemp("wheel")
    pip(*BUILD.split()[1:-2], "--no-build-isolation", "-w", folder / "dist")
    (wheel,) = folder.glob(INSTALL.rsplit(maxsplit=1)[-1])
    place = folder / ".venv"
    venv.create(place, symlinks=True)
    pip("--python", place / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (libraries,) = place.glob("lib/python*/site-packages")
    for name in needed_by(*LIGHT):
        lend(name, libraries)
    return Installed(place, wheel)


def needed_by(*names: str) -> set[str]:
    """Return packages with all that they need."""
    found: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # not with this Python, or on this system
        found.add(name)
        queue += [re.split(r"[^\w.-]", r)[0].lower() for r in requires if "extra ==" not in r]
    return found


def lend(name: str, there: Path) -> None:
    """Let a package of this environment be found in another one."""
    one = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
        if not (there / top).exists():
            (there / top).symlink_to(Path(str(one.locate_file(top))))


def test_little_is_installed(installed: Installed, tmp_path: Path) -> None:
    ask = "import importlib.metadata as m; print('\\n'.join(m.requires('kilograd')))"
    required = installed.run("python", "-c", ask, cwd=tmp_path).splitlines()
    light = {re.split("[<>=;]", r)[0].lower() for r in required if "extra ==" not in r}
    assert light == LIGHT
    assert installed.wheel.stat().st_size < 2 << 20


def test_the_command_is_there_and_draws(installed: Installed, tmp_path: Path) -> None:
    version = installed.run("kilograd", "--version", cwd=tmp_path)
    assert installed.wheel.name.startswith(f"kilograd-{version.strip()}-")
    installed.run("kilograd", "pictures", "--out", "photos", "--each", "2", cwd=tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 12


def test_what_is_missing_is_named_by_packages_that_install(
    installed: Installed, tmp_path: Path
) -> None:
    unasked = {Extra.DIGITS, Extra.ONNX, Extra.CHECK}
    assert set(NEEDS) == set(Extra) - unasked, "no command needs these yet"
    write_toys(tmp_path / "photos", each=12)
    network = load_model(str(write_model(tmp_path / "small")))
    write_contribution(tmp_path / "small.json", contribution(network))
    (tmp_path / "photos.parquet").write_bytes(b"PAR1")
    for name in ("phone/cat/1.heic", "phone/dog/1.heic"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "dataset_spec.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    asked = json.dumps(list(NEEDS.values()))
    answers = json.loads(installed.run("python", "-c", SCRIPT, asked, cwd=tmp_path, path=""))
    for extra, (code, said) in zip(NEEDS, answers, strict=True):
        assert code == 2, said
        named = re.search(r"pip install ([\w -]+)$", said, re.MULTILINE)
        assert named, said
        assert set(named[1].split()) == set(extra.value), said
        assert set(extra.value) <= packages(extra.name.lower())
    assert sorted(tmp_path.iterdir()) == before, "nothing is begun"
