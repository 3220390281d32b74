"""The study of whole data sets: its two-class set, order and tables, and what interrupts it."""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_model, write_pictures

import kilograd
from kilograd.data import Dataset, load_dataset, sample_whole
from kilograd.errors import InputError
from kilograd.frontend import load_model
from kilograd.select.cost import Convention
from kilograd.settings import Settings

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of benchmarks/."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def dataset_of(classes: dict[str, int], split: tuple[str, ...] | None = None) -> Dataset:
    labels = np.repeat(np.arange(len(classes)), list(classes.values()))
    return Dataset(
        name="made",
        classes=tuple(classes),
        images=tuple(f"{i}".encode() for i in range(len(labels))),
        image_names=tuple(f"image {i}" for i in range(len(labels))),
        labels=labels,
        split=split,
    )


# ---- two classes ----


def test_a_two_class_set_has_as_many_of_both_from_every_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = module("two_classes", monkeypatch)
    split = ("train", "train", "test") + ("train", "test", "test", "val") * 5
    one = dataset_of({"face": 3, "car": 8, "dog": 12}, split)
    two = replace(dataset_of({"man": 2, "cup": 1, "hat": 9}, ("train",) * 12), name="other")
    found = made.two_classes(
        "person",
        "no person",
        [
            made.Source(one, frozenset({"face"}), frozenset({"car", "dog"})),
            made.Source(two, frozenset({"man"}), frozenset({"cup"})),
        ],
    )
    assert found.classes == ("person", "no person")
    counts = Counter(zip(found.labels.tolist(), found.split, strict=True))
    assert counts == {(0, "train"): 4, (0, "test"): 1, (1, "train"): 3, (1, "test"): 1}
    for image, name, label, side in zip(
        found.images, found.image_names, found.labels, found.split, strict=True
    ):
        source = one if name.startswith("made ") else two
        i = int(image)
        assert name.endswith(f" image {i}")
        assert source.split is not None
        assert source.split[i] == side
        assert (source.classes[source.labels[i]] in {"face", "man"}) == (label == 0)
    assert len({*zip(found.images, found.image_names, strict=True)}) == len(found)


def test_a_two_class_set_of_one_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = module("two_classes", monkeypatch)
    one = dataset_of({"face": 1, "car": 0})
    found = made.two_classes("a", "b", [made.Source(one, frozenset({"face"}), frozenset({"car"}))])
    assert found.split is None
    with pytest.raises(InputError, match="1 of 2 classes has an image to learn from"):
        sample_whole(found, test=None, seed=0)


# ---- the order ----


@pytest.mark.parametrize("study", ["main", "rates", "s2", "s3", "s4"])
@pytest.mark.parametrize("network", ["mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"])
def test_every_method_of_a_study_is_one(
    network: str, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = module("whole_work", monkeypatch)
    blocks = whole.blocks_of(whole.Study(study), network)
    for block in blocks:
        assert len({(a.method, a.times) for a in block.arms}) == len(block.arms)
        for arm in block.arms:
            Settings().varied(arm.method)
        assert set(block.sets) <= {*whole.SETS, "pacs"}


def test_the_main_study_begins_with_a_table_of_all_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module("whole_work", monkeypatch)
    blocks = whole.main_blocks("mcunet-5fps")
    todo = list(whole.todo(blocks, whole.SETS, 3, None))
    first = todo[: len(whole.SETS)]
    assert {(name, seed) for name, seed, _ in first} == {(name, 0) for name in whole.SETS}
    every = {a.method for b in blocks for a in b.arms}
    assert {"head", "last", "bias:12", "sparse-99kb", "tinytrain", "knapsack", "full"} <= every
    assert sum(m.startswith("sparse-") for m in every) == 5
    only = list(whole.todo(blocks, ["dtd10"], 1, ["last", "full"]))
    assert [(n, s, [a.method for a in arms]) for n, s, arms in only] == [
        ("dtd10", 0, ["last"]),
        ("dtd10", 0, ["full"]),
    ]


# ---- rows ----


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with a small network and a small set in place of the shared ones."""
    write_model(tmp_path / "models" / "small", seed=3)
    write_pictures(tmp_path / "discs")
    whole, done = module("whole_sets", monkeypatch), module("whole_work", monkeypatch)
    blocks = (done.Block(done.arms("head", "last:2"), (0, 1), ("discs",)),)
    monkeypatch.setitem(done.PLANS, "small", ("1kb",) * 5)
    for script in (whole, done):
        monkeypatch.setattr(script, "SETS", ("discs", "others"))
        monkeypatch.setattr(script, "main_blocks", lambda _: blocks)
        monkeypatch.setattr(script, "load", lambda name: load_dataset(tmp_path / name))
    monkeypatch.setattr(
        whole, "load_network", lambda _: load_model(str(tmp_path / "models" / "small"))
    )
    return whole


def test_rows_are_what_adapt_does_and_none_is_made_twice(small: Any, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    small.run(out, "small", sets="discs", seeds=2, each_pass=True)
    rows = small.lines_of(out, small.Row)
    assert [(r.method, r.seed) for r in rows] == [
        ("head", 0),
        ("last:2", 0),
        ("head", 1),
        ("last:2", 1),
    ]
    row = rows[-1]
    words: dict[str, Any] = {
        "head": "linear",
        "optimizer": "rowrms",
        "cache": 2,
        "iterations": 15,
        "warmup": 1,
    }
    alone = kilograd.adapt(
        tmp_path / "discs", tmp_path / "models" / "small", "last:2", lr=row.lr, seed=1, **words
    )
    assert row.accuracy == pytest.approx(alone.summary.accuracy_after, abs=1e-6)
    assert row.loss == pytest.approx(alone.pass_losses[-1], abs=1e-4)
    assert (row.sram_bytes, row.ways) == (alone.summary.sram_bytes, 4)
    by_pass = [float(x) for x in row.by_pass.split()]
    assert len(by_pass) == 15
    assert by_pass[-1] == pytest.approx(row.accuracy, abs=1e-4)
    before = out.read_bytes()
    small.run(out, "small", sets="discs", seeds=2)
    assert out.read_bytes() == before


def test_a_killed_run_goes_on(small: Any, tmp_path: Path) -> None:
    """A row that was half written is made again; those before it are not."""
    out, whole = tmp_path / "rows.csv", tmp_path / "whole.csv"
    small.run(whole, "small", sets="discs", seeds=1)
    text = whole.read_text()
    first = text.index("\n", text.index("\n") + 1) + 1
    out.write_text(text[: first + 20])
    small.run(out, "small", sets="discs", seeds=1)
    drop = {"cpu_seconds": 0.0}
    found, want = ([replace(r, **drop) for r in small.lines_of(f, small.Row)] for f in (out, whole))
    assert found == want
    assert out.read_text()[:first] == text[:first]


def rows_of(small: Any, accuracies: dict[tuple[str, str, int], float]) -> list[Any]:
    return [
        small.Row(
            *("small", data, method, seed, 1.0),
            *(0.01, 15, 4, 20, 12, accuracy, 0.5),
            *(1000 + len(method), 30, 40, 1.0),
        )
        for (data, method, seed), accuracy in accuracies.items()
    ]


def test_tables_by_hand(small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.csv"
    found = {
        ("discs", "head", 0): 0.5,
        ("discs", "head", 1): 0.7,
        ("discs", "last:2", 0): 0.6,
        ("discs", "last:2", 1): 0.9,
        ("others", "head", 0): 0.4,
        ("others", "last:2", 0): 0.45,
    }
    small.append(out, rows_of(small, found))
    small.table(out, "small")
    table = capsys.readouterr().out.splitlines()
    # sets: (10 + 20) / 2 = 15 and 5: mean 10, deviation 5 sqrt 2, over sqrt 2 is 5
    assert table[2] == "| `head` | 1,004 | 2 | 60.0 | 40.0 |  |  |"
    assert table[3].startswith("| `last:2` | 1,006 | 2 | 75.0 | 45.0 | +10.0 ± 63.5 (2) |")
    small.s1(out, "small")
    spread = capsys.readouterr().out.splitlines()
    assert spread[2] == "| `head` | 14.14 (2) |  | 14.14 |"
    assert spread[3] == "| `last:2` | 21.21 (2) |  | 21.21 |"


def test_memory_is_counted_beyond_inference(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = module("extra_memory", monkeypatch)
    network = load_model(str(tmp_path / "models" / "small"))
    found = {("discs", m, 0): a for m, a in (("head", 0.5), ("last", 0.6), ("full", 0.7))}
    rows = rows_of(small, found)
    by_method = {r.method: [r] for r in rows}
    drawn = {c.name: c.points for c in memory.curves(network, by_method, Convention.KILOGRAD)}
    head, last = drawn["last K layers"]
    assert (head.y, last.y) == (50.0, 60.0)
    for point, method in ((head, "head"), (last, "last")):
        compiled = memory.compile_for_ten(network, method)
        assert compiled.recipe.ways == 10
        alone = kilograd.plan(tmp_path / "models" / "small", "none", ways=10)
        inference = alone.program.entries["infer"].plan.peak
        assert 1024 * point.x == compiled.program.sram_bytes - inference
    analytic = {c.name: c.points for c in memory.curves(network, by_method, Convention.TTE)}
    head, last = analytic["last K layers"]
    layer = network.graph[f"{network.layers[-1]}.weight"].type
    # the classifier's input alone; weights, the input map and a bit an output of the last layer
    assert 1024 * head.x == layer.shape[0]
    assert 1024 * last.x > layer.size + layer.shape[0]
    picture = tmp_path / "picture.svg"
    monkeypatch.setattr(memory, "main_rows", lambda *_: by_method)
    monkeypatch.setattr(memory, "load_network", lambda _: network)
    memory.draw(tmp_path / "rows.csv", picture, "small", methods="head last")
    assert picture.read_text().count("<circle") == 2
