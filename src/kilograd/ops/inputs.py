"""Inputs of which not every value will do: each says how C looks at it, and what it must be.

They are leaves, which nothing computes, and so not among the ops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kilograd.ir import Check, Input, Value
from kilograd.ops._common import array

_LAST_STEP = (1 << 31) - 2  # the steps done so far are counted from 1


@dataclass(frozen=True)
class Label(Input):
    """int32 [1]: one of `ways` classes, which count from 0."""

    ways: int

    def check(self) -> Check:
        return Check("kg_check_label", (self.ways,))

    def wrong(self, value: Value) -> str:
        ways = self.ways
        return "" if 0 <= array(value)[0] < ways else f"must be a class of 0 ... {ways - 1}"


@dataclass(frozen=True)
class Rate(Input):
    """float32 [1]: how far a step goes."""

    def check(self) -> Check:
        return Check("kg_check_rate")

    def wrong(self, value: Value) -> str:
        rate = array(value)[0]
        return "" if rate > 0 and np.isfinite(rate) else "must be a positive finite number"


@dataclass(frozen=True)
class Share(Input):
    """float32 [1]: of a sample in a mean gradient."""

    def check(self) -> Check:
        return Check("kg_check_share")

    def wrong(self, value: Value) -> str:
        return "" if 0 < array(value)[0] <= 1 else "must be above 0 and at most 1"


@dataclass(frozen=True)
class Clock(Input):
    """int32 [2]: a seed, which is any number, and the number of the step, from 0."""

    def check(self) -> Check:
        return Check("kg_check_clock")

    def wrong(self, value: Value) -> str:
        step = array(value)[1]
        return "" if 0 <= step <= _LAST_STEP else f"must count steps in 0 ... {_LAST_STEP}"
