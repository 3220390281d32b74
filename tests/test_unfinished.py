"""A whole data set: images are in RAM one by one, and a kill loses nothing but seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import contents, write_model, write_pictures
from helpers import Run

import kilograd
from kilograd.data import load_dataset, prepare
from kilograd.data.listed import Listed
from kilograd.errors import InputError
from kilograd.frontend import Preprocess
from kilograd.learn.samples import stacked
from kilograd.learn.taken import Taken
from kilograd.learn.unfinished import UNFINISHED, Keeper, Position, begun
from kilograd.progress import silent

SEEN = Preprocess.square(size=16, resize=18, channels=3)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "small", seed=3)
    write_pictures(home / "discs", count=12)
    return home


# ---- arrays in files ----


def test_a_large_stack_lies_in_a_file_that_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds what a stack in memory does, is read as that is, and leaves nothing behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = [np.arange(12, dtype=np.int16).reshape(3, 4) * i for i in range(50)]
    want = np.stack(rows)
    for large in (1, 100, 1200, 1201, 10**9):
        monkeypatch.setattr("kilograd.learn.samples._LARGE", large)
        found = stacked(iter(rows))
        assert isinstance(found, np.memmap) == (large <= 1200)
        assert (found.dtype, found.shape) == (want.dtype, want.shape)
        assert np.array_equal(found, want)
        assert list(tmp_path.iterdir()) == []


def test_no_room_for_a_large_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kilograd.learn.samples._LARGE", 1)

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match=r"^TMPDIR .*No space left on device\); make room, or set"):
        stacked(iter([np.zeros(3)]))


# ---- images in a file ----


def test_images_are_as_they_are_prepared(home: Path, tmp_path: Path) -> None:
    (home / "discs" / "red" / "broken.png").write_bytes(b"x")
    taken = Taken(tmp_path, tmp_path, SEEN, silent)
    dataset = load_dataset(home / "discs", taken)
    (home / "discs" / "red" / "broken.png").unlink()
    assert dataset.skipped == ("red/broken.png",)
    images = taken.images()
    assert isinstance(images, np.memmap)
    assert len(images) == len(dataset) == 48
    for i, image in enumerate(images):
        assert np.array_equal(image, prepare(dataset.image(i), SEEN))


def take(folder: Path, files: list[Path], stop: int | None = None) -> Any:
    """Take files as a set lists them; return the images, and how many were decoded."""
    decoded = 0

    class Counted(Taken):
        def _decoded(self, source: Any) -> Any:
            nonlocal decoded
            decoded += 1
            return super()._decoded(source)

    taken = Counted(folder, folder, SEEN, silent)
    for at, file in enumerate(files[:stop]):
        taken(Listed(file.name, file, 0, None), at, len(files))
    return np.array(taken.images()), decoded, taken.digest()


def test_what_was_taken_is_not_decoded_again(home: Path, tmp_path: Path) -> None:
    files = sorted((home / "discs").rglob("*.png"))
    whole, decoded, digest = take(tmp_path, files)
    assert decoded == 48
    again, decoded, same = take(tmp_path, files)
    assert (decoded, same) == (0, digest)
    assert np.array_equal(again, whole)


@pytest.mark.parametrize("damage", ["log", "pixels", "head", "nothing"])
def test_a_kill_between_or_within_writes(home: Path, tmp_path: Path, damage: str) -> None:
    files = sorted((home / "discs").rglob("*.png"))
    (tmp_path / "whole").mkdir()
    whole, _, digest = take(tmp_path / "whole", files)
    part = tmp_path / "part"
    part.mkdir()
    take(part, files, 20)
    log, pixels = part / "taken", part / "pixels"
    if damage == "log":
        log.write_bytes(log.read_bytes()[:-7])
    elif damage == "pixels":
        pixels.write_bytes(pixels.read_bytes()[:-5])
    elif damage == "head":
        log.write_bytes(b"{}\n" + log.read_bytes())
    else:
        pixels.write_bytes(pixels.read_bytes() + b"half a row")
    found, decoded, same = take(part, files)
    assert np.array_equal(found, whole)
    assert same == digest
    assert decoded == {"log": 29, "pixels": 29, "head": 48, "nothing": 28}[damage]


def test_a_file_that_changed_is_taken_anew_and_all_behind_it(home: Path, tmp_path: Path) -> None:
    files = sorted((home / "discs").rglob("*.png"))
    take(tmp_path, files)
    os.utime(files[30], ns=(1, 1))
    found, decoded, _ = take(tmp_path, files)
    assert (len(found), decoded) == (48, 18)
    fewer, decoded, _ = take(tmp_path, files[:10])
    assert (len(fewer), decoded) == (10, 0)


# ---- going on ----


class KilledError(BaseException):
    """The process is gone."""


def killed_at(place: int) -> Callable[[int, int, str], None]:
    def progress(done: int, of: int, said: str) -> None:
        if said.startswith("loss") and done == place:
            raise KilledError

    return progress


def results(folder: Path) -> dict[str, object]:
    found = dict(contents(folder))
    stored = json.loads((folder / "result.json").read_text())
    return found | {"result.json": {k: v for k, v in stored.items() if k != "seconds"}}


@pytest.mark.parametrize(
    "options",
    [
        {"method": "last:3", "head": "linear"},
        {"method": "last:3", "optimizer": "adam", "accumulate": 5},
        {"method": "last:2", "cache": 2},
        {"method": "last:2", "test_each_pass": True, "cache": 2},
    ],
    ids=str,
)
def test_a_run_that_was_killed_ends_with_the_same_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("kilograd.learn.unfinished._EVERY", 0.0)
    words: dict[str, Any] = {"iterations": 4, **options}
    data, model = home / "discs", home / "small"
    kilograd.adapt(data, model, out=tmp_path / "whole", **words)
    out = tmp_path / "parts"
    for place in (17, 36, 110):
        with pytest.raises(KilledError):
            kilograd.adapt(data, model, out=out, progress=killed_at(place), **words)
        assert begun(out)
    seen: list[int] = []
    kilograd.adapt(data, model, out=out, progress=lambda n, of, said: seen.append(n), **words)
    losses = [n for n in seen if n > 48]
    assert losses
    assert min(losses) > 100, "training goes on, and does not begin anew"
    assert results(out) == results(tmp_path / "whole")
    assert not (out / UNFINISHED).exists()


def test_a_kill_within_a_test_between_passes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test is made again; what was tested before, and all that was learned, is there."""
    words: dict[str, Any] = {"method": "last:2", "iterations": 4, "test_each_pass": True}
    data, model, out = home / "discs", home / "small", tmp_path / "parts"
    kilograd.adapt(data, model, out=tmp_path / "whole", **words)
    monkeypatch.setattr("kilograd.learn.unfinished._EVERY", 0.0)
    predict, tests = kilograd.learn.training.predict, 0

    def killed(*given: Any) -> Any:
        nonlocal tests
        tests += 1
        if tests == 3:
            raise KilledError
        return predict(*given)

    monkeypatch.setattr("kilograd.learn.training.predict", killed)
    with pytest.raises(KilledError):
        kilograd.adapt(data, model, out=out, **words)
    kilograd.adapt(data, model, out=out, **words)
    assert tests == 5, "two, the one that was killed, again, and the last"
    assert results(out) == results(tmp_path / "whole")


def test_another_command_does_not_go_on(home: Path, tmp_path: Path) -> None:
    data, model, out = home / "discs", home / "small", tmp_path / "out"
    with pytest.raises(KilledError):
        kilograd.adapt(data, model, iterations=4, out=out, progress=killed_at(9))
    with pytest.raises(InputError, match=r"^out .*: was begun with other options, images or"):
        kilograd.adapt(data, model, iterations=5, out=out)
    assert begun(out), "it is not lost"
    kilograd.adapt(data, model, iterations=5, out=out, force=True)
    assert not (out / UNFINISHED).exists()


def test_force_leaves_the_old_results_until_there_are_new(home: Path, tmp_path: Path) -> None:
    data, model, out = home / "discs", home / "small", tmp_path / "out"
    kilograd.adapt(data, model, iterations=1, out=out)
    before = results(out)
    with pytest.raises(KilledError):
        kilograd.adapt(data, model, iterations=4, out=out, force=True, progress=killed_at(9))
    after = {k: v for k, v in results(out).items() if not k.startswith(UNFINISHED)}
    assert after == before
    kilograd.adapt(data, model, iterations=2, out=out, force=True)
    assert not (out / UNFINISHED).exists()


def test_an_error_leaves_nothing(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        kilograd.adapt(home / "discs", home / "small", sram="2K", out=tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_not_taken_for_ours(home: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "out" / UNFINISHED).mkdir(parents=True)
    (tmp_path / "out" / UNFINISHED / "thesis.txt").write_text("mine")
    words = ("--model", home / "small", "--out", tmp_path / "out")
    for more in ((), ("--force",)):
        assert "--out " in run("adapt", home / "discs", *words, *more).error
    assert (tmp_path / "out" / UNFINISHED / "thesis.txt").read_text() == "mine"


def test_force_deletes_no_files_of_others(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kilograd.adapt(home / "discs", home / "small", iterations=0, out=out)
    (out / UNFINISHED).mkdir()
    (out / UNFINISHED / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="unfinished in it holds files that Kilograd has not"):
        kilograd.adapt(home / "discs", home / "small", iterations=0, out=out, force=True)
    assert (out / UNFINISHED / "thesis.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "key")
    random = np.random.default_rng(3).bit_generator.state
    where = Position(1, 2, 3, 0.5, np.arange(4), np.ones(6), np.ones(1), random, {})
    keeper.keep(lambda: where, now=True)
    found = keeper.position()
    assert found is not None
    assert (found.turn, found.at, found.random) == (1, 2, where.random)
    file = tmp_path / "checkpoint"
    for damage in (b"", b"x" * 50, file.read_bytes()[:-1], b"\0" + file.read_bytes()[1:]):
        file.write_bytes(damage)
        assert keeper.position() is None


def test_an_answer_that_is_no_class_is_asked_again(tmp_path: Path) -> None:
    """A power cut leaves what it likes at the end of a file."""
    kept = np.array([2, 0, -1, 1], np.int32).tobytes()
    for damaged, known in ((kept, 2), (kept[:6], 1), (np.int32(3).tobytes(), 0)):
        (tmp_path / "before").write_bytes(damaged)
        found = Keeper(tmp_path, "key").answers("before", 5, 3, lambda i: (i + 1) % 3)
        assert found == [2, 0][:known] + [(i + 1) % 3 for i in range(known, 5)]
        assert np.fromfile(tmp_path / "before", np.int32).tolist() == found


def test_unfinished_work_is_nothing_to_use_and_not_lost(home: Path, tmp_path: Path) -> None:
    """Only the command that began it may go on; what begins nothing of the kind leaves it alone."""
    kilograd.adapt(home / "discs", home / "small", "last", iterations=1, out=tmp_path / "done")
    out = tmp_path / "out"
    (out / UNFINISHED).mkdir(parents=True)
    (out / UNFINISHED / "begun").write_text("key")
    with pytest.raises(InputError, match="was interrupted; the same kilograd adapt goes on"):
        kilograd.load_adapted(out)
    before = contents(out)
    for given in ({"start": tmp_path / "done"}, {"ways": 2, "shots": 2, "model": home / "small"}):
        with pytest.raises(InputError, match="exists already; choose another folder or add force"):
            kilograd.adapt(home / "discs", out=out, iterations=1, **given)
        assert contents(out) == before


def test_kill_9(home: Path, tmp_path: Path) -> None:
    """A real process, a real signal; what it had taken and learned is there."""
    code = (
        "import sys, kilograd.learn.unfinished as u; u._EVERY = 0.05\n"
        "from kilograd.cli.main import main; main()"
    )
    words = ["adapt", home / "discs", "--model", home / "small", "--method", "last:3", "--head"]
    words += ["linear", "--iterations", 4000, "--out", tmp_path / "out"]
    command = [sys.executable, "-c", code, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = tmp_path / "out" / UNFINISHED / "checkpoint"
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert begun(tmp_path / "out")
    keeper = Keeper(tmp_path / "out" / UNFINISHED, (file.parent / "begun").read_text())
    where = keeper.position()
    assert where is not None
    assert len(where.losses) > 0
