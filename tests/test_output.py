"""Files and folders are whole or not there: on full disks, interrupted, killed."""

from __future__ import annotations

import ast
import functools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from folders import write_model
from helpers import Run

import kilograd
from kilograd import output
from kilograd.errors import InputError
from kilograd.output import (
    Provenance,
    check_apart,
    check_file,
    check_folder,
    check_out,
    claim,
    make_folder,
    scratch_folder,
    whole_folder,
    write_file,
)

OLD, NEW = b"old" * 700, b"new and longer" * 500


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of files, None for folders."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def write_results(out: Path, content: bytes) -> None:
    with whole_folder(out) as folder:
        (folder / "a").write_bytes(content)
        (folder / "in").mkdir()
        (folder / "in" / "b").write_bytes(content[::-1])


def results(content: bytes) -> dict[str, bytes | None]:
    return {"out": None, "out/a": content, "out/in": None, "out/in/b": content[::-1]}


# ---- a disk that refuses ----


def refused(write: Callable[[], None]) -> bool:
    """Write, and say whether that was refused."""
    try:
        write()
    except InputError as e:
        return "cannot be written (No space left on device)" in str(e) or pytest.fail(str(e))
    return False


def fails_once(call: Callable[..., Any], numbers: Iterator[int], at: int) -> Callable[..., Any]:
    """Return a function that does as `call` does, but for the call number `at`."""

    def failing(*args: Any, **options: Any) -> Any:
        if next(numbers) == at:
            raise OSError(28, "No space left on device")
        return call(*args, **options)

    return failing


@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "mkdir", "open"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("exchange", [False, True], ids=["two renames", "one exchange"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_each_call_that_fails_leaves_the_old_or_the_new(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    there: bool,
    exchange: bool,
    kind: str,
) -> None:
    if not exchange:
        monkeypatch.setattr(output, "_exchange", lambda *_: False)
    write = write_results if kind == "folder" else write_file
    ends = results if kind == "folder" else lambda content: {"out": content}
    for at in count():
        home = tmp_path / str(at)
        home.mkdir()
        calls = count()
        if there:
            write(home / "out", OLD)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fails_once(getattr(os, call), calls, at))
            error = refused(functools.partial(write, home / "out", NEW))
        if call == "open":  # tidying up may have been what was refused
            output._sweep.cache_clear()
            with scratch_folder(home):
                pass
        found = tree(home)
        assert found in (ends(OLD) if error and there else {} if error else ends(NEW), ends(NEW))
        if next(calls) <= at:  # there are no more calls to fail
            assert not error
            break


LIMIT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
from kilograd.__main__ import main
main()
"""


def command(
    *words: object, program: str = LIMIT, **options: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_a_plan_is_not_lost_on_a_full_disk(tmp_path: Path) -> None:
    """`adapt --save-plan --force` left 0 bytes in its place."""
    pytest.importorskip("sklearn")
    plan = tmp_path / "plan.json"
    program = """
import resource, sys
from pathlib import Path
from kilograd.frontend import load_model
from kilograd.select import Selection, write_plan
graph = load_model("digits").graph
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    write_plan(Path(sys.argv[1]), "digits", graph, Selection())
except Exception as e:
    print(type(e).__name__, e)
"""
    plan.write_text("the old plan")
    done = command(plan, program=program)
    assert done.stdout.startswith(f"InputError save_plan {plan}: cannot be written (File too")
    assert tree(tmp_path) == {"plan.json": b"the old plan"}


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(tiny: Path) -> None:
    write_file(tiny / "out", OLD)
    write_results(tiny / "results", OLD)
    before = tree(tiny)
    with pytest.raises(InputError, match="No space left"):
        write_file(tiny / "out", b"x" * 100_000)
    with pytest.raises(InputError, match="No space left"):
        write_results(tiny / "results", b"x" * 100_000)
    assert tree(tiny) == before


@pytest.mark.parametrize("words", [("models",), ("--help",), ("plan", "--json")])
def test_output_that_cannot_be_written(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kilograd", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "error: the output cannot be written (No space left on device)\n"


def test_closed_streams_are_no_files() -> None:
    """A file would get the number of a closed stream, and what is printed."""
    shell = f"{sys.executable} -m kilograd plan --json >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", shell], check=False).returncode == 0


# ---- killed ----

WRITER = """
import sys
from pathlib import Path
from kilograd import output
if sys.argv[2] == "renames":
    output._exchange = lambda *_: False
out = Path(sys.argv[1])
print("go", flush=True)
for i in range(10**6):
    content = str(i % 10).encode() * 3000
    output.write_file(out / "f", content)
    with output.whole_folder(out / "d") as folder:
        (folder / "a").write_bytes(content)
        (folder / "b").write_bytes(content)
"""


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_killed_at_any_moment(tmp_path: Path, way: str) -> None:
    """What is there is whole; the next run sweeps, and puts back what lay aside."""
    rng = random.Random(0)
    for _ in range(15):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), way], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.002 + rng.random() * 0.05)
        process.kill()
        process.communicate()
        if way == "exchange" and (tmp_path / "d").exists():
            assert len(list((tmp_path / "d").iterdir())) == 2
        output._sweep.cache_clear()
        with scratch_folder(tmp_path):
            pass
        found = {p.name for p in tmp_path.iterdir()}
        assert found <= {"f", "d"}
        if "f" in found:
            content = (tmp_path / "f").read_bytes()
            assert (len(content), len(set(content))) == (3000, 1)
        if "d" in found:
            a, b = ((tmp_path / "d" / name).read_bytes() for name in "ab")
            assert a == b
            assert len(a) == 3000
    assert found == {"f", "d"}, "no run came far enough"


def test_what_lay_aside_is_put_back(tmp_path: Path) -> None:
    aside = tmp_path / ".kilograd-scratch-abcdefgh" / "old" / "results"
    aside.mkdir(parents=True)
    (aside / "a").write_text("the only copy")
    write_file(tmp_path / "other", "")
    assert tree(tmp_path) == {"other": b"", "results": None, "results/a": b"the only copy"}


def test_a_scratch_folder_in_use_is_not_swept(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as scratch:
        output._sweep.cache_clear()
        write_file(tmp_path / "out", "")
        assert scratch.is_dir()
        assert scratch.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_is_not_ours_is_not_swept(tmp_path: Path) -> None:
    """Nor does a link lead the sweeping elsewhere."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.png").touch()
    (tmp_path / ".kilograd-scratch-link").symlink_to(photos)
    (tmp_path / ".kilograd-notes").mkdir()
    if os.geteuid() == 0:
        (tmp_path / ".kilograd-scratch-foreign").mkdir()
        os.chown(tmp_path / ".kilograd-scratch-foreign", 12345, 12345)
    before = tree(tmp_path)
    write_file(tmp_path / "out", "")
    assert tree(tmp_path) == before | {"out": b""}


# ---- places that are none ----


def test_places_for_a_file(tmp_path: Path) -> None:
    def refused(out: Path, why: str, *, force: bool = True) -> None:
        with pytest.raises(InputError, match=why) as caught:
            check_file(out, ".html", force=force)
        assert str(caught.value).startswith("out ")

    (tmp_path / "a.html").write_text("")
    (tmp_path / "link.html").symlink_to(tmp_path / "a.html")
    (tmp_path / "dangling.html").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.html").symlink_to(tmp_path / "loop.html")
    (tmp_path / "folder.html").mkdir()
    os.mkfifo(tmp_path / "fifo.html")
    check_file(tmp_path / "a.html", ".html", force=True)
    refused(tmp_path / "a.html", "exists already", force=False)
    refused(tmp_path / "link.html", "is a link")
    refused(tmp_path / "dangling.html", "is a link")
    refused(tmp_path / "loop.html", "is a link")
    refused(tmp_path / "folder.html", "is a folder")
    refused(tmp_path / "fifo.html", "no ordinary file")
    refused(tmp_path / "none" / "a.html", "there is no folder")
    refused(tmp_path / ("x" * 300 + ".html"), "File name too long")
    refused(tmp_path / "a\0.html", "null")
    refused(Path(), "must end in .html")
    refused(Path("/proc/a.html"), "nothing can be written to /proc")


def test_places_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mark").touch()
    (tmp_path / "link").symlink_to(tmp_path / "results")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    bad = {
        "link": "is a link",
        "file": "is a file",
        "fifo": "is a file",
        "x" * 300: "name too long",
        f"none/{'x' * 300}": "name is too long",
        "a\0": "null",
        "file/a": "nothing can be written",
        "/proc/a": "nothing can be written to /proc",
    }
    for name, why in bad.items():
        with pytest.raises(InputError, match=why):
            check_out(tmp_path / name, "mark", force=True)
        with pytest.raises(InputError, match=why):
            check_folder(tmp_path / name, "mark")
        with pytest.raises(InputError, match=why):
            make_folder(tmp_path / name, "mark")
    check_out(tmp_path / "results", "mark", force=True)
    monkeypatch.chdir(tmp_path / "results")
    with pytest.raises(InputError, match="is where you are"):
        check_out(Path(), "mark", force=True)


def test_results_do_not_lie_in_the_data(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    (data / "red").mkdir(parents=True)
    check_apart(tmp_path / "out", data)
    check_apart(tmp_path / "photos2", data)
    for out in (data, data / "out", data / "red" / "out", tmp_path / "x" / ".." / "photos" / "out"):
        with pytest.raises(InputError, match="would be taken for data"):
            check_apart(out, data)
    with pytest.raises(InputError, match="holds the data"):
        check_apart(tmp_path, data)
    with pytest.raises(InputError, match="holds the data"):
        check_apart(tmp_path, tmp_path / "set.parquet")


@pytest.mark.parametrize(
    "words",
    [
        ("adapt", "{data}", "--out", "{data}/out"),
        ("adapt", "{data}", "--save-plan", "{data}/red/plan.json"),
        ("evaluate", "--data", "{data}", "--out", "{data}/out"),
        ("contribution", "--data", "{data}", "--out", "{data}/out.json"),
    ],
)
def test_commands_do_not_write_into_the_data(
    run: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "red").mkdir()
    done = run(*(w.format(data=tmp_path) for w in words))
    assert "would be taken for data" in done.error
    assert tree(tmp_path) == {"red": None}


def test_adapt_does_not_replace_a_folder_of_training(run: Run, tmp_path: Path) -> None:
    """Both have a result.json; --force was enough to lose a network and its checkpoints."""
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    done = run("adapt", tmp_path / "none", "--out", tmp_path, "--force")
    assert "holds something else than results" in done.error


@pytest.mark.parametrize("mine", ["notes.txt", "my_firmware.c", "photos/1.png", ".git/config"])
def test_force_deletes_nothing_that_kilograd_has_not_written(
    run: Run, tmp_path: Path, mine: str
) -> None:
    """A project is a natural place for one's own main.c, and `--force` for a second try."""
    model = write_model(tmp_path / "small")
    words = ("export", "--model", model, "--method", "last", "--out", tmp_path / "project")
    assert run(*words).code == 0
    (tmp_path / "project" / "build" / "host").mkdir(parents=True)
    for built in ("build/host/model.o", "libmodel.a", "example", "firmware.elf"):
        (tmp_path / "project" / built).write_text("")
    assert run(*words, "--force").code == 0
    assert not (tmp_path / "project" / "build").exists()
    file = tmp_path / "project" / mine
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    before = tree(tmp_path)
    assert f"holds {mine.split('/', maxsplit=1)[0]}, which" in run(*words, "--force").error
    assert tree(tmp_path) == before


# ---- what a folder was begun with ----

BEGUN = Provenance({"rate": 0.5, "guard": False, "data": "discs"}, {"network small": "5e1f"})


def begun(file: Path) -> tuple[str, Provenance]:
    return file.read_text(), BEGUN


def test_a_folder_is_claimed_by_its_mark(tmp_path: Path) -> None:
    assert claim(tmp_path / "new", "mark", BEGUN, begun) is None
    assert not (tmp_path / "new").exists()
    make_folder(tmp_path / "ours", "mark")
    (tmp_path / "ours" / "mark").write_text("half of it")
    assert claim(tmp_path / "ours", "mark", BEGUN, begun) == "half of it"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "diary").touch()
    with pytest.raises(InputError, match="holds something else"):
        claim(tmp_path / "theirs", "mark", BEGUN, begun)


@pytest.mark.parametrize(
    ("settings", "digests", "said"),
    [
        ({"rate": 0.25}, {}, "was begun with rate 0.5, and this is with rate 0.25;"),
        ({"guard": True}, {}, "was begun without guard, and this is with guard;"),
        ({"data": None}, {}, "was begun with data discs, and this is without data;"),
        ({"more": 1}, {}, "was begun without more, and this is with more 1;"),
        ({}, {"network small": "77aa"}, "network small has changed since it was begun;"),
    ],
)
def test_what_is_not_as_it_was_begun_is_named(
    tmp_path: Path, settings: dict[str, object], digests: dict[str, str], said: str
) -> None:
    (tmp_path / "mark").touch()
    now = Provenance({**BEGUN.settings, **settings}, {**BEGUN.digests, **digests})
    with pytest.raises(InputError, match=f"{re.escape(said)} choose another folder"):
        claim(tmp_path, "mark", now, begun)


def test_a_setting_that_was_not_there_yet_and_is_off_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    now = Provenance({**BEGUN.settings, "newer": False, "other": None}, BEGUN.digests)
    assert claim(tmp_path, "mark", now, begun) == ""


# ---- nobody writes in another way ----

#: Who may write files without `write_file`, and why.
ALLOWED = {
    "output.py": "it is the way",
    "__main__.py": "the null device",
    "data/toys.py": "into a whole folder",
    "emit/build.py": "into a folder that the caller gives: a whole one, or a scratch folder",
    "emit/firmware.py": "into a folder that the caller gives: a whole one, or a scratch folder",
    "emit/project.py": "into a folder that the caller gives: a whole one, or a scratch folder",
    "emit/wasm.py": "into a folder that the caller gives: a whole one, or a scratch folder",
    "frontend/onnx/oracle.py": "into a scratch folder",
    "frontend/tflite/moving.py": "no file: what moves elements is called so",
    "frontend/tflite/oracle.py": "into a scratch folder",
    "frontend/tflite/pointwise.py": "no file: what moves elements is called so",
    "frontend/tflite/runtime_process.py": "into the scratch folder of the process that asks",
    "frontend/pulled.py": "into a folder that the caller gives: a whole one, or a scratch folder",
    "learn/adapt.py": "into a whole folder",
    "learn/adapted.py": "into a whole folder",
    "learn/taken.py": "rows at the end of a log that is checked when it is read",
    "learn/unfinished.py": "losses at the end of a log that is checked when it is read",
    "merging.py": "into a scratch folder",
    "targets/host.py": "into a folder of the cache that is being made",
    "targets/elf.py": "into a scratch folder",
    "targets/cache.py": "into a folder of the cache that is being made",
    "targets/qemu.py": "into a scratch folder",
}
WRITING = {"write_text", "write_bytes", "savez", "save_file", "mkdtemp", "mkstemp", "copytree"}
WRITING |= {"copyfile", "copy", "copy2", "move", "dump", "makedirs", "touch", "NamedTemporaryFile"}


def writes(call: ast.Call) -> bool:
    """Say whether a call writes a file; `torch.save` writes to what it is given."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in WRITING:
        return not (name == "copy" and not call.args)  # a copy of an array
    if name != "open":
        return False
    words = [
        a.value
        for a in (*call.args, *(k.value for k in call.keywords))
        if isinstance(a, ast.Constant)
    ]
    return any(
        isinstance(w, str) and set(w) <= set("wax+bt") and set(w) & set("wax+") for w in words
    )


def test_all_write_through_one_function() -> None:
    package = Path(kilograd.__file__).parent
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and writes(node)
    }
    assert found == set(ALLOWED)
