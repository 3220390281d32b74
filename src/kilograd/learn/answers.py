"""What a network says of images that it has not learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kilograd.intervals import wilson


@dataclass(frozen=True)
class Share:
    """So many of so many images; `low` and `high` are Wilson's 95 % interval of their share."""

    right: int
    tested: int

    @property
    def accuracy(self) -> float:
        """The share itself, in 0 ... 1."""
        return self.right / self.tested

    @property
    def low(self) -> float:
        """The lower end of its interval."""
        return wilson(self.right, self.tested)[0]

    @property
    def high(self) -> float:
        """The upper end of its interval."""
        return wilson(self.right, self.tested)[1]


@dataclass(frozen=True)
class Wrong:
    """An image that is taken for something else."""

    image: str
    label: str
    said: str


@dataclass(frozen=True)
class Answers:
    """The answers to a test: `labels` and `said` index into `classes`, one for each of `images`.

    `images` are what messages call them: a path inside the data folder, or a row.
    """

    classes: tuple[str, ...]
    images: tuple[str, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    said: tuple[int, ...] = field(repr=False)

    @property
    def share(self) -> Share:
        """All of it."""
        return Share(sum(map(int.__eq__, self.labels, self.said)), len(self.labels))

    @property
    def by_class(self) -> Mapping[str, Share]:
        """Each class that was tested."""
        all_ = Counter(self.labels)
        right = Counter(a for a, b in zip(self.labels, self.said, strict=True) if a == b)
        return {name: Share(right[i], all_[i]) for i, name in enumerate(self.classes) if all_[i]}

    @property
    def confusion(self) -> Mapping[str, Mapping[str, int]]:
        """How often each class is taken for which, most often first; what is absent is 0."""
        pairs = Counter(zip(self.labels, self.said, strict=True))
        found: dict[str, dict[str, int]] = {name: {} for name in self.by_class}
        for (label, said), count in sorted(pairs.items(), key=lambda x: (-x[1], x[0])):
            found[self.classes[label]][self.classes[said]] = count
        return found

    @property
    def wrong(self) -> Sequence[Wrong]:
        """The images that are taken for something else, class by class."""
        return [
            Wrong(image, self.classes[label], self.classes[said])
            for image, label, said in zip(self.images, self.labels, self.said, strict=True)
            if label != said
        ]

    def to_json(self) -> dict[str, object]:
        """Return what result.json holds."""
        return {
            "by_class": {
                name: {"right": s.right, "tested": s.tested, "accuracy": s.accuracy}
                for name, s in self.by_class.items()
            },
            "confusion": self.confusion,
            "wrong": [vars(w) for w in self.wrong],
        }
