"""What Kilograd itself wrote, from plans to results; and the words of the command line."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from folders import write_model, write_pictures
from helpers import Unit

from fuzz.case import Case, Target
from fuzz.mutate import NUMBERS, TEXTS, digest, flipped, mutated_json, mutated_text
from kilograd.data import (
    Augment,
    Dataset,
    Draw,
    EpisodeKind,
    load_dataset,
    sample_episode,
    stored_episode,
)
from kilograd.frontend import Model, Preprocess, load_model_folder
from kilograd.ir import fingerprint
from kilograd.learn.recipe import linked
from kilograd.offline.folder import agree
from kilograd.report import contribution_page, frontier
from kilograd.search import (
    SHARES,
    Contribution,
    Gain,
    Gains,
    choices,
    read_contribution,
)
from kilograd.search.search import Search, SolverName, search
from kilograd.select import Budget, Evidence, Selection, plan_file, strategy, write_plan
from kilograd.settings import Recipe, Schedule, Settings, split_methods
from kilograd.sizes import bytes_of, macs_of
from kilograd.study.contribution import write_contribution
from kilograd.study.evaluate import RESULTS, Evaluation, evaluate, summarise
from kilograd.study.work import Key, Row

RECIPE = Recipe("last", 3)


class EndError(BaseException):
    """Ends what would go on to work: all was read."""


def small_model(home: Path) -> Model:
    """Return a network of four convolutions."""
    folder = home / "small"
    if not folder.exists():
        write_model(folder, 0, (Unit(6, 4),), 8)
    return load_model_folder(folder)


def evidence(model: Model) -> Evidence:
    """Return what strategies see."""
    return Evidence(model.name, model.graph, model.layers)


class OneFile(Target):
    """A JSON file of ours with a place of its own in a folder."""

    file = "file.json"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.model = small_model(home)
        self.seeds = self.make_seeds()

    def make_seeds(self) -> tuple[bytes, ...]:
        """Return valid files."""
        raise NotImplementedError

    def make(self, rng: Random) -> Case:
        return {self.file: mutated_json(rng, rng.choice(self.seeds))}


class Plan(OneFile):
    """Plan files."""

    share = 1.5
    deep = 40

    def make_seeds(self) -> tuple[bytes, ...]:
        file = self.home / "plan.json"
        seeds = []
        for method in ("last:3", "bias:2", "weights:1:1/2", "static-l2", "head"):
            chosen = strategy(method)(evidence(self.model), Budget(None, None, 0.5))
            write_plan(file, self.model.name, self.model.graph, chosen)
            seeds.append(file.read_bytes())
        return tuple(seeds)

    def check(self, folder: Path, *, deep: bool) -> None:
        chosen = plan_file(folder / self.file)(evidence(self.model), Budget())
        assert isinstance(chosen, Selection)
        if deep:
            write_plan(folder / "again.json", self.model.name, self.model.graph, chosen)
            again = plan_file(folder / "again.json")(evidence(self.model), Budget())
            assert again == chosen
            linked(self.model, RECIPE, chosen)


class Analysis(OneFile):
    """Contribution files."""

    deep = 4

    def make_seeds(self) -> tuple[bytes, ...]:
        file = self.home / "contribution.json"
        write_contribution(file, contribution(self.model))
        return (file.read_bytes(),)

    def check(self, folder: Path, *, deep: bool) -> None:
        found = read_contribution(folder / self.file)
        found.check(self.model.name, self.model.graph, self.model.layers, folder / self.file)
        assert len(found.biases) == len(found.layers)
        assert all(share in SHARES for _, share in found.weights)
        gains = (*found.biases, *found.weights.values())
        assert all(map(math.isfinite, (x for g in gains for x in (g.mean, g.half_width))))
        if deep:
            contribution_page(self.model.title, found, self.model.graph, "")


def contribution(model: Model) -> Contribution:
    """Return an analysis that nobody measured."""
    rng = np.random.default_rng(0)
    biases = tuple(Gain(float(x), 0.01) for x in rng.uniform(0.01, 0.1, len(model.layers)))
    weights = {c: Gain(float(rng.uniform(0.01, 0.1)), 0.01) for c in choices(evidence(model))}
    overall = Gains(None, 8, 0.5, biases, weights)
    some = Gains("discs", 4, 0.5, biases, weights), Gains("others", 4, 0.6, biases, weights)
    settings: dict[str, str | float | bool | None] = {"--optimizer": "sgd", "--seed": 0}
    key = fingerprint(model.graph)
    return Contribution(model.name, key, model.layers, settings, overall, some)


class Searched(Target):
    """The folder of a search."""

    share = 0.7
    deep = 4

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        model = small_model(home)
        budget = Budget(1 << 20)
        found = contribution(model)
        self.asked = Search(model, RECIPE, found, budget, SolverName.RANDOM)
        self.seed = home / "search"
        if not self.seed.exists():
            search(self.seed, self.asked)

    def make(self, rng: Random) -> Case:
        files = {file.name: file.read_bytes() for file in sorted(self.seed.iterdir())}
        return files | {"search.json": mutated_json(rng, files["search.json"])}

    def check(self, folder: Path, *, deep: bool) -> None:
        def ended(done: int, of: int, said: str) -> None:
            raise EndError

        try:
            found = search(folder, self.asked, ended)
        except EndError:
            return
        for plan in found.plans:
            assert (folder / plan.plan).resolve().parent == folder.resolve()
        if deep:
            model = self.asked.model
            frontier(model.title, model.layers, found.plans, found.published)


class Training(OneFile):
    """The settings of training offline."""

    file = "training.json"

    def make_seeds(self) -> tuple[bytes, ...]:
        self.begin(self.home / "training")
        return ((self.home / "training" / self.file).read_bytes(),)

    def begin(self, folder: Path) -> None:
        agree(folder, self.model, (), Schedule())

    def check(self, folder: Path, *, deep: bool) -> None:
        self.begin(folder)


class Checkpoint(Target):
    """Checkpoints of training offline, with a checksum that is right or wrong."""

    share = 0.3

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        import torch

        from kilograd.offline.checkpoint import save_checkpoint

        save_checkpoint(home / "steps", 1, {"step": 1, "weights": torch.ones(3)})
        (file,) = (home / "steps").iterdir()
        self.name_of_file, self.seed = file.name, file.read_bytes()

    def make(self, rng: Random) -> Case:
        data = flipped(rng, self.seed[:-32])
        digest = hashlib.sha256(data).digest() if rng.random() < 0.7 else self.seed[-32:]
        return {self.name_of_file: data + digest}

    def check(self, folder: Path, *, deep: bool) -> None:
        from kilograd.offline.checkpoint import load_checkpoint

        said: list[str] = []
        state = load_checkpoint(folder, said.append)
        assert state is not None or said, "passed over in silence"


class Episodes(Target):
    """A file of episodes, one or many, against a data set."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.dataset = pictures(home)
        self.seeds = [
            sample_episode(self.dataset, ways=w, shots=2, queries=2, seed=s).to_json()
            for w, s in ((2, 0), (3, 1), (4, 2))
        ]

    def make(self, rng: Random) -> Case:
        if rng.random() < 0.5:
            return {"episode.json": mutated_json(rng, rng.choice(self.seeds).encode())}
        lines = [
            mutated_json(rng, s.encode()) if rng.random() < 0.4 else s.encode() for s in self.seeds
        ]
        text = rng.choice((b"\n", b"\r\n", b"\n\n")).join(lines)
        return {"episodes.jsonl": flipped(rng, text) if rng.random() < 0.2 else text}

    def check(self, folder: Path, *, deep: bool) -> None:
        (file,) = folder.iterdir()
        e = stored_episode(file, self.dataset, 1 if file.suffix == ".jsonl" else None)
        ways = set(range(len(e.classes)))
        assert len(set(e.classes)) == len(e.classes) >= 1, "two classes of one name"
        assert set(e.support_labels) == ways, "a class has nothing to learn from"
        assert e.query, "nothing to test on"
        assert set(e.query_labels) <= ways
        names = self.dataset.classes
        for images, labels in ((e.support, e.support_labels), (e.query, e.query_labels)):
            for image, label in zip(images, labels, strict=True):
                assert names[self.dataset.labels[image]] == e.classes[label]


def pictures(home: Path) -> Dataset:
    """Return a data set of four classes."""
    folder = home / "discs"
    if not folder.exists():
        write_pictures(folder)
    return load_dataset(folder)


class Results(Target):
    """The folder of an evaluation: cells of odd types and sizes, rows twice or gone, bytes."""

    seconds = 10.0
    sample = 25

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        settings = Settings.of(ways=2, shots=1, queries=1, iterations=1)
        network = small_model(home)
        methods = ("none", "last", "head")
        self.asked = Evaluation((pictures(home),), (network,), methods, 2, settings)
        self.seed = home / "evaluation"
        if not self.seed.exists():
            evaluate(self.seed, self.asked)
            with closing(sqlite3.connect(self.seed / RESULTS)) as sql:
                sql.execute("PRAGMA journal_mode = DELETE")
                sql.execute("UPDATE rows SET seconds = 0.25")
                _sign(sql)
                sql.commit()
        self.files = {f.name: f.read_bytes() for f in sorted(self.seed.iterdir()) if f.is_file()}

    def make(self, rng: Random) -> Case:
        files: dict[str, bytes | str] = dict(self.files)
        kind = rng.random()
        if kind < 0.2:
            name = rng.choice(sorted(files))
            files[name] = flipped(rng, self.files[name])
        elif kind < 0.3:
            lines = self.files["episodes.jsonl"].splitlines()
            lines[0] = mutated_json(rng, lines[0])
            files["episodes.jsonl"] = b"\n".join(lines)
        else:
            files[RESULTS] = self._edited(rng)
        return files

    def _edited(self, rng: Random) -> bytes:
        """Change the tables as SQL can."""
        values: tuple[Any, ...] = (*_SQL, rng.choice(TEXTS[:19]), rng.randrange(-9, 9))
        sql = sqlite3.connect(":memory:")
        sql.deserialize(self.files[RESULTS])
        tables = [x[0] for x in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = rng.choice(tables)
        columns = [x[1] for x in sql.execute(f"PRAGMA table_info({table})")]
        column, value = rng.choice(columns), rng.choice(values)
        where = rng.choice(("", f" WHERE rowid = {rng.randrange(1, 7)}"))
        change = rng.choice(_CHANGES).format(table=table, column=column, where=where)
        try:
            sql.execute(change, (value,) if "?" in change else ())
            if rng.random() < 0.9:
                _sign(sql)
            sql.commit()
        except (sqlite3.Error, UnicodeEncodeError):
            sql.rollback()  # the table itself refuses
        return sql.serialize()

    def check(self, folder: Path, *, deep: bool) -> None:
        def progress(done: int, of: int, said: str) -> None:
            if done < of:
                raise EndError

        try:
            rows = evaluate(folder, self.asked, progress=progress)
        except EndError:
            return
        for row in rows:
            shares = (row.accuracy_before, row.accuracy_after)
            assert all(_within(x, 1) for x in shares), f"an accuracy that is none: {shares}"
            assert _within(row.seconds, 1e12), f"a time that is none: {row.seconds!r}"
            counts = (row.sram_bytes, row.backward_macs, row.learned_parameters, row.ways)
            assert all(type(x) is int and _within(x, (1 << 63) - 1) for x in counts), (
                f"counts: {counts}"
            )
        if deep:
            summarise(rows)


def _sign(sql: sqlite3.Connection) -> None:
    """Give every row of results the checksum that belongs to it."""
    found = sql.execute("SELECT rowid, * FROM rows")
    names = [column[0] for column in found.description]
    for number, *values in found.fetchall():
        row = dict(zip(names[1:], values, strict=True))
        with suppress(TypeError, ValueError):
            row["accuracy_by_pass"] = json.loads(row["accuracy_by_pass"])
        for name in ("accuracy_before", "accuracy_after", "seconds"):
            if type(row.get(name)) is int:
                row[name] = float(row[name])
        with suppress(TypeError, ValueError):  # bytes have no checksum
            sql.execute("UPDATE rows SET sha256 = ? WHERE rowid = ?", (digest(row), number))


def _within(x: object, most: float) -> bool:
    return type(x) in {int, float} and 0 <= float(str(x)) <= most


_CHANGES = (
    *("UPDATE {table} SET {column} = ?{where}",) * 6,
    "DELETE FROM {table}{where}",
    "UPDATE {table} SET {column} = CAST({column} AS BLOB)",
    "UPDATE {table} SET {column} = {column} || ''{where}",
    "ALTER TABLE {table} ADD COLUMN more",
    "DROP TABLE {table}",
)
_SQL = (None, b"\xff\x00", "", "1", -1, 10**9, 0.5, -0.5, math.inf, -math.inf, 1e308, 2**62, True)
assert [f.name for f in fields(Row)][: len(fields(Key))] == [f.name for f in fields(Key)]


class Options(Target):
    """Words of the command line."""

    share = 1.0
    named = False

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.model = small_model(home)

    def make(self, rng: Random) -> Case:
        kind = rng.choice(sorted(_WORDS))
        word = mutated_text(rng, rng.choice(_WORDS[kind])) if rng.random() < 0.9 else ""
        return {kind: word.encode("utf-8", "surrogatepass")}

    def check(self, folder: Path, *, deep: bool) -> None:
        (file,) = folder.iterdir()
        word = file.read_bytes().decode("utf-8", "surrogatepass")
        match file.name:
            case "bytes":
                assert bytes_of(word, "sram") >= 0
            case "macs":
                assert macs_of(word, 10_000) >= 1
            case "cache":
                Settings.of(cache_bytes=word).budget(self.model)
            case "own":
                Settings().varied(word)
            case "method":
                if not word.endswith(".json"):
                    strategy(word)(evidence(self.model), Budget(None, None, 0.5))
            case "names":
                assert all(name == name.strip() and name for name in split_methods(word))
            case "numbers":
                self._numbers(word)

    def _numbers(self, word: str) -> None:
        """See what classes make of numbers that the command line would pass on."""
        a, b, c = (_number(x, i < 2) for i, x in enumerate((word + ":1:1").split(":")[:3]))
        made: tuple[Callable[[], object], ...] = (
            lambda: Draw(EpisodeKind.FIXED, int(a), int(b)),
            lambda: Schedule(int(a), c, Augment.FULL, int(b)),
            lambda: Preprocess.square(int(a), int(b), 3),
            lambda: sample_episode(
                pictures(self.home), ways=int(a), shots=int(b), queries=1, seed=0
            ),
            lambda: Evaluation((), (), ("last",), int(a)),
        )
        made[len(word) % len(made)]()


def _number(word: str, whole: bool) -> float:
    """Return a number as the command line would hand it on."""
    try:
        return int(word) if whole else float(word)
    except (ValueError, OverflowError):
        return 1


_WORDS = {
    "bytes": ("256K", "1.5 MiB", "64000", "0", "1e3"),
    "macs": ("6.7M", "500k", "15%", "100"),
    "cache": ("512K",),
    "method": (
        *("last", "last:2", "bias:3", "tinytl:1", "weights:1:1/2", "weights:0:0.25", "head"),
        *("static-random:4", "random-layers:1", "sparse-49kb", "tinytrain:P", "knapsack"),
    ),
    "own": ("last:2@0.01", "last@lr=0.01,cache=4", "full@optimizer=adam,guard=true"),
    "names": ("a,b", "last:2@0.01,none", "last@lr=0.1,cache=2,none"),
    "numbers": tuple(
        f"{a}:{b}:{c}" for a, b, c in zip(NUMBERS, NUMBERS[5:], NUMBERS[9:], strict=False)
    ),
}
