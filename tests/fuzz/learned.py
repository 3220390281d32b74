"""What was learned: the folder that adapt writes, each of its files changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz.case import Case, Target
from fuzz.mutate import digest, flipped, mutated_json
from fuzz.networks import mutated_tensors
from fuzz.records import pictures, small_model
from kilograd.data import sample_episode
from kilograd.ir import interpret
from kilograd.learn.adapt import load_task, save, train
from kilograd.learn.adapted import load_adapted
from kilograd.learn.confidence import confidences
from kilograd.learn.recipe import compile_recipe
from kilograd.passes import EntryPoint
from kilograd.select import Budget
from kilograd.settings import HeadKind, Recipe, Schedule

RECORD, TENSORS = "result.json", "adapted.safetensors"


class Adapted(Target):
    """Folders of results: the record with a checksum that fits, tensors whose digest fits."""

    share = 1.5
    deep = 10
    sample = 60

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        model, dataset = small_model(home), pictures(home)
        episode = sample_episode(dataset, ways=3, shots=2, queries=1, seed=0)
        task = load_task(dataset, episode, model.preprocess)
        self.seeds = []
        for head, method in ((HeadKind.PROTO, "weights:1:1/2"), (HeadKind.LINEAR, "last:2")):
            compiled = compile_recipe(model, Recipe(method, 3, head), Budget())
            out = home / f"adapted-{head}"
            outcome = train(compiled, task, Schedule(1))
            save(out, replace(outcome, summary=replace(outcome.summary, seconds=0.0)))
            files = [p for p in sorted(out.rglob("*")) if p.is_file()]
            self.seeds.append({p.relative_to(out).as_posix(): p.read_bytes() for p in files})

    def make(self, rng: Random) -> Case:
        files = dict(rng.choice(self.seeds))
        kind = rng.random()
        if kind < 0.5:
            record = mutated_json(rng, json.dumps(json.loads(files[RECORD])["adapted"]).encode())
            files[RECORD] = b'{"adapted": ' + record + b"}"
        elif kind < 0.85:
            files[TENSORS] = mutated_tensors(rng, files[TENSORS])
            files[RECORD] = _with_digest(files[RECORD], files[TENSORS])
        elif kind < 0.95:
            name = rng.choice(sorted(files))
            files[name] = flipped(rng, files[name])
        else:
            del files[rng.choice(sorted(files))]
        return files

    def check(self, folder: Path, *, deep: bool) -> None:
        adapted = load_adapted(folder)
        assert len(set(adapted.classes)) == len(adapted.classes) == adapted.compiled.recipe.ways
        assert all(name.isprintable() and name for name in adapted.classes)
        for value in adapted.tensors.values():
            assert np.isfinite(value.astype(np.float64)).all(), "numbers that are none"
        assert adapted.threshold is None or np.isfinite(adapted.threshold)
        if deep:
            program = adapted.program
            graph = program.entries[EntryPoint.INFER].graph
            state = {s.name: s.value for s in program.state}
            image: dict[str, Any] = {
                n.name: np.zeros(n.type.shape, np.int8) for n in graph.inputs()
            }
            logits = interpret(graph, {**image, **state})["logits"]
            (sure,) = confidences(np.array([logits]), adapted.compiled.training.head)
            assert 0 <= sure <= 1, f"a confidence that is none: {sure}"


def _with_digest(record: bytes, tensors: bytes) -> bytes:
    found = json.loads(record)
    found["adapted"]["tensors"] = hashlib.sha256(tensors).hexdigest()
    found["adapted"]["sha256"] = digest(found["adapted"])
    return json.dumps(found).encode()
