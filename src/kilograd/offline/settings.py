"""How to train offline: records of options, which need no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from kilograd.data import Augment, EpisodeKind
from kilograd.errors import InputError, option
from kilograd.options import Option

Epochs = Annotated[int, Option("Epochs to train.")]
Warmup = Annotated[int, Option("Epochs in which the rate rises.")]
Rate = Annotated[float, Option("The highest learning rate.")]
Momentum = Annotated[float, Option("Momentum of SGD.")]
Last = Annotated[int | None, Option("Only the last so many convolutions learn; default: all.")]


@dataclass(frozen=True)
class Course:
    """How long and how fast to train, by SGD with momentum.

    The rate rises from `floor` to `lr` in `warmup` epochs and returns along a cosine.  With
    `whole_epochs` it changes between epochs only.

    Raises `InputError` for numbers that make no sense.
    """

    epochs: int
    steps: int
    lr: float
    floor: float
    warmup: int
    momentum: float = 0.9
    weight_decay: float = 0.0
    whole_epochs: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value, least in (
            ("epochs", self.epochs, 0),
            ("steps", self.steps, 1),
            ("warmup", self.warmup, 0),
        ):
            if value < least:
                raise InputError(f"{option(name)} {value}: must be at least {least}")
        for name, number in (("floor", self.floor), ("weight_decay", self.weight_decay)):
            if not (math.isfinite(number) and number >= 0):
                raise InputError(f"{option(name)} {number}: must not be negative")
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"{option('momentum')} {self.momentum}: must be at least 0 and below 1"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"{option('lr')} {self.lr}: must be a positive number")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        epoch = step // self.steps if self.whole_epochs else step / self.steps
        floor = min(self.floor, self.lr)
        if epoch < self.warmup:
            return floor + (self.lr - floor) * epoch / self.warmup
        done = (epoch - self.warmup) / (self.epochs - self.warmup)
        return floor + (self.lr - floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Views:
    """How images are shown.

    `augment`: whether they may be changed at all, and mirrored.
    `crop`: the least share of an image's area that a crop may have.
    `seed`: what all that is random in training depends on.

    Raises `InputError` for numbers that make no sense.
    """

    augment: Annotated[Augment, Option("Random views of the images.")] = Augment.FULL
    crop: Annotated[float, Option("Least share of an image that a random view shows.")] = 0.25
    seed: Annotated[int, Option("Makes the run repeatable.")] = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.crop <= 1:
            raise InputError(f"{option('crop')} {self.crop}: must be above 0 and at most 1")
        if not 0 <= self.seed < 1 << 31:
            raise InputError(f"{option('seed')} {self.seed}: must be in 0 ... 2147483647")

    def rng(self, *place: int) -> np.random.Generator:
        """Return the random numbers of a place in training: the same whenever it is reached."""
        return np.random.default_rng((self.seed, *place))


@dataclass(frozen=True)
class Pretraining:
    """How to train a classifier; named as the options are.

    `last`: only so many convolutions learn, the last ones, and the classifier; None: all.
    `fresh`: start from random weights, with batch normalisation.

    Raises `InputError` for numbers that make no sense.
    """

    epochs: Epochs = 30
    batch: Annotated[int, Option("Images of a step.")] = 64
    lr: Rate = 0.02
    warmup: Warmup = 1
    momentum: Momentum = 0.9
    weight_decay: Annotated[float, Option("L2 penalty on weights.")] = 1e-4
    last: Last = None
    fresh: Annotated[bool, Option("Start from random weights, with batch normalisation.")] = False
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.batch < 2:
            raise InputError(f"{option('batch')} {self.batch}: must be at least 2")
        if self.fresh and self.last is not None:
            raise InputError(
                f"{option('fresh')}: random weights must all learn; leave out {option('last')}"
            )
        self.course(1)

    def course(self, steps: int) -> Course:
        """Return the schedule for so many steps an epoch."""
        return Course(
            self.epochs, steps, self.lr, 0.0, self.warmup, self.momentum, self.weight_decay
        )


@dataclass(frozen=True)
class Metatraining:
    """How to train on episodes; named as the options are.  The defaults are TinyTrain's.

    `steps`: episodes in an epoch; one is a step.
    `ways`, `shots`, `queries`: of every episode, to learn from and to validate with.
    `episode`: what is learned from; as Meta-Dataset draws it, 5 to 50 classes and any shots.
    `validation_episodes`: fixed episodes that the best epoch is chosen by.
    `last`: only so many convolutions learn, the last ones; None: all.

    Raises `InputError` for numbers that make no sense.
    """

    epochs: Epochs = 100
    steps: Annotated[int, Option("Episodes of an epoch.")] = 2000
    ways: Annotated[int, Option("Classes of an episode.")] = 5
    shots: Annotated[int, Option("Support images of each class.")] = 5
    queries: Annotated[int, Option("Other images of each class, at most.")] = 15
    episode: Annotated[
        EpisodeKind, Option("What to learn from: as given, or as Meta-Dataset draws.")
    ] = EpisodeKind.FIXED
    validation_episodes: Annotated[int, Option("Fixed episodes that choose the best epoch.")] = 120
    lr: Rate = 5e-5
    floor: Annotated[float, Option("Rate at the very start and end.")] = 1e-6
    warmup: Warmup = 5
    momentum: Momentum = 0.9
    last: Last = None
    views: Views = field(default_factory=lambda: Views(crop=0.05))

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.validation_episodes < 1:
            raise InputError(
                f"{option('validation_episodes')} {self.validation_episodes}: must be at least 1"
            )
        if self.episode is EpisodeKind.ALL:
            raise InputError(
                f"{option('episode')} {self.episode}: is one task, and this learns from many; "
                f"give {EpisodeKind.FIXED} or {EpisodeKind.META_DATASET}"
            )
        self.course()

    def course(self) -> Course:
        """Return the schedule: the rate changes between epochs."""
        return Course(
            self.epochs,
            self.steps,
            self.lr,
            self.floor,
            self.warmup,
            self.momentum,
            whole_epochs=True,
        )
