"""Model folders, the programs made of them, and what callers of those may get wrong."""

from __future__ import annotations

import struct
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
from helpers import call
from PIL import Image

from fuzz.case import Case, Target
from fuzz.drawn import WAYS, Drawn
from fuzz.harness import Piped, built, feeds_of, same
from fuzz.mutate import flipped, mutated_json
from fuzz.records import small_model
from kilograd.data import prepare
from kilograd.emit import source
from kilograd.frontend import Model, load_model_folder, save_model
from kilograd.ir import Value, interpret
from kilograd.learn.recipe import Compiled as Recipes
from kilograd.learn.recipe import compile_recipe
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe


def saved(model: Model) -> dict[str, bytes]:
    """Return a model folder as Kilograd writes it."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        return {f.name: f.read_bytes() for f in sorted(Path(folder).iterdir())}


class Folder(Target):
    """Model folders: any change of the description, and of the tensors."""

    share = 1.5
    deep = 60

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        model = small_model(home)
        other = {f.name: f.read_bytes() for f in sorted(model.path.iterdir())}
        self.seeds = (saved(model), other)

    def make(self, rng: Random) -> Case:
        files = dict(rng.choice(self.seeds))
        kind = rng.random()
        if kind < 0.8:
            files["graph.json"] = mutated_json(rng, files["graph.json"])
        if kind > 0.75:
            files["model.safetensors"] = mutated_tensors(rng, files["model.safetensors"])
        return files

    def check(self, folder: Path, *, deep: bool) -> None:
        model = load_model_folder(folder)
        for text in (model.name, model.title, *model.training_classes, *model.layers):
            assert text.isprintable(), f"a text that no terminal should get: {text!r}"
        prepare(Image.new("RGB", (9, 9)), model.preprocess)
        if deep:
            compile_recipe(model, Recipe("last", WAYS), Budget())


def mutated_tensors(rng: Random, data: bytes) -> bytes:
    """Change a file of safetensors: length, description in JSON, numbers."""
    if rng.random() < 0.4:
        return flipped(rng, data)
    (length,) = struct.unpack("<Q", data[:8])
    header = mutated_json(rng, data[8 : 8 + length])
    said = len(header) if rng.random() < 0.9 else rng.choice((0, 7, 1 << 62, (1 << 64) - 1))
    return struct.pack("<Q", said) + header + data[8 + length :]


class Geometry(Target):
    """Networks of any geometry: read, lowered, and written as C."""

    share = 1.5
    seconds = 10.0
    deep = 8
    sample = 60

    def make(self, rng: Random) -> Case:
        return Drawn(rng).files()

    def check(self, folder: Path, *, deep: bool) -> None:
        model = load_model_folder(folder)
        if deep:
            source(_recipe(folder, model).program)


def _recipe(folder: Path, model: Model) -> Recipes:
    """Compile a network by a recipe that the case itself decides."""
    rng = Random(zlib.crc32((folder / "graph.json").read_bytes()))
    convolutions = len(model.layers)
    methods = ["none", "last", "full", f"bias:{convolutions}", f"last:{convolutions}"]
    recipe = Recipe(
        rng.choice([*methods, *(f"weights:{i}:1/2" for i in range(convolutions))]),
        WAYS,
        rng.choice(list(HeadKind)),
        rng.choice(list(OptimizerKind)),
        rng.choice((1, 4)),
        rows=rng.random() < 0.3,
        recompute=rng.random() < 0.3,
        cache=rng.choice((0, 0, 2)),
    )
    return compile_recipe(model, recipe, Budget())


class Compiled(Geometry):
    """The same, run under sanitizers, every output and parameter compared with numpy's."""

    share = 3.0
    seconds = 30.0
    sample = 3

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.seeds = Folder(home)

    def make(self, rng: Random) -> Case:
        return Drawn(rng).files() if rng.random() < 0.8 else self.seeds.make(rng)

    def check(self, folder: Path, *, deep: bool) -> None:
        compiled = _recipe(folder, load_model_folder(folder))
        program = compiled.program
        if program.arena_bytes > 8 << 20 or program.macs("infer") > 30_000_000:
            return
        with closing(Piped(program, built(program, folder, self.home))) as host:
            seed = zlib.crc32((folder / "graph.json").read_bytes())
            run_and_compare(host, np.random.default_rng(seed))


def run_and_compare(host: Piped, rng: np.random.Generator) -> None:
    """Call every entry point some times; C and reference must agree to the bit."""
    state: dict[str, Value] = {s.name: s.value for s in host.program.state}
    order = [
        "infer",
        "enrol",
        "prefix",
        "step",
        "step",
        "enrol_grad",
        "apply",
        "infer",
        "forget",
        "step",
    ]
    for t, name in enumerate(e for e in order if e in host.program.entries):
        graph = host.program.entries[name].graph
        feeds = feeds_of(graph, rng, t, WAYS)
        want = interpret(graph, {**feeds, **{k: v for k, v in state.items() if k in graph.data}})
        got = call(host, name, feeds, noise=t)
        for key in got.keys() & want.keys():
            assert same(got[key], want[key]), f"call {t} of {name}: {key} differs"
        state.update({k: v for k, v in want.items() if k in state})
