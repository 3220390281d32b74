"""Whether learning did good, harm or nothing: what a person is told, and what to try."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kilograd.errors import option
from kilograd.ir import Array
from kilograd.learn.answers import Answers
from kilograd.learn.recipe import Compiled
from kilograd.targets import HostProgram

_NOISE = 1.96
"""Standard deviations of a fair coin that are no surprise: 95 %."""
_CROWDED = 0.05
"""The share of weights at the ends of int8 from which on a rate is too high."""


@dataclass(frozen=True)
class Moved:
    """What training did to the numbers that learn: how many there are, and how many changed.

    `codes` of them are int8; `at_end` of those lie at -128 or 127, `at_end_before` did before.
    """

    count: int
    changed: int
    codes: int
    at_end: int
    at_end_before: int

    @property
    def crowded(self) -> bool:
        """Whether many weights came to the ends of int8, and could go no further."""
        return self.at_end - self.at_end_before > _CROWDED * self.codes


def learning(compiled: Compiled, host: HostProgram) -> dict[str, Array]:
    """Return copies of the parameters that learn, as they are now; a part of a layer as such."""
    names = [n if n in host.state else f"{n}.learned" for n in compiled.training.learn]
    head = compiled.training.head.learned if compiled.training.train_head else ()
    return {name: host.state[name].copy() for name in (*names, *head)}


def moved(before: Mapping[str, Array], after: Mapping[str, Array]) -> Moved:
    """Compare parameters before and after training."""
    codes = [name for name, value in after.items() if value.dtype == np.int8]
    return Moved(
        sum(x.size for x in after.values()),
        sum(int((x != before[name]).sum()) for name, x in after.items()),
        sum(after[name].size for name in codes),
        sum(_at_end(after[name]) for name in codes),
        sum(_at_end(before[name]) for name in codes),
    )


def _at_end(codes: Array) -> int:
    return int(((codes == 127) | (codes == -128)).sum())


def harmed(before: Answers, after: Answers) -> int:
    """Return how many images fewer are right after training; 0 where chance explains it.

    Images that training got wrong and those that it got right are heads and tails of a coin.
    """
    was = np.equal(before.labels, before.said)
    is_ = np.equal(after.labels, after.said)
    lost, won = int((was & ~is_).sum()), int((is_ & ~was).sum())
    return lost - won if lost - won > _NOISE * math.sqrt(lost + won) else 0


def rose(first: Array, last: Array) -> bool:
    """Say whether the losses of a pass are above those of another one beyond chance."""
    if not (np.isfinite(first).all() and np.isfinite(last).all()):
        return True
    spread = math.sqrt((first.var() + last.var()) / max(1, first.size))
    return bool(last.mean() - first.mean() > _NOISE * spread)


def verdict(
    before: Answers, after: Answers, first: Array, last: Array, what: Moved, method: str
) -> Iterator[str]:
    """Yield a line for whatever went wrong; `first` and `last` are losses of those passes."""
    if not what.count:
        yield f"nothing was learned: method {method} does not train; choose another {_METHOD}"
        return
    if len(after.classes) == 1:
        yield "nothing was learned: there is one class, and no other to tell it apart from"
        return
    if not what.changed:
        yield (
            "nothing was learned: no weight changed; raise the rate or the passes "
            f"({option('lr')}, {option('iterations')}), or leave them away"
        )
        return
    calmer = (
        f"leave {option('lr')} away or lower it, take fewer {option('iterations')}, add "
        f"{option('guard')}, or choose another {_METHOD}"
    )
    if lost := harmed(before, after):
        yield f"learning did harm: {lost} test images fewer are right than before; {calmer}"
    if rose(first, last):
        yield f"the loss rose from {first.mean():.3g} to {last.mean():.3g}; {calmer}"
    if what.crowded:
        yield (
            f"{what.at_end:,} of {what.codes:,} weights lie at the ends of int8 "
            f"({what.at_end_before:,} before), where they cannot go on: the rate is too high; "
            f"lower {option('lr')}"
        )


_METHOD = option("method")
