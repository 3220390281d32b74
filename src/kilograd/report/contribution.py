"""One HTML page about what each layer brings when it alone learns: lines with their intervals."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from kilograd.ir import Graph
from kilograd.report.curves import STYLE, Scale, begun, curve, legend, per, scale_of
from kilograd.report.document import document
from kilograd.report.markup import escape
from kilograd.search import SHARES, Choice, Contribution, Gain, Gains
from kilograd.select import Evidence

_HOW = (
    "Accuracy gained over the head alone on the same episodes, in points, where the parameters "
    "shown and no others learn. Upright lines are 95 % intervals by Student's t over"
)
_SHARE = (
    "A share of its input channels, those with the largest weights; depthwise: of its channels. "
    "Layers are numbered in execution order."
)
_SETS = ("gradient", "mask", "state", "over", "other")
"""Colours of data sets, which take turns."""
_CLASSES = dict(zip(SHARES, "eqhw", strict=True))


class Role(enum.StrEnum):
    """What a convolution is in an inverted bottleneck."""

    FIRST = "first 1×1 of a block"
    DEPTHWISE = "depthwise"
    SECOND = "second 1×1 of a block"
    OTHER = "other"


def roles(evidence: Evidence) -> tuple[Role, ...]:
    """Return what each convolution is, by what stands beside it.

    A 1x1 convolution behind a depthwise one is the second of its block, one before it the first.
    """
    layers = evidence.layers
    depthwise = [evidence.depthwise(layer) for layer in layers]
    return tuple(
        Role.DEPTHWISE
        if depthwise[i]
        else Role.OTHER
        if evidence.weights(layer).shape[1:3] != (1, 1)
        else Role.SECOND
        if i and depthwise[i - 1]
        else Role.FIRST
        if depthwise[i + 1 : i + 2] == [True]
        else Role.OTHER
        for i, layer in enumerate(layers)
    )


def contribution_page(title: str, found: Contribution, graph: Graph, facts: str) -> str:
    """Return the page; `graph` is that of the network, `facts` says how episodes were learned."""
    kinds = roles(Evidence(found.network, graph, found.layers))
    present = [role for role in Role if role in kinds]
    sets = ", ".join(f"{s.data} {s.head:.1%}" for s in found.sets if s.data)
    parts = [
        f"<h1>{escape(title)}: what each layer brings</h1>",
        f'<p class="soft">{escape(facts)}</p>',
        f'<p class="soft">{_HOW} {found.overall.episodes} episodes.</p>',
        f'<p class="soft">Accuracy of the head alone: {escape(sets)}.</p>',
        "<h2>Biases of the last k layers</h2>",
        *_biases(found),
        "<h2>Weights of one layer</h2>",
        f'<p class="soft">{_SHARE}</p>',
        legend("eqhw", map(_said, SHARES)),
    ]
    scale = scale_of([found.overall.weights[c] for c in found.weights], 0)
    for role in present:
        numbers = [i for i, kind in enumerate(kinds) if kind is role]
        parts += [f"<h3>{role.capitalize()}</h3>", *_weights(found, numbers, scale)]
    parts += list(_by_effort(found))
    parts += ["<h2>Mean over layers</h2>", *_table(found, kinds, present)]
    return document(f"{title}: contribution", STYLE, parts)


def mean_gain(gains: Gains, layers: Sequence[str], share: float) -> float | None:
    """Return the mean gain of some layers' weights; `None` where none has that share."""
    found = [gains.weights[c].mean for c in ((x, share) for x in layers) if c in gains.weights]
    return math.fsum(found) / len(found) if found else None


def _biases(found: Contribution) -> Iterator[str]:
    several = found.sets if len(found.sets) > 1 else ()
    means = [Gain(g.mean, 0.0) for s in several for g in s.biases]
    scale = scale_of([*found.biases, *means], len(found.biases))
    labels = [str(k) if k == 1 or k % 5 == 0 else "" for k in range(1, len(found.biases) + 1)]
    yield from begun("Gain by the number of layers whose biases learn", scale, labels)
    for one, colour in zip(several, itertools.cycle(_SETS), strict=False):
        line = "L".join(
            f"{scale.x(i):.1f} {scale.y(100 * g.mean):.1f}" for i, g in enumerate(one.biases)
        )
        yield f'<path class="set" style="stroke: var(--{colour})" d="M{line}"/>'
    points = [
        (i, g, f"last {i + 1}, from {found.layers[-i - 1]} on") for i, g in enumerate(found.biases)
    ]
    yield from curve(scale, points, "h")
    yield "</svg>"
    if several:
        names = ("all, with intervals", *(str(one.data) for one in several))
        yield legend(("h", *itertools.islice(itertools.cycle(_SETS), len(several))), names)


def _weights(
    found: Contribution,
    numbers: Sequence[int],
    scale: Scale,
    gains: Mapping[Choice, Gain] | None = None,
    unit: str = "points",
) -> Iterator[str]:
    """Draw a line for each share through some layers; `gains`: other than those over all."""
    gains = found.weights if gains is None else gains
    scale = replace(scale, count=max(len(numbers), 6))
    yield from begun("Gain by layer", scale, [str(i) for i in numbers])
    for at, share in enumerate(SHARES):
        beside = (at - (len(SHARES) - 1) / 2) * 0.09
        points = [
            (place + beside, gains[choice], f"{i} {choice[0]}, {_said(share)}")
            for place, i in enumerate(numbers)
            if (choice := (found.layers[i], share)) in gains
        ]
        yield from curve(scale, points, _CLASSES[share], unit)
    yield "</svg>"


def _by_effort(found: Contribution) -> Iterator[str]:
    """Draw gains per parameter and per MAC, of all layers: TinyTrain's figures 3b and 3c."""
    efforts = found.efforts
    units = {
        "thousand parameters": {c: e.parameters / 1e3 for c, e in efforts.items()},
        "million MACs": {c: e.macs / 1e6 for c, e in efforts.items()},
    }
    for unit, spent in units.items():
        gains = {c: per(found.weights[c], x) for c, x in spent.items() if x}
        if gains:
            yield f"<h2>Weights of one layer: points per {unit}</h2>"
            numbers = list(range(len(found.layers)))
            scale = scale_of(list(gains.values()), 0)
            yield from _weights(found, numbers, scale, gains, f"points per {unit}")


def _said(share: float) -> str:
    return "all channels" if share == 1 else f"{Fraction(share)} of the channels"


def _table(found: Contribution, kinds: Sequence[Role], present: Sequence[Role]) -> Iterator[str]:
    several = found.sets if len(found.sets) > 1 else ()
    columns = [(found.overall, x, _said(x)) for x in SHARES]
    columns += [(s, 1.0, f"{s.data}, all channels") for s in several]
    heads = "".join(f'<th class="n">{escape(name)}</th>' for *_, name in columns)
    yield f'<table><tr><th>weights of</th><th class="n">layers</th>{heads}</tr>'
    for role in present:
        layers = [x for x, kind in zip(found.layers, kinds, strict=True) if kind is role]
        means = (mean_gain(gains, layers, share) for gains, share, _ in columns)
        cells = "".join(
            f'<td class="n">{"" if m is None else f"{100 * m:+.1f}"}</td>' for m in means
        )
        yield f'<tr><td>{role}</td><td class="n">{len(layers)}</td>{cells}</tr>'
    yield "</table>"
