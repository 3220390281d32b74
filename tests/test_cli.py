"""The command line, as its user meets it: what it prints, writes, refuses, and leaves behind."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from folders import (
    FEATURES,
    LAYERS,
    contents,
    listing,
    picture,
    replace_tensors,
    write_class,
    write_model,
    write_pictures,
)
from helpers import COMMAND, Done, Run
from PIL import Image
from safetensors.numpy import load_file
from typer.main import get_command

import kilograd
from kilograd import __version__
from kilograd.cli import app
from kilograd.cli.console import OUT, Table
from kilograd.data import Episode
from kilograd.errors import InputError
from kilograd.frontend import Model
from kilograd.learn.adapt import Outcome, Task
from kilograd.learn.adapt import adapt as learn
from kilograd.progress import Progress
from kilograd.report.markup import escape
from kilograd.settings import Settings

KEYS = [
    *("accuracy_before", "accuracy_before_low", "accuracy_before_high"),
    *("accuracy_after", "accuracy_after_low", "accuracy_after_high"),
    *("ways", "shots", "max_shots", "queries", "max_queries", "tested", "iterations"),
    *("sram_bytes", "sram_lower_bound_bytes", "sram_proved_optimal", "flash_bytes"),
    *("macs_forward", "macs_prefix", "macs_step", "macs_training", "latent_bytes", "cache_bytes"),
    *("learned_parameters", "changed_parameters", "saturated_before", "saturated"),
    *("backward_memory_bytes", "seconds"),
    *("accuracy_by_pass", "ram_without_stack_bytes", "tables_bytes"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `small` and pictures `discs` of four classes, eight each."""
    home = tmp_path_factory.mktemp("home")
    write_model(home / "models" / "small", seed=3)
    write_pictures(home / "discs")
    return home


@pytest.fixture(autouse=True)
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The model goes by its name; the working folder is empty, and the home stays as it is."""
    monkeypatch.setenv("KILOGRAD_MODELS", str(home / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "no cache"))
    monkeypatch.chdir(tmp_path)
    before = contents(home)
    yield
    assert contents(home) == before


@pytest.fixture
def adapt(run: Run, home: Path) -> Run:
    """Run `adapt` on the pictures with the model, quickly; later words win."""

    def adapt(*words: object, data: object = None) -> Done:
        quick = ("--model", "small", "--method", "last", "--iterations", 1)
        drawn = ("--shots", 3, "--queries", 4)
        return run("adapt", data or home / "discs", *quick, *drawn, *words)

    return adapt


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be trained, nor compiled for this machine."""

    def adapt(*_: object, **__: object) -> None:
        pytest.fail("trained all the same")

    monkeypatch.setattr("kilograd.learn.adapt.train", adapt)


# ---- adapt ----


def test_accuracies_by_pass_are_kept_and_drawn(adapt: Run, tmp_path: Path) -> None:
    done = adapt("--test-each-pass", "--iterations", 3, "--out", "run")
    assert done.out.count("learning.html") == 1, done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["accuracy_by_pass"]) == 3
    assert result["accuracy_by_pass"][-1] == result["accuracy_after"]
    page = (tmp_path / "run" / "learning.html").read_text()
    assert page.count("<circle") == 4
    adapt("--test-each-pass", "--iterations", 0, "--out", "none")
    assert not (tmp_path / "none" / "learning.html").exists()
    refused = adapt("--test-each-pass", "--iterations", 2049)
    assert refused.error.startswith("--test-each-pass: with --iterations 2049, the accuracies of")


def test_json_is_one_object_with_the_promised_keys(adapt: Run) -> None:
    result = adapt("--json").json
    assert list(result) == KEYS
    wanted = {"ways": 4, "shots": 3, "max_shots": 3, "queries": 4, "iterations": 1}
    assert {k: result[k] for k in wanted} == wanted
    kinds = {k: type(v).__name__ for k, v in result.items()}
    floats = {k for k in KEYS if k.startswith("accuracy_")} | {"seconds"}
    other = dict.fromkeys(floats, "float") | {"sram_proved_optimal": "bool"}
    other |= dict.fromkeys(["accuracy_by_pass"], "list")
    assert kinds == {k: other.get(k, "int") for k in KEYS}
    assert result["learned_parameters"] == 24 * FEATURES


def test_without_json_a_table(adapt: Run) -> None:
    done = adapt()
    assert done.code == 0
    words = ("accuracy before", "accuracy after", "RAM", "lower bound", "flash", "MACs", "learned")
    assert all(word in done.out for word in words)
    assert "Small random network" in done.out


def test_out_holds_the_tensors_the_episode_and_the_figures(adapt: Run, tmp_path: Path) -> None:
    words = ("--ways", 2, "--shots", 2, "--queries", 3, "--seed", 7, "--method", "bias:2")
    done = adapt(*words, "--head", "linear", "--optimizer", "adam", "--out", "new/run", "--json")
    assert listing(tmp_path) == ["new"]
    assert listing(tmp_path / "new") == ["run"]
    out = tmp_path / "new" / "run"
    assert listing(out) == ["adapted.safetensors", "episode.json", "network", "result.json"]
    result = json.loads((out / "result.json").read_text())
    summary = {name: done.json[name] for name in KEYS[:-2]}
    assert summary == {name: result[name] for name in summary}
    assert (result["method"], result["head"], result["optimizer"]) == ("bias:2", "linear", "adam")
    episode = Episode.from_json((out / "episode.json").read_text())
    assert (len(episode.classes), len(episode.support), len(episode.query)) == (2, 4, 6)
    assert episode.seed == 7
    names = {"b1.dw.bias", "b1.pw2.bias", "head.weight", "head.bias"}
    assert load_file(out / "adapted.safetensors").keys() == names


def test_episode_of_varying_shots(run: Run, home: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in range(6):
        write_class(tmp_path / "uneven" / str(label), rng, (40 * label, 9, 99), 6 + 4 * label)
    quick = ("--model", "small", "--iterations", 1)
    words = ("adapt", tmp_path / "uneven", *quick, "--episode", "meta-dataset", "--seed", 4)
    result = run(*words, "--json", "--out", tmp_path / "run").json
    episode = Episode.from_json((tmp_path / "run" / "episode.json").read_text())
    shots = Counter(episode.support_labels).values()
    assert result["ways"] == len(episode.classes) >= 5
    assert (result["shots"], result["max_shots"]) == (min(shots), max(shots))
    assert result["shots"] < result["max_shots"]
    assert result["queries"] * result["ways"] == len(episode.query)
    done = run(*words)
    assert f"{min(shots)} to {max(shots)} images each" in done.out


def test_text_says_where_it_was_written(adapt: Run, tmp_path: Path) -> None:
    done = adapt("--out", tmp_path / "[b]run")
    assert f"Written to {tmp_path / '[b]run'}: adapted.safetensors" in done.out
    assert listing(tmp_path) == ["[b]run"]


def test_what_was_chosen_and_why(adapt: Run, run: Run, tmp_path: Path) -> None:
    words = ("--method", "tinytrain", "--compute", "40%", "--out", "run", "--save-plan", "p.json")
    done = adapt(*words, "--explain", "--optimizer", "sgd")
    rows = json.loads((tmp_path / "run" / "result.json").read_text())["selection"]
    assert [r["layer"] for r in rows] == list(LAYERS)
    chosen = {r["layer"]: r["chosen"] for r in rows if r["chosen"]}
    assert chosen
    assert len(chosen) < len(rows)
    for r in rows:
        line = next(x for x in done.out.splitlines() if x.split()[:1] == [r["layer"]])
        assert f"{r['chosen']} of {r['channels']}" in line
        assert f"{r['potential']:.3g} " in line
        assert r["why"] in line
        assert bool(r["why"]) != bool(r["chosen"])
    page = (tmp_path / "run" / "selection.html").read_text()
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert cells == list(LAYERS)
    widths = [float(x) for x in re.findall(r'class="chosen" style="width:(.*?)%', page)]
    shares = [100 * r["chosen"] / r["channels"] for r in rows if r["chosen"]]
    assert widths == pytest.approx(shares, abs=0.051)
    potentials = [r["potential"] for r in rows]
    longest = re.findall(r'class="saved" style="width:100.0%"', page)
    assert len(longest) == potentials.count(max(potentials))
    assert not re.search(r"<script|https?:", page), "the page needs nothing from elsewhere"
    assert "selection.html" in done.out
    assert "--method p.json" in done.out
    plan = run("plan", "--model", "small", "--method", "p.json", "--ways", 4, "--json").json
    again = adapt("--method", "p.json", "--optimizer", "sgd", "--json").json
    first = json.loads((tmp_path / "run" / "result.json").read_text())
    assert plan["sram_bytes"] == again["sram_bytes"] == first["sram_bytes"]
    assert again["learned_parameters"] == first["learned_parameters"]
    exported = run("export", "--model", "small", "--method", "p.json", "--out", "c", "--json")
    assert exported.json["files"]
    assert "p.json: exists already" in adapt(*words[:2], "--save-plan", "p.json").error


def test_explanations_in_json_only_if_asked(adapt: Run) -> None:
    words = ("--method", "static-l2", "--json")
    found = adapt(*words, "--explain").json
    assert list(found) == [*KEYS, "selection"]
    assert [r["layer"] for r in found["selection"]] == list(LAYERS)
    assert list(adapt(*words).json) == KEYS
    assert adapt("--explain", "--json").json["selection"] == []
    assert "method last always takes the same layers" in adapt("--explain").out


@pytest.mark.parametrize("command", ["plan", "export"])
def test_a_method_that_needs_images(run: Run, command: str, tmp_path: Path) -> None:
    words = ("--out", "c") if command == "export" else ()
    error = run(command, "--model", "small", "--method", "tinytrain", *words).error
    assert "let kilograd adapt choose with --save-plan FILE.json" in error
    assert listing(tmp_path) == []


@pytest.mark.parametrize("compute", ["30%", "0.3 %", "70k", "0.07M", "70000"])
def test_compute(run: Run, compute: str) -> None:
    full = 2 * sum((64 * 27 * 8, 64 * 128, 64 * 144, 64 * 128, 64 * 192, 16 * 600, 16 * 288))
    limit = {"30%": int(0.3 * full), "0.3 %": int(0.003 * full)}.get(compute, 70000)
    words = ("plan", "--model", "small", "--method", "static-l2", "--compute", compute)
    if limit < 1000:
        error = run(*words).error
        assert error.startswith(f"--compute {limit}: too small")
        return
    assert run(*words, "--json").json["sram_bytes"] > 0


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{**pipes, **options})


def test_a_seed_repeats_a_run_to_the_byte(home: Path, tmp_path: Path) -> None:
    """Also in another process, where Python orders its sets otherwise."""
    words = ("adapt", home / "discs", "--model", "small", "--shots", 3, "--iterations", 2)
    running = [
        start(*words, "--seed", seed, "--out", name, env={**os.environ, "PYTHONHASHSEED": hash_})
        for seed, name, hash_ in ((1, "a", "1"), (1, "b", "2"), (2, "c", "1"))
    ]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    a, b, c = (contents(tmp_path / x) for x in "abc")
    assert a["adapted.safetensors"] == b["adapted.safetensors"] != c["adapted.safetensors"]
    assert a["episode.json"] == b["episode.json"] != c["episode.json"]
    first, second = (json.loads(x["result.json"]) for x in (a, b))
    assert first | {"seconds": 0} == second | {"seconds": 0}


def test_on_a_terminal_a_progress_bar_with_the_loss(home: Path) -> None:
    ours, theirs = pty.openpty()
    words = ("adapt", home / "discs", "--model", "small", "--shots", 3, "--iterations", 300)
    process = start(*words, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # how the end of a terminal reads
        pass
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"learning.*\d+/3600 loss \d\.\d\d\d", text)
    assert "accuracy after" in out


# ---- pictures ----


def test_every_kind_of_picture(adapt: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    modes = {"L": "png", "RGBA": "png", "CMYK": "jpg", "P": "png", "1": "png", "I;16": "png"}
    for name, colour in (("red", (220, 30, 30)), ("blue", (40, 50, 230))):
        (tmp_path / "kinds" / name).mkdir(parents=True)
        for mode, suffix in modes.items():
            image = picture(rng, colour)
            if mode == "I;16":
                image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
            else:
                image = image.convert(mode)
            assert image.mode == mode
            image.save(tmp_path / "kinds" / name / f"{mode.replace(';', '')}.{suffix}")
    done = adapt("--json", data=tmp_path / "kinds")
    assert done.json["queries"] == len(modes) - 3
    assert done.err == "", "nothing was skipped"


def test_unreadable_pictures_are_named_counted_and_skipped(
    adapt: Run, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / "discs", tmp_path / "discs")
    whole = (tmp_path / "discs" / "red" / "0.png").read_bytes()
    long = f"{'x' * 100}.png"
    (tmp_path / "discs" / "red" / "[bold]broken.png").write_bytes(b"no picture")
    (tmp_path / "discs" / "green" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "discs" / "blue" / long).write_bytes(b"")
    done = adapt("--json", data=tmp_path / "discs")
    assert done.json["ways"] == 4
    (line,) = done.err.splitlines()
    assert line.startswith("3 of 35 images unreadable and skipped: ")
    assert all(x in line for x in ("red/[bold]broken.png", "green/cut.png", f"blue/{long}"))
    same = adapt("--json").json
    assert {**done.json, "seconds": 0} == {**same, "seconds": 0}, "as if they were not there"


def test_many_unreadable_pictures_are_all_counted(adapt: Run, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "discs", tmp_path / "discs")
    for i in range(20):
        (tmp_path / "discs" / "red" / f"broken{i:02}.png").write_bytes(b"no picture")
    done = adapt("--json", data=tmp_path / "discs")
    assert done.err.startswith("20 of 52 images unreadable and skipped: red/broken00.png, ")
    assert "and 12 more" in done.err


def test_class_with_one_picture_is_named_and_left_out(adapt: Run, tmp_path: Path) -> None:
    write_pictures(tmp_path / "discs", ("blue", "red"), count=5)
    write_pictures(tmp_path / "discs", ("green",), count=1)
    (tmp_path / "discs" / "green").rename(tmp_path / "discs" / "[green]")
    done = adapt("--json", data=tmp_path / "discs")
    assert done.json["ways"] == 2
    assert done.err == "1 of 3 classes left out, too few images for 3 shots: [green]\n"


def test_too_few_classes_remain(adapt: Run, tmp_path: Path, no_training: None) -> None:
    write_pictures(tmp_path / "discs", ("blue",), count=5)
    write_pictures(tmp_path / "discs", ("green", "red"), count=1)
    error = adapt("--json", "--out", "run", data=tmp_path / "discs").error
    assert error.startswith("discs: an episode needs 2 or more, but 1 of 3 classes have 3 images")
    assert "green (1 image), red (1 image)" in error
    assert listing(tmp_path) == ["discs"]


def empty(folder: Path) -> None:
    folder.mkdir()


def no_class_folders(folder: Path) -> None:
    folder.mkdir()
    picture(np.random.default_rng(0), (0, 0, 0)).save(folder / "0.png")


def classes_without_pictures(folder: Path) -> None:
    for name in ("red", "blue"):
        (folder / name).mkdir(parents=True)


def nothing_readable(folder: Path) -> None:
    (folder / "red").mkdir(parents=True)
    (folder / "red" / "0.png").write_bytes(b"no picture")


def a_text_file(file: Path) -> None:
    file.write_text("no picture")


def missing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, "pets: it is empty; give a folder with one sub-folder of images per class"),
        (no_class_folders, "pets: holds 1 images and no class folders; make a folder for each"),
        (classes_without_pictures, "pets: none of its 2 folders holds an image; give a folder"),
        (nothing_readable, "pets: no image in it can be read (1 tried, the first is red/0.png)"),
        (a_text_file, "pets: neither a folder nor a .parquet or .npz file; give a folder"),
        (missing, "pets: no such file or folder; give a folder"),
    ],
)
def test_no_pictures(
    adapt: Run, tmp_path: Path, no_training: None, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "pets")
    before = contents(tmp_path)
    assert message in adapt("--out", "run", data="pets").error
    assert contents(tmp_path) == before


# ---- options ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ways 5", "discs: 5 ways asked for, but 4 of 4 classes have 3 images"),
        ("--ways 1", "--ways: 1 is too small; give 2 or more"),
        ("--shots 0", "--shots: 0 is too small; give 1 or more"),
        ("--shots 8", "discs: an episode needs 2 or more, but 0 of 4 classes have 8 images"),
        ("--queries 0", "--queries: 0 is too small; give 1 or more"),
        ("--episode meta", "--episode meta: give all, fixed, meta-dataset, or a file"),
        ("--episode meta-dataset", "--shots 3: --episode meta-dataset draws this itself"),
        ("--episode meta-dataset --ways 5", "--ways 5: --episode meta-dataset draws this itself"),
        ("--iterations -1", "--iterations -1: must not be negative"),
        ("--lr nan", "--lr nan: must be a positive number"),
        ("--lr inf", "--lr inf: must be a positive number"),
        ("--lr 0", "--lr 0.0: must be a positive number"),
        ("--lr -0.1", "--lr -0.1: must be a positive number"),
        ("--lr fast", "Invalid value for '--lr': "),
        ("--cache -1", "--cache -1: must not be negative"),
        ("--cache 4 --method full", "--cache 4: method full on small learns from the first layer"),
        ("--cache 4 --cache-bytes 9K", "--cache 4: --cache-bytes says how many views; leave one"),
        ("--cache-bytes much", "--cache-bytes 'much': give bytes, or a number with K or M"),
        ("--cache-bytes 9", "--cache-bytes 9: does not hold each image and one view of it, "),
        ("--warmup 10", "--warmup 10: must be in 0 ... 0, fewer passes than --iterations 1"),
        ("--accumulate 0", "--accumulate 0: must be at least 1"),
        ("--seed -1", "--seed -1: must be in 0 ... 2147483647"),
        ("--optimizer sdg", "Invalid value for '--optimizer': "),
        ("--head tail", "Invalid value for '--head': "),
        ("--augment more", "Invalid value for '--augment': "),
        (
            "--method fisher",
            "--method 'fisher': unknown; known are none, head, last, full, tinytrain, ",
        ),
        ("--method last:8", "--method: small has 7 convolutions, 8 cannot learn"),
        (
            "--method sparse-49kb",
            "--method sparse-49kb: no plan was published for the layers of small; ",
        ),
        (
            "--method absent.json",
            "--method absent.json: cannot be read (No such file",
        ),
        ("--method none --head linear", "--head linear: method none does not train it"),
        ("--method head --head proto", "--head proto: prototypes do not learn by gradient"),
        ("--bogus", "No such option: --bogus"),
        ("--sram much", "--sram 'much': give bytes, or a number with K or M, as in 256K"),
        ("--sram -1", "--sram '-1': give bytes"),
        ("--sram nan", "--sram 'nan': give bytes"),
        ("--sram 1G", "--sram '1G': give bytes"),
        ("--sram 0x100", "--sram '0x100': give bytes"),
        ("--sram 1e3", "--sram '1e3': give bytes"),
        ("--sram 1K", "--sram 1K (1,024 bytes): method last on small needs "),
        ("--sram 0", "--sram 0: 0 bytes hold no program; give a size, as in 256K"),
        ("--sram 256", "--sram 256: 256 bytes hold no program; did you mean 256K?"),
        (
            "--sram 1K --method tinytrain",
            "--sram 1024: too small for any layer of small to learn; the",
        ),
        ("--compute much", "--compute 'much': give multiply-accumulates, as in 6.7M, or a share"),
        ("--compute -1", "--compute '-1': give multiply-accumulates"),
        ("--compute 1e6", "--compute '1e6': give multiply-accumulates"),
        ("--compute 0", "--compute 0: must be positive"),
        ("--compute 0.0%", "--compute 0.0%: must be positive"),
        ("--compute 100", "--compute 100: method last on small needs "),
        ("--compute 1k --method static-l2", "--compute 1000: too small for any layer of small to "),
        ("--channels 0", "--channels 0.0: must be more than 0 and at most 1"),
        ("--channels 1.5", "--channels 1.5: must be more than 0 and at most 1"),
        ("--channels nan", "--channels nan: must be more than 0 and at most 1"),
        ("--channels half", "Invalid value for '--channels': "),
        ("--channels 0.5", "--channels 0.5: method last on small learns 12 of 12 channels of b1."),
        ("--method tinytrain:W", "--method 'tinytrain:W': unknown; known are "),
        ("--save-plan plan.txt", "--save-plan plan.txt: must end in .json"),
        ("--save-plan no/plan.json", "--save-plan no/plan.json: there is no folder no"),
        ("--method full --rows", "--rows: method full on small: no layers at the front could read"),
    ],
)
def test_bad_options(
    adapt: Run, tmp_path: Path, no_training: None, words: str, message: str
) -> None:
    assert adapt(*words.split(" "), "--out", "run").error.startswith(message)
    assert listing(tmp_path) == []


def test_empty_sizes_and_methods(adapt: Run, no_training: None) -> None:
    assert adapt("--sram", "").error.startswith("--sram '': give bytes")
    assert adapt("--method", "").error.startswith("--method '': unknown; known are ")


def test_no_data_given(run: Run) -> None:
    assert run("adapt").error.startswith("Missing argument")
    assert run("adapt", ".", "--ways").error == "Option '--ways' requires an argument."
    assert run("adapt", "a", "b").error
    assert run("adpat").error.startswith("No such command 'adpat'")


def test_a_guard_says_how_far_it_trains(adapt: Run) -> None:
    done = adapt("--guard", "--method", "full", "--shots", "4")
    said = re.search(r"held-out images right, of 16: (.*) passes; (\d+) it is", done.err)
    assert said
    tried = [tuple(map(int, t.split(" after "))) for t in said[1].split(", ")]
    assert tried[0][1] == 0
    assert int(said[2]) in {passes for _, passes in tried}
    assert all(0 <= right <= 16 for right, _ in tried)
    assert adapt("--guard", "--method", "full", "--shots", "4", "--json").json["iterations"] == int(
        said[2]
    )
    assert adapt("--guard", "--shots", "1").error.startswith("--guard: needs two images of each")


def test_images_by_rows_teach_the_same(adapt: Run) -> None:
    whole, rows = (adapt("--json", *words).json for words in ((), ("--rows",)))
    assert rows.pop("sram_bytes") <= whole.pop("sram_bytes")
    for found in (whole, rows):
        del found["seconds"], found["sram_lower_bound_bytes"], found["flash_bytes"]
    assert rows == whole


@pytest.mark.parametrize("method", ["last", "last:2", "bias:4", "full"])
@pytest.mark.parametrize("head", ["proto", "linear"])
def test_smallest_budget_is_named_and_is_enough(adapt: Run, method: str, head: str) -> None:
    words = ("--method", method, "--head", head, "--json")
    error = adapt(*words, "--sram", "1K").error
    match = re.fullmatch(
        rf"--sram 1K \(1,024 bytes\): method {method} on small needs .* that fits is (\d+)", error
    )
    assert match
    assert adapt(*words, "--sram", match[1]).json["sram_bytes"] == int(match[1])
    assert adapt(*words, "--sram", int(match[1]) - 1).error.endswith(f"that fits is {match[1]}")


@pytest.mark.parametrize(
    "size", ["64K", "64k", "64 KiB", "65536", "65536B", "0.0625M", " 64kb ", "9" * 12]
)
def test_sizes(run: Run, size: str) -> None:
    assert run("plan", "--model", "small", "--sram", size, "--json").json["sram_bytes"] < 65536


# ---- numbers and texts of others ----

NUMBERS = [
    "9" * 30,
    "9" * 5000,
    "1" + "0" * 12,
    "1e400",
    "-1",
    "nan",
    "٣",
    "1_0",
    "0x10",
    "",
    "1\x1b",
]
NUMERIC = ["--ways", "--shots", "--queries", "--iterations", "--warmup", "--seed", "--accumulate"]
NUMERIC += ["--cache", "--lr", "--channels", "--sram", "--compute", "--cache-bytes"]


@pytest.mark.parametrize("option", NUMERIC)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda x: ascii(x[:8]))
def test_numbers_of_any_size_are_one_line_or_work(
    adapt: Run, monkeypatch: pytest.MonkeyPatch, option: str, number: str
) -> None:
    """What the programs would do is not of interest here, and takes time."""

    def learned(*_: object, **__: object) -> NoReturn:
        raise InputError("could be used")

    monkeypatch.setattr("kilograd.api.learn", learned)
    message = adapt(option, number).error
    assert message.isprintable()
    assert len(message) < 3000


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--ways", 10**6),
        ("plan", "--ways", 4097),
        ("plan", "--accumulate", 10**9),
        ("run", "--seed", -1),
        ("run", "--seed", 2**31),
        ("run", "--steps", 10**9),
        ("cost", "--ways", 10**9),
        ("search", "--out", "out", "--sram", "1M", "--seed", -1),
        ("search", "--out", "out", "--sram", "1M", "--ways", 10**9),
        ("demo", "--seed", 10**10),
        ("evaluate", "--data", "x", "--out", "out", "--jobs", 10**9),
        ("tune", "--data", "x", "--out", "out", "--jobs", 10**9),
        ("contribution", "--data", "x", "--out", "out.json", "--jobs", 10**9),
        ("evaluate", "--data", "x", "--out", "out", "--iterations", 10**9),
    ],
    ids=lambda words: "-".join(map(str, words)),
)
def test_counts_have_limits(run: Run, words: tuple[object, ...]) -> None:
    assert re.search(r"is the most|must be in 0 \.\.\.|too large; give", run(*words).error)


METHODS = [
    "last:" + "9" * 20,
    "last:٣",
    "last:1e3",
    "last:-1",
    "weights:0:1/0",
    "weights:٣:1",
    "bias:²",
]
METHODS += ["weights:" + "9" * 5000 + ":1", "weights:0:" + "9" * 400, "weights:0:1/" + "9" * 400]
METHODS += [
    "static-random:" + "9" * 30,
    "\x1b[2J",
    "a\nb",
    "\u202e",
    "x" * 10_000,
    "sparse-\x1b]0;",
]
METHODS += [
    "sparse-49kb",
    "last:2@" + "9" * 400,
    "last:2@nan",
    "\x1b.json",
    "a\0.json",
    "y" * 300 + ".json",
]


@pytest.mark.parametrize("method", METHODS, ids=lambda x: ascii(x[:12]))
def test_methods_that_are_none_are_one_line(run: Run, method: str) -> None:
    message = run("plan", "--model", "small", "--method", method).error
    assert message.isprintable()
    assert len(message) < 3000


def test_plans_published_for_another_network_of_this_name(
    run: Run, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / "models" / "small", tmp_path / "mine")
    file = tmp_path / "mine" / "graph.json"
    graph = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(graph | {"name": "mcunet-5fps"}), "utf-8")
    for label in ("49kb", "148kb"):
        words = ("plan", "--model", tmp_path / "mine", "--method", f"sparse-{label}")
        assert "no plan was published for the layers of mcunet-5fps" in run(*words).error


def test_texts_of_others_reach_the_terminal_escaped(
    run: Run, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a\x1b[2J\n\u202eb"
    shutil.copytree(home / "models" / "small", folder)
    shutil.copytree(home / "discs", tmp_path / "pets")
    (tmp_path / "pets" / "red" / "\x1b]0;x\x07.png").write_bytes(b"")
    out = tmp_path / "out\x1b"
    done = run("adapt", tmp_path / "pets", "--model", folder, "--iterations", 1, "--out", out)
    assert done.code == 0, done.err
    for text in (done.out, done.err):
        assert all(line.isprintable() for line in text.split("\n"))
    assert r"Written to" in done.out
    assert r"\x1b]0;x\x07.png" in done.err
    for page in out.glob("*.html"):
        assert "\x1b" not in page.read_text("utf-8")
    table = Table("a\x1b", box=None)
    table.add_row("b\u202e\n")
    OUT.print(table)
    found = capsys.readouterr().out
    assert r"a\x1b" in found
    assert r"b\u202e\n" in found
    assert escape("<\x1b>") == r"&lt;\x1b&gt;"


# ---- models ----


def test_unknown_model_lists_those_there_are(adapt: Run, home: Path, no_training: None) -> None:
    error = adapt("--model", "smal", "--json").error
    assert error.startswith("--model 'smal': no such model; did you mean small? There are ")
    assert f"yours ({home / 'models'})" in error
    assert "bundled (" in error


def test_model_by_its_folder(adapt: Run, home: Path, tmp_path: Path) -> None:
    by_name = adapt("--json").json
    by_path = adapt("--model", home / "models" / "small", "--json").json
    shutil.copytree(home / "models" / "small", tmp_path / "mine")
    by_folder = adapt("--model", "mine", "--json").json
    assert by_name | {"seconds": 0} == by_path | {"seconds": 0} == by_folder | {"seconds": 0}


def test_folder_of_pictures_does_not_hide_a_model_of_that_name(
    adapt: Run, home: Path, tmp_path: Path
) -> None:
    """`kilograd adapt digits` beside a folder `digits` of pictures."""
    shutil.copytree(home / "discs", tmp_path / "small")
    assert adapt("--model", "small", "--json", data="small").code == 0


def test_folder_that_is_no_model(adapt: Run, home: Path, tmp_path: Path, no_training: None) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine", "mine/", "./nowhere", home / "discs"):
        assert "graph.json: no such file; a model folder holds" in adapt("--model", name).error


WRONG: dict[str, tuple[np.ndarray[Any, Any], str]] = {
    "shape": (
        np.zeros((24, 7, 1, 1), np.int8),
        "tensor 'b1.pw1.weight' is int8[24, 7, 1, 1], expected int8[24, 8, 1, 1]",
    ),
    "type": (
        np.zeros((24, 8, 1, 1), np.float32),
        "tensor 'b1.pw1.weight' is float32[24, 8, 1, 1], expected int8[24, 8, 1, 1]",
    ),
    "scale": (
        np.full(24, np.nan, np.float32),
        "tensor 'b1.pw1.weight_scale' has scales that are not > 0",
    ),
    "infinite scale": (
        np.full(24, np.inf, np.float32),
        "tensor 'b1.pw1.weight_scale' has scales that are not > 0",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_model_with_a_wrong_tensor(
    adapt: Run, home: Path, tmp_path: Path, no_training: None, what: str
) -> None:
    shutil.copytree(home / "models" / "small", tmp_path / "mine")
    value, message = WRONG[what]
    name = "b1.pw1.weight_scale" if "scale" in what else "b1.pw1.weight"
    replace_tensors(tmp_path / "mine", {name: value})
    error = adapt("--model", tmp_path / "mine", "--out", "run").error
    assert message in error
    assert "mine" in error
    assert listing(tmp_path) == ["mine"]


def test_truncated_model(adapt: Run, home: Path, tmp_path: Path, no_training: None) -> None:
    shutil.copytree(home / "models" / "small", tmp_path / "mine")
    file = tmp_path / "mine" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "model.safetensors: cannot be read" in adapt("--model", tmp_path / "mine").error
    file.unlink()
    assert "model.safetensors: no such file" in adapt("--model", tmp_path / "mine").error


def test_a_broken_model_folder_breaks_no_other(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "models", tmp_path / "models")
    for name, text in (("bad", "{"), ("bad\x1b[2J", '{"format": 1}'), (".hidden", "{")):
        (tmp_path / "models" / name).mkdir()
        (tmp_path / "models" / name / "graph.json").write_text(text, encoding="utf-8")
    (tmp_path / "models" / "__MACOSX").mkdir()
    monkeypatch.setenv("KILOGRAD_MODELS", str(tmp_path / "models"))
    done = run("models")
    assert "small" in done.out
    assert done.err.count("broken: ") == 2
    assert "\x1b" not in done.out + done.err
    found = run("models", "--json").json
    assert {row["name"] for row in found["models"]} == {"digits", "pocket", "small"}
    assert {Path(p).name for p in found["broken"]} == {"bad", "bad\x1b[2J"}
    assert run("plan", "--model", "small", "--json").json["sram_bytes"] > 0


def test_models_lists_names_and_places(run: Run, home: Path) -> None:
    rows = run("models", "--json").json["models"]
    (small,) = (row for row in rows if row["name"] == "small")
    assert small.pop("macs_forward") > 10_000
    assert small.pop("cosine_scale") == 10
    assert small == {
        "name": "small",
        "title": "Small random network",
        "path": str(home / "models" / "small"),
        "origin": "yours",
        "input": [16, 16, 3],
        "convolutions": len(LAYERS),
    }
    text = run("models").out
    assert re.search(r"small +Small random network +16x16x3 +7 .*yours", text)
    assert str(home / "models") in text


def test_your_networks_lie_in_the_cache_where_nothing_else_is_said(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KILOGRAD_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(home / "models" / "small", tmp_path / "kilograd" / "models" / "other")
    rows = {row["name"]: row["origin"] for row in run("models", "--json").json["models"]}
    assert rows["other"] == "yours"
    assert "small" not in rows


def test_bundled_networks_win(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "models" / "small", tmp_path / "models" / "digits")
    monkeypatch.setenv("KILOGRAD_MODELS", str(tmp_path / "models"))
    rows = {row["name"]: row["origin"] for row in run("models", "--json").json["models"]}
    assert rows["digits"] == "bundled"


# What is taken where no network is named: the first that is there.
@pytest.mark.parametrize(
    ("have", "taken"), [((), "digits"), (("pocket",), "pocket"), (("mcunet-5fps", "a"), "mcunet")]
)
def test_network_where_none_is_named(
    run: Run,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    have: tuple[str, ...],
    taken: str,
) -> None:
    bundled = tmp_path / "kilograd" / "models"
    shutil.copytree(Path(kilograd.__file__).parent / "models" / "digits", bundled / "digits")
    monkeypatch.setattr(kilograd, "__file__", str(tmp_path / "kilograd" / "__init__.py"))
    for name in have:
        shutil.copytree(home / "models" / "small", tmp_path / "models" / name)
    monkeypatch.setenv("KILOGRAD_MODELS", str(tmp_path / "models"))
    done = run("cost", "--method", "last")
    assert done.err.startswith(f"network: {taken}")
    title = "Handwritten digits" if taken == "digits" else "Small random network"
    assert title in done.out
    assert run("cost", "--method", "last", "--model", "digits").err == ""


# ---- plan ----


def test_plan_is_that_of_the_run(run: Run, adapt: Run) -> None:
    words = ("--model", "small", "--method", "last:2", "--optimizer", "adam", "--json")
    plan = run("plan", *words, "--ways", 4).json
    result = adapt(*words).json
    shared = plan.keys() & result.keys()
    assert shared == {
        *("sram_bytes", "sram_lower_bound_bytes", "sram_proved_optimal", "flash_bytes"),
        *("ram_without_stack_bytes", "tables_bytes"),
    }
    assert {k: plan[k] for k in shared} == {k: result[k] for k in shared}


@pytest.mark.parametrize("entry", ["infer", "enrol", "forget", "step", None])
def test_plan_is_a_map_without_collisions(run: Run, entry: str | None) -> None:
    words = ("plan", "--model", "small", "--method", "full", "--json")
    plan = run(*words, *(("--entry", entry) if entry else ())).json
    assert plan["entry"] == (entry or "step")
    assert plan["entries"].keys() == {"infer", "enrol", "forget", "step"}
    assert plan["arena_bytes"] == max(e["peak"] for e in plan["entries"].values())
    assert plan["sram_bytes"] == plan["arena_bytes"] + plan["state_bytes"]
    buffers = plan["buffers"]
    ends = [b["offset"] + b["size"] for b in buffers]
    peak = plan["entries"][plan["entry"]]["peak"]
    assert max(ends, default=0) <= peak <= plan["arena_bytes"]
    for i, a in enumerate(buffers):
        for b in buffers[:i]:
            together = a["first"] < b["last"] and b["first"] < a["last"]
            apart = a["offset"] + a["size"] <= b["offset"] or b["offset"] + b["size"] <= a["offset"]
            assert apart or not together, (a, b)
    state = sorted((s["offset"], s["size"]) for s in plan["state"])
    for (offset, size), (following, _) in itertools.pairwise(state):
        assert offset + size <= following
    assert sum(state[-1]) <= plan["state_bytes"]


def test_an_exact_plan_needs_no_more(run: Run) -> None:
    words = ("plan", "--model", "small", "--method", "full", "--json")
    greedy, exact = run(*words).json, run(*words, "--exact").json
    assert exact["sram_proved_optimal"]
    assert greedy["sram_lower_bound_bytes"] <= exact["sram_bytes"] <= greedy["sram_bytes"]


@pytest.mark.parametrize("command", ["plan", "run", "export", "adapt"])
def test_an_exact_plan_needs_the_solver(
    run: Run, home: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ortools", None)
    words = {"adapt": (home / "discs",), "export": ("--out", "new")}.get(command, ())
    error = run(command, *words, "--model", "small", "--exact").error
    assert error == "--exact needs ortools; pip install ortools"
    assert not Path("new").exists()


def test_plan_draws_the_map(run: Run) -> None:
    words = ("plan", "--model", "small", "--sram", "64K", "--out", "map.html")
    done = run(*words)
    assert done.code == 0
    assert done.out.endswith("Written to map.html\n")
    html = Path("map.html").read_text("utf-8")
    assert html.startswith("<!doctype html>")
    assert html.endswith("</html>\n")
    assert html.count("<svg") == 7
    assert "of a budget of 64.0 KiB" in html
    assert run(*words).error == (
        "--out map.html: exists already; choose another file or add --force"
    )
    plan = run(*words, "--method", "none", "--entry", "infer", "--force", "--json").json
    html = Path("map.html").read_text("utf-8")
    assert html.count("<svg") == 1  # nothing trains: there is nothing to compare
    assert f"{plan['sram_bytes'] / 1024:,.1f} KiB" in html
    assert listing(Path()) == ["map.html"]


@pytest.mark.parametrize(
    ("out", "error"),
    [
        ("map.svg", "must end in .html"),
        ("nowhere/map.html", "there is no folder nowhere; make it first"),
        ("folder.html", "is a folder; choose another file"),
    ],
)
def test_plan_refuses_where_it_cannot_draw(run: Run, out: str, error: str) -> None:
    Path("folder.html").mkdir()
    done = run("plan", "--model", "small", "--out", out, "--force")
    assert done.error == f"--out {out}: {error}"
    assert listing(Path()) == ["folder.html"]


def test_a_map_that_cannot_be_written_leaves_the_old_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("map.html").write_text("old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    done = run("plan", "--model", "small", "--out", "map.html", "--force")
    assert done.error.startswith("--out map.html: cannot be written")
    assert listing(Path()) == ["map.html"]
    assert Path("map.html").read_text() == "old"


def test_plan_says_what_each_part_saves(run: Run) -> None:
    words = ("plan", "--model", "small", "--method", "full")
    plan = run(*words, "--json", "--ablation").json
    parts = plan["ablation"]
    assert parts[0]["name"] == "naive"
    assert parts[-1]["arena_bytes"] == plan["entries"]["step"]["peak"]
    for part in parts:
        assert part["sram_bytes"] == plan["state_bytes"] + part["arena_bytes"]
    text = run(*words, "--ablation").out
    for part in parts:
        line = next(line for line in text.splitlines() if line.startswith(f" {part['name']} "))
        assert f"{part['sram_bytes']:,}" in line
        assert f"{parts[0]['sram_bytes'] / part['sram_bytes']:.1f} x" in line
    assert "ablation" not in run(*words, "--json").json
    assert run("plan", "--model", "small", "--method", "none", "--ablation").error == (
        "--ablation: method none trains nothing; choose another"
    )


def test_plan_prints_the_map(run: Run) -> None:
    text = run("plan", "--model", "small").out
    for words in ("offset", "kept between calls", "head.prototypes", "peak of step: step "):
        assert words in text
    for entry in ("infer", "enrol", "forget", "step"):
        assert re.search(rf"^{entry}: [\d,]+ B of arena", text, re.MULTILINE)
    assert re.search(r"^ RAM without stack +[\d,]+ B \([\d.]+ KiB\) *$", text, re.MULTILINE)
    assert "no int32 accumulator can overflow: " in text


def test_plan_refuses(run: Run) -> None:
    error = run("plan", "--model", "small", "--entry", "steps").error
    assert error == "--entry steps: no such entry point; there are infer, enrol, forget, step"
    assert "that fits is" in run("plan", "--model", "small", "--sram", "2000").error
    assert run("plan", "--model", "small", "--ways", 0).error.startswith("--ways 0: must be")


def test_reader_that_leaves_early(home: Path) -> None:
    """As in `kilograd plan | head`: no traceback, whatever prints."""
    for words in (("models",), ("models", "--json"), ("plan", "--model", "small")):
        ours, theirs = os.pipe()
        os.close(ours)
        process = start(*words, stdout=theirs)
        os.close(theirs)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (1, "")


# ---- help ----

GROUP = get_command(app)
COMMANDS = sorted(GROUP.commands)  # type: ignore[attr-defined]


def test_help_of_the_whole(run: Run) -> None:
    assert {"adapt", "plan", "models", "demo"} <= set(COMMANDS)
    done = run("--help")
    assert done.code == 0
    assert all(re.search(rf"\b{name}\b", done.out) for name in COMMANDS)
    assert run().out == done.out, "no command is a question for help"
    assert run("--version").out.strip() == __version__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_explained(run: Run, name: str) -> None:
    command = GROUP.commands[name]  # type: ignore[attr-defined]
    done = run(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert command.help
    assert " ".join(command.help.split()) in " ".join(done.out.split())
    options = {o for p in command.params for o in p.opts if o.startswith("--")}
    assert {o for o in options if not re.search(rf"(?<![\w-]){o}(?![\w-])", done.out)} == set()
    assert [
        p.name for p in command.params if p.name != "help" and not getattr(p, "help", None)
    ] == []
    assert name != "adapt" or options >= {
        *("--ways", "--shots", "--queries", "--iterations", "--lr", "--optimizer", "--head"),
        *("--method", "--sram", "--seed", "--out", "--json", "--model", "--force"),
    }
    assert "--json" in options


# ---- an output folder that exists ----


@pytest.fixture
def old(adapt: Run, tmp_path: Path) -> Path:
    """The results of an earlier run."""
    assert adapt("--out", "run", "--seed", 1).code == 0
    (tmp_path / "run" / "selection.html").write_text("old")
    return tmp_path / "run"


def test_results_are_not_replaced_unasked(
    adapt: Run, tmp_path: Path, old: Path, no_training: None
) -> None:
    before = contents(tmp_path)
    error = adapt("--out", "run").error
    assert error == "--out run: exists already; choose another folder or add --force"
    assert contents(tmp_path) == before
    # before the data is read, too: that may take minutes
    assert "exists already" in adapt("--out", "run", data="nowhere").error


def test_results_are_replaced_when_asked(adapt: Run, tmp_path: Path, old: Path) -> None:
    before = contents(old)
    assert adapt("--out", "run", "--force", "--seed", 2).code == 0
    assert listing(tmp_path) == ["run"]
    assert listing(old) == ["adapted.safetensors", "episode.json", "network", "result.json"]
    assert contents(old)["episode.json"] != before["episode.json"]


def test_force_never_deletes_the_pictures(adapt: Run, home: Path, no_training: None) -> None:
    """The fixture `at_home` looks after them."""
    error = adapt("--out", home / "discs", "--force").error
    assert error.endswith(
        "holds something else than results, and --force would delete it; choose another folder"
    )


def test_out_below_a_file(adapt: Run, tmp_path: Path, no_training: None) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in adapt("--out", "file", "--force").error
    assert "nothing can be written to" in adapt("--out", "file/run").error
    assert contents(tmp_path) == {"file": b"mine"}


# ---- Ctrl-C ----


@pytest.mark.parametrize("words", [(), ("--force",), ("--force", "--json")], ids=" ".join)
def test_interrupted_in_training(
    adapt: Run, tmp_path: Path, old: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def interrupted(
        model: Model, task: Task, settings: Settings, _: Progress, chosen: frozenset[str]
    ) -> Outcome:
        def stop(done: int, of: int, said: str) -> None:
            raise KeyboardInterrupt

        return learn(model, task, settings, stop, chosen)

    monkeypatch.setattr("kilograd.api.learn", interrupted)
    before = contents(tmp_path)
    done = adapt("--out", "run" if words else "new/run", *words)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "error: interrupted; nothing is half written"
    assert "Traceback" not in done.err
    assert contents(tmp_path) == before
    assert listing(tmp_path) == ["run"]


@pytest.mark.parametrize("when", ["compiling", "training"])
def test_ctrl_c(home: Path, tmp_path: Path, when: str) -> None:
    """The signal goes to the compiler as well, as a terminal sends it."""
    cache = Path(os.environ["KILOGRAD_CACHE"])
    known = set(cache.glob("model-*"))
    words = ("--model", "small", "--shots", 3, "--iterations", 10**7, "--out", "run")
    # a program that no other test has compiled
    method = ("--method", {"compiling": "bias:6", "training": "bias:7"}[when])
    process = start("adapt", home / "discs", *words, *method, start_new_session=True)
    deadline = time.monotonic() + 60
    wanted = {"compiling": "*/model.c", "training": "model-*"}[when]
    while not set(cache.glob(wanted)) - known - {m / "model.c" for m in known}:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    if when == "training":
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.strip() == "error: interrupted; nothing is half written"
    assert listing(tmp_path) == []
    assert [p for p in listing(cache) if p.startswith(".")] == []
