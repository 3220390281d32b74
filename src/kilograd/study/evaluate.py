"""Many episodes: data sets x networks x methods, in a file that survives whatever interrupts."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path

from kilograd import __version__, limits
from kilograd.data import Dataset, Episode, read_episodes
from kilograd.errors import InputError, flag, option, shown
from kilograd.frontend import Model
from kilograd.intervals import Interval, interval, p_value
from kilograd.output import write_file
from kilograd.progress import Progress, silent
from kilograd.reading import read_bytes
from kilograd.select import strategy
from kilograd.settings import Settings, naming, split_method
from kilograd.study.pools import check_cluster, check_jobs, here, in_processes, on_cluster
from kilograd.study.store import SIZE_OF, key_of, opened
from kilograd.study.work import Key, Row, Work, encoded

RESULTS = "evaluation.sqlite"
"""The file that tells a folder of an evaluation: one row an episode."""
EPISODES = "episodes.jsonl"
"""The episodes, one JSON object a line."""

_log = logging.getLogger(__name__)

_AT_ONCE = 16
"""Methods of a work: as many rows at most are lost where one is interrupted."""
_MANY = 1000
"""Images of an episode from which on a work has one method: its row takes a minute or more."""


@dataclass(frozen=True)
class Evaluation:
    """What to run: every method on every network on the same episodes of every data set.

    Raises `InputError` for a method that is not there, two data sets or networks of one name, or
    nothing to do.
    """

    sets: tuple[Dataset, ...]
    networks: tuple[Model, ...]
    methods: tuple[str, ...]
    episodes: int
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Check what can be checked without running anything."""
        if not 1 <= self.episodes <= limits.EPISODES:
            raise InputError(
                f"{option('episodes')} {self.episodes}: must be in 1 ... {limits.EPISODES}"
            )
        for field_, names in (
            ("data", [d.name for d in self.sets]),
            ("models", [n.name for n in self.networks]),
            ("methods", list(self.methods)),
        ):
            if not names:
                raise InputError(
                    f"{option(field_)}: names nothing; give one or more, with commas between"
                )
            for name in names:
                if names.count(name) > 1:
                    raise InputError(
                        f"{option(field_)}: there are two called {name!r}; rename or drop one"
                    )
        for method in self.methods:
            varied = self.settings.varied(method)
            strategy(varied.recipe.method)
            for network in self.networks:
                with naming(method):
                    varied.budget(network)
        self.settings.numbered(self.episodes - 1)

    def draw(self) -> dict[tuple[str, int], Episode]:
        """Draw the episodes, by data set and number; number e with seed + e.

        Raises `InputError` for a data set with too few classes.
        """
        draw, seed = self.settings.draw, self.settings.schedule.seed
        return {(d.name, e): draw(d, seed + e) for d in self.sets for e in range(self.episodes)}


@dataclass(frozen=True)
class Line:
    """A method on a network: means over the episodes of a data set, or of all (`data` None).

    `difference`: accuracy after learning less that of the first method, on the same episodes;
    `p`: of a paired t test of it.
    `sram_bytes`, `backward_macs`, `learned_parameters`: the most of any episode, because a method
    may choose anew for each.
    `by_pass`: the mean accuracy after each pass, where all episodes were tested after as many.
    """

    data: str | None
    model: str
    method: str
    before: Interval
    after: Interval
    difference: Interval | None
    p: float | None
    sram_bytes: int
    backward_macs: int
    learned_parameters: int
    seconds: float
    by_pass: tuple[float, ...] = ()


def evaluate(
    out: Path,
    evaluation: Evaluation,
    jobs: int = 1,
    progress: Progress = silent,
    cluster: str | None = None,
) -> tuple[Row, ...]:
    """Run what `out` does not hold yet, and return the rows of the whole evaluation.

    A row is stored as soon as it is there (with up to 15 other methods of its episode where
    several processes work), so an interrupted run goes on where it was.  More
    episodes, data sets, networks and methods may join an evaluation later.  With more `jobs` than
    one, a script must guard its main module, as `multiprocessing` demands where it spawns.

    `cluster`: the address of a Ray cluster that makes the rows, in place of this machine.

    Raises `InputError` for a folder that holds something else, or was made with other settings,
    data sets or networks: the message names the difference; and where a program is over budget.
    """
    check_jobs(jobs, cluster)
    drawn = evaluation.draw()
    if cluster is not None:
        check_cluster(cluster)
    with opened(out / RESULTS) as store:
        store.agree(dependencies(evaluation), options_of(Settings()))
        done = store.rows()
        keys = list(_keys(evaluation))
        missing = [key for key in keys if key not in done]
        store.check_room(len(done) + len(missing))
        _keep_episodes(out / EPISODES, drawn, begun=bool(done))
        count = len(keys) - len(missing)
        progress(count, len(keys), "")
        works = _works(evaluation, drawn, missing)
        if cluster is not None:
            run = on_cluster(works, cluster)
        else:
            run = here(works) if jobs == 1 else in_processes(works, jobs)
        with closing(run):
            for row in run:
                store.add(row)
                done[key_of(row)] = row
                _log.debug("%s", _told(row))
                count += 1
                progress(count, len(keys), "")
        return tuple(done[key] for key in keys)


def _told(row: Row) -> str:
    return shown(
        f"{row.data}, episode {row.episode}, {row.model}, {row.method}: "
        f"{row.accuracy_before:.3f} -> {row.accuracy_after:.3f}, {row.sram_bytes:,} B of RAM"
    )


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
                        None if method == methods[0] else p_value(gains),
                        max(r.sram_bytes for r in some),
                        max(r.backward_macs for r in some),
                        max(r.learned_parameters for r in some),
                        interval([r.seconds for r in some]).mean,
                        _by_pass(some),
                    )
                )
    return tuple(lines)


def _by_pass(rows: Sequence[Row]) -> tuple[float, ...]:
    """Return the mean accuracy after each pass; none where passes are not as many everywhere."""
    every = [r.accuracy_by_pass for r in rows]
    if len({*map(len, every)}) > 1:
        return ()
    return tuple(interval(of_pass).mean for of_pass in zip(*every, strict=True))


# ---- what rows depend on ----


def dependencies(evaluation: Evaluation) -> dict[str, str]:
    """Return all that a row depends on, beside its key: option or input, and its value."""
    found = options_of(evaluation.settings)
    found["kilograd"] = __version__
    for d in evaluation.sets:
        content = (d.classes, d.labels.tolist(), d.split)
        found[f"data set {d.name}"] = _digest(chain([repr(content)], map(encoded, d.images)))
    for n in evaluation.networks:
        found[f"{SIZE_OF}{n.name}"] = str(n.preprocess.size)
        fields = ", ".join(f"{k}={v!r}" for k, v in n.preprocess.told.items())
        about = f"({n.layers!r}, Preprocess({fields}))"
        found[f"network {n.name}"] = _digest([n.fingerprint, about])
    for method in evaluation.methods:
        if (name := split_method(method)[0]).endswith(".json"):
            found[f"method {name}"] = _digest([read_bytes(Path(name), limits.PLAN_BYTES)])
    return found


def options_of(settings: Settings) -> dict[str, str]:
    """Return options as they are stored: JSON, by what is typed."""
    return {flag(k): json.dumps(v) for k, v in settings.named().items()}


def _digest(parts: Iterable[str | bytes]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        sha.update(len(raw).to_bytes(8, "little") + raw)
    return sha.hexdigest()


def _keep_episodes(file: Path, drawn: Mapping[tuple[str, int], Episode], *, begun: bool) -> None:
    """Store episodes; where rows are there already, beside those that are stored.

    Raises `InputError` if one is drawn otherwise than it was.
    """
    kept: dict[tuple[str, int], Episode] = {}
    if begun and file.exists():
        for episode in read_episodes(file, f"{option('out')} {file}"):
            if kept.setdefault((episode.dataset, episode.seed), episode) != episode:
                raise InputError(
                    f"{file}: has two episodes of {episode.dataset} with seed {episode.seed}; "
                    f"choose another {option('out')}"
                )
    for episode in drawn.values():
        if kept.setdefault((episode.dataset, episode.seed), episode) != episode:
            raise InputError(
                f"{file}: the episode of {episode.dataset} with seed {episode.seed} would be "
                f"another now; choose another {option('out')}"
            )
    write_file(file, "".join(e.to_json() + "\n" for e in kept.values()))


# ---- the work ----


def _keys(evaluation: Evaluation) -> Iterator[Key]:
    """Yield what is asked for; an interrupted run has as many episodes of one as of another."""
    for number in range(evaluation.episodes):
        for d in evaluation.sets:
            for n in evaluation.networks:
                for method in evaluation.methods:
                    yield Key(d.name, n.name, method, number)


def _works(
    evaluation: Evaluation, drawn: Mapping[tuple[str, int], Episode], keys: Sequence[Key]
) -> Iterator[Work]:
    sets = {d.name: d for d in evaluation.sets}
    networks = {n.name: n for n in evaluation.networks}
    for (data, model, number), some in groupby(keys, lambda k: (k.data, k.model, k.episode)):
        images, episode = cut_out(sets[data], drawn[data, number])
        network = networks[model]
        methods = [key.method for key in some]
        each = _AT_ONCE if len(images) < _MANY else 1
        for at in range(0, len(methods), each):
            yield Work(
                network,
                evaluation.settings,
                tuple(methods[at : at + each]),
                images,
                episode,
                number,
            )


def cut_out(dataset: Dataset, episode: Episode) -> tuple[Dataset, Episode]:
    """Return the images of an episode as a data set, and the episode on that.

    Images that are fetched by a function become bytes; those in files stay there.
    """
    chosen = (*episode.support, *episode.query)
    sources = (dataset.images[i] for i in chosen)
    small = Dataset(
        dataset.name,
        dataset.classes,
        tuple(x if isinstance(x, Path) else encoded(x) for x in sources),
        tuple(dataset.image_names[i] for i in chosen),
        dataset.labels[list(chosen)],
    )
    shots = len(episode.support)
    places = tuple(range(len(chosen)))
    return small, replace(episode, support=places[:shots], query=places[shots:])
