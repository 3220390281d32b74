"""From float to the device, step by step: what does each step cost?

The tables of docs/results/studies/ladder.md.

    python benchmarks/ladder.py check docs/results/data/strategies.episodes.jsonl
    python benchmarks/ladder.py run docs/results/data/strategies.episodes.jsonl \
        docs/results/data/ladder.csv --episodes 8
    python benchmarks/ladder.py table docs/results/data/ladder.csv
    python benchmarks/ladder.py compare docs/results/data/ladder.csv

Every rung learns the same selection on the same stored episodes of `strategies.py`, with the same
views in the same order, the same rates and the same rule (`rowrms`), one image at a time; only what
the rung's name says differs from the rung before.  A run goes on where it was interrupted.
Needs PyTorch (pip install torch) and the data and model folders: KILOGRAD_SHARED.
"""

from __future__ import annotations

import copy
import functools
import tempfile
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import typer
from ladder_network import IN_TORCH, RUNGS, Network, Rung, graph_layout
from ladder_tables import LEARNING, NETWORK, PUBLISHED, Row, networks, tables
from numpy.typing import NDArray
from rows import append, lines_of, stored
from script import script
from shared import first_episodes, load_images, load_network
from torch import Tensor
from torch.nn import functional

from kilograd.data import Episode, augmented
from kilograd.ir import Array, DType, Node, dead_code
from kilograd.learn.adapt import load_task
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import adapted_tensors, enrol, fit, predict
from kilograd.learn.views import Cached
from kilograd.offline.network import int8_outputs
from kilograd.ops import Update
from kilograd.ops.update import BIAS_LIMIT, row_axis
from kilograd.passes import EntryPoint, Part
from kilograd.quant import fractions, stochastic_round
from kilograd.select import Budget, Demand, Selection, write_plan
from kilograd.select.selection import Parameter
from kilograd.settings import HeadKind, Limits, OptimizerKind, Recipe, Schedule
from kilograd.targets import Driver, HostProgram, build_host

PLAN = Path(__file__).parents[1] / "examples" / "plans" / "static-pointwise-knapsack-15.json"
LIMITS = Limits(compute="15%")
PASSES, RATE, VIEWS = 10, 0.001, 4
OTHER_SEED = 1000
SCALE = 10.0  # of the cosine, as the device has it

app = typer.Typer(add_completion=False)


Learn = tuple[tuple[Parameter, Part], ...]
Maps = Mapping[str, Tensor]


def methods(network: str) -> dict[str, str]:
    """Return what learns, by the name that tables have for it; the file is for MCUNet."""
    fixed = {"static": str(PLAN)} if network == NETWORK else {PUBLISHED: PUBLISHED}
    return {"none": "none", "last": "last", **fixed, "tinytrain": "tinytrain"}


class Master:
    """What learns: a parameter in real units, and the state of its optimiser.

    `update` is the node that would update it on the device.  Kept of it between two steps is, as
    the rung says: a float; one within the codes, of which the forward pass sees the nearest; or the
    code, rounded stochastically as on the device.
    """

    def __init__(self, update: Node, codes: Array, rung: Rung, seed: int = 0) -> None:
        self.name, self.kind = update.inputs[0].name, update.inputs[0].type
        assert isinstance(update.op, Update)
        self.rule, self._rung, self._seed, self._steps = update.op, rung, seed, 0
        kinds = self.rule.state_types(self.kind)
        self._states = [np.zeros(kind.shape, np.float32) for kind in kinds]
        table, exponent = fractions(self.kind.affine.scale)
        per_real = np.float32(2.0 ** (31 - exponent) / self.kind.affine.unit)
        self._per_real = self._by_row(per_real / table.astype(np.float32))
        scale = np.array(self.kind.affine.scale) * self.kind.affine.unit
        self._codes, self._unit = codes, self._by_row(scale.astype(np.float32))
        self.real = (codes * self._unit).astype(np.float32)

    def learn(self, gradient: Array, rate: float) -> None:
        """Take a step against a gradient in real units."""
        rows = np.moveaxis(gradient, row_axis(self.kind), 0)
        flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
        direction, *self._states = self.rule.step(flat, self._states, self._steps + 1)
        by_rows = (direction * np.float32(rate)).reshape(rows.shape)
        step = -np.moveaxis(by_rows, 0, row_axis(self.kind))
        limit = 127 if self.kind.dtype is DType.I8 else BIAS_LIMIT
        if self._rung is Rung.AGAIN:
            by = stochastic_round(step * self._per_real, self._seed, self._steps, self.rule.salt)
            self._codes = np.clip(self._codes + by, -limit, limit).astype(self.kind.dtype.numpy)
            self.real = (self._codes * self._unit).astype(np.float32)
        else:
            self.real = self.real + step
            if self._rung is not Rung.FLOAT and self.kind.dtype is DType.I8:
                self.real = np.clip(self.real, -limit * self._unit, limit * self._unit)
        self._steps += 1

    def codes(self) -> Array:
        """Return the codes that the device would hold."""
        if self._rung is Rung.AGAIN:
            return self._codes
        return np.rint(self.real / self._unit).astype(self.kind.dtype.numpy)

    def _by_row(self, x: Array) -> Array:
        axis = row_axis(self.kind)
        return x.reshape([-1 if a == axis else 1 for a in range(len(self.kind.shape))])


class InTorch:
    """Gives gradients, in PyTorch; fed with what the frozen layers leave of each view."""

    def __init__(self, network: Network, fronts: Sequence[Maps], labels: Array) -> None:
        self.network, self._plain, self._views = network, fronts[0], fronts[1:-1]
        self._labels, self._query = torch.from_numpy(labels).long(), fronts[-1]
        self._prototypes = torch.zeros(0)

    def enrol(self) -> None:
        """Make the prototypes anew."""
        with torch.no_grad():
            onehot = functional.one_hot(self._labels).float()
            self._prototypes = functional.normalize(onehot.T @ self.network.features(self._plain))

    def logits(self, given: Maps) -> Tensor:
        """Return scaled cosines."""
        return SCALE * functional.normalize(self.network.features(given)) @ self._prototypes.T

    def gradients(self, i: int, turn: int) -> Mapping[str, Array]:
        """Return the gradient of the loss of a view of image i, in real units, by parameter."""
        view = self._views[turn % len(self._views)]
        logits = self.logits({name: x[i : i + 1] for name, x in view.items()})
        functional.cross_entropy(logits, self._labels[i : i + 1]).backward()
        return self.network.gradients()

    def put(self, master: Master) -> None:
        """Take the value of a parameter."""
        self.network.put(master.name, master.real)

    def predict(self) -> NDArray[np.int64]:
        """Return the most likely class of each image of the query."""
        with torch.no_grad():
            return self.logits(self._query).argmax(1).numpy()


class OnDevice:
    """The same in the device's program: it adds gradients up, and is never told to step."""

    def __init__(self, host: HostProgram, views: Cached, labels: Array) -> None:
        self._host, self._views, self._labels = host, views, labels

    def enrol(self) -> None:
        Driver(self._host).enrol(zip(self._views.plain(), self._labels, strict=True))

    def gradients(self, i: int, turn: int) -> Mapping[str, Array]:
        Driver(self._host).accumulate(self._views.view(i, turn), self._labels[i])
        sums = {k: v for k, v in self._host.state.items() if k.endswith(".sum")}
        found = {name.removesuffix(".sum"): value.copy() for name, value in sums.items()}
        for value in sums.values():
            value[...] = 0
        return found

    def put(self, master: Master) -> None:
        self._host.state[master.name][...] = master.codes()


@functools.lru_cache(maxsize=8)
def design(model: str, learn: Learn, ways: int, accumulate: int) -> Compiled:
    """Compile what the device runs; the lower layers are an entry point of their own."""
    network = load_network(model)
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        write_plan(plan, network.name, network.graph, Selection(dict(learn)))
        recipe = Recipe(
            str(plan), ways, HeadKind.PROTO, OptimizerKind.ROWRMS, accumulate, cache=VIEWS
        )
        return compile_recipe(network, recipe, Budget())


@functools.lru_cache(maxsize=8)
def program(model: str, learn: Learn, ways: int, accumulate: int) -> HostProgram:
    """Build it for this machine."""
    return build_host(design(model, learn, ways, accumulate).program, keep=False)


class Lesson:
    """An episode, and how it is learned in PyTorch and on the device."""

    def __init__(self, e: Episode, model: str = NETWORK) -> None:
        self.episode, self.network, self.ways = e, load_network(model), len(e.classes)
        features = replace(self.network.graph, outputs=self.network.graph.outputs[:1])
        self.graph = dead_code(features)
        task = load_task(load_images(e.dataset), e, self.network.preprocess)
        self.support, self.query = task.support, task.query
        self.schedule = Schedule(PASSES, RATE, seed=e.seed)
        self.rng = np.random.default_rng(self.schedule.seed)
        augment = self.schedule.augment
        self.views = [
            np.stack([augmented(x, self.rng, augment) for x in self.support.images])
            for _ in range(VIEWS)
        ]

    def design(self, learn: Learn, accumulate: int) -> Compiled:
        """Compile what the device runs for this network and so many classes."""
        return design(self.network.name, learn, self.ways, accumulate)

    def program(self, learn: Learn, accumulate: int) -> HostProgram:
        """Build it for this machine."""
        return program(self.network.name, learn, self.ways, accumulate)

    def selection(self, method: str) -> Learn:
        """Let a method choose within the budget, by the int8 network."""
        recipe = Recipe(
            methods(self.network.name)[method], self.ways, optimizer=OptimizerKind.ROWRMS, rows=True
        )
        inspect = inspector(self.network, self.support, self.schedule, _inspections)
        budget = LIMITS.budget(self.network) if method == "tinytrain" else Budget()
        made = compile_recipe(self.network, recipe, budget, inspect, _prices)
        return tuple(sorted(made.selection.learn.items()))

    def fronts(self, rung: Rung, names: Sequence[str]) -> list[Maps]:
        """Return maps of the support, of its views one after the other, and of the query."""
        network = Network(self.graph, {}, rung)
        stacks = [self.support.images, *self.views, self.query.images]
        return [network.front(images, names) for images in stacks]

    def on_torch(self, learn: Learn, rung: Rung, fronts: Sequence[Maps]) -> InTorch:
        """Return an untaught network in PyTorch."""
        network = Network(self.graph, Selection(dict(learn)).by_name, rung)
        return InTorch(network, fronts, self.support.labels)

    def on_device(self, learn: Learn) -> OnDevice:
        """Return the untaught program that only adds gradients up."""
        host, given = self.program(learn, 2), self.schedule
        host.reset()
        rng = np.random.default_rng(given.seed)
        views = Cached(host, self.support.images, given.augment, rng, VIEWS)
        return OnDevice(host, views, self.support.labels)

    def taught(
        self, student: InTorch | OnDevice, learn: Learn, rung: Rung, seed: int = 0
    ) -> list[Master]:
        """Teach a student, one image at a time, in the order of `kilograd adapt`.

        `seed`: of what is rounded stochastically.
        """
        made = self.design(learn, 2)
        data = {s.name: s.value for s in made.program.state}
        nodes = made.program.entries[EntryPoint.APPLY].graph.nodes
        learns = [
            Master(n, data[n.inputs[0].name], rung, seed) for n in nodes if isinstance(n.op, Update)
        ]
        rng, count = copy.deepcopy(self.rng), len(self.support.labels)
        seen, total = 0, self.schedule.iterations * count
        for turn in range(self.schedule.iterations):
            student.enrol()
            for i in rng.permutation(count):
                found = student.gradients(i, turn)
                for master in learns:
                    master.learn(found[master.name], self.schedule.rate(seen / total))
                    student.put(master)
                seen += 1
        student.enrol()
        return learns

    def by_device(self, learn: Learn, rung: Rung = Rung.DEVICE) -> tuple[Compiled, HostProgram]:
        """Let the device's own program learn."""
        made, host = self.design(learn, 1), self.program(learn, 1)
        host.reset()
        if rung is Rung.FRESH:  # the same program, asked for a new latent in every step
            made = replace(made, recipe=replace(made.recipe, cache=0))
        fit(host, made, self.support, self.schedule)
        enrol(host, self.support)
        return made, host


_inspections: dict[Hashable, HostProgram] = {}
_prices: dict[Hashable, Demand] = {}


def learned(lesson: Lesson, learn: Learn, rung: Rung, fronts: list[Maps]) -> float:
    """Return the accuracy after learning on a rung."""
    if rung in IN_TORCH:
        student = lesson.on_torch(learn, rung, fronts)
        if learn:
            lesson.taught(student, learn, rung)
        student.enrol()
        found = student.predict()
    elif rung in {Rung.BACKWARD, Rung.AGAIN}:
        lesson.taught(lesson.on_device(learn), learn, rung, OTHER_SEED + lesson.schedule.seed)
        found = predict(lesson.program(learn, 2), lesson.query.images)
    else:
        found = predict(lesson.by_device(learn, rung)[1], lesson.query.images)
    return float((found == lesson.query.labels).mean())


def rows(lesson: Lesson, wanted: Mapping[str, Sequence[Rung]]) -> Iterator[Row]:
    """Learn by methods on rungs; what is the same for several is done once."""
    e = lesson.episode
    chosen = {method: lesson.selection(method) for method in wanted}
    last = lesson.graph.outputs[0].inputs[0].name
    cuts = {m: _latent(lesson, learn) if learn else (last,) for m, learn in chosen.items()}
    names = sorted({name for cut in cuts.values() for name in cut})
    for rung in RUNGS:
        asked = [method for method, rungs in wanted.items() if rung in rungs]
        fronts = lesson.fronts(rung, names) if asked and rung in IN_TORCH else []
        for method in asked:
            own = [{name: f[name] for name in cuts[method]} for f in fronts]
            start = time.process_time()
            found = learned(lesson, chosen[method], rung, own)
            seconds = round(time.process_time() - start, 2)
            model = lesson.network.name
            yield Row(e.dataset, e.seed, method, rung.value, found, seconds, model)


def _latent(lesson: Lesson, learn: Learn) -> tuple[str, ...]:
    made = lesson.design(learn, 2)
    return tuple(n.name for n in made.program.entries[EntryPoint.PREFIX].graph.outputs)


@app.command()
def run(
    stored: Path, out: Path, episodes: int = 8, rungs: str = "abcdefg", network: str = NETWORK
) -> None:
    """Run what is missing, appending: the first episode of each set, then the second, ..."""
    torch.set_num_threads(1)
    own = [r for r in lines_of(out, Row) if r.model == network]
    done = {(r.data, r.episode, r.method, r.rung) for r in own}
    asked = [rung for letter, rung in zip("abcdefg", RUNGS, strict=True) if letter in rungs]
    for e in first_episodes(stored, episodes):
        wanted = {
            method: [
                rung
                for rung in asked
                if (method != "none" or rung in IN_TORCH)
                and (e.dataset, e.seed, method, rung.value) not in done
            ]
            for method in methods(network)
        }
        if wanted := {method: missing for method, missing in wanted.items() if missing}:
            start = time.perf_counter()
            append(out, list(rows(Lesson(e, network), wanted)))
            print(f"{e.dataset} {e.seed}: {time.perf_counter() - start:.0f} s", flush=True)


@app.command()
def table(path: Path) -> None:
    """Print means and 95 % intervals over episodes (Student's t) as Markdown."""
    print("\n".join(tables(stored(path, Row))))


@app.command()
def compare(paths: list[Path]) -> None:
    """Print float32 beside the device's program, by network and method."""
    print("\n".join(networks([row for path in paths for row in stored(path, Row)])))


@app.command()
def check(stored: Path, episodes: int = 1) -> None:
    """Compare what is computed here with the program that is flashed."""
    torch.set_num_threads(1)
    for e in first_episodes(stored, episodes):
        lesson = Lesson(e)
        count = len(lesson.support.labels) + len(lesson.query.labels)
        print(f"{e.dataset} {e.seed}")
        print(f"  features that differ, of {count} images: {_differing(lesson, {})}")
        for method in LEARNING:
            learn = lesson.selection(method)
            cosine, ratio = _gradients(lesson, learn)
            print(f"  {method}: worst cosine of gradients 1 - {1 - cosine:.1e}, norms {ratio:.4f}")
            own = lesson.taught(lesson.on_device(learn), learn, Rung.AGAIN, e.seed)
            made, host = lesson.by_device(learn)
            differ = sum(int((m.codes() != host.state[m.name]).sum()) for m in own)
            size = sum(m.real.size for m in own)
            print(f"  {method}: weights that differ from the device's: {differ} of {size}")
            tensors = adapted_tensors(made, host)
            print(f"  {method}: features that differ afterwards: {_differing(lesson, tensors)}")


def _differing(lesson: Lesson, tensors: Mapping[str, Array]) -> int:
    """Return how many features PyTorch computes otherwise than C."""
    images = np.concatenate([lesson.support.images, lesson.query.images])
    params = {n.name: n for n in lesson.graph.params()}
    new = {k: graph_layout(v, params[k]) for k, v in tensors.items() if k in params}
    graph = replace(lesson.graph, data={**lesson.graph.data, **new})
    (out,) = graph.outputs
    network = Network(graph, {}, Rung.INTEGER)
    ours = network.features({out.name: network.front(images, [out.name])[out.name]})
    return int((ours.numpy() != int8_outputs(graph, images)[0]).sum())


def _gradients(lesson: Lesson, learn: Learn) -> tuple[float, float]:
    """Compare the first gradients of PyTorch and of the device; return the worst."""
    fronts = lesson.fronts(Rung.INTEGER, _latent(lesson, learn))
    device = lesson.on_device(learn)
    student = lesson.on_torch(learn, Rung.INTEGER, fronts)
    device.enrol()
    student.enrol()
    cosines, ratios = [1.0], [1.0]
    for i in range(len(lesson.support.labels)):
        theirs = device.gradients(i, 0)
        for name, g in student.gradients(i, 0).items():
            a, b = g.ravel().astype(np.float64), theirs[name].ravel().astype(np.float64)
            sizes = np.linalg.norm(a), np.linalg.norm(b)
            if min(sizes) > 0:
                cosines.append(float(a @ b / (sizes[0] * sizes[1])))
                ratios.append(float(sizes[1] / sizes[0]))
    return min(cosines), max(ratios, key=lambda x: abs(x - 1))


if __name__ == "__main__":
    script(app)
