"""Compiled programs that are kept: nobody else's, undamaged, and done without where need be."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import clang, gcc, needs_clang, needs_gcc, quick_build, small_network

from kilograd.emit import Program, link
from kilograd.errors import InputError
from kilograd.targets import CORTEX_M4, WASM32, build_host, cache
from kilograd.targets.cache import cached, kept, passing
from kilograd.targets.toolchain import Compiler

NAME = "model-" + "0" * 32
FILES = {"a.so": b"machine code" * 100, "b.h": b"text"}

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a test."""
    monkeypatch.setenv("KILOGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(build: Path) -> None:
    for name, content in FILES.items():
        (build / name).write_bytes(content)


def never(build: Path) -> None:
    raise AssertionError("made again")


def content(entry: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in entry.iterdir() if p.name != "sums"}


def test_an_entry_is_made_once_and_private(folder: Path) -> None:
    before = os.umask(0)
    try:
        entry = cached(NAME, make)
    finally:
        os.umask(before)
    assert entry == folder / NAME
    assert content(entry) == FILES
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}" for name, data in FILES.items()]
    assert (entry / "sums").read_text().splitlines() == [NAME, *lines]
    assert cached(NAME, never) == kept(NAME) == entry
    for path in (folder, entry, *entry.iterdir()):
        assert not path.stat().st_mode & 0o077, path
    assert [p.name for p in folder.iterdir()] == [NAME]


def test_a_failure_leaves_nothing(folder: Path) -> None:
    def half(build: Path) -> None:
        make(build)
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        cached(NAME, half)
    assert list(folder.iterdir()) == []


# ---- damage ----


def _foreign(path: Path) -> None:
    os.chown(path, 12345, 12345)


def _linked(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def _moved_and_linked(entry: Path) -> None:
    entry.rename(entry.with_name("elsewhere"))
    entry.symlink_to(entry.with_name("elsewhere"))


def _filed(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("in the way")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _of_another(entry: Path) -> None:
    """Whole, but an entry of another program."""
    other = cached("model-" + "1" * 32, make)
    shutil.rmtree(entry)
    other.rename(entry)


FILE_DAMAGE = {
    "truncated": lambda p: os.truncate(p, p.stat().st_size // 2),
    "empty": lambda p: os.truncate(p, 0),
    "missing": Path.unlink,
    "one bit": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "others write": lambda p: p.chmod(0o722),
    "a link": _linked,
    "a FIFO": _fifo,
}
FOLDER_DAMAGE = {
    "others write": lambda p: p.chmod(0o777),
    "a link": _moved_and_linked,
    "a file": _filed,
    "one file more": lambda p: (p / "c.so").touch(),
    "a folder more": lambda p: (p / "c").mkdir(),
    "of another program": _of_another,
}
DAMAGE: list[tuple[str, str, Callable[[Path], object]]] = [
    *((name, what, do) for name in ("a.so", "sums") for what, do in FILE_DAMAGE.items()),
    *(("", what, do) for what, do in FOLDER_DAMAGE.items()),
    *((name, "foreign", _foreign) for name in ("a.so", "sums", "")),
]


@pytest.mark.parametrize(
    ("name", "what", "do"), [pytest.param(*d, id=f"{d[0] or 'folder'}: {d[1]}") for d in DAMAGE]
)
def test_what_is_damaged_or_foreign_is_made_again(
    folder: Path, name: str, what: str, do: Callable[[Path], object]
) -> None:
    if what == "foreign" and os.geteuid():
        pytest.skip("only root may give files away")
    entry = cached(NAME, make)
    do(entry / name if name else entry)
    assert kept(NAME) is None
    assert content(cached(NAME, make)) == FILES
    assert not (folder / NAME).is_symlink()
    assert cached(NAME, never) == entry
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def small_program() -> Program:
    return link({"infer": small_network()})


def _host() -> bytes:
    image = np.full((8, 8, 3), 9, np.int8)
    host = quick_build(small_program())
    return b"".join(x.tobytes() for x in host.call("infer", image=image).values())


def _elf() -> bytes:
    pytest.importorskip("unicorn")
    pytest.importorskip("ziglang")
    device = CORTEX_M4.build(small_program(), None)
    image = np.full((8, 8, 3), 9, np.int8)
    return b"".join(x.tobytes() for x in device.call("infer", image=image).values())


def _wasm() -> bytes:
    pytest.importorskip("wasmtime")
    pytest.importorskip("ziglang")
    device = WASM32.build(small_program(), None)
    image = np.full((8, 8, 3), 9, np.int8)
    return b"".join(x.tobytes() for x in device.call("infer", image=image).values())


@pytest.mark.parametrize("user", [_host, _elf, _wasm])
def test_no_user_of_the_cache_meets_damage(folder: Path, user: Callable[[], bytes]) -> None:
    """A truncated library was a SIGBUS, an empty one a traceback."""
    answer = user()
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert {p.parent.parent for p in files} == {folder}
    for do in (FILE_DAMAGE["truncated"], FILE_DAMAGE["empty"], FILE_DAMAGE["missing"]):
        # Never in place: a library of this process is still mapped.
        for p in files:
            copy = p.read_bytes()
            p.unlink()
            p.write_bytes(copy)
            do(p)
        assert user() == answer


# ---- folders that are shared, in the way, or full ----

PROGRAM = """
import os, sys
from pathlib import Path
from kilograd.errors import InputError
from kilograd.targets import cache
def make(build):
    (build / "a.so").write_bytes(b"x" * 1000)
try:
    for _ in range(2):
        print(cache.cached("model-" + "0" * 32, make))
    with cache.passing(make) as passing:
        assert (passing / "a.so").exists()
except InputError as e:
    sys.exit(f"error: {e}")
"""


def process(before: str = "", **environment: str) -> tuple[list[str], str, int]:
    """Make an entry twice in another process: where it was, what was said, the exit code."""
    known = {k: v for k, v in os.environ.items() if k not in {"KILOGRAD_CACHE", "XDG_CACHE_HOME"}}
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM],
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.splitlines(), done.stderr, done.returncode


def test_a_folder_that_all_may_write_to(tmp_path: Path) -> None:
    """In a sticky one a folder of ours is safe; in another, nothing is."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    own = shared / f"kilograd-{os.geteuid()}"
    assert process(KILOGRAD_CACHE=str(shared)) == ([str(own / NAME)] * 2, "", 0)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    shared.chmod(0o777)
    places, said, code = process(KILOGRAD_CACHE=str(shared))
    assert code == 0
    assert not places[0].startswith(str(tmp_path))
    assert not Path(places[0]).exists()
    assert said.count("\n") == 1
    assert "others may write to it; set KILOGRAD_CACHE to a folder of your own" in said
    above = process(KILOGRAD_CACHE=str(shared / "deep" / "cache"))
    assert "everybody may rename what is in" in above[1]


@root_only
@pytest.mark.parametrize(
    ("owner", "group", "mode", "who"),
    [
        (12345, 0, 0o755, "its owner"),
        (12345, 0, 0o1777, "its owner"),
        (0, 12345, 0o775, "its group"),
        (0, 12345, 0o1775, None),
        (0, 0, 0o775, None),
    ],
)
def test_a_folder_above_that_others_may_write_to(
    tmp_path: Path, owner: int, group: int, mode: int, who: str | None
) -> None:
    """Whoever may rename a folder may put another in its place after it was looked at."""
    above = tmp_path / "above"
    (above / "cache").mkdir(parents=True)
    (above / "cache").chmod(0o700)
    os.chown(above, owner, group)
    above.chmod(mode)
    places, said, code = process(KILOGRAD_CACHE=str(above / "cache"))
    assert code == 0
    assert places[0].startswith(str(above)) == (who is None)
    assert said == "" if who is None else f"{who} may rename what is in {above}" in said


@root_only
@pytest.mark.parametrize("planted", ["the cache", "our folder in it", "the entry"])
def test_what_another_user_has_planted_is_never_used(tmp_path: Path, planted: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    own = shared / f"kilograd-{os.geteuid()}"
    entry = (shared if planted == "the entry" else own) / NAME
    entry.mkdir(parents=True)
    (entry / "a.so").write_bytes(b"evil")
    for path in (entry, entry / "a.so", *((own,) if own.exists() else ())):
        os.chown(path, 12345, 12345)
    if planted == "the cache":
        os.chown(shared, 12345, 12345)
    places, said, code = process(KILOGRAD_CACHE=str(shared))
    assert (code, len(places)) == (0, 2)
    assert str(entry) not in places
    assert said.count("\n") == (0 if planted == "the entry" else 1)
    assert (entry / "a.so").read_bytes() == b"evil"


@root_only
@pytest.mark.parametrize("variable", ["KILOGRAD_CACHE", "XDG_CACHE_HOME"])
def test_a_cache_that_is_read_only(variable: str) -> None:
    """Somebody else's folder: root itself may write anywhere, so the process becomes nobody."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        nobody = "import os; from kilograd.targets import cache; os.setuid(65534)\n"
        places, said, code = process(nobody, **{variable: name})
    assert (code, len(places)) == (0, 2), said
    assert said.startswith("compiled programs are not kept: ")
    assert said.count("\n") == 1
    assert not places[0].startswith(name)


@pytest.mark.parametrize("place", ["/proc/cache", "/dev/null", "{file}", "{file}/in", "{long}"])
def test_a_cache_that_cannot_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    place = place.format(file=tmp_path / "file", long="x" * 300)
    places, said, code = process(KILOGRAD_CACHE=place)
    assert (code, len(places)) == (0, 2)
    assert said.startswith("compiled programs are not kept: ")
    assert said.count("\n") == 1
    assert not Path(places[0]).parent.exists(), "removed at the end"


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"


def test_a_full_disk(tmp_path: Path) -> None:
    places, said, code = process(FULL, KILOGRAD_CACHE=str(tmp_path / "cache"))
    assert (places, code) == ([], 1)
    *_, last = said.splitlines()
    assert last.startswith("error: compiled programs cannot be written to")
    assert "File too large" in last
    assert "Traceback" not in said
    assert list((tmp_path / "cache").iterdir()) == []


def test_left_overs_are_swept(folder: Path) -> None:
    cached(NAME, make)
    (folder / ".kilograd-scratch-abcdefgh").mkdir()
    for old in (".build-abcdefgh", "model-" + "2" * 32, "my-own"):
        (folder / old).mkdir()
        os.utime(folder / old, (0, 0))
    os.utime(folder / NAME / "sums", (time.time() - 80 * 86400,) * 2)
    os.utime(folder / NAME, (0, 0))
    places, _, _ = process(KILOGRAD_CACHE=str(folder))
    assert places == [str(folder / NAME)] * 2
    (folder / NAME / "a.so").unlink()  # something is made, and then it is looked
    process(KILOGRAD_CACHE=str(folder))
    assert sorted(p.name for p in folder.iterdir()) == [NAME, "my-own"]


def test_the_oldest_go_where_all_are_too_large(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"model-{i:032}" for i in range(4)]
    for i, name in enumerate(names):
        entry = cached(name, make)
        for path in (entry, *entry.iterdir()):
            os.utime(path, (time.time() - 86400 * (10 - i),) * 2)
    monkeypatch.setattr(cache, "_BYTES", 2 * sum(p.stat().st_size for p in entry.rglob("*")) + 9000)
    cache._drop_old.cache_clear()
    cached("model-" + "9" * 32, make)
    assert sorted(p.name for p in folder.iterdir()) == [*names[2:], "model-" + "9" * 32]


def test_many_make_the_same(folder: Path) -> None:
    begun = threading.Barrier(8)
    found: list[dict[str, bytes]] = []

    def one() -> None:
        begun.wait()
        for _ in range(20):
            entry = cached(NAME, make)
            # by name: who lists a folder while it is exchanged sees the old one being emptied
            found.append({name: (entry / name).read_bytes() for name in FILES})

    threads = [threading.Thread(target=one) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 160
    assert all(x == FILES for x in found)  # a difference of lists this long takes minutes
    assert [p.name for p in folder.iterdir()] == [NAME]


def test_another_process_makes_the_folder_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_too_early(path: Path) -> bool:
        if path.exists():
            return os.path.isdir(path)  # noqa: PTH112 Path.is_dir is this
        path.mkdir(parents=True)
        return False

    monkeypatch.setattr(Path, "is_dir", look_too_early)
    assert cache.cache_folder() == folder


# ---- compilers ----


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "cannot be run (No such file or directory)"),
        ("", "cannot be run (Permission denied)"),
        ("#!/bin/sh\nexit 1\n", "--version fails"),
        ("#!/none\n", "cannot be run (No such file or directory)"),
        ('#!/bin/sh\n[ "$1" = --version ] || kill -9 $$\n', "was killed"),
        (
            '#!/bin/sh\n[ "$1" = --version ] || { echo "Killed signal 9" >&2; exit 1; }\n',
            "was killed",
        ),
        (
            '#!/bin/sh\n[ "$1" = --version ] || { echo "No space left on device" >&2; exit 1; }\n',
            "No space",
        ),
        (  # GNU's linker, with its quotes, and LLVM's
            (
                '#!/bin/sh\n[ "$1" = --version ] || '
                """{ echo "region \\`FLASH' overflowed by 4096 bytes" >&2; exit 1; }\n"""
            ),
            "4,096 bytes larger than the target's FLASH",
        ),
        (
            (
                '#!/bin/sh\n[ "$1" = --version ] || '
                """{ echo "will not fit in region 'RAM': overflowed by 12 bytes" >&2; exit 1; }\n"""
            ),
            "12 bytes larger than the target's RAM",
        ),
        (  # as in a container with gcc and without libc6-dev
            '#!/bin/sh\n[ "$1" = --version ] || { echo "error: no stdint.h" >&2; exit 1; }\n',
            "cannot compile the simplest program (error: no stdint.h)",
        ),
    ],
)
def test_a_compiler_that_does_not_run(tmp_path: Path, script: str | None, why: str) -> None:
    cc = tmp_path / "cc"
    if script is not None:
        cc.write_text(script)
        cc.chmod(0o755 if script else 0o644)
    with pytest.raises(InputError) as caught:
        build_host(small_program(), Compiler((str(cc),)))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param(gcc("-O1", "-include", "no.h"), marks=needs_gcc),
        pytest.param(clang("-O1"), marks=needs_clang),
    ],
)
def test_a_compiler_that_is_told_nonsense(compiler: Compiler, tmp_path: Path) -> None:
    """What every program suffers from is the user's to mend; what only ours does is a defect."""
    (tmp_path / "bad.c").write_text("int f(void) { return kg_conv 1; }\n")
    with pytest.raises((RuntimeError, InputError)) as caught:
        compiler.compile(tmp_path, "-c", "bad.c", "-o", "bad.o")
    assert isinstance(caught.value, InputError) == ("no.h" in compiler.flags)


def test_passing(folder: Path) -> None:
    with passing(make) as place:
        assert content(place) == FILES
    assert list(folder.iterdir()) == []
