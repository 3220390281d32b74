"""All that a person may set where a network learns: one record, made of the records it is for."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np

from kilograd import limits
from kilograd.data import Augment, Draw
from kilograd.errors import InputError, option
from kilograd.frontend import Arrays, Model
from kilograd.options import Option, changed, checked, leaves, values
from kilograd.select import METHODS, Budget, Evidence
from kilograd.sizes import bytes_of, macs_of, ram_of

_SMALLEST = float(np.finfo(np.float32).tiny)
"""Of rates: a normal number of float32."""


class HeadKind(enum.StrEnum):
    """How features become a class."""

    PROTO = "proto"
    LINEAR = "linear"
    INT8 = "int8"


class OptimizerKind(enum.StrEnum):
    """How a gradient becomes a step."""

    SGD = "sgd"
    MOMENTUM = "momentum"
    ROWRMS = "rowrms"
    ADAM = "adam"

    @property
    def normed(self) -> bool:
        """Whether a gradient is divided by its own size."""
        return self in {OptimizerKind.ROWRMS, OptimizerKind.ADAM}


@dataclass(frozen=True)
class Recipe:
    """What to compile.  `head` None: linear for the method `head`, else prototypes.

    `accumulate`: samples whose gradients are averaged for one update; 1 updates at once and
    needs no memory for sums.  `rows`: the image comes row by row, never as a whole.
    `recompute`: maps that the backward pass reads are computed again, not kept, where that helps.
    `exact`: where the plan does not meet its bound, search for the best.
    `cache`: views of each image whose latents are kept, so that the layers in front of what learns
    run once for each; 0 keeps none.  Where the first layer learns, the views themselves are kept.
    `prototype_gradients`: learn through the prototypes as well, which takes another pass over the
    support for each update.  `state_bits`: of each number that is kept beside a parameter that
    learns: a momentum, the moments of Adam, a sum of gradients; 16 and 8 are codes with an exponent
    for each row.  `qas`: a step is the same in real units whatever a code stands for;
    without it the codes are treated as if they were the parameters.
    """

    method: Annotated[str, Option(f"What learns: {', '.join(METHODS)}.")] = "last"
    ways: Annotated[int, Option("Classes of the head.", most=limits.WAYS)] = 10
    head: Annotated[
        HeadKind | None,
        Option("proto (default), linear (default of method head), or int8: linear in int8."),
    ] = None
    optimizer: Annotated[OptimizerKind, Option("How a gradient becomes a step.")] = (
        OptimizerKind.SGD
    )
    accumulate: Annotated[int, Option("Samples averaged for one update.", most=limits.COUNT)] = 1
    rows: Annotated[
        bool, Option("Read the image row by row, through a callback; it is never in RAM whole.")
    ] = False
    recompute: Annotated[bool, Option("Run layers again to keep fewer maps: less RAM, slower.")] = (
        False
    )
    exact: Annotated[bool, Option("Search longer for a memory plan proved optimal.")] = False
    cache: Annotated[
        int,
        Option(
            "Keep the frozen layers' output for so many views of an image; 0: none.",
            most=limits.COUNT,
        ),
    ] = 0
    prototype_gradients: Annotated[
        bool, Option(f"Learn through prototypes too: one more pass; needs {option('accumulate')}.")
    ] = False
    state_bits: Annotated[
        int, Option("Bits of momentum, Adam's moments and sums of gradients: 32, 16 or 8 each.")
    ] = 32
    qas: Annotated[
        bool,
        Option("Quantisation-aware scaling; without it codes are the parameters (sgd, momentum)."),
    ] = True

    def __post_init__(self) -> None:
        """Raise `InputError` for numbers that make no sense, and for QAS turned off in vain."""
        for name, least in (("ways", 1), ("accumulate", 1)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{option(name)} {value}: must be at least {least}")
        if self.cache < 0:
            raise InputError(f"{option('cache')} {self.cache}: must not be negative")
        if self.state_bits not in {8, 16, 32}:
            raise InputError(f"{option('state_bits')} {self.state_bits}: must be 32, 16 or 8")
        if not self.qas and self.optimizer.normed:
            raise InputError(
                f"{option('qas')} is off: {self.optimizer} divides a gradient by its own size, so "
                f"there is no scale that could be left out; choose {option('optimizer')} sgd or "
                "momentum, or turn it on"
            )

    @property
    def rule(self) -> str:
        """How a gradient becomes a step, in words."""
        return f"{self.optimizer}{'' if self.qas else ' without QAS'}"

    @property
    def head_kind(self) -> HeadKind:
        """The head, after its default."""
        if self.head is not None:
            return self.head
        return HeadKind.LINEAR if self.method == "head" else HeadKind.PROTO


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn: `iterations` passes over the support at rate `lr`.

    The rate rises from zero in a straight line during the first `warmup` passes, and falls to zero
    along a cosine in the others.  It is never below the smallest normal float32: programs refuse
    a rate of zero.
    `test_each_pass` changes nothing of what is learned: it keeps how accuracy comes about.
    """

    iterations: Annotated[int, Option("Passes over the support images.", most=limits.COUNT)] = 10
    lr: Annotated[float, Option("Learning rate.")] = 0.003
    augment: Annotated[Augment, Option("Random views of the support images.")] = Augment.FULL
    seed: Annotated[
        int, Option("Makes the run repeatable; of several episodes, number E has SEED + E.")
    ] = 0
    warmup: Annotated[
        int, Option("The rate rises from zero during the first so many passes.", most=limits.COUNT)
    ] = 0
    test_each_pass: Annotated[
        bool, Option("Test after each pass, and keep the accuracies; takes a test a pass.")
    ] = False

    def __post_init__(self) -> None:
        """Raise `InputError` for numbers that make no sense."""
        if self.iterations < 0:
            raise InputError(f"{option('iterations')} {self.iterations}: must not be negative")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"{option('lr')} {self.lr}: must be a positive number")
        if not _SMALLEST <= self.lr <= limits.CODE_RATE:
            raise _odd_rate(self.lr)
        if not 0 <= self.seed <= limits.SEED:
            raise InputError(f"{option('seed')} {self.seed}: must be in 0 ... {limits.SEED}")
        most = max(0, self.iterations - 1)
        if not 0 <= self.warmup <= most:
            raise InputError(
                f"{option('warmup')} {self.warmup}: must be in 0 ... {most}, fewer passes than "
                f"{option('iterations')} {self.iterations}"
            )
        if self.test_each_pass and self.iterations > limits.TESTED_PASSES:
            raise InputError(
                f"{option('test_each_pass')}: with {option('iterations')} {self.iterations}, the "
                f"accuracies of {limits.TESTED_PASSES} passes are the most that are kept; leave it "
                "away"
            )

    def rate(self, done: float) -> float:
        """Return the rate when the fraction `done` of the work is done."""
        warm = self.warmup / max(1, self.iterations)
        if done < warm:
            return max(_SMALLEST, self.lr * done / warm)
        falling = 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))
        return max(_SMALLEST, self.lr * falling)


@dataclass(frozen=True)
class Limits:
    """What a program may cost, as it was given: what that means depends on the network."""

    sram: Annotated[
        str | int | None, Option("RAM without stack that the program may use, e.g. 256K.")
    ] = None
    compute: Annotated[
        str | int | None, Option("Most MACs a backward pass may take: 6.7M, or 15% of a full one.")
    ] = None
    channels: Annotated[
        float | None, Option("Share of a layer's channels that may learn, e.g. 0.25.")
    ] = None
    backward_memory: Annotated[
        str | int | None,
        Option("Memory of a backward pass as TinyTrain counts it (float32, Adam), e.g. 1M."),
    ] = None

    def budget(self, model: Model) -> Budget:
        """Return what a program of a network may cost; `InputError` for what is no size."""
        full = Evidence(model.name, model.graph, model.layers).full_backward()
        return Budget(
            None if self.sram is None else ram_of(self.sram, "sram"),
            None if self.compute is None else macs_of(self.compute, full),
            self.channels,
            backward_memory=None
            if self.backward_memory is None
            else ram_of(self.backward_memory, "backward_memory"),
        )


@dataclass(frozen=True)
class Build:
    """What to compile and what it may cost, where there is no task."""

    recipe: Recipe = field(default_factory=Recipe)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Settings:
    """How tasks are drawn and learned.

    >>> Settings.of(shots=3, lr=0.05).schedule.lr
    0.05
    >>> Settings().varied("last:2@lr=0.01,optimizer=adam").recipe.method
    'last:2'
    """

    draw: Draw = field(default_factory=Draw)
    recipe: Recipe = field(default_factory=Recipe)
    limits: Limits = field(default_factory=Limits)
    schedule: Schedule = field(default_factory=Schedule)
    cache_bytes: Annotated[
        str | int | None,
        Option(
            f"In place of {option('cache')}: keep as many views as fit into, say, 512K, beside "
            "the RAM."
        ),
    ] = None
    guard: Annotated[
        bool, Option("Hold out some support images; stop early if accuracy on them falls.")
    ] = False

    def __post_init__(self) -> None:
        """Raise `InputError` for a rate far too high, and where two options say one thing."""
        if self.recipe.qas and self.schedule.lr > limits.RATE:
            raise _odd_rate(self.schedule.lr)
        if self.recipe.optimizer.normed and self.schedule.lr > limits.NORMED_RATE:
            raise InputError(
                f"{option('lr')} {self.schedule.lr:g}: {self.recipe.optimizer} moves each weight "
                f"about so far in a step, and int8 weights are small; {limits.NORMED_RATE:g} is "
                "the most, 0.0001 to 0.01 is usual"
            )
        if self.cache_bytes is not None and self.recipe.cache:
            raise InputError(
                f"{option('cache')} {self.recipe.cache}: {option('cache_bytes')} says how many "
                "views; leave one away"
            )

    @classmethod
    def of(cls, **given: object) -> Settings:
        """Return settings by the names of options; `InputError` as `changed`."""
        return changed(cls(), given)

    def budget(self, model: Model) -> Budget:
        """Return what a program of a network, and the latents beside it, may cost."""
        text = self.cache_bytes
        kept = None if text is None else bytes_of(text, "cache_bytes")
        return replace(self.limits.budget(model), cache=kept)

    def suited(self, model: Model) -> Settings:
        """Return the settings as they are for a network: of arrays there are no random views."""
        if not isinstance(model.preprocess.samples, Arrays):
            return self
        return replace(self, schedule=replace(self.schedule, augment=Augment.NONE))

    def varied(self, method: str) -> Settings:
        """Return the settings of METHOD, METHOD@LR or METHOD@OPTION=VALUE,OPTION=VALUE.

        Raises `InputError` for an option that is none, or that all methods must share.
        """
        name, given = split_method(method)
        with naming(method):
            return changed(self, {"method": name, **given})

    def numbered(self, episode: int) -> Settings:
        """Return the settings of an episode by its number: its seed is another."""
        seed = self.schedule.seed + episode
        return replace(self, schedule=replace(self.schedule, seed=seed))

    def named(self) -> dict[str, str | float | bool | None]:
        """Return what was given or is the default, by option; methods and their classes vary."""
        found = values(replace(self, draw=self.draw.filled()))
        return {k: v for k, v in found.items() if k != "method"}


#: What a method may have of its own: what it compiles, within which limits, and how it learns.
_OWN = {
    leaf.name: leaf
    for leaf in leaves(Settings)
    if leaf.group is not Draw and leaf.name not in {"method", "seed"}
}


def split_method(method: str) -> tuple[str, Mapping[str, object]]:
    """Take what a method has of its own off METHOD@LR or METHOD@OPTION=VALUE,OPTION=VALUE.

    >>> split_method("last:6@0.01"), split_method("me@home.json")
    (('last:6', {'lr': 0.01}), ('me@home.json', {}))
    >>> split_method("last:6@cache=4,optimizer=adam")
    ('last:6', {'cache': 4, 'optimizer': <OptimizerKind.ADAM: 'adam'>})
    """
    name, _, rest = method.rpartition("@")
    if not name or rest.endswith(".json"):
        return method, {}
    if rest.replace("-", "_") in _OWN:
        raise InputError(f"{option('methods')} {method}: give {rest} a value, as in {rest}=true")
    if "=" in rest:
        own = [_own(part.strip(), method) for part in rest.split(",")]
        if len(own) > len(dict(own)):
            raise InputError(f"{option('methods')} {method}: says one thing twice; leave one away")
        return name, dict(own)
    if re.fullmatch(r"[-+.\de]+|nan|inf", rest):
        return name, {"lr": checked(_OWN["lr"], rest)}
    return method, {}


@contextmanager
def naming(method: str) -> Iterator[None]:
    """Name a method that has options of its own in an error that may be about them."""
    try:
        yield
    except InputError as e:
        if split_method(method)[0] == method:
            raise
        raise InputError(f"{option('methods')} {method}: {e}") from e


def split_methods(text: str) -> tuple[str, ...]:
    """Split a list of methods at its commas, but for those between options of one method.

    >>> split_methods("none, last:6@cache=4,lr=0.01, full")
    ('none', 'last:6@cache=4,lr=0.01', 'full')
    """
    methods: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if methods and "=" in methods[-1].rpartition("@")[2] and re.match(r"[a-z_-]+=", part):
            methods[-1] += f",{part}"
        else:
            methods.append(part)
    return tuple(methods)


def _odd_rate(lr: float) -> InputError:
    return InputError(
        f"{option('lr')} {lr:g}: must be in {_SMALLEST:.3g} ... {limits.RATE:g}; int8 weights "
        f"learn at 0.0001 to 0.1 (with {option('qas')} off: up to {limits.CODE_RATE:g})"
    )


def _own(part: str, method: str) -> tuple[str, object]:
    name, _, text = part.partition("=")
    leaf = _OWN.get(name.replace("-", "_"))
    if leaf is None:
        raise InputError(
            f"{option('methods')} {method}: {name!r} is no option that a method may have of its "
            f"own; there are {', '.join(_OWN)}"
        )
    return leaf.name, checked(leaf, text)
