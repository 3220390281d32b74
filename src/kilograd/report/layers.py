"""One layer at a time: what its weights bring, by the share and the choice of its channels.

TinyTrain's figures 3, 7 and 8 (gain, gain per parameter and per MAC) and 4, 9 and 10 (channels by
Fisher information, by norm, at random), from the rows of an evaluation whose methods are
weights:LAYER:SHARE and its kin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from kilograd.intervals import interval
from kilograd.report.curves import STYLE, begun, curve, legend, per, scale_of
from kilograd.report.document import document
from kilograd.report.markup import escape
from kilograd.search import Effort, Gain
from kilograd.select import OneLayer
from kilograd.settings import split_method
from kilograd.study.evaluate import Evaluation
from kilograd.study.work import Row

_COLOURS = {"": "h", "fisher": "w", "l2": "q", "random": "e"}
_NAMES = {
    "": "input channels by norm",
    "fisher": "output channels by Fisher information",
    "l2": "output channels by norm",
    "random": "output channels at random",
}
_HOW = (
    "Accuracy gained over {first} on the same episodes, in points, where the weights of one layer "
    "learn alone. Upright lines are 95 % intervals by Student's t over {count} episodes; random "
    "channels are means over seeds. Layers are numbered in execution order."
)


@dataclass(frozen=True)
class Alone:
    """What one layer brought: differences to the first method, one a task, in the same order.

    `choice` has no seed: differences are means over the seeds that there are.
    """

    choice: OneLayer
    differences: tuple[float, ...]
    effort: Effort

    @property
    def gain(self) -> Gain:
        """The mean, with its interval over two tasks or more."""
        return gain_of(self.differences)


def gain_of(differences: Sequence[float]) -> Gain:
    """Return the mean of differences, with its interval."""
    found = interval(differences)
    return Gain(found.mean, found.half or 0.0)


def less(one: Alone, other: Alone) -> tuple[float, ...]:
    """Return what one brought more than another on the same tasks."""
    return tuple(a - b for a, b in zip(one.differences, other.differences, strict=True))


def alone(rows: Sequence[Row], first: str) -> tuple[Alone, ...]:
    """Return what single layers brought on one network, by layer, choice of channels and share."""
    base = {(r.data, r.episode): r for r in rows if r.method == first}
    found: dict[OneLayer, dict[tuple[str, int], list[Row]]] = {}
    for row in rows:
        choice = OneLayer.of(split_method(row.method)[0])
        if choice is not None:
            tasks = found.setdefault(replace(choice, seed=0), {})
            tasks.setdefault((row.data, row.episode), []).append(row)
    orders = tuple(_COLOURS)
    ranked = sorted(found, key=lambda c: (c.number, orders.index(c.order), c.share))
    return tuple(_alone(choice, found[choice], base) for choice in ranked)


def _alone(
    choice: OneLayer,
    tasks: Mapping[tuple[str, int], Sequence[Row]],
    base: Mapping[tuple[str, int], Row],
) -> Alone:
    differences = tuple(
        math.fsum(r.accuracy_after for r in tasks[at]) / len(tasks[at]) - row.accuracy_after
        for at, row in base.items()
    )
    at, row = next(iter(base.items()))
    spent = tasks[at][0]
    effort = Effort(
        spent.learned_parameters - row.learned_parameters, spent.backward_macs - row.backward_macs
    )
    return Alone(choice, differences, effort)


def layers_page(asked: Evaluation, rows: Sequence[Row], facts: str) -> str | None:
    """Return the page; `None` where fewer than two methods are of one layer alone, and where one
    episode says nothing of how sure a gain is.

    `facts` says how episodes were learned.
    """
    parts = ["<h1>One layer at a time</h1>", f'<p class="soft">{escape(facts)}</p>']
    first = asked.methods[0]
    for network in asked.networks:
        found = alone([r for r in rows if r.model == network.name], first)
        if len(found) < 2 or len(found[0].differences) < 2:
            return None
        how = _HOW.format(first=first, count=len(found[0].differences))
        parts += [f"<h2>{escape(network.title)}</h2>", f'<p class="soft">{escape(how)}</p>']
        parts += [*by_channels(found, network.layers), *_by_share(found, network.layers)]
    return document("One layer at a time", STYLE, parts)


def by_channels(found: Sequence[Alone], layers: Sequence[str]) -> Iterator[str]:
    """Yield HTML: a picture a share, with a line for each choice of channels."""
    orders = [o for o in _COLOURS if any(a.choice.order == o for a in found)]
    if len(orders) < 2:
        return
    yield legend((_COLOURS[o] for o in orders), (_NAMES[o] for o in orders))
    for share in sorted({a.choice.share for a in found}):
        some = [a for a in found if a.choice.share == share]
        yield f"<h3>{_begin(_said(share))}</h3>"
        lines = [(_COLOURS[o], [a for a in some if a.choice.order == o]) for o in orders]
        gains = {a.choice: a.gain for a in some}
        yield from _picture(lines, gains, layers, "points")


def _by_share(found: Sequence[Alone], layers: Sequence[str]) -> Iterator[str]:
    """Draw gains, gains per parameter and per MAC, with a line a share, for each choice.

    One that learns no more than the first method has no gain for its cost.
    """
    shares = sorted({a.choice.share for a in found})
    colours = dict(zip(shares, "eqhw" * len(shares), strict=False))
    for order in _COLOURS:
        some = [a for a in found if a.choice.order == order]
        lines = [(colours[s], [a for a in some if a.choice.share == s]) for s in shares]
        spent = {
            "points": [(a, 1.0) for a in some],
            "points per thousand parameters": [(a, a.effort.parameters / 1e3) for a in some],
            "points per million MACs": [(a, a.effort.macs / 1e6) for a in some],
        }
        for unit, amounts in spent.items():
            gains = {a.choice: per(a.gain, amount) for a, amount in amounts if amount > 0}
            if gains:
                yield f"<h3>{_begin(_NAMES[order])}: {unit}</h3>"
                yield legend((colours[s] for s in shares), map(_said, shares))
                yield from _picture(lines, gains, layers, unit)


def _picture(
    lines: Sequence[tuple[str, Sequence[Alone]]],
    gains: Mapping[OneLayer, Gain],
    layers: Sequence[str],
    unit: str,
) -> Iterator[str]:
    """Draw lines through layers: each a colour, and what it has of `gains`."""
    numbers = sorted({choice.number for choice in gains})
    scale = scale_of(list(gains.values()), max(len(numbers), 6))
    yield from begun(f"Gain by layer, {unit}", scale, [str(i) for i in numbers])
    for at, (colour, some) in enumerate(lines):
        beside = (at - (len(lines) - 1) / 2) * 0.09
        points = [
            (numbers.index(a.choice.number) + beside, gains[a.choice], _titled(a.choice, layers))
            for a in some
            if a.choice in gains
        ]
        yield from curve(scale, points, colour, unit)
    yield "</svg>"


def _titled(choice: OneLayer, layers: Sequence[str]) -> str:
    number = choice.number
    return f"{number} {layers[number]}, {_said(choice.share)}, {_NAMES[choice.order]}"


def _begin(text: str) -> str:
    """Return a text as a sentence begins: names inside it stay as they are."""
    return text[:1].upper() + text[1:]


def _said(share: Fraction) -> str:
    return "all channels" if share == 1 else f"{share} of the channels"
