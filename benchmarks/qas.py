"""Learning with quantisation-aware scaling and without: the tables of docs/results/studies/qas.md.

    python benchmarks/qas.py run last:6:linear:sgd@0.001,0.003 gtsrb,dtd10 RESULTS.csv
    python benchmarks/qas.py best RATES.csv
    python benchmarks/qas.py table RESULTS.csv

A way to learn is METHOD:HEAD:RULE@RATE,RATE; a rule is float32 (sgd in PyTorch, nothing rounded),
sgd, no-qas (sgd without QAS), rowrms or adam: the programs that are flashed, batch 1.  Four views
of an image are kept.  A run goes on where it was interrupted.
Needs PyTorch (pip install torch) and the data and model folders: KILOGRAD_SHARED.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import typer
from ladder_network import Network, Rung
from rows import append, grouped, head, line, lines_of, paired, shown, stored
from script import script
from shared import load_images, load_network
from torch import Tensor
from torch.nn import functional

from kilograd.data import Draw, augmented
from kilograd.frontend import Model
from kilograd.frontend.model_folder import folder_layout
from kilograd.intervals import interval
from kilograd.ir import Graph, dead_code
from kilograd.learn.adapt import Task, load_task
from kilograd.learn.recipe import Compiled, compile_recipe
from kilograd.learn.training import enrol, fit, predict
from kilograd.learn.views import Cached, Fresh, views_of
from kilograd.passes import EntryPoint, Part
from kilograd.select import Budget
from kilograd.settings import HeadKind, OptimizerKind, Recipe, Schedule
from kilograd.targets import HostProgram, build_host

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
NETWORK, VIEWS, SCALE = NETWORKS[0], 4, 10.0  # of the cosine, as the device has it
FLOAT32, NO_QAS = "float32", "no-qas"

app = typer.Typer(add_completion=False)


def features_of(model: Model) -> Graph:
    """Return a network up to its features."""
    return dead_code(replace(model.graph, outputs=model.graph.outputs[:1]))


@dataclass(frozen=True)
class Way:
    """What learns, its head, and the rule of its steps."""

    method: str
    head: str
    rule: str

    @classmethod
    def parse(cls, text: str) -> tuple[Way, list[float]]:
        """Read METHOD:HEAD:RULE@RATE,RATE; a method may have colons."""
        name, _, rates = text.rpartition("@")
        method, kind, rule = name.rsplit(":", 2)
        return cls(method, kind, rule), [float(r) for r in rates.split(",")]

    def recipe(self, ways: int) -> Recipe:
        """Return what is compiled; float32 takes from it what learns, and where it is cut."""
        optimizers = {"rowrms": OptimizerKind.ROWRMS, "adam": OptimizerKind.ADAM}
        optimizer = optimizers.get(self.rule, OptimizerKind.SGD)
        qas = self.rule != NO_QAS
        return Recipe(self.method, ways, HeadKind(self.head), optimizer, cache=VIEWS, qas=qas)


@dataclass(frozen=True)
class Row(Way):
    """A task at a rate: accuracy in 0 ... 1, the mean loss of the last pass, seconds of a core."""

    rate: float
    data: str
    episode: int
    images: int
    accuracy: float
    loss: float
    seconds: float


@functools.cache
def program(way: Way, ways: int) -> tuple[Compiled, HostProgram]:
    """Compile what runs."""
    made = compile_recipe(load_network(NETWORK), way.recipe(ways), Budget())
    return made, build_host(made.program)


class InFloat:
    """A task for the float network that the codes stand for: plain sgd, nothing rounded."""

    def __init__(self, made: Compiled, task: Task, given: Schedule) -> None:
        self._made, self._task, self._rng = made, task, np.random.default_rng(given.seed)
        graph = features_of(load_network(NETWORK))
        learn = made.training.learn
        self._network = Network(graph, learn, Rung.FLOAT)
        self._start = {k: v.clone() for k, v in self._network.state_dict().items()}
        self._masks = {name: _mask(graph, name, part) for name, part in learn.items()}
        names = [n.name for n in made.program.entries[EntryPoint.PREFIX].graph.outputs]
        support = np.stack(list(task.support.images))
        views = [
            np.stack([augmented(x, self._rng, given.augment) for x in support])
            for _ in range(VIEWS)
        ]
        whole = [support, *views, np.stack(list(task.query.images))]
        self._plain, *self._views, self._query = (
            self._network.front(images, names) for images in whole
        )
        self._labels = torch.from_numpy(np.array(task.support.labels)).long()

    def learned(self, given: Schedule) -> tuple[float, float]:
        """Learn anew by a schedule; return the accuracy, and the mean loss of the last pass."""
        self._network.load_state_dict(self._start)
        ways, count = len(self._task.classes), len(self._labels)
        proto = self._made.recipe.head_kind is HeadKind.PROTO
        size = self._network.graph.outputs[0].type.size
        head_ = [torch.zeros(ways, size), torch.zeros(ways)]
        losses: list[float] = []
        rng = np.random.default_rng(given.seed)
        for turn in range(given.iterations):
            head_ = self._head(head_, proto=proto)
            view = self._views[turn % VIEWS]
            for i in rng.permutation(count):
                rate = given.rate(len(losses) / (given.iterations * count))
                sample = {name: x[i : i + 1] for name, x in view.items()}
                loss = self._loss(head_, sample, self._labels[i : i + 1], proto=proto)
                loss.backward()
                losses.append(loss.item())
                self._step(rate, [] if proto else head_)
        head_ = self._head(head_, proto=proto)
        with torch.no_grad():
            said = self._logits(head_, self._query, proto=proto).argmax(1).numpy()
        right = float((said == np.array(self._task.query.labels)).mean())
        return right, float(np.mean(losses[-count:]))

    def _head(self, head_: list[Tensor], *, proto: bool) -> list[Tensor]:
        """Return a head that may learn, or prototypes made anew."""
        if not proto:
            return [x.detach().requires_grad_() for x in head_]
        with torch.no_grad():
            onehot = functional.one_hot(self._labels).float()
            return [functional.normalize(onehot.T @ self._network.features(self._plain))]

    def _logits(
        self, head_: Sequence[Tensor], given: Mapping[str, Tensor], *, proto: bool
    ) -> Tensor:
        features = self._network.features(given)
        if proto:
            return SCALE * functional.normalize(features) @ head_[0].T
        return features @ head_[0].T + head_[1]

    def _loss(
        self, head_: Sequence[Tensor], given: Mapping[str, Tensor], label: Tensor, *, proto: bool
    ) -> Tensor:
        return functional.cross_entropy(self._logits(head_, given, proto=proto), label)

    def _step(self, rate: float, head_: Sequence[Tensor]) -> None:
        """Descend, and forget the gradients."""
        with torch.no_grad():
            for name, mask in self._masks.items():
                x = self._network.tensor(name)
                x -= rate * mask * x.grad
                x.grad = None
            for weights in head_:
                weights.sub_(rate * weights.grad)
                weights.grad = None


def _mask(graph: Graph, name: str, part: Part) -> Tensor:
    """Return 1 where a parameter learns, else 0, in the layout of PyTorch."""
    node = graph[name]
    mask = np.zeros(node.type.shape, np.float32)
    mask[(slice(None),) * part.axis + (slice(None) if part.index is None else [*part.index],)] = 1
    return torch.from_numpy(np.ascontiguousarray(folder_layout(node, mask)))


class Lesson:
    """A task of five classes, and what the ways to learn it share."""

    def __init__(self, data: str, number: int, ways: int, shots: int, passes: int) -> None:
        drawn = Draw(ways=ways, shots=shots, queries=20)(load_images(data), number)
        self.task = load_task(load_images(data), drawn, load_network(NETWORK).preprocess)
        self.data, self.number = data, number
        self.given = Schedule(passes, 1.0, seed=number, warmup=1)
        self._views: dict[tuple[str, bool], Fresh | Cached] = {}
        self._floats: dict[tuple[str, str], InFloat] = {}

    def learned(self, way: Way, rate: float) -> Row:
        """Learn from the same views in the same order, whatever the way."""
        made, host = program(way, len(self.task.classes))
        start, given = time.process_time(), replace(self.given, lr=rate)
        if way.rule == FLOAT32:
            key = way.method, way.head
            if key not in self._floats:
                self._floats[key] = InFloat(made, self.task, given)
            accuracy, loss = self._floats[key].learned(given)
        else:
            accuracy, loss = self._on_device(way, made, host, given)
        count = len(self.task.support.labels)
        seconds = round(time.process_time() - start, 2)
        return Row(
            **vars(way),
            rate=rate,
            data=self.data,
            episode=self.number,
            images=count,
            accuracy=round(accuracy, 4),
            loss=round(loss, 4),
            seconds=seconds,
        )

    def _on_device(
        self, way: Way, made: Compiled, host: HostProgram, given: Schedule
    ) -> tuple[float, float]:
        support, query = self.task.support, self.task.query
        host.reset()
        key = way.method, way.head == HeadKind.PROTO  # prototypes need plain images, too
        if key not in self._views:
            self._views[key] = views_of(host, made, support.images, given.augment, given.seed)
        losses = fit(host, made, support, given, views=self._views[key])
        enrol(host, support)
        right = float((predict(host, query.images) == query.labels).mean())
        return right, float(np.mean(losses[-len(support.labels) :]))


@app.command()
def run(
    specs: list[str],
    data: str,
    out: Path,
    ways: int = 5,
    shots: int = 20,
    passes: int = 11,
    episodes: int = 1,
    first: int = 0,
) -> None:
    """Run what is missing, appending: the first episode of each set, then the second, ..."""
    torch.set_num_threads(1)
    done = {(r.method, r.head, r.rule, r.rate, r.data, r.episode) for r in lines_of(out, Row)}
    asked = [Way.parse(text) for text in specs]
    for number, name in itertools.product(range(first, first + episodes), data.split(",")):
        missing = [
            (way, rate)
            for way, rates in asked
            for rate in rates
            if (*vars(way).values(), rate, name, number) not in done
        ]
        lesson = Lesson(name, number, ways, shots, passes) if missing else None
        for way, rate in missing:
            assert lesson is not None
            row = lesson.learned(way, rate)
            append(out, [row])
            print(f"{name} {number} {way.method} {way.head} {way.rule} @{rate:g}: ", end="")
            print(f"{row.accuracy:.3f}, loss {row.loss:.3f}, {row.seconds} s", flush=True)


def way_of(row: Row) -> Way:
    """Return the way of a row."""
    return Way(row.method, row.head, row.rule)


def best_rates(rows: Sequence[Row]) -> dict[Way, float]:
    """Return the rate of the highest mean accuracy for each way; of equals the lowest."""
    found = {}
    for way, own in grouped(rows, way_of).items():
        at = {rate: np.mean([r.accuracy for r in some]) for rate, some in by_rate(own).items()}
        found[way] = max(sorted(at), key=lambda rate: at[rate])
    return found


def by_rate(rows: Sequence[Row]) -> dict[float, list[Row]]:
    """Return rows by rate, the lowest first."""
    return dict(sorted(grouped(rows, lambda r: r.rate).items()))


@app.command()
def best(path: Path) -> None:
    """Print the ways of tuning tasks, each with its best rate, for `run`."""
    for way, rate in best_rates(stored(path, Row)).items():
        print(f"{way.method}:{way.head}:{way.rule}@{rate:g}")


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table for each method and head: what it reaches, less float32, and less `sgd`.

    Where a head was not learned in float32, it is the linear one that was.
    """
    for (method, kind), own in grouped(rows, lambda r: (r.method, r.head)).items():
        sets = list(dict.fromkeys(r.data for r in own))
        same = [r for r in rows if r.method == method and r.rule == FLOAT32]
        floats = [r for r in same if r.head == kind] or same
        first = next((r.rate for r in own if r.rule == "sgd"), 0.0)
        plain = [r for r in own if (r.rule, r.rate) == ("sgd", first)]
        about = f"`{method}`, `--head {kind}`"
        yield head(about, "rate", "tasks", *sets, "all", "less float32", "less `sgd`", texts=1)
        for (rule, rate), some in grouped(own, lambda r: (r.rule, r.rate)).items():
            found = by_task(some)
            each = [[x for (data, _), x in found.items() if data == name] for name in sets]
            yield line(
                rule if rule == FLOAT32 else "`--no-qas`" if rule == NO_QAS else f"`{rule}`",
                f"{rate:g}",
                len(found),
                *(f"{np.mean(x):.1f}" if x else "" for x in each),
                shown(interval(list(found.values()))),
                _less(found, by_task(floats) if rule != FLOAT32 else {}),
                _less(found, by_task(plain) if some[0] not in plain else {}),
            )
        yield ""


def by_task(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    """Return accuracies in per cent."""
    return {(r.data, r.episode): 100 * r.accuracy for r in rows}


def _less(found: Mapping[tuple[str, int], float], base: Mapping[tuple[str, int], float]) -> str:
    gains = paired(found, base)
    return shown(interval(gains), "+") if gains else ""


@app.command()
def table(path: Path) -> None:
    """Print accuracy in per cent, with 95 % intervals over tasks (Student's t), as Markdown."""
    print("\n".join(tables(stored(path, Row))))


if __name__ == "__main__":
    script(app)
