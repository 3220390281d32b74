"""Tasks drawn from a set: all of it, fixed ways and shots, or as Meta-Dataset does."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from kilograd import limits
from kilograd.data.bounds import at_least, at_most
from kilograd.data.chance import below, generator, shuffled
from kilograd.data.composition import META_MIN_WAYS, sample_composition
from kilograd.data.dataset import Dataset
from kilograd.data.episode import Episode
from kilograd.data.pools import Pool, counted_images, only_test_classes, pools_of, usable_groups
from kilograd.data.whole import sample_whole
from kilograd.errors import InputError, option
from kilograd.options import Option

MAX_DEFAULT_WAYS = 10
"""Classes of an episode if nobody asks for a number."""
DEFAULT_SHOTS, DEFAULT_QUERIES = 5, 15
"""Support and query images of each class if nobody asks for a number."""


class EpisodeKind(enum.StrEnum):
    """How the ways and shots of a task come about."""

    ALL = "all"
    FIXED = "fixed"
    META_DATASET = "meta-dataset"


@dataclass(frozen=True)
class Draw:
    """How tasks are drawn, as options say it: `None` is the default of a fixed task.

    >>> Draw().filled().shots, Draw(EpisodeKind.META_DATASET).filled().shots
    (5, None)

    Raises `InputError` for numbers that the kind of task draws itself.
    """

    episode: Annotated[
        EpisodeKind,
        Option("Ways and shots: all there are, as given, or drawn as Meta-Dataset does."),
    ] = EpisodeKind.FIXED
    ways: Annotated[int | None, Option("Classes; default: all, at most 10.", most=limits.WAYS)] = (
        None
    )
    shots: Annotated[
        int | None, Option("Support images of each class; default: 5.", most=limits.COUNT)
    ] = None
    queries: Annotated[
        int | None, Option("Test images of each class, at most; default: 15.", most=limits.COUNT)
    ] = None
    test: Annotated[
        float | None,
        Option("Share of each class to test on where all images take part; default: 0.25."),
    ] = None

    def __post_init__(self) -> None:
        """Raise `InputError` for numbers that the kind of task draws itself."""
        if self.test is not None and self.episode is not EpisodeKind.ALL:
            raise InputError(
                f"{option('test')} {self.test}: an episode {self.episode} does not take all "
                f"images; give {option('queries')}, or {option('episode')} {EpisodeKind.ALL}"
            )
        if self.episode is EpisodeKind.FIXED:
            return
        for name in ("ways", "shots", "queries"):
            if (value := getattr(self, name)) is not None:
                takes = "takes all" if self.episode is EpisodeKind.ALL else "draws this itself"
                raise InputError(
                    f"{option(name)} {value}: {option('episode')} {self.episode} {takes}; give "
                    "one of the two"
                )

    def filled(self) -> Draw:
        """Return it with the default numbers of a fixed task."""
        if self.episode is not EpisodeKind.FIXED:
            return self
        return replace(
            self,
            shots=DEFAULT_SHOTS if self.shots is None else self.shots,
            queries=DEFAULT_QUERIES if self.queries is None else self.queries,
        )

    @property
    def least_shots(self) -> int:
        """Support images that a class must give to take part."""
        return self.filled().shots or 1

    def __call__(self, dataset: Dataset, seed: int) -> Episode:
        """Draw one.  Raises `InputError` as the `sample_...` of the kind does."""
        if self.episode is EpisodeKind.ALL:
            return sample_whole(dataset, test=self.test, seed=seed)
        task = self.filled()
        if task.shots is None or task.queries is None:
            return sample_meta_episode(dataset, seed=seed)
        return sample_episode(
            dataset, ways=self.ways, shots=task.shots, queries=task.queries, seed=seed
        )


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
        at_least(2, option("ways"), ways)
        at_most(limits.WAYS, option("ways"), ways)
    for name, value in (("queries", queries), ("shots", shots)):
        at_least(1, option(name), value)
        at_most(limits.IMAGES, option(name), value)
    rng = generator(seed)
    pools = pools_of(dataset)
    candidates = _choose_group(dataset, pools, rng, ways=ways, shots=shots)
    chosen_ways = min(MAX_DEFAULT_WAYS, len(candidates)) if ways is None else ways
    chosen = [candidates[i] for i in sorted(shuffled(rng, len(candidates))[:chosen_ways])]
    per_class = min(queries, *(pool.queries(shots) for pool in chosen))
    return _episode(dataset, chosen, [shots] * chosen_ways, per_class, rng, seed)


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
    rng = generator(seed)
    pools = only_test_classes(dataset, pools_of(dataset))
    groups = usable_groups(dataset, pools, shots=1)
    enough = [group for group in groups.values() if len(group) >= META_MIN_WAYS]
    if not enough:
        most = max(map(len, groups.values()), default=0)
        where = " in its largest group" if dataset.groups else ""
        raise InputError(
            f"{dataset.name}: a Meta-Dataset episode needs {META_MIN_WAYS} classes or more with "
            f"an image to learn from and one to test on, it has {most}{where}; "
            f"use more classes, or an episode of fixed ways and shots"
        )
    group = enough[below(rng, len(enough))]
    # Either all classes share one set of images between support and query, or none does.
    test = None if group[0].shared else [len(pool.query) for pool in group]
    made = sample_composition(rng, [len(pool.support) for pool in group], test)
    chosen = [group[i] for i in made.classes]
    return _episode(dataset, chosen, made.shots, made.queries, rng, seed)


def _episode(
    dataset: Dataset,
    chosen: Sequence[Pool],
    shots: Sequence[int],
    queries: int,
    rng: np.random.Generator,
    seed: int,
) -> Episode:
    """Draw the images of chosen classes: the shots of each, and as many queries of every class."""
    drawn = [pool.draw(rng, count) for pool, count in zip(chosen, shots, strict=True)]
    return Episode(
        dataset=dataset.name,
        classes=tuple(pool.name for pool in chosen),
        support=tuple(int(i) for support, _ in drawn for i in support),
        support_labels=tuple(way for way, count in enumerate(shots) for _ in range(count)),
        query=tuple(int(i) for _, query in drawn for i in query[:queries]),
        query_labels=tuple(way for way in range(len(chosen)) for _ in range(queries)),
        seed=seed,
    )


def _choose_group(
    dataset: Dataset,
    pools: Sequence[Pool],
    rng: np.random.Generator,
    *,
    ways: int | None,
    shots: int,
) -> list[Pool]:
    """Return the usable classes of one group with enough of them; without groups, of the set."""
    groups = usable_groups(dataset, pools, shots=shots)
    needed = 2 if ways is None else ways
    enough = [group for group in groups.values() if len(group) >= needed]
    if not enough:
        raise _too_few(dataset, pools, groups, ways=ways, shots=shots)
    return enough[shuffled(rng, len(enough))[0]] if dataset.groups else enough[0]


def _too_few(
    dataset: Dataset,
    pools: Sequence[Pool],
    groups: Mapping[str, Sequence[Pool]],
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
        f"{counted_images(shots)} to learn from and one to test on{where}{too_small}; "
        f"use {fix}{fewer}"
    )


def _some(names: Sequence[str]) -> str:
    """Join names to fit one line of an error message."""
    shown = 5
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
