"""The record of a few-shot task: which classes, which images to learn from and to be tested on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from kilograd import limits
from kilograd.data.dataset import Dataset
from kilograd.errors import InputError, option
from kilograd.names import distinct, label
from kilograd.reading import parse_json, read_text, require_checksum, typed, with_checksum


@dataclass(frozen=True)
class Episode:
    """One few-shot task on a data set; everything needed to repeat it.

    `dataset`: name of the data set.
    `classes`: names of the K classes, in the order that they have in the data set.
    `support`, `query`: indices of the images to learn from and to test on, class by class. No
        image is in both.
    `support_labels`, `query_labels`: 0..K-1, index into `classes`, one per image. Each class has a
        support image; there is a query image, but not of each class.
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
        if absent := set(range(len(self.classes))).difference(self.support_labels):
            raise InputError(
                f"episode: class {self.classes[min(absent)]!r} has no support image; each class "
                f"needs one or more"
            )
        if not self.query:
            raise InputError("episode: has no query image; one or more are needed")
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
    def from_json(cls, text: str, where: str = "episode") -> Episode:
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


def of_dataset(episode: Episode, dataset: Dataset) -> bool:
    """Tell whether an episode was drawn from a data set as it is now."""
    try:
        check_episode(episode, dataset)
    except InputError:
        return False
    return True


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
