"""What was learned is used: predictions for images, and a test on labelled ones."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kilograd.data import (
    Dataset,
    Draw,
    Episode,
    EpisodeKind,
    load_dataset,
    read_episodes,
)
from kilograd.data.episode import of_dataset
from kilograd.data.pictures import picture_files, read_pictures
from kilograd.data.remarks import remark_left_out, remark_skipped, some
from kilograd.data.whole import sample_whole
from kilograd.emit.pictures import Pictures
from kilograd.errors import InputError, option, shown
from kilograd.learn.adapt import Outcome, load_task
from kilograd.learn.adapted import ADAPTED, Adapted
from kilograd.learn.adapted import load_adapted as read_adapted
from kilograd.learn.answers import Answers, Share
from kilograd.learn.automatic import CHOSEN, candidates, with_rate
from kilograd.learn.confidence import confidences
from kilograd.learn.further import begin, classes_after, go_on
from kilograd.learn.own_pictures import own_pictures
from kilograd.learn.recipe import Compiled, check_cache
from kilograd.learn.views import within
from kilograd.options import Record, as_path, changed, converted, values
from kilograd.progress import Progress, silent
from kilograd.reading import there
from kilograd.select import Budget
from kilograd.settings import Build, Settings
from kilograd.targets import Driver, HostProgram

_log = logging.getLogger(__name__)

Place = str | Path
Learned = Place | Adapted | Outcome
"""What was learned: the folder of its results, or what `load_adapted` or `adapt` returned."""


@dataclass(frozen=True)
class Prediction:
    """What an image is said to be.

    `label`: a class, or `None` where the confidence is below the threshold.  `nearest`: the most
    likely class in any case.  `confidence`: how sure, in 0 ... 1; `kilograd.learn.confidence`.
    """

    image: str
    label: str | None
    confidence: float
    nearest: str


@dataclass(frozen=True)
class Tested:
    """The answers to labelled images.

    `answers`: of the images of known classes, each the most likely class, whatever the confidence.
    `kept`: how many of them are above the threshold.  `strangers`: how many images of each class
    that is not known are refused.
    """

    answers: Answers
    threshold: float
    kept: Share
    strangers: dict[str, Share] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return what `kilograd test --json` prints."""
        share = self.answers.share
        return {
            "accuracy": share.accuracy,
            "accuracy_low": share.low,
            "accuracy_high": share.high,
            "tested": share.tested,
            "threshold": self.threshold,
            "kept": self.kept.right,
            "strangers": {
                name: {"refused": s.right, "tested": s.tested} for name, s in self.strangers.items()
            },
            **self.answers.to_json(),
        }


def load_adapted(folder: Place) -> Adapted:
    """Return what was learned, from the folder that `adapt` wrote.

    >>> import kilograd
    >>> kilograd.load_adapted("nowhere")
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: nowhere: no such folder; give a folder that kilograd adapt --out \
wrote
    """
    return read_adapted(as_path("folder", folder))


def predict(
    adapted: Learned,
    images: Place | Sequence[Place],
    *,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Say of each image which of the learned classes it is.

    `adapted`: what was learned.  `images`: files, and folders of them at any depth.
    `threshold`: below this confidence an image is of none of the classes; by default as it was
    chosen when the classes were learned.  0 keeps all.
    Images that cannot be read are left out, and logged; `InputError` if there are no others.
    """
    several = [images] if isinstance(images, str | Path) else images
    if not isinstance(several, Iterable):
        raise InputError(f"{option('images')} {images!r}: give paths")
    places = [as_path("images", p) for p in several]
    return list(predictions(adapted, places, threshold, progress or silent))


def predictions(
    adapted: Learned,
    places: Sequence[Path],
    threshold: float | None = None,
    progress: Progress = silent,
) -> Iterator[Prediction]:
    """Yield what `predict` returns, one by one; `InputError` at the first where that raises it.

    What cannot be read is logged at the end.
    """
    learned = learned_from(adapted, places)
    least = least_confidence(learned, threshold)
    files = picture_files(places)
    host, unreadable, tried = learned.host(), list[str](), 0
    for done, file in enumerate(files, 1):
        for picture in read_pictures(file, learned.compiled.model.preprocess):
            tried += 1
            if picture.image is None:
                unreadable.append(f"{picture.name} ({picture.why})")
                continue
            way, sure = _answer(learned, host, picture.image)
            name = learned.classes[way]
            yield Prediction(picture.name, name if sure >= least else None, sure, name)
        progress(done, len(files), "")
    if len(unreadable) == tried:
        raise InputError(
            f"{places[0]}: no image can be read, {tried} tried; the first: {unreadable[0]}"
        )
    if unreadable:
        count = len(unreadable)
        _log.warning("%d of %d images cannot be read: %s", count, tried, some(unreadable))


def test(
    adapted: Learned,
    data: Place,
    *,
    threshold: float | None = None,  # noqa: PT028 this is no test of ours
    progress: Progress | None = None,  # noqa: PT028
) -> Tested:
    """Compare what is predicted of labelled images with their labels, by the names of classes.

    `data`: a folder of class folders, or a Parquet file; where it has a split for tests, that.
    Images of classes that were not learned are counted apart.
    """
    place = as_path("data", data)
    learned = learned_from(adapted, [place])
    least = least_confidence(learned, threshold)
    dataset = load_dataset(place)
    remark_skipped(dataset)
    asked = _asked(dataset, _episode(adapted))
    names = [dataset.classes[way] for way in dataset.labels]
    known = _known(learned, dataset, asked, place)
    host, said, kept = learned.host(), dict[int, int](), set[int]()
    for done, i in enumerate(asked, 1):
        image = dataset.prepared(i, learned.compiled.model.preprocess)
        said[i], sure = _answer(learned, host, image)
        if sure >= least:
            kept.add(i)
        (progress or silent)(done, len(asked), "")
    answers = Answers(
        learned.classes,
        tuple(dataset.image_names[i] for i in known),
        tuple(learned.classes.index(names[i]) for i in known),
        tuple(said[i] for i in known),
    )
    strange = set(asked) - set(known)
    every, refused = (Counter(names[i] for i in some) for some in (strange, strange - kept))
    strangers = {name: Share(refused[name], every[name]) for name in sorted(every)}
    return Tested(answers, least, Share(len(kept & set(known)), len(known)), strangers)


def pictures_of(adapted: Learned, learned: Adapted, data: Path, room: int) -> Pictures:
    """Return images of `data` for the example of an exported project, in `room` bytes of flash.

    `adapted`: where `learned` is from.  Its classes are known by their names; others are left out,
    and logged.  Those images that were learned from are not tested on.
    """
    dataset = load_dataset(data)
    remark_skipped(dataset)
    known = _known(learned, dataset, _asked(dataset, _episode(adapted)), data)
    if strange := [name for name in dataset.classes if name not in learned.classes]:
        _log.warning("not learned, and left out: %s", _names(strange))
    return own_pictures(learned.classes, learned.compiled.model.preprocess, dataset, known, room)


def _known(learned: Adapted, dataset: Dataset, asked: Sequence[int], place: Path) -> list[int]:
    """Return the images of classes that were learned; `InputError` where there is none."""
    known = [i for i in asked if dataset.classes[dataset.labels[i]] in learned.classes]
    if not known:
        raise InputError(
            f"{place}: no class in it was learned; it has {_names(dataset.classes)}, and "
            f"there are {_names(learned.classes)}"
        )
    return known


def started(adapted: Learned, given: Mapping[str, object]) -> Compiled:
    """Return the program that starts with what was learned, and goes on learning from there.

    `given`: options by name.  How it goes on may be another way: the optimizer, groups, rows.  What
    learns and into which classes is said by what was learned; `InputError` for an option that says
    something else, and for a program over its budget.
    """
    learned = learned_from(adapted, ())
    recipe = learned.compiled.recipe
    usual = Build(replace(recipe, head=recipe.head_kind))
    build = _as_learned(usual, given, option("adapted"))
    found = learned.compiled_as(build.recipe).started
    _check_ram(found, build.limits.budget(learned.compiled.model))
    return found


def _check_ram(compiled: Compiled, budget: Budget) -> None:
    """Raise `InputError` where a program is over the RAM of a budget."""
    limit, need = budget.sram, compiled.program.sram_bytes
    if limit is not None and need > limit:
        raise InputError(
            f"{option('sram')} {limit}: the program needs {need} bytes; the smallest "
            f"{option('sram')} that fits is {need}"
        )


_ANSWERED = ("model", "size", "compute", "channels", "backward_memory")
"""Options that what was learned has answered."""


def _as_learned(usual: Record, given: Mapping[str, object], where: str) -> Record:
    """Return options as given; `InputError` for those that say other things than what was learned.

    `usual`: what was learned says.  `where`: what a message calls it.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    if odd := [name for name in _ANSWERED if name in wanted]:
        raise InputError(
            f"{option(odd[0])} {wanted[odd[0]]}: the network and what learns in it are those of "
            f"{where}; leave this out"
        )
    found, known = (values(record) for record in (changed(usual, wanted), usual))
    for name in ("method", "ways", "head"):
        if found[name] != known[name]:
            raise InputError(
                f"{option(name)} {wanted[name]}: {where} has learned with {known[name]}; leave "
                "this out"
            )
    return changed(usual, wanted)


def learn_further(
    adapted: Learned,
    data: Path,
    forget: Sequence[str],
    given: Mapping[str, object],
    progress: Progress = silent,
) -> Outcome:
    """Go on learning from what was learned: classes of `data` that are new are added.

    `given`: options by name.  All images of `data` take part, but for a share `test`.
    Raises `InputError` as `go_on`, for options that say another thing than what was learned, for a
    program over its budget, and for a cache that saves nothing or holds no view.
    """
    learned = learned_from(adapted, ())
    if odd := [k for k in ("ways", "shots", "queries", "guard") if given.get(k) is not None]:
        raise InputError(f"{option(odd[0])}: nothing is drawn where learning goes on; leave it out")
    recipe = learned.compiled.recipe
    # what an earlier call has kept says nothing against another size for this one
    views = recipe.cache if given.get("cache_bytes") is None else 0
    recipe = replace(recipe, head=recipe.head_kind, cache=views)
    usual = Settings(Draw(EpisodeKind.ALL), recipe)
    where = str(adapted) if isinstance(adapted, str | Path) else "start"
    settings = _as_learned(usual, given, where).suited(learned.compiled.network)
    budget = settings.budget(learned.compiled.network)
    wanted = settings.recipe.cache or int(budget.cache is not None)
    dataset = load_dataset(data)
    remark_left_out(dataset, settings.draw)
    seed = settings.schedule.seed
    episode = sample_whole(dataset, test=settings.draw.test, seed=seed, least=1)
    classes = classes_after(learned, episode.classes, forget)
    start = begin(learned, classes, replace(settings.recipe, cache=wanted))
    _check_ram(start.compiled, budget)
    check_cache(start.compiled)
    named = {name for name, value in given.items() if value is not None}
    free = CHOSEN - named - {"method", "head", "optimizer"}
    chosen = next(candidates(settings, free, len(episode.support), len(classes)))
    schedule = with_rate(chosen, free, start.compiled).schedule
    if "iterations" not in named and set(classes) != set(episode.classes):
        schedule = replace(schedule, iterations=0, warmup=0)
    images, passes = len(episode.support), schedule.iterations
    kept = within(budget.cache, start.compiled, images, schedule.augment, passes)
    start = replace(start, compiled=kept)
    task = load_task(dataset, episode, learned.compiled.model.preprocess)
    return go_on(start, task, schedule, progress)


def least_confidence(adapted: Adapted, given: float | None) -> float:
    """Return the threshold that holds; `InputError` for one that is no confidence."""
    if given is None:
        return adapted.threshold or 0.0
    given = converted("threshold", given, float)
    if not 0 <= given <= 1:
        raise InputError(f"{option('threshold')} {given}: must be in 0 ... 1")
    return given


def learned_from(adapted: Learned, places: Sequence[Path]) -> Adapted:
    """Return what was learned; `InputError` as `load_adapted`, and for `places` in its place."""
    if isinstance(adapted, Outcome):
        return adapted.adapted
    if isinstance(adapted, Adapted):
        return adapted
    folder = as_path("adapted", adapted)
    turned = [p for p in places if there(p / ADAPTED)]
    if turned and not there(folder / ADAPTED):
        raise InputError(
            f"{folder}: was not written by kilograd adapt, but {turned[0]} was; give that first"
        )
    return read_adapted(folder)


def _answer(adapted: Adapted, host: HostProgram, image: np.ndarray) -> tuple[int, float]:
    """Return the most likely class of an image, and how sure that is."""
    logits = Driver(host).infer(image)
    (sure,) = confidences(logits[None], adapted.compiled.training.head)
    return int(logits.argmax()), float(sure)


def _episode(adapted: Learned) -> Episode | None:
    """Return the task that was learned, where it is known."""
    if isinstance(adapted, Outcome):
        return adapted.episode
    if isinstance(adapted, Adapted) or not there(file := Path(adapted) / "episode.json"):
        return None
    (episode,) = read_episodes(file, str(file))
    return episode


def _asked(dataset: Dataset, learned: Episode | None) -> list[int]:
    """Return the images of a set to test on, without those that were learned from.

    Where there is a split for tests, only that.  `InputError` where none is left.
    """
    split = dataset.split or ()
    every = [i for i, name in enumerate(split) if name == "test"] or list(range(len(dataset)))
    if learned is None:
        return every
    if not of_dataset(learned, dataset):
        if learned.dataset == dataset.name:
            _log.warning(
                "%s is not as it was when it was learned from: which images were learned from is "
                "not known, and all are tested",
                shown(dataset.name),
            )
        return every
    support = set(learned.support)
    asked = [i for i in every if i not in support]
    if not asked:
        raise InputError(f"{dataset.name}: all its images were learned from; give others")
    if gone := len(every) - len(asked):
        _log.warning("%d of %d images were learned from, and are left out", gone, len(every))
    return asked


def _names(classes: Sequence[str]) -> str:
    return shown(some(classes))
