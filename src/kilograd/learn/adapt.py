"""The main job: a network learns the classes of an episode, in the program that is flashed."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kilograd.data import Augment, Dataset, Episode
from kilograd.emit import Program
from kilograd.errors import InputError, as_named
from kilograd.frontend import Arrays, Model, Preprocess
from kilograd.ir import Array
from kilograd.learn.adapted import NETWORK, RESULT, Adapted, write_adapted
from kilograd.learn.answers import Answers, Share
from kilograd.learn.automatic import candidates, with_rate
from kilograd.learn.confidence import threshold
from kilograd.learn.guard import passes_that_help, trials
from kilograd.learn.inspect import inspector
from kilograd.learn.recipe import Compiled, compile_program
from kilograd.learn.samples import Picked, Samples
from kilograd.learn.training import (
    Tests,
    adapted_tensors,
    enrol,
    load_samples,
    predict,
    training,
)
from kilograd.learn.unfinished import Keeper
from kilograd.learn.verdict import Moved, learning, moved, verdict
from kilograd.learn.views import latents_each, within
from kilograd.options import values
from kilograd.output import whole_folder
from kilograd.passes import EntryPoint
from kilograd.progress import Progress, silent
from kilograd.settings import Schedule, Settings
from kilograd.targets import Driver, HostProgram, build_host

_DRAWN = 24
"""Wrong samples on a page, at most."""
RESULT_FILES = (RESULT, NETWORK, "episode.json", "selection.html", "learning.html", "wrong.html")
"""What lies beside `ADAPTED` in a folder of results."""

_LOSSES = 100_000
"""So many losses of samples are written; of all, the means of passes are."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """An episode, and its images as network input; `names` are those of the query images.

    `classes` are those that labels count in: the episode's, or more.
    """

    episode: Episode
    support: Samples
    query: Samples
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def within(self, classes: tuple[str, ...]) -> Task:
        """Return the same task with labels that count in other classes."""
        way = np.array([classes.index(name) for name in self.classes], np.int32)
        support, query = (Samples(x.images, way[x.labels]) for x in (self.support, self.query))
        return replace(self, support=support, query=query, classes=classes)


@dataclass(frozen=True)
class Summary:
    """What `kilograd adapt --json` prints; sizes in bytes, accuracies in 0 ... 1.

    `shots` and `max_shots` are the support images of the classes with the fewest and the most,
    `queries` and `max_queries` their query images; `tested` are all of those.  `..._low` and
    `..._high` are Wilson's 95 % interval of an accuracy.
    With a cache, `latent_bytes` are kept for a view of an image, `cache_bytes` for all of them, and
    `macs_step` does not count `macs_prefix`; without, these are 0.  `macs_training` is all the work
    of training: steps, prefixes, and prototypes made anew before each pass.
    `changed_parameters` of the `learned_parameters` have another value than before; `saturated` of
    them are int8 and lie at an end of its range, which `saturated_before` did before.
    `backward_memory_bytes`: what TinyTrain would count; `None` where only biases learn.
    `accuracy_by_pass` is that after each pass, where it was asked for.
    """

    accuracy_before: float
    accuracy_before_low: float
    accuracy_before_high: float
    accuracy_after: float
    accuracy_after_low: float
    accuracy_after_high: float
    ways: int
    shots: int
    max_shots: int
    queries: int
    max_queries: int
    tested: int
    iterations: int
    sram_bytes: int
    sram_lower_bound_bytes: int
    sram_proved_optimal: bool
    flash_bytes: int
    macs_forward: int
    macs_prefix: int
    macs_step: int
    macs_training: int
    latent_bytes: int
    cache_bytes: int
    learned_parameters: int
    changed_parameters: int
    saturated_before: int
    saturated: int
    backward_memory_bytes: int | None
    seconds: float
    accuracy_by_pass: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What was learned: figures, the loss of every sample, predictions, and adapted tensors.

    `schedule` is what was learned by, and `chosen` names the options of it and of the recipe that
    nobody gave.  `before` and `tested` are the answers to the test before and after learning.
    `remarks`: what went wrong, and what to try.
    `mistaken`: codes of the first samples that are wrong in the end, where samples are arrays.
    `tensors` are in the layout of a model folder; layers that did not learn are not among them.
    """

    compiled: Compiled = field(repr=False)
    episode: Episode = field(repr=False)
    summary: Summary
    losses: tuple[float, ...] = field(repr=False)
    before: Answers = field(repr=False)
    tested: Answers = field(repr=False)
    tensors: Mapping[str, Array] = field(repr=False)
    schedule: Schedule = field(repr=False)
    remarks: tuple[str, ...]
    threshold: float | None = None
    chosen: frozenset[str] = field(default=frozenset(), repr=False)
    mistaken: tuple[NDArray[np.int8], ...] = field(default=(), repr=False)

    @property
    def pass_losses(self) -> list[float]:
        """The mean loss of each pass."""
        if not self.losses:
            return []
        return [float(np.mean(x)) for x in np.array_split(self.losses, self.summary.iterations)]

    @property
    def predictions(self) -> tuple[int, ...]:
        """The class of each query image after learning, as an index."""
        return self.tested.said

    @property
    def adapted(self) -> Adapted:
        """What was learned, ready to be used."""
        return Adapted(self.compiled, self.tested.classes, self.tensors, self.threshold)


def taken_task(dataset: Dataset, episode: Episode, images: NDArray[np.int8]) -> Task:
    """Return the task of an episode whose data set is there as network input, image by image."""
    support, query = (
        Samples(Picked(images, indices), np.array(labels, np.int32))
        for indices, labels in (
            (episode.support, episode.support_labels),
            (episode.query, episode.query_labels),
        )
    )
    names = tuple(dataset.image_names[i] for i in episode.query)
    return Task(episode, support, query, names, episode.classes)


def load_task(dataset: Dataset, episode: Episode, preprocess: Preprocess) -> Task:
    """Decode the images of an episode."""
    _log.debug("decoding %d + %d images", len(episode.support), len(episode.query))
    return Task(
        episode,
        load_samples(dataset, episode.support, episode.support_labels, preprocess),
        load_samples(dataset, episode.query, episode.query_labels, preprocess),
        tuple(dataset.image_names[i] for i in episode.query),
        episode.classes,
    )


def compile_for(model: Model, task: Task, settings: Settings) -> Compiled:
    """Choose what learns for a task, and compile it.

    Raises `InputError` as `compile_recipe`, and for a cache that saves nothing or holds no view.
    """
    budget, schedule = settings.budget(model), settings.schedule
    wanted = settings.recipe.cache or int(budget.cache is not None)
    recipe = replace(settings.recipe, ways=len(task.classes), cache=wanted)
    compiled = compile_program(model, recipe, budget, inspector(model, task.support, schedule))
    images = len(task.support.labels)
    return within(budget.cache, compiled, images, schedule.augment, schedule.iterations)


def adapt(
    model: Model,
    task: Task,
    settings: Settings,
    progress: Progress = silent,
    chosen: frozenset[str] = frozenset(),
    keeper: Keeper | None = None,
) -> Outcome:
    """Choose what learns, compile it, train on the support of a task and test on its query.

    `chosen`: options of the recipe that are to suit the task; see `automatic`.
    `keeper`: keeps what is done, and knows what was done before.

    Raises `InputError` as `compile_for` does, and for a guard that has nothing to hold out.
    """
    settings = settings.suited(model)
    compiled, settings = _compile_chosen(model, task, settings, chosen)
    passes = _guarded(compiled, task, settings.schedule) if settings.guard else None
    outcome = train(compiled, task, settings.schedule, progress, passes, keeper=keeper)
    return replace(outcome, chosen=chosen)


def _compile_chosen(
    model: Model, task: Task, settings: Settings, chosen: frozenset[str]
) -> tuple[Compiled, Settings]:
    """Compile the first of the candidates that can be, and give it a rate.

    Where none can, the error is that of the last, which needs least RAM; or of the first, where
    TinyTrain's count of memory is too much: the last layer alone may need more.
    """
    images, ways = len(task.support.labels), len(task.episode.classes)
    errors = []
    for tried in candidates(settings, chosen, images, ways):
        try:
            compiled = compile_for(model, task, tried)
        except InputError as e:
            errors.append(e)
        else:
            return compiled, with_rate(tried, chosen, compiled)
    raise errors[-1 if settings.limits.backward_memory is None else 0]


def train(
    compiled: Compiled,
    task: Task,
    schedule: Schedule,
    progress: Progress = silent,
    passes: int | None = None,
    start: Adapted | None = None,
    keeper: Keeper | None = None,
) -> Outcome:
    """Train a program on the support of a task, and test it on the query before and after.

    `passes` ends training before the schedule does.  `start`: what the program has learned
    before.  Prototypes of classes without images are kept.
    """
    begun = time.perf_counter()
    host, support = start.host() if start else build_host(compiled.program), task.support
    done = schedule.iterations if passes is None else passes
    total = done * len(support.labels)
    enrol(host, support)
    before, weights = _answers(host, task, "before", keeper), learning(compiled, host)
    _log.debug("training: %d passes over %d images", done, len(support.labels))
    tests = Tests(task.query) if schedule.test_each_pass else None
    each = training(
        host,
        compiled,
        support,
        schedule,
        lambda seen, loss: progress(seen, total, f"loss {loss:.3f}"),
        keeper=keeper,
        tests=tests,
    )
    losses = [loss for of_pass in itertools.islice(each, passes) for loss in of_pass]
    enrol(host, support)
    after, what = _answers(host, task, "after", keeper), moved(weights, learning(compiled, host))
    summary = _summary(
        compiled,
        task.episode,
        schedule.augment,
        done,
        before.share,
        after.share,
        what,
        round(time.perf_counter() - begun, 3),
    )
    if tests is not None:
        summary = replace(summary, accuracy_by_pass=tuple(tests.found))
    tensors = adapted_tensors(compiled, host)
    first, last = np.array(losses[: len(support.labels)]), np.array(losses[-len(support.labels) :])
    remarks = tuple(verdict(before, after, first, last, what, compiled.recipe.method))
    least = threshold(host, compiled.training.head, support)
    return Outcome(
        compiled,
        task.episode,
        summary,
        tuple(losses),
        before,
        after,
        tensors,
        schedule,
        remarks,
        least,
        mistaken=_mistaken(compiled.model, task, after),
    )


def _mistaken(model: Model, task: Task, after: Answers) -> tuple[NDArray[np.int8], ...]:
    """Return the codes of the first samples that are wrong, where a page is to draw them."""
    if not isinstance(model.preprocess.samples, Arrays):
        return ()
    wrong = (i for i, said in enumerate(after.said) if said != after.labels[i])
    return tuple(np.array(task.query.images[i]) for i in itertools.islice(wrong, _DRAWN))


def _answers(host: HostProgram, task: Task, name: str, keeper: Keeper | None) -> Answers:
    """Test a program; with a keeper, go on where the test was."""
    labels, images = tuple(map(int, task.query.labels)), task.query.images
    if keeper is None:
        said = [int(x) for x in predict(host, images)]
    else:
        infer = Driver(host).infer
        ways = len(task.classes)
        said = keeper.answers(name, len(labels), ways, lambda i: int(infer(images[i]).argmax()))
    return Answers(task.classes, task.names, labels, tuple(said))


def _guarded(compiled: Compiled, task: Task, schedule: Schedule) -> int:
    """Try on held-out images of the support how far to train, and say what was found."""
    found = trials(build_host(compiled.program), compiled, task.support, schedule)
    passes = passes_that_help(found)
    tried = ", ".join(f"{sum(t.right)} after {t.passes}" for t in found)
    total = len(task.support.labels)
    _log.info("held-out images right, of %d: %s passes; %d it is", total, tried, passes)
    return passes


def _summary(
    compiled: Compiled,
    episode: Episode,
    augment: Augment,
    passes: int,
    before: Share,
    after: Share,
    what: Moved,
    seconds: float,
) -> Summary:
    program = compiled.program
    shots = Counter(episode.support_labels).values()
    asked = Counter(episode.query_labels)
    queries = [asked[way] for way in range(len(episode.classes))]
    images = len(episode.support)
    front = program.macs(EntryPoint.PREFIX)
    prefixes = images * latents_each(compiled, augment) if passes else 0
    return Summary(
        accuracy_before=before.accuracy,
        accuracy_before_low=before.low,
        accuracy_before_high=before.high,
        accuracy_after=after.accuracy,
        accuracy_after_low=after.low,
        accuracy_after_high=after.high,
        ways=compiled.recipe.ways,
        shots=min(shots),
        max_shots=max(shots),
        queries=min(queries),
        max_queries=max(queries),
        tested=len(episode.query),
        iterations=passes,
        sram_bytes=program.sram_bytes,
        sram_lower_bound_bytes=program.sram_lower_bound_bytes,
        sram_proved_optimal=program.sram_proved_optimal,
        flash_bytes=program.flash_bytes,
        macs_forward=program.macs(EntryPoint.INFER),
        macs_prefix=front,
        macs_step=program.macs(EntryPoint.STEP),
        macs_training=prefixes * program.macs(EntryPoint.PREFIX)
        + images * passes * _macs_seen(program),
        latent_bytes=compiled.latent_bytes,
        cache_bytes=prefixes * compiled.latent_bytes,
        learned_parameters=compiled.learned_parameters,
        changed_parameters=what.changed,
        saturated_before=what.at_end_before,
        saturated=what.at_end,
        backward_memory_bytes=compiled.backward_memory,
        seconds=seconds,
    )


def _macs_seen(program: Program) -> int:
    """Return the work of a sample in a pass: its step, and what it does for the prototypes."""
    entries = (EntryPoint.ENROL, EntryPoint.STEP, EntryPoint.ENROL_GRAD)
    return sum(map(program.macs, entries)) if EntryPoint.STEP in program.entries else 0


def save(out: Path, outcome: Outcome, pages: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write what `load_adapted` reads, episode.json and `pages`; all of them or none.

    Raises `InputError` as `write_adapted`.
    """
    compiled, episode = outcome.compiled, outcome.episode
    recipe = compiled.recipe
    result = {
        **asdict(outcome.summary),
        "model": compiled.model.name,
        "size": compiled.model.preprocess.size,
        "method": recipe.method,
        "head": str(recipe.head_kind),
        "optimizer": str(recipe.optimizer),
        "accumulate": recipe.accumulate,
        "cache": recipe.cache,
        "prototype_gradients": recipe.prototype_gradients,
        "exact": recipe.exact,
        "recipe": values(recipe) | values(outcome.schedule),
        "chosen": sorted(outcome.chosen),
        "remarks": [as_named(r) for r in outcome.remarks],
        "dataset": episode.dataset,
        "selection": [asdict(r) for r in compiled.selection.reasons],
        "classes": list(outcome.tested.classes),
        "predictions": list(outcome.predictions),
        **outcome.tested.to_json(),
        "losses": list(outcome.losses[:_LOSSES]),
        "pass_losses": outcome.pass_losses,
    }
    with whole_folder(out) as new:
        write_adapted(new, outcome.adapted, result)
        (new / "episode.json").write_text(episode.to_json() + "\n", encoding="utf-8")
        for name, text in pages.items():
            (new / name).write_text(text, encoding="utf-8")
