"""Many episodes: data sets x networks x methods, in a file that survives whatever interrupts."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import json
import multiprocessing.connection
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path

from kilograd import __version__
from kilograd.errors import InputError
from kilograd.frontend import Model, load_model
from kilograd.learn.adapt import Schedule, adapt, load_samples
from kilograd.learn.augment import Augment
from kilograd.learn.data import Dataset, Source
from kilograd.learn.episodes import Episode, sample_episode
from kilograd.learn.inspect import inspector
from kilograd.learn.output import write_file
from kilograd.learn.recipe import Compiled, OptimizerKind, Recipe, compile_recipe
from kilograd.learn.statistics import Interval, interval
from kilograd.select import Budget, Inspect, strategy

RESULTS = "evaluation.sqlite"
"""The file that tells a folder of an evaluation: one row an episode."""
EPISODES = "episodes.jsonl"
"""The episodes, one JSON object a line."""

_PATIENCE = 0.2  # seconds; a process that is told to end at a bad moment is told again

Progress = Callable[[int, int], None]
"""Called with the episodes that are done, and all of them."""


@dataclass(frozen=True)
class Settings:
    """What all rows of an evaluation have in common, named as the options are.

    `sram` and `compute` are as the user gave them; a network's `Budget` says what they mean for it.
    """

    ways: int | None = None
    shots: int = 5
    queries: int = 15
    sram: str | None = None
    compute: str | None = None
    optimizer: OptimizerKind = OptimizerKind.SGD
    iterations: int = 10
    lr: float = 0.003
    augment: Augment = Augment.FULL
    seed: int = 0

    def schedule(self, episode: int) -> Schedule:
        """Return how long and how fast an episode learns; `InputError` for senseless numbers."""
        return Schedule(self.iterations, self.lr, self.augment, self.seed + episode)


@dataclass(frozen=True)
class Network:
    """A network, and what a program for it may cost."""

    model: Model
    budget: Budget


@dataclass(frozen=True)
class Evaluation:
    """What to run: every method on every network on the same episodes of every data set.

    Raises `InputError` for a method that is not there, two data sets or networks of one name, or
    nothing to do.
    """

    sets: tuple[Dataset, ...]
    networks: tuple[Network, ...]
    methods: tuple[str, ...]
    episodes: int
    settings: Settings = Settings()

    def __post_init__(self) -> None:
        """Check what can be checked without running anything."""
        if self.episodes < 1:
            raise InputError(f"--episodes {self.episodes}: must be at least 1")
        for option, names in (
            ("--data", [d.name for d in self.sets]),
            ("--models", [n.model.name for n in self.networks]),
            ("--methods", list(self.methods)),
        ):
            if not names:
                raise InputError(f"{option}: names nothing; give one or more, with commas between")
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"{option}: there are two called {name!r}; rename or drop one")
        for method in self.methods:
            strategy(method)
        self.settings.schedule(0)
        self.settings.schedule(self.episodes - 1)

    def draw(self) -> dict[tuple[str, int], Episode]:
        """Draw the episodes, by data set and number; number e with seed + e.

        Raises `InputError` for a data set with too few classes.
        """
        s = self.settings
        return {
            (d.name, e): sample_episode(
                d, ways=s.ways, shots=s.shots, queries=s.queries, seed=s.seed + e
            )
            for d in self.sets
            for e in range(self.episodes)
        }


@dataclass(frozen=True)
class Key:
    """What tells one row from another."""

    data: str
    model: str
    method: str
    episode: int


@dataclass(frozen=True)
class Row(Key):
    """One episode; sizes in bytes, accuracies in 0 ... 1."""

    ways: int
    accuracy_before: float
    accuracy_after: float
    sram_bytes: int
    backward_macs: int
    learned_parameters: int
    seconds: float


@dataclass(frozen=True)
class Work:
    """One row to be made, with all it takes: another process needs no data set for it."""

    key: Key
    network: Path
    budget: Budget
    optimizer: OptimizerKind
    schedule: Schedule
    images: Dataset
    episode: Episode


@dataclass(frozen=True)
class Line:
    """A method on a network: means over the episodes of a data set, or of all (`data` None).

    `difference`: accuracy after learning less that of the first method, on the same episodes.
    `sram_bytes`, `backward_macs`, `learned_parameters`: the most of any episode, because a method
    may choose anew for each.
    """

    data: str | None
    model: str
    method: str
    before: Interval
    after: Interval
    difference: Interval | None
    sram_bytes: int
    backward_macs: int
    learned_parameters: int
    seconds: float


def evaluate(
    out: Path, evaluation: Evaluation, jobs: int = 1, progress: Progress = lambda done, of: None
) -> tuple[Row, ...]:
    """Run what `out` does not hold yet, and return the rows of the whole evaluation.

    A row is stored as soon as it is there, so an interrupted run goes on where it was.  More
    episodes, data sets, networks and methods may join an evaluation later.  With more `jobs` than
    one, a script must guard its main module, as `multiprocessing` demands where it spawns.

    Raises `InputError` for a folder that holds something else, or was made with other settings,
    data sets or networks: the message names the difference; and where a program is over budget.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: must be at least 1")
    drawn = evaluation.draw()
    with _opened(out) as store:
        store.agree(evaluation)
        done = store.rows()
        _keep_episodes(out / EPISODES, drawn, begun=bool(done))
        keys = list(_keys(evaluation))
        missing = [key for key in keys if key not in done]
        count = len(keys) - len(missing)
        progress(count, len(keys))
        works = _works(evaluation, drawn, missing)
        run = _here(works) if jobs == 1 else _in_processes(works, jobs)
        with closing(run):
            for row in run:
                store.add(row)
                done[_key(row)] = row
                count += 1
                progress(count, len(keys))
        return tuple(done[key] for key in keys)


def summarise(rows: Sequence[Row]) -> tuple[Line, ...]:
    """Return a line for each network, method and data set, and one over all episodes of it.

    Over all, every episode counts the same, whichever data set it is from.
    """
    models = dict.fromkeys(r.model for r in rows)
    methods = list(dict.fromkeys(r.method for r in rows))
    data: list[str | None] = [*dict.fromkeys(r.data for r in rows), None]
    first = {(r.model, r.data, r.episode): r for r in rows if r.method == methods[0]}
    lines = []
    for model in models:
        for method in methods:
            mine = [r for r in rows if (r.model, r.method) == (model, method)]
            for name in data:
                some = [r for r in mine if name in {r.data, None}]
                gains = [
                    r.accuracy_after - first[model, r.data, r.episode].accuracy_after for r in some
                ]
                lines.append(
                    Line(
                        name,
                        model,
                        method,
                        interval([r.accuracy_before for r in some]),
                        interval([r.accuracy_after for r in some]),
                        None if method == methods[0] else interval(gains),
                        max(r.sram_bytes for r in some),
                        max(r.backward_macs for r in some),
                        max(r.learned_parameters for r in some),
                        interval([r.seconds for r in some]).mean,
                    )
                )
    return tuple(lines)


# ---- the file ----


class _Store:
    """The rows of an evaluation; one process at a time writes."""

    def __init__(self, out: Path, connection: sqlite3.Connection) -> None:
        self._out, self._sql = out, connection
        columns = ", ".join(f"{f.name} NOT NULL" for f in fields(Row))
        key = ", ".join(f.name for f in fields(Key))
        with self._sql:
            self._sql.execute("CREATE TABLE IF NOT EXISTS settings (name PRIMARY KEY, value)")
            self._sql.execute(f"CREATE TABLE IF NOT EXISTS rows ({columns}, PRIMARY KEY ({key}))")

    def agree(self, evaluation: Evaluation) -> None:
        """Store the settings; raise `InputError` where a row was made with others."""
        now = _fingerprint(evaluation)
        with self._sql:
            if not self.rows():
                self._sql.execute("DELETE FROM settings")
            stored = dict(self._sql.execute("SELECT name, value FROM settings"))
            for name, value in now.items():
                if stored.get(name, value) != value:
                    raise InputError(_difference(self._out, name, stored[name], value))
            new = [(name, value) for name, value in now.items() if name not in stored]
            self._sql.executemany("INSERT INTO settings VALUES (?, ?)", new)

    def rows(self) -> dict[Key, Row]:
        """Return what is done."""
        columns = ", ".join(f.name for f in fields(Row))
        found = self._sql.execute(f"SELECT {columns} FROM rows")  # noqa: S608 our own names
        return {_key(row): row for row in (Row(*values) for values in found)}

    def add(self, row: Row) -> None:
        """Store a row, for good: it is on the disk when this returns."""
        marks = ", ".join("?" for _ in fields(Row))
        with self._sql:
            self._sql.execute(f"INSERT INTO rows VALUES ({marks})", astuple(row))  # noqa: S608


@contextmanager
def _opened(out: Path) -> Iterator[_Store]:
    """Open the file of an evaluation, or begin one.

    Raises `InputError` for a folder that holds something else, that cannot be written, or that
    another process writes to.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; choose another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / RESULTS).exists():
        raise InputError(f"--out {out}: holds something else; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)
    except OSError as e:
        raise InputError(f"--out {out}: cannot be written ({e})") from e
    try:
        # The system drops the lock when the process ends, however it ends.
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise InputError(f"--out {out}: another evaluation is writing there; wait") from e
        except OSError as e:
            raise InputError(f"--out {out}: cannot be locked ({e}); choose a local folder") from e
        try:
            with closing(sqlite3.connect(out / RESULTS)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                yield _Store(out, connection)
        except sqlite3.Error as e:
            raise InputError(f"--out {out}: {RESULTS} cannot be used ({e})") from e
    finally:
        os.close(folder)


def _fingerprint(evaluation: Evaluation) -> dict[str, str]:
    """Return all that a row depends on, beside its key: option or input, and its value."""
    found = {f"--{k}": json.dumps(v) for k, v in asdict(evaluation.settings).items()}
    found["kilograd"] = __version__
    for d in evaluation.sets:
        content = (d.classes, d.labels.tolist(), d.split)
        found[f"data set {d.name}"] = _digest(repr(content), *map(_encoded, d.images))
    for n in evaluation.networks:
        graph = n.model.graph
        parts = [x for name in sorted(graph.data) for x in (name, graph.data[name].tobytes())]
        types = [node.type for node in graph.nodes]
        about = (str(graph), types, n.model.layers, n.model.preprocess)
        found[f"network {n.model.name}"] = _digest(repr(about), *parts)
    for method in evaluation.methods:
        if method.endswith(".json"):
            found[f"method {method}"] = _digest(Path(method).read_bytes())
    return found


def _digest(*parts: str | bytes) -> str:
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        sha.update(len(raw).to_bytes(8, "little") + raw)
    return sha.hexdigest()


def _difference(out: Path, name: str, stored: str, now: str) -> str:
    advice = "choose another folder, or go on as before"
    if not name.startswith("--"):
        versions = f" ({stored}, now {now})" if name == "kilograd" else ""
        return f"--out {out}: {name} has changed since it was begun{versions}; {advice}"
    values = [
        f"without {name}" if v == "null" else f"with {name} {json.loads(v)}" for v in (stored, now)
    ]
    return f"--out {out}: was begun {values[0]}, and this is {values[1]}; {advice}"


def _keep_episodes(file: Path, drawn: Mapping[tuple[str, int], Episode], *, begun: bool) -> None:
    """Store episodes; where rows are there already, beside those that are stored.

    Raises `InputError` if one is drawn otherwise than it was.
    """
    kept: dict[tuple[str, int], Episode] = {}
    if begun and file.exists():
        for line in file.read_text("utf-8").splitlines():
            episode = Episode.from_json(line)
            kept[episode.dataset, episode.seed] = episode
    for episode in drawn.values():
        if kept.setdefault((episode.dataset, episode.seed), episode) != episode:
            raise InputError(
                f"{file}: the episode of {episode.dataset} with seed {episode.seed} would be "
                f"another now; choose another --out"
            )
    write_file(file, "".join(e.to_json() + "\n" for e in kept.values()))


# ---- the work ----


def _keys(evaluation: Evaluation) -> Iterator[Key]:
    """Yield what is asked for; an interrupted run has as many episodes of one as of another."""
    for number in range(evaluation.episodes):
        for d in evaluation.sets:
            for n in evaluation.networks:
                for method in evaluation.methods:
                    yield Key(d.name, n.model.name, method, number)


def _key(row: Row) -> Key:
    return Key(row.data, row.model, row.method, row.episode)


def _works(
    evaluation: Evaluation, drawn: Mapping[tuple[str, int], Episode], keys: Sequence[Key]
) -> Iterator[Work]:
    sets = {d.name: d for d in evaluation.sets}
    networks = {n.model.name: n for n in evaluation.networks}
    settings = evaluation.settings
    for key in keys:
        images, episode = _cut_out(sets[key.data], drawn[key.data, key.episode])
        network = networks[key.model]
        yield Work(
            key,
            network.model.path,
            network.budget,
            settings.optimizer,
            settings.schedule(key.episode),
            images,
            episode,
        )


def _cut_out(dataset: Dataset, episode: Episode) -> tuple[Dataset, Episode]:
    """Return the images of an episode as a data set, and the episode on that."""
    chosen = (*episode.support, *episode.query)
    small = Dataset(
        dataset.name,
        dataset.classes,
        tuple(_encoded(dataset.images[i]) for i in chosen),
        tuple(dataset.image_names[i] for i in chosen),
        dataset.labels[list(chosen)],
    )
    shots = len(episode.support)
    places = tuple(range(len(chosen)))
    return small, replace(episode, support=places[:shots], query=places[shots:])


def _encoded(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, Path):
        try:
            return source.read_bytes()
        except OSError as e:
            raise InputError(f"{source}: could be read before and cannot now ({e})") from e
    png = io.BytesIO()
    source().save(png, "PNG")
    return png.getvalue()


class Worker:
    """Makes rows, and compiles what does not depend on the episode once."""

    def __init__(self) -> None:
        self._models: dict[Path, Model] = {}
        self._compiled: dict[tuple[object, ...], Compiled] = {}

    def __call__(self, work: Work) -> Row:
        """Make a row.  Raises `InputError` for a method that fits the network not, or no budget."""
        key, episode = work.key, work.episode
        compiled = self._compile(work)
        summary = adapt(compiled, work.images, episode, work.schedule).summary
        return Row(
            **asdict(key),
            ways=summary.ways,
            accuracy_before=summary.accuracy_before,
            accuracy_after=summary.accuracy_after,
            sram_bytes=summary.sram_bytes,
            backward_macs=compiled.backward_macs,
            learned_parameters=summary.learned_parameters,
            seconds=summary.seconds,
        )

    def _compile(self, work: Work) -> Compiled:
        if work.network not in self._models:
            self._models[work.network] = load_model(str(work.network))
        model = self._models[work.network]
        recipe = Recipe(work.key.method, len(work.episode.classes), optimizer=work.optimizer)
        known = (work.network, recipe, work.budget)
        if known in self._compiled:
            return self._compiled[known]

        @functools.cache
        def looked() -> Inspect:
            e = work.episode
            support = load_samples(work.images, e.support, e.support_labels, model.preprocess)
            return inspector(model, support, work.schedule)

        lazy = Inspect(
            lambda layers: looked().fisher(layers), lambda layers: looked().steps(layers)
        )
        compiled = compile_recipe(model, recipe, work.budget, lazy)
        if not looked.cache_info().misses:
            self._compiled[known] = compiled
        return compiled


def _here(works: Iterator[Work]) -> Generator[Row, None, None]:
    worker = Worker()
    for work in works:
        yield worker(work)


def _in_processes(works: Iterator[Work], jobs: int) -> Generator[Row, None, None]:
    """Yield rows in the order in which they are done."""
    before = set(multiprocessing.active_children())
    # Not forked: this process has threads, and so may numpy.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_watch_parent)
    try:
        running: set[Future[Row]] = set()
        for work in works:
            with _ctrl_c_later():
                running.add(pool.submit(_run, work))
            if len(running) == 2 * jobs:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (f.result() for f in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (f.result() for f in done)
    except BrokenProcessPool as e:
        raise InputError(
            f"--jobs {jobs}: a worker process died, perhaps for lack of memory; the same command "
            f"with fewer jobs goes on"
        ) from e
    except BaseException:
        while workers := set(multiprocessing.active_children()) - before:
            for process in workers:
                process.terminate()
            multiprocessing.connection.wait([p.sentinel for p in workers], _PATIENCE)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Start processes that a terminal's Ctrl-C does not reach: their parent ends them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _watch_parent() -> None:
    """Let a worker process end with its parent, which may have been killed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent, main = multiprocessing.parent_process(), threading.main_thread().ident
    if parent is not None and main is not None:
        parent.join()
        while True:
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(_PATIENCE)


@functools.cache
def _worker() -> Worker:
    """Return the worker of this process."""
    return Worker()


def _run(work: Work) -> Row:
    """Make a row in a worker process; ended in the middle, it leaves no files behind."""
    try:
        try:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            return _worker()(work)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except SystemExit:
        os._exit(1)  # the pool would take it for a result and go on
