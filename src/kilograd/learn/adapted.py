"""What was learned, as a value and as a folder that stands alone.

    network/              the network as it was before, a model folder, with its licence
    adapted.safetensors   what learned: whole tensors, in the layout of a model folder; and the head
    result.json           figures for people; under "adapted", what is needed to use the tensors

The folder is read as written by somebody else: each tensor is checked against the program.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from safetensors.numpy import save as packed

from kilograd import limits
from kilograd.emit import Program
from kilograd.errors import InputError, option
from kilograd.frontend import Model, copy_model, load_model_folder
from kilograd.frontend.layouts import folder_layout, graph_layout
from kilograd.frontend.model_folder import read_tensors
from kilograd.ir import Array, DType, Graph, Role
from kilograd.learn.recipe import Compiled, compile_selection
from kilograd.learn.unfinished import UNFINISHED
from kilograd.names import distinct, label
from kilograd.ops import LayerOp
from kilograd.ops.update import BIAS_LIMIT
from kilograd.options import changed, values
from kilograd.passes import Growth, GrowthKind, growth_of, mobile_blocks
from kilograd.reading import CHECKSUM, checksum, read_bytes, read_json, there, typed, with_checksum
from kilograd.select import Evidence, Selection, learn_of, parts_of
from kilograd.settings import Recipe
from kilograd.targets import HostProgram, build_host

FORMAT = 2
NETWORK = "network"
RESULT = "result.json"
ADAPTED = "adapted.safetensors"
"""The file that tells a folder of results: folders of training have a `RESULT`, too."""

_LARGEST = {DType.I8: 127, DType.I32: BIAS_LIMIT, DType.F32: 2.0**50}
"""Magnitudes: of codes, and of a float head, whose squares must have a sum."""


@dataclass(frozen=True)
class Adapted:
    """A program, and what its state holds after learning.

    `classes`: their names in the order of labels.  `tensors`: as in `adapted.safetensors`.
    `threshold`: an image whose confidence is lower is of none of the classes; `None`: never said.
    """

    compiled: Compiled = field(repr=False)
    classes: tuple[str, ...]
    tensors: Mapping[str, Array] = field(repr=False)
    threshold: float | None = None

    @property
    def program(self) -> Program:
        """The program whose state holds from the first what was learned."""
        known = states(self.compiled, self.tensors)
        program = self.compiled.program
        slots = (
            replace(s, value=known[s.name], origin=None) if s.name in known else s
            for s in program.state
        )
        return replace(program, state=tuple(slots))

    @property
    def started(self) -> Compiled:
        """What was compiled, with the program that starts with what was learned."""
        return replace(self.compiled, program=self.program)

    def compiled_as(self, recipe: Recipe) -> Adapted:
        """Return the same, in a program of another recipe for the same head."""
        if recipe == self.compiled.recipe:
            return self
        network, selection = self.compiled.network, self.compiled.selection
        return replace(self, compiled=compile_selection(network, recipe, selection))

    def host(self) -> HostProgram:
        """Return the program on this machine, with what was learned in its state."""
        host = build_host(self.compiled.program)
        for name, value in states(self.compiled, self.tensors).items():
            host.state[name][...] = value
        return host


def states(compiled: Compiled, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return what the state holds of `adapted_tensors`, by the names of its slots."""
    slots = {s.name: s.value for s in compiled.program.state}
    found: dict[str, Array] = {}
    for name, value in tensors.items():
        part = compiled.training.learn.get(name)
        if part is None:
            found[name] = value
            continue
        whole = graph_layout(compiled.model.graph[name], value)
        if name in slots:
            found[name] = whole
        else:
            taken = np.take(whole, list(part.index or ()), part.axis)
            found[f"{name}.learned"] = np.ascontiguousarray(taken)
    return found


# ---- writing ----


def write_adapted(folder: Path, adapted: Adapted, figures: Mapping[str, object]) -> None:
    """Write `network`, `adapted.safetensors` and `result.json` into an existing folder.

    `figures`: what else `result.json` says.  Raises `InputError` where the disk refuses, and for
    modules in a network that no folder could hold.
    """
    compiled = adapted.compiled
    (folder / NETWORK).mkdir()
    copy_model(compiled.network, folder / NETWORK)
    # one entry: several are written in a random order, and a run must repeat to the byte
    tensors = packed(dict(adapted.tensors), metadata={"model": compiled.network.name})
    record = with_checksum(
        {
            "format": FORMAT,
            "network": compiled.network.fingerprint,
            "tensors": hashlib.sha256(tensors).hexdigest(),
            "recipe": values(replace(compiled.recipe, head=compiled.recipe.head_kind)),
            "learn": learn_of(compiled.selection),
            "train_head": compiled.selection.head,
            "growth": asdict(growth) if (growth := _growth(compiled)) else None,
            "classes": list(adapted.classes),
            "threshold": adapted.threshold,
        }
    )
    text = json.dumps({**figures, "adapted": record}, indent=1)
    (folder / ADAPTED).write_bytes(tensors)
    (folder / RESULT).write_text(text + "\n", encoding="utf-8")


def _growth(compiled: Compiled) -> Growth | None:
    """Return what a method has made of the network, if anything."""
    grown = compiled.selection.graph
    if grown is None:
        return None
    growth = growth_of(compiled.network.graph, grown)
    if growth is None:
        raise InputError(
            f"method {compiled.recipe.method}: adds to {compiled.network.name} what no folder of "
            f"results can hold; leave {option('out')} away, or choose another method"
        )
    return growth


# ---- reading ----


class _Growth(Struct, frozen=True, forbid_unknown_fields=True):
    kind: GrowthKind
    blocks: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.OPERATORS)]
    number: Annotated[int, Meta(ge=0, le=limits.SIDE)]


class _Record(Struct, frozen=True, forbid_unknown_fields=True):
    """What stands under "adapted" in `result.json`."""

    format: int
    network: str
    tensors: str
    recipe: dict[str, Any]
    learn: Annotated[dict[str, Any], Meta(max_length=2 * limits.OPERATORS)]
    train_head: bool
    growth: _Growth | None
    classes: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.WAYS)]
    threshold: Annotated[float, Meta(ge=0, le=1)] | None
    sha256: str


def load_adapted(path: Path) -> Adapted:
    """Read a folder that `write_adapted` wrote, and compile its program.

    Raises `InputError` that names the file and what is wrong with it: no such folder, another
    one, an older or newer version, files of two folders, tensors that do not fit the program.
    """
    record, where = _record(path), str(path / RESULT)
    network = load_model_folder(path / NETWORK)
    if network.fingerprint != record.network:
        raise InputError(
            f"{path / NETWORK}: is another network than the one that learned; put back the folder "
            "that kilograd adapt wrote"
        )
    recipe = _recipe(record, where)
    selection = _selection(record, network, where)
    try:
        compiled = compile_selection(network, recipe, selection)
    except InputError as e:
        raise InputError(f"{where}: {e}") from e
    if hashlib.sha256(read_bytes(path / ADAPTED, limits.TENSOR_BYTES)).hexdigest() != (
        record.tensors
    ):
        raise InputError(
            f"{path / ADAPTED}: is not the file that {RESULT} was written with; put back the "
            "folder that kilograd adapt wrote"
        )
    tensors = _tensors(path / ADAPTED, compiled)
    classes = tuple(label(name, f"{where}: classes[{i}]") for i, name in enumerate(record.classes))
    return Adapted(compiled, distinct(classes, where, "classes"), tensors, record.threshold)


def _record(path: Path) -> _Record:
    """Read `result.json`; raise `InputError` for whatever else a folder may be."""
    if not there(path):
        raise InputError(f"{path}: no such folder; {_WANTED}")
    if there(path / "graph.json"):
        raise InputError(f"{path}: is a network that has not learned; {_WANTED}")
    if there(path / UNFINISHED) and not there(path / RESULT):
        raise InputError(
            f"{path}: holds work that was interrupted; the same kilograd adapt goes on with it"
        )
    for name in (RESULT, ADAPTED):
        if not there(path / name):
            raise InputError(f"{path}: holds no {name}; {_WANTED}")
    where = str(path / RESULT)
    found = read_json(path / RESULT, dict[str, Any], limits.ADAPTED_BYTES)
    record = found.get("adapted")
    if not isinstance(record, dict) or (version := record.get("format")) is None:
        raise InputError(
            f"{where}: was written by an older version, and cannot be used; run kilograd adapt "
            "again"
        )
    if version != FORMAT or not isinstance(version, int):
        raise InputError(
            f"{where}: format {version!r:.40} is unknown, this version reads {FORMAT}; run "
            "kilograd adapt again"
        )
    known = typed(record, _Record, f"{where}: adapted")
    if record[CHECKSUM] != checksum(record):
        raise InputError(f"{where}: is damaged, its checksum is another; run kilograd adapt again")
    return known


_WANTED = "give a folder that kilograd adapt --out wrote"


def _recipe(record: _Record, where: str) -> Recipe:
    known = values(Recipe())
    if record.recipe.keys() != known.keys():
        odd = min(record.recipe.keys() ^ known.keys())
        raise InputError(f"{where}: recipe: {odd!r:.80} is missing or unknown; run adapt again")
    try:
        recipe = changed(Recipe(), record.recipe)
    except InputError as e:
        raise InputError(f"{where}: recipe: {e}") from e
    if recipe.ways != len(record.classes):
        raise InputError(
            f"{where}: names {len(record.classes)} classes, but the program has {recipe.ways}"
        )
    return recipe


def _selection(record: _Record, network: Model, where: str) -> Selection:
    graph = _grown(record.growth, network, where) if record.growth else None
    layers = network.layers if graph is None else _layers(network, graph)
    evidence = Evidence(network.name, graph or network.graph, layers)
    learn = parts_of(record.learn, evidence, f"{where}: learn")
    return Selection(learn, record.train_head, graph=graph)


def _grown(said: _Growth, network: Model, where: str) -> Graph:
    """Return the network as the method made it; each block must be one that it can change."""
    growth = Growth(said.kind, distinct(said.blocks, where, "blocks"), said.number)
    fit = {b.name for b in mobile_blocks(network.graph) if growth.fits(b)}
    if odd := [name for name in growth.blocks if name not in fit]:
        raise InputError(f"{where}: growth: {odd[0]!r:.80} is no block that takes {growth.kind}")
    return growth.grown(network.graph)


def _layers(network: Model, grown: Graph) -> tuple[str, ...]:
    """Return the convolutions of a network as it was made, its own classifier excluded."""
    others = {n.name for n in network.graph.nodes} - set(network.layers)
    found = (n for n in grown.nodes if isinstance(n.op, LayerOp))
    return tuple(n.name for n in found if n.name not in others)


def _tensors(file: Path, compiled: Compiled) -> dict[str, Array]:
    """Return the tensors of a file, each of them as the program takes it."""
    found = read_tensors(file)
    expected = _expected(compiled)
    if odd := sorted(found.keys() ^ expected.keys()):
        what = "is missing" if odd[0] in expected else "is none of this program's"
        raise InputError(f"{file}: tensor {odd[0]!r:.160} {what}; run kilograd adapt again")
    tensors: dict[str, Array] = {}
    for name, (shape, dtype) in expected.items():
        value, kind = found[name], f"{dtype.numpy}{list(shape)}"
        if isinstance(value, str) or value.dtype != dtype.numpy or value.shape != shape:
            given = value if isinstance(value, str) else f"{value.dtype}{list(value.shape)}"
            raise InputError(f"{file}: tensor {name!r} is {given}, expected {kind}")
        largest = _LARGEST[dtype]
        if value.size and not bool((np.abs(value.astype(np.float64)) <= largest).all()):
            raise InputError(
                f"{file}: tensor {name!r} holds numbers that are none, or beyond +-{largest:g}; "
                "learning ruined it, or somebody else: run kilograd adapt again"
            )
        tensors[name] = value
    return tensors


_Expected = tuple[tuple[int, ...], DType]


def _expected(compiled: Compiled) -> dict[str, _Expected]:
    """Return shape and element type of each of `adapted_tensors`."""
    expected: dict[str, _Expected] = {}
    for name in compiled.training.learn:
        node = compiled.model.graph[name]
        shape = folder_layout(node, np.empty(node.type.shape, np.int8)).shape
        expected[name] = (shape, node.type.dtype)
    for slot in compiled.program.state:
        if slot.role is Role.HEAD:
            expected[slot.name] = (slot.value.shape, DType.of(slot.value))
    return expected
