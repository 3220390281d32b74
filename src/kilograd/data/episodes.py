"""Few-shot tasks: which classes, which images to learn from, which to be tested on."""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from kilograd import limits
from kilograd.data.dataset import Dataset
from kilograd.errors import InputError, option
from kilograd.names import distinct, label
from kilograd.reading import parse_json, read_text, require_checksum, typed, with_checksum

_Indices = NDArray[np.int64]

MAX_DEFAULT_WAYS = 10
"""Classes of an episode if nobody asks for a number."""
DEFAULT_SHOTS, DEFAULT_QUERIES = 5, 15
"""Support and query images of each class if nobody asks for a number."""

# The defaults of Meta-Dataset (Triantafillou et al. 2020), which TinyTrain keeps.
META_MIN_WAYS = 5
META_MAX_WAYS = 50
META_MAX_QUERIES = 10
META_MAX_SUPPORT = 500
META_MAX_CONTRIBUTION = 100
"""What a class adds to the size of the support set, at most; it may get more images than that."""


@dataclass(frozen=True)
class Episode:
    """One few-shot task on a data set; everything needed to repeat it.

    `dataset`: name of the data set.
    `classes`: names of the K classes, in the order that they have in the data set.
    `support`, `query`: indices of the images to learn from and to test on, class by class. No
        image is in both.
    `support_labels`, `query_labels`: 0..K-1, index into `classes`, one per image.
    `seed`: what it was drawn with.

    Raises `InputError` if the fields contradict each other.
    """

    dataset: str
    classes: tuple[str, ...]
    support: tuple[int, ...]
    support_labels: tuple[int, ...]
    query: tuple[int, ...]
    query_labels: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        """Check what an edited file could get wrong."""
        for name, images, labels in (
            ("support", self.support, self.support_labels),
            ("query", self.query, self.query_labels),
        ):
            if len(images) != len(labels):
                raise InputError(
                    f"episode: {len(images)} {name} images but {len(labels)} {name}_labels"
                )
            if any(not 0 <= label < len(self.classes) for label in labels):
                raise InputError(f"episode: {name}_labels must be in 0..{len(self.classes) - 1}")
            if absent := set(range(len(self.classes))).difference(labels):
                raise InputError(
                    f"episode: class {self.classes[min(absent)]!r} has no {name} image; each class "
                    f"needs one or more"
                )
        distinct(self.classes, "episode", "classes")
        images = self.support + self.query
        if len(set(images)) != len(images):
            raise InputError(
                "episode: an image occurs twice; each may be in support or query, once"
            )

    def to_json(self) -> str:
        """Write the episode as one JSON object; `from_json` gives back an equal one."""
        return json.dumps(with_checksum(asdict(self)))

    @classmethod
    def from_json(cls, text: str, where: str = "episode") -> "Episode":
        """Read what `to_json` wrote; messages begin with `where`.

        Raises `InputError` if the text is not JSON, lacks a field or has one too many, a field is
        of the wrong type or contradicts another, or the checksum, if there is one, is another.
        """
        value = parse_json(text, dict[str, Any], where)
        found = typed(value, _Stored, where)
        require_checksum(value, where)
        try:
            return cls(
                dataset=label(found.dataset, "dataset"),
                classes=tuple(label(name, f"classes[{i}]") for i, name in enumerate(found.classes)),
                support=found.support,
                support_labels=found.support_labels,
                query=found.query,
                query_labels=found.query_labels,
                seed=found.seed,
            )
        except InputError as error:
            raise InputError(f"{where}: {str(error).removeprefix('episode: ')}") from error


_Images = Annotated[
    tuple[Annotated[int, Meta(ge=0, lt=limits.IMAGES)], ...],
    Meta(min_length=1, max_length=limits.IMAGES),
]
_Labels = Annotated[
    tuple[Annotated[int, Meta(ge=0, lt=limits.WAYS)], ...],
    Meta(min_length=1, max_length=limits.IMAGES),
]


class _Stored(Struct, frozen=True, forbid_unknown_fields=True):
    """An episode in a file."""

    dataset: str
    classes: Annotated[tuple[str, ...], Meta(min_length=1, max_length=limits.WAYS)]
    support: _Images
    support_labels: _Labels
    query: _Images
    query_labels: _Labels
    seed: Annotated[int, Meta(ge=0, le=limits.SEED)]
    sha256: str | None = None


class EpisodeKind(enum.StrEnum):
    """How the ways and shots of a task come about."""

    FIXED = "fixed"
    META_DATASET = "meta-dataset"


@dataclass(frozen=True)
class Draw:
    """How tasks are drawn, as options say it: `None` is the default of a fixed task.

    >>> Draw().shots, Draw(EpisodeKind.META_DATASET).shots
    (5, None)

    Raises `InputError` for numbers that the kind of task draws itself.
    """

    kind: EpisodeKind = EpisodeKind.FIXED
    ways: int | None = None
    shots: int | None = None
    queries: int | None = None

    def __post_init__(self) -> None:
        """Fill in defaults."""
        if self.kind is EpisodeKind.FIXED:
            object.__setattr__(self, "shots", DEFAULT_SHOTS if self.shots is None else self.shots)
            queries = DEFAULT_QUERIES if self.queries is None else self.queries
            object.__setattr__(self, "queries", queries)
            return
        for name in ("ways", "shots", "queries"):
            if (value := getattr(self, name)) is not None:
                raise InputError(
                    f"{option(name)} {value}: {option('episode')} {self.kind} draws this itself; "
                    "give one of the two"
                )

    @property
    def least_shots(self) -> int:
        """Support images that a class must give to take part."""
        return 1 if self.shots is None else self.shots

    def __call__(self, dataset: Dataset, seed: int) -> Episode:
        """Draw one.  Raises `InputError` as `sample_episode` and `sample_meta_episode` do."""
        if self.shots is None or self.queries is None:
            return sample_meta_episode(dataset, seed=seed)
        return sample_episode(
            dataset, ways=self.ways, shots=self.shots, queries=self.queries, seed=seed
        )


def stored_episode(file: Path, dataset: Dataset, seed: int | None) -> Episode:
    """Read the episode of a data set from a file with one episode, or one a line (.jsonl).

    `seed` says which of several; `None` where there is no choice.

    Raises `InputError` for a file that cannot be read, has none or several, or one that does not
    belong to the data set as it is now.
    """
    every = read_episodes(file, f"{option('episode')} {file}")
    mine = [e for e in every if e.dataset == dataset.name]
    if seed is not None and len(every) > 1:
        mine = [e for e in mine if e.seed == seed]
    if not mine:
        about = f"{dataset.name!r}" + ("" if seed is None else f" and seed {seed}")
        others = ", ".join(dict.fromkeys(f"{e.dataset!r}" for e in every)) or "none at all"
        raise InputError(
            f"{option('episode')} {file}: has no episode of {about}; it has some of {others}"
        )
    if len(mine) > 1:
        seeds = [e.seed for e in mine]
        raise InputError(
            f"{option('episode')} {file}: has {len(mine)} episodes of {dataset.name!r}; say which "
            f"with {option('seed')} {min(seeds)} ... {max(seeds)}"
        )
    try:
        check_episode(mine[0], dataset)
    except InputError as error:
        raise InputError(f"{option('episode')} {file}: {error}") from error
    return mine[0]


def read_episodes(file: Path, where: str) -> tuple[Episode, ...]:
    """Read a file with one episode, or one a line (.jsonl).

    Raises `InputError`, which begins with `where`, for a file that cannot be read, and names the
    line of one that is no episode.
    """
    try:
        text = read_text(file, limits.EPISODE_BYTES)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'{file}: ')}") from error
    if file.suffix != ".jsonl":
        return (Episode.from_json(text, where),)
    lines = enumerate(text.split("\n"), start=1)
    return tuple(Episode.from_json(x, f"{where}: line {n}") for n, x in lines if x.strip())


def usable_classes(dataset: Dataset, shots: int) -> tuple[str, ...]:
    """Name the classes that can give `shots` support images and at least one query image.

    The other classes of the set are too small and never part of an episode: report them.

    Raises `InputError` if `shots` is less than 1.
    """
    _at_least(1, "shots", shots)
    return tuple(pool.name for pool in _pools(dataset) if pool.queries(shots) > 0)


def sample_episode(
    dataset: Dataset, *, ways: int | None, shots: int, queries: int, seed: int
) -> Episode:
    """Draw a few-shot task: the same arguments always give the same one.

    `ways`: number of classes; None for all usable ones (see `usable_classes`), but at most 10.
    `shots`: support images of each class.
    `queries`: query images of each class, at most: every class gives as many as the one with the
        fewest can, so that the test is balanced.

    If the set has splits, support comes from train and val and queries from test. A split that
    divides the classes and not their images, with no class on both sides, says nothing about
    which image is for what, and is ignored; `dataclasses.replace(dataset, split=None)` ignores
    any. If the set has groups, all classes come from one group (one alphabet, one domain), drawn
    from those with enough classes.

    For one seed, a larger `queries` only adds query images: classes and support stay.

    Raises `InputError` if `ways` < 2, `shots` < 1, `queries` < 1, `seed` < 0, or the set has too
    few usable classes.
    """
    if ways is not None:
        _at_least(2, "ways", ways)
        _at_most(limits.WAYS, "ways", ways)
    for name, value in (("queries", queries), ("shots", shots)):
        _at_least(1, name, value)
        _at_most(limits.IMAGES, name, value)
    _check_seed(seed)
    rng = np.random.default_rng(seed)
    pools = _pools(dataset)
    candidates = _choose_group(dataset, pools, rng, ways=ways, shots=shots)
    chosen_ways = min(MAX_DEFAULT_WAYS, len(candidates)) if ways is None else ways
    chosen = [candidates[i] for i in sorted(_shuffled(rng, len(candidates))[:chosen_ways])]
    per_class = min(queries, *(pool.queries(shots) for pool in chosen))
    drawn = [pool.draw(rng, shots) for pool in chosen]
    labels = range(chosen_ways)
    return Episode(
        dataset=dataset.name,
        classes=tuple(pool.name for pool in chosen),
        support=tuple(int(i) for support, _ in drawn for i in support),
        support_labels=tuple(label for label in labels for _ in range(shots)),
        query=tuple(int(i) for _, query in drawn for i in query[:per_class]),
        query_labels=tuple(label for label in labels for _ in range(per_class)),
        seed=seed,
    )


@dataclass(frozen=True)
class Composition:
    """What an episode is made of, before any image is drawn.

    `classes`: indices of the K classes, ascending.
    `shots`: support images of each class [K], all different in general.
    `queries`: query images of every class.
    """

    classes: tuple[int, ...]
    shots: tuple[int, ...]
    queries: int


def sample_composition(
    rng: np.random.Generator, learn: Sequence[int], test: Sequence[int] | None = None
) -> Composition:
    """Draw classes, shots and queries as Meta-Dataset does (Triantafillou et al. 2020, 3.2).

    5 to 50 classes; as many queries of each as half of the smallest class, at most 10; a support
    set of at most 500 images, divided in proportion to the size of each class times a random
    factor of 1/2 to 2, so that shots are unequal as they are in life.

    `learn`: images that each class can give [n], two or more.
    `test`: if given, the queries come from these other images [n], one or more of each class, and
        `learn` is for support alone, one or more of each class.

    Raises `InputError` if there are fewer than five classes, or a class is too small.

    >>> sample_composition(np.random.default_rng(3), [20, 40, 80, 160, 320, 640])
    Composition(classes=(0, 2, 3, 4, 5), shots=(2, 3, 7, 17, 30), queries=10)
    """
    if len(learn) < META_MIN_WAYS:
        raise InputError(
            f"classes: {len(learn)} are too few for a Meta-Dataset episode; "
            f"give {META_MIN_WAYS} or more"
        )
    _at_least(2 if test is None else 1, "images of a class", min(learn))
    ways = META_MIN_WAYS + _below(rng, min(META_MAX_WAYS, len(learn)) - META_MIN_WAYS + 1)
    classes = np.sort(_shuffled(rng, len(learn))[:ways])
    sizes = np.array(learn, dtype=np.int64)[classes]
    if test is None:
        queries = min(META_MAX_QUERIES, int(sizes.min()) // 2)
        left = sizes - queries
    else:
        _at_least(1, "test images of a class", min(test))
        queries = min(META_MAX_QUERIES, int(np.array(test)[classes].min()))
        left = sizes
    contributions = np.floor(rng.random() * np.minimum(META_MAX_CONTRIBUTION, left)) + 1
    support = min(META_MAX_SUPPORT, int(contributions.sum()))
    # Uniform in the logarithm, between 1/2 and 2.
    weights = sizes * np.exp2(2 * rng.random(ways) - 1)
    # One image of each class is certain; the floor leaves some of the rest undealt, on average
    # half an image a class. That is how the published episodes are.
    shots = np.floor(weights / weights.sum() * (support - ways)).astype(np.int64) + 1
    return Composition(
        classes=tuple(classes.tolist()),
        shots=tuple(np.minimum(shots, left).tolist()),
        queries=queries,
    )


def sample_meta_episode(dataset: Dataset, *, seed: int) -> Episode:
    """Draw a task of varying ways and shots, as Meta-Dataset does: see `sample_composition`.

    If the set has groups, all classes come from one group with five usable classes or more, each
    group being as likely as another: Omniglot's alphabets. (The WordNet tree that Meta-Dataset has
    for ImageNet is not here: classes of ImageNet are drawn as those of any flat set.)

    If the set has splits that divide the classes, only the test classes take part. If they divide
    the images of each class, support comes from train and val and queries from test, where
    Meta-Dataset, which has no such splits, would mix them; `dataclasses.replace(dataset,
    split=None)` mixes them too. Classes that cannot give an image for each are left out.

    Raises `InputError` if `seed` < 0, or no group has five usable classes.
    """
    _check_seed(seed)
    rng = np.random.default_rng(seed)
    pools = _test_classes(dataset, _pools(dataset))
    groups = _usable_groups(dataset, pools, shots=1)
    enough = [group for group in groups.values() if len(group) >= META_MIN_WAYS]
    if not enough:
        most = max(map(len, groups.values()), default=0)
        where = " in its largest group" if dataset.groups else ""
        raise InputError(
            f"{dataset.name}: a Meta-Dataset episode needs {META_MIN_WAYS} classes or more with "
            f"an image to learn from and one to test on, it has {most}{where}; "
            f"use more classes, or an episode of fixed ways and shots"
        )
    group = enough[_below(rng, len(enough))]
    # Either all classes share one set of images between support and query, or none does.
    test = None if group[0].shared else [len(pool.query) for pool in group]
    made = sample_composition(rng, [len(pool.support) for pool in group], test)
    chosen = [group[i] for i in made.classes]
    drawn = [pool.draw(rng, shots) for pool, shots in zip(chosen, made.shots, strict=True)]
    ways = range(len(chosen))
    return Episode(
        dataset=dataset.name,
        classes=tuple(pool.name for pool in chosen),
        support=tuple(int(i) for support, _ in drawn for i in support),
        support_labels=tuple(label for label in ways for _ in range(made.shots[label])),
        query=tuple(int(i) for _, query in drawn for i in query[: made.queries]),
        query_labels=tuple(label for label in ways for _ in range(made.queries)),
        seed=seed,
    )


def check_episode(episode: Episode, dataset: Dataset) -> None:
    """Check that a stored episode belongs to a data set, before its indices are used on it.

    Indices shift when an image is added, removed or unreadable: the labels then mostly disagree.

    Raises `InputError` if the set has another name, lacks a class or an image, or has another
    label for one of the images.
    """
    if episode.dataset != dataset.name:
        raise InputError(f"episode: drawn from {episode.dataset!r}, not from {dataset.name!r}")
    for name in episode.classes:
        if name not in dataset.classes:
            raise InputError(f"episode: {dataset.name} has no class {name!r}; draw a new episode")
    for images, labels in (
        (episode.support, episode.support_labels),
        (episode.query, episode.query_labels),
    ):
        for image, way in zip(images, labels, strict=True):
            if not (
                0 <= image < len(dataset)
                and dataset.classes[dataset.labels[image]] == episode.classes[way]
            ):
                raise InputError(
                    f"episode: image {image} of {dataset.name} is not {episode.classes[way]!r} "
                    f"any more, the set has changed; draw a new episode"
                )


@dataclass(frozen=True, eq=False)
class _Pool:
    """The images of one class that may serve as support and as query."""

    name: str
    support: _Indices
    query: _Indices
    shared: bool
    """Support and query are the same images, to be divided by the draw."""

    def queries(self, shots: int) -> int:
        """Count the query images left beside `shots` support images; 0 if those are too few."""
        if len(self.support) < shots:
            return 0
        return len(self.query) - shots if self.shared else len(self.query)

    def draw(self, rng: np.random.Generator, shots: int) -> tuple[_Indices, _Indices]:
        """Return `shots` support images and all possible query images, in random order."""
        support = self.support[_shuffled(rng, len(self.support))]
        if self.shared:
            return support[:shots], support[shots:]
        return support[:shots], self.query[_shuffled(rng, len(self.query))]

    def __str__(self) -> str:
        if self.shared:
            return f"{self.name} ({_images(self.support.size)})"
        return f"{self.name} ({len(self.support)} to learn from, {len(self.query)} to test on)"


def _pools(dataset: Dataset) -> tuple[_Pool, ...]:
    """Return one pool per class, in the order of `dataset.classes`."""
    everything = np.ones(len(dataset), dtype=np.bool_)
    if dataset.split is not None:
        split = np.array(dataset.split)
        learn, test = np.isin(split, ("train", "val")), split == "test"
        if set(dataset.labels[learn].tolist()) & set(dataset.labels[test].tolist()):
            supports, queries = _by_class(dataset, learn), _by_class(dataset, test)
            return tuple(
                _Pool(name, support, query, shared=False)
                for name, support, query in zip(dataset.classes, supports, queries, strict=True)
            )
    return tuple(
        _Pool(name, images, images, shared=True)
        for name, images in zip(dataset.classes, _by_class(dataset, everything), strict=True)
    )


def _by_class(dataset: Dataset, chosen: NDArray[np.bool_]) -> list[_Indices]:
    """Return the indices of the chosen images of each class, in ascending order."""
    indices = np.flatnonzero(chosen)
    labels = dataset.labels[indices]
    indices = indices[np.argsort(labels, kind="stable")]
    ends = np.cumsum(np.bincount(labels, minlength=len(dataset.classes)))
    return np.split(indices, ends[:-1])


def _test_classes(dataset: Dataset, pools: tuple[_Pool, ...]) -> tuple[_Pool, ...]:
    """Empty the pools of train and val classes, if the splits of the set divide the classes."""
    if dataset.split is None or not all(pool.shared for pool in pools):
        return pools
    test = set(dataset.labels[np.array(dataset.split) == "test"].tolist())
    if not test:
        return pools
    none = np.empty(0, dtype=np.int64)
    return tuple(
        pool if label in test else replace(pool, support=none, query=none)
        for label, pool in enumerate(pools)
    )


def _usable_groups(
    dataset: Dataset, pools: Sequence[_Pool], *, shots: int
) -> dict[str, list[_Pool]]:
    """Return the usable classes of each group; without groups, one group of all."""
    names = dataset.groups or ("",) * len(pools)
    # dict.fromkeys: the groups in the order of the set, where a set() would change with each run.
    groups = {name: list[_Pool]() for name in dict.fromkeys(names)}
    for name, pool in zip(names, pools, strict=True):
        if pool.queries(shots) > 0:
            groups[name].append(pool)
    return groups


def _choose_group(
    dataset: Dataset,
    pools: Sequence[_Pool],
    rng: np.random.Generator,
    *,
    ways: int | None,
    shots: int,
) -> list[_Pool]:
    """Return the usable classes of one group with enough of them; without groups, of the set."""
    groups = _usable_groups(dataset, pools, shots=shots)
    needed = 2 if ways is None else ways
    enough = [group for group in groups.values() if len(group) >= needed]
    if not enough:
        raise _too_few(dataset, pools, groups, ways=ways, shots=shots)
    return enough[_shuffled(rng, len(enough))[0]] if dataset.groups else enough[0]


def _too_few(
    dataset: Dataset,
    pools: Sequence[_Pool],
    groups: Mapping[str, Sequence[_Pool]],
    *,
    ways: int | None,
    shots: int,
) -> InputError:
    largest = max(groups, key=lambda name: len(groups[name]))
    most = len(groups[largest])
    asked = "an episode needs 2 or more" if ways is None else f"{ways} ways asked for"
    where = f", {most} in its largest group {largest!r}" if dataset.groups else ""
    small = [str(pool) for pool in pools if pool.queries(shots) <= 0]
    usable = len(pools) - len(small)
    too_small = f"; too small: {_some(small)}" if small else ""
    fix = f"at most {most} ways" if most > 1 else "more images or classes"
    fewer = ", or fewer shots" if small and shots > 1 else ""
    return InputError(
        f"{dataset.name}: {asked}, but {usable} of {len(pools)} classes have "
        f"{_images(shots)} to learn from and one to test on{where}{too_small}; use {fix}{fewer}"
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _some(names: Sequence[str]) -> str:
    """Join names to fit one line of an error message."""
    shown = 5
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _shuffled(rng: np.random.Generator, n: int) -> _Indices:
    """Return 0..n-1 in random order.

    From uniform numbers and a stable sort: numpy may change how `permutation` and `choice` use
    the generator from one version to the next, and a seed should outlive that.
    """
    return np.argsort(rng.random(n), kind="stable")


def _below(rng: np.random.Generator, n: int) -> int:
    """Return one of 0..n-1, each as likely; from a uniform number as in `_shuffled`."""
    return int(rng.random() * n)


def _at_least(minimum: int, name: str, value: int) -> None:
    if value < minimum:
        raise InputError(f"{name}: {value} is too small; give {minimum} or more")


def _at_most(maximum: int, name: str, value: int) -> None:
    if value > maximum:
        raise InputError(f"{name}: {value} is too large; give {maximum} or less")


def _check_seed(seed: int) -> None:
    _at_least(0, "seed", seed)
    _at_most(limits.SEED, "seed", seed)
