"""Strategies by the names of the command line.  A new one is a line in one of two tables.

What holds for every strategy is tested on `EXAMPLES`, one of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kilograd.errors import InputError, option
from kilograd.select.dropped import grouped, lora
from kilograd.select.fixed import bias_k, full, head, last, last_k, none
from kilograd.select.knapsack import Knapsack
from kilograd.select.one_layer import ORDERS, RANDOM, WHOLE, OneLayer
from kilograd.select.outside import from_file, from_package, package_strategies
from kilograd.select.plan_file import plan_file
from kilograd.select.random_layers import random_layers
from kilograd.select.selection import Strategy
from kilograd.select.sparse_update import sparse_update, within_100kb
from kilograd.select.static import static_l2, static_random
from kilograd.select.tinytl import BLOCKS, tinytl
from kilograd.select.tinytrain import Criterion, TinyTrain, at_random, by_norm

_NAMED: Mapping[str, Strategy] = {
    "none": none,
    "head": head,
    "last": last,
    "full": full,
    "tinytrain": TinyTrain(),
    "tinytrain:P": TinyTrain(Criterion.POTENTIAL),
    "tinytrain:P/W": TinyTrain(Criterion.PER_WEIGHT),
    "tinytrain:P/M": TinyTrain(Criterion.PER_MAC),
    "tinytrain-l2": TinyTrain(order=by_norm),
    "knapsack": Knapsack(),
    "pointwise-knapsack": Knapsack(depthwise=False),
    "int8-knapsack": Knapsack(rounding=True),
    "static-l2": static_l2,
    "tinytl": tinytl(BLOCKS),
    "sparse-100kb": within_100kb,
}


@dataclass(frozen=True)
class _Numbered:
    """Strategies that a number tells apart; `NAME:example` stands for all of them in tests."""

    make: Callable[[int], Strategy]
    number: str
    example: int


_NUMBERED: Mapping[str, _Numbered] = {
    "last": _Numbered(last_k, "K", 3),
    "bias": _Numbered(bias_k, "K", 3),
    "tinytl": _Numbered(tinytl, "K", 1),
    "lora": _Numbered(lora, "K", 1),
    "tinytrain-random": _Numbered(lambda s: TinyTrain(order=at_random(s)), "SEED", 1),
    "static-random": _Numbered(static_random, "SEED", 1),
    "random-layers": _Numbered(random_layers, "SEED", 1),
}

_PAIRED: Mapping[str, Callable[[int, int], Strategy]] = {"lora": lora, "grouped": grouped}
"""Strategies that two numbers tell apart."""

METHODS = (
    *_NAMED,
    *(f"{name}:{kind.number}" for name, kind in _NUMBERED.items()),
    "lora:K:RANK",
    "grouped:K:GROUPS",
    "weights:LAYER:SHARE",
    *(f"weights:LAYER:SHARE:{name}" for name in ORDERS),
    f"weights:LAYER:SHARE:{RANDOM}:SEED",
    "sparse-49kb ... sparse-148kb",
    "FILE.json",
    "FILE.py:NAME",
)
"""What a method may be, for people to read."""

EXAMPLES = (
    *_NAMED,
    *(f"{name}:{kind.example}" for name, kind in _NUMBERED.items()),
    "lora:1:2",
    "grouped:1:2",
    "weights:0:1",
    *(f"weights:0:1:{name}" for name in ORDERS),
    f"weights:0:1:{RANDOM}:1",
    "sparse-49kb",
)
"""One method of each kind but the file, as it is typed."""


_FILE = re.compile(r"\.py(:[^:/]*)?$")


def runs_code(method: str) -> bool:
    """Tell whether a method may be code that is no part of Kilograd: it runs where it is chosen."""
    return bool(_FILE.search(method)) or method in package_strategies()


def strategy(method: str) -> Strategy:
    """Return the strategy called `method`; `InputError` lists them if there is none.

    >>> strategy("last:0x")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: method 'last:0x': unknown; known are none, head, last, full, ...
    """
    if method.endswith(".json"):
        return plan_file(Path(method))
    if _FILE.search(method):
        return from_file(method)
    if method in _NAMED:
        return _NAMED[method]
    name, _, number = method.partition(":")
    if name.startswith("sparse-") and not number and ":" not in method:
        return sparse_update(name.removeprefix("sparse-"))
    if alone := OneLayer.of(method):
        return alone.strategy
    if name in _PAIRED and (parts := re.fullmatch(rf"({WHOLE}):({WHOLE})", number)):
        return _PAIRED[name](int(parts[1]), int(parts[2]))
    if name in _NUMBERED and re.fullmatch(WHOLE, number):
        return _NUMBERED[name].make(int(number))
    packaged = package_strategies()
    if method in packaged:
        return from_package(method, packaged[method])
    known = ", ".join((*METHODS, *packaged))
    raise InputError(f"{option('method')} {method!r}: unknown; known are {known}")
